"""Plan a sweep that has a time budget: how many epochs a trial has, and about how many trials there are.

The time of trainings to come is that of the forecast (time_left.py).
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import optuna

import search_spaces
from pipelines.cluster.slots import Slots
from pipelines.core.errors import user_errors
from pipelines.core.text import duration
from pipelines.data.dataset import ShardDataset
from pipelines.training.queue import Training
from pipelines.tuning.baselines import baseline_trainings
from pipelines.tuning.build import Builder, training
from pipelines.tuning.data_check import measured_epoch
from pipelines.tuning.options import SweepOptions
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.tuning.time_left import Forecast, Key
from pipelines.tuning.trial import planned_trial
from search_spaces import Question

__all__ = ["POINTS", "EpochCosts", "Plan", "Planner"]

# Small models hardly improve after 80 epochs; with fewer than 8, the learning-rate schedule is too short.
_MOST_EPOCHS, _LEAST_EPOCHS = 80, 8
# The epochs are planned so that this many trials, besides the questions, and this many replicated points fit.
_TRIALS, POINTS = 8, 4
# Sampled models, those of them within the limits whose mean cost is that of a usual trial, and how many are measured.
_SAMPLED, _USUAL, _MEASURED = 64, 8, 3
# The rest is left for starting processes, and for the tests at the end.
_SHARE = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochCosts:
    """Seconds of one epoch of the trainings of a sweep."""

    questions_s: float
    """of the models of all questions, each times its share of the epochs of a trial"""
    trial_s: float
    """of a usual trial, with its teacher"""
    baselines_s: float
    """of all baselines together"""
    num_baselines: int
    num_seeds: int
    """replications of each point"""
    refines: bool
    num_slots: int
    """trainings at a time"""

    def epochs(self, time_s: float) -> int:
        """The most epochs of a trial, within limits, with which all that a sweep needs at least takes `time_s`."""
        trials = _TRIALS + self._num_later
        # The best baseline of each size is replicated.
        baselines = self.baselines_s * (1 + self.num_seeds * min(3, self.num_baselines) / max(self.num_baselines, 1))
        epoch_s = (self.questions_s + trials * self.trial_s + baselines) / self.num_slots
        most = math.floor(_SHARE * time_s / epoch_s)
        return min(max(most, _LEAST_EPOCHS), _MOST_EPOCHS)

    def num_trials(self, epochs: int, time_s: float) -> int:
        """About how many trials after the questions fit into the time; at least one."""
        rest_s = _SHARE * time_s * self.num_slots / epochs - self.questions_s - 2 * self.baselines_s
        return max(1, math.floor(rest_s / self.trial_s - self._num_later))

    @property
    def _num_later(self) -> float:
        """Refinements, which train for a quarter of the epochs, and replications, as a number of trials."""
        return (POINTS / 2 if self.refines else 0) + self.num_seeds * POINTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a sweep with a time budget is going to do."""

    epochs: int
    """of a trial"""
    num_trials: int
    """about how many more, those of questions included"""
    text: str
    """all of it in a sentence"""


class Planner:
    """Plans a sweep before it begins, and one with a time budget again when a question is answered.

    Args:
        options: Of the sweep.
        sweep: Its directory.
        data: The data set.
        slots: How many trainings run at a time.
    """

    def __init__(self, options: SweepOptions, sweep: SweepDirectory, data: ShardDataset, slots: Slots) -> None:
        self._options, self._slots = options, slots
        common = {"epochs": 1, "seed": options.seed}
        builder = Builder(sweep, data, common, options.space)

        def trial(values: Mapping[str, Any]) -> Training:
            return training("", *builder.build("", values), {"memory_bytes": 0})

        with user_errors(f"the space {options.space}"):
            questions = [question for question, _ in _asked(options, data)]
            sampled_values = _sampled(options, data)
        for values in (*(values for each in questions for values in each.models.values()), *sampled_values):
            builder.check(values, f"the space {options.space}")
        self._asked = [(each, trial(values)) for each in questions for values in each.models.values()]
        sampled = [trial(values) for values in sampled_values]
        fitting = [each for each in sampled if _fits(each, options)]
        # Of a space whose models are all too large, nothing is trained.
        self._usual = (fitting or sampled)[:_USUAL]
        first, last = baseline_trainings(options, common, sweep, data, slots)
        self._baselines = [*first, *last]

    @property
    def usual(self) -> Training:
        """A model of the space, sampled at random."""
        return self._usual[0]

    def measured(self, forecast: Forecast, *, asks: bool) -> dict[Key, float]:
        """Seconds of an epoch of some models, from a few steps on this node.

        Args:
            forecast: Of a sweep that has not begun.
            asks: Whether there are questions.
        """
        some = self._usual[: 1 if self._options.time_budget is None else _MEASURED]
        if asks:
            # Models of a question cost about the same.
            some += {id(question): each for question, each in self._asked}.values()
        return {forecast.key(planned_trial(each)): measured_epoch(each, forecast, self._slots) for each in some}

    def plan(
        self,
        forecast: Forecast,
        time_s: float,
        answered: Collection[str] = (),
        *,
        asks: bool = True,
        num_teachers: int = 0,
    ) -> Plan:
        """The plan for the time that is left.

        Args:
            forecast: With what was measured.
            time_s: Seconds.
            answered: The questions that have been answered.
            asks: Whether there are questions.
            num_teachers: How many models of a question teach each trial.
        """
        options = self._options
        asked = [(question, each) for question, each in self._asked if asks and question.name not in answered]
        teachers_s = [_epoch_s(forecast, each) for question, each in self._asked if question.teaches]
        # The forward pass alone takes a third of a training.
        teaching_s = num_teachers * max(teachers_s, default=0.0) / 3
        costs = EpochCosts(
            questions_s=sum(question.epochs * _epoch_s(forecast, each) for question, each in asked),
            trial_s=sum(_epoch_s(forecast, each) for each in self._usual) / len(self._usual) + teaching_s,
            baselines_s=sum(_epoch_s(forecast, each) + teaching_s for each in self._baselines),
            num_baselines=len(self._baselines),
            num_seeds=options.confirm,
            refines=options.refine,
            num_slots=self._slots.num_slots,
        )
        epochs = options.epochs or costs.epochs(time_s)
        num_trials = min(len(asked) + costs.num_trials(epochs, time_s), options.most_trials)
        text = (
            f"planned for {duration(time_s)}: about {num_trials} trials of {epochs} epochs, "
            f"{self._slots.num_slots} at a time, {len(self._baselines)} baselines"
            + (", refinements" if options.refine else "")
            + (f", {options.confirm} replications of each of some {POINTS} points" if options.confirm else "")
        )
        return Plan(epochs=epochs, num_trials=num_trials, text=text)


def _epoch_s(forecast: Forecast, each: Training) -> float:
    """Seconds of an epoch."""
    return forecast.epoch_s(planned_trial(each)) or 0.0


def _fits(each: Training, options: SweepOptions) -> bool:
    """Whether a model is within the limits of the sweep."""
    model, params, macs = each.model, options.max_params, options.max_macs
    return model.num_params <= (params or math.inf) and model.multiply_adds <= (macs or math.inf)


def _asked(options: SweepOptions, data: ShardDataset) -> Iterator[tuple[Question, str]]:
    """Each question of the space with its last answer, which is taken."""
    space, answers = search_spaces.load(options.space), dict[str, str]()
    while isinstance(found := space.first(data.frame.shape, answers), Question):
        answers[found.name] = list(found.models)[-1]
        yield found, answers[found.name]


def _sampled(options: SweepOptions, data: ShardDataset) -> list[dict[str, Any]]:
    """Options of some models of the space, sampled at random."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=options.seed))
    study.set_user_attr("frame", list(data.frame.shape))
    study.set_user_attr("streamable", options.streamable)
    study.set_user_attr("answers", {question.name: answer for question, answer in _asked(options, data)})
    space = search_spaces.load(options.space)
    return [space.space(study.ask()) for _ in range(_SAMPLED)]

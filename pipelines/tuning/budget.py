"""Plan a sweep that has a time budget: the epochs of a trial, whether there is time for another one, and what to
replicate.

The time of trainings to come is that of the forecast (time_left.py).
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

import search_spaces
from pipelines.cluster.slots import Slots
from pipelines.core.text import duration
from pipelines.data.dataset import ShardDataset
from pipelines.training.queue import Training
from pipelines.tuning.baselines import baseline_trainings
from pipelines.tuning.build import Builder, training
from pipelines.tuning.data_check import measured_epoch
from pipelines.tuning.frontier import hypervolume, knee
from pipelines.tuning.options import SweepOptions
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.tuning.time_left import Forecast, Key
from pipelines.tuning.trial import Trial, planned_trial
from search_spaces import Question

__all__ = ["POINTS", "Costs", "Plan", "Planner", "within_time"]

# Small models hardly improve after 80 epochs; with fewer than 8, the learning-rate schedule is too short.
_MOST_EPOCHS, _LEAST_EPOCHS = 80, 8
# For this many trials after the questions and replicated points the epochs are planned; if they are fewer, that many
# epochs are not worth it.
_TRIALS, POINTS = 8, 4
# Models whose mean cost is that of a usual trial, and how many of them are measured.
_SAMPLED, _MEASURED = 8, 3
# The rest is left for starting processes, and for the tests at the end.
_SHARE = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
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
        # A refinement trains for a quarter of the epochs.
        trials = _TRIALS + (POINTS / 2 if self.refines else 0) + self.num_seeds * POINTS
        # The best baseline of each size is replicated.
        baselines = self.baselines_s * (1 + self.num_seeds * min(3, self.num_baselines) / max(self.num_baselines, 1))
        epoch_s = (self.questions_s + trials * self.trial_s + baselines) / self.num_slots
        most = math.floor(_SHARE * time_s / epoch_s)
        return min(max(most, _LEAST_EPOCHS), _MOST_EPOCHS)

    def num_trials(self, epochs: int, time_s: float) -> int:
        """About how many trials after the questions fit into the time; at least one."""
        later = (POINTS / 2 if self.refines else 0) + self.num_seeds * POINTS
        rest_s = _SHARE * time_s * self.num_slots / epochs - self.questions_s - 2 * self.baselines_s
        return max(1, math.floor(rest_s / self.trial_s - later))


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a sweep with a time budget is going to do."""

    epochs: int
    """of a trial"""
    num_trials: int
    """about how many, those of the questions included"""
    text: str
    """all of it in a sentence"""


class Planner:
    """Plans a sweep with a time budget, before it begins and again when a question is answered.

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

        self._asked = [(each, trial(values)) for each in _questions(options, data) for values in each.models.values()]
        self._usual = [trial(values) for values in _sampled(options, data)]
        self._baselines, _ = baseline_trainings(options, common, sweep, data, slots)

    def measured(self, forecast: Forecast) -> dict[Key, float]:
        """Seconds of an epoch of some models, from a few steps on this node."""
        # Models of a question cost about the same.
        some = [*{id(question): each for question, each in self._asked}.values(), *self._usual[:_MEASURED]]
        return {forecast.key(planned_trial(each)): measured_epoch(each, forecast, self._slots) for each in some}

    def plan(
        self, forecast: Forecast, time_s: float, answered: Collection[str] = (), *, is_taught: bool = False
    ) -> Plan:
        """The plan for the time that is left.

        Args:
            forecast: With what was measured.
            time_s: Seconds.
            answered: The questions that have been answered.
            is_taught: Whether the trials learn from the models of a question that teaches.
        """
        options = self._options
        asked = [(question, each) for question, each in self._asked if question.name not in answered]
        teachers_s = [_epoch_s(forecast, each) for question, each in self._asked if question.teaches]
        # The forward pass alone takes a third of a training.
        teaching_s = max(teachers_s, default=0.0) / 3 if is_taught else 0.0
        costs = Costs(
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


def _questions(options: SweepOptions, data: ShardDataset) -> list[Question]:
    """All questions of the space, where the last answer of each is found."""

    def asked() -> Iterator[Question]:
        space, answers = search_spaces.load(options.space), dict[str, str]()
        while isinstance(found := space.first(data.frame.shape, answers), Question):
            yield found
            answers[found.name] = list(found.models)[-1]

    return list(asked())


def _sampled(options: SweepOptions, data: ShardDataset) -> list[dict[str, Any]]:
    """Options of some models of the space, sampled at random."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=options.seed))
    study.set_user_attr("frame", list(data.frame.shape))
    study.set_user_attr("streamable", options.streamable)
    return [search_spaces.load(options.space).space(study.ask()) for _ in range(_SAMPLED)]


def within_time(
    points: Sequence[Trial],
    trials: Sequence[Trial],
    *,
    chance: float,
    num_runs: Callable[[str], int],
    num_slots: int,
    time_s: float,
) -> list[Trial]:
    """The points of a frontier, and of that of the baselines, for whose replication there is time; at least one.

    The knee and the highest point come first, then those that add most to the area that the frontier dominates. Every
    third one is a baseline.

    Args:
        points: What would be replicated with time enough.
        trials: All trials, also the ancestors of refined points, which are trained again with them.
        chance: The metric of guessing, 0 to 1.
        num_runs: Name of a trial -> how many replications are still to be trained.
        num_slots: Trainings at a time.
        time_s: The time that is left.
    """
    by_name, kept, names = {trial.trial: trial for trial in trials}, list[Trial](), set[str]()
    for point in _by_importance(points, chance):
        wanted, name = set(names), point.trial if point.trial not in names else None
        while name is not None:
            wanted.add(name)
            name = by_name[name].parent
        if not kept or sum(num_runs(name) * (by_name[name].train_s or 0.0) for name in wanted) <= time_s * num_slots:
            kept, names = [*kept, point], wanted
    return [point for point in points if point in kept]


def _by_importance(points: Sequence[Trial], chance: float) -> list[Trial]:
    models, baselines = ([point for point in points if point.is_baseline == kind] for kind in (False, True))
    first = [knee(models, chance), models[-1]] if models else []
    ordered, others = _by_area(models, list(dict.fromkeys(point.trial for point in first))), _by_area(baselines, [])
    found = []
    while ordered or others:
        found += [*ordered[:2], *others[:1]]
        ordered, others = ordered[2:], others[1:]
    return found


def _by_area(points: Sequence[Trial], first: Sequence[str]) -> list[Trial]:
    """Those named first, and then each time the point that adds most to the area that those before it dominate."""
    by_name = {point.trial: point for point in points}
    found = [by_name.pop(name) for name in first]
    while by_name:
        before = [point.coordinates for point in found]
        best = max(by_name.values(), key=lambda point: hypervolume([*before, point.coordinates]))
        found.append(by_name.pop(best.trial))
    return found

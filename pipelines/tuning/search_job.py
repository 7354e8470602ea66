"""Run the trials of a sweep: the search, and the refinement of its models."""

import dataclasses
import logging
import math
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pipelines.cluster.slots import Slots, local_device
from pipelines.data.dataset import ShardDataset
from pipelines.training.launcher import run_trainings
from pipelines.training.memory import step_bytes
from pipelines.training.options import TrainOptions
from pipelines.training.queue import Training
from pipelines.tuning.baselines import baseline_trainings, settle
from pipelines.tuning.budget import POINTS, Plan, Planner
from pipelines.tuning.data_check import cost_text, measured_epoch
from pipelines.tuning.display import Screen, tune_callback
from pipelines.tuning.frontier import frontier
from pipelines.tuning.options import SweepOptions
from pipelines.tuning.refine import propose
from pipelines.tuning.schedulers import make_scheduler
from pipelines.tuning.stopping import Curve, EarlyStopping
from pipelines.tuning.study import Search
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.tuning.trial import planned_trial
from ttrnn.config import ModelConfig

__all__ = ["run_search"]

log = logging.getLogger(__name__)


def run_search(
    options: SweepOptions, sweep: SweepDirectory, data: ShardDataset, slots: Slots, deadline: float, screen: Screen
) -> int:
    """Runs, resumes or extends the search, and then refines the models of the frontier if requested.

    Returns:
        The number of trials whose process failed.
    """
    earlier, num_trials = sweep.trials(), options.most_trials
    planner = None
    if options.time_budget is not None and not earlier:
        planner = Planner(options, sweep, data, slots)
        screen.expect(planner.measured(screen.state.forecast))
        plan = planner.plan(screen.state.forecast, deadline - time.monotonic())
        options, num_trials = _write_plan(options, sweep, plan), plan.num_trials
    # A time budget is planned again when a question is answered, and the epochs change.
    common = {"epochs": options.epochs_per_trial, "seed": options.seed, "num_workers": options.num_workers}
    search = _search(options, common, sweep, data, slots)
    stopping = EarlyStopping(len(data.split("val")), grace=max(1, options.epochs_per_trial // 4))
    for trial in earlier:
        # A refined trial starts from trained weights, and a question may have fewer epochs: others are not compared
        # with them.
        is_own = trial.parent is None and not search.is_of_question(trial.trial)
        if trial.num_params is not None and is_own and trial.state != "failed":
            stopping.add(Curve.of(trial.trial, trial.num_params, [value for _, value in trial.curve]))
    ended = [trial for trial in earlier if trial.state in ("complete", "stopped") and trial.parent is None]
    planned = search.planned()
    screen.stage(
        "search", max(num_trials, len(ended) + 1) if num_trials < sys.maxsize else len(ended) + 1, ended, planned
    )
    if planned and not earlier and options.time_budget is None and slots.device_type == local_device().type:
        _estimate_cost(options, sweep, data, slots, screen, planned)
    # Ray Train would continue a trial of several workers after Tune has stopped it.
    scheduler = options.early_stopping if options.num_workers == 1 else "none"

    def baselines() -> tuple[list[Training], list[Training]]:
        first, last = baseline_trainings(options, {**search.for_baselines(), **common}, sweep, data, slots)
        screen.expect_baselines([*first, *last])
        return first, last

    def plan_again(answered: Collection[str]) -> None:
        """Plans the epochs anew, with what the models of a question took on this cluster."""
        if planner is not None:
            is_taught, left_s = search.questions.is_teaching, deadline - time.monotonic()
            plan = planner.plan(screen.state.forecast, left_s, answered, is_taught=is_taught)
            common["epochs"] = _write_plan(options, sweep, plan).epochs_per_trial

    num_failed = run_trainings(
        _Trials(
            search,
            stopping,
            baselines=baselines,
            on_answer=plan_again,
            refinements=lambda: _refinements(search, options, sweep, screen, deadline),
            has_time=lambda: _has_time(screen, deadline, screen.state.forecast.usual_s()),
        ),
        slots,
        state=sweep.tune_state,
        scheduler=make_scheduler(scheduler, stopping, options.epochs_per_trial, deadline),
        deadline=deadline,
        callbacks=[tune_callback(screen)],
    )
    if search.exhausted:
        log.warning("%s", search.exhausted)
    return num_failed


def _write_plan(options: SweepOptions, sweep: SweepDirectory, plan: Plan) -> SweepOptions:
    """The options with the planned number of epochs, which is logged and written to sweep.json."""
    log.info("%s", plan.text)
    options, document = dataclasses.replace(options, epochs=plan.epochs), sweep.read()
    check = {**document.get("data_check", {}), "cost": plan.text}
    sweep.write({**document, "options": options.settings(), "data_check": check})
    return options


def _has_time(screen: Screen, deadline: float, training_s: float = 0.0) -> bool:
    """Whether a training leaves time for a round of refinements and for replications."""
    forecast, points = screen.state.forecast, screen.state.points
    return time.monotonic() + training_s + forecast.later_s(points, POINTS) <= deadline


def _estimate_cost(
    options: SweepOptions,
    sweep: SweepDirectory,
    data: ShardDataset,
    slots: Slots,
    screen: Screen,
    planned: Sequence[Training],
) -> None:
    """Measures a few steps of the first model and of dense ones, and logs and saves the expected cost of the sweep."""
    forecast = screen.state.forecast
    measured = [planned[0], *(training for training in planned[1:] if training.options.input == "dense")]
    screen.expect({forecast.key(planned_trial(each)): measured_epoch(each, forecast, slots) for each in measured})
    text, document = cost_text(options, data, planned[0], screen.state.forecast), sweep.read()
    log.info("%s", text)
    sweep.write({**document, "data_check": {**document.get("data_check", {}), "cost": text}})


class _Trials:
    """The source of a sweep's trainings: the proposals of the search, then rounds of refinements.

    Args:
        search: Proposes the trials.
        stopping: Is told of trials that failed.
        baselines: Called once the questions are answered: those that alternate with the first proposals, and those that
            follow all of them.
        refinements: The next round of refinements; [] if there is none.
        has_time: Whether there is time for another trial.
        on_answer: Called with the names of the answered questions when there is another one.
    """

    def __init__(
        self,
        search: Search,
        stopping: EarlyStopping,
        *,
        baselines: Callable[[], tuple[list[Training], list[Training]]],
        refinements: Callable[[], Sequence[Training]],
        has_time: Callable[[], bool],
        on_answer: Callable[[Collection[str]], object] = lambda answered: None,
    ) -> None:
        self._search, self._stopping, self._refinements, self._has_time = search, stopping, refinements, has_time
        self._refined: list[Training] = []
        self._make_baselines, self._on_answer = baselines, on_answer
        self._answered = search.answered()
        self._baselines: tuple[list[Training], list[Training]] | None = None
        self._is_turn_of_baseline = False
        self.num_workers = search.num_workers

    def next(self, running: Collection[str]) -> Training | None:
        if self._search.is_asking:
            if (answered := self._search.answered()) != self._answered:
                self._answered = answered
                self._on_answer(answered)
            training = self._search.next()
            if training is not None or self._search.is_asking:
                return training
        if self._baselines is None:
            self._baselines = self._make_baselines()
        first, last = self._baselines
        is_turn, self._is_turn_of_baseline = self._is_turn_of_baseline, not self._is_turn_of_baseline
        if self._has_time():
            if is_turn and first:
                return first.pop(0)
            if not self._refined and (training := self._search.next()) is not None:
                return training
            for baselines in (first, last):
                if baselines:
                    return baselines.pop(0)
        if not self._refined and not running:
            self._refined = list(self._refinements())
        return self._refined.pop(0) if self._refined else None

    def ended(self, training: Training, error: str | None) -> None:
        if training.is_baseline:
            settle(training, error)
        elif self._search.settle(training.name, error=error) == "failed":
            # Running trials are not compared with it any more.
            self._stopping.remove(training.name)


def _search(
    options: SweepOptions, common: Mapping[str, Any], sweep: SweepDirectory, data: ShardDataset, slots: Slots
) -> Search:
    longest = max(int(data.split(name).lengths.max(initial=0)) for name in ("train", "val"))
    limits = {name: getattr(options, name) for name in ("max_params", "max_macs")}
    limits["memory_bytes"] = slots.memory_bytes

    def costs(train: TrainOptions, model: ModelConfig) -> dict[str, float]:
        return {
            "max_params": model.num_params,
            "max_macs": model.multiply_adds,
            "memory_bytes": step_bytes(model, train.batch_size, longest, slots.device_type),
        }

    return Search(
        sweep,
        data,
        common,
        space=options.space,
        num_trials=options.most_trials,
        costs=costs,
        teacher=",".join(options.teacher_paths) or options.teacher,
        streamable=options.streamable,
        limits={name: limit for name, limit in limits.items() if limit is not None and limit < math.inf},
        sampler=options.sampler,
        seed=options.seed,
    )


def _refinements(
    search: Search, options: SweepOptions, sweep: SweepDirectory, screen: Screen, deadline: float
) -> Sequence[Training]:
    """A round of models that start from those of the frontier, rounded to lower ranks; [] if there are no more."""
    trials = sweep.finished_trials() if options.refine else []
    if not trials or not _has_time(screen, deadline):
        return []
    proposals = propose(sweep, frontier(trials), trials, epochs=search.epochs, max_params=options.max_params)
    refined = [search.refine(proposal.values, proposal.parent) for proposal in proposals]
    trainings = [training for training in refined if training is not None]
    if trainings:
        screen.stage("refine", len(trainings), planned=trainings)
    return trainings

"""Run the trials of a sweep: the search, and the refinement of its models."""

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pipelines.cluster.slots import Slots, local_device
from pipelines.data.dataset import ShardDataset
from pipelines.training.launcher import run_trainings
from pipelines.training.memory import step_bytes
from pipelines.training.options import TrainOptions
from pipelines.training.queue import Training
from pipelines.tuning.baselines import baseline_trainings, settle
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
    common = {"epochs": options.epochs_per_trial, "seed": options.seed, "num_workers": options.num_workers}
    search = _search(options, common, sweep, data, slots)
    log.info(
        "sweeping %d trials of %d epochs, %d at a time, over the space %s",
        options.num_trials,
        options.epochs_per_trial,
        slots.num_slots,
        options.space,
    )
    first, last = baseline_trainings(options, common, sweep, data, slots)
    earlier = sweep.trials()
    stopping = EarlyStopping(len(data.split("val")), grace=max(1, options.epochs_per_trial // 4))
    for trial in earlier:
        # A refined trial starts from trained weights: it is not compared with others.
        if trial.num_params is not None and trial.parent is None and trial.state != "failed":
            stopping.add(Curve.of(trial.trial, trial.num_params, [value for _, value in trial.curve]))
    ended = [trial for trial in earlier if trial.state in ("complete", "stopped") and trial.parent is None]
    planned = search.planned()
    screen.stage("search", options.num_trials, ended, planned)
    if planned and not earlier and slots.device_type == local_device().type:
        _estimate_cost(options, sweep, data, slots, screen, planned)
    # Ray Train would continue a trial of several workers after Tune has stopped it.
    scheduler = options.early_stopping if options.num_workers == 1 else "none"
    num_failed = run_trainings(
        _Trials(search, stopping, lambda: _refinements(search, options, sweep, screen), first, last),
        slots,
        state=sweep.tune_state,
        scheduler=make_scheduler(scheduler, stopping, options.epochs_per_trial, deadline),
        deadline=deadline,
        callbacks=[tune_callback(screen)],
    )
    if search.exhausted:
        log.warning("%s", search.exhausted)
    return num_failed


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

    The baselines `first` alternate with the first proposals, those in `last` follow all of them.
    """

    def __init__(
        self,
        search: Search,
        stopping: EarlyStopping,
        refinements: Callable[[], Sequence[Training]],
        first: Sequence[Training] = (),
        last: Sequence[Training] = (),
    ) -> None:
        self._search, self._stopping, self._refinements = search, stopping, refinements
        self._refined: list[Training] = []
        self._first, self._last = list(first), list(last)
        self._is_turn_of_baseline = False
        self.num_workers = search.num_workers

    def next(self, running: Collection[str]) -> Training | None:
        is_turn, self._is_turn_of_baseline = self._is_turn_of_baseline, not self._is_turn_of_baseline
        if is_turn and self._first:
            return self._first.pop(0)
        if not self._refined and (training := self._search.next()) is not None:
            return training
        for baselines in (self._first, self._last):
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
        num_trials=options.num_trials,
        costs=costs,
        limits={name: limit for name, limit in limits.items() if limit is not None and limit < math.inf},
        sampler=options.sampler,
        seed=options.seed,
    )


def _refinements(search: Search, options: SweepOptions, sweep: SweepDirectory, screen: Screen) -> Sequence[Training]:
    """A round of models that start from those of the frontier, rounded to lower ranks; [] if there are no more."""
    trials = sweep.finished_trials() if options.refine else []
    proposals = propose(sweep, frontier(trials), trials, epochs=options.epochs_per_trial, max_params=options.max_params)
    refined = [search.refine(proposal.values, proposal.parent) for proposal in proposals]
    trainings = [training for training in refined if training is not None]
    if trainings:
        screen.stage("refine", len(trainings), planned=trainings)
    return trainings

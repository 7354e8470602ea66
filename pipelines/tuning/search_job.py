"""Run the trials of a sweep: the search, and the refinement of its models."""

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pipelines.cluster.slots import Slots
from pipelines.data.dataset import ShardDataset
from pipelines.training.launcher import run_trainings
from pipelines.training.memory import step_bytes
from pipelines.training.options import TrainOptions
from pipelines.training.queue import Training
from pipelines.tuning.baselines import baseline_trainings, settle
from pipelines.tuning.display import Screen, tune_callback
from pipelines.tuning.frontier import frontier
from pipelines.tuning.options import SweepOptions
from pipelines.tuning.refine import propose
from pipelines.tuning.schedulers import make_scheduler
from pipelines.tuning.stopping import Curve, EarlyStopping
from pipelines.tuning.study import Search
from pipelines.tuning.sweep_directory import SweepDirectory
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
    common = {"epochs": options.epochs, "seed": options.seed, "num_workers": options.num_workers}
    search = _search(options, common, sweep, data, slots)
    log.info(
        "sweeping %d trials of %d epochs, %d at a time, over the space %s",
        options.num_trials,
        options.epochs,
        slots.num_slots,
        options.space,
    )
    first, last = baseline_trainings(options, common, sweep, data, slots)
    earlier = sweep.trials()
    stopping = EarlyStopping(len(data.split("val")), grace=max(1, options.epochs // 4))
    for trial in earlier:
        # A refined trial starts from trained weights: it is not compared with others.
        if trial.num_params is not None and trial.parent is None and trial.state != "failed":
            stopping.add(Curve.of(trial.trial, trial.num_params, [value for _, value in trial.curve]))
    ended = [trial for trial in earlier if trial.state in ("complete", "stopped") and trial.parent is None]
    screen.stage("search", options.num_trials, ended)
    # Ray Train would continue a trial of several workers after Tune has stopped it.
    scheduler = options.early_stopping if options.num_workers == 1 else "none"
    num_failed = run_trainings(
        _Trials(search, stopping, lambda: _refinements(search, options, sweep, screen), first, last),
        slots,
        state=sweep.tune_state,
        scheduler=make_scheduler(scheduler, stopping, options.epochs, deadline),
        deadline=deadline,
        callbacks=[tune_callback(screen)],
    )
    if search.exhausted:
        log.warning("%s", search.exhausted)
    return num_failed


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
    proposals = propose(sweep, frontier(trials), trials, epochs=options.epochs, max_params=options.max_params)
    refined = [search.refine(proposal.values, proposal.parent) for proposal in proposals]
    trainings = [training for training in refined if training is not None]
    if trainings:
        screen.stage("refine", len(trainings))
    return trainings

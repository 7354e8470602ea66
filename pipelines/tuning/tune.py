"""Ray Tune around a search: trials side by side on the slots there are, each stopped when it is not worth going on.

Tune's own state is of no use: the study and the trials' directories are what a resumed sweep goes on from.
"""

import dataclasses
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pipelines.cluster.interrupts import kept_signals
from pipelines.cluster.nodes import nodes_but
from pipelines.cluster.slots import Slots
from pipelines.core.errors import StepError
from pipelines.data.dataset import ShardDataset
from pipelines.training.distributed import fit_on_ray
from pipelines.training.head_node import kept_home
from pipelines.training.options import TrainOptions
from pipelines.training.run_directory import claim_run
from pipelines.training.setup import model_config, resolve_precision
from pipelines.training.staging import OF_THE_DISK, UnfitNodeError, visiting
from pipelines.training.trainer import DivergedError, fit
from pipelines.tuning.stopping import Judge, mark_stopped, read_curve
from pipelines.tuning.study import Point, Search

__all__ = ["run_trials"]


log = logging.getLogger(__name__)
# Trials that a dead worker has ended are begun again, from their last checkpoint, so many times.
_MAX_FAILURES = 3
_COUNT_EVERY_S = 5.0
# So long no trial is given to a node that could not keep its files.
_AVOID_S = 600.0


def run_trials(
    search: Search,
    more: Callable[[], Sequence[Point]],
    judge: Judge | None,
    slots: Slots,
    *,
    scheduler: str,
    epochs: int,
    state: Path,
    deadline: float,
    callbacks: list[tune.Callback],
) -> int:
    """Trains what the search gives, and then what `more` gives, until nothing is left or the time is up.

    Args:
        search: The study.
        more: Called whenever all trials have ended and the search has no more: further points; none ends it all.
        judge: Knows the curves of earlier commands.
        slots: Where trials run.
        scheduler: frontier, asha or none.
        epochs: Of a trial.
        state: A directory that all nodes share, for Tune; deleted at the end.
        deadline: By time.monotonic(), or infinite: no trial begins after it, those that run pause at their next epoch.
        callbacks: Of Tune.

    Returns:
        The number of trials that crashed.

    Raises:
        StepError: what a search raises: a space that gives what can't be trained.
        OSError: the disk of this node is full.
        KeyboardInterrupt: Ctrl-C, which Tune has turned into an orderly end.
    """
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "86400"
    # How many there are is for the searcher to say.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1000000"
    # It misses the result files that Tune was told not to write.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    shutil.rmtree(state, ignore_errors=True)
    # Their trial is in Ray Train's hands, and would go on behind the back of whoever stops it.
    has_workers = search.num_workers > 1
    scheduler = "none" if has_workers else scheduler
    with kept_home() as home:
        searcher = _Suggestions(search, more, slots, deadline, home)
        tuner = tune.Tuner(
            tune.with_resources(_train_trial, _Resources(slots)),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_make_scheduler(scheduler, judge, epochs, deadline),
                num_samples=-1,
                reuse_actors=not has_workers,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=state.name,
                storage_path=str(state.parent),
                verbose=0,
                callbacks=callbacks,
                failure_config=tune.FailureConfig(max_failures=_MAX_FAILURES),
            ),
        )
        try:
            with kept_signals():
                tuner.fit()
        except tune.TuneError as error:
            raise _disk_error(error) or error from None
    shutil.rmtree(state, ignore_errors=True)
    if searcher.failure is not None:
        raise searcher.failure
    if not searcher.finished:
        raise KeyboardInterrupt
    return searcher.num_crashed


def _disk_error(error: BaseException | None) -> OSError | None:
    """What the disk of this node said, if that is what Tune failed of."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in OF_THE_DISK:
            return OSError(error.errno, error.strerror)
        error = error.__cause__ or error.__context__
    return None


def _trial_name(trial: Any) -> str:
    return str(trial.trial_id)


class _Resources:
    """Of a trial, by its configuration."""

    def __init__(self, slots: Slots) -> None:
        import ray

        self.slots, self.home = slots, f"node:{ray.util.get_node_ip_address()}"

    def _bundle(self, config: dict[str, Any], **resources: float) -> tune.PlacementGroupFactory:
        where: dict[str, Any] = {"bundle_label_selector": [config["where"]]} if config["where"] else {}
        return tune.PlacementGroupFactory([resources], **where)

    def __call__(self, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        if config["train"]["num_workers"] > 1:
            # The trial's own process waits; a share of a CPU would starve its workers, which are placed after it.
            # It follows them by their files: on this node.
            return tune.PlacementGroupFactory([{"memory": float(64 << 20), self.home: 0.001}])
        if self.slots.device == "GPU":
            return self._bundle(config, CPU=1.0, GPU=self.slots.gpus_per_worker)
        # In powers of two: actors are used again by trials that need as much. But no more than the largest node has.
        rounded = float(1 << (max(config["memory_bytes"], 1 << 30) - 1).bit_length())
        memory = rounded if rounded <= self.slots.memory_bytes else float(config["memory_bytes"])
        return self._bundle(config, CPU=1.0, memory=memory)


class _Suggestions(Searcher):
    """A search, as Tune asks it."""

    def __init__(
        self,
        search: Search,
        more: Callable[[], Sequence[Point]],
        slots: Slots,
        deadline: float,
        home: str | None,
    ) -> None:
        super().__init__(metric="val_metric", mode="max")
        self.search, self.more, self.slots, self.deadline = search, more, slots, deadline
        self.home = home
        self.num_slots, self.counted_at = slots.num_slots, time.monotonic()
        self.live: dict[str, Point] = {}
        self.waiting: list[Point] = []
        self.unfit: dict[str, float] = {}
        self.failure: StepError | None = None
        self.finished, self.num_crashed = False, 0

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune saves what it is given; the study is saved as it grows.
        return Searcher, ()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        if time.monotonic() - self.counted_at > _COUNT_EVERY_S:
            # Nodes come and go.
            self.num_slots, self.counted_at = self.slots.count(self.search.num_workers), time.monotonic()
        if len(self.live) >= self.num_slots:
            return None
        try:
            point = self._next()
        except StepError as error:
            # Through Tune it would come as one of its own, with a traceback.
            self.failure, point = error, None
        if point is not None:
            self.live[trial_id] = point
            return {
                "trial": point.name,
                "train": dataclasses.asdict(point.options),
                "num_params": point.num_params,
                "memory_bytes": point.memory_bytes,
                "home": self.home,
                "where": self._where(),
            }
        if self.live:
            return None
        self.finished = True
        return Searcher.FINISHED

    def _next(self) -> Point | None:
        if self.failure is not None or time.monotonic() > self.deadline:
            return None
        if not self.waiting and (point := self.search.next()) is not None:
            return point
        if not self.waiting and not self.live:
            self.waiting = list(self.more())
        return self.waiting.pop(0) if self.waiting else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        point = self.live.pop(trial_id)
        why = "its process died or raised an error; see ray.log" if error else None
        if result is not None and "unfit" in result:
            self.unfit[result["node"]] = time.monotonic()
            if self._where():
                log.warning("%s; trial %s goes on elsewhere", result["unfit"], point.name)
                self.waiting.insert(0, point)
                return
            why = result["unfit"]
        self.num_crashed += why is not None
        self.search.settle(point.name, error=why)

    def _where(self) -> dict[str, str]:
        """Not on nodes that could not keep the files of a trial a while ago."""
        return nodes_but([node for node, since in self.unfit.items() if time.monotonic() - since < _AVOID_S])

    def save(self, checkpoint_path: str) -> None:
        """Nothing, likewise."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class _Ending:
    """What both schedulers add to Tune's."""

    deadline: float

    def __reduce__(self) -> tuple[Any, ...]:
        # The curves it goes by are read anew from the trials' files.
        return FIFOScheduler, ()

    def is_late(self) -> bool:
        return time.monotonic() > self.deadline


class _Frontier(_Ending, FIFOScheduler):
    """Stops what is dominated beyond noise; with no judge, nothing."""

    def __init__(self, judge: Judge | None, deadline: float) -> None:
        super().__init__()
        self.judge, self.deadline = judge, deadline

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        out, planned = Path(trial.config["train"]["out"]), trial.config["train"]["epochs"]
        # A refined trial begins where others end; a dense one is there for the others to be compared with.
        is_judged = trial.config["train"]["init"] is None and trial.config["train"]["input"] != "dense"
        if self.judge is not None and is_judged and result["epoch"] < planned:
            reason = self.judge.reason_to_stop(read_curve(out, result["num_params"]))
            if reason is not None:
                mark_stopped(out, reason)
                return TrialScheduler.STOP
        return TrialScheduler.STOP if self.is_late() else TrialScheduler.CONTINUE


class _Asha(_Ending, ASHAScheduler):
    """Successive halving by the validation metric alone."""

    def __init__(self, epochs: int, deadline: float) -> None:
        # Nothing is stopped at its last epoch: it has come to its end.
        super().__init__("epoch", "val_metric", "max", max_t=epochs + 1, grace_period=max(1, epochs // 9))
        self.deadline = deadline

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision: str = super().on_trial_result(tune_controller, trial, result)
        if result["epoch"] >= trial.config["train"]["epochs"]:
            decision = TrialScheduler.CONTINUE
        if decision == TrialScheduler.STOP:
            mark_stopped(Path(trial.config["train"]["out"]), f"not among the best at epoch {result['epoch']} (ASHA)")
        return TrialScheduler.STOP if self.is_late() else decision


def _make_scheduler(name: str, judge: Judge | None, epochs: int, deadline: float) -> TrialScheduler:
    return _Asha(epochs, deadline) if name == "asha" else _Frontier(judge if name == "frontier" else None, deadline)


def _train_trial(config: dict[str, Any]) -> None:
    """One trial, in the process of its slot."""
    logging.getLogger("ttrnn").setLevel(logging.ERROR)
    options = resolve_precision(TrainOptions(**config["train"]))
    home = config["home"]
    if options.num_workers > 1:
        # This process is at home, and its workers are where there is room.
        _claim(options)
        fit_on_ray(options, home, [TuneReportCallback()], f"trial-{config['trial']}")
        return
    try:
        _train_away(config, options)
    except UnfitNodeError as error:
        # Tune would try it here again, and count that against it.
        tune.report({"epoch": 0, "val_metric": 0.0, "unfit": str(error), "node": error.node})


def _train_away(config: dict[str, Any], options: TrainOptions) -> None:
    with visiting(config["home"], options.out) as visit:
        options = visit.brought(options)
        _claim(options)

        def report(record: dict[str, Any]) -> None:
            visit.send()
            tune.report(record)

        try:
            fit(options, report, visit.send)
        except DivergedError as error:
            log.warning("trial %s %s", config["trial"], error)


def _claim(options: TrainOptions) -> None:
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    # Where data and parent lie is the study's to say: a sweep may be moved.
    claim_run(out, options, model_config(options, ShardDataset.open(options.shards)), but=("shards", "init"))

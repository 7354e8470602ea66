"""Train many models side by side on a Ray cluster, with Ray Tune.

    source = Queue([Training(...), Training(...)], on_end=print)
    run_trainings(source, Slots.of_cluster(1, 1.0, None), state=out / ".tune")

A source gives trainings one by one and is told how each ended. Tune's own state is not kept: what a resumed command
continues from are the directories of the runs.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from pipelines.cluster.interrupts import kept_signals
from pipelines.cluster.nodes import nodes_except
from pipelines.cluster.slots import Slots
from pipelines.core.errors import StepError
from pipelines.training.distributed import fit_on_ray
from pipelines.training.head_node import serve_files
from pipelines.training.options import TrainOptions
from pipelines.training.run_directory import RunDirectory
from pipelines.training.setup import resolve_precision
from pipelines.training.single_run import train_and_test
from pipelines.training.staging import DISK_ERRORS, UnfitNodeError, staged_run
from pipelines.training.trainer import DivergedError, fit
from ttrnn.config import ModelConfig

__all__ = ["Queue", "Source", "Training", "is_progress", "run_trainings"]

log = logging.getLogger(__name__)

# Trainings whose process died are begun again, from their last checkpoint, so many times.
_MAX_FAILURES = 3
_COUNT_SLOTS_EVERY_S = 5.0
# A node that could not keep the files of a run gets no other one for so long.
_AVOID_S = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """A training to be run."""

    name: str
    """of the run: the ID of a trial, say"""
    options: TrainOptions
    model: ModelConfig
    """the settled configuration that the options ask for on their data"""
    memory_bytes: int
    """that it takes, about"""
    has_result: bool = False
    """test the model on the test split at the end, and write result.json"""
    has_test_split: bool = True
    """of no use without has_result"""
    time_limit_s: float | None = None
    """it ends with the epoch that exceeds this; only with has_result"""


class Source(Protocol):
    """Where trainings come from."""

    num_workers: int
    """processes of each training"""

    def next(self, running: Collection[str]) -> Training | None:
        """The next training; None where none can begin before one of those `running` has ended, or where all have."""

    def ended(self, training: Training, error: str | None) -> None:
        """Learns that a training has ended; `error` says why its process failed, if it did."""


class Queue:
    """A source of given trainings; some start from the model of another one.

    Args:
        trainings: In the order in which they begin.
        parents: By name, the training that must have ended before. Where it failed, those that wait for it fail too.
        on_end: Called with each training that ended and its result.json, or {"state": "failed", "error": ...}.
        memory_bytes: Of the largest node; a training that needs more is refused.
        failed: Names of parents that have failed before.
    """

    num_workers = 1

    def __init__(
        self,
        trainings: Sequence[Training],
        *,
        on_end: Callable[[Training, dict[str, Any]], object],
        memory_bytes: float,
        parents: Mapping[str, str] | None = None,
        failed: Iterable[str] = (),
    ) -> None:
        self._waiting, self._parents = list(trainings), dict(parents or {})
        self._on_end, self._memory_bytes = on_end, memory_bytes
        self._failed = set(failed)

    def next(self, running: Collection[str]) -> Training | None:
        """The first training that waits for no other one."""
        for training in self._ready(running):
            self._waiting.remove(training)
            if self._parents.get(training.name) in self._failed:
                self._fail(training, "failed", "the model that it starts from has failed")
            elif training.memory_bytes > self._memory_bytes:
                needs, there_are = (size / 1e9 for size in (training.memory_bytes, self._memory_bytes))
                self._fail(training, "refused", f"needs {needs:.1f} GB of memory, there are {there_are:.1f} GB")
            else:
                return training
        return None

    def _ready(self, running: Collection[str]) -> Iterator[Training]:
        for training in list(self._waiting):
            pending = {*running, *(other.name for other in self._waiting)}
            if self._parents.get(training.name) not in pending:
                yield training

    def _fail(self, training: Training, state: str, error: str) -> None:
        log.error("%s is %s: %s", training.name, state, error)
        self._failed.add(training.name)
        self._on_end(training, {"state": state, "error": error})

    def ended(self, training: Training, error: str | None) -> None:
        """Passes the result on."""
        if error is not None:
            self._fail(training, "failed", error)
            return
        result = RunDirectory(training.options.out).result() or {"state": "failed", "error": "it left no result.json"}
        if result["state"] == "failed":
            self._failed.add(training.name)
        self._on_end(training, {**result, "out": training.options.out})


def run_trainings(
    source: Source,
    slots: Slots,
    *,
    state: Path,
    scheduler: TrialScheduler | None = None,
    deadline: float = float("inf"),
    callbacks: Sequence[tune.Callback] = (),
    fresh_processes: bool = False,
) -> int:
    """Runs what the source gives, until nothing is left or the time is up. Ray must be up.

    Args:
        source: Of the trainings.
        slots: Where they run.
        state: A directory that all nodes share, for Tune; deleted at the end.
        scheduler: Of Tune, which may end trainings early; it sees the reports for which `is_progress` holds.
        deadline: By time.monotonic(): no training begins after it.
        callbacks: Of Tune.
        fresh_processes: A process for each training: none inherits what another one holds, and its memory can be
            measured. Short trainings are done sooner without.

    Returns:
        The number of trainings whose process failed.

    Raises:
        StepError: raised by the source.
        OSError: the disk of this node is full.
        KeyboardInterrupt: Ctrl-C, which Tune turns into an orderly end.
    """
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "86400"
    # The searcher limits their number.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1000000"
    # It misses the result files that Tune was told not to write.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    shutil.rmtree(state, ignore_errors=True)
    with serve_files() as server:
        searcher = _Searcher(source, slots, deadline, server)
        tuner = tune.Tuner(
            tune.with_resources(_train, _Resources(slots)),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1,
                reuse_actors=source.num_workers == 1 and not fresh_processes,
                trial_dirname_creator=_directory_name,
            ),
            run_config=tune.RunConfig(
                name=state.name,
                storage_path=str(state.parent),
                verbose=0,
                callbacks=list(callbacks),
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
    return searcher.num_failed


def is_progress(result: Mapping[str, Any]) -> bool:
    """Whether a report of a training tells of an epoch, and not of a node or process that failed."""
    return "problem" not in result


def _disk_error(error: BaseException | None) -> OSError | None:
    """The error of the disk of this node, if that is why Tune failed."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            return OSError(error.errno, error.strerror)
        error = error.__cause__ or error.__context__
    return None


def _directory_name(trial: Any) -> str:
    return str(trial.trial_id)


class _Resources:
    """The resources of a training, by its configuration."""

    def __init__(self, slots: Slots) -> None:
        import ray

        self.slots, self.head_node = slots, f"node:{ray.util.get_node_ip_address()}"

    def __call__(self, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        training: Training = config["training"]
        if training.options.num_workers > 1:
            # The trial's own process waits; a share of a CPU would starve its workers, which are placed after it.
            # It follows them by their files: on this node.
            return tune.PlacementGroupFactory([{"memory": float(64 << 20), self.head_node: 0.001}])
        resources = {"CPU": float(self.slots.cpus_per_worker)}
        if self.slots.device == "GPU":
            resources["GPU"] = self.slots.gpus_per_worker
        else:
            # In powers of two: actors are used again by trainings that need as much. But no more than a node has.
            rounded = float(1 << (max(training.memory_bytes, 1 << 30) - 1).bit_length())
            resources["memory"] = rounded if rounded <= self.slots.memory_bytes else float(training.memory_bytes)
        where: dict[str, Any] = {"bundle_label_selector": [config["nodes"]]} if config["nodes"] else {}
        return tune.PlacementGroupFactory([resources], **where)


class _Searcher(Searcher):
    """A source of trainings as Tune asks it."""

    def __init__(self, source: Source, slots: Slots, deadline: float, server: str | None) -> None:
        super().__init__(metric="best_val_metric", mode="max")
        self.source, self.slots, self.deadline, self.server = source, slots, deadline, server
        self.num_slots, self.counted_at = slots.num_slots, time.monotonic()
        self.running: dict[str, Training] = {}
        self.again: list[Training] = []
        self.problems: dict[str, str] = {}
        self.unfit_nodes: dict[str, float] = {}
        self.failure: StepError | None = None
        self.finished, self.num_failed = False, 0

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune saves its searcher, and is never resumed.
        return Searcher, ()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        if time.monotonic() - self.counted_at > _COUNT_SLOTS_EVERY_S:
            # Nodes come and go.
            self.num_slots, self.counted_at = self.slots.count(self.source.num_workers), time.monotonic()
        if len(self.running) >= self.num_slots:
            return None
        try:
            training = self._next()
        except StepError as error:
            # Through Tune it would come as one of its own, with a traceback.
            self.failure, training = error, None
        if training is not None:
            self.running[trial_id] = training
            return {"training": training, "server": self.server, "nodes": self._fit_nodes()}
        if self.running:
            return None
        self.finished = True
        return Searcher.FINISHED

    def _next(self) -> Training | None:
        if self.failure is not None or time.monotonic() > self.deadline:
            return None
        if self.again:
            return self.again.pop(0)
        return self.source.next([training.name for training in self.running.values()])

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if not is_progress(result):
            self.problems[trial_id] = result["problem"]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        training, problem = self.running.pop(trial_id), self.problems.pop(trial_id, None)
        if error:
            problem = problem or "its process died; see ray.log"
        elif result is not None and result.get("unfit_node"):
            self.unfit_nodes[result["unfit_node"]] = time.monotonic()
            if self._fit_nodes():
                log.warning("%s; %s continues on another node", problem, training.name)
                self.again.append(training)
                return
        else:
            problem = None
        self.num_failed += problem is not None
        self.source.ended(training, problem)

    def _fit_nodes(self) -> dict[str, str]:
        """A label selector that leaves out the nodes that recently could not keep the files of a run."""
        now = time.monotonic()
        return nodes_except([node for node, since in self.unfit_nodes.items() if now - since < _AVOID_S])

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: Tune is never resumed."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing."""


def _train(config: dict[str, Any]) -> None:
    """Trains one model, in the process of a slot."""
    # Every training would repeat its remarks.
    logging.getLogger("ttrnn").setLevel(logging.ERROR)
    training, server = config["training"], config["server"]
    try:
        if training.options.num_workers > 1:
            # This process is on the node of the command, and its workers are where there is room.
            options = resolve_precision(training.options)
            RunDirectory(options.out).claim(options, training.model, ignored=("shards", "init"))
            fit_on_ray(options, server, [TuneReportCallback()], f"trial-{training.name}")
        else:
            _train_staged(training, server)
    except UnfitNodeError as error:
        # Tune would try it here again, and count that against it.
        tune.report({"epoch": 0, "best_val_metric": 0.0, "problem": str(error), "unfit_node": error.node})
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        tune.report({"epoch": 0, "best_val_metric": 0.0, "problem": f"{type(error).__name__}: {text}"})
        raise


def _train_staged(training: Training, server: str | None) -> None:
    with staged_run(server, training.options.out) as staged:
        # The precision of a run that is resumed is in its config.json, which has been fetched by now.
        options = resolve_precision(staged.localized(training.options))
        # The paths of data and parent are this node's: a sweep may have been moved, or be another node's copy.
        RunDirectory(options.out).claim(options, training.model, ignored=("shards", "init"))

        def report(record: dict[str, Any]) -> None:
            staged.upload()
            tune.report(record)

        if training.has_result:
            train_and_test(
                options, report, staged.upload, is_tested=training.has_test_split, time_limit_s=training.time_limit_s
            )
            return
        try:
            fit(options, report, staged.upload)
        except DivergedError as error:
            log.warning("trial %s %s", training.name, error)

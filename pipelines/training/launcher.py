"""Train many models side by side on a Ray cluster, with Ray Tune.

    source = Queue([Training(...), Training(...)], on_end=print, memory_bytes=slots.memory_bytes)
    run_trainings(source, slots, state=out / ".tune")

A resumed command continues from the directories of the runs; the state of Tune is deleted.
"""

import logging
import os
import shutil
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
from pipelines.training.queue import Source, Training
from pipelines.training.run_directory import RunDirectory
from pipelines.training.setup import resolve_precision
from pipelines.training.single_run import train_and_test
from pipelines.training.staging import DISK_ERRORS, UnfitNodeError, staged_run
from pipelines.training.trainer import DivergedError, fit

__all__ = ["is_progress", "run_trainings"]

log = logging.getLogger(__name__)

# How often a training whose process died is resumed from its last checkpoint.
_MAX_FAILURES = 3
_COUNT_SLOTS_EVERY_S = 5.0
# How long a node that could not store the files of a run gets no other run.
_AVOID_S = 600.0


def run_trainings(
    source: Source,
    slots: Slots,
    *,
    state: Path,
    scheduler: TrialScheduler | None = None,
    deadline: float = float("inf"),
    callbacks: Sequence[tune.Callback] = (),
    new_processes: bool = False,
) -> int:
    """Runs the trainings of a source until there are no more or the time is up. Ray must have been started.

    Args:
        source: Supplies the trainings.
        slots: How many run at a time, with which resources.
        state: A directory for Tune's files; deleted at the end.
        scheduler: May end trainings early; it must ignore reports for which `is_progress` is false.
        deadline: Time of time.monotonic() after which no training is started.
        callbacks: Callbacks for Tune.
        new_processes: Run each training in a new process, so that its peak memory can be measured. Reusing processes
            is faster for short trainings.

    Returns:
        The number of trainings whose process failed.

    Raises:
        StepError: raised by the source.
        OSError: the disk of this node is full.
        KeyboardInterrupt: Ctrl-C, on which Tune ends in an orderly way.
    """
    _configure_tune()
    shutil.rmtree(state, ignore_errors=True)
    with serve_files() as server:
        searcher = _Searcher(source, slots, deadline, server)
        tuner = tune.Tuner(
            tune.with_resources(_train, _Resources(slots)),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1,
                reuse_actors=source.num_workers == 1 and not new_processes,
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
    return searcher.result()


def _configure_tune() -> None:
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "86400"
    # The searcher limits the number of pending trials.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1000000"
    # It warns that the result files are missing, which Tune does not write without its loggers.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)


def is_progress(result: Mapping[str, Any]) -> bool:
    """Whether a report is about an epoch, and not about the end of a training, or a node or process that failed."""
    return "train_loss" in result


def _disk_error(error: BaseException | None) -> OSError | None:
    """The error of the disk of this node, if it is the reason why Tune failed."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            return OSError(error.errno, error.strerror)
        error = error.__cause__ or error.__context__
    return None


def _directory_name(trial: Any) -> str:
    return str(trial.trial_id)


class _Resources:
    """Computes the resources of a training from its configuration."""

    def __init__(self, slots: Slots) -> None:
        import ray

        self.slots, self.head_node = slots, f"node:{ray.util.get_node_ip_address()}"

    def __call__(self, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        training: Training = config["training"]
        if training.options.num_workers > 1:
            # The process of the trial only waits; if it reserved part of a CPU, its workers could not be placed.
            # It reads their files on this node.
            return tune.PlacementGroupFactory([{"memory": float(64 << 20), self.head_node: 0.001}])
        resources = {"CPU": float(self.slots.cpus_per_worker)}
        if self.slots.device == "GPU":
            resources["GPU"] = self.slots.gpus_per_worker
        else:
            # Rounded up to powers of two: actors are reused by trainings with equal resources. No more than a node has.
            rounded = float(1 << (max(training.memory_bytes, 1 << 30) - 1).bit_length())
            resources["memory"] = rounded if rounded <= self.slots.memory_bytes else float(training.memory_bytes)
        selector: dict[str, Any] = {"bundle_label_selector": [config["nodes"]]} if config["nodes"] else {}
        return tune.PlacementGroupFactory([resources], **selector)


class _Searcher(Searcher):
    """Passes the trainings of a source to Tune."""

    def __init__(self, source: Source, slots: Slots, deadline: float, server: str | None) -> None:
        super().__init__(metric="best_val_metric", mode="max")
        self.source, self.slots, self.deadline, self.server = source, slots, deadline, server
        self.num_slots, self.counted_at = slots.num_slots, time.monotonic()
        self.running: dict[str, Training] = {}
        self.to_repeat: list[Training] = []
        self.problems: dict[str, str] = {}
        self.unfit_nodes: dict[str, float] = {}
        self.failure: StepError | None = None
        self.finished, self.num_failed = False, 0

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune saves its searcher, but is never restored.
        return Searcher, ()

    def result(self) -> int:
        """The number of trainings whose process failed; raises the error that ended the search, if any."""
        if self.failure is not None:
            raise self.failure
        if not self.finished:
            raise KeyboardInterrupt
        return self.num_failed

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        if time.monotonic() - self.counted_at > _COUNT_SLOTS_EVERY_S:
            # The number of nodes may have changed.
            self.num_slots, self.counted_at = self.slots.count(self.source.num_workers), time.monotonic()
        if len(self.running) >= self.num_slots:
            return None
        try:
            training = self._next()
        except StepError as error:
            # Tune would replace it by an error of its own, with a traceback.
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
        if self.to_repeat:
            return self.to_repeat.pop(0)
        return self.source.next([training.name for training in self.running.values()])

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if "problem" in result:
            self.problems[trial_id] = result["problem"]
        if "traceback" in result:
            # Where the lines of Ray go.
            print(result["traceback"], file=sys.stderr)  # noqa: T201

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        training, problem = self.running.pop(trial_id), self.problems.pop(trial_id, None)
        if error:
            problem = problem or "its process died; see ray.log"
        elif result is not None and result.get("unfit_node"):
            self.unfit_nodes[result["unfit_node"]] = time.monotonic()
            if self._fit_nodes():
                log.warning("%s; %s continues on another node", problem, training.name)
                self.to_repeat.append(training)
                return
        elif result is None or not result.get("failed"):
            problem = None
        self.num_failed += problem is not None
        self.source.ended(training, problem)

    def _fit_nodes(self) -> dict[str, str]:
        """A label selector that excludes the nodes that recently could not store the files of a run."""
        now = time.monotonic()
        return nodes_except([node for node, since in self.unfit_nodes.items() if now - since < _AVOID_S])

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: Tune is never restored."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing."""


def _train(config: dict[str, Any]) -> None:
    """Trains one model; runs in a process on any node."""
    # Every training would repeat its warnings.
    logging.getLogger("ttrnn").setLevel(logging.ERROR)
    training, server = config["training"], config["server"]
    try:
        if training.options.num_workers > 1:
            # This process is on the node of the command, its workers are on any nodes.
            options = resolve_precision(training.options)
            RunDirectory(options.out).claim(options, training.model, ignored=("shards", "init", "teacher"))
            fit_on_ray(options, server, [TuneReportCallback()], f"trial-{training.name}")
        else:
            _train_staged(training, server)
            # Tune wants a report of each trial, and this one may have had no epoch left to train.
            tune.report({"epoch": 0, "best_val_metric": 0.0})
    except UnfitNodeError as error:
        # If it failed, Tune would retry it on this node, and count the retry as a failure.
        tune.report({"epoch": 0, "best_val_metric": 0.0, "problem": str(error), "unfit_node": error.node})
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        problem = {"epoch": 0, "best_val_metric": 0.0, "problem": f"{type(error).__name__}: {text}"}
        if isinstance(error, (OSError, StepError)):
            # A bucket that does not answer, say: Tune tries it again.
            tune.report(problem)
            raise
        tune.report(problem | {"failed": True, "traceback": traceback.format_exc()})


def _train_staged(training: Training, server: str | None) -> None:
    with staged_run(server, training.options.out) as staged:
        # The precision of a resumed run is in its config.json, which has been fetched above.
        options = resolve_precision(staged.localized(training.options))
        # The paths of data and parent may differ: the sweep may have been moved, or be a copy on another node.
        RunDirectory(options.out).claim(options, training.model, ignored=("shards", "init", "teacher"))

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

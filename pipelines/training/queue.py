"""Describe the trainings of a command, and queue them in the order of their dependencies."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipelines.baselines.config import AnyConfig
from pipelines.training.options import TrainOptions
from pipelines.training.run_directory import RunDirectory

__all__ = ["Queue", "Source", "Training"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """One training of many."""

    name: str
    """unique; the ID of a trial, for example"""
    options: TrainOptions
    model: AnyConfig
    """the configuration that follows from the options and the data"""
    memory_bytes: int
    """estimated memory of its process"""
    has_result: bool = False
    """test the model on the test split at the end, and write result.json"""
    has_test_split: bool = True
    """used only with has_result"""
    time_limit_s: float | None = None
    """the training ends with the epoch that exceeds this; used only with has_result"""
    is_baseline: bool = False
    """it is for comparison: never stopped early, and not counted among the trials"""
    is_question: bool = False
    """it answers a question about the data: never stopped early, and others are not compared with it"""
    teacher_macs: int = 0
    """MACs of its teacher for one frame"""


class Source(Protocol):
    """Supplies trainings, and receives their outcomes."""

    num_workers: int
    """processes of each training"""

    def next(self, running: Collection[str]) -> Training | None:
        """The next training; None if it must wait for one of those `running` to end, or if there are no more."""

    def ended(self, training: Training, error: str | None) -> None:
        """Called when a training has ended; `error` is the reason if its process failed."""


class Queue:
    """A source of a fixed list of trainings, some of which start from the model of another one.

    Args:
        trainings: In the order in which they are started.
        parents: Name of a training -> name of the one that must end before it. If that fails, so does the former.
        on_end: Called with each ended training and its result.json, or {"state": "failed" or "refused", "error": ...}.
        memory_bytes: Memory of the largest node; a training that needs more is refused.
        failed: Names of parents that failed in an earlier command.
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
        """The first training whose parent has ended."""
        # Anew each time: a training that is refused makes those that wait for it ready.
        while (training := next(self._ready(running), None)) is not None:
            self._waiting.remove(training)
            if self._parents.get(training.name) in self._failed:
                self._fail(training, "failed", "the model that it starts from has failed")
            elif training.memory_bytes > self._memory_bytes:
                needed, available = (size / 1e9 for size in (training.memory_bytes, self._memory_bytes))
                self._fail(training, "refused", f"needs {needed:.1f} GB, the largest node has {available:.1f} GB")
            else:
                return training
        return None

    def _ready(self, running: Collection[str]) -> Iterator[Training]:
        pending = {*running, *(other.name for other in self._waiting)}
        for training in self._waiting:
            if self._parents.get(training.name) not in pending:
                yield training

    def _fail(self, training: Training, state: str, error: str) -> None:
        log.error("%s is %s: %s", training.name, state, error)
        self._failed.add(training.name)
        self._on_end(training, {"state": state, "error": error})

    def ended(self, training: Training, error: str | None) -> None:
        """Passes the result of a training to on_end."""
        if error is not None:
            self._fail(training, "failed", error)
            return
        result = RunDirectory(training.options.out).result() or {"state": "failed", "error": "it wrote no result.json"}
        if result["state"] == "failed":
            self._failed.add(training.name)
        self._on_end(training, {**result, "out": training.options.out})

"""Describe a trial of a sweep and its replications."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.training.queue import Training
from pipelines.training.run_directory import RunDirectory

__all__ = ["Replication", "Trial", "planned_trial", "read_trial", "trial_name"]

_FROM_SUMMARY = ("num_params", "input_params", "val_metric", "val_interval", "epochs", "train_s", "error", "stopped_by")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Replication:
    """Results of training a trial's options again with new seeds; metrics and bounds are 0 to 1."""

    seeds: Sequence[int]
    """seeds of the complete runs"""
    val: Sequence[float]
    """validation metric of each run"""
    val_mean: float
    """mean of val"""
    val_interval: Sequence[float]
    """[low, high]: 95% confidence interval of the mean over all seeds and clips"""
    test: Sequence[float]
    """test metric of each run; empty without a test split"""
    test_mean: float | None
    """mean of test"""
    test_interval: Sequence[float] | None
    """95% confidence interval of test_mean"""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A trial of a sweep; fields that are not known (yet) are None."""

    trial: str
    """name of its directory in SWEEP/trials"""
    state: str
    """the state in its summary.json, `baseline` for a finished baseline; `unfinished` if the file is missing or half
    written"""
    num_params: int | None = None
    """parameters of the whole model"""
    input_params: int | None = None
    """input-to-hidden weights only"""
    multiply_adds: int | None = None
    """MACs of the recurrent layers for one frame"""
    val_metric: float | None = None
    """validation metric of its best epoch, 0 to 1"""
    test_metric: float | None = None
    """test metric of the same weights, 0 to 1; for points of the frontier only"""
    val_interval: Sequence[float] | None = None
    """[low, high]: 95% confidence interval of val_metric"""
    test_interval: Sequence[float] | None = None
    """95% confidence interval of test_metric"""
    per_class: Sequence[Mapping[str, Any]] | None = None
    """test metric of each class, see metrics.per_class"""
    epochs: int | None = None
    """number of epochs trained"""
    train_s: float | None = None
    """training time, s"""
    curve: Sequence[Sequence[float]] = dataclasses.field(default_factory=list)
    """[epoch, validation metric, 0 to 1] of each epoch"""
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """all settings, in their text forms"""
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """parameters that the sampler chose, by their names in the search space"""
    parent: str | None = None
    """trial whose rounded weights it started from"""
    stopped_by: str | None = None
    """reason why it was stopped early"""
    error: str | None = None
    """reason why it failed"""
    model_sha256: str | None = None
    """SHA-256 of model.safetensors; for points of the frontier only"""
    replication: Replication | None = None
    """results with new seeds, once it was replicated"""
    not_replicated: bool = False
    """on the frontier by val_metric, but not by the mean of its replications"""

    @property
    def is_finished(self) -> bool:
        """Whether it was trained for its full budget and may be on the frontier."""
        has_result = self.num_params is not None and self.val_metric is not None and not math.isnan(self.val_metric)
        return self.state == "complete" and has_result

    @property
    def is_baseline(self) -> bool:
        """Whether it is a finished model for comparison, which is never on the frontier."""
        return self.state == "baseline"

    @property
    def coordinates(self) -> tuple[int, float]:
        """(num_params, validation metric, or the mean of its replications) of a finished trial."""
        assert self.num_params is not None
        assert self.val_metric is not None
        return self.num_params, self.val_metric if self.replication is None else self.replication.val_mean


def trial_name(number: int) -> str:
    """The name of a trial's directory, by its number in the study."""
    return f"{number:04d}"


def planned_trial(training: Training) -> Trial:
    """A trial that has not been trained yet."""
    return Trial(
        trial=training.name,
        state="running",
        config=dataclasses.asdict(training.options),
        num_params=training.model.num_params,
        # For its duration: the teacher takes the forward pass alone, a third of a training.
        multiply_adds=training.model.multiply_adds + training.teacher_macs // 3,
    )


def read_trial(run: RunDirectory) -> Trial:
    """Reads a trial from its run; its state is `unfinished` without a complete summary.json."""
    summary = run.summary()
    parent, macs = run.parent_and_macs()
    values: dict[str, Any] = {name: summary.get(name) for name in _FROM_SUMMARY}
    return Trial(
        trial=run.name,
        state=summary.get("state", "unfinished"),
        config={name: "none" if value is None else value for name, value in summary.get("config", {}).items()},
        curve=[[record["epoch"], record["val_metric"]] for record in run.metrics()],
        parent=parent,
        multiply_adds=macs,
        **values,
    )

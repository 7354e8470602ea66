"""One trial of a sweep: what is known of it, and of its replications."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.training.run_directory import RunDirectory

__all__ = ["ENDED", "Replication", "Trial", "read_trial"]

ENDED = ("complete", "stopped", "failed")
"""States of a trial that is not trained any further."""

_OF_SUMMARY = ("num_params", "input_params", "val_metric", "val_interval", "epochs", "train_s", "error", "stopped_by")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Replication:
    """What came of training a trial's options again with fresh seeds; metrics and bounds are 0 to 1."""

    seeds: Sequence[int]
    """those whose run has ended well"""
    val: Sequence[float]
    """validation metric of each"""
    val_mean: float
    """of them"""
    val_interval: Sequence[float]
    """[low, high]: where the mean over all seeds and clips lies with 95% confidence"""
    test: Sequence[float]
    """metric on the test split of each; empty where there is no test split"""
    test_mean: float | None
    """of them"""
    test_interval: Sequence[float] | None
    """likewise"""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What is known of one trial; None where a thing is not known (yet)."""

    trial: str
    """name of its directory under SWEEP/trials"""
    state: str
    """as its summary.json says; `unfinished` where that is missing or half written"""
    num_params: int | None = None
    """parameters of the whole model"""
    input_params: int | None = None
    """input-to-hidden weights only"""
    multiply_adds: int | None = None
    """of the recurrent layers, for one frame"""
    val_metric: float | None = None
    """its best epoch on validation, 0 to 1"""
    test_metric: float | None = None
    """the same weights on the test split, 0 to 1; for points of the frontier only"""
    val_interval: Sequence[float] | None = None
    """[low, high]: where val_metric lies with 95% confidence"""
    test_interval: Sequence[float] | None = None
    """likewise test_metric"""
    per_class: Sequence[Mapping[str, Any]] | None = None
    """test_metric class by class, as metrics.per_class has it"""
    epochs: int | None = None
    """epochs trained"""
    train_s: float | None = None
    """training time, s"""
    curve: Sequence[Sequence[float]] = dataclasses.field(default_factory=list)
    """[epoch, validation metric of this epoch, 0 to 1] of each epoch"""
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """every configured name, in the text forms of the design"""
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """what the sampler chose, by the names of the search space"""
    parent: str | None = None
    """the trial whose rounded weights it started from"""
    stopped_by: str | None = None
    """why it was stopped early"""
    error: str | None = None
    """why it failed"""
    model_sha256: str | None = None
    """of model.safetensors; for points of the frontier only"""
    replication: Replication | None = None
    """once it was trained again with fresh seeds"""
    not_replicated: bool = False
    """by val_metric it stood on the frontier, by the mean of its fresh seeds it does not"""

    @property
    def is_finished(self) -> bool:
        """Whether it had its full budget and may stand on the frontier."""
        known = self.num_params is not None and self.val_metric is not None and not math.isnan(self.val_metric)
        return self.state == "complete" and known

    @property
    def place(self) -> tuple[int, float]:
        """(num_params, validation metric: the mean of fresh seeds where it is confirmed) of a finished trial."""
        assert self.num_params is not None
        assert self.val_metric is not None
        return self.num_params, self.val_metric if self.replication is None else self.replication.val_mean


def read_trial(run: RunDirectory) -> Trial:
    """The trial that is trained in a run; its state is `unfinished` without a whole summary.json."""
    summary = run.summary()
    parent, macs = run.parent_and_macs()
    known: dict[str, Any] = {name: summary.get(name) for name in _OF_SUMMARY}
    return Trial(
        trial=run.name,
        state=summary.get("state", "unfinished"),
        config={name: "none" if value is None else value for name, value in summary.get("config", {}).items()},
        curve=[[record["epoch"], record["val_metric"]] for record in run.metrics()],
        parent=parent,
        multiply_adds=macs,
        **known,
    )

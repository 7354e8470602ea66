"""Options of a sweep."""

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

import search_spaces
from pipelines.storage.location import Location
from pipelines.tuning.stopping import STOPPING
from pipelines.tuning.study import SAMPLERS

__all__ = ["MAY_GROW", "SweepOptions"]

# A resumed sweep may have more of these than it was started with.
MAY_GROW = ("num_trials", "refine", "confirm")
_OF_THE_COMMAND = ("gpus_per_worker", "slots", "time_budget", "resume", "overwrite")


def _default_out() -> str:
    storage = os.environ.get("TTRNN_STORAGE")
    return str(Location.of(storage) / "runs" / "sweep") if storage else "runs/sweep"


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepOptions:
    """Explore tensor-train shapes and ranks with Ray Tune and Optuna; then frontier, report and best model."""

    data: str | None = None
    """videos (folder or CSV) or shards; default: the embedded demo"""
    out: str = dataclasses.field(default_factory=_default_out)
    """directory of the sweep, or its URI: s3://bucket/sweep is worked on in a copy, mirrored there as it grows, and
    resumed from any machine [default: runs/sweep, below $TTRNN_STORAGE where that is set: s3://bucket, say]"""
    space: str = "shapes"
    """what to try: shapes (cells, modes, ranks), ranks (the paper's shape, ranks only), or package.module:function of
    your own"""
    num_trials: int = 16
    """models to train; those that exceed a limit, or were there before, are passed over and do not count"""
    epochs: int = 16
    """passes over the train split for each of them"""
    max_params: int | None = None
    """train no model with more parameters than this, classifier included; default: no limit"""
    max_flops: int | None = None
    """nor one with more multiply-adds for a frame than this; default: no limit"""
    sampler: str = "tpe"
    """how models are chosen: tpe (learns which shapes and ranks pay), random, or default (Optuna's own default)"""
    early_stopping: str = "frontier"
    """frontier: end a trial that a smaller one surpasses, beyond noise, at the same epoch; asha: successive halving by
    the metric alone; none. Trials of several workers are not ended early"""
    refine: bool = False
    """afterwards round the frontier's models to lower ranks and train them on for a few epochs: one training gives
    many points"""
    confirm: int = 0
    """at the end train the frontier's models anew with so many fresh seeds each, and redraw it from their means"""
    time_budget: float | None = None
    """minutes after which no trial begins and those that run pause; --resume goes on; confirmation, once begun, is not
    cut short; default: no limit"""
    seed: int = 0
    """of the search, the models and the demo"""
    num_workers: int = 1
    """processes (GPUs) that share one trial; as many trials run at a time as fit"""
    gpus_per_worker: float = 1.0
    """where there are GPUs: less than 1 lets several trials of small models share one, 0.25 four; they must fit in its
    memory together"""
    slots: int | None = None
    """trials at a time; default: as many as fit on the nodes that are up. With more, a cluster that can grow starts
    nodes for them"""
    resume: bool = False
    """continue a sweep that was interrupted"""
    overwrite: bool = False
    """delete an older sweep first"""

    def __post_init__(self) -> None:
        for name in ("num_trials", "epochs", "num_workers", "slots", "max_params", "max_flops"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("seed", "confirm"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.time_budget is not None and not self.time_budget > 0:
            raise ValueError(f"time_budget must be positive minutes, got {self.time_budget}")
        for name, choices in (("sampler", SAMPLERS), ("early_stopping", STOPPING)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if not 0 < self.gpus_per_worker <= 1:
            raise ValueError(f"0 < gpus_per_worker <= 1 must hold, got {self.gpus_per_worker}")
        search_spaces.load(self.space)

    def settings(self) -> dict[str, Any]:
        """What decides the result, and where it goes."""
        data = None if self.data is None else str(Location.of(self.data).absolute())
        values = dataclasses.asdict(self) | {"data": data}
        return {name: value for name, value in values.items() if name not in _OF_THE_COMMAND}

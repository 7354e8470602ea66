"""Define the options of a sweep."""

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import search_spaces
from pipelines.storage.location import Location
from pipelines.tuning.optuna_study import SAMPLERS
from pipelines.tuning.stopping import STOPPING

__all__ = ["BASELINES", "MAY_GROW", "SweepOptions"]

# A sweep may be resumed with larger values of these.
MAY_GROW = ("num_trials", "refine", "confirm")
BASELINES = ("default", "dense", "none")
"""Choices of the option baselines."""
# Options that do not affect the result: they may differ when a sweep is resumed.
_SET_BY_THE_COMMAND = ("gpus_per_worker", "slots", "time_budget", "resume", "overwrite")


def _default_out() -> str:
    storage = os.environ.get("TTRNN_STORAGE")
    return str(Location.of(storage) / "runs" / "sweep") if storage else "runs/sweep"


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepOptions:
    """Explore tensor-train shapes and ranks with Ray Tune and Optuna; write frontier, report and best model."""

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "sampler": SAMPLERS,
        "early_stopping": STOPPING,
        "baselines": BASELINES,
    }

    data: str | None = None
    """videos (folder or CSV) or shards; default: the embedded demo"""
    out: str = dataclasses.field(default_factory=_default_out)
    """directory or URI of the sweep: s3://bucket/sweep is written to a local copy, which is mirrored to the bucket, and
    can be resumed on any machine [default: runs/sweep, below $TTRNN_STORAGE if that is set, for example to s3://bucket]
    """
    space: str = "small"
    """search space: small (stem or none, hidden size, ranks, directions), shapes (cells, modes, ranks), ranks (the
    paper's shape, ranks only), or your own as package.module:function"""
    num_trials: int | None = None
    """models to train, not counting models that exceed a limit and duplicates, which are not trained; default: 16, or
    with --time-budget as many as fit"""
    epochs: int | None = None
    """passes over the train split per model; default: 48, for the embedded demo 16, with --time-budget as many as fit,
    up to 80"""
    max_params: int | None = None
    """maximum number of parameters of a model, classifier included; default: no limit"""
    streamable: bool = False
    """only models in one direction, which give scores while a video runs"""
    max_macs: int | None = dataclasses.field(default=None, metadata={"aliases": ("max_flops",)})
    """maximum number of MACs (multiply-accumulates) of a model for one frame; default: no limit"""
    sampler: str = "tpe"
    """sampler of models: tpe (learns from the trials), random, or default (Optuna's default)"""
    early_stopping: str = "frontier"
    """frontier: stop a trial if a smaller model is significantly better at the same epoch; asha: successive halving by
    the metric alone; none. Trials with several workers are not stopped early"""
    teacher: str = "auto"
    """models from whose scores the trials learn beside the labels: auto (large ones that the sweep trains first, if the
    space has some and there are at least 12 trials), none, or model directories, separated by commas"""
    refine: bool = False
    """at the end, round the frontier's models to lower ranks and fine-tune them for a few epochs: one training gives
    many points"""
    confirm: int = 0
    """at the end, train the frontier's models again with this many new seeds each, and redraw it from their means"""
    baselines: str = dataclasses.field(default="default", metadata={"aliases": ("baseline",)})
    """models without tensor trains to compare with, not counted as trials: default (averaged frames, a low-rank input
    and a small CNN, each with a small GRU, of about 1,000, 3,000 and 10,000 parameters, or only 3,000 for fewer than 16
    trials; and a linear classifier), dense (these, and a GRU with a dense input matrix, whose cost is logged before it
    starts), or none"""
    time_budget: float | None = None
    """minutes for everything: number and length of the trainings, refinement and replication are planned to fit; at its
    end running trials pause; replication with new seeds is not interrupted once it has started; with --resume, the time
    of this command; default: no limit"""
    seed: int = 0
    """seed of the search, the models and the demo"""
    num_workers: int = 1
    """processes (GPUs) per trial; as many trials run at a time as fit"""
    gpus_per_worker: float = 1.0
    """share of a GPU per worker: with 0.25, four trials share one; they must fit into its memory together"""
    slots: int | None = None
    """trials at a time; default: as many as fit on the nodes of the cluster. For more, an autoscaling cluster starts
    further nodes"""
    resume: bool = False
    """resume an interrupted sweep"""
    overwrite: bool = False
    """delete an existing sweep first"""

    def __post_init__(self) -> None:
        for name in ("num_trials", "epochs", "num_workers", "slots", "max_params", "max_macs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("seed", "confirm"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.time_budget is not None and not self.time_budget > 0:
            raise ValueError(f"time_budget must be a positive number of minutes, got {self.time_budget}")
        for name, choices in self.CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if not 0 < self.gpus_per_worker <= 1:
            raise ValueError(f"0 < gpus_per_worker <= 1 must hold, got {self.gpus_per_worker}")
        search_spaces.load(self.space)
        if "," in self.out and self.teacher == "auto":
            # Commas separate the teachers, which lie in it.
            raise ValueError(f"out must not have a comma, got {self.out}; give another directory, or --teacher none")
        for each in self.teacher_paths:
            if not Location.of(each).exists():
                raise ValueError(f"teacher must be auto, none or model directories, got {each}, which does not exist")

    @property
    def teacher_paths(self) -> list[str]:
        """The model directories that `teacher` names."""
        return [] if self.teacher in ("auto", "none") else [os.path.abspath(each) for each in self.teacher.split(",")]

    @property
    def epochs_per_trial(self) -> int:
        """`epochs` or its default: small models still improve after 40 epochs, but the demo shall be quick."""
        return self.epochs or (16 if self.data is None else 48)

    @property
    def most_trials(self) -> int:
        """`num_trials` or its default; a sweep with a time budget has no such limit."""
        return self.num_trials or (16 if self.time_budget is None else sys.maxsize)

    def settings(self) -> dict[str, Any]:
        """The options that affect the result, and `out`; None for what is planned from a time budget."""
        data = None if self.data is None else str(Location.of(self.data).absolute())
        values = dataclasses.asdict(self) | {"data": data, "teacher": ",".join(self.teacher_paths) or self.teacher}
        if self.time_budget is None:
            values |= {"num_trials": self.most_trials, "epochs": self.epochs_per_trial}
        return {name: value for name, value in values.items() if name not in _SET_BY_THE_COMMAND}

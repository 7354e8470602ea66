"""Define the options of a reproduction, and plan the runs of its two protocols."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.options import positional
from pipelines.data.dataset import ShardDataset
from pipelines.storage.location import Location
from pipelines.training.options import TrainOptions
from pipelines.training.run_directory import RunDirectory
from search_spaces import paper
from search_spaces.paper import EXPERIMENTS, MODELS

__all__ = ["PROTOCOLS", "PaperRun", "ReproduceOptions", "is_paper_frame", "plan_runs"]


PROTOCOLS = ("published", "ours")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReproduceOptions:
    """Reproduce the paper's table on a data set: TT and dense models on each fold, beside the published figures."""

    data: str = positional(default="")
    """videos of the data set (folder or CSV) or shards; not required with --dry-run"""
    out: str = positional(default="runs/reproduce")
    """directory of the table and the runs"""
    dataset: str
    """data set whose configurations are used: ucf11, hollywood2 or youtube_celebrities; classes and clips are those of
    DATA"""
    models: tuple[str, ...] = tuple(MODELS)
    """models to train: tt-srnn, tt-gru, tt-lstm, dense-srnn, dense-gru, dense-lstm"""
    protocol: str = "both"
    """protocol: published, ours or both"""
    folds: int | None = None
    """folds of the cross-validation; default: the paper's 5, or fewer for ours if there are too few groups; not for
    hollywood2, which has official lists"""
    seeds: int = 1
    """runs with different seeds per model and fold"""
    epochs: int | None = None
    """passes over the train split; default: the paper's number, 101 to 1,001"""
    lr: float | None = None
    """learning rate; default: the paper's, 1e-4 or 1e-3, which is too low for few epochs"""
    max_frames: int | None = None
    """cut longer videos to this number of frames; default: the paper's"""
    time_limit_minutes: float | None = None
    """stop a run after the epoch that exceeds this, with a note in the table; default: no limit"""
    cpus_per_run: int = 1
    """CPUs per run; as many runs are trained at a time as fit"""
    gpus_per_run: float | None = None
    """with GPUs: the share of a GPU per run; default: by its memory"""
    dry_run: bool = False
    """train nothing; print parameters, memory, and the time estimated from a few steps on random frames"""
    resume: bool = False
    """resume in OUT; complete runs are not run again"""
    overwrite: bool = False
    """delete an existing OUT first"""

    def __post_init__(self) -> None:
        for name, value, choices in [
            ("dataset", self.dataset, EXPERIMENTS),
            ("protocol", self.protocol, (*PROTOCOLS, "both")),
            *(("models", model, MODELS) for model in self.models),
        ]:
            if value not in choices:
                raise ValueError(f"{name} must be among {', '.join(choices)}, got {value!r}")
        if not self.models or len(set(self.models)) < len(self.models):
            raise ValueError(f"models must name at least one, each once, got {', '.join(self.models) or 'none'}")
        if self.folds is not None and EXPERIMENTS[self.dataset].folds is None:
            raise ValueError(f"{self.dataset} has official train and test lists; leave folds {self.folds} out")
        for name, least in (("folds", 2), ("seeds", 1), ("epochs", 1), ("max_frames", 1), ("cpus_per_run", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        for name in ("lr", "time_limit_minutes", "gpus_per_run"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if not self.data and not self.dry_run:
            raise ValueError("DATA is missing: give the videos or shards, or --dry-run (see --help)")

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols to run."""
        return PROTOCOLS if self.protocol == "both" else (self.protocol,)

    @property
    def time_limit_s(self) -> float | None:
        """The time limit of a run, s; None without one."""
        return None if self.time_limit_minutes is None else 60 * self.time_limit_minutes

    def settings(self) -> dict[str, Any]:
        """The options that all runs share; models, protocols and seeds may be added to a table later."""
        names = ("dataset", "folds", "epochs", "lr", "max_frames")
        return {"data": str(Location.of(self.data).absolute()), **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True, slots=True)
class PaperRun:
    """A training of a reproduction: its row in the table, and its options."""

    protocol: str
    model: str
    train: TrainOptions

    @property
    def directory(self) -> RunDirectory:
        """The directory of the run."""
        return RunDirectory(self.train.out)

    def __str__(self) -> str:
        fold = "" if self.train.fold is None else f" fold {self.train.fold} of {self.train.folds}"
        return f"{self.model} {self.protocol}{fold} seed {self.train.seed}"


def plan_runs(options: ReproduceOptions, shards: str, out: Path, data: ShardDataset) -> list[PaperRun]:
    """All runs in the order in which they are started: all models on a fold before the next fold.

    Args:
        options: The options of the reproduction.
        shards: Path of the shards.
        out: Directory of the table.
        data: The data set; only its frame size is used.
    """
    experiment = EXPERIMENTS[options.dataset]
    changes: dict[str, Any] = {"epochs": options.epochs or experiment.epochs, "lr": options.lr or experiment.lr}
    if not is_paper_frame(data, options.dataset):
        changes["in_modes"] = "auto"
    runs: list[tuple[int, PaperRun]] = []
    for protocol in options.protocols:
        folds = options.folds or (experiment.folds if protocol == "published" else experiment.group_folds)
        splits: dict[str, Any] = {"watch_test": True, "keep": "last"} if protocol == "published" else {"keep": "best"}
        if folds is not None:
            splits |= {"folds": folds, "split_by": "clip" if protocol == "published" else "group"}
        for seed in range(options.seeds):
            for fold in [None] if folds is None else range(folds):
                for model in options.models:
                    name = f"seed-{seed}" if fold is None else f"fold-{fold}-of-{folds}-seed-{seed}"
                    train = TrainOptions(
                        shards=shards,
                        out=str(out / "runs" / protocol / model / name),
                        seed=seed,
                        fold=fold,
                        **paper.train_options(options.dataset, model) | changes | splits,
                    )
                    runs.append((seed * 1000 + (fold or 0), PaperRun(protocol, model, train)))
    return [run for _, run in sorted(runs, key=lambda pair: pair[0])]


def is_paper_frame(data: ShardDataset, dataset: str) -> bool:
    """Whether the frames have the size of the paper's, so that its modes can be used."""
    experiment = EXPERIMENTS[dataset]
    return data.frame.shape == (experiment.height, experiment.width, 3)

"""What a reproduction of the paper consists of: its options, the two protocols, the runs of each."""

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
    """Do the paper's table on a data set: TT and dense models, fold by fold, beside what was published."""

    data: str = positional(default="")
    """the data set's videos (folder or CSV), or shards of it; --dry-run can do without"""
    out: str = positional(default="runs/reproduce")
    """directory of the table and its runs"""
    dataset: str
    """whose configurations: ucf11, hollywood2 or youtube_celebrities; classes and clips are those of DATA"""
    models: tuple[str, ...] = tuple(MODELS)
    """some of tt-srnn, tt-gru, tt-lstm, dense-srnn, dense-gru, dense-lstm"""
    protocol: str = "both"
    """published, ours or both"""
    folds: int | None = None
    """parts of the cross-validation; default: the paper's 5, for ours no more than groups allow; hollywood2 has lists
    of its own"""
    seeds: int = 1
    """runs of each model and fold, from other initial weights"""
    epochs: int | None = None
    """passes over the train split; default: the paper's number, 101 to 1,001"""
    lr: float | None = None
    """learning rate; default: the paper's, 1e-4 or 1e-3, which few epochs are too few for"""
    max_frames: int | None = None
    """cut longer videos to so many frames; default: as the paper did"""
    time_limit_minutes: float | None = None
    """stop a run in the epoch that exceeds this, and say so in the table; default: never"""
    cpus_per_run: int = 1
    """processors of a run; as many runs go on at a time as fit"""
    gpus_per_run: float | None = None
    """where there are GPUs: the part of one that a run takes; default: by the memory that it needs"""
    dry_run: bool = False
    """train nothing: print shapes, parameters, memory, and the expected time by a few steps on random frames"""
    resume: bool = False
    """continue in OUT: runs that are complete are not run again"""
    overwrite: bool = False
    """delete an older OUT first"""

    def __post_init__(self) -> None:
        for name, value, choices in [
            ("dataset", self.dataset, EXPERIMENTS),
            ("protocol", self.protocol, (*PROTOCOLS, "both")),
            *(("models", model, MODELS) for model in self.models),
        ]:
            if value not in choices:
                raise ValueError(f"{name} must be among {', '.join(choices)}, got {value!r}")
        if not self.models or len(set(self.models)) < len(self.models):
            raise ValueError(f"models must name one at least, each once, got {', '.join(self.models) or 'none'}")
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
        """Those that are asked for."""
        return PROTOCOLS if self.protocol == "both" else (self.protocol,)

    def settings(self) -> dict[str, Any]:
        """What all runs have in common; models, protocols and seeds may be added to a table later."""
        names = ("dataset", "folds", "epochs", "lr", "max_frames")
        return {"data": str(Location.of(self.data).absolute()), **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True, slots=True)
class PaperRun:
    """One training of a reproduction: the row of the table that it belongs to, and its options."""

    protocol: str
    model: str
    train: TrainOptions

    @property
    def directory(self) -> RunDirectory:
        """Where the run lies."""
        return RunDirectory(self.train.out)

    def __str__(self) -> str:
        fold = "" if self.train.fold is None else f" fold {self.train.fold} of {self.train.folds}"
        return f"{self.model} {self.protocol}{fold} seed {self.train.seed}"


def plan_runs(options: ReproduceOptions, shards: str, out: Path, data: ShardDataset) -> list[PaperRun]:
    """All runs, in the order in which they are started: each fold with all models, so that a table grows evenly.

    Args:
        options: Which.
        shards: Where the data lies.
        out: Where the table is to lie.
        data: The data, of which only the frame is asked.
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
    """Whether its modes fit: data of other sizes are given modes of their own."""
    experiment = EXPERIMENTS[dataset]
    return data.frame.shape == (experiment.height, experiment.width, 3)

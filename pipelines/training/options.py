"""Define the options of a training."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pipelines.baselines.config import AnyConfig
from pipelines.core.options import positional
from pipelines.data.augment import Augmentation
from pipelines.data.folds import Folding
from ttrnn.config import ModelOptions

__all__ = ["TrainOptions", "flat_config"]


# Options that do not affect the result: they may differ when a run is resumed.
_SET_BY_THE_COMMAND = ("out", "resume", "overwrite", "checkpoint_minutes", "track")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions(ModelOptions):
    """Train a recurrent classifier on shards of video frames."""

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        **ModelOptions.CHOICES,
        "precision": ("auto", "float32", "bfloat16"),
        "optimizer": ("adamw", "adam"),
        "schedule": ("one_cycle", "constant"),
        "decayed": ("all", "head"),
        "keep": ("best", "last"),
        "pixels": ("standardised", "centred"),
        "split_by": ("group", "clip"),
        "track": ("none", "mlflow", "wandb"),
    }

    shards: str = positional()
    """directory of shards, written by preprocess"""
    out: str = positional()
    """directory of the run: metrics, checkpoint, best model"""
    differences: str = "extra"
    """differences of consecutive frames as input: none, extra (beside the frame) or only"""
    dropout: float = 0.25
    """dropout before the classifier and between layers, 0 to 1"""
    input_gain: float = 0.3
    """initial standard deviation of the input part of the gates; with 1, the model overfits sooner"""
    init: str | None = None
    """model directory to start from: its weights are rounded to the given ranks; cell, modes and classes must be those
    of the model; default: random weights"""
    teacher: str | None = None
    """model directory whose scores the model learns beside the labels (knowledge distillation), or several, separated
    by commas, whose mean scores it learns; trained on the same data; default: no teacher"""
    teacher_weight: float = 0.7
    """share of the loss that compares the scores with those of the teacher, 0 to 1"""
    teacher_temperature: float = 3.0
    """both scores are softened by this temperature before they are compared"""
    epochs: int = 24
    """passes over the train split"""
    batch_size: int = 16
    """clips per step and worker"""
    lr: float = 3e-3
    """learning rate; for a one-cycle schedule its maximum"""
    optimizer: str = "adamw"
    """adamw or adam"""
    schedule: str = "one_cycle"
    """learning-rate schedule: one_cycle or constant"""
    weight_decay: float = 0.01
    """weight decay of adamw; for adam an L2 penalty: WEIGHT_DECAY times the weights is added to the gradient"""
    decayed: str = "all"
    """weights to which weight decay applies: all, or those of the classifier (head)"""
    max_grad_norm: float | None = 1.0
    """gradients are clipped to this norm; none: not clipped"""
    label_smoothing: float = 0.1
    """label smoothing: the share of each training label that is spread over all classes, 0 to 1"""
    weight_averaging: float = 0.0
    """decay per step of the EMA of the weights, which is then evaluated and saved; 0: no EMA"""
    keep: str = "best"
    """the model to save: best (of the epoch with the best validation metric) or last"""
    patience: int | None = None
    """stop after this many epochs without a better validation metric; default: no early stopping"""
    precision: str = "auto"
    """precision of the products with the frames in training: float32, bfloat16, or auto (the faster one on this
    machine); evaluation is always in float32"""
    pixels: str = "standardised"
    """normalisation of pixels: standardised (by mean and standard deviation of the train split) or centred (pixel -
    128, not divided)"""
    flip: bool = False
    """mirror a random half of the clips, left to right, in each epoch; not for classes that depend on left and right,
    such as letters or gestures"""
    shift: int = 0
    """shift each clip by up to this many pixels in x and y; edge pixels are repeated"""
    temporal_crop: float = 1.0
    """crop each clip to a random part of at least this share of its frames; 1: no crop"""
    speed: float = 1.0
    """play each clip at a random speed from 1/SPEED to SPEED; 1: unchanged"""
    brightness: float = 0.0
    """multiply the pixels of each clip by a random factor from 1-BRIGHTNESS to 1+BRIGHTNESS"""
    seed: int = 0
    """seed of initial weights, order and augmentation of clips, and dropout"""
    num_workers: int = 1
    """processes (GPUs) of a data-parallel training; two or more run in Ray Train"""
    folds: int | None = None
    """divide the clips of all splits into this many folds; default: the splits of SHARDS"""
    fold: int | None = None
    """with --folds: the fold that is the test split, from 0"""
    split_by: str = "group"
    """with --folds: divide by group, or by clip, which lets groups leak between splits"""
    watch_test: bool = False
    """train on val too, and validate on the test split after each epoch, as papers without a validation split do"""
    checkpoint_minutes: float = 10.0
    """minutes between checkpoints in the middle of an epoch: a killed run loses no more than this"""
    track: str = "none"
    """also log to mlflow or wandb; none: to neither"""
    resume: bool = False
    """resume an interrupted run"""
    overwrite: bool = False
    """delete an existing run first"""

    def __post_init__(self) -> None:
        for name, choices in self.CHOICES.items():
            # ModelConfig checks those of the model; baselines have other inputs.
            if name not in ModelOptions.CHOICES and getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("seed", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.teacher_weight <= 1:
            raise ValueError(f"0 <= teacher_weight <= 1 must hold, got {self.teacher_weight}")
        for name in ("label_smoothing", "weight_averaging"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"0 <= {name} < 1 must hold, got {getattr(self, name)}")
        for name in ("epochs", "batch_size", "num_workers", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("lr", "max_grad_norm", "input_gain", "teacher_temperature", "checkpoint_minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.patience is not None and self.keep == "last":
            raise ValueError(f"patience {self.patience} needs keep best, got keep last; leave one of the two out")
        if self.watch_test and self.keep == "best":
            raise ValueError("with watch_test, keep best would select the model on the test split; use keep last")
        # Both check their values.
        _ = self.folding, self.augmentation()

    @property
    def teacher_paths(self) -> list[str]:
        """The model directories that `teacher` names."""
        return [] if self.teacher is None else self.teacher.split(",")

    @property
    def folding(self) -> Folding:
        """The splits of the shards to use. Raises ValueError for a fold that does not exist."""
        return Folding(folds=self.folds, fold=self.fold, split_by=self.split_by, watch_test=self.watch_test)

    def augmentation(self) -> Augmentation:
        """The augmentation of the train split. Raises ValueError for a number that is out of range."""
        return Augmentation(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Augmentation)})

    def settings(self) -> dict[str, Any]:
        """The options that determine the result: all but paths of output and those of the command."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in _SET_BY_THE_COMMAND}


def flat_config(options: TrainOptions, config: AnyConfig) -> dict[str, Any]:
    """All settings of a run except those of data set, budget and seed: the last columns of trials.csv."""
    settled = config.to_dict()
    return {
        name: settled.get(name, value)
        for name, value in options.settings().items()
        if name not in ("shards", "folds", "fold", "split_by", "watch_test", "epochs", "seed", "num_workers")
    }

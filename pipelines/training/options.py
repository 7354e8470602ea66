"""Options of a training."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from pipelines.core.options import positional
from pipelines.data.augment import Augmentation
from pipelines.data.folds import Folding
from ttrnn.config import ModelConfig, ModelOptions

__all__ = ["TrainOptions", "flat_config"]


# How a run goes, not what comes of it: another one may be given to resume.
_OF_THE_COMMAND = ("out", "resume", "overwrite", "checkpoint_minutes", "track")
_CHOICES = {
    "precision": ("auto", "float32", "bfloat16"),
    "optimizer": ("adamw", "adam"),
    "schedule": ("one_cycle", "constant"),
    "decayed": ("all", "head"),
    "keep": ("best", "last"),
    "pixels": ("standardised", "centred"),
    "split_by": ("group", "clip"),
    "track": ("none", "mlflow", "wandb"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions(ModelOptions):
    """Train one recurrent classifier on shards of video frames."""

    shards: str = positional()
    """directory that preprocess wrote"""
    out: str = positional()
    """directory of the run: metrics, checkpoint, best model"""
    differences: str = "extra"
    """of each frame to the one before, as input: none, extra (beside the frame) or only"""
    dropout: float = 0.25
    """before the classifier and between layers, 0 to 1"""
    input_gain: float = 0.3
    """standard deviation of the gates' input part at start; with 1, clips are learnt by heart sooner"""
    init: str | None = None
    """model directory to start from: its weights are rounded to the ranks asked for, its cell, modes and classes must
    be those asked for; default: random weights"""
    epochs: int = 24
    """passes over the train split"""
    batch_size: int = 16
    """clips per step and worker"""
    lr: float = 3e-3
    """learning rate; the highest one of a one-cycle schedule"""
    optimizer: str = "adamw"
    """adamw or adam"""
    schedule: str = "one_cycle"
    """of the learning rate: one_cycle or constant"""
    weight_decay: float = 0.01
    """of adamw; for adam an L2 penalty, added to the gradient as WEIGHT_DECAY times the weights"""
    decayed: str = "all"
    """what decays: all weights, or the classifier's (head)"""
    max_grad_norm: float | None = 1.0
    """gradients of a larger norm are scaled down to it; none: as they are"""
    label_smoothing: float = 0.1
    """share of each label in training that is spread over all classes, 0 to 1"""
    weight_averaging: float = 0.0
    """decay per step of a moving average of the weights, which is the model that is measured and kept; 0: no average"""
    keep: str = "best"
    """the model that is kept: of the best epoch on the validation split, or of the last"""
    patience: int | None = None
    """stop after this many epochs without a better validation metric; default: never"""
    precision: str = "auto"
    """of the products with the frames in training: float32, bfloat16, or auto for the one that is fast here; metrics
    are always measured in float32"""
    pixels: str = "standardised"
    """what the model makes of a pixel: standardised by the mean and deviation of the train split, or centred (pixel -
    128, not divided)"""
    flip: bool = False
    """mirror half of the clips, left to right, anew in each epoch; not for what has a left and a right: letters,
    gestures"""
    shift: int = 0
    """move each clip by up to this many pixels in x and y; edges are repeated"""
    temporal_crop: float = 1.0
    """keep a random piece of each clip, of at least this share of its frames; 1: all"""
    speed: float = 1.0
    """replay each clip at a random speed from 1/SPEED to SPEED; 1: as it is"""
    brightness: float = 0.0
    """multiply the pixels of each clip by a random factor from 1-BRIGHTNESS to 1+BRIGHTNESS"""
    seed: int = 0
    """of initial weights, order and alteration of clips, and dropout"""
    num_workers: int = 1
    """processes (GPUs) that share the work; two and more run on Ray"""
    folds: int | None = None
    """deal the clips of all splits anew into this many parts; default: splits as they are in SHARDS"""
    fold: int | None = None
    """with --folds: the part that is the test split, from 0"""
    split_by: str = "group"
    """with --folds: deal whole groups, or each clip by itself (clip), which lets groups leak"""
    watch_test: bool = False
    """as papers do that have no validation split: learn from val too, and watch the test split after each epoch"""
    checkpoint_minutes: float = 10.0
    """a run that is killed loses no more than this, also in the middle of an epoch"""
    track: str = "none"
    """report to mlflow or wandb too"""
    resume: bool = False
    """continue a run that was interrupted"""
    overwrite: bool = False
    """delete an older run first"""

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("seed", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("label_smoothing", "weight_averaging"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"0 <= {name} < 1 must hold, got {getattr(self, name)}")
        for name in ("epochs", "batch_size", "num_workers", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("lr", "max_grad_norm", "input_gain", "checkpoint_minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.patience is not None and self.keep == "last":
            raise ValueError(
                f"patience {self.patience} waits for a better epoch, but keep is last; give one of the two"
            )
        if self.watch_test and self.keep == "best":
            raise ValueError("keep best would choose the model by the test split that watch_test watches; keep last")
        # Both check their own values.
        _ = self.folding, self.augmentation()

    @property
    def folding(self) -> Folding:
        """Which splits of the shards to use. Raises ValueError for a fold that does not exist."""
        return Folding(folds=self.folds, fold=self.fold, split_by=self.split_by, watch_test=self.watch_test)

    def augmentation(self) -> Augmentation:
        """What is done to clips of the train split. Raises ValueError by name for a number out of its range."""
        return Augmentation(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Augmentation)})

    def settings(self) -> dict[str, Any]:
        """What decides the result: everything but where it goes and how it was started."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in _OF_THE_COMMAND}


def flat_config(options: TrainOptions, config: ModelConfig) -> dict[str, Any]:
    """Every configured name of a run but those of its data set and budget: the last columns of trials.csv."""
    known = config.to_dict()
    return {
        name: known.get(name, value)
        for name, value in options.settings().items()
        if name not in ("shards", "folds", "fold", "split_by", "watch_test", "epochs", "seed", "num_workers")
    }

"""What a training is made of: its options, the model that they ask for on given shards, and RUN/config.json."""

import dataclasses
import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import ttrnn
from pipelines import cli
from pipelines.augment import Augmentation
from pipelines.cli import UserError
from pipelines.resplit import resplit, without_val
from pipelines.shards import ShardDataset, Split
from pipelines.splits import SplitOptions
from pipelines.storage import Location, refuse_other_options
from ttrnn.contract import supports_bfloat16
from ttrnn.files import atomic_write
from ttrnn.model import ModelConfig, VideoClassifier
from ttrnn.rounding import rounded

__all__ = [
    "TrainOptions",
    "claim_run",
    "flat_config",
    "local_device",
    "model_config",
    "open_data",
    "read_options",
    "resolve_precision",
    "starting_model",
    "training_splits",
]

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
# Options of runs from before they had them.
_ABSENT = {
    "precision": "float32",
    "differences": "none",
    "input_dropout": 0.0,
    "label_smoothing": 0.0,
    "weight_averaging": 0.0,
    "optimizer": "adamw",
    "schedule": "one_cycle",
    "decayed": "all",
    "keep": "best",
    "pixels": "standardised",
    "folds": None,
    "fold": None,
    "split_by": "group",
    "watch_test": False,
    "init": None,
    **{field.name: field.default for field in dataclasses.fields(Augmentation)},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """Train one recurrent classifier on shards of video frames."""

    shards: str = cli.positional()
    """directory that preprocess wrote"""
    out: str = cli.positional()
    """directory of the run: metrics, checkpoint, best model"""
    cell: str = "gru"
    """rnn, gru or lstm"""
    input: str = "tt"
    """input matrix: tt, or dense for the twin without a tensor train"""
    in_modes: str = "auto"
    """input modes such as 8x20x20x18; they multiply to the values of a frame; auto follows its axes"""
    hidden_modes: str = "4x4x4x4"
    """hidden modes; they multiply to the hidden size"""
    ranks: str = "4"
    """one rank, or the inner ranks such as 4x4x4"""
    recurrent_ranks: str = "none"
    """none for a dense recurrent matrix, or its ranks as a tensor train"""
    num_layers: int = 1
    """recurrent layers"""
    bidirectional: bool = False
    """read clips backwards too"""
    differences: str = "extra"
    """of each frame to the one before, as input: none, extra (beside the frame) or only"""
    pooling: str = "last"
    """of the states over time: last, mean, max, or attention with learnt weights"""
    dropout: float = 0.25
    """before the classifier and between layers, 0 to 1"""
    input_dropout: float = 0.0
    """on what the frames add to the gates, one mask per clip, 0 to 1"""
    recurrent_dropout: float = 0.0
    """on the hidden state in the recurrent product, 0 to 1"""
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
        self._check_splits()
        self.augmentation()

    def _check_splits(self) -> None:
        if self.watch_test and self.keep == "best":
            raise ValueError("keep best would choose the model by the test split that watch_test watches; keep last")
        if self.folds is None and (self.fold is not None or self.split_by != "group"):
            raise ValueError(f"fold {self.fold} and split_by {self.split_by} need folds: into how many parts?")
        if self.folds is not None and (self.folds < 2 or self.fold is None or not 0 <= self.fold < self.folds):
            raise ValueError(f"folds >= 2 and 0 <= fold < folds must hold, got folds {self.folds}, fold {self.fold}")

    def augmentation(self) -> Augmentation:
        """What is done to clips of the train split. Raises ValueError by name for a number out of its range."""
        return Augmentation(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Augmentation)})

    def settings(self) -> dict[str, Any]:
        """What decides the result: everything but where it goes and how it was started."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in _OF_THE_COMMAND}


def local_device() -> torch.device:
    """Where this process computes: its GPU if it has one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(options: TrainOptions) -> TrainOptions:
    """With what precision auto stands for: that of the run that is resumed, else what is fast on this machine."""
    if options.precision != "auto":
        return options
    run = Path(options.out, "config.json")
    if run.exists() and not options.overwrite:
        return dataclasses.replace(options, precision=read_options(run)["precision"])
    fast = "bfloat16" if supports_bfloat16(local_device().type) else "float32"
    return dataclasses.replace(options, precision=fast)


def open_data(shards: str | Path | Location, options: TrainOptions) -> ShardDataset:
    """The data set with its splits as the options have them: as they were made, or folds dealt anew.

    The folds depend on the names of clips and groups alone, not on the seed of the run: they are those of all models.

    Raises:
        UserError: damaged shards, or groups or classes that can't be split so.
    """
    data = ShardDataset.open(shards)
    if options.folds is not None:
        assert options.fold is not None
        leak = options.split_by == "clip"
        try:
            data = resplit(data, SplitOptions(folds=options.folds, fold=options.fold, allow_group_leak=leak))
        except UserError as error:
            # Those are the words of preprocess, which splits are named after.
            text = str(error).replace("--allow-group-leak", "--split-by clip").replace("--seed", "number of --folds")
            raise UserError(text) from error
    return without_val(data) if options.watch_test else data


def training_splits(options: TrainOptions, data: ShardDataset) -> tuple[Split, Split]:
    """What is learnt from, and what is watched. Raises UserError where one has no clips."""
    train, val = data.split("train"), data.split("val")
    for name, split in (("train", train), ("test" if options.watch_test else "val", val)):
        if not len(split):
            raise UserError(f"{data.place} has no clips in its split {name!r}; preprocess more videos, or give --folds")
    return train, val


def model_config(options: TrainOptions, data: ShardDataset) -> ModelConfig:
    """The model that the options ask for on these shards. Raises UserError where shapes or shift do not fit frames."""
    if options.shift >= min(data.frame.width, data.frame.height):
        raise UserError(
            f"shift {options.shift} moves frames of {data.frame.width}x{data.frame.height} pixels out of sight; give "
            f"less than {min(data.frame.width, data.frame.height)}"
        )
    names = {field.name for field in dataclasses.fields(ModelConfig)} & set(options.settings())
    mean, std = (data.mean, data.std) if options.pixels == "standardised" else ((128.0,), (1.0,))
    with cli.user_errors():
        return ModelConfig(
            width=data.frame.width,
            height=data.frame.height,
            channels=data.frame.channels,
            classes=data.classes,
            task=data.task,
            mean=mean,
            std=std,
            sampling=data.sampling,
            **{name: getattr(options, name) for name in names},
        )


def starting_model(init: str, config: ModelConfig) -> VideoClassifier:
    """The weights of a model directory, rounded to a configuration; frames are normalised as the new data says.

    Raises:
        UserError: no model directory, or one that differs in more than ranks, by name.
    """
    with cli.user_errors():
        model = ttrnn.load(init)
    try:
        return rounded(model, config)[0]
    except ValueError as error:
        raise UserError(f"--init {init} does not fit what is asked for: {error}") from error


def flat_config(options: TrainOptions, config: ModelConfig) -> dict[str, Any]:
    """Every configured name of a run but those of its data set and budget: the last columns of trials.csv."""
    known = config.to_dict()
    return {
        name: known.get(name, value)
        for name, value in options.settings().items()
        if name not in ("shards", "folds", "fold", "split_by", "watch_test", "epochs", "seed", "num_workers")
    }


def claim_run(out: Path, options: TrainOptions, config: ModelConfig, *, but: Collection[str] = ()) -> None:
    """Writes RUN/config.json, or refuses to resume a run that was started with other options, but for some of them."""
    path = out / "config.json"
    if path.exists():
        settings = {name: value for name, value in options.settings().items() if name not in but}
        refuse_other_options(out, read_options(path), settings)
        return
    with atomic_write(path) as file:
        json.dump(
            {"format": "ttrnn-run", "version": 1, "options": options.settings(), "model": config.to_dict()},
            file,
            indent=1,
        )


def read_options(path: Path) -> dict[str, Any]:
    """The options in RUN/config.json. Raises UserError if it is something else's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != "ttrnn-run":
            raise KeyError("format")
        options = {**_ABSENT, **content["options"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not describe a run of train; it is left alone: give another OUT") from error
    return options

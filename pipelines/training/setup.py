"""Build what a training starts from: its data, its model, its precision."""

import dataclasses

import ttrnn
from pipelines.cluster.slots import local_device
from pipelines.core.errors import UserError, user_errors
from pipelines.data.dataset import ShardDataset, Split
from pipelines.training.options import TrainOptions
from pipelines.training.run_directory import RunDirectory
from ttrnn.config import ModelConfig, ModelOptions
from ttrnn.contract import supports_bfloat16
from ttrnn.model import VideoClassifier
from ttrnn.rounding import rounded

__all__ = ["model_config", "resolve_precision", "starting_model", "training_splits"]


def resolve_precision(options: TrainOptions) -> TrainOptions:
    """Settles precision auto: that of the run that is resumed, else the one that is fast on this machine."""
    if options.precision != "auto":
        return options
    run = RunDirectory(options.out)
    if run.config_path.exists() and not options.overwrite:
        return dataclasses.replace(options, precision=run.options()["precision"])
    fast = "bfloat16" if supports_bfloat16(local_device().type) else "float32"
    return dataclasses.replace(options, precision=fast)


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
    names = [field.name for field in dataclasses.fields(ModelOptions)]
    mean, std = (data.mean, data.std) if options.pixels == "standardised" else ((128.0,), (1.0,))
    with user_errors():
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
    with user_errors():
        model = ttrnn.load(init)
    try:
        return rounded(model, config)[0]
    except ValueError as error:
        raise UserError(f"--init {init} does not fit what is asked for: {error}") from error

"""Prepare a training: precision, splits, model configuration, initial weights."""

import dataclasses
from typing import Any

import torch

import ttrnn
from pipelines.baselines.config import KINDS, AnyConfig, BaselineConfig
from pipelines.baselines.network import AnyClassifier, build
from pipelines.cluster.slots import local_device
from pipelines.core.errors import UserError, user_errors
from pipelines.data.dataset import ShardDataset, Split
from pipelines.training.options import TrainOptions
from pipelines.training.run_directory import RunDirectory
from ttrnn.config import ModelConfig, ModelOptions
from ttrnn.contract import supports_bfloat16
from ttrnn.model import VideoClassifier
from ttrnn.rounding import rounded

__all__ = [
    "any_model_config",
    "compute_in",
    "model_config",
    "new_model",
    "resolve_precision",
    "seed_generators",
    "starting_model",
    "training_splits",
]


def seed_generators(seed: int) -> None:
    """Does what `torch.manual_seed` does, but without its half a millisecond a step on a machine that has no GPU: there
    it keeps a stack trace of each call in case that a GPU is initialised later."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


def resolve_precision(options: TrainOptions) -> TrainOptions:
    """Replaces precision auto by that of the run to resume, or else by the faster one on this machine."""
    if options.precision != "auto":
        return options
    run = RunDirectory(options.out)
    if run.config_path.exists() and not options.overwrite:
        return dataclasses.replace(options, precision=run.options()["precision"])
    faster = "bfloat16" if supports_bfloat16(local_device().type) else "float32"
    return dataclasses.replace(options, precision=faster)


def training_splits(options: TrainOptions, data: ShardDataset) -> tuple[Split, Split]:
    """The splits to train on and to validate on. Raises UserError if one has no clips."""
    train, val = data.split("train"), data.split("val")
    for name, split in (("train", train), ("test" if options.watch_test else "val", val)):
        if not len(split):
            raise UserError(f"{data.place} has no clips in its split {name!r}; preprocess more videos, or give --folds")
    return train, val


def model_config(options: TrainOptions, data: ShardDataset) -> ModelConfig:
    """The configuration of the model for these shards. Raises UserError if shapes or shift do not fit the frames."""
    if options.shift >= min(data.frame.width, data.frame.height):
        raise UserError(
            f"shift {options.shift} is too large for frames of {data.frame.width}x{data.frame.height} pixels; give "
            f"less than {min(data.frame.width, data.frame.height)}"
        )
    names = [field.name for field in dataclasses.fields(ModelOptions)]
    with user_errors():
        return ModelConfig(**_of_data(options, data), **{name: getattr(options, name) for name in names})


def any_model_config(options: TrainOptions, data: ShardDataset) -> AnyConfig:
    """Like `model_config`, also for the options of a baseline, whose `input` is one of KINDS."""
    if options.input not in KINDS:
        return model_config(options, data)
    own = ("input", "in_modes", "hidden_modes", "dropout")
    with user_errors():
        return BaselineConfig(**_of_data(options, data), **{name: getattr(options, name) for name in own})


def _of_data(options: TrainOptions, data: ShardDataset) -> dict[str, Any]:
    """The settings of a model that follow from the data set."""
    mean, std = (data.mean, data.std) if options.pixels == "standardised" else ((128.0,), (1.0,))
    frame = data.frame
    return {
        **{"width": frame.width, "height": frame.height, "channels": frame.channels},
        **{"classes": data.classes, "task": data.task, "mean": mean, "std": std, "sampling": data.sampling},
    }


def new_model(options: TrainOptions, config: AnyConfig) -> AnyClassifier:
    """The model of a configuration with the initial weights that the options describe."""
    model = build(config)
    if isinstance(model, VideoClassifier):
        model.rnn.reset_parameters(options.input_gain)
    return model


def compute_in(model: AnyClassifier, dtype: torch.dtype | None) -> None:
    """Sets the precision of the products with the frames; a baseline computes in float32."""
    if isinstance(model, VideoClassifier):
        model.rnn.compute_dtype = dtype


def starting_model(init: str, config: ModelConfig) -> VideoClassifier:
    """Loads the model to start from and rounds it to a configuration, whose normalisation of frames it gets.

    Raises:
        UserError: `init` is not a model directory, or its model differs in more than the ranks.
    """
    with user_errors():
        model = ttrnn.load(init)
    try:
        return rounded(model, config)[0]
    except ValueError as error:
        raise UserError(f"--init {init} does not fit the options: {error}") from error

"""Define the paper's experiments as data: three data sets times six models.

    EXPERIMENTS["ucf11"]                    frames, modes, optimisation, folds
    train_options("ucf11", "tt-gru")        options of pipelines.train by name
    published("ucf11", "tt-gru")            the figure that the paper reports, from published.csv

Source: Yang, Krompass, Tresp, "Tensor-Train Recurrent Neural Networks for Video Classification", ICML 2017 (arXiv
1707.01786), and, for details that the paper does not give, the code of its authors, Tuyki/TT_RNN.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["EXPERIMENTS", "MODELS", "Experiment", "published", "train_options"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """A data set in the paper, and how all models were trained on it."""

    width: int
    """Width of a frame with three channels, in pixels."""
    height: int
    """Height of a frame, in pixels."""
    in_modes: str
    """Input modes, whose product is the number of values of a frame."""
    fps: float | None = None
    """Frames per second of video; None: all frames."""
    max_frames: int
    """Number of frames to which longer clips were cut."""
    lr: float
    """Constant learning rate."""
    batch_size: int
    """Clips per step."""
    epochs: int
    """Passes over the train split."""
    metric: str
    """accuracy or mean_average_precision."""
    folds: int | None = None
    """Folds of the cross-validation by clip; None: the official train and test split of the data set."""
    group_folds: int | None = None
    """Folds of the cross-validation by group, limited by the number of groups per class."""
    num_classes: int
    """Number of classes; a clip may have several if metric is mean_average_precision."""
    num_clips: int
    """Number of clips of all splits."""
    num_test_clips: int
    """Number of clips of the test split or of one fold."""
    mean_frames: float
    """Assumed mean number of frames per clip: the mean of the minimum and the maximum, which the paper gives."""


EXPERIMENTS = {
    "ucf11": Experiment(
        width=160,
        height=120,
        in_modes="8x20x20x18",
        fps=24,
        max_frames=1492,
        lr=1e-4,
        batch_size=16,
        epochs=1001,
        metric="accuracy",
        folds=5,
        group_folds=5,
        num_classes=11,
        num_clips=1600,
        num_test_clips=320,
        mean_frames=(204 + 1492) / 2,
    ),
    "hollywood2": Experiment(
        width=234,
        height=100,
        in_modes="10x18x13x30",
        fps=12,
        max_frames=1496,
        lr=1e-3,
        batch_size=32,
        epochs=501,
        metric="mean_average_precision",
        num_classes=12,
        num_clips=823 + 884,
        num_test_clips=884,
        mean_frames=(29 + 1079) / 2,
    ),
    "youtube_celebrities": Experiment(
        width=160,
        height=120,
        in_modes="4x20x20x36",
        max_frames=85,
        lr=1e-3,
        batch_size=16,
        epochs=101,
        metric="accuracy",
        folds=5,
        # There are three videos of each person.
        group_folds=3,
        num_classes=47,
        num_clips=1910,
        num_test_clips=382,
        # The paper only gives the length to which clips were padded.
        mean_frames=85,
    ),
}
"""Experiments by name, the choices of `--dataset`."""

MODELS = {
    f"{name}-{cell}": {"input": name, "cell": "rnn" if cell == "srnn" else cell}
    for name in ("tt", "dense")
    for cell in ("srnn", "gru", "lstm")
}
"""Options of pipelines.train by model; SRNN is the paper's name for a simple RNN."""

_COMMON = {
    "hidden_modes": "4x4x4x4",
    "ranks": "4",
    "recurrent_ranks": "none",
    "format": "tt",
    "recurrent_format": "tt",
    "num_layers": 1,
    "bidirectional": False,
    "pooling": "last",
    "differences": "none",
    "stem": "none",
    "stem_channels": "8x16",
    "stem_strides": "auto",
    "input_dropout": 0.0,
    "label_smoothing": 0.0,
    "weight_averaging": 0.0,
    "flip": False,
    "shift": 0,
    "temporal_crop": 1.0,
    "speed": 1.0,
    "brightness": 0.0,
    "patience": None,
    "init": None,
    "teacher": None,
    "dropout": 0.25,
    "recurrent_dropout": 0.25,
    "optimizer": "adam",
    "schedule": "constant",
    "max_grad_norm": None,
    "pixels": "centred",
    # Keras' l2(0.01) penalises 0.01 w^2, whose gradient is 0.02 w.
    "weight_decay": 0.02,
    "decayed": "head",
    # Unlike the paper, whose initial cores saturate the gates: the default 0.3, scaled to pixels that are not divided
    # by their standard deviation.
    "input_gain": 0.004,
}


def train_options(dataset: str, model: str) -> dict[str, Any]:
    """Options of pipelines.train for a data set in EXPERIMENTS and a model in MODELS, without splits and seed."""
    experiment = EXPERIMENTS[dataset]
    names = ("in_modes", "lr", "batch_size", "epochs")
    return {**_COMMON, **MODELS[model], **{name: getattr(experiment, name) for name in names}}


def published(dataset: str, model: str) -> float | None:
    """The metric that the paper reports, 0 to 1; None if it reports none."""
    with Path(__file__).with_name("published.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if (row["dataset"], row["model"]) == (dataset, model):
                return float(row["value"])
    return None

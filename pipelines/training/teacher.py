"""Teach a model the scores of larger ones beside the labels (knowledge distillation, Hinton et al. 2015).

Legend: B clips, C classes.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import ttrnn
from pipelines.baselines.config import AnyConfig
from pipelines.core.errors import UserError, user_errors
from pipelines.data.dataset import ShardDataset
from pipelines.training.options import TrainOptions
from ttrnn.model import VideoClassifier

__all__ = ["Teacher", "check_teachers", "make_teacher", "teacher_macs"]

# What a teacher must have in common with the data.
_OF_DATA = ("width", "height", "channels", "classes", "task")


class Teacher:
    """One or several trained models, whose mean logits a smaller model learns to give.

    Args:
        paths: Model directories.
        config: The model to be taught, which needs clips of the same form and the same classes.
        weight: The share of the loss that compares the scores with those of the teacher, 0 to 1; the rest is that of
            the labels.
        temperature: The logits of both are divided by it, so that the scores of unlikely classes count too.

    Raises:
        UserError: a path is not a model directory, or its model sees other frames or classes.
    """

    def __init__(self, paths: Sequence[str], config: AnyConfig, weight: float, temperature: float) -> None:
        self._weight, self._temperature, self._task = weight, temperature, config.task
        self._models = _load(paths, {name: getattr(config, name) for name in _OF_DATA})

    def to(self, device: torch.device) -> "Teacher":
        """Moves the models to a device."""
        self._models = [model.to(device) for model in self._models]
        return self

    def mixed(self, losses: Tensor, logits_BC: Tensor, frames: list[Tensor]) -> Tensor:
        """The loss of each clip, of labels and teacher together.

        Args:
            losses: (B,) loss of the labels.
            logits_BC: Of the model that is taught, for these frames.
            frames: Clips as uint8, as the model has seen them.
        """
        with torch.no_grad():
            taught = torch.stack([model(frames) for model in self._models]).mean(dim=0) / self._temperature
        own = logits_BC / self._temperature
        if self._task == "single_label":
            distance = functional.kl_div(
                own.log_softmax(1), taught.log_softmax(1), reduction="none", log_target=True
            ).sum(dim=1)
        else:
            target = taught.sigmoid()
            entropy = functional.binary_cross_entropy_with_logits(taught, target, reduction="none")
            cross = functional.binary_cross_entropy_with_logits(own, target, reduction="none")
            distance = (cross - entropy).mean(dim=1)
        # The gradient of the distance shrinks with the square of the temperature.
        return (1 - self._weight) * losses + self._weight * self._temperature**2 * distance


def check_teachers(paths: Sequence[str], data: ShardDataset) -> None:
    """Raises UserError if a path is not a model directory, or its model sees other frames or classes than the data."""
    frame = data.frame
    values = {"width": frame.width, "height": frame.height, "channels": frame.channels}
    _load(paths, {**values, "classes": data.classes, "task": data.task})


def _load(paths: Sequence[str], wanted: Mapping[str, Any]) -> list[VideoClassifier]:
    with user_errors("teacher"):
        models = [ttrnn.load(path) for path in paths]
    for path, model in zip(paths, models, strict=True):
        for name, own in wanted.items():
            if (theirs := getattr(model.config, name)) != own:
                raise UserError(
                    f"--teacher {path} has {name} {theirs}, the data {own}; give a model that was trained on this data"
                )
    return models


def make_teacher(options: TrainOptions, config: AnyConfig) -> Teacher | None:
    """The teacher that the options name; None without one."""
    if options.teacher is None:
        return None
    return Teacher(options.teacher_paths, config, options.teacher_weight, options.teacher_temperature)


@functools.cache
def teacher_macs(teacher: str | None) -> int:
    """The MACs of a teacher for one frame, given as the option of train; 0 without one."""
    return 0 if teacher is None else sum(ttrnn.load(path).config.multiply_adds for path in teacher.split(","))

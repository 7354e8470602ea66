"""Build the trainings of a sweep from what its search space returns."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.core.errors import UserError, user_errors
from pipelines.core.options import check_values
from pipelines.data.dataset import ShardDataset
from pipelines.training.options import TrainOptions, flat_config
from pipelines.training.queue import Training
from pipelines.training.setup import model_config
from pipelines.training.teacher import teacher_macs
from pipelines.tuning.sweep_directory import SweepDirectory
from ttrnn.model import ModelConfig

__all__ = ["Builder", "Costs", "key", "training"]

_SET_BY_THE_SWEEP = {"shards", "out", "epochs", "seed", "num_workers", "init", "teacher", "resume", "overwrite"}
Costs = Callable[[TrainOptions, ModelConfig], Mapping[str, float]]
"""Options and model -> costs by name; with `memory_bytes`, of the training."""


class Builder:
    """Makes options and configuration of a model from the values of the space.

    Args:
        sweep: The directory of the sweep.
        data: The data set.
        common: Options of train that are the same for all trials.
        space_name: For messages.
    """

    def __init__(self, sweep: SweepDirectory, data: ShardDataset, common: Mapping[str, Any], space_name: str) -> None:
        self._sweep, self._data, self._common = sweep, data, dict(common)
        self._space_name, self.epochs = space_name, int(common["epochs"])
        """Epochs of a model whose values have none of their own."""

    def check(self, values: Mapping[str, Any], what: str) -> None:
        """Raises UserError if a space returned options that do not exist or that the sweep sets."""
        check_values(TrainOptions, values, what)
        if reserved := sorted(_SET_BY_THE_SWEEP & values.keys()):
            raise UserError(f"{what}: {reserved[0]} is set by the sweep for all trials; leave it out")

    def build(self, name: str, values: Mapping[str, Any]) -> tuple[TrainOptions, ModelConfig]:
        """Options and configuration of the trial `name`. Raises UserError if they do not fit each other or the data."""
        with user_errors(f"the space {self._space_name}"):
            options = self._options(name, values)
        return options, model_config(options, self._data)

    def _options(self, name: str, values: Mapping[str, Any]) -> TrainOptions:
        paths = {"shards": str(self._data.place), "out": str(self._sweep.run(name))}
        return TrainOptions(**{**self._common, "epochs": self.epochs, **self.located(values), **paths})

    def located(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values with paths of model directories in place of names of trials."""
        values = dict(values)
        if values.get("init") is not None:
            # The name of a trial, not a path: a sweep may be moved.
            values["init"] = str(self._sweep.run(values["init"]).model)
        if values.get("teacher") is not None:
            values["teacher"] = self._sweep.teacher_paths(values["teacher"])
        return values


def key(options: TrainOptions, model: ModelConfig) -> str:
    """Identifies a model: all its settings, with ranks clipped and written for each bond."""
    return json.dumps(flat_config(options, model), sort_keys=True)


def training(
    name: str, options: TrainOptions, model: ModelConfig, costs: Mapping[str, float], *, is_question: bool = False
) -> Training:
    """The training of a trial."""
    return Training(
        name=name,
        options=options,
        model=model,
        memory_bytes=int(costs["memory_bytes"]),
        is_question=is_question,
        teacher_macs=teacher_macs(options.teacher),
    )

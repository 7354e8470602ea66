"""Which rounded models are worth a short training: planned from what the trials of a sweep have left, nothing trained.

A trained model, rounded to lower ranks and trained for a quarter of the epochs, comes near a small one that was trained
from the start; with half of that it does not. Each proposal takes one step down, and a later round goes on from what
came of it: no better and no worse, as far as was seen, than one jump with the epochs of all its steps, and every step
is a point of its own.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ttrnn
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.tuning.trial import Trial
from ttrnn.model import ModelConfig
from ttrnn.rounding import lower_ranks

__all__ = ["Proposal", "propose"]


# What decides which function a model can be; how it was trained does not.
_SHAPE = (
    "cell",
    "input",
    "in_modes",
    "hidden_modes",
    "ranks",
    "recurrent_ranks",
    "num_layers",
    "bidirectional",
    "differences",
    "pooling",
)
_OF_THE_SWEEP = ("shards", "seed")
# Of the weights that ranks decide over, and of the epochs that a trial of the sweep has.
_KEPT, _EPOCHS = 1 / 2, 1 / 4
# Cores of lower rank have larger entries, and Adam moves each by about the learning rate: at the parent's own, the last
# of a chain lost 5 points on spoken words and 13 on letters (one seed).
_LR = 1.2
# Of the parent's parameters: more would be no other point.
_MOST = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """A model to train from the rounded weights of another."""

    parent: str
    """name of the trial whose weights it starts from"""
    values: Mapping[str, Any]
    """options of train: the parent's, with lower ranks, a higher learning rate, fewer epochs, its name as init"""
    num_params: int
    """of the whole model"""


def propose(
    sweep: SweepDirectory,
    parents: Iterable[Trial],
    trials: Sequence[Trial],
    *,
    epochs: int,
    max_params: int | None = None,
) -> list[Proposal]:
    """One step down in ranks for each parent: half of the weights that ranks decide over, where they cost least.

    Args:
        sweep: Holds the models of the parents.
        parents: Whose weights to start from: the points of the frontier, refined ones among them.
        trials: All that there are: a shape that one of them has is not proposed again, unless it has failed.
        epochs: Of a trial of the sweep; a quarter of them, at least one, is proposed.
        max_params: No more parameters than this.

    Returns:
        In the order of the parents, none for those that are dense, that have nothing to lose or whose child is there
        already: called again with what came of them, it ends with [].
    """
    known = {_shape(trial.config) for trial in trials if trial.state != "failed"}
    proposals = []
    for parent in parents:
        model = ttrnn.load(sweep.run(parent.trial).model)
        config = lower_ranks(model, _target(model.config, max_params))
        if config is None or config.num_params > _MOST * model.num_params or _shape(config.to_dict()) in known:
            continue
        known.add(_shape(config.to_dict()))
        proposals.append(
            Proposal(
                parent=parent.trial,
                values=_values(sweep, parent, config, epochs),
                num_params=config.num_params,
            )
        )
    return proposals


def _target(config: ModelConfig, max_params: int | None) -> int:
    if config.input == "dense":
        return 0
    smallest = dataclasses.replace(config, ranks="1", recurrent_ranks="1").num_params
    target = smallest + int(_KEPT * (config.num_params - smallest))
    return target if max_params is None else min(target, max_params)


def _shape(config: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(config.get(name) for name in _SHAPE)


def _values(sweep: SweepDirectory, parent: Trial, config: ModelConfig, epochs: int) -> dict[str, Any]:
    values = sweep.run(parent.trial).options()
    return {
        **{name: value for name, value in values.items() if name not in _OF_THE_SWEEP},
        "ranks": config.ranks,
        "recurrent_ranks": config.recurrent_ranks,
        "lr": _LR * values["lr"],
        "init": parent.trial,
        "epochs": max(1, round(_EPOCHS * epochs)),
    }

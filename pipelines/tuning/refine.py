"""Propose rounded models of a sweep to fine-tune.

A trained model that is rounded to lower ranks and trained for a quarter of the epochs is about as good as a small one
that is trained from scratch; with an eighth of the epochs it is worse. Each proposal is one step down in ranks, and a
later round continues from its result. In our experiments this was as good as one large step with the epochs of all
steps together, and each step gives a point of the frontier.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ttrnn
from pipelines.tuning.lower_ranks import lower_ranks
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.tuning.trial import Trial
from ttrnn.config import ModelConfig, ModelOptions

__all__ = ["Proposal", "propose"]


# The settings that determine which functions a model can represent, as opposed to how it is trained.
_SHAPE = {field.name: field.default for field in dataclasses.fields(ModelOptions) if not field.name.endswith("dropout")}
_SET_BY_THE_SWEEP = ("shards", "seed", "teacher")
# Share of the weights that depend on the ranks, and of the epochs of a trial.
_WEIGHTS, _EPOCHS = 1 / 2, 1 / 4
# Factor of the parent's learning rate. Cores of lower rank have larger entries, and Adam changes each entry by about
# the learning rate: with a factor of 1, the last models of a chain lost 5 points on spoken words and 13 on letters (one
# seed).
_LR = 1.2
# Maximum share of the parent's parameters: a larger model would be too similar.
_MAX_SHARE = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """A model to fine-tune from the rounded weights of another one."""

    parent: str
    """name of the trial whose weights it starts from"""
    values: Mapping[str, Any]
    """options of train: those of the parent with lower ranks, a higher learning rate, fewer epochs, init PARENT"""
    num_params: int
    """parameters of the whole model"""


def propose(
    sweep: SweepDirectory,
    parents: Iterable[Trial],
    trials: Sequence[Trial],
    *,
    epochs: int,
    max_params: int | None = None,
) -> list[Proposal]:
    """Proposes, for each parent, lower ranks with half of the weights that depend on them, at the smallest error.

    Args:
        sweep: The sweep with the models of the parents.
        parents: Trials to start from: the points of the frontier, also refined ones.
        trials: All trials; a shape of one that has not failed is not proposed again.
        epochs: Number of epochs of a trial; a quarter of it (at least 1) is proposed.
        max_params: Maximum number of parameters.

    Returns:
        Proposals in the order of the parents; none for a parent that is dense, cannot be made smaller, or has been
        refined already. If `propose` is called again after each round, it finally returns [].
    """
    shapes = {_shape(trial.config) for trial in trials if trial.state != "failed"}
    proposals = []
    for parent in parents:
        model = ttrnn.load(sweep.run(parent.trial).model)
        config = lower_ranks(model, _target(model.config, max_params))
        if config is None or config.num_params > _MAX_SHARE * model.num_params or _shape(config.to_dict()) in shapes:
            continue
        shapes.add(_shape(config.to_dict()))
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
    target = smallest + int(_WEIGHTS * (config.num_params - smallest))
    return target if max_params is None else min(target, max_params)


def _shape(config: Mapping[str, Any]) -> tuple[Any, ...]:
    # Trials of earlier versions lack some settings.
    return tuple(config.get(name, default) for name, default in _SHAPE.items())


def _values(sweep: SweepDirectory, parent: Trial, config: ModelConfig, epochs: int) -> dict[str, Any]:
    values = sweep.run(parent.trial).options()
    return {
        **{name: value for name, value in values.items() if name not in _SET_BY_THE_SWEEP},
        "ranks": config.ranks,
        "recurrent_ranks": config.recurrent_ranks,
        "lr": _LR * values["lr"],
        "init": parent.trial,
        "epochs": max(1, round(_EPOCHS * epochs)),
    }

"""Round a trained model to other ranks, as a start for training a smaller one.

    small, errors = rounded(model, dataclasses.replace(model.config, ranks="2", recurrent_ranks="4"))

Every matrix becomes the nearest one that the new configuration can hold: a tensor train is rounded, a dense matrix is
decomposed (decompose.py); biases, attention and classifier stay. Its cores come balanced, ready for an optimizer.

Legend: M_k / N_k input / output mode k, R_{k-1} / R_k left / right rank of core k.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ttrnn.decompose import Truncated, tt_round, tt_svd
from ttrnn.model import ModelConfig, VideoClassifier
from ttrnn.shapes import format_modes

__all__ = ["lower_ranks", "rounded"]

# Settings that must be equal: the names and meanings of weights depend on them.
_SAME = (
    "width",
    "height",
    "channels",
    "classes",
    "task",
    "cell",
    "num_layers",
    "bidirectional",
    "differences",
    "stem",
    "stem_channels",
    "stem_strides",
    "pooling",
    "hidden_size",
)
_SAME_TRAINS = ("in_modes", "hidden_modes")


@torch.no_grad()
def rounded(model: VideoClassifier, config: ModelConfig) -> tuple[VideoClassifier, dict[str, float]]:
    """The model with the matrices that `config` asks for, as near to its own as they can be.

    Ranks may be lower or higher: what exceeds those of the model adds nothing at first, and can be learnt. A dense
    matrix may become a tensor train, and the other way round. Dropout, normalisation (mean and std) and sampling are
    those of `config`: for the same function, keep those of the model.

    Example:
        >>> model = VideoClassifier(ModelConfig(width=8, height=8, classes=("walking", "diving"), ranks="4"))
        >>> small, errors = rounded(model, dataclasses.replace(model.config, ranks="2"))
        >>> small.num_params < model.num_params, list(errors)
        (True, ['ih_l0', 'hh_l0'])

    Args:
        model: Is left as it is.
        config: Of the model that is wanted: the same classes, frame, cell, layers and hidden size, and between tensor
            trains the same modes.

    Returns:
        The new model, in the dtype, on the device and in the mode (train or eval) of the old one, and of each matrix
        (ih_l0 is the input matrix of the first layer, hh_l0 the recurrent one) ||W - W'|| / ||W||, Frobenius.

    Raises:
        ValueError: other settings differ; the message names them.

    Cost: see tt_round and tt_svd.
    """
    _check(model.config, config)
    weight = model.head.weight
    result = VideoClassifier(config).to(weight.device, weight.dtype).train(model.training)
    old, new = model.state_dict(), result.state_dict()
    result.load_state_dict({name: old[name] for name in new.keys() & old.keys() if ".cores." not in name}, strict=False)
    errors = {}
    for name, layer in result.rnn.named_children():
        errors[name] = layer.approximate_(getattr(model.rnn, name, None) or getattr(model.rnn, f"weight_{name}"))
    for name, parameter in result.rnn.named_parameters(recurse=False):
        if name.startswith("weight_hh_"):
            parameter.copy_(model.rnn.weight_hh(name.removeprefix("weight_hh_")))
            errors[name.removeprefix("weight_")] = 0.0
    return result, errors


def _check(old: ModelConfig, new: ModelConfig) -> None:
    names = _SAME + (_SAME_TRAINS if old.input == new.input == "tt" else ())
    different = [name for name in names if getattr(old, name) != getattr(new, name)]
    if different:
        listed = ", ".join(f"{name} {getattr(old, name)}, not {getattr(new, name)}" for name in different)
        raise ValueError(f"the model has {listed}; only its ranks can be changed")


@dataclass(frozen=True, slots=True)
class _Matrix:
    """One that is, or may become, a tensor train."""

    ranks: str
    """The option that its ranks are of: ranks or recurrent_ranks."""
    sizes: tuple[int, ...]
    """M_k N_k."""
    lost: tuple[tuple[float, ...], ...]
    """[bond][R]: the share of ||W||^2 that rank R leaves out there, down to 0 at the highest one."""

    @classmethod
    def of(cls, ranks: str, whole: Truncated) -> "_Matrix":
        shape, lost = whole.shape, []
        for singular in whole.singular_values:
            squares = singular.square() / max(whole.norm, 1e-300) ** 2
            lost.append((*squares.flip(0).cumsum(0).flip(0).tolist(), 0.0))
        return cls(ranks, tuple(m * n for m, n in zip(shape.in_modes, shape.out_modes, strict=True)), tuple(lost))

    @property
    def highest(self) -> list[int]:
        """Ranks that lose nothing; layers have the same ranks, but not the same modes: what is higher is clipped."""
        return [len(lost) - 1 for lost in self.lost]

    def cost(self, ranks: Sequence[int]) -> float:
        """Of the shares their squares: spectra are nearly flat, and one bond would else be emptied for all others."""
        kept = map(min, ranks, self.highest)
        return sum(lost[rank] ** 2 for rank, lost in zip(kept, self.lost, strict=True))

    def num_params(self, ranks: Sequence[int]) -> int:
        bonds = [1, *map(min, ranks, self.highest), 1]
        return sum(left * size * right for left, size, right in zip(bonds, self.sizes, bonds[1:], strict=False))


@torch.no_grad()
def lower_ranks(model: VideoClassifier, num_params: int) -> ModelConfig | None:
    """The configuration of no more parameters than that whose ranks lose least; None where no ranks are low enough.

    Step by step one bond's rank is lowered by an eighth, at least by one: the one that costs least for each parameter
    saved, by the share of its matrix's squared norm that each bond leaves out. A dense recurrent matrix becomes a
    tensor train where that costs less than lower ranks of the input matrix alone. A model with a dense input matrix
    has no ranks to lower.

    Cost: each matrix decomposed once.
    """
    if model.config.input == "dense":
        return None
    ways = [way for matrices in _matrices(model) if (way := _walk_down(model, matrices, num_params)) is not None]
    return min(ways, key=lambda way: way[0])[1] if ways else None


def _matrices(model: VideoClassifier) -> list[list[_Matrix]]:
    """The tensor trains of the model; where its recurrent matrices are dense, then once more with those."""
    trains = [
        _Matrix.of("ranks" if name.startswith("ih_") else "recurrent_ranks", tt_round(layer.cores, relative_error=0.0))
        for name, layer in model.rnn.named_children()
    ]
    shape = dataclasses.replace(model.config, recurrent_ranks="1").recurrent_shape
    dense = [
        _Matrix.of("recurrent_ranks", tt_svd(weight, shape.in_modes, shape.out_modes, relative_error=0.0))
        for name, weight in model.rnn.named_parameters(recurse=False)
        if name.startswith("weight_hh_") and shape is not None
    ]
    return [trains, trains + dense] if dense else [trains]


def _walk_down(model: VideoClassifier, matrices: Sequence[_Matrix], most: int) -> tuple[float, ModelConfig] | None:
    """The total cost, and the configuration at the end."""
    ranks: dict[str, list[int]] = {}
    for matrix in matrices:
        ranks[matrix.ranks] = list(map(max, matrix.highest, ranks.get(matrix.ranks, matrix.highest)))
    own = ("cores.", "weight_hh_") if "recurrent_ranks" in ranks else ("cores.",)
    sizes = {name: weight.numel() for name, weight in model.rnn.named_parameters()}
    fixed = model.num_params - sum(size for name, size in sizes.items() if any(part in name for part in own))

    def num_params(ranks: Mapping[str, Sequence[int]]) -> int:
        return fixed + sum(matrix.num_params(ranks[matrix.ranks]) for matrix in matrices)

    def cost(ranks: Mapping[str, Sequence[int]]) -> float:
        return sum(matrix.cost(ranks[matrix.ranks]) for matrix in matrices)

    while (size := num_params(ranks)) > most:
        steps = [
            {**ranks, name: [*values[:bond], rank - max(1, rank // 8), *values[bond + 1 :]]}
            for name, values in ranks.items()
            for bond, rank in enumerate(values)
            if rank > 1
        ]
        if not steps:
            return None
        before = cost(ranks)
        ranks = min(steps, key=lambda fewer: (cost(fewer) - before) / (size - num_params(fewer)))
    changes: dict[str, Any] = {name: format_modes(values) for name, values in ranks.items() if values}
    return cost(ranks), dataclasses.replace(model.config, **changes)

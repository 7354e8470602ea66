"""Choose the lower ranks of a trained model at which its matrices lose least.

Legend: M_k / N_k input / output mode k of a matrix W, R rank of a bond.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ttrnn.decompose import Truncated, tt_round, tt_svd
from ttrnn.model import ModelConfig, VideoClassifier
from ttrnn.shapes import format_modes

__all__ = ["lower_ranks"]


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
    has no ranks to lower; those of other formats than tensor trains are not chosen by spectra.

    Cost: each matrix decomposed once.
    """
    if model.config.input == "dense" or {model.config.format, model.config.recurrent_format} != {"tt"}:
        return None
    ways = [way for matrices in _matrices(model) if (way := _walk_down(model, matrices, num_params)) is not None]
    return min(ways, key=lambda way: way[0])[1] if ways else None


def _matrices(model: VideoClassifier) -> list[list[_Matrix]]:
    """The tensor trains of the model; where its recurrent matrices are dense, then once more with those."""
    trains = [
        _Matrix.of("ranks" if name.startswith("ih_") else "recurrent_ranks", tt_round(layer.cores, relative_error=0.0))
        for name, layer in model.rnn.named_children()
    ]
    shape = dataclasses.replace(model.config, recurrent_ranks="1").recurrent_matrix
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

"""Tensor formats of a matrix: each is a differentiable map from its parameters to the cores of a tensor train.

Legend: M_k / N_k input / output mode k, d number of modes, r ranks, G_k core k, U_k factor of mode k.

Products, scans, streams and exports take the cores, see network.py.

    tt              the tensor train itself, W = G_1 .. G_d (Oseledets 2011; Yang et al. 2017)
    cp              W = sum_r U_1[r] .. U_d[r] (Kolda and Bader 2009; in recurrent layers Tjandra et al. 2018)
    tucker          W = sum_{a..z} C[a..z] U_1[a] .. U_d[z] (the same sources)
    ht              hierarchical Tucker: a tree of small tensors in place of C (Grasedyck 2010; Yin et al. 2020)
    tr              tensor ring: a train whose ends meet with a rank (Zhao et al. 2016; Pan et al. 2019)
    bt              block term: a sum of Tucker networks (Ye et al. 2018)
    low-rank        W = U V, without modes
    block-diagonal  the square matrix of each gate has blocks on its diagonal, without modes
"""

import functools
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ttrnn.init import orthogonal_cores_
from ttrnn.network import Format, Site
from ttrnn.shapes import Ranks, TTShape, format_modes

__all__ = ["BT", "CP", "FORMATS", "HT", "TR", "TT", "BlockDiagonal", "LowRank", "Tree", "Tucker", "make_format"]

# Numbers in all cores of a layer; in float32 they take 1 GB.
_MOST_NUMBERS = 1 << 28


class TT(Format):
    """Tensor train, cores (r_{k-1}, M_k, N_k, r_k). Ranks: the d-1 inner ones."""

    name, stored = "tt", "cores"

    def tensors(self) -> list[tuple[int, tuple[Any, ...]]]:
        return [(k, (k, "m", "n", k + 1)) for k in range(len(self.in_modes))]

    def sizes(self) -> dict[Any, int]:
        return dict(enumerate((1, *self.ranks, 1)))

    def cores(self, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        return parameters

    def reset_(self, parameters: Sequence[Tensor], gain: float = 1.0) -> None:
        orthogonal_cores_(parameters, gain)

    def __str__(self) -> str:
        return str(self.shape)


class LowRank(TT):
    """W = U V, a train with the modes 1 x M -> N x 1. Ranks: one, that of W."""

    name = "low-rank"


class CP(Format):
    """Canonical polyadic, U_k (M_k, N_k, R). Ranks: one, R, which is that of all cores too."""

    name, num_ranks = "cp", (0, 1)

    def tensors(self) -> list[tuple[int, tuple[Any, ...]]]:
        return [(k, ("m", "n", 0)) for k in range(len(self.in_modes))]


class Tree(Format):
    """Factors below tensors without modes, children before parents; the last axis of all but the last leads upwards."""

    @classmethod
    def settled(cls, sizes: Sequence[int], ranks: Sequence[int]) -> tuple[int, ...]:
        ranks, total = super().settled(sizes, ranks), math.prod(sizes)
        leaves = (min(rank, size, total // size) for rank, size in zip(ranks, sizes, strict=False))
        return (*leaves, *ranks[len(sizes) :])


class Tucker(Tree):
    """Tucker, U_k (M_k, N_k, r_k) and C (r_1, .., r_d) at the site in the middle. Ranks: r_1..r_d.

    The ranks of the cores are r_1, r_1 r_2 and so on up to the middle, and likewise from the other end.
    """

    name = "tucker"

    def tensors(self) -> list[tuple[int, tuple[Any, ...]]]:
        d = len(self.in_modes)
        return [*((k, ("m", "n", k)) for k in range(d)), (d // 2, tuple(range(d)))]


class HT(Tree):
    """Hierarchical Tucker, U_k (M_k, N_k, r_k) and B_t (r_left, r_right, r_t) for each inner node of a balanced tree.

    Ranks: of the d factors, then of the inner nodes below the root, small ones first, from left to right. With four
    modes these are r_1, r_2, r_3, r_4, r_12, r_34, and the cores have the ranks r_1, r_12, r_4.
    """

    name, num_ranks = "ht", (2, -2)

    @classmethod
    def settled(cls, sizes: Sequence[int], ranks: Sequence[int]) -> tuple[int, ...]:
        ranks, d = super().settled(sizes, ranks), len(sizes)
        kept = {(k, k + 1): ranks[k] for k in range(d)}
        for (first, middle, stop, _), rank in zip(_nodes(d), ranks[d:], strict=False):
            outside = math.prod((*sizes[:first], *sizes[stop:]))
            kept[first, stop] = min(rank, kept[first, middle] * kept[middle, stop], outside)
        return tuple(kept.values())

    def tensors(self) -> list[tuple[int, tuple[Any, ...]]]:
        d = len(self.in_modes)
        inner = [(site, ((first, mid), (mid, stop), (first, stop))) for first, mid, stop, site in _nodes(d)]
        site, (left, right, _) = inner.pop()
        return [*((k, ("m", "n", (k, k + 1))) for k in range(d)), *inner, (site, (left, right))]

    def sizes(self) -> dict[Any, int]:
        return dict(zip((indices[-1] for _, indices in self.tensors()[:-1]), self.ranks, strict=True))


@functools.cache
def _nodes(num_modes: int) -> list[tuple[int, int, int, int]]:
    """(first, middle, stop, site) of the inner nodes of a balanced tree, children before parents.

    A left child lies at the first mode of its right half, a right child at the last mode of its left half: both near
    their parent. Of an odd number of modes, the half that is farther from the parent has one more.
    """

    def below(first: int, stop: int, is_right: bool) -> Iterator[tuple[int, int, int, int]]:
        if stop - first > 1:
            middle = (first + stop + (not is_right)) // 2
            yield from (*below(first, middle, False), *below(middle, stop, True))
            yield first, middle, stop, middle - is_right

    return sorted(below(0, num_modes, False), key=lambda node: (node[2] - node[0], node[0]))


class TR(Format):
    """Tensor ring, cores (r_{k-1}, M_k, N_k, r_k) with r_d = r_0. Ranks: r_0..r_{d-1}.

    The index that closes the ring passes all sites: the ranks of the cores are r_0 r_k.
    """

    name = "tr"

    def tensors(self) -> list[tuple[int, tuple[Any, ...]]]:
        d = len(self.in_modes)
        return [(k, (k, "m", "n", (k + 1) % d)) for k in range(d)]


class BT(Format):
    """Block term, a sum of P Tucker networks: U_k (M_k, N_k, r_k, P) and C (r_1, .., r_d, P).

    Ranks: P and r_1..r_d; P and one r for all; or one r, and P is 2. The cores have P times the ranks of Tucker.
    """

    name, num_ranks = "bt", (1, 1)

    @classmethod
    def settled(cls, sizes: Sequence[int], ranks: Sequence[int]) -> tuple[int, ...]:
        given = [2, *ranks] if len(ranks) == 1 else list(ranks)
        blocks, *others = super().settled(sizes, given[:1] + given[1:] * len(sizes) if len(given) == 2 else given)
        return (blocks, *Tucker.settled(sizes, others))

    def tensors(self) -> list[tuple[int, tuple[Any, ...]]]:
        d = len(self.in_modes)
        return [*((k, ("m", "n", k + 1, 0)) for k in range(d)), (d // 2, (*range(1, d + 1), 0))]


class BlockDiagonal(Format):
    """N / M square matrices below each other, with M / s blocks (s, s) on the diagonal of each. Ranks: one, s.

    With s = 1 they are diagonal. The only core is the dense matrix.
    """

    name, num_ranks = "block-diagonal", (0, 1)

    def tensors(self) -> list[tuple[int, tuple[Any, ...]]]:
        return []

    def sizes(self) -> dict[Any, int]:
        return {}

    @property
    def parameter_shapes(self) -> tuple[tuple[int, ...], ...]:
        (num_in,), (num_out,), (size,) = self.in_modes, self.out_modes, self.ranks
        return ((num_out // num_in, num_in // size, size, size),)

    def sites(self) -> tuple[Site, ...]:
        return (Site((0,), self.parameter_shapes[0][1:2], "gboi,bc", inputs="bi", outputs="gco"),)

    def reset_(self, parameters: Sequence[Tensor], gain: float = 1.0) -> None:
        torch.nn.init.normal_(parameters[0], std=gain / math.sqrt(self.ranks[0]))


FORMATS: dict[str, type[Format]] = {kind.name: kind for kind in (TT, CP, Tucker, HT, TR, BT, LowRank, BlockDiagonal)}


def make_format(name: str, in_modes: Sequence[int], out_modes: Sequence[int], ranks: Ranks) -> Format:
    """The format of this name. A matrix of one mode is a train of one core, the dense matrix, in formats with modes.

    Raises:
        ValueError: another name; modes or ranks that do not fit, see TTShape and the class; cores too large to make.
    """
    if name not in FORMATS:
        raise ValueError(f"the format must be one of {', '.join(FORMATS)}, got {name!r}")
    kind, whole = FORMATS[name], TTShape(in_modes, out_modes, 1)
    num_in, num_out = whole.in_features, whole.out_features
    if kind is LowRank:
        in_modes, out_modes = (1, num_in), (num_out, 1)
    elif kind is BlockDiagonal:
        in_modes, out_modes = (num_in,), (num_out,)
    elif len(in_modes) == 1:
        kind = TT
    if issubclass(kind, TT):
        train = TTShape(in_modes, out_modes, ranks)
        return kind(train.in_modes, train.out_modes, train.ranks)
    if isinstance(ranks, float):
        raise ValueError(f"ranks {ranks}, a share of the dense parameters, needs format tt; give whole numbers")
    asked = tuple(map(operator.index, ranks if isinstance(ranks, Iterable) else [ranks]))
    if any(rank < 1 for rank in asked):
        raise ValueError(f"ranks must be positive, got {format_modes(asked)}")
    sizes = [m * n for m, n in zip(whole.in_modes, whole.out_modes, strict=True)]
    made = kind(tuple(map(int, in_modes)), tuple(map(int, out_modes)), kind.settled(sizes, asked))
    if kind is BlockDiagonal and (num_in % made.ranks[0] or num_out % num_in):
        raise ValueError(
            f"format {name} needs blocks that divide {num_in:,} inputs, and a multiple of as many outputs; got blocks "
            f"of {made.ranks[0]} and {num_out:,} outputs"
        )
    if (num_numbers := made.shape.num_params) > _MOST_NUMBERS:
        raise ValueError(
            f"format {name} of ranks {format_modes(made.ranks)} has cores of {num_numbers:,} numbers, and "
            f"{_MOST_NUMBERS:,} are the most; give lower ranks"
        )
    return made

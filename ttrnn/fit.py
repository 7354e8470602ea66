"""Approximate a dense matrix in a format: HOSVD for Tucker and hierarchical Tucker, ALS for CP, TR-SVD.

Legend: M_k / N_k input / output mode k, s_k = M_k N_k, d number of modes, r ranks, T the matrix as (s_1, .., s_d).

Sources: De Lathauwer et al. 2000 and Grasedyck 2010 (from the leaves to the root), Kolda and Bader 2009 (CP-ALS),
Zhao et al. 2016 (TR-SVD). All of it runs on the CPU in float64; the tensor train itself is in decompose.py.
"""

import functools
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from ttrnn.contract import dense_weight
from ttrnn.decompose import balanced, paired
from ttrnn.formats import CP, TR, BlockDiagonal, Tree
from ttrnn.network import Format

__all__ = ["fitted"]

# ALS ends when a round lowers the error by less than this share of ||T||, or after so many rounds.
_LEAST_GAIN, _MOST_ROUNDS = 1e-7, 300


@torch.no_grad()
def fitted(form: Format, weight: Tensor) -> tuple[list[Tensor], float]:
    """Parameters near to a matrix (N, M), all of one root mean square, and ||W - W'|| / ||W||, Frobenius, 0 for W = 0.

    HOSVD comes within the square root of 2 d - 3 of the best error of its ranks; ALS finds a local optimum.

    Raises:
        ValueError: format bt, which has no such method; sizes that differ; values that are not finite.

    Cost: d M N max(s_k) multiply-adds and 24 M N bytes; for CP, d M N R multiply-adds in each of up to 300 rounds.
    """
    whole = paired(weight, form.in_modes, form.out_modes)
    tensor = whole.reshape([m * n for m, n in zip(form.in_modes, form.out_modes, strict=True)])
    if isinstance(form, BlockDiagonal):
        gates, num_blocks, size, _ = form.parameter_shapes[0]
        blocks = tensor.view(num_blocks, size, gates, num_blocks, size).diagonal(dim1=0, dim2=3)
        parts = [blocks.permute(1, 3, 2, 0)]
    elif isinstance(form, Tree):
        parts = _hosvd(form, tensor)
    elif isinstance(form, CP):
        parts = _als(tensor, form.ranks[0])
    elif isinstance(form, TR):
        parts = _tr_svd(tensor, form.ranks)
    else:
        raise ValueError(f"no method approximates a matrix in format {form.name}; give tt, cp, tucker, ht or tr")
    near = balanced([part.reshape(shape) for part, shape in zip(parts, form.parameter_shapes, strict=True)])
    missing = paired(dense_weight(form.cores(near)), form.in_modes, form.out_modes).sub_(whole)
    return near, (torch.linalg.vector_norm(missing) / (torch.linalg.vector_norm(whole) or 1.0)).item()


def _split(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The leading left singular vectors (rows, rank), and the projection onto them (rank, columns).

    A rank above the number of rows leads from random vectors to zeros: it adds nothing at first, and can be learnt.
    """
    square = torch.linalg.qr(matrix.t(), mode="r").R.t() if len(matrix) < matrix.shape[1] else matrix
    basis = torch.linalg.svd(square).U[:, :rank]
    shape, generator = (len(matrix), rank - basis.shape[1]), torch.Generator().manual_seed(0)
    more = torch.randn(shape, generator=generator, dtype=torch.float64) / len(matrix) ** 0.5
    return torch.cat([basis, more], 1), torch.cat([basis, torch.zeros_like(more)], 1).t() @ matrix


def _hosvd(form: Format, tensor: Tensor) -> list[Tensor]:
    """Each tensor of the tree has the leading singular vectors of what lies below it; the last one takes the rest."""
    *lower, (_, root) = form.tensors()
    axes: list[object] = [("m", site) for site in range(tensor.dim())]
    parts = []
    for site, indices in lower:
        below = [("m", site)] if "m" in indices else list(indices[:-1])
        others = [axis for axis in axes if axis not in below]
        ordered = tensor.permute([axes.index(axis) for axis in (*below, *others)])
        matrix = ordered.flatten(len(below)).flatten(0, len(below) - 1)
        part, rest = _split(matrix, form.sizes()[indices[-1]])
        parts.append(part)
        tensor, axes = rest.reshape(len(rest), *ordered.shape[len(below) :]), [indices[-1], *others]
    return [*parts, tensor.permute([axes.index(axis) for axis in root])]


def _als(tensor: Tensor, rank: int) -> list[Tensor]:
    """Alternating least squares from the singular vectors: each factor in turn is the best one for the others."""
    modes, square, before = range(tensor.dim()), tensor.square().sum().item(), float("inf")
    factors = [_split(tensor.movedim(k, 0).flatten(1), rank)[0] for k in modes]
    for _ in range(_MOST_ROUNDS):
        for k in modes:
            *others, last = (factors[mode] for mode in modes if mode != k)
            found = tensor.movedim(k, 0) @ last
            for factor in reversed(others):
                found = torch.einsum("...sr,sr->...r", found, factor)
            gram = functools.reduce(operator.mul, (factor.t() @ factor for factor in (*others, last)))
            factors[k] = found @ torch.linalg.pinv(gram, hermitian=True)
            if k < modes[-1]:
                factors[k] = torch.nn.functional.normalize(factors[k], dim=0)
        explained = 2 * (found * factors[-1]).sum() - (gram * (factors[-1].t() @ factors[-1])).sum()
        error = max(0.0, square - explained.item()) ** 0.5
        if before - error < _LEAST_GAIN * square**0.5:
            break
        before = error
    return factors


def _tr_svd(tensor: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """The first SVD gives r_0 r_1 values; r_0 goes to the far end, and SVD by SVD the rest becomes a train."""
    bonds = [*ranks, ranks[0]]
    first, rest = _split(tensor.flatten(1), bonds[0] * bonds[1])
    parts = [first.view(-1, bonds[0], bonds[1]).transpose(0, 1)]
    rest = rest.view(bonds[0], bonds[1], -1).movedim(0, -1)
    for k in range(1, tensor.dim() - 1):
        part, rest = _split(rest.reshape(bonds[k] * tensor.shape[k], -1), bonds[k + 1])
        parts.append(part)
    return [*parts, rest]

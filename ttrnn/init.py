"""Initialise cores so that their product has a given variance, exactly.

Legend: M_k / N_k input / output mode k, R_{k-1} / R_k left / right rank of core k.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["orthogonal_", "orthogonal_cores_"]


@torch.no_grad()
def orthogonal_cores_(cores: Sequence[Tensor], gain: float = 1.0) -> None:
    """Fills cores so that every row of the matrix W they stand for has the norm `gain` (up to the limit below).

    For each output index j the slice G_k[:, :, j, :], read as an R_{k-1} x (M_k R_k) matrix, gets orthonormal rows. A
    row of W is a product of such slices, and multiplying from the last core to the first keeps the norm: with gain 1
    every output has unit variance for uncorrelated inputs of unit variance, and for correlated ones in expectation over
    the draw. Where R_{k-1} > M_k R_k, the slice has orthonormal columns times sqrt(R_{k-1} / (M_k R_k)) instead, which
    keeps the mean square of the norms.

    Independent draws for all cores from one Glorot bound, as the paper's code has them, saturate the gates at start.

    Args:
        cores: Gk of shape (R_{k-1}, M_k, N_k, R_k), filled in place.
        gain: Norm of each row of W.
    """
    if cores[0].is_meta:
        return
    for core in cores:
        r, m, n, s = core.shape
        slices = _orthogonal(n, r, m * s)
        slices = slices * (r / (m * s)) ** 0.5 if r > m * s else slices
        core.copy_(slices.reshape(n, r, m, s).permute(1, 2, 0, 3).to(core.dtype))
    cores[0].mul_(gain)


@torch.no_grad()
def orthogonal_(parts: Tensor, root_mean_square: float) -> None:
    """Fills the parts (num_parts, .., columns), read as matrices, with orthogonal rows or columns of such entries."""
    if parts.is_meta:
        return
    num_parts, columns = parts.shape[0], parts.shape[-1]
    rows = math.prod(parts.shape[1:-1])
    values = _orthogonal(num_parts, rows, columns) * (root_mean_square * max(rows, columns) ** 0.5)
    parts.copy_(values.reshape(parts.shape).to(parts.dtype))


def _orthogonal(num: int, rows: int, columns: int) -> Tensor:
    """(num, rows, columns) random matrices with orthonormal rows, or columns where there are fewer of them."""
    # torch decomposes no half precision, and one dtype makes a seed mean one thing.
    normal = torch.randn(num, max(rows, columns), min(rows, columns), dtype=torch.float64, device="cpu")
    q, upper = torch.linalg.qr(normal)
    # Without these signs QR's own convention would bias the draw.
    q = q * torch.diagonal(upper, dim1=-2, dim2=-1).sign().unsqueeze(-2)
    return q if rows > columns else q.transpose(1, 2)

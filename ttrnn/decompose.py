"""TT-SVD of a dense matrix and rounding of a tensor train to lower ranks, with their errors.

Legend: M_k / N_k input / output mode k, R_{k-1} / R_k left / right rank of core k, d number of cores, ||.|| Frobenius.

Both go through the bonds from left to right. At bond k the rest of W is unfolded, with the modes left of the bond as
rows: its R_k leading left singular vectors are core k, and its projection onto them is the rest for bond k + 1. The
projections' errors are orthogonal: with eps_k, the norm of the singular values left out at bond k,

    ||W - W_TT||^2 = eps_1^2 + ... + eps_{d-1}^2

and no eps_k exceeds the distance from W, unfolded at bond k, to the nearest matrix of rank R_k: the result is within
sqrt(d - 1) of the best tensor train of its ranks. All of it runs on the CPU in float64.

Source: Oseledets, "Tensor-Train Decomposition", SIAM J. Sci. Comput. 33 (2011): Theorem 2.2, Algorithms 1 and 2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttrnn.shapes import Ranks, TTShape, check_modes

__all__ = ["Truncated", "balanced", "paired", "tt_round", "tt_svd"]

# Relative to ||W||; smaller singular values come from rounding errors of float64.
_ROUNDING_ERROR = 1e-13


@dataclass(frozen=True, slots=True)
class Truncated:
    """A tensor train W_TT near a matrix W, with its error."""

    cores: list[Tensor]
    """Gk of shape (R_{k-1}, M_k, N_k, R_k); all but the last have orthonormal columns as (R_{k-1} M_k N_k, R_k)."""
    norm: float
    """||W||."""
    bond_errors: tuple[float, ...]
    """eps_1..eps_{d-1}: the error that each bond's rank adds."""
    singular_values: tuple[Tensor, ...]
    """Of each bond, falling, with those left out; at relative_error 0 those of W unfolded there."""

    @property
    def shape(self) -> TTShape:
        """Modes and ranks of the cores."""
        _, in_modes, out_modes, ranks = zip(*(core.shape for core in self.cores), strict=True)
        return TTShape(in_modes, out_modes, ranks[:-1])

    @property
    def relative_error(self) -> float:
        """||W - W_TT|| / ||W||, 0 for W = 0, without the rounding of cores to another dtype than float64."""
        return math.hypot(*self.bond_errors) / self.norm if self.norm else 0.0


@torch.no_grad()
def tt_svd(
    weight: Tensor,
    in_modes: Sequence[int],
    out_modes: Sequence[int],
    ranks: Ranks | None = None,
    *,
    relative_error: float | None = None,
) -> Truncated:
    """Decomposes a dense matrix, to given ranks or to the lowest, bond by bond, that keep an error.

    Examples:
        >>> tt_svd(torch.ones(256, 57600), (8, 20, 20, 18), (4, 4, 4, 4), relative_error=0.01).shape.ranks
        (1, 1, 1)

    Args:
        weight: (N, M) as nn.Linear has it.
        in_modes: M_1..M_d; their product is M.
        out_modes: N_1..N_d; their product is N.
        ranks: One number, or the d-1 inner ranks; clipped to what the modes allow.
        relative_error: In place of ranks: the most that ||W - W_TT|| / ||W|| may be, in [0, 1). 0 keeps all but
            rounding errors of float64 (1e-13).

    Returns:
        Cores in the weight's dtype and on its device, and the error.

    Raises:
        ValueError: modes that do not multiply to the weight's sizes, ranks that TTShape refuses, both or none of ranks
            and relative_error, values that are not finite.

    Cost: at low ranks that of the first bond: M N M_1 N_1 MACs, 16 M N bytes.
    """
    asked = _asked(in_modes, out_modes, ranks, relative_error)
    whole = paired(weight, asked.in_modes, asked.out_modes)
    return _truncate(whole, [None] * len(asked.ranks), asked, relative_error, weight)


def paired(weight: Tensor, in_modes: tuple[int, ...], out_modes: tuple[int, ...]) -> Tensor:
    """A matrix (N, M) as (M_1, N_1, .., M_d, N_d), float64 on the CPU. Raises ValueError as `tt_svd` does."""
    if weight.dim() != 2:
        raise ValueError(f"the weight must be a matrix (N, M) as nn.Linear has it, got shape {tuple(weight.shape)}")
    check_modes(in_modes, weight.shape[1], "in_modes", "a row of the weight has")
    check_modes(out_modes, weight.shape[0], "out_modes", "a column of the weight has")
    d = len(in_modes)
    # From (N_1, .., N_d, M_1, .., M_d).
    pairs = [axis for k in range(d) for axis in (d + k, k)]
    return _float64(weight.reshape(out_modes + in_modes).permute(pairs), "the weight")


@torch.no_grad()
def tt_round(cores: Sequence[Tensor], ranks: Ranks | None = None, *, relative_error: float | None = None) -> Truncated:
    """Rounds a tensor train to lower ranks, without multiplying it out.

    Args:
        cores: Gk of shape (R_{k-1}, M_k, N_k, R_k).
        ranks: One number, or the d-1 inner ranks; a rank that is lower already stays.
        relative_error: In place of ranks, as in `tt_svd`; 0 drops only singular values of zero.

    Returns:
        Cores in the dtype and on the device of the first, and the error.

    Raises:
        ValueError: cores that do not fit each other; ranks, relative_error and values as in `tt_svd`.

    Cost: linear in d; for every core, M_k N_k R^3 MACs a few times over.
    """
    sizes = [tuple(core.shape) for core in cores]
    if any(len(size) != 4 for size in sizes) or [*(size[0] for size in sizes), 1] != [1, *(size[3] for size in sizes)]:
        raise ValueError(
            f"cores must be (R_k-1, M_k, N_k, R_k), of equal rank where they meet and 1 at both ends, got {sizes}"
        )
    asked = _asked([size[1] for size in sizes], [size[2] for size in sizes], ranks, relative_error)
    first, *others = (_float64(core, f"core {k}") for k, core in enumerate(cores))
    # From the right, each core but the first gets orthonormal rows; its triangular factor goes to the core on its left.
    rest: list[Tensor | None] = []
    carry = torch.ones(1, 1, dtype=torch.float64)
    for core in reversed(others):
        merged = (core @ carry).flatten(1)
        q, upper = torch.linalg.qr(merged.t())
        rest.insert(0, q.t())
        carry = upper.t()
    return _truncate(first @ carry, rest, asked, relative_error, cores[0])


@torch.no_grad()
def balanced(cores: Sequence[Tensor]) -> list[Tensor]:
    """Cores (R_{k-1}, M_k, N_k, R_k) of the same matrix, scaled to one root mean square.

    TT-SVD leaves all of the norm in the last core. Adam moves each weight by about the learning rate, whatever its
    size: it would rewrite the small cores before it has moved that one.
    """
    sizes = [core.cpu().to(torch.float64).square().mean().sqrt().item() for core in cores]
    if min(sizes) == 0:
        return [core.clone() for core in cores]
    common = math.exp(sum(map(math.log, sizes)) / len(sizes))
    return [core * (common / size) for core, size in zip(cores, sizes, strict=True)]


def _asked(
    in_modes: Sequence[int], out_modes: Sequence[int], ranks: Ranks | None, relative_error: float | None
) -> TTShape:
    """Modes, and the ranks if they are given; raises ValueError unless they or a valid relative_error are."""
    if (ranks is None) == (relative_error is None):
        raise ValueError(f"give either ranks or relative_error, got ranks={ranks} and relative_error={relative_error}")
    if relative_error is not None and not 0 <= relative_error < 1:
        raise ValueError(f"0 <= relative_error < 1 must hold (0.05 is five percent), got {relative_error}")
    return TTShape(in_modes, out_modes, 1 if ranks is None else ranks)


def _float64(values: Tensor, name: str) -> Tensor:
    if not values.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {values.dtype}; convert it with .float()")
    if bad := values.numel() - int(values.isfinite().sum()):
        raise ValueError(f"{bad:,} of the {values.numel():,} values of {name} are not finite; start from finite ones")
    # First to the CPU: not every device has float64.
    return values.cpu().to(torch.float64)


def _truncate(
    matrix: Tensor, rest: Sequence[Tensor | None], asked: TTShape, relative_error: float | None, like: Tensor
) -> Truncated:
    """Sweeps from left to right over W = matrix * rest_1 * .. * rest_{d-1}.

    `matrix` is the part left of the first bond. `rest` has for each bond the core behind it, with orthonormal rows as
    (R_k, M_{k+1} N_{k+1} R_{k+1}); None where those modes are among the columns of `matrix`. `like` has the dtype and
    device of the cores to return.
    """
    norm = torch.linalg.vector_norm(matrix).item()
    budget = (max(relative_error or 0.0, _ROUNDING_ERROR) * norm) ** 2
    factors, bonds, errors, spectra = [], [1], [], []
    for k, behind in enumerate(rest):
        matrix = matrix.reshape(bonds[-1] * asked.in_modes[k] * asked.out_modes[k], -1)
        # The triangle of a wide matrix has the same left singular vectors, and fewer right ones, which are not needed.
        is_wide = matrix.shape[0] < matrix.shape[1]
        square = torch.linalg.qr(matrix.t(), mode="r").R.t() if is_wide else matrix
        basis, singular, _ = torch.linalg.svd(square, full_matrices=False)
        # lost[r]: the norm of the singular values that rank r leaves out.
        lost = torch.cat([singular.square().flip(0).cumsum(0).flip(0).sqrt(), singular.new_zeros(1)])
        if relative_error is None:
            rank = min(asked.ranks[k], len(singular))
        else:
            # Later bonds get the part of the budget that earlier ones did not use.
            rank = max(1, int((lost > math.sqrt(budget / (len(rest) - k))).sum()))
        spectra.append(singular)
        errors.append(lost[rank].item())
        budget = max(0.0, budget - errors[-1] ** 2)
        factors.append(basis[:, :rank])
        bonds.append(rank)
        matrix = factors[-1].t() @ matrix
        matrix = matrix if behind is None else matrix @ behind
    shape = TTShape(asked.in_modes, asked.out_modes, bonds[1:])
    cores = [
        # A copy: it must not share memory with W, nor keep the singular vectors that were left out.
        torch.empty(size, dtype=like.dtype, device=like.device).copy_(factor.reshape(size).to(like.dtype))
        for factor, size in zip([*factors, matrix], shape.core_shapes, strict=True)
    ]
    return Truncated(cores, norm, tuple(errors), tuple(spectra))

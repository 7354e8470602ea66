"""Multiply rows with a TT-matrix: check the input, choose a plan, and run it.

Legend: F rows (frames), M / N input / output size, M_k / N_k input / output mode k, R / S left / right rank.
"""

import functools
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from ttrnn.plain import autocasts, chain, core_matrices, is_transformed, without_autocast
from ttrnn.planner import plan
from ttrnn.product import Product, Task, join
from ttrnn.rows import unit
from ttrnn.shapes import TTShape

__all__ = ["dense_weight", "supports_bfloat16", "tt_product"]

log = logging.getLogger(__name__)


def dense_weight(cores: Sequence[Tensor]) -> Tensor:
    """The cores multiplied out: a weight as nn.Linear has it, (N, M). Cost: about R * M * N MACs."""
    with without_autocast(cores[0].device.type):
        return functools.reduce(join, cores)[0, :, :, 0].t()


def supports_bfloat16(device_type: str) -> bool:
    """Whether the device multiplies matrices of bfloat16 in hardware; False where torch doesn't know."""
    if device_type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    # AMX and AVX-512 on x86, the last of them on ARM.
    return device_type == "cpu" and any(features.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


@functools.cache
def _warn_of_emulation(device_type: str) -> None:
    log.warning("bfloat16 is emulated on this %s and slower than float32; use float32 instead", device_type)


def tt_product(
    x_FM: Tensor | Sequence[Tensor],
    cores: Sequence[Tensor],
    shape: TTShape,
    bias: Tensor | None = None,
    *,
    mean: Tensor | None = None,
    scale: float = 1.0,
    order: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """y = (x - mean) (scale W)^T + bias for the matrix W that the cores stand for.

    Args:
        x_FM: (F, M) rows, or more of them than `order` takes, uint8 or floating point; or several tensors (F_b, M).
        cores: Gk of shape (R_{k-1}, M_k, N_k, R_k), one dtype and device.
        shape: Modes and ranks of the cores.
        bias: (N,) added to every row.
        mean: (M,) subtracted from every row, at the cost of one row.
        scale: Of the matrix.
        order: (F,) which rows of a single tensor to take, none twice; None for all as they come.
        dtype: Of the matrix products; None for autocast's where that is on, else the cores'. bfloat16 holds uint8
            exactly; merged cores, values between groups, results and gradients are rounded to its 8 bits, sums are not.

    Returns:
        (F, N) in autocast's dtype where that is on, else in the cores'. Double backward is refused.

    Raises:
        ValueError: no tensor, an order for several, rows that are neither uint8 nor floating point, or float64 rows
            where the cores are not.
    """
    parts = (x_FM,) if isinstance(x_FM, Tensor) else tuple(x_FM)
    _check(parts, cores, order)
    device_type, out_dtype = parts[0].device.type, cores[0].dtype
    if autocasts(device_type):
        out_dtype = torch.get_autocast_dtype(device_type)
        dtype = dtype or out_dtype
    dtype = dtype or out_dtype
    if dtype == torch.bfloat16 and not supports_bfloat16(device_type):
        _warn_of_emulation(device_type)
    with without_autocast(device_type):
        if is_transformed():
            x = torch.cat([part.to(cores[0].dtype) for part in parts])
            x = x if order is None else x[order]
            y = chain(x if mean is None else x - mean.to(x.dtype), core_matrices(cores), shape.out_modes) * scale
            return (y if bias is None else y + bias).to(out_dtype)
        num_rows = sum(map(len, parts)) if order is None else len(order)
        chosen = plan(
            shape,
            # A power of two, so that batches of all sizes make few plans.
            1 << max(num_rows - 1, 0).bit_length(),
            itemsize=dtype.itemsize,
            row_itemsize=parts[0].element_size(),
            input_gradient=any(part.requires_grad for part in parts),
        )
        learning = torch.is_grad_enabled() and any(part.requires_grad for part in (*parts, *cores))
        # Blocks hold rows times a unit, see rows.py.
        scales = ((0, scale), (len(cores) - 1, 1 / unit(parts[0].dtype, dtype)))
        task = Task(chosen.groups, chosen.keep and learning, dtype, out_dtype, scales, len(cores))
        return Product.apply(task, order, mean, bias, *cores, *parts)


def _check(parts: Sequence[Tensor], cores: Sequence[Tensor], order: Tensor | None) -> None:
    if not parts:
        raise ValueError("there must be at least one tensor of rows, got an empty list")
    if order is not None and len(parts) > 1:
        raise ValueError(f"an order takes rows of a single tensor, got {len(parts)} tensors")
    for part in parts:
        if part.dtype != torch.uint8 and not part.dtype.is_floating_point:
            raise ValueError(f"the input must be uint8 or floating point, got {part.dtype}; convert it with .float()")
        if part.dtype == torch.float64 != cores[0].dtype:
            raise ValueError(f"the input is torch.float64, the weights are {cores[0].dtype}; convert one of them")

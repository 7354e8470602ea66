"""The product of rows with a TT-matrix, forward and backward, by a plan (see planner.py) of groups of merged cores.

Legend: F rows (frames), M / N input / output size, R / S left / right rank of a group.

Call a group's own input and output modes m and n (products over its cores), the input modes before it L, and the output
modes behind it C. Its cores make one matrix G. Rows that have been through the groups behind it take the step

    G (n R, S m)        products (n R, F C L) = G z^T        z read as (F C L, S m)

and a permutation, which moves runs of m' numbers, hands the result to the next group, whose own input modes are m':

    (n, R, F, C, L/m', m')  ->  (F, n, C, L/m', R, m')

For the last group R = L = m' = 1: the result is (F, n, C), the output. The backward pass is the same in reverse, with
products of the same sizes: dG = d_products z and dz = d_products^T G.

Rows are taken block by block: a block of uint8 frames is converted, multiplied and dropped while it is in cache, so no
float copy of all frames ever exists; the backward pass converts again. The gradient with respect to the rows is
computed only when it is asked for.
"""

import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ttrnn.planner import Group, block_starts, plan
from ttrnn.shapes import TTShape

__all__ = ["dense_weight", "supports_bfloat16", "tt_product"]

log = logging.getLogger(__name__)


def _merge(cores: Sequence[Tensor]) -> Tensor:
    """Neighbouring cores as one of shape (R, m, n, S)."""
    merged = cores[0]
    for core in cores[1:]:
        merged = torch.einsum("amnr,rpqb->ampnqb", merged, core).flatten(1, 2).flatten(2, 3)
    return merged


def dense_weight(cores: Sequence[Tensor]) -> Tensor:
    """The cores multiplied out: a weight as nn.Linear has it, (N, M). Cost: about R * M * N multiply-adds."""
    with torch.autocast(cores[0].device.type, enabled=False):
        return _merge(cores)[0, :, :, 0].t()


def supports_bfloat16(device_type: str) -> bool:
    """Whether the processor, or the GPU, multiplies matrices of bfloat16 in hardware, several times as fast as float32.

    False where it is not known (a torch without `torch.cpu.get_capabilities`).
    """
    if device_type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    # AMX and AVX-512 on x86, the last of them on ARM.
    return device_type == "cpu" and any(features.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


@functools.cache
def _warn_of_emulation(device_type: str) -> None:
    log.warning("bfloat16 is emulated on this %s and slower than float32 there; leave compute_dtype None", device_type)


def tt_product(
    x_FM: Tensor,
    cores: Sequence[Tensor],
    shape: TTShape,
    bias: Tensor | None = None,
    *,
    order: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """y = x W^T + bias for the matrix W that the cores stand for.

    Args:
        x_FM: (F, M) rows, or more of them than `order` takes; uint8 or floating point. Rows need not be contiguous with
            each other.
        cores: Gk of shape (R_{k-1}, M_k, N_k, R_k), one dtype and device.
        shape: Modes and ranks of the cores.
        bias: (N,) added to every row.
        order: (F,) which rows to take, none twice; None for all as they come. They are gathered block by block.
        dtype: Of the matrix products (not of their sums); None for autocast's where that is on, else the
            cores'. uint8 is exact in bfloat16.

    Returns:
        (F, N) in autocast's dtype where that is on, else in the cores'. Double backward is refused.
    """
    device_type, out_dtype = x_FM.device.type, cores[0].dtype
    if torch.is_autocast_enabled(device_type):
        out_dtype = torch.get_autocast_dtype(device_type)
        dtype = dtype or out_dtype
    dtype = dtype or out_dtype
    if dtype == torch.bfloat16 and not supports_bfloat16(device_type):
        _warn_of_emulation(device_type)
    with torch.autocast(device_type, enabled=False):
        num_rows = len(x_FM if order is None else order)
        chosen = plan(
            shape,
            # A power of two, so that batches of all sizes make few plans.
            1 << max(num_rows - 1, 0).bit_length(),
            itemsize=dtype.itemsize,
            row_itemsize=x_FM.element_size(),
            input_gradient=x_FM.requires_grad,
        )
        matrices = [
            # (R, m, n, S) -> (n R, S m)
            _merge(cores[group.cores.start : group.cores.stop]).permute(2, 0, 3, 1).flatten(2).flatten(0, 1)
            for group in chosen.groups
        ]
        learning = torch.is_grad_enabled() and any(part.requires_grad for part in (x_FM, *cores))
        y: Tensor = _Product.apply(
            x_FM, order, bias, chosen.groups, chosen.keep and learning, dtype, out_dtype, *matrices
        )
        return y


def _blocks(x: Tensor, order: Tensor | None, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Converted rows, block by block, in one buffer."""
    num_rows = len(x if order is None else order)
    starts = block_starts(num_rows, x.shape[1] * dtype.itemsize, x.device.type)
    buffer = torch.empty(min(starts.step, num_rows), x.shape[1], dtype=dtype, device=x.device)
    for start in starts:
        rows = slice(start, min(start + starts.step, num_rows))
        yield rows, buffer[: rows.stop - start].copy_(x[rows if order is None else order[rows]])


def _through(z: Tensor, group: Group, factor: Tensor) -> Tensor:
    """Rows that have come as far as a group, taken through it: a view in the layout that is read next."""
    return _as_read_next(factor @ z.view(-1, factor.shape[1]).t(), group)


def _as_read_next(products: Tensor, group: Group) -> Tensor:
    """View (F, n, C, L/m', R, m') of products (n R, F C L)."""
    sizes = group.n, group.left_rank, -1, group.behind, group.before // group.run, group.run
    return products.view(sizes).permute(2, 0, 3, 4, 1, 5)


class _Product(torch.autograd.Function):
    """Streams rows (F, M) through the groups of a plan; see the head of this file for the shapes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        order: Tensor | None,
        bias: Tensor | None,
        groups: tuple[Group, ...],
        keep: bool,
        dtype: torch.dtype,
        out_dtype: torch.dtype,
        *matrices: Tensor,
    ) -> Tensor:
        factors = [matrix.to(dtype) for matrix in matrices]
        num_rows = len(x if order is None else order)
        y = x.new_empty(num_rows, groups[-1].out_values, dtype=out_dtype)
        kept = [x.new_empty(num_rows, group.out_values, dtype=dtype) if keep else None for group in groups[:-1]]
        for rows, z in _blocks(x, order, dtype):
            for group, factor, out in zip(groups, factors, [*kept, y], strict=True):
                result = _through(z, group, factor)
                z = result.contiguous() if out is None else out[rows].view(result.shape).copy_(result)
            if bias is not None:
                y[rows].add_(bias)
        ctx.save_for_backward(x, order, *factors, *kept)
        ctx.groups, ctx.sum_dtype = groups, matrices[0].dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad.device.type, enabled=False):
            grad_x, sums = _gradients(ctx, grad)
            return grad_x, None, grad.sum(0) if ctx.needs_input_grad[2] else None, None, None, None, None, *sums


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, list[Tensor]]:
    """Gradients of the rows, where wanted, and of every G: the sum over rows of dz' z^T."""
    x, order, *rest = ctx.saved_tensors
    groups: tuple[Group, ...] = ctx.groups
    factors, kept = rest[: len(groups)], rest[len(groups) :]
    grad_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
    sums = [torch.zeros_like(factor, dtype=ctx.sum_dtype) for factor in factors]
    for rows, z in _blocks(x, order, factors[0].dtype):
        inputs = [z]
        for group, factor, values in zip(groups, factors, kept, strict=False):
            inputs.append(_through(inputs[-1], group, factor).contiguous() if values is None else values[rows])
        dz = grad[rows]
        for group, factor, z, total in zip(groups[::-1], factors[::-1], inputs[::-1], sums[::-1], strict=True):
            d_products = factor.new_empty(len(factor), z.numel() // factor.shape[1])
            result = _as_read_next(d_products, group)
            result.copy_(dz.reshape(result.shape))
            total += d_products @ z.view(-1, factor.shape[1])
            if group is not groups[0] or grad_x is not None:
                dz = d_products.t() @ factor
        if grad_x is not None:
            grad_x[rows if order is None else order[rows]] = dz.view(-1, x.shape[1]).to(x.dtype)
    return grad_x, sums

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
computed only when it is asked for. Rows may lie in several tensors, the clips of a batch: none is copied but into a
block.
"""

import bisect
import functools
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ttrnn.planner import Group, block_rows, plan
from ttrnn.shapes import TTShape

__all__ = ["dense_weight", "supports_bfloat16", "tt_product"]

log = logging.getLogger(__name__)

# For each number of rows that it has not met, oneDNN compiles kernels of half precision: some MB and ms each. Its tiles
# have 16 rows, so that rows of zeros up to a multiple of them cost little.
_HALF_ROWS = 16


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
    log.warning("bfloat16 is emulated on this %s and slower than float32 there; float32 serves better", device_type)


def tt_product(
    x_FM: Tensor | Sequence[Tensor],
    cores: Sequence[Tensor],
    shape: TTShape,
    bias: Tensor | None = None,
    *,
    mean: Tensor | None = None,
    order: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """y = (x - mean) W^T + bias for the matrix W that the cores stand for.

    Args:
        x_FM: (F, M) rows, or more of them than `order` takes; uint8 or floating point. Rows need not be contiguous with
            each other: they may also come in several tensors (F_b, M), one after the other.
        cores: Gk of shape (R_{k-1}, M_k, N_k, R_k), one dtype and device.
        shape: Modes and ranks of the cores.
        bias: (N,) added to every row.
        mean: (M,) subtracted from every row, at the cost of one row.
        order: (F,) which rows of a single tensor to take, none twice; None for all as they come. They are gathered
            block by block.
        dtype: Of the matrix products; None for autocast's where that is on, else the cores'. bfloat16 holds uint8
            exactly; merged cores, what lies between groups, results and gradients are then rounded to its 8 bits, while
            the sums in a product, and those of gradients over the blocks, are not.

    Returns:
        (F, N) in autocast's dtype where that is on, else in the cores'. Double backward is refused.
    """
    parts = (x_FM,) if isinstance(x_FM, Tensor) else tuple(x_FM)
    assert order is None or len(parts) == 1
    device_type, out_dtype = parts[0].device.type, cores[0].dtype
    if torch.is_autocast_enabled(device_type):
        out_dtype = torch.get_autocast_dtype(device_type)
        dtype = dtype or out_dtype
    dtype = dtype or out_dtype
    if dtype == torch.bfloat16 and not supports_bfloat16(device_type):
        _warn_of_emulation(device_type)
    with torch.autocast(device_type, enabled=False):
        num_rows = len(_Rows(parts, order, dtype))
        chosen = plan(
            shape,
            # A power of two, so that batches of all sizes make few plans.
            1 << max(num_rows - 1, 0).bit_length(),
            itemsize=dtype.itemsize,
            row_itemsize=parts[0].element_size(),
            input_gradient=any(part.requires_grad for part in parts),
        )
        matrices = [
            # (R, m, n, S) -> (n R, S m)
            _merge(cores[group.cores.start : group.cores.stop]).permute(2, 0, 3, 1).flatten(2).flatten(0, 1)
            for group in chosen.groups
        ]
        if mean is not None:
            # In full precision, but by the matrices as they are rounded for the rows: equal rows then cancel.
            rounded = [matrix.to(dtype).to(matrix.dtype) for matrix in matrices]
            full = matrices[0].dtype
            bias = _Product.apply(None, bias, chosen.groups, False, full, full, *rounded, -mean.unsqueeze(0)).squeeze(0)
        learning = torch.is_grad_enabled() and any(part.requires_grad for part in (*parts, *cores))
        y: Tensor = _Product.apply(
            order, bias, chosen.groups, chosen.keep and learning, dtype, out_dtype, *matrices, *parts
        )
        return y


class _Rows:
    """The rows that are multiplied: those of several tensors one after the other, or of one in the order given."""

    def __init__(self, parts: Sequence[Tensor], order: Tensor | None, dtype: torch.dtype) -> None:
        self.parts, self.order, self.dtype = parts, order, dtype
        self.starts = [0, *itertools.accumulate(map(len, parts))]

    def __len__(self) -> int:
        return self.starts[-1] if self.order is None else len(self.order)

    def block(self, most: int) -> int:
        """Rows of a block, where it should have no more than `most`."""
        return min(self._full(len(self)), most)

    def num_padded(self, block: int) -> int:
        """Rows of all blocks; more than there are where the last block ends with zeros."""
        whole = len(self) // block * block if block else 0
        return whole + min(self._full(len(self) - whole), block)

    def _full(self, num_rows: int) -> int:
        multiple = _HALF_ROWS if self.dtype.itemsize == 2 else 1
        return -(-num_rows // multiple) * multiple

    def blocks(self, block: int) -> Iterator[tuple[slice, Tensor]]:
        """Converted rows, block by block, in one buffer."""
        buffer = self.parts[0].new_empty(block, self.parts[0].shape[1], dtype=self.dtype)
        num_padded = self.num_padded(block)
        for start in range(0, num_padded, max(block, 1)):
            rows = slice(start, min(start + block, num_padded))
            for part, there, here in self.pieces(rows):
                buffer[here].copy_(self.parts[part][there])
            if rows.stop > len(self):
                buffer[len(self) - start :].zero_()
            yield rows, buffer[: rows.stop - start]

    def pieces(self, rows: slice) -> Iterator[tuple[int, slice | Tensor, slice]]:
        """Which part some of the rows of a block lie in, where there, and where in the block."""
        if self.order is not None:
            taken = self.order[rows]
            yield 0, taken, slice(len(taken))
            return
        at, part = rows.start, bisect.bisect_right(self.starts, rows.start) - 1
        while at < min(rows.stop, len(self)):
            first, stop = self.starts[part], min(rows.stop, self.starts[part + 1])
            yield part, slice(at - first, stop - first), slice(at - rows.start, stop - rows.start)
            at, part = stop, part + 1


def _shaped(flat: Tensor, *sizes: int) -> Tensor:
    """The front of memory that all blocks use in turn: fresh memory for each would cost as much as the products."""
    return flat[: math.prod(sizes)].view(sizes)


def _through(z: Tensor, group: Group, factor: Tensor, flat: Tensor, out: Tensor) -> None:
    """Takes rows that have come as far as a group through it, to `out` in the layout that is read next."""
    z = z.view(-1, factor.shape[1])
    if group.is_plain and out.dtype == z.dtype:
        torch.mm(z, factor.t(), out=out.view(len(z), -1))
    elif group.is_plain:
        out.copy_(torch.mm(z, factor.t(), out=_shaped(flat, len(z), len(factor))))
    else:
        result = _as_read_next(torch.mm(factor, z.t(), out=_shaped(flat, len(factor), len(z))), group)
        out.view(result.shape).copy_(result)


def _as_read_next(products: Tensor, group: Group) -> Tensor:
    """View (F, n, C, L/m', R, m') of products (n R, F C L)."""
    sizes = group.n, group.left_rank, -1, group.behind, group.before // group.run, group.run
    return products.view(sizes).permute(2, 0, 3, 4, 1, 5)


class _Product(torch.autograd.Function):
    """Streams rows (F, M) through the groups of a plan; see the head of this file for the shapes."""

    @staticmethod
    def forward(
        ctx: Any,
        order: Tensor | None,
        bias: Tensor | None,
        groups: tuple[Group, ...],
        keep: bool,
        dtype: torch.dtype,
        out_dtype: torch.dtype,
        *matrices_and_parts: Tensor,
    ) -> Tensor:
        matrices, parts = matrices_and_parts[: len(groups)], matrices_and_parts[len(groups) :]
        factors, x = [matrix.to(dtype) for matrix in matrices], _Rows(parts, order, dtype)
        block = x.block(block_rows(groups, dtype.itemsize, parts[0].device.type))
        num_rows = x.num_padded(block)
        flat = factors[0].new_empty(block * max(group.out_values for group in groups))
        between = [flat.new_empty(num_rows if keep else block, group.out_values) for group in groups[:-1]]
        y = flat.new_empty(num_rows, groups[-1].out_values, dtype=out_dtype)
        for rows, z in x.blocks(block):
            part = rows if keep else slice(len(z))
            outs = [*(values[part] for values in between), y[rows]]
            for group, factor, out in zip(groups, factors, outs, strict=True):
                _through(z, group, factor, flat, out)
                z = out
            if bias is not None:
                z.add_(bias)
        kept = between if keep else []
        ctx.save_for_backward(order, *factors, *parts, *kept)
        ctx.groups, ctx.block, ctx.sum_dtype, ctx.num_parts = groups, block, matrices[0].dtype, len(parts)
        # No view of what was made here: that may not be changed in place.
        return y.resize_(len(x), y.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad.device.type, enabled=False):
            _, needs_bias, *_ = ctx.needs_input_grad
            gradients = _gradients(ctx, grad, ctx.needs_input_grad[6:])
            return None, grad.sum(0) if needs_bias else None, None, None, None, None, *gradients


def _gradients(ctx: Any, grad: Tensor, needs: Sequence[bool]) -> list[Tensor | None]:
    """Gradients of every G (the sum over rows of dz' z^T) and of every part of the rows, where wanted."""
    order, *rest = ctx.saved_tensors
    groups: tuple[Group, ...] = ctx.groups
    factors, kept = rest[: len(groups)], rest[len(groups) + ctx.num_parts :]
    x = _Rows(rest[len(groups) : len(groups) + ctx.num_parts], order, factors[0].dtype)
    needs, needs_parts = needs[: len(groups)], needs[len(groups) :]
    needs_x = any(needs_parts)
    sums = [torch.zeros_like(f, dtype=ctx.sum_dtype) if need else None for f, need in zip(factors, needs, strict=True)]
    grad_parts = [torch.zeros_like(part) if need else None for part, need in zip(x.parts, needs_parts, strict=True)]
    if not needs_x and not any(needs):
        return [*sums, *grad_parts]
    # Groups that rows pass before the first that learns have nothing to be told.
    lowest = 0 if needs_x else list(needs).index(True)
    flat = factors[0].new_empty(ctx.block * max(group.out_values for group in groups))
    told = groups[0 if needs_x else lowest + 1 :]
    flat_dz = factors[0].new_empty(ctx.block * max((group.in_values for group in told), default=0))
    between = [] if kept else [flat.new_empty(ctx.block, group.out_values) for group in groups[:-1]]
    for rows, z in x.blocks(ctx.block):
        inputs = [z, *(values[rows] for values in kept), *(values[: len(z)] for values in between)]
        for group, factor, z, out in zip(groups, factors, inputs, inputs[1:] if between else [], strict=False):
            _through(z, group, factor, flat, out)
        # What has vanished over a long clip is denormal: of no use, and hundreds of times slower to multiply.
        dz = torch.nn.functional.hardshrink(grad[rows], 1e8 * torch.finfo(grad.dtype).tiny)
        if len(dz) < len(z):
            dz = torch.nn.functional.pad(dz, (0, 0, 0, len(z) - len(dz)))
        for at in reversed(range(lowest, len(groups))):
            group, factor, total = groups[at], factors[at], sums[at]
            z = inputs[at].view(-1, factor.shape[1])
            if group.is_plain:
                d_products = dz.reshape(len(z), -1).to(z.dtype).t()
            else:
                d_products = _shaped(flat, len(factor), len(z))
                result = _as_read_next(d_products, group)
                result.copy_(dz.reshape(result.shape))
            if total is not None and total.dtype == z.dtype:
                total.addmm_(d_products, z)
            elif total is not None:
                total += d_products @ z
            if group in told:
                dz = torch.mm(d_products.t(), factor, out=_shaped(flat_dz, *z.shape))
        for part, there, here in x.pieces(rows) if needs_x else ():
            if (grad_part := grad_parts[part]) is not None:
                grad_part[there] = dz.view(-1, grad_part.shape[1])[here].to(grad_part.dtype)
    return [*sums, *grad_parts]

"""The product of rows with a TT-matrix, forward and backward, by a plan (see planner.py) of groups of merged cores.

Legend: F rows (frames), M / N input / output size, R / S left / right rank of a group.

Call a group's own input and output modes m and n (products over its cores), the input modes before it L, and the output
modes behind it C. Its cores make one matrix G. Rows that have been through the groups behind it take the step

    G (n R, m S)        products (F C L, n R) = z G^T        z read as (F C L, m S)

and a transposition, which moves R numbers at a time, hands the result to the next group, whose m divides L:

    (F, C L, n, R)  ->  (F, n, C L, R)

For the last group R = L = 1: the result is (F, n, C), the output. The backward pass is the same in reverse, with
products of the same sizes: dG = d_products^T z and dz = d_products G.

Rows are taken block by block (see rows.py); the backward pass converts them again. The gradient of the rows is computed
only when it is needed, and blocks whose gradient is zero are skipped.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ttrnn.plain import without_autocast
from ttrnn.planner import FULL_COLUMNS, Group, block_rows
from ttrnn.rows import Rows, scratch
from ttrnn.spans import is_zero

__all__ = ["Product", "Task", "join"]


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """All of a product but its tensors."""

    groups: tuple[Group, ...]
    """In the order in which rows pass them."""
    keep: bool
    """Keep what lies between the groups for the backward pass."""
    dtype: torch.dtype
    """Of the matrix products."""
    out_dtype: torch.dtype
    scales: Sequence[tuple[int, float]]
    """Numbers of cores that are multiplied by a factor, and the factors."""
    num_cores: int


def join(a: Tensor, b: Tensor) -> Tensor:
    """Neighbouring cores (R, m, n, S) and (S, p, q, T) as one of shape (R, m p, n q, T)."""
    (r, m, n, s), (_, p, q, t) = a.shape, b.shape
    product = (a.reshape(-1, s) @ b.reshape(s, -1)).view(r, m, n, p, q, t)
    return product.transpose(2, 3).reshape(r, m * p, n * q, t)


def _join_backward(d: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of what was joined."""
    (r, m, n, s), (_, p, q, t) = a.shape, b.shape
    d_product = d.reshape(r, m, p, n, q, t).transpose(2, 3).reshape(r * m * n, p * q * t)
    return (d_product @ b.reshape(s, -1).t()).view(a.shape), (a.reshape(-1, s).t() @ d_product).view(b.shape)


def _merged(cores: Sequence[Tensor], task: Task) -> list[Tensor]:
    """The cores, scaled and in float32 where they have half precision; all merges of a group's first cores, group by
    group; the matrix G (n R, m S) of every group, in the dtype of the products."""
    dtype = torch.float32 if cores[0].dtype.itemsize == 2 else cores[0].dtype
    scaled = [core.to(dtype) for core in cores]
    for number, scale in task.scales:
        scaled[number] = scaled[number] if scale == 1 else scaled[number] * scale
    merges, factors = [], []
    for group in task.groups:
        merged = scaled[group.cores.start]
        for core in scaled[group.cores.start + 1 : group.cores.stop]:
            merged = join(merged, core)
            merges.append(merged)
        factors.append(merged.permute(2, 0, 1, 3).reshape(group.n * group.left_rank, -1).to(task.dtype))
    return [*scaled, *merges, *factors]


def _merged_backward(sums: Sequence[Tensor | None], merged: Sequence[Tensor], task: Task) -> list[Tensor | None]:
    """Gradients of the cores from those of every G."""
    gradients: list[Tensor | None] = [None] * task.num_cores
    merges = iter(merged[task.num_cores :])
    for group, total in zip(task.groups, sums, strict=True):
        first, *others = group.cores
        lefts = [merged[first], *itertools.islice(merges, len(others))]
        if total is None:
            continue
        # (n R, m S) -> (R, m, n, S)
        d = total.view(group.n, group.left_rank, group.m, group.right_rank).permute(1, 2, 0, 3)
        for number, left in zip(reversed(others), reversed(lefts[:-1]), strict=True):
            d, gradients[number] = _join_backward(d, left, merged[number])
        gradients[first] = d
    for number, scale in task.scales:
        if (gradient := gradients[number]) is not None and scale != 1:
            gradients[number] = gradient * scale
    return gradients


def _front(flat: Tensor, *sizes: int) -> Tensor:
    """The front of memory that all blocks use in turn: fresh memory for each would cost as much as the products."""
    return flat[: math.prod(sizes)].view(sizes)


def _through(z: Tensor, group: Group, factor: Tensor, flat: Tensor, out: Tensor) -> None:
    """Takes rows that have come as far as a group through it, to `out` in the layout that is read next."""
    z = z.view(-1, factor.shape[1])
    if group.is_plain and out.dtype == z.dtype:
        torch.mm(z, factor.t(), out=out.view(len(z), -1))
    elif group.is_plain:
        out.copy_(torch.mm(z, factor.t(), out=_front(flat, len(z), len(factor))))
    elif group.is_last:
        # Its results are single numbers, which move faster in runs of C.
        products = torch.mm(factor, z.t(), out=_front(flat, len(factor), len(z)))
        out.view(len(out), group.n, -1).copy_(products.view(group.n, len(out), -1).transpose(0, 1))
    else:
        products = torch.mm(z, factor.t(), out=_front(flat, len(z), len(factor)))
        for source, target in _wide(products, out, group):
            target.copy_(source)


# Numbers that stay side by side move as one, of up to 16 bytes.
_WIDE = {16: torch.complex128, 8: torch.int64, 4: torch.int32, 2: torch.int16}


def _wide(products: Tensor, result: Tensor, group: Group) -> list[tuple[Tensor, Tensor]]:
    """Views (F, n, C L) of products (F C L, n R) and of what they become, (F, n, C L, R): in pieces of R numbers."""
    size = group.piece_bytes(products.element_size())
    sizes = -1, group.n, group.behind * group.before, group.left_rank * products.element_size() // size
    wide = products.view(_WIDE[size]).view(-1, sizes[2], group.n, sizes[3]).transpose(1, 2)
    return list(zip(wide.unbind(-1), result.view(_WIDE[size]).view(sizes).unbind(-1), strict=True))


class Product(torch.autograd.Function):
    """Streams rows (F, M) through the groups of a plan; see the head of this file for the shapes."""

    @staticmethod
    def forward(
        ctx: Any, task: Task, order: Tensor | None, mean: Tensor | None, bias: Tensor | None, *cores_and_parts: Tensor
    ) -> Tensor:
        cores, parts = cores_and_parts[: task.num_cores], cores_and_parts[task.num_cores :]
        x, merged, groups = Rows(parts, order, task.dtype), _merged(cores, task), task.groups
        x.subtract(mean)
        block = x.block(block_rows(groups, task.dtype.itemsize, parts[0].device.type))
        num_padded = x.num_padded(block)
        flat = _flat(task, block, parts[0].device)
        if task.keep:
            between = [flat.new_empty(num_padded, group.out_values) for group in groups[:-1]]
        else:
            between = _between(task, block, parts[0].device)
        y = flat.new_empty(num_padded, groups[-1].out_values, dtype=task.out_dtype)
        for rows, z in x.blocks(block):
            part = rows if task.keep else slice(len(z))
            for group, factor, out in zip(
                groups, merged[-len(groups) :], [*(values[part] for values in between), y[rows]], strict=True
            ):
                _through(z, group, factor, flat, out)
                z = out
        constant = [*y[x.num_rows : len(x)], *([] if bias is None else [bias])]
        if constant:
            y[: x.num_rows] += sum(constant[1:], constant[0])
        ctx.save_for_backward(order, x.tail, *cores_and_parts, *merged, *(between if task.keep else []))
        ctx.task, ctx.block, ctx.num_merged = task, block, len(merged)
        # No view of what was made here: that may not be changed in place.
        return y.resize_(x.num_rows, y.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, _, _, needs_bias, *needs = ctx.needs_input_grad
        task: Task = ctx.task
        order, tail, *rest = ctx.saved_tensors
        cores, parts, rest = rest[: task.num_cores], rest[task.num_cores : len(needs)], rest[len(needs) :]
        with without_autocast(grad.device.type):
            x = Rows(parts, order, task.dtype)
            x.tail = tail
            total = grad.sum(0, keepdim=True) if needs_bias or tail is not None else None
            gradients: list[Tensor | None] = [None] * len(needs)
            if any(needs):
                run = _Backward(task, x, ctx.block, rest[: ctx.num_merged], rest[ctx.num_merged :], needs)
                sums, d_parts = run(grad, total)
                d_cores = _merged_backward(sums, run.merged, task)
                gradients = [*(d if d is None else d.to(cores[0].dtype) for d in d_cores), *d_parts]
        return None, None, None, total[0] if needs_bias and total is not None else None, *gradients


def _flat(task: Task, block: int, device: torch.device) -> Tensor:
    """Memory for the products of the widest group with a block."""
    return scratch("products", (block * max(group.out_values for group in task.groups),), task.dtype, device)


def _between(task: Task, block: int, device: torch.device) -> list[Tensor]:
    """Memory for the values of a block between the groups."""
    widths = [group.out_values for group in task.groups[:-1]]
    return [scratch(f"group {at}", (block, width), task.dtype, device) for at, width in enumerate(widths)]


def _zeros_like(factor: Tensor, dtype: torch.dtype) -> Tensor:
    """Zeros, stored in the order in which a product adds to them faster: with a multiple of 16 numbers side by side."""
    rows, columns = factor.shape
    if factor.dtype == dtype and columns % FULL_COLUMNS and rows % FULL_COLUMNS == 0:
        return factor.new_zeros(columns, rows, dtype=dtype).t()
    return factor.new_zeros(rows, columns, dtype=dtype)


class _Backward:
    """Gradients of every G and of the parts of the rows, block by block."""

    def __init__(
        self, task: Task, x: Rows, block: int, merged: Sequence[Tensor], kept: Sequence[Tensor], needs: Sequence[bool]
    ) -> None:
        self.task, self.x, self.block, self.merged, self.kept = task, x, block, merged, kept
        self.groups, self.factors = task.groups, merged[-len(task.groups) :]
        needs_groups = [any(needs[number] for number in group.cores) for group in self.groups]
        needs_parts = needs[task.num_cores :]
        self.needs_x = any(needs_parts)
        # Groups that rows pass before the first that learns need no gradient.
        self.lowest = 0 if self.needs_x else needs_groups.index(True)
        device = x.parts[0].device
        self.flat, self.between = _flat(task, block, device), [] if kept else _between(task, block, device)
        widths = [group.in_values for group in self.groups[0 if self.needs_x else self.lowest + 1 :]]
        self.flat_dz = scratch("gradients", (block * max(widths, default=0),), task.dtype, device)
        self.sums = [
            _zeros_like(factor, merged[0].dtype) if need else None
            for factor, need in zip(self.factors, needs_groups, strict=True)
        ]
        self.d_parts = [
            torch.zeros_like(part) if need else None for part, need in zip(x.parts, needs_parts, strict=True)
        ]

    def __call__(self, grad: Tensor, total: Tensor | None) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """From (F, N) the gradient of the results and (1, N) its sum, which is that of the tail."""
        # The range of float16 is too short for gradients as they come.
        largest = grad.abs().max().float().clamp_min(1e-30) if self.task.dtype == torch.float16 else None
        may_skip = grad.device.type == "cpu" and self.block < len(self.x)
        for rows, z in self.x.blocks(self.block):
            d = self._gradient(grad, total, rows)
            if may_skip and is_zero(d):
                continue
            d_rows = self._through(self._inputs(rows, z), d if largest is None else d.float() / largest)
            if self.needs_x:
                self._store(rows, d_rows if largest is None else d_rows.float() * largest)
        if largest is not None:
            self.sums = [part if part is None else part * largest for part in self.sums]
        return self.sums, self.d_parts

    def _gradient(self, grad: Tensor, total: Tensor | None, rows: slice) -> Tensor:
        """(block, N) of the rows of a block: those of the tail too, and zeros for what fills it up."""
        # Gradients that have vanished over a long clip are denormal: useless, and hundreds of times slower to multiply.
        tiny = 0.0 if grad.dtype == torch.float16 else 1e8 * torch.finfo(grad.dtype).tiny
        given = grad[rows]
        d = scratch("results", (rows.stop - rows.start, grad.shape[1]), grad.dtype, grad.device)
        torch.hardshrink(given, tiny, out=d[: len(given)])
        if len(given) < len(d):
            stop = min(len(d), len(self.x) - rows.start)
            if total is not None:
                d[len(given) : stop] = total
            d[stop:] = 0
        return d

    def _inputs(self, rows: slice, z: Tensor) -> list[Tensor]:
        """The values that enter each group: kept, or computed again."""
        if self.kept:
            return [z, *(values[rows] for values in self.kept)]
        inputs = [z, *(values[: len(z)] for values in self.between)]
        for group, factor, source, out in zip(self.groups, self.factors, inputs, inputs[1:], strict=False):
            _through(source, group, factor, self.flat, out)
        return inputs

    def _through(self, inputs: Sequence[Tensor], d: Tensor) -> Tensor:
        """Adds to the sums, from the last group to the lowest; returns the gradient of what entered that."""
        for at in reversed(range(self.lowest, len(self.groups))):
            group, factor, total = self.groups[at], self.factors[at], self.sums[at]
            z = inputs[at].view(-1, factor.shape[1])
            if group.is_plain:
                d_products = d.reshape(len(z), -1).to(z.dtype).t()
            elif group.is_last:
                d_products = _front(self.flat, len(factor), len(z))
                d_products.view(group.n, len(d), -1).copy_(d.view(len(d), group.n, -1).transpose(0, 1))
            else:
                d_products = _front(self.flat, len(z), len(factor))
                for target, source in _wide(d_products, d, group):
                    target.copy_(source)
                d_products = d_products.t()
            if total is not None and total.dtype == z.dtype:
                total.addmm_(d_products, z)
            elif total is not None:
                total += d_products @ z
            if at > self.lowest or self.needs_x:
                d = torch.mm(d_products.t(), factor, out=_front(self.flat_dz, *z.shape))
        return d

    def _store(self, rows: slice, d_rows: Tensor) -> None:
        """Hands the gradient of a block's rows to the parts that they came from."""
        for part, source, here in self.x.pieces(rows):
            if (d_part := self.d_parts[part]) is not None:
                d_part[source] = d_rows.view(-1, d_part.shape[1])[here].to(d_part.dtype)

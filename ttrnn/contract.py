"""The product of a batch of rows with a TT-matrix: which cores to merge, and the streaming of the rows through it.

Legend: F rows (frames), M / N input / output size, split after core s: M_L, N_L products of the modes up to s,
M_R, N_R of those behind it, R the rank between.

A tensor train cut after core s is two matrices: the left cores merged to A (N_L, M_L R), the right ones to B
(M_R, R N_R). Then

    y[f] = A t[f],    t[f, m] = x[f, m] B        x[f] read as (M_L, M_R), t[f] as (M_L R, N_R), y[f] as (N_L, N_R)

which is two fat matrix products without a permutation between them. s = 0 is the dense matrix itself. Rows are taken
block by block: a block of uint8 frames is converted, multiplied and dropped, so that no float copy of all frames ever
exists; the backward pass converts again. The gradient with respect to the rows is computed only when it is asked for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ttrnn.shapes import TTShape

__all__ = ["Plan", "dense_weight", "plan", "tt_product"]

# Rows per block: float copies of this many of the paper's frames (230 kB each) stay in a core's cache.
_BLOCK_BYTES = 2 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """How a product is done: where the train is cut, and what a row costs."""

    split: int
    """Number of cores merged into the left factor A; 0 multiplies the whole train out to a dense matrix."""
    multiply_adds: int
    """Multiply-adds per row, merging the cores not counted."""


def plan(shape: TTShape) -> Plan:
    """The cut with the fewest multiply-adds per row; the merged factors are small beside the rows that pass through."""
    candidates = []
    for split in range(shape.num_cores):
        in_left, out_left = math.prod(shape.in_modes[:split]), math.prod(shape.out_modes[:split])
        out_right, rank = math.prod(shape.out_modes[split:]), shape.bonds[split]
        second = out_left * in_left * rank * out_right if split else 0
        candidates.append(Plan(split, shape.in_features * rank * out_right + second))
    return min(candidates, key=lambda candidate: candidate.multiply_adds)


def _merge(cores: Sequence[Tensor]) -> Tensor:
    """Neighbouring cores as one of shape (R_left, M_k..M_l, N_k..N_l, R_right)."""
    merged = cores[0]
    for core in cores[1:]:
        merged = torch.einsum("amnr,rpqb->ampnqb", merged, core).flatten(1, 2).flatten(2, 3)
    return merged


def dense_weight(cores: Sequence[Tensor]) -> Tensor:
    """The cores multiplied out: a weight as nn.Linear has it, (N, M). Cost: about R * M * N multiply-adds."""
    with torch.autocast(cores[0].device.type, enabled=False):
        return _merge(cores)[0, :, :, 0].t()


def tt_product(x_FM: Tensor, cores: Sequence[Tensor], shape: TTShape) -> Tensor:
    """y = x W^T for the matrix W that the cores stand for.

    Args:
        x_FM: (F, M) rows, uint8 or floating point. Rows need not be contiguous with each other.
        cores: Gk of shape (R_{k-1}, M_k, N_k, R_k), one dtype and device.
        shape: Modes and ranks of the cores.

    Returns:
        (F, N) in the cores' dtype, or in autocast's where it is on. Double backward is refused.
    """
    device_type = x_FM.device.type
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else cores[0].dtype
    with torch.autocast(device_type, enabled=False):
        split = plan(shape).split
        right = _merge(cores[split:])
        # (R, M_R, N_R, 1) -> (M_R, R N_R)
        b = right[..., 0].transpose(0, 1).flatten(1).to(dtype)
        if split == 0:
            return _Product.apply(x_FM, None, b)
        # (1, M_L, N_L, R) -> (N_L, M_L R)
        a = _merge(cores[:split])[0].transpose(0, 1).flatten(1).to(dtype)
        return _Product.apply(x_FM, a, b)


def _blocks(num_rows: int, row_bytes: int) -> list[slice]:
    step = max(1, _BLOCK_BYTES // row_bytes)
    return [slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]


class _Product(torch.autograd.Function):
    """Streams x (F, M) through B and then A; see the head of this file for the shapes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor | None, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, a, b)
        m_right = b.shape[0]
        n_left, r = (1, 1) if a is None else (a.shape[0], a.shape[1] * m_right // x.shape[1])
        y = b.new_empty(x.shape[0], n_left, b.shape[1] // r)
        for rows in _blocks(x.shape[0], x.shape[1] * b.element_size()):
            t = x[rows].to(b.dtype).reshape(-1, m_right) @ b
            if a is None:
                y[rows, 0] = t
            else:
                torch.matmul(a, t.view(-1, a.shape[1], y.shape[2]), out=y[rows])
        return y.flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, a, b = ctx.saved_tensors
        needs_x, needs_a, needs_b = ctx.needs_input_grad
        m_right = b.shape[0]
        grad_x = torch.empty_like(x) if needs_x else None
        grad_a = torch.zeros_like(a) if needs_a else None
        grad_b = torch.zeros_like(b) if needs_b else None
        n_left = 1 if a is None else a.shape[0]
        for rows in _blocks(x.shape[0], x.shape[1] * b.element_size()):
            block = x[rows].to(b.dtype).reshape(-1, m_right)
            dt = dy = grad[rows].reshape(-1, n_left, grad.shape[1] // n_left)
            if a is not None:
                dt = torch.matmul(a.t(), dy)
                if grad_a is not None:
                    t = (block @ b).view(-1, a.shape[1], dy.shape[2])
                    # sum over rows of dy[f] t[f]^T, as one matrix product: (N_L, F N_R) (F N_R, M_L R)
                    grad_a.addmm_(dy.transpose(0, 1).flatten(1), t.transpose(1, 2).flatten(0, 1))
            dt = dt.reshape(-1, b.shape[1])
            if grad_b is not None:
                grad_b.addmm_(block.t(), dt)
            if grad_x is not None:
                grad_x[rows] = (dt @ b.t()).view(-1, x.shape[1])
        return grad_x, grad_a, grad_b

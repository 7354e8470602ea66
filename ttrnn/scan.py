"""The recurrence over time, forward and backward, from gate pre-activations of all frames at once to hidden states.

Legend: B batch, T time, F frames (packed B and T), H hidden size, G gates.

Frames come packed as in torch's PackedSequence: time by time, longest clip first, `batch_sizes[t]` clips still running
at time t. Padding is never computed.

Only what depends on the state before stays in the loops over time. The backward pass first computes, for all frames at
once, the factors that take the gradient of a state to those of its gates; its loop multiplies by them in place and goes
through U once a step; the gradient of U is then one product over all frames. Source: the chain rule on the equations at
each cell. Double backward is refused.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ttrnn.shapes import NUM_GATES

__all__ = ["NUM_GATES", "before", "masked", "scan"]

# (d, y) -> d * (1 - y^2) and d * y * (1 - y), each in one pass.
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


def scan(
    cell: str,
    gates_FG: Tensor,
    weight_hh: Tensor,
    state: Sequence[Tensor],
    batch_sizes: Sequence[int],
    *,
    bias_hn: Tensor | None = None,
    mask_BH: Tensor | None = None,
    nonlinearity: str = "tanh",
    reverse: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs one layer in one direction.

    Args:
        cell: "rnn", "gru" or "lstm".
        gates_FG: (F, G*H) input contributions W x + b of all frames.
        weight_hh: (G*H, H) recurrent matrix U.
        state: Initial (B, H) states: (h,), or (h, c) for an LSTM.
        batch_sizes: Clips still running at each time, not increasing; sums to F.
        bias_hn: (H,) bias inside the reset gate, GRU only.
        mask_BH: Factor of the hidden state where it enters the recurrent product (recurrent dropout, a mask per clip).
        nonlinearity: "tanh" or "relu", RNN only.
        reverse: From the last frame of each clip to its first.

    Returns:
        (F, H) states in packed order, and each clip's final state, (B, H) each. Cost: G * H^2 multiply-adds a frame,
        three times that with the backward pass.
    """
    sizes = list(batch_sizes)
    with torch.autocast(gates_FG.device.type, enabled=False):
        # Under autocast the gates come in half precision; states are summed in full.
        gates_FG, *state = (part.to(weight_hh.dtype) for part in (gates_FG, *state))
        mask_BH = None if mask_BH is None else mask_BH.to(weight_hh.dtype)
        order = _reversed_in_time(sizes, gates_FG.device) if reverse else None
        if order is not None:
            gates_FG = gates_FG.index_select(0, order)
        states: Tensor
        if cell == "rnn":
            states, *final = _RNN.apply(gates_FG, weight_hh, *state, mask_BH, sizes, nonlinearity)
        elif cell == "gru":
            states, *final = _GRU.apply(gates_FG, weight_hh, bias_hn, *state, mask_BH, sizes)
        else:
            states, *final = _LSTM.apply(gates_FG, weight_hh, *state, mask_BH, sizes)
        return states if order is None else states.index_select(0, order), tuple(final)


def before(initial: Tensor, states: Tensor, sizes: list[int]) -> Tensor:
    """(F, H) of packed (F, H), what was there one step earlier in the same clip; `initial` (B, H) at the first."""
    blocks = (initial, *states.split(sizes))
    return torch.cat([_running(block, size) for block, size in zip(blocks, sizes, strict=False)])


def masked(packed_FH: Tensor, mask_BH: Tensor | None, sizes: list[int]) -> Tensor:
    """Packed (F, H) times the mask of their clips (B, H), if there is one."""
    return packed_FH if mask_BH is None else packed_FH * torch.cat([mask_BH[:size] for size in sizes])


def _reversed_in_time(sizes: list[int], device: torch.device) -> Tensor:
    """(F,) for each packed row, the row of the same clip as far from its other end; its own inverse."""
    sizes_T = torch.tensor(sizes, device=device)
    starts_T = sizes_T.cumsum(0) - sizes_T
    time_F = torch.arange(len(sizes), device=device).repeat_interleave(sizes_T, output_size=sum(sizes))
    clip_F = torch.arange(len(time_F), device=device) - starts_T[time_F]
    lengths_B = (sizes_T.unsqueeze(1) > torch.arange(sizes[0], device=device)).sum(0)
    return starts_T[lengths_B[clip_F] - 1 - time_F] + clip_F


def _steps(sizes: list[int], *packed: Tensor, backwards: bool = False) -> Iterator[tuple[Tensor, ...]]:
    """Views of what is packed, time by time; made for some times at once, while they last in cache."""
    starts = list(accumulate(sizes, initial=0))
    spans = [(first, min(first + 16, len(sizes))) for first in range(0, len(sizes), 16)]
    for first, stop in reversed(spans) if backwards else spans:
        rows, span = slice(starts[first], starts[stop]), sizes[first:stop]
        views = zip(*(values[rows].split(span) for values in packed), strict=True)
        yield from reversed(list(views)) if backwards else views


def _running(values: Tensor, size: int) -> Tensor:
    """Those of the clips that are still running."""
    return values if len(values) == size else values[:size]


def _final(states: Tensor, sizes: list[int]) -> Tensor:
    """(B, H) the state after each clip's last frame."""
    ends = zip(accumulate(sizes), sizes, [*sizes[1:], 0], strict=True)
    return torch.cat([states[end - size + after : end] for end, size, after in ends if after < size][::-1])


def _entering(h: Tensor, mask: Tensor | None) -> Tensor:
    """What enters the recurrent product."""
    return h if mask is None else h * mask[: len(h)]


def _through_u(d_u: Tensor, weight: Tensor, mask: Tensor | None, out: Tensor) -> Tensor:
    """Gradient of the state that entered the recurrent product of one step."""
    d_h = torch.mm(d_u, weight, out=out)
    return d_h if mask is None else d_h.mul_(mask[: len(d_h)])


def _without_autocast(backward: Callable[..., Any]) -> Any:
    @functools.wraps(backward)
    def in_full(ctx: Any, *gradients: Tensor) -> Any:
        with torch.autocast(gradients[0].device.type, enabled=False):
            return backward(ctx, *gradients)

    return in_full


class _RNN(torch.autograd.Function):
    """h' = f(x + U h)."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, weight: Tensor, h: Tensor, mask: Tensor | None, sizes: list[int], nonlinearity: str
    ) -> tuple[Tensor, Tensor]:
        activate = torch.tanh_ if nonlinearity == "tanh" else torch.relu_
        # In place of the gates goes what they become; U lies in memory as the product reads it.
        states, initial, weight_t = gates.clone(), h, weight.t().contiguous()
        for out in states.split(sizes):
            h = activate(out.addmm_(_entering(_running(h, len(out)), mask), weight_t))
        ctx.save_for_backward(weight, initial, mask, states)
        ctx.sizes, ctx.nonlinearity = sizes, nonlinearity
        return states, _final(states, sizes)

    @staticmethod
    @_without_autocast
    @once_differentiable
    def backward(ctx: Any, d_states: Tensor, d_final: Tensor) -> tuple[Tensor | None, ...]:
        weight, initial, mask, states = ctx.saved_tensors
        # h' = tanh(u) has the derivative 1 - h'^2, relu(u) has 1 where h' > 0.
        d_u = 1 - states.square() if ctx.nonlinearity == "tanh" else (states > 0).to(states.dtype)
        d_h = d_final.clone()
        for d_out, d_step in _steps(ctx.sizes, d_states, d_u, backwards=True):
            now = _running(d_h, len(d_out))
            d_step.mul_(now.add_(d_out))
            _through_u(d_step, weight, mask, out=now)
        d_weight = d_u.t() @ masked(before(initial, states, ctx.sizes), mask, ctx.sizes)
        return d_u, d_weight, d_h, None, None, None


class _GRU(torch.autograd.Function):
    """r, z = s(x + U h),  n = tanh(x_n + r * v) with v = U_n h + b_hn,  h' = n + z * (h - n)."""

    @staticmethod
    def forward(
        ctx: Any,
        gates: Tensor,
        weight: Tensor,
        bias_hn: Tensor | None,
        h: Tensor,
        mask: Tensor | None,
        sizes: list[int],
    ) -> tuple[Tensor, Tensor]:
        size, initial, weight_t = weight.shape[1], h, weight.t().contiguous()
        rzv = gates.clone()
        rzv[:, 2 * size :] = 0 if bias_hn is None else bias_hn
        n, states = (gates.new_empty(len(gates), size) for _ in range(2))
        r, z, v = rzv.chunk(3, dim=1)
        steps = _steps(sizes, gates[:, 2 * size :], rzv, rzv[:, : 2 * size], r, z, v, n, states)
        for x_n_t, rzv_t, rz_t, r_t, z_t, v_t, n_t, out in steps:
            h = _running(h, len(out))
            rzv_t.addmm_(_entering(h, mask), weight_t)
            rz_t.sigmoid_()
            torch.addcmul(x_n_t, r_t, v_t, out=n_t).tanh_()
            h = torch.lerp(n_t, h, z_t, out=out)
        ctx.save_for_backward(weight, initial, mask, rzv, n, states)
        ctx.sizes = sizes
        return states, _final(states, sizes)

    @staticmethod
    @_without_autocast
    @once_differentiable
    def backward(ctx: Any, d_states: Tensor, d_final: Tensor) -> tuple[Tensor | None, ...]:
        weight, initial, mask, rzv, n, states = ctx.saved_tensors
        size, sizes = weight.shape[1], ctx.sizes
        (r, z, v), previous = rzv.chunk(3, dim=1), before(initial, states, sizes)
        # Factors of dh' in the gradients of v, r, z and of what n is the tanh of: as (v, r, z) the first three go
        # through U, as (r, z, n) the last three are the gradients of the gates.
        d_vrzn = n.new_empty(len(n), 4, size)
        d_v, d_r, d_z, d_n = d_vrzn.unbind(1)
        _tanh_backward(1 - z, n, grad_input=d_n)
        torch.mul(d_n, r, out=d_v)
        _sigmoid_backward(d_n * v, r, grad_input=d_r)
        _sigmoid_backward(previous - n, z, grad_input=d_z)
        d_vrz, weight_vrz = d_vrzn.flatten(1)[:, : 3 * size], weight.roll(size, 0)
        d_h, scratch = d_final.clone(), torch.empty_like(d_final)
        for d_out, d_step, d_u, z_t in _steps(sizes, d_states, d_vrzn, d_vrz, z, backwards=True):
            now = _running(d_h, len(d_out))
            d_step.mul_(now.add_(d_out).unsqueeze(1))
            now.mul_(z_t).add_(_through_u(d_u, weight_vrz, mask, out=_running(scratch, len(d_out))))
        d_weight = (d_vrz.t() @ masked(previous, mask, sizes)).roll(-size, 0)
        d_bias = d_v.sum(0) if ctx.needs_input_grad[2] else None
        return d_vrzn.flatten(1)[:, size:], d_weight, d_bias, d_h, None, None


class _LSTM(torch.autograd.Function):
    """i, f, o = s(x + U h),  g = tanh(x_g + U_g h),  c' = f * c + i * g,  h' = o * tanh(c')."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, weight: Tensor, h: Tensor, c: Tensor, mask: Tensor | None, sizes: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        size, initial = weight.shape[1], (h, c)
        # As (i, f, o, g): one sigmoid does three gates.
        ifog = torch.cat([gates[:, : 2 * size], gates[:, 3 * size :], gates[:, 2 * size : 3 * size]], dim=1)
        weight_t = torch.cat([weight[: 2 * size], weight[3 * size :], weight[2 * size : 3 * size]]).t().contiguous()
        cells, states = (gates.new_empty(len(gates), size) for _ in range(2))
        i, f, o, g = ifog.chunk(4, dim=1)
        steps = _steps(sizes, ifog, ifog[:, : 3 * size], i, f, o, g, cells, states)
        for ifog_t, ifo_t, i_t, f_t, o_t, g_t, c_t, out in steps:
            ifog_t.addmm_(_entering(_running(h, len(out)), mask), weight_t)
            ifo_t.sigmoid_()
            g_t.tanh_()
            c = torch.mul(f_t, _running(c, len(out)), out=c_t).addcmul_(i_t, g_t)
            h = torch.tanh(c, out=out).mul_(o_t)
        ctx.save_for_backward(weight, *initial, mask, ifog, cells, states)
        ctx.sizes = sizes
        return states, _final(states, sizes), _final(cells, sizes)

    @staticmethod
    @_without_autocast
    @once_differentiable
    def backward(ctx: Any, d_states: Tensor, d_final: Tensor, d_final_c: Tensor) -> tuple[Tensor | None, ...]:
        weight, initial, initial_c, mask, ifog, cells, states = ctx.saved_tensors
        size, sizes = weight.shape[1], ctx.sizes
        (i, f, o, g), tanh_c = ifog.chunk(4, dim=1), torch.tanh(cells)
        # Factors of dc' in the gradients of i, f, g, of dh' in that of o, and of dh' in that of c'.
        d_ifgo = ifog.new_empty(len(ifog), 4, size)
        d_i, d_f, d_g, d_o = d_ifgo.unbind(1)
        _sigmoid_backward(g, i, grad_input=d_i)
        _sigmoid_backward(before(initial_c, cells, sizes), f, grad_input=d_f)
        _tanh_backward(i, g, grad_input=d_g)
        _sigmoid_backward(tanh_c, o, grad_input=d_o)
        through_tanh = torch.ops.aten.tanh_backward(o, tanh_c)
        d_h, d_c = d_final.clone(), d_final_c.clone()
        steps = _steps(sizes, d_states, d_ifgo.flatten(1), d_ifgo[:, :3], d_o, through_tanh, f, backwards=True)
        for d_out, d_u, d_ifg_t, d_o_t, through_t, f_t in steps:
            now, now_c = _running(d_h, len(d_out)), _running(d_c, len(d_out))
            now_c.addcmul_(now.add_(d_out), through_t)
            d_ifg_t.mul_(now_c.unsqueeze(1))
            d_o_t.mul_(now)
            now_c.mul_(f_t)
            _through_u(d_u, weight, mask, out=now)
        d_u = d_ifgo.flatten(1)
        d_weight = d_u.t() @ masked(before(initial, states, sizes), mask, sizes)
        return d_u, d_weight, d_h, d_c, None, None

"""The loops over time of the three cells, forward and backward, as autograd functions.

Legend: B batch, T time, F frames (packed B and T), H hidden size, G gates, U recurrent matrix (G*H, H).

Only what depends on the previous state stays in a loop. Both passes go through time in spans of a few steps. The
backward pass first computes, for all frames of a span, the factors that take the gradient of a state to those of its
gates; its loop multiplies by them in place and goes through U once a step; the span's share of the gradient of U is one
product at the end. A span whose gradient has vanished is skipped. Source: the chain rule on the equations at each cell.
Double backward is refused.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["GRU", "LSTM", "RNN", "Schedule", "is_zero", "preceding"]

# Steps whose views are made at once, and after which gradients are checked for having vanished.
_SPAN = 16
# Gradients below this many times the smallest normal number count as vanished.
_VANISHED = 1e12

# (d, y) -> d * (1 - y^2) and d * y * (1 - y), each in one pass.
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """Which rows each step works on."""

    sizes: Sequence[int]
    """Clips still running at each time, not increasing; sums to F."""
    order: Tensor | None = None
    """(F,) gathers the gates as they are given into packed order; None where they are in it."""

    def spans(self, backwards: bool = False) -> Iterator["_Span"]:
        """A few steps at a time, from the first to the last or the other way."""
        starts = list(accumulate(self.sizes, initial=0))
        for first in _ordered(range(0, len(self.sizes), _SPAN), backwards):
            stop = min(first + _SPAN, len(self.sizes))
            before = starts[first - 1] if first else None
            yield _Span(slice(starts[first], starts[stop]), self.sizes[first:stop], before, backwards)

    def gather(self, gates: Tensor) -> Tensor:
        """A copy in packed order."""
        return gates.clone() if self.order is None else gates.index_select(0, self.order)

    def scatter(self, d_gates: Tensor) -> Tensor:
        """The gradient of what was gathered."""
        if self.order is None:
            return d_gates
        inverse = torch.empty_like(self.order)
        inverse[self.order] = torch.arange(len(inverse), device=inverse.device)
        return d_gates.index_select(0, inverse)

    def final(self, states: Tensor) -> Tensor:
        """(B, H) the state after each clip's last frame."""
        sizes = self.sizes
        if sizes[0] == sizes[-1]:
            return states[-sizes[0] :].clone()
        ends = zip(accumulate(sizes), sizes, [*sizes[1:], 0], strict=True)
        return torch.cat([states[end - size + after : end] for end, size, after in ends if after < size][::-1])


@dataclass(frozen=True, slots=True)
class _Span:
    rows: slice
    sizes: Sequence[int]
    before: int | None
    """First row of the step before the span; None at the first."""
    backwards: bool

    def steps(self, *packed: Tensor | None) -> Iterator[tuple[Any, ...]]:
        """Views of the span's packed values, step by step; None for what is None."""
        nothing = (None,) * len(self.sizes)
        views = [nothing if values is None else values.split(self.sizes) for values in packed]
        return zip(*(_ordered(each, self.backwards) for each in views), strict=True)

    def previous(self, initial: Tensor, states: Tensor) -> Tensor:
        """For the span's rows, the states of the same clips one step earlier; `initial` (B, H) before the first."""
        if self.before is not None and self.rows.start - self.before == self.sizes[-1]:
            return states[self.before : self.rows.stop - self.sizes[-1]]
        first = initial if self.before is None else states[self.before : self.rows.start]
        return torch.cat([first[: self.sizes[0]], preceding(states[self.rows], self.sizes)])

    def masked(self, entering: Tensor, mask: Tensor | None) -> Tensor:
        """States (of all rows of the span) as they enter the recurrent product."""
        if mask is None:
            return entering
        if self.sizes[0] == self.sizes[-1]:
            return (entering.view(len(self.sizes), -1, entering.shape[1]) * mask[: self.sizes[0]]).flatten(0, 1)
        return entering * torch.cat([mask[:size] for size in self.sizes])

    def has_vanished(self, d_states: Tensor | None, *d_carried: Tensor) -> bool:
        """Sets gradients that have nearly vanished to zero; whether nothing is left that flows through the span.

        Denormal numbers are of no use, and hundreds of times slower to compute with. What is left has some way to go:
        gradients shrink by many orders of magnitude within a span. A GPU has no such numbers to fear, and asking it
        for a value would make it wait.
        """
        if d_carried[0].device.type != "cpu":
            return False
        alive = False
        for d in d_carried:
            torch.hardshrink(d, _VANISHED * torch.finfo(d.dtype).tiny, out=d)
            alive = alive or not is_zero(d)
        return not alive and (d_states is None or is_zero(d_states[self.rows]))


def is_zero(values: Tensor) -> bool:
    """Whether all values are zero; several times as fast as `any`. False for NaN."""
    return all(float(bound) == 0 for bound in values.aminmax())


def _ordered(values: Sequence[Any], backwards: bool) -> Any:
    return reversed(values) if backwards else values


def preceding(states: Tensor, sizes: Sequence[int]) -> Tensor:
    """Packed states without those that no later frame of their clip follows: what enters steps 2 to T, row by row."""
    if sizes[0] == sizes[-1]:
        return states[: len(states) - sizes[-1]]
    return torch.cat([block[:after] for block, after in zip(states.split(sizes), sizes[1:], strict=False)])


def _running(values: Tensor, size: int) -> Tensor:
    """The rows of the clips that are still running."""
    return values if len(values) == size else values[:size]


def _entering(h: Tensor, mask: Tensor | None) -> Tensor:
    """The state as it enters the recurrent product."""
    return h if mask is None else h * mask[: len(h)]


def _through_u(d_u: Tensor, weight: Tensor, mask: Tensor | None, out: Tensor) -> None:
    """Gradient of the state that entered the recurrent product of one step."""
    torch.mm(d_u, weight, out=out)
    if mask is not None:
        out.mul_(mask[: len(out)])


def _zeros_for(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient.clone()


def _in_full(backward: Callable[..., Any]) -> Any:
    @functools.wraps(backward)
    def without_autocast(ctx: Any, *gradients: Tensor) -> Any:
        with torch.autocast(ctx.saved_tensors[0].device.type, enabled=False):
            return backward(ctx, *gradients)

    return without_autocast


class RNN(torch.autograd.Function):
    """h' = f(x + U h)."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, weight: Tensor, h: Tensor, mask: Tensor | None, schedule: Schedule, nonlinearity: str
    ) -> tuple[Tensor, Tensor]:
        activate = torch.tanh_ if nonlinearity == "tanh" else torch.relu_
        # In place of the gates goes what they become.
        states, initial, weight_t = schedule.gather(gates), h, weight.t()
        for span in schedule.spans():
            for (out,) in span.steps(states[span.rows]):
                h = activate(out.addmm_(_entering(_running(h, len(out)), mask), weight_t))
        ctx.save_for_backward(weight, initial, mask, states)
        ctx.schedule, ctx.nonlinearity = schedule, nonlinearity
        ctx.set_materialize_grads(False)
        return states, schedule.final(states)

    @staticmethod
    @_in_full
    @once_differentiable
    def backward(ctx: Any, d_states: Tensor | None, d_final: Tensor | None) -> tuple[Tensor | None, ...]:
        weight, initial, mask, states = ctx.saved_tensors
        schedule: Schedule = ctx.schedule
        d_u, d_weight = torch.empty_like(states), torch.zeros_like(weight)
        d_h = _zeros_for(d_final, initial)
        for span in schedule.spans(backwards=True):
            d_span, h = d_u[span.rows], states[span.rows]
            if span.has_vanished(d_states, d_h):
                d_span.zero_()
                continue
            # h' = tanh(u) has the derivative 1 - h'^2, relu(u) has 1 where h' > 0.
            if ctx.nonlinearity == "tanh":
                torch.mul(h, h, out=d_span).neg_().add_(1)
            else:
                torch.gt(h, 0, out=d_span)
            for d_out, d_step in span.steps(None if d_states is None else d_states[span.rows], d_span):
                now = _running(d_h, len(d_step))
                if d_out is not None:
                    now.add_(d_out)
                d_step.mul_(now)
                _through_u(d_step, weight, mask, out=now)
            d_weight.addmm_(d_span.t(), span.masked(span.previous(initial, states), mask))
        return schedule.scatter(d_u), d_weight, d_h, None, None, None


class GRU(torch.autograd.Function):
    """r, z = s(x + U h),  n = tanh(x_n + r * v) with v = U_n h + b_hn,  h' = n + z * (h - n)."""

    @staticmethod
    def forward(
        ctx: Any,
        gates: Tensor,
        weight: Tensor,
        bias_hn: Tensor | None,
        h: Tensor,
        mask: Tensor | None,
        schedule: Schedule,
    ) -> tuple[Tensor, Tensor]:
        size, initial, weight_t = weight.shape[1], h, weight.t()
        rzv = schedule.gather(gates)
        # In place of x_n goes n, and what x_n leaves behind becomes v.
        n, states = rzv[:, 2 * size :].clone(), gates.new_empty(len(gates), size)
        rzv[:, 2 * size :] = 0 if bias_hn is None else bias_hn
        for span in schedule.spans():
            gates_of_span = rzv[span.rows]
            r, _, v = gates_of_span.chunk(3, dim=1)
            rz, z = gates_of_span[:, : 2 * size], gates_of_span[:, size : 2 * size]
            steps = span.steps(gates_of_span, rz, r, z, v, n[span.rows], states[span.rows])
            for rzv_t, rz_t, r_t, z_t, v_t, n_t, out in steps:
                h = _running(h, len(out))
                rzv_t.addmm_(_entering(h, mask), weight_t)
                rz_t.sigmoid_()
                n_t.addcmul_(r_t, v_t).tanh_()
                h = torch.lerp(n_t, h, z_t, out=out)
        ctx.save_for_backward(weight, initial, mask, rzv, n, states)
        ctx.schedule, ctx.has_bias = schedule, bias_hn is not None
        ctx.set_materialize_grads(False)
        return states, schedule.final(states)

    @staticmethod
    @_in_full
    @once_differentiable
    def backward(ctx: Any, d_states: Tensor | None, d_final: Tensor | None) -> tuple[Tensor | None, ...]:
        weight, initial, mask, rzv, n, states = ctx.saved_tensors
        schedule: Schedule = ctx.schedule
        d_gates, d_weight = torch.empty_like(rzv), torch.zeros_like(weight)
        size, d_bias = weight.shape[1], weight.new_zeros(weight.shape[1]) if ctx.has_bias else None
        d_h, scratch = _zeros_for(d_final, initial), torch.empty_like(initial)
        for span in schedule.spans(backwards=True):
            d_rzv = d_gates[span.rows]
            if span.has_vanished(d_states, d_h):
                d_rzv.zero_()
                continue
            previous = span.previous(initial, states)
            z = rzv[span.rows, size : 2 * size]
            d_n = _gru_factors(d_rzv, rzv[span.rows], n[span.rows], previous)
            d_out_span = None if d_states is None else d_states[span.rows]
            by_gate = d_rzv.view(len(d_rzv), 3, size)
            for d_out, d_step, d_u_t, d_n_t, z_t in span.steps(d_out_span, by_gate, d_rzv, d_n, z):
                now = _running(d_h, len(z_t))
                if d_out is not None:
                    now.add_(d_out)
                d_step.mul_(now.unsqueeze(1))
                d_n_t.mul_(now)
                now.mul_(z_t)
                if mask is None:
                    now.addmm_(d_u_t, weight)
                else:
                    through = _running(scratch, len(z_t))
                    _through_u(d_u_t, weight, mask, out=through)
                    now.add_(through)
            d_weight.addmm_(d_rzv.t(), span.masked(previous, mask))
            d_v = d_rzv[:, 2 * size :]
            if d_bias is not None:
                d_bias += d_v.sum(0)
            # What went through U has done its work: the gate has the gradient of x_n.
            d_v.copy_(d_n)
        return schedule.scatter(d_gates), d_weight, d_bias, d_h, None, None


def _gru_factors(d_rzv: Tensor, rzv: Tensor, n: Tensor, previous: Tensor) -> Tensor:
    """Fills in the factors of dh' in the gradients of r, z and v; returns that of what n is the tanh of."""
    (d_r, d_z, d_v), (r, z, v) = d_rzv.chunk(3, dim=1), rzv.chunk(3, dim=1)
    d_n: Tensor = torch.ops.aten.tanh_backward(1 - z, n)
    torch.mul(d_n, r, out=d_v)
    _sigmoid_backward(d_n * v, r, grad_input=d_r)
    _sigmoid_backward(previous - n, z, grad_input=d_z)
    return d_n


class LSTM(torch.autograd.Function):
    """i, f, o = s(x + U h),  g = tanh(x_g + U_g h),  c' = f * c + i * g,  h' = o * tanh(c')."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, weight: Tensor, h: Tensor, c: Tensor, mask: Tensor | None, schedule: Schedule
    ) -> tuple[Tensor, Tensor, Tensor]:
        size, initial, weight_t = weight.shape[1], (h, c), weight.t()
        ifgo = schedule.gather(gates)
        cells, states = (gates.new_empty(len(gates), size) for _ in range(2))
        for span in schedule.spans():
            gates_of_span = ifgo[span.rows]
            i, f, g, o = gates_of_span.chunk(4, dim=1)
            both = gates_of_span[:, : 2 * size]
            steps = span.steps(gates_of_span, both, i, f, g, o, cells[span.rows], states[span.rows])
            for ifgo_t, if_t, i_t, f_t, g_t, o_t, c_t, out in steps:
                ifgo_t.addmm_(_entering(_running(h, len(out)), mask), weight_t)
                if_t.sigmoid_()
                g_t.tanh_()
                o_t.sigmoid_()
                c = torch.mul(f_t, _running(c, len(out)), out=c_t).addcmul_(i_t, g_t)
                h = torch.tanh(c, out=out).mul_(o_t)
        ctx.save_for_backward(weight, *initial, mask, ifgo, cells, states)
        ctx.schedule = schedule
        ctx.set_materialize_grads(False)
        return states, schedule.final(states), schedule.final(cells)

    @staticmethod
    @_in_full
    @once_differentiable
    def backward(
        ctx: Any, d_states: Tensor | None, d_final: Tensor | None, d_final_c: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        weight, initial, initial_c, mask, ifgo, cells, states = ctx.saved_tensors
        schedule: Schedule = ctx.schedule
        d_ifgo, d_weight = ifgo.new_empty(len(ifgo), 4, weight.shape[1]), torch.zeros_like(weight)
        d_h, d_c = _zeros_for(d_final, initial), _zeros_for(d_final_c, initial_c)
        for span in schedule.spans(backwards=True):
            d_span = d_ifgo[span.rows]
            if span.has_vanished(d_states, d_h, d_c):
                d_span.zero_()
                continue
            i, f, g, o = ifgo[span.rows].chunk(4, dim=1)
            through_tanh = _lstm_factors(d_span, i, f, g, o, cells[span.rows], span.previous(initial_c, cells))
            d_u = d_span.flatten(1)
            d_out_span = None if d_states is None else d_states[span.rows]
            steps = span.steps(d_out_span, d_u, d_span[:, :3], d_span[:, 3], through_tanh, f)
            for d_out, d_u_t, d_ifg_t, d_o_t, through_t, f_t in steps:
                now, now_c = _running(d_h, len(d_u_t)), _running(d_c, len(d_u_t))
                if d_out is not None:
                    now.add_(d_out)
                now_c.addcmul_(now, through_t)
                d_ifg_t.mul_(now_c.unsqueeze(1))
                d_o_t.mul_(now)
                now_c.mul_(f_t)
                _through_u(d_u_t, weight, mask, out=now)
            d_weight.addmm_(d_u.t(), span.masked(span.previous(initial, states), mask))
        return schedule.scatter(d_ifgo.flatten(1)), d_weight, d_h, d_c, None, None


def _lstm_factors(
    d_ifgo: Tensor, i: Tensor, f: Tensor, g: Tensor, o: Tensor, cells: Tensor, previous_cells: Tensor
) -> Tensor:
    """Fills in the factors of dc' in the gradients of i, f, g and of dh' in that of o; returns that of dh' in dc'."""
    d_i, d_f, d_g, d_o = d_ifgo.unbind(1)
    tanh_c = torch.tanh(cells)
    _sigmoid_backward(g, i, grad_input=d_i)
    _sigmoid_backward(previous_cells, f, grad_input=d_f)
    _tanh_backward(i, g, grad_input=d_g)
    _sigmoid_backward(tanh_c, o, grad_input=d_o)
    through: Tensor = torch.ops.aten.tanh_backward(o, tanh_c)
    return through

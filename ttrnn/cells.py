"""The loops over time of the three cells, forward and backward, as autograd functions.

Legend: B batch, T time, F frames (packed B and T), H hidden size, G gates, U recurrent matrix (G*H, H).

Only what depends on the previous state stays in a loop. Both passes go through time in spans of a few steps. The
backward pass first computes, for all frames of a span, the factors that take the gradient of a state to those of its
gates; its loop multiplies by them in place and goes through U once a step; the span's share of the gradient of U is one
product at the end. A span whose gradient has vanished is skipped. Source: the chain rule on the equations at each cell.
Double backward is refused.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ttrnn.plain import without_autocast
from ttrnn.spans import Schedule

__all__ = ["GRU", "LSTM", "RNN"]

# (d, y) -> d * (1 - y^2) and d * y * (1 - y), each in one pass.
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


def _entering(h: Tensor, mask: Tensor | None) -> Tensor:
    """The state as it enters the recurrent product."""
    return h if mask is None else h * mask[: len(h)]


def _carried(d_final: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if d_final is None else d_final.clone()


def _in_full(backward: Callable[..., Any]) -> Any:
    @functools.wraps(backward)
    def in_full(ctx: Any, *gradients: Tensor) -> Any:
        with without_autocast(ctx.saved_tensors[0].device.type):
            return backward(ctx, *gradients)

    return in_full


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
                h = activate(out.addmm_(_entering(h[: len(out)], mask), weight_t))
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
        d_h = _carried(d_final, initial)
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
                now = d_h[: len(d_step)]
                if d_out is not None:
                    now.add_(d_out)
                d_step.mul_(now)
                torch.mm(d_step, weight, out=now)
                if mask is not None:
                    now.mul_(mask[: len(now)])
            d_weight.addmm_(d_span.t(), span.entering(initial, states, mask))
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
                h = h[: len(out)]
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
        d_h = _carried(d_final, initial)
        for span in schedule.spans(backwards=True):
            d_rzv = d_gates[span.rows]
            if span.has_vanished(d_states, d_h):
                d_rzv.zero_()
                continue
            z = rzv[span.rows, size : 2 * size]
            d_n = _gru_factors(d_rzv, rzv[span.rows], n[span.rows], span.previous(initial, states))
            d_out_span = None if d_states is None else d_states[span.rows]
            by_gate = d_rzv.view(len(d_rzv), 3, size)
            for d_out, d_step, d_u_t, d_n_t, z_t in span.steps(d_out_span, by_gate, d_rzv, d_n, z):
                now = d_h[: len(z_t)]
                if d_out is not None:
                    now.add_(d_out)
                d_step.mul_(now.unsqueeze(1))
                d_n_t.mul_(now)
                now.mul_(z_t)
                if mask is None:
                    now.addmm_(d_u_t, weight)
                else:
                    now.addcmul_(d_u_t @ weight, mask[: len(now)])
            d_weight.addmm_(d_rzv.t(), span.entering(initial, states, mask))
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
                ifgo_t.addmm_(_entering(h[: len(out)], mask), weight_t)
                if_t.sigmoid_()
                g_t.tanh_()
                o_t.sigmoid_()
                c = torch.mul(f_t, c[: len(out)], out=c_t).addcmul_(i_t, g_t)
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
        d_h, d_c = _carried(d_final, initial), _carried(d_final_c, initial_c)
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
                now, now_c = d_h[: len(d_u_t)], d_c[: len(d_u_t)]
                if d_out is not None:
                    now.add_(d_out)
                now_c.addcmul_(now, through_t)
                d_ifg_t.mul_(now_c.unsqueeze(1))
                d_o_t.mul_(now)
                now_c.mul_(f_t)
                torch.mm(d_u_t, weight, out=now)
                if mask is not None:
                    now.mul_(mask[: len(now)])
            d_weight.addmm_(d_u.t(), span.entering(initial, states, mask))
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

"""The product and the recurrence in plain operators, for the transforms of torch.func and for export.

Legend: B batch, F frames (packed B and T), H hidden size, M / N input / output size, M_k / N_k input / output mode k,
R / S left / right rank, t the product of x with the cores so far.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = [
    "advance",
    "autocasts",
    "chain",
    "core_matrices",
    "eager",
    "is_transformed",
    "recurrence",
    "without_autocast",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def eager(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Keeps torch.compile out of a function: tracing every block and time step would take minutes."""

    @functools.wraps(function)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        # As a decorator it would load the compiler on import, which takes a second.
        if torch.compiler.is_dynamo_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return called


def autocasts(device_type: str) -> bool:
    """Whether torch.autocast is on."""
    return device_type != "meta" and torch.is_autocast_enabled(device_type)


def without_autocast(device_type: str) -> contextlib.AbstractContextManager[Any]:
    """Switches torch.autocast off; does nothing if it is off, as the context costs as much as a small product."""
    return torch.autocast(device_type, enabled=False) if autocasts(device_type) else contextlib.nullcontext()


def is_transformed() -> bool:
    """Whether a transform of torch.func (grad, vmap, jvp ...) is active; torch has no public function for this."""
    return bool(torch._C._are_functorch_transforms_active())


def core_matrices(cores: Sequence[Tensor]) -> list[Tensor]:
    """Each core (R, M_k, N_k, S) as the matrix (R N_k, M_k S) that `chain` multiplies with."""
    return [core.transpose(1, 2).flatten(2).flatten(0, 1) for core in cores]


def chain(x: Tensor, matrices: Sequence[Tensor], out_modes: Sequence[int]) -> Tensor:
    """x (F, M) -> W x (F, N), core by core from the last to the first (Yang et al., ICML 2017, equation 4)."""
    *others, last = matrices
    t = torch.nn.functional.linear(x.reshape(-1, last.shape[1]), last)
    num_done = out_modes[-1]
    for matrix, out_mode in zip(reversed(others), reversed(out_modes[:-1]), strict=True):
        # (F M_1..M_{k-1}, R N_k, N_{k+1}..N_d)
        t = matrix @ t.reshape(-1, matrix.shape[1], num_done)
        num_done *= out_mode
    return t.reshape(-1, num_done)


def recurrence(
    cell: str,
    gates_FG: Tensor,
    weight_hh: Tensor,
    state: Sequence[Tensor],
    sizes: Sequence[int],
    bias_hn: Tensor | None,
    mask_BH: Tensor | None,
    nonlinearity: str,
) -> tuple[Tensor, ...]:
    """One layer, step by step, see `scan`: (F, H) states and each clip's final state, (B, H) each."""
    states, ended = [], []
    for gates, after in zip(gates_FG.split(sizes), [*sizes[1:], 0], strict=True):
        state = [part[: len(gates)] for part in state]
        h = state[0] if mask_BH is None else state[0] * mask_BH[: len(gates)]
        state = advance(cell, gates, h @ weight_hh.t(), state, bias_hn, nonlinearity)
        states.append(state[0])
        ended.append([part[after:] for part in state])
    return torch.cat(states), *(torch.cat(parts[::-1]) for parts in zip(*ended, strict=True))


def advance(
    cell: str, gates: Tensor, u: Tensor, state: Sequence[Tensor], bias_hn: Tensor | None, nonlinearity: str = "tanh"
) -> list[Tensor]:
    """The state after one step, by the formulas of TTRNN, TTGRU and TTLSTM, from W x + b and U h."""
    if cell == "rnn":
        return [torch.tanh(gates + u) if nonlinearity == "tanh" else torch.relu(gates + u)]
    if cell == "gru":
        (x_r, x_z, x_n), (u_r, u_z, u_n) = gates.chunk(3, dim=1), u.chunk(3, dim=1)
        r, z = torch.sigmoid(x_r + u_r), torch.sigmoid(x_z + u_z)
        n = torch.tanh(x_n + r * (u_n if bias_hn is None else u_n + bias_hn))
        return [n + z * (state[0] - n)]
    i, f, g, o = (gates + u).chunk(4, dim=1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return [torch.sigmoid(o) * torch.tanh(c), c]

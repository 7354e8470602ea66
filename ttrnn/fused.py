"""The recurrence in torch's fused kernels: on a GPU, cuDNN runs all steps in a few launches instead of a dozen a step.

Legend: B batch, F frames (packed B and T), H hidden size, G gates.

torch's layers multiply their input with a matrix; here that is an identity, as the gates already hold the products.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["fused_scan"]


def fused_scan(
    cell: str,
    gates_FG: Tensor,
    weight_hh: Tensor,
    state: Sequence[Tensor],
    sizes: Sequence[int],
    bias_hn: Tensor | None,
    mask_BH: Tensor | None,
    nonlinearity: str,
) -> tuple[Tensor, ...]:
    """(F, H) states and each clip's final state, (B, H) each; arguments as of `plain.recurrence`; mask_BH is None."""
    function = functools.partial(_call, cell, nonlinearity, sizes)
    results: tuple[Tensor, ...] = _InFullPrecision.apply(function, gates_FG, weight_hh, bias_hn, *state)
    return results


class _InFullPrecision(torch.autograd.Function):
    """Runs a function of tensors and its backward pass with TF32 off, which would round the gates to 10 bits."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor | None) -> tuple[Tensor, ...]:
        given = zip(tensors, ctx.needs_input_grad[1:], strict=True)
        ctx.inputs = [part if part is None else part.detach().requires_grad_(needs) for part, needs in given]
        with torch.set_grad_enabled(any(ctx.needs_input_grad)), _full_precision():
            ctx.outputs = function(*ctx.inputs)
        return tuple(part.detach() for part in ctx.outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        needed = [part is not None and part.requires_grad for part in ctx.inputs]
        wanted = [part for part, needs in zip(ctx.inputs, needed, strict=True) if needs]
        with _full_precision():
            found = iter(torch.autograd.grad(ctx.outputs, wanted, gradients, retain_graph=True))
        return None, *(next(found) if needs else None for needs in needed)


def _full_precision() -> Any:
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def _call(
    cell: str,
    nonlinearity: str,
    sizes: Sequence[int],
    gates: Tensor,
    weight: Tensor,
    bias_hn: Tensor | None,
    *state: Tensor,
) -> tuple[Tensor, ...]:
    num_rows, size = weight.shape
    biases = gates.new_zeros(2 * num_rows)
    if bias_hn is not None:
        biases = torch.cat([biases[size:], bias_hn])
    # One piece of memory in cuDNN's order, or it would copy the weights with a warning.
    flat = torch.cat([torch.eye(num_rows, dtype=gates.dtype, device=gates.device).flatten(), weight.flatten(), biases])
    lengths = num_rows * num_rows, num_rows * size, num_rows, num_rows
    identity, hidden, *both = flat.split(lengths)
    weights = [identity.view(num_rows, num_rows), hidden.view(num_rows, size), *both]
    function = getattr(torch._VF, f"rnn_{nonlinearity}" if cell == "rnn" else cell)
    hx = tuple(part.unsqueeze(0) for part in state)
    # Packed values, with biases, one layer, no dropout, as in training, in one direction.
    rest = weights, True, 1, 0.0, True, False
    output, *final = function(gates, torch.tensor(sizes), hx if cell == "lstm" else hx[0], *rest)
    return output, *(part.squeeze(0) for part in final)

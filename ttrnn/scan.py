"""The recurrence over time, forward and backward, from gate pre-activations of all frames at once to hidden states.

Legend: B batch, T time, F frames (packed B and T), H hidden size, G gates.

Frames come packed as in torch's PackedSequence: time by time, longest clip first, `batch_sizes[t]` clips still running
at time t. Padding is never computed.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ttrnn.cells import GRU, LSTM, RNN
from ttrnn.fused import fused_scan
from ttrnn.plain import is_transformed, recurrence, without_autocast
from ttrnn.shapes import NUM_GATES
from ttrnn.spans import Schedule, preceding

__all__ = ["NUM_GATES", "masked", "moving", "scan"]


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
    order: Tensor | None = None,
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
        order: (F,) the row of `gates_FG` of each packed frame; None where the gates are packed.

    Returns:
        (F, H) states in packed order, and each clip's final state, (B, H) each. Weights of half precision are computed
        with in float32. Cost: G * H^2 MACs a frame, three times that with the backward pass.
    """
    sizes = list(batch_sizes)
    with without_autocast(gates_FG.device.type):
        dtype = weight_hh.dtype
        # Under autocast the gates come in half precision; states are summed in full.
        full = torch.float32 if dtype.itemsize == 2 else dtype
        gates_FG, weight_hh, *state = (part.to(full) for part in (gates_FG, weight_hh, *state))
        bias_hn, mask_BH = (None if part is None else part.to(full) for part in (bias_hn, mask_BH))
        back = torch.tensor(_reversed_in_time(sizes)).to(gates_FG.device, non_blocking=True) if reverse else None
        if back is not None:
            order = back if order is None else order[back]
        states: Tensor
        if is_transformed() or (gates_FG.is_cuda and mask_BH is None):
            gates_FG = gates_FG if order is None else gates_FG[order]
            run = recurrence if is_transformed() else fused_scan
            states, *final = run(cell, gates_FG, weight_hh, state, sizes, bias_hn, mask_BH, nonlinearity)
        else:
            schedule = Schedule(sizes, order)
            if cell == "rnn":
                states, *final = RNN.apply(gates_FG, weight_hh, *state, mask_BH, schedule, nonlinearity)
            elif cell == "gru":
                states, *final = GRU.apply(gates_FG, weight_hh, bias_hn, *state, mask_BH, schedule)
            else:
                states, *final = LSTM.apply(gates_FG, weight_hh, *state, mask_BH, schedule)
        states = states if back is None else states.index_select(0, back)
        return states.to(dtype), tuple(part.to(dtype) for part in final)


def moving(
    products: Tensor, previous: Tensor | None, size: int, sizes: Sequence[int], bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gates of a layer that sees differences of frames, from the packed products of the frames.

    Args:
        products: (F, size) for the differences; or (F, 2 size), those for the frames themselves first.
        previous: (B, size) for the frames before the first; None if there were none: to those there is no difference.
        size: Of the gates.
        sizes: Clips still running at each time.
        bias: (size,) of the gates.

    Returns:
        (F, size) gates, and `previous` for the next frames.
    """
    moved = products[:, -size:]
    initial = moved[: sizes[0]] if previous is None else previous
    gates = moved - torch.cat([initial, preceding(moved, sizes)])
    if products.shape[1] > size:
        gates = gates + products[:, :size]
    return gates if bias is None else gates + bias, moved[-sizes[-1] :]


def masked(packed_FH: Tensor, mask_BH: Tensor | None, sizes: Sequence[int]) -> Tensor:
    """Packed (F, H) times the mask of their clips (B, H), if there is one."""
    return packed_FH if mask_BH is None else packed_FH * torch.cat([mask_BH[:size] for size in sizes])


def _reversed_in_time(sizes: Sequence[int]) -> list[int]:
    """For each packed row, the row of the same clip as far from its other end; its own inverse."""
    starts, lengths = list(accumulate(sizes, initial=0)), [0] * sizes[0]
    for time, size in enumerate(sizes):
        lengths[:size] = [time + 1] * size
    return [starts[lengths[clip] - 1 - time] + clip for time, size in enumerate(sizes) for clip in range(size)]

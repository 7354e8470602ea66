"""The recurrence over time, from gate pre-activations of all frames at once to hidden states.

Legend: B batch, T time, F frames (packed B and T), H hidden size, G gates.

Frames come packed as in torch's PackedSequence: time by time, longest clip first, `batch_sizes[t]` clips still running
at time t. Padding is never computed.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["NUM_GATES", "scan"]

# Order of the gates, as in torch: rnn (h); gru (r, z, n); lstm (i, f, g, o).
NUM_GATES = {"rnn": 1, "gru": 3, "lstm": 4}


def scan(
    cell: str,
    gates_FG: Tensor,
    weight_hh: Tensor,
    state: tuple[Tensor, ...],
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
        weight_hh: (G*H, H) recurrent matrix.
        state: Initial (B, H) states: (h,), or (h, c) for an LSTM.
        batch_sizes: Clips still running at each time, not increasing; sums to F.
        bias_hn: (H,) bias inside the reset gate, GRU only.
        mask_BH: Factor of the hidden state where it enters the recurrent product (recurrent dropout, a mask per clip).
        nonlinearity: "tanh" or "relu", RNN only.
        reverse: From the last frame of each clip to its first.

    Returns:
        (F, H) states in packed order, and each clip's final state, (B, H) each. Cost: G * H^2 multiply-adds a frame.
    """
    weight_t = weight_hh.t()
    # Under autocast the products come in half precision; states are summed in full.
    blocks = gates_FG.to(weight_hh.dtype).split(list(batch_sizes))
    times = range(len(blocks) - 1, -1, -1) if reverse else range(len(blocks))
    initial, running = state, tuple(part[:0] for part in state)
    outputs: list[Tensor] = [gates_FG] * len(blocks)
    finished: list[tuple[Tensor, ...]] = []
    for t in times:
        size, known = len(blocks[t]), len(running[0])
        if size > known:
            # Clips whose first frame (in this direction) is now.
            running = tuple(torch.cat([part, first[known:size]]) for part, first in zip(running, initial, strict=True))
        elif size < known:
            finished.append(tuple(part[size:] for part in running))
            running = tuple(part[:size] for part in running)
        h = running[0] if mask_BH is None else running[0] * mask_BH[:size]
        running = _step(cell, blocks[t], h @ weight_t, running, bias_hn, nonlinearity)
        outputs[t] = running[0]
    final = tuple(torch.cat(parts) for parts in zip(running, *reversed(finished), strict=True))
    return torch.cat(outputs), final


def _step(
    cell: str, x: Tensor, recurrent: Tensor, state: tuple[Tensor, ...], bias_hn: Tensor | None, nonlinearity: str
) -> tuple[Tensor, ...]:
    if cell == "rnn":
        total = x + recurrent
        return (torch.tanh(total) if nonlinearity == "tanh" else torch.relu(total),)
    if cell == "gru":
        x_r, x_z, x_n = x.chunk(3, dim=1)
        u_r, u_z, u_n = recurrent.chunk(3, dim=1)
        r, z = torch.sigmoid(x_r + u_r), torch.sigmoid(x_z + u_z)
        n = torch.tanh(x_n + r * (u_n if bias_hn is None else u_n + bias_hn))
        return (torch.lerp(n, state[0], z),)
    i, f, g, o = (x + recurrent).chunk(4, dim=1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c

"""The slow, obvious reference: dense matrix from cores, recurrent cells and the stem by their formulas. For tests and
readers.

Legend: B batch, T time, D input size, H hidden size, G gates, M_k / N_k input / output mode k, R ranks.
Nothing here is fast, and nothing else in the package imports it.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["dense_matrix", "gru", "lstm", "rnn", "stem"]


def dense_matrix(cores: Sequence[Tensor]) -> Tensor:
    """W[(j1..jd), (i1..id)] = G1[i1, j1] ... Gd[id, jd], entry by entry (paper, eq. 3).

    Args:
        cores: Gk of shape (R_{k-1}, M_k, N_k, R_k).

    Returns:
        The matrix as nn.Linear has it, (N_1*..*N_d, M_1*..*M_d).
    """
    rows = []
    for outs in itertools.product(*(range(core.shape[2]) for core in cores)):
        row = []
        for ins in itertools.product(*(range(core.shape[1]) for core in cores)):
            product = torch.eye(1, dtype=cores[0].dtype)
            for core, i, j in zip(cores, ins, outs, strict=True):
                product = product @ core[:, i, j, :]
            row.append(product[0, 0])
        rows.append(torch.stack(row))
    return torch.stack(rows)


def rnn(x_TD: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """h' = tanh(W x + U h + b) over one sequence: (T, H) states and the last one."""
    states = []
    for x in x_TD:
        h = torch.tanh(weight_ih @ x + bias + weight_hh @ h)
        states.append(h)
    return torch.stack(states), h


def gru(
    x_TD: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, bias_hn: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """One sequence through a GRU as torch defines it (reset gate after the recurrent product).

    r = s(W_r x + b_r + U_r h),  z = s(W_z x + b_z + U_z h),  n = tanh(W_n x + b_n + r * (U_n h + c)),
    h' = (1 - z) * n + z * h.
    """
    states = []
    for x in x_TD:
        (x_r, x_z, x_n), (u_r, u_z, u_n) = (weight_ih @ x + bias).chunk(3), (weight_hh @ h).chunk(3)
        r, z = torch.sigmoid(x_r + u_r), torch.sigmoid(x_z + u_z)
        n = torch.tanh(x_n + r * (u_n + bias_hn))
        h = (1 - z) * n + z * h
        states.append(h)
    return torch.stack(states), h


def lstm(
    x_TD: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, h: Tensor, c: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One sequence through an LSTM: c' = s(f) * c + s(i) * tanh(g),  h' = s(o) * tanh(c'); gates i, f, g, o."""
    states = []
    for x in x_TD:
        i, f, g, o = (weight_ih @ x + bias + weight_hh @ h).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        states.append(h)
    return torch.stack(states), h, c


def stem(
    frames: Tensor, weights: Sequence[tuple[Tensor, Tensor | None, int]], differences: str, mean: Tensor, scale: float
) -> Tensor:
    """One clip (T, height, width, C) through a stem, place by place: (T, height' * width' * channels').

    Args:
        frames: As stored.
        weights: Weight, bias and stride of every convolution: (K, C, k, k) and (K,), followed by a ReLU, or, where each
            channel is by itself, (C, 1, k, k) and None. The first takes frames, then differences.
        differences: none, extra or only; a difference counts twice, and is 0 for the first frame.
        mean: (C,).
        scale: Of pixels minus mean.
    """
    x = (frames - mean) * scale
    moved = 2 * torch.stack([x[t] - x[max(t - 1, 0)] for t in range(len(x))])
    x = {"none": x, "extra": torch.cat([x, moved], dim=3), "only": moved}[differences]
    for weight, bias, stride in weights:
        size, (_, height, width, _) = weight.shape[2], x.shape
        places = list(itertools.product(range(0, height, stride), range(0, width, stride)))
        x = torch.nn.functional.pad(x, (0, 0, *[size // 2] * 4))
        patches = [x[:, i : i + size, j : j + size].permute(0, 3, 1, 2) for i, j in places]
        if bias is None:
            sums = [(patch * weight[:, 0]).sum((2, 3)) for patch in patches]
        else:
            sums = [torch.relu((patch.unsqueeze(1) * weight).sum((2, 3, 4)) + bias) for patch in patches]
        x = torch.stack(sums, dim=1).unflatten(1, (-(-height // stride), -1))
    return x.flatten(1)

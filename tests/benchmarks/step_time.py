"""A training step at the paper's UCF11 shape: ttrnn's layers against torch's dense twin, in turn, in one run.

    python -m tests.benchmarks.step_time

Legend: B batch, T time. Both sides get uint8 frames; the dense one converts and normalises them as a user would.
"""

import statistics
import sys
import time

import torch
from torch import nn

from ttrnn import TTGRU, TTLSTM

B, T, ROUNDS = 8, 32, 5
IN_MODES, HIDDEN_MODES = (8, 20, 20, 18), (4, 4, 4, 4)


class Dense(nn.Module):
    """torch.nn's layer on normalised float frames."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer(57_600, 256, batch_first=True)

    def forward(self, frames):
        return self.layer((frames.flatten(2).float() - 110) / 60)


def step_s(network, optimizer, frames):
    """Seconds of one training step: forward, backward, optimiser."""
    start = time.perf_counter()
    output, _ = network(frames)
    optimizer.zero_grad()
    output[:, -1].square().mean().backward()
    optimizer.step()
    return time.perf_counter() - start


def main():
    frames = torch.randint(0, 256, (B, T, 120, 160, 3), dtype=torch.uint8)
    options = {"ranks": 4, "batch_first": True, "mean": 110.0, "scale": 1 / 60}
    networks = {
        "TTGRU": TTGRU(IN_MODES, HIDDEN_MODES, **options),
        "nn.GRU": Dense(nn.GRU),
        "TTLSTM": TTLSTM(IN_MODES, HIDDEN_MODES, **options),
        "nn.LSTM": Dense(nn.LSTM),
    }
    optimizers = {name: torch.optim.AdamW(network.parameters()) for name, network in networks.items()}
    times = {name: [] for name in networks}
    for round_number in range(ROUNDS + 1):
        for name, network in networks.items():
            seconds = step_s(network, optimizers[name], frames)
            # The first round warms up.
            if round_number:
                times[name].append(1e6 * seconds / (B * T))
    lines = [
        f"training step, {B} x {T} uint8 frames of 160x120x3, hidden 256, rank 4, {torch.get_num_threads()} threads"
    ]
    for name, values in times.items():
        lines.append(f"{name:8} {statistics.median(values):8.0f} us/frame  ({min(values):.0f} to {max(values):.0f})")
    for tt, dense in (("TTGRU", "nn.GRU"), ("TTLSTM", "nn.LSTM")):
        ratios = [slow / fast for slow, fast in zip(times[dense], times[tt], strict=True)]
        lines.append(f"{dense} / {tt}: {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

"""Measure long clips with the loss on the last state, and small frames against low-rank layers.

Legend: B batch, T time, D frame size, H hidden size.
"""

import logging
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from tests.benchmarks.measure import Row, interleaved, row
from ttrnn import TTGRU, TTLSTM, TTRNN
from ttrnn.shapes import format_modes, frame_modes

__all__ = ["LowRank", "long_clips", "small_frames"]

log = logging.getLogger(__name__)

_CELLS = {"rnn": TTRNN, "gru": TTGRU, "lstm": TTLSTM}
_MEAN, _SCALE = 110.0, 1 / 60
# hidden modes, ranks, width of the low-rank layer that the model stands against
_SIZES = (((4, 4, 4, 4), 4, 16), ((2, 2, 2, 4), 2, 8))


def long_clips(rounds: int, quick: bool) -> Iterator[Row]:
    """us a frame of forward and backward, 16 clips of the paper's UCF11 shape, at several lengths; and the ratio to the
    shortest. The weights are those at start, where gradients vanish; an LSTM's, with its forget gate open, do not."""
    lengths = (4, 8) if quick else (32, 400, 1492)
    batch = 2 if quick else 16
    frames = torch.randint(0, 256, (batch, max(lengths), 57_600), dtype=torch.uint8)
    for cell, kind in _CELLS.items():
        log.info("long clips: %s", cell)
        torch.manual_seed(0)
        layer = kind((8, 20, 20, 18), (4, 4, 4, 4), 4, batch_first=True, mean=_MEAN, scale=_SCALE)
        model = _Last(layer, 11)
        # A contiguous copy of each length, as a loader hands it over.
        work = {length: training_step(model, frames[:, :length].contiguous(), optimise=False) for length in lengths}
        times = interleaved(work, min(rounds, 3))
        for length in lengths:
            per_frame = [1e6 * seconds / (batch * length) for seconds in times[length]]
            shape = f"{cell.upper()} UCF11 {batch}x{length}"
            yield row("long", "ttrnn", shape, "float32", per_frame, "us/frame")
            if length > lengths[0]:
                shortest = [seconds / lengths[0] for seconds in times[lengths[0]]]
                ratios = [a / length / b for a, b in zip(times[length], shortest, strict=True)]
                yield row("long", f"T = {length} / T = {lengths[0]}", shape, "float32", ratios, "times")


def small_frames(rounds: int, quick: bool) -> Iterator[Row]:
    """A training step on one thread, 16 clips of 11 small grey frames: a TT-GRU against a low-rank linear layer and
    torch's GRU of the same hidden size, and against the dense GRU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for width, height in ((64, 32),) if quick else ((64, 32), (80, 60)):
            for hidden_modes, rank, low_rank in _SIZES:
                yield from _small(width, height, hidden_modes, rank, low_rank, rounds)
    finally:
        torch.set_num_threads(threads)


def _small(
    width: int, height: int, hidden_modes: Sequence[int], rank: int, low_rank: int, rounds: int
) -> Iterator[Row]:
    log.info("small frames: %dx%d, rank %d", width, height, rank)
    frames = torch.randint(0, 256, (16, 11, height * width), dtype=torch.uint8)
    size, in_modes = torch.Size(hidden_modes).numel(), frame_modes(height, width, 1)
    work: dict[tuple[str, str], Callable[[], object]] = {}
    low = "Linear + nn.GRU"
    work[low, "float32"] = training_step(LowRank(height * width, low_rank, size), frames)
    work["nn.GRU", "float32"] = training_step(LowRank(height * width, None, size), frames)
    for name, recurrent_ranks in (("ttrnn", None), ("ttrnn, TT recurrent", rank)):
        for precision in ("float32", "bfloat16"):
            layer = TTGRU(
                in_modes,
                hidden_modes,
                rank,
                batch_first=True,
                recurrent_ranks=recurrent_ranks,
                mean=_MEAN,
                scale=_SCALE,
                compute_dtype=torch.bfloat16 if precision == "bfloat16" else None,
            )
            work[name, precision] = training_step(_Last(layer, 10), frames)
    times = interleaved(work, rounds)
    shape = f"GRU {width}x{height} {format_modes(hidden_modes)} rank {rank} 16x11"
    for (name, precision), seconds in times.items():
        yield row("small", name, shape, precision, [1e3 * value for value in seconds], "ms/step")
        if name.startswith("ttrnn"):
            ratios = [a / b for a, b in zip(seconds, times[low, "float32"], strict=True)]
            yield row("small", f"{name} / {low}", shape, precision, ratios, "times")


class _Last(nn.Module):
    """A layer and a classifier of its last state."""

    def __init__(self, layer: TTRNN | TTGRU | TTLSTM, num_classes: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(layer.hidden_size, num_classes)

    def forward(self, frames: Tensor) -> Tensor:
        h_n = self.layer(frames)[1]
        return self.head((h_n[0] if isinstance(h_n, tuple) else h_n)[-1])


class LowRank(nn.Module):
    """torch's GRU, behind a linear layer of a given width unless that is None."""

    def __init__(self, in_features: int, width: int | None, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Identity() if width is None else nn.Linear(in_features, width)
        self.rnn = nn.GRU(width or in_features, hidden_size, batch_first=True)
        self.head = nn.Linear(hidden_size, 10)

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        x = self.linear(frames.float().sub_(_MEAN).mul_(_SCALE))
        if lengths is not None:
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return self.head(self.rnn(x)[1][-1])


def training_step(network: nn.Module, frames: Tensor, optimise: bool = True) -> Callable[[], None]:
    """Forward, loss on the last state, backward, and AdamW where wanted."""
    labels = torch.arange(len(frames)) % 10
    # So small a rate that the weights stay what they are over all rounds.
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        loss = nn.functional.cross_entropy(network(frames), labels)
        optimizer.zero_grad()
        loss.backward()
        if optimise:
            optimizer.step()

    return step

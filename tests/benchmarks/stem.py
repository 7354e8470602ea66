"""Measure a training step with a convolution stem: against the same model without, and against layers of torch.

Legend: B batch, T time.
"""

import logging
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tests.benchmarks.clips import training_step
from tests.benchmarks.measure import Row, interleaved, row
from ttrnn.model import ModelConfig, VideoClassifier
from ttrnn.stem import DIFFERENCE_GAIN

__all__ = ["stem"]

log = logging.getLogger(__name__)

# width, height, channels
_FRAMES = ((64, 48, 1), (160, 120, 3))
# The model of `train` by default, and a small one.
_MODELS = {"256": {"hidden_modes": "4x4x4x4"}, "64": {"hidden_modes": "2x4x4x2", "recurrent_ranks": "6x6x4"}}
_MEAN, _STD = 110.0, 60.0
_OURS, _WITHOUT, _PLAIN = "stem + TT-GRU", "TT-GRU", "nn.Conv2d + TT-GRU"


def stem(rounds: int, quick: bool) -> Iterator[Row]:
    """A training step on one thread, 16 clips of 16 uint8 frames: with the stem, without, and with torch's layers used
    plainly on float frames and differences in front of the same TT-GRU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for size in _FRAMES[: 1 if quick else None]:
            for hidden_size in _MODELS:
                yield from _stem(size, hidden_size, 2 if quick else 16, rounds)
    finally:
        torch.set_num_threads(threads)


def _stem(size: tuple[int, int, int], hidden_size: str, batch: int, rounds: int) -> Iterator[Row]:
    width, height, channels = size
    log.info("stem: %dx%d, hidden size %s", width, height, hidden_size)
    frames = torch.randint(0, 256, (batch, 16, height, width, channels), dtype=torch.uint8)
    about = {"width": width, "height": height, "channels": channels, "classes": tuple(map(str, range(10))),
             "mean": (_MEAN,), "std": (_STD,), "differences": "extra", **_MODELS[hidden_size]}  # fmt: skip
    config = ModelConfig(**about, stem="conv")
    work = {(_PLAIN, "float32"): training_step(_Plain(config), frames)}
    for name, chosen in ((_OURS, config), (_WITHOUT, ModelConfig(**about))):
        for precision in ("float32", "bfloat16"):
            model = VideoClassifier(chosen)
            model.rnn.compute_dtype = torch.bfloat16 if precision == "bfloat16" else None
            work[name, precision] = training_step(model, frames)
    times = interleaved(work, rounds)
    shape = f"GRU {width}x{height}x{channels} hidden {hidden_size} {batch}x16"
    for (name, precision), seconds in times.items():
        yield row("stem", name, shape, precision, [1e3 * value for value in seconds], "ms/step")
        if name == _OURS:
            for other, slower in ((_WITHOUT, precision), (_PLAIN, "float32")):
                ratios = [a / b for a, b in zip(seconds, times[other, slower], strict=True)]
                yield row("stem", f"{name} / {other}", shape, precision, ratios, "times")


class _Plain(nn.Module):
    """The same computation with torch's layers, on a float copy of the batch."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        model = VideoClassifier(config)
        assert model.stem is not None
        layers = [layer for conv in model.stem.convs for layer in (conv, nn.ReLU())]
        self.layers = nn.Sequential(*layers, nn.GroupNorm(1, layers[-2].out_channels, affine=False))
        self.rnn, self.head = model.rnn, model.head

    def forward(self, frames: Tensor) -> Tensor:
        x = (frames.float() - _MEAN) / _STD
        moved = DIFFERENCE_GAIN * torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:] - x[:, :-1]], dim=1)
        x = self.layers(torch.cat([x, moved], dim=4).flatten(0, 1).permute(0, 3, 1, 2))
        x = x.permute(0, 2, 3, 1).reshape(*frames.shape[:2], -1)
        return self.head(self.rnn(x)[1][-1])

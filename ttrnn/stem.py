"""Stem: convolutions of uint8 frames in front of a recurrent layer, with weights shared over the frame.

Legend: B batch, F frames, D values of the last layer's output.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ttrnn.convolve import Features, Task
from ttrnn.packing import Frames
from ttrnn.plain import autocasts, eager, is_transformed, without_autocast
from ttrnn.stem_shape import ConvShape, StemShape

__all__ = ["DIFFERENCE_GAIN", "KEPT_BYTES", "Stem"]

# Consecutive frames differ by less than frames do from their mean.
DIFFERENCE_GAIN = 2.0
# Outputs of the layers are kept for the backward pass up to this size, and computed again beyond.
KEPT_BYTES = 64 << 20


def _conv(shape: ConvShape) -> nn.Conv2d:
    ins, outs, kernel, is_depthwise = shape.in_channels, shape.out_channels, shape.kernel, shape.is_depthwise
    return nn.Conv2d(ins, outs, kernel, shape.stride, kernel // 2, groups=shape.groups, bias=not is_depthwise)


class Stem(nn.Module):
    """Frames -> (F, D) the last layer's output as height x width x channels.

    Args:
        shape: Sizes.
        mean: Subtracted from the pixels; one number, or one for each channel.
        scale: Multiplied with the pixels after that.
    """

    convs: Any

    def __init__(self, shape: StemShape, mean: Sequence[float], scale: float) -> None:
        super().__init__()
        self.shape, self.mean, self.scale = shape, tuple(mean), scale
        self.convs = nn.ModuleList(_conv(conv) for conv in shape.convs)

    @eager
    def forward(self, clips: Sequence[Tensor], dtype: torch.dtype | None = None) -> Frames:
        """The last layer's output for all frames, as recurrent layers take it; frames are converted block by block.

        Args:
            clips: (T_b, *frame) each, uint8 or floating point.
            dtype: bfloat16 for the layers above the first and for the result; others change nothing. None: autocast's,
                where that is on.
        """
        frames = Frames.of(clips, None, True, math.prod(self._frame))
        rows, weights = tuple(frames.rows), self._weights()
        device_type = rows[0].device.type
        if dtype is None and autocasts(device_type):
            dtype = torch.get_autocast_dtype(device_type)
        dtype = torch.bfloat16 if dtype == torch.bfloat16 else weights[0].dtype
        with without_autocast(device_type):
            if is_transformed() or any(part.requires_grad for part in rows):
                before = torch.cat([torch.cat([part[:1], part[:-1]]) for part in rows])
                return replace(frames, rows=self.plain(torch.cat(rows), before))
            num_bytes = sum(map(len, rows)) * sum(math.prod(conv.map) for conv in self.shape.convs) * dtype.itemsize
            learning = torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)
            task = Task(self.shape, self.mean, dtype, learning and num_bytes <= KEPT_BYTES)
            return replace(frames, rows=Features.apply(task, *weights, *rows))

    @property
    def _frame(self) -> tuple[int, int, int]:
        return self.shape.height, self.shape.width, self.shape.channels

    def _weights(self) -> list[Tensor]:
        """Of all convolutions; the first one's for x_t - mean and, behind them, for x_{t-1} - mean."""
        first, bias, *others = self.convs.parameters()
        first = first * self.scale
        if self.shape.differences == "none":
            return [first, bias, *others]
        *still, moving = first.split(self.shape.channels, dim=1)
        moving = moving * DIFFERENCE_GAIN
        return [torch.cat([sum(still, moving), -moving]), torch.cat([bias, torch.zeros_like(bias)]), *others]

    def plain(self, frames: Tensor, before: Tensor) -> Tensor:
        """(F, D) of frames (F, *frame) and those before them, the first ones before themselves; in plain operators."""
        like = self.convs[0].weight
        x, before = (part.reshape(-1, *self._frame).to(like.dtype) for part in (frames, before))
        moved = (x - before) * (self.scale * DIFFERENCE_GAIN)
        x = (x - torch.tensor(self.mean, dtype=like.dtype, device=like.device)) * self.scale
        seen = {"none": [x], "extra": [x, moved], "only": [moved]}[self.shape.differences]
        x = torch.cat(seen, dim=3).permute(0, 3, 1, 2)
        for conv in self.convs:
            x = conv(x) if conv.bias is None else functional.relu(conv(x))
        return x.permute(0, 2, 3, 1).flatten(1)

    def state(self, batch: int) -> dict[str, Tensor]:
        """The state of streams before their first frame, by name: with differences, the frame before and whether there
        was one."""
        if self.shape.differences == "none":
            return {}
        zeros = self.convs[0].weight.new_zeros
        return {"previous": zeros(batch, *self._frame, dtype=torch.uint8), "seen": zeros(batch, 1)}

    def step(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """(B, D) of one more frame (B, *frame) of streams, and the parts of `state` after it."""
        if not state:
            return (self.plain(frame, frame),)
        previous, seen = state
        before = torch.where(seen.view(-1, 1, 1, 1) > 0, previous, frame)
        # A copy: the caller may read the next frame into the same memory.
        return self.plain(frame, before), frame.clone(), torch.ones_like(seen)

    def extra_repr(self) -> str:
        """Sizes of the maps, differences, and parameters."""
        return f"{self.shape}, differences={self.shape.differences}, num_params={self.shape.num_params:,}"

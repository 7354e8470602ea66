"""The layers of a stem, forward and backward: convolutions and ReLUs of uint8 frames, block by block.

Legend: F frames of a block, C channels of a frame, K channels of the first layer's output, D values of the last one's.

The first layer takes x_t, or x_t - x_{t-1}, or both. It is linear up to its ReLU, so that

    U x_t + V (x_t - x_{t-1}) = (U + V) x_t - V x_{t-1}

needs one convolution of each frame with 2 K output channels, and no frame is ever subtracted from another. That is half
the arithmetic of frames and differences side by side. It is done in the dtype of the weights: in half precision the two
terms would be rounded before their difference is taken.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ttrnn.rows import Rows, scratch
from ttrnn.spans import is_zero
from ttrnn.stem_shape import StemShape

__all__ = ["Features", "Task"]

# Of the float maps of a block. More than fit in the nearest caches, as each call of a convolution has a price of its
# own; on a GPU enough to fill it.
_BLOCK_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """All of a pass through the layers but weights and frames."""

    shape: StemShape
    mean: tuple[float, ...]
    dtype: torch.dtype
    """Of the layers above the first, and of the result."""
    keep: bool
    """Keep the outputs of the layers for the backward pass."""


class Features(torch.autograd.Function):
    """Takes frames through the layers, block by block: weights and biases, then clips (T_b, values) -> (rows, D)."""

    @staticmethod
    def forward(ctx: Any, task: Task, *weights_and_clips: Tensor) -> Tensor:
        layers, kept = _Layers(task, weights_and_clips), []
        size = math.prod(task.shape.maps[-1])
        features = weights_and_clips[0].new_empty(layers.rows.num_rows, size, dtype=task.dtype)
        for block in layers.blocks():
            outputs = layers.outputs(block, layers.converted(block))
            features[block] = outputs[-1].permute(0, 2, 3, 1).flatten(1)
            kept += outputs if task.keep else []
        ctx.task = task
        ctx.save_for_backward(*weights_and_clips, *kept)
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        num_inputs = len(ctx.needs_input_grad) - 1
        inputs, kept = ctx.saved_tensors[:num_inputs], iter(ctx.saved_tensors[num_inputs:])
        layers = _Layers(ctx.task, inputs)
        sums = [torch.zeros_like(weight) for weight in inputs[: len(layers.weights)]]
        for block in layers.blocks():
            saved = [next(kept) for _ in layers.convs] if ctx.task.keep else []
            d = grad[block]
            if grad.device.type == "cpu" and is_zero(d):
                continue
            x = layers.converted(block)
            outputs = saved or layers.outputs(block, x)
            for total, gradient in zip(sums, layers.gradients(block, d, x, outputs), strict=True):
                total += gradient
        return None, *sums, *[None] * (num_inputs - len(sums))


class _Layers:
    """The layers with their weights, and the frames that pass them."""

    def __init__(self, task: Task, weights_and_clips: Sequence[Tensor]) -> None:
        self.shape, self.convs = task.shape, task.shape.convs
        num_weights = sum(1 if conv.is_depthwise else 2 for conv in self.convs)
        weights, clips = weights_and_clips[:num_weights], weights_and_clips[num_weights:]
        self.weights = [*weights[:2], *(weight.to(task.dtype) for weight in weights[2:])]
        left = iter(self.weights)
        self.pairs = [(next(left), None if conv.is_depthwise else next(left)) for conv in self.convs]
        """Weight and bias of every convolution."""
        self.dtype, self.rows = task.dtype, Rows(clips, None, weights[0].dtype)
        self.has_before = self.shape.differences != "none"
        mean = torch.tensor(task.mean, dtype=weights[0].dtype, device="cpu")
        self.mean = mean.repeat(clips[0].shape[1] // len(mean)).to(weights[0].device, non_blocking=True)

    def blocks(self) -> list[slice]:
        """The rows of each block."""
        num_bytes = 4 * (self.mean.numel() + 2 * math.prod(self.shape.maps[0]))
        num_rows, device_type = self.rows.num_rows, self.mean.device.type
        size = self.rows.block(max(4, _BLOCK_BYTES.get(device_type, _BLOCK_BYTES["cuda"]) // num_bytes))
        return [slice(begin, min(begin + size, num_rows)) for begin in range(0, num_rows, size)]

    def converted(self, block: slice) -> Tensor:
        """(F, C, height, width) frames minus the mean, channels last; with differences one more, that before them."""
        begin, parts = max(block.start - self.has_before, 0), self.rows.parts
        frames = [parts[part][source] for part, source, _ in self.rows.pieces(slice(begin, block.stop))]
        # Nothing is before the first frame of all: any will do.
        frames = [frames[0][:1], *frames] if self.has_before and begin == block.start else frames
        x = torch.cat(frames).to(self.mean.dtype).sub_(self.mean)
        return x.view(-1, self.shape.height, self.shape.width, self.shape.channels).permute(0, 3, 1, 2)

    def _firsts(self, block: slice) -> Tensor:
        """Places of the first frames of clips in a block. They are the ones before themselves."""
        firsts = [start - block.start for start in self.rows.starts[:-1] if block.start <= start < block.stop]
        return torch.tensor(firsts, dtype=torch.int64, device="cpu").to(self.mean.device, non_blocking=True)

    def outputs(self, block: slice, x: Tensor) -> list[Tensor]:
        """Of every layer, channels last."""
        y = self._convolved(0, x)
        if self.has_before:
            terms, size, firsts = y, y.shape[1] // 2, self._firsts(block)
            y = terms[1:, :size] + terms[:-1, size:]
            y[firsts] = terms[firsts + 1, :size] + terms[firsts + 1, size:]
        outputs = [y.relu_().to(self.dtype)]
        for at, conv in enumerate(self.convs[1:], start=1):
            y = self._convolved(at, outputs[-1])
            outputs.append(y if conv.is_depthwise else y.relu_())
        return outputs

    def _convolved(self, at: int, x: Tensor) -> Tensor:
        conv = self.convs[at]
        return functional.conv2d(x, *self.pairs[at], conv.stride, conv.kernel // 2, groups=conv.groups)

    def gradients(self, block: slice, d: Tensor, x: Tensor, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Of the weights, from (F, D) that of the last output."""
        height, width, channels = self.shape.maps[-1]
        d = d.view(-1, height, width, channels).permute(0, 3, 1, 2).to(self.dtype)
        gradients: list[Tensor] = []
        for at, conv in reversed(list(enumerate(self.convs))):
            if not conv.is_depthwise:
                # In place but for the gradient that was given: to touch fresh memory takes longer than the ReLU.
                into = torch.empty_like(d) if at == len(self.convs) - 1 else d
                d = torch.ops.aten.threshold_backward.grad_input(d, outputs[at], 0, grad_input=into)
            d = d if at else self._of_terms(block, d.to(x.dtype))
            d, *found = torch.ops.aten.convolution_backward(
                d, outputs[at - 1] if at else x, self.pairs[at][0], None if conv.is_depthwise else [d.shape[1]],
                [conv.stride] * 2, [conv.kernel // 2] * 2, [1, 1], False, [0, 0], conv.groups,
                [at > 0, True, not conv.is_depthwise])  # fmt: skip
            gradients = [*(part for part in found if part is not None), *gradients]
        return gradients

    def _of_terms(self, block: slice, d: Tensor) -> Tensor:
        """(F + 1, 2 K, height, width) gradient of the terms that the first layer adds up, from that of their sums."""
        if not self.has_before:
            return d
        size, firsts = d.shape[1], self._firsts(block)
        terms = scratch("stem", (len(d) + 1, *d.shape[2:], 2 * size), d.dtype, d.device).permute(0, 3, 1, 2)
        terms[1:, :size], terms[:-1, size:] = d, d
        terms[0, :size], terms[-1, size:], terms[firsts, size:] = 0, 0, 0
        terms[firsts + 1, size:] += d[firsts]
        return terms

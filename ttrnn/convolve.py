"""The layers of a stem, forward and backward: convolutions and ReLUs of uint8 frames block by block, and normalisation.

Legend: F frames of a block, C channels of a frame, K channels of the first layer's output, D values of the last one's.

A layer is a convolution and a ReLU; the last output of each frame is normalised over all of its values. The first layer
takes x_t, or x_t - x_{t-1}, or both. It is linear up to its ReLU, so that

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

__all__ = ["EPS", "Features", "Task"]

EPS = 1e-5
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
            features[block], *moments = layers.normalised(outputs[-1])
            kept += [*outputs, *moments] if task.keep else []
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
            saved = [next(kept) for _ in range(len(sums) // 2 + 2)] if ctx.task.keep else []
            d = grad[block]
            if grad.device.type == "cpu" and is_zero(d):
                continue
            x = layers.converted(block)
            outputs = saved[:-2] or layers.outputs(block, x)
            mean, rstd = saved[-2:] or layers.normalised(outputs[-1])[1:]
            rows = layers.as_rows(outputs[-1])
            (d, *_) = torch.ops.aten.native_layer_norm_backward(
                d.to(rows.dtype), rows, rows.shape[1:], mean, rstd, None, None, [True, False, False])  # fmt: skip
            for total, gradient in zip(sums, layers.gradients(block, d, x, outputs), strict=True):
                total += gradient
        return None, *sums, *[None] * (num_inputs - len(sums))


class _Layers:
    """The layers with their weights, and the frames that pass them."""

    def __init__(self, task: Task, weights_and_clips: Sequence[Tensor]) -> None:
        self.shape, self.num_layers = task.shape, len(task.shape.strides)
        weights, clips = weights_and_clips[: 2 * self.num_layers], weights_and_clips[2 * self.num_layers :]
        self.weights = [*weights[:2], *(weight.to(task.dtype) for weight in weights[2:])]
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
        for layer in range(1, self.num_layers):
            outputs.append(self._convolved(layer, outputs[-1]).relu_())
        return outputs

    def _convolved(self, layer: int, x: Tensor) -> Tensor:
        weight, bias = self.weights[2 * layer : 2 * layer + 2]
        return functional.conv2d(x, weight, bias, self.shape.strides[layer], self.shape.kernels[layer] // 2)

    def as_rows(self, output: Tensor) -> Tensor:
        """(F, D) in the dtype of the weights: in half precision the moments would be rounded."""
        return output.permute(0, 2, 3, 1).flatten(1).to(self.mean.dtype)

    def normalised(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(F, D) with mean 0 and variance 1 of every frame; its mean and the inverse of its standard deviation."""
        rows = self.as_rows(output)
        return torch.native_layer_norm(rows, rows.shape[1:], None, None, EPS)

    def gradients(self, block: slice, d: Tensor, x: Tensor, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Of the weights, from (F, D) that of the last output."""
        height, width, channels = self.shape.maps[-1]
        d = d.view(-1, height, width, channels).permute(0, 3, 1, 2).to(self.dtype)
        gradients: list[Tensor] = []
        for layer in reversed(range(self.num_layers)):
            stride, padding = self.shape.strides[layer], self.shape.kernels[layer] // 2
            # In place: to touch fresh memory takes longer than the ReLU.
            d = torch.ops.aten.threshold_backward.grad_input(d, outputs[layer], 0, grad_input=d)
            d = d if layer else self._of_terms(block, d.to(x.dtype))
            d, *found = torch.ops.aten.convolution_backward(
                d, outputs[layer - 1] if layer else x, self.weights[2 * layer], [d.shape[1]], [stride] * 2,
                [padding] * 2, [1, 1], False, [0, 0], 1, [layer > 0, True, True])  # fmt: skip
            gradients = [*found, *gradients]
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

"""Stem: convolutions of uint8 frames in front of a recurrent layer, with weights shared over the picture.

Legend: F frames, P frames of a block and those before its pieces, C channels of a frame, K channels of the first
layer's output, D values of the last layer's output.

A layer is a convolution and a ReLU; the last output of each frame is normalised over all of its values. The first layer
takes x_t, or x_t - x_{t-1}, or both. It is linear up to its ReLU, so that

    U x_t + V (x_t - x_{t-1}) = (U + V) x_t - V x_{t-1}

needs one convolution of each frame with 2 K output channels, and no frame is ever subtracted from another. That is half
the arithmetic of frames and differences side by side.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ttrnn.packing import Frames
from ttrnn.plain import autocasts, eager, is_transformed, without_autocast
from ttrnn.rows import scratch
from ttrnn.spans import is_zero

__all__ = ["DIFFERENCE_GAIN", "EPS", "KEPT_BYTES", "Stem", "StemShape"]

# Kernels of the first layer and of those that follow. Odd: padded by half of it, a map keeps its size but for strides.
_FIRST_KERNEL, _KERNEL = 5, 3
# Consecutive frames differ by less than frames do from their mean.
DIFFERENCE_GAIN = 2.0
EPS = 1e-5
# Of the float maps of a block: about what stays in cache; on a GPU enough to fill it.
_BLOCK_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}
# Outputs of the layers are kept for the backward pass up to this size, and computed again beyond.
KEPT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class StemShape:
    """Sizes of a stem, in pure integers."""

    height: int
    """Of a frame, as width and channels."""
    width: int
    channels: int
    out_channels: tuple[int, ...]
    """Of every layer."""
    strides: tuple[int, ...]
    """Of every layer."""
    differences: str
    """none, extra or only, see ModelOptions."""

    @property
    def in_channels(self) -> tuple[int, ...]:
        """Of every layer."""
        return self.channels * (2 if self.differences == "extra" else 1), *self.out_channels[:-1]

    @property
    def kernels(self) -> tuple[int, ...]:
        """Height and width of every layer's kernel."""
        return _FIRST_KERNEL, *[_KERNEL] * (len(self.strides) - 1)

    @property
    def maps(self) -> tuple[tuple[int, int, int], ...]:
        """Height, width and channels of every layer's output."""
        strides = list(itertools.accumulate(self.strides, int.__mul__))
        sizes = ((-(-self.height // stride), -(-self.width // stride)) for stride in strides)
        return tuple((*size, channels) for size, channels in zip(sizes, self.out_channels, strict=True))

    @property
    def num_params(self) -> int:
        """Weights and biases of all layers."""
        sizes = zip(self.in_channels, self.kernels, self.out_channels, strict=True)
        return sum((ins * kernel**2 + 1) * outs for ins, kernel, outs in sizes)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one frame, with frames and differences as channels of their own."""
        sizes = zip(self.in_channels, self.kernels, self.maps, strict=True)
        return sum(ins * kernel**2 * math.prod(outs) for ins, kernel, outs in sizes)

    def __str__(self) -> str:
        maps = (f"{height}x{width}x{channels}" for height, width, channels in self.maps)
        return " -> ".join((f"{self.height}x{self.width}x{self.channels}", *maps))


class Stem(nn.Module):
    """Frames -> (F, D) the last layer's output as height x width x channels, with mean 0 and variance 1 of each frame.

    Args:
        shape: Sizes.
        mean: Subtracted from the pixels; one number, or one for each channel.
        scale: Multiplied with the pixels after that.
    """

    convs: Any

    def __init__(self, shape: StemShape, mean: Sequence[float], scale: float) -> None:
        super().__init__()
        self.shape, self.mean, self.scale = shape, tuple(mean), scale
        sizes = zip(shape.in_channels, shape.out_channels, shape.kernels, shape.strides, strict=True)
        self.convs = nn.ModuleList(
            nn.Conv2d(ins, outs, kernel, stride, kernel // 2) for ins, outs, kernel, stride in sizes
        )

    @eager
    def forward(self, clips: Sequence[Tensor], dtype: torch.dtype | None = None) -> Frames:
        """The last layer's output for all frames, as recurrent layers take it; frames are converted block by block.

        Args:
            clips: (T_b, *frame) each, uint8 or floating point; they get no gradients.
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
            if is_transformed():
                before = torch.cat([torch.cat([part[:1], part[:-1]]) for part in rows])
                return replace(frames, rows=self.plain(torch.cat(rows), before))
            num_bytes = sum(map(len, rows)) * sum(map(math.prod, self.shape.maps)) * dtype.itemsize
            learning = torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)
            task = _Task(self.shape, self.mean, dtype, learning and num_bytes <= KEPT_BYTES)
            return replace(frames, rows=_Features.apply(task, *weights, *rows))

    @property
    def _frame(self) -> tuple[int, int, int]:
        return self.shape.height, self.shape.width, self.shape.channels

    def _weights(self) -> list[Tensor]:
        """Weight and bias of every layer; the first ones for x_t - mean and, behind them, for x_{t-1} - mean."""
        first, bias, *others = (weight for conv in self.convs for weight in (conv.weight, conv.bias))
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
            x = functional.relu(conv(x))
        x = x.permute(0, 2, 3, 1).flatten(1)
        return functional.layer_norm(x, x.shape[1:], eps=EPS)

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


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """All of a pass through the layers but weights and frames."""

    shape: StemShape
    mean: tuple[float, ...]
    dtype: torch.dtype
    """Of the layers above the first, and of the result."""
    keep: bool
    """Keep the outputs of the layers for the backward pass."""

    def blocks(self, clips: Sequence[Tensor]) -> Iterator["_Block"]:
        """All frames, in blocks whose float maps take about _BLOCK_BYTES."""
        shape = self.shape
        num_bytes = 4 * (shape.height * shape.width * shape.channels + 2 * math.prod(shape.maps[0]))
        most = max(4, _BLOCK_BYTES.get(clips[0].device.type, _BLOCK_BYTES["cuda"]) // num_bytes)
        num_frames = sum(map(len, clips))
        # All about as large.
        most = -(-num_frames // -(-num_frames // most))
        pieces, begin, at = list[tuple[Tensor, int, int]](), 0, 0
        for clip in clips:
            start = 0
            while start < len(clip):
                stop = min(len(clip), start + most - (at - begin))
                pieces.append((clip, start, stop))
                at, start = at + stop - start, stop
                if at - begin == most:
                    yield _Block(self, slice(begin, at), pieces)
                    pieces, begin = [], at
        if pieces:
            yield _Block(self, slice(begin, at), pieces)


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """Frames that pass the layers together."""

    task: _Task
    rows: slice
    """Of the result."""
    pieces: Sequence[tuple[Tensor, int, int]]
    """A clip, and from which to which of its frames."""

    def converted(self, like: Tensor) -> Tensor:
        """(P, C, height, width) frames minus the mean, channels last.

        With differences, each piece begins with the frame before it, or with the first one of the clip twice.
        """
        shape, parts = self.task.shape, []
        for clip, start, stop in self.pieces:
            if shape.differences != "none":
                parts.append(clip[max(start - 1, 0)].unsqueeze(0))
            parts.append(clip[start:stop])
        x = torch.cat(parts).to(like.dtype)
        if any(self.task.mean):
            mean = torch.tensor(self.task.mean, dtype=x.dtype).repeat(x.shape[1] // len(self.task.mean))
            x -= mean.to(x.device)
        return x.view(-1, shape.height, shape.width, shape.channels).permute(0, 3, 1, 2)

    def _places(self) -> Iterator[tuple[slice, slice, slice]]:
        """Of each piece: its rows in the block, and those of its frames and of the ones before them in `converted`."""
        at = 0
        for number, (_, start, stop) in enumerate(self.pieces):
            end = at + stop - start
            yield slice(at, end), slice(at + number + 1, end + number + 1), slice(at + number, end + number)
            at = end

    def outputs(self, x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        """Of every layer, channels last."""
        y = self._convolved(0, x, weights)
        if self.task.shape.differences != "none":
            now_and_before, size = y, y.shape[1] // 2
            y = _empty(now_and_before, self.rows.stop - self.rows.start, size)
            for here, now, before in self._places():
                torch.add(now_and_before[now, :size], now_and_before[before, size:], out=y[here])
        outputs = [y.relu_().to(self.task.dtype)]
        for layer in range(1, len(weights) // 2):
            outputs.append(self._convolved(layer, outputs[-1], weights).relu_())
        return outputs

    def _convolved(self, layer: int, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        weight, bias = weights[2 * layer : 2 * layer + 2]
        return functional.conv2d(x, weight, bias, self.task.shape.strides[layer], self.task.shape.kernels[layer] // 2)

    def gradients(self, d: Tensor, x: Tensor, outputs: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
        """Of the weights, from that of the last output."""
        shape, gradients = self.task.shape, list[Tensor]()
        for layer in reversed(range(len(outputs))):
            weight, stride, padding = weights[2 * layer], shape.strides[layer], shape.kernels[layer] // 2
            # In place: fresh memory would cost more than the ReLU.
            d = torch.ops.aten.threshold_backward.grad_input(d, outputs[layer], 0, grad_input=d)
            d = d if layer else self._of_first(d.to(x.dtype), len(weight))
            d, *found = torch.ops.aten.convolution_backward(
                d, outputs[layer - 1] if layer else x, weight, [len(weight)], [stride] * 2, [padding] * 2, [1, 1],
                False, [0, 0], 1, [layer > 0, True, True])  # fmt: skip
            gradients = [*found, *gradients]
        return gradients

    def _of_first(self, d: Tensor, num_channels: int) -> Tensor:
        """(P, 2 K, height, width) gradient of the terms that the first layer adds up, from that of their sums."""
        size = d.shape[1]
        if size == num_channels:
            return d
        shape = len(d) + len(self.pieces), *d.shape[2:], num_channels
        terms = scratch("stem", shape, d.dtype, d.device).permute(0, 3, 1, 2)
        for here, now, before in self._places():
            terms[now, :size] = d[here]
            terms[before, size:] = d[here]
            terms[before.start, :size] = 0
            terms[before.stop, size:] = 0
        return terms


def _empty(like: Tensor, *sizes: int) -> Tensor:
    """(*sizes, height, width) channels last."""
    shape = (*sizes, *like.shape[2:])
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


class _Features(torch.autograd.Function):
    """Takes frames through the layers and normalises what comes out, block by block."""

    @staticmethod
    def forward(ctx: Any, task: _Task, *weights_and_clips: Tensor) -> Tensor:
        num_weights = 2 * len(task.shape.strides)
        weights, clips = _cast(task, weights_and_clips[:num_weights]), weights_and_clips[num_weights:]
        features = weights[0].new_empty(sum(map(len, clips)), math.prod(task.shape.maps[-1]), dtype=task.dtype)
        kept = []
        for block in task.blocks(clips):
            outputs = block.outputs(block.converted(weights[0]), weights)
            features[block.rows], mean, rstd = _normalised(_rows(outputs[-1], weights[0]))
            if task.keep:
                kept += [*outputs, mean, rstd]
        ctx.task = task
        ctx.save_for_backward(*weights_and_clips, *kept)
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        task: _Task = ctx.task
        num_layers, num_inputs = len(task.shape.strides), len(ctx.needs_input_grad) - 1
        own, clips = ctx.saved_tensors[: 2 * num_layers], ctx.saved_tensors[2 * num_layers : num_inputs]
        kept, weights = iter(ctx.saved_tensors[num_inputs:]), _cast(task, own)
        sums = [torch.zeros_like(weight) for weight in own]
        for block in task.blocks(clips):
            saved = [next(kept) for _ in range(num_layers + 2)] if task.keep else []
            d = grad[block.rows]
            if grad.device.type == "cpu" and is_zero(d):
                continue
            x = block.converted(weights[0])
            outputs = saved[:num_layers] or block.outputs(x, weights)
            rows = _rows(outputs[-1], weights[0])
            mean, rstd = saved[num_layers:] or _normalised(rows)[1:]
            d = torch.ops.aten.native_layer_norm_backward(
                d.to(rows.dtype), rows, rows.shape[1:], mean, rstd, None, None, [True, False, False])[0]  # fmt: skip
            height, width, channels = task.shape.maps[-1]
            d = d.view(-1, height, width, channels).permute(0, 3, 1, 2).to(task.dtype)
            for total, gradient in zip(sums, block.gradients(d, x, outputs, weights), strict=True):
                total += gradient
        return None, *sums, *[None] * len(clips)


def _cast(task: _Task, weights: Sequence[Tensor]) -> list[Tensor]:
    """Those of the first layer as they are, the others in the dtype of their products."""
    return [weight if number < 2 else weight.to(task.dtype) for number, weight in enumerate(weights)]


def _rows(output: Tensor, like: Tensor) -> Tensor:
    """(F, D) in the dtype of the weights: in bfloat16 mean and variance would be rounded."""
    return output.permute(0, 2, 3, 1).flatten(1).to(like.dtype)


def _normalised(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(F, D) with mean 0 and variance 1 of every frame, and what was subtracted and multiplied."""
    return torch.native_layer_norm(rows, rows.shape[1:], None, None, EPS)

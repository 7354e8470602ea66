"""The sizes of a stem in pure integers: its convolutions, their outputs, parameters and MACs.

A layer is a convolution and a ReLU. Layers after the first are separable: a convolution of each channel by itself, with
the stride, and one of 1x1 pixels over all channels. At equal parameters they have more channels and a larger view.
"""

import math
from dataclasses import dataclass
from typing import Self

from ttrnn.shapes import format_modes, parse_modes

__all__ = ["ConvShape", "StemShape"]

# Kernels of the first layer and of those that follow. Odd: padded by half of it, a map keeps its size but for strides.
_FIRST_KERNEL, _KERNEL = 3, 5
_MOST_LAYERS, _MOST_CHANNELS = 3, 1 << 10
# Frames of more pixels than these get strides of 4 in the first layer, and in the second.
_LARGE_PIXELS = (2_048, 8_192)


def _strides(height: int, width: int, num_layers: int) -> tuple[int, ...]:
    """2 for every layer, 4 for the first of larger frames and for the second of still larger ones: about as many values
    reach the input matrix. 1 where the frame is too small."""
    num_large = sum(height * width > pixels for pixels in _LARGE_PIXELS)
    strides = (*(4,) * num_large, *(2,) * num_layers)[:num_layers]
    return strides if math.prod(strides) <= min(height, width) else (1,) * num_layers


@dataclass(frozen=True, slots=True)
class ConvShape:
    """Sizes of one convolution."""

    in_channels: int
    out_channels: int
    kernel: int
    """Height and width of the kernel."""
    stride: int
    map: tuple[int, int, int]
    """Height, width and channels of its output."""
    is_depthwise: bool
    """Each channel by itself, without a bias, and no ReLU after it."""

    @property
    def groups(self) -> int:
        """As of torch's convolutions."""
        return self.in_channels if self.is_depthwise else 1

    @property
    def num_weights(self) -> int:
        """Without biases."""
        return self.in_channels // self.groups * self.kernel**2 * self.out_channels


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

    @classmethod
    def of(
        cls, height: int, width: int, channels: int, stem_channels: str, stem_strides: str, differences: str
    ) -> Self:
        """From the text forms. Raises ValueError that names the option."""
        try:
            out_channels = parse_modes(stem_channels)
            automatic = stem_strides == "auto"
            strides = _strides(height, width, len(out_channels)) if automatic else parse_modes(stem_strides)
        except ValueError:
            raise ValueError(
                f"stem_channels and stem_strides must be positive whole numbers joined by x, such as 6x8, got "
                f"{stem_channels!r} and {stem_strides!r}"
            ) from None
        if len(out_channels) > _MOST_LAYERS or max(out_channels) > _MOST_CHANNELS:
            raise ValueError(
                f"stem_channels must be 1 to {_MOST_LAYERS} numbers up to {_MOST_CHANNELS:,}, got {stem_channels}"
            )
        strides = strides * len(out_channels) if len(strides) == 1 else strides
        if len(strides) != len(out_channels):
            raise ValueError(
                f"stem_strides must be one number, or one for each of stem_channels {stem_channels}, got {stem_strides}"
            )
        if math.prod(strides) > min(height, width):
            raise ValueError(
                f"stem_strides {format_modes(strides)} are too large for frames of {width}x{height} pixels; their "
                f"product must be at most {min(width, height)}"
            )
        return cls(height, width, channels, out_channels, strides, differences)

    @property
    def convs(self) -> tuple[ConvShape, ...]:
        """All convolutions, two for each layer after the first."""
        height, width, ins = self.height, self.width, self.channels * (2 if self.differences == "extra" else 1)
        convs: list[ConvShape] = []
        for outs, stride in zip(self.out_channels, self.strides, strict=True):
            height, width = -(-height // stride), -(-width // stride)
            if convs:
                convs.append(ConvShape(ins, ins, _KERNEL, stride, (height, width, ins), True))
                convs.append(ConvShape(ins, outs, 1, 1, (height, width, outs), False))
            else:
                convs.append(ConvShape(ins, outs, _FIRST_KERNEL, stride, (height, width, outs), False))
            ins = outs
        return tuple(convs)

    @property
    def maps(self) -> tuple[tuple[int, int, int], ...]:
        """Height, width and channels of every layer's output."""
        return tuple(conv.map for conv in self.convs if not conv.is_depthwise)

    @property
    def num_params(self) -> int:
        """Weights and biases of all layers."""
        return sum(conv.num_weights for conv in self.convs) + sum(self.out_channels)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one frame, with frames and differences as channels of their own."""
        return sum(conv.num_weights * math.prod(conv.map[:2]) for conv in self.convs)

    def __str__(self) -> str:
        maps = (f"{height}x{width}x{channels}" for height, width, channels in self.maps)
        return " -> ".join((f"{self.height}x{self.width}x{self.channels}", *maps))

"""The sizes of a stem in pure integers: its convolutions, their outputs, parameters and multiply-adds."""

import itertools
import math
from dataclasses import dataclass
from typing import Self

from ttrnn.shapes import format_modes, parse_modes

__all__ = ["StemShape"]

# Kernels of the first layer and of those that follow. Odd: padded by half of it, a map keeps its size but for strides.
_FIRST_KERNEL, _KERNEL = 5, 3
_MOST_LAYERS, _MOST_CHANNELS = 3, 1 << 10


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
            out_channels, strides = parse_modes(stem_channels), parse_modes(stem_strides)
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

"""Describe the size of a frame."""

from dataclasses import dataclass

__all__ = ["FrameSize"]


@dataclass(frozen=True)
class FrameSize:
    """The size of every frame of a data set: width and height in pixels, channels 3 (RGB) or 1 (grey)."""

    width: int
    height: int
    channels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.height, self.width, self.channels

    @property
    def size(self) -> int:
        """Number of values in one frame: H * W * C."""
        return self.height * self.width * self.channels

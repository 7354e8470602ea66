"""Define the interface of the readers: FFmpeg's of videos, and those of folders of pictures and of arrays."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

__all__ = ["DEFAULT_FPS", "Image", "Reader"]

DEFAULT_FPS = 25.0
"""Of files whose rate is unknown, for the times of their images, in frames/s."""


class Image(NamedTuple):
    """One image of a video."""

    seconds: float
    """from the first image"""
    pixels: Callable[[], np.ndarray]
    """makes uint8 [H, W, 3] (RGB) or [H, W] (grey), valid until the next image; images that are skipped are not made"""


class Reader(Protocol):
    """An open file that gives images, once and in order."""

    num_announced: int
    """frames, according to the file; 0 if it does not say"""
    fps: float
    """frames/s; 0 if unknown"""
    pixel_aspect: float
    """width of a pixel, as displayed, in heights of a pixel"""
    codec: str
    width: int
    """of the images as stored, pixels; 0 if unknown"""
    height: int
    """likewise"""
    is_cut: bool
    """whether the file has turned out to be damaged, or to end before its own index says"""

    def __iter__(self) -> Iterator[Image]:
        """Yields all images.

        Raises:
            RejectedError: the file gives no images.
            MemoryError: an image does not fit into memory.
        """
        ...

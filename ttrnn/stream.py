"""Check frames from cameras and decoders, and classify a stream frame by frame; C classes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ttrnn.shapes import format_modes

__all__ = ["Stream", "as_frames"]


def as_frames(frames: Any, shape: Sequence[int], kinds: Sequence[str]) -> Tensor:
    """Frames as a tensor, copied only where torch can't share them (read-only or mirrored numpy arrays).

    Args:
        frames: uint8 (*leading, height, width, channels), a tensor or an array.
        shape: Height, width and channels.
        kinds: The leading axes that are allowed, one letter each: "", "T" or "BT".

    Raises:
        ValueError: not uint8, or of another shape.
    """
    flags = getattr(frames, "flags", None)
    if flags is not None and (not flags.writeable or min(frames.strides, default=0) < 0):
        frames = frames.copy()
    tensor = torch.as_tensor(frames)
    leading = tensor.dim() - len(shape)
    fits = tensor.shape[max(leading, 0) :] == tuple(shape) and leading in map(len, kinds)
    if tensor.dtype != torch.uint8 or not fits:
        wanted = " or ".join(f"({', '.join((*kind, *map(str, shape)))})" for kind in kinds)
        raise ValueError(
            f"frames must be uint8 {wanted}: height, width, channels last; got "
            f"{str(tensor.dtype).removeprefix('torch.')} {format_modes(tensor.shape) or 'without axes'}"
        )
    return tensor


class Stream:
    """Classifies one stream frame by frame, in constant memory; made by VideoClassifier.stream.

    Examples:
        >>> stream = model.stream()
        >>> for frame in camera:
        ...     scores = stream.push(frame)
    """

    def __init__(self, push: Callable[[Any], Tensor]) -> None:
        self._push = push
        self.num_frames = 0
        """pushed so far"""

    def push(self, frame: Any) -> Tensor:
        """Takes one more frame; returns the probabilities (C,) given all frames so far, as `predict` does, on the CPU.

        Args:
            frame: uint8 (height, width, channels), RGB, of the model's size: a tensor or a numpy array.

        Raises:
            ValueError: not uint8, or of another shape.
        """
        scores = self._push(frame)
        self.num_frames += 1
        return scores

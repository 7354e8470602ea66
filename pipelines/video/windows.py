"""Cut a long video into windows of frames while it is read, holding one window in memory.

Legend: T time, H W frame height and width in pixels, C channels.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipelines.video.decode import MAX_CLIP_BYTES
from pipelines.video.errors import VideoError
from pipelines.video.sampling import Sampling, evenly_spaced

__all__ = ["Length", "Window", "sample_clip", "windows"]

# Times in files are rounded to a millisecond.
_ROUNDING_S = 6e-4


@dataclass(frozen=True, slots=True)
class Length:
    """A length of time in frames or seconds."""

    value: float
    is_seconds: bool

    @classmethod
    def parse(cls, text: str, name: str) -> "Length":
        """Reads `48` as a number of frames, `2.5s` as seconds. Raises ValueError."""
        found = re.fullmatch(r"(\d{1,9})|(\d{1,9}(?:\.\d{1,9})?) ?s", text.strip(), re.ASCII)
        if not found or not float(found[1] or found[2]):
            raise ValueError(f"{name} must be frames such as 48 or seconds such as 2.5s, above 0, got {text!r}")
        return cls(float(found[1] or found[2]), found[1] is None)


class Window(NamedTuple):
    """Consecutive frames of a video."""

    start: int
    """number of the first frame, from 0"""
    start_s: float | None
    """time of the first frame in s; None if the source has no times"""
    end_s: float | None
    """time of the frame that follows the last one"""
    clip: np.ndarray
    """uint8 [T, H, W, C]"""

    @property
    def end(self) -> int:
        """Number of the frame that follows the last one."""
        return self.start + len(self.clip)


class _Frame(NamedTuple):
    number: int
    seconds: float | None
    pixels: np.ndarray

    def position(self, unit: Length) -> float:
        """The place of the frame in the unit of a length: its time in s, or its number."""
        if not unit.is_seconds:
            return self.number
        if self.seconds is None:
            raise VideoError("its frame rate is unknown, so windows cannot be in seconds; give frames")
        return self.seconds + _ROUNDING_S


def windows(frames: Iterable[tuple[float | None, np.ndarray]], size: Length, hop: Length) -> Iterator[Window]:
    """Yields windows of a video, by the time stamps of its frames where lengths are in seconds.

    A window begins at the first frame at or after each multiple of `hop`. The last one may be shorter; it is left out
    if other windows cover its frames.

    Args:
        frames: Time in s (None: unknown) and uint8 [H, W, C] of each.
        size: Length of a window.
        hop: From the beginning of one window to that of the next; more than `size` skips frames.

    Raises:
        VideoError: a window takes more than 2 GiB, or lengths are in seconds and the frames have no times.
    """
    kept: deque[_Frame] = deque()
    next_start, covered = 0.0, 0
    for frame, following in _with_following(frames):
        if frame.position(hop) >= next_start:
            kept.append(frame)
        if max(len(kept), 0 if size.is_seconds else size.value) * frame.pixels.nbytes > MAX_CLIP_BYTES:
            raise VideoError("a window takes more than 2 GiB; make it shorter")
        while kept and _is_full(kept, following, size):
            yield _window(kept, following)
            covered = kept[-1].number + 1
            while next_start <= kept[0].position(hop):
                next_start += hop.value
            while kept and kept[0].position(hop) < next_start:
                kept.popleft()
    if kept and kept[-1].number + 1 > covered:
        yield _window(kept, None)


def _with_following(frames: Iterable[tuple[float | None, np.ndarray]]) -> Iterator[tuple[_Frame, _Frame | None]]:
    """Each frame with the one that follows; None after the last one, and always if frames have no times."""
    waiting: _Frame | None = None
    for number, (seconds, pixels) in enumerate(frames):
        frame = _Frame(number, seconds, pixels.copy())
        if waiting is not None:
            yield waiting, frame
        waiting = frame
        if seconds is None:
            yield frame, None
            waiting = None
    if waiting is not None:
        yield waiting, None


def _is_full(kept: Sequence[_Frame], following: _Frame | None, size: Length) -> bool:
    if not size.is_seconds:
        return len(kept) == size.value
    return following is not None and following.position(size) - kept[0].position(size) >= size.value - _ROUNDING_S


def _window(kept: Sequence[_Frame], following: _Frame | None) -> Window:
    first, last = kept[0], kept[-1]
    end_s = following.seconds if following is not None else None
    if end_s is None and first.seconds is not None and last.seconds is not None:
        # As long as the mean of the others.
        end_s = last.seconds + (last.seconds - first.seconds) / max(1, len(kept) - 1)
    return Window(first.number, first.seconds, end_s, np.stack([frame.pixels for frame in kept]))


def sample_clip(clip_THWC: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The frames that `sampling` takes of a video of this length whose frames are already thinned (every, fps)."""
    if sampling.num_frames is None:
        return clip_THWC[: sampling.max_frames]
    num_frames = min(sampling.num_frames, sampling.max_frames or sampling.num_frames)
    return clip_THWC[sorted(evenly_spaced(len(clip_THWC), num_frames))]

"""Cut a long video into windows of frames while it is read, holding one window in memory.

Legend: T time, H W frame height and width in pixels, C channels.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipelines.video.decode import MAX_CLIP_BYTES
from pipelines.video.errors import VideoError
from pipelines.video.sampling import Sampling, evenly_spaced

__all__ = ["Length", "sample_clip", "windows"]


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

    def frames(self, fps: float) -> int:
        """The number of frames, at least one. Raises VideoError: the length is in seconds, but fps is unknown (0)."""
        if self.is_seconds and not fps:
            raise VideoError("its frame rate is unknown, so windows cannot be in seconds; give frames")
        return max(1, round(self.value * fps if self.is_seconds else self.value))


def windows(frames: Iterable[np.ndarray], size: int, hop: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields windows of a video: the number of the first frame, from 0, and the frames, uint8 [T, H, W, C].

    A window begins every `hop` frames. The last one may be shorter; it is left out if other windows cover its frames.

    Args:
        frames: uint8 [H, W, C] each.
        size: Frames of a window.
        hop: Frames from the beginning of one window to that of the next; more than `size` skips frames.

    Raises:
        VideoError: a window takes more than 2 GiB.
    """
    kept: list[np.ndarray] = []
    start = covered = 0
    for number, frame in enumerate(frames):
        if size * frame.nbytes > MAX_CLIP_BYTES:
            raise VideoError(f"a window of {size:,} frames takes more than 2 GiB; make it shorter")
        if number < start:
            continue
        kept.append(frame.copy())
        if len(kept) == size:
            yield start, np.stack(kept)
            covered = start + size
            del kept[:hop]
            start += hop
    if kept and start + len(kept) > covered:
        yield start, np.stack(kept)


def sample_clip(clip_THWC: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The frames that `sampling` takes of a video of this length whose frames are already thinned (every, fps)."""
    if sampling.num_frames is None:
        return clip_THWC[: sampling.max_frames]
    num_frames = min(sampling.num_frames, sampling.max_frames or sampling.num_frames)
    return clip_THWC[sorted(evenly_spaced(len(clip_THWC), num_frames))]

"""A long video in segments: windows of frames, cut while they come, in the memory of one window.

Legend: T time, H W frame height and width in pixels, C channels.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipelines.video.decode import MAX_CLIP_BYTES, VideoError
from pipelines.video.sampling import Sampling, evenly_spaced

__all__ = ["Length", "sampled", "windows"]


@dataclass(frozen=True, slots=True)
class Length:
    """A length of time: frames, or seconds."""

    value: float
    is_seconds: bool

    @classmethod
    def parse(cls, text: str, name: str) -> "Length":
        """`48` is a number of frames, `2.5s` of seconds. Raises ValueError."""
        found = re.fullmatch(r"(\d{1,9})|(\d{1,9}(?:\.\d{1,9})?) ?s", text.strip(), re.ASCII)
        if not found or not float(found[1] or found[2]):
            raise ValueError(f"{name} must be frames such as 48 or seconds such as 2.5s, above 0, got {text!r}")
        return cls(float(found[1] or found[2]), found[1] is None)

    def frames(self, fps: float) -> int:
        """At least one. Raises VideoError: seconds, where no frame rate is known."""
        if self.is_seconds and not fps:
            raise VideoError("no frame rate is known of it, so that windows can't be in seconds; give frames")
        return max(1, round(self.value * fps if self.is_seconds else self.value))


def windows(frames: Iterable[np.ndarray], size: int, hop: int) -> Iterator[tuple[int, np.ndarray]]:
    """Windows of a video: the number of the first frame from 0, and the frames, uint8 [T, H, W, C].

    A window begins every `hop` frames. The last may be shorter; it is there if it has frames that no other has.

    Args:
        frames: uint8 [H, W, C] each.
        size: Frames of a window.
        hop: From one beginning to the next; more than `size` leaves frames out.

    Raises:
        VideoError: a window of more than 2 GiB.
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


def sampled(clip_THWC: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Those of its frames that a video of this length would give, of which every n-th or so many a second are taken."""
    if sampling.num_frames is None:
        return clip_THWC[: sampling.max_frames]
    num_frames = min(sampling.num_frames, sampling.max_frames or sampling.num_frames)
    return clip_THWC[sorted(evenly_spaced(len(clip_THWC), num_frames))]

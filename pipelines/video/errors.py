"""Define the errors of videos that cannot be decoded or classified."""

from pathlib import Path
from typing import NamedTuple

__all__ = ["REASONS", "RejectedError", "VideoError", "VideoFacts"]


REASONS = {
    "missing": "the file does not exist",
    "unreadable": "no decoder opens it: it is not a video, is damaged at the start, or there is no read permission",
    "no_decoder": "this FFmpeg has no decoder for its codec: convert it, for example to H.264",
    "no_frames": "it opens, but not one frame decodes",
    "truncated": "it is damaged or ends early: over a tenth of the announced frames is missing, under 100 are left",
    "too_large": "its frames take more than 2 GiB, or an image does not fit into memory: use fewer or smaller frames",
    "crashed": "the decoding process crashed on it, twice",
    "timed_out": "decoding took longer than the time limit",
}
"""Why a file may give no clip: the column `reason` of rejected.csv."""


class VideoError(Exception):
    """A video, or another source of frames, that cannot be classified; the message is one line."""


class VideoFacts(NamedTuple):
    """The header of a video that gave no clip: columns of rejected.csv."""

    codec: str = ""
    width: int = 0
    """pixels, as stored"""
    height: int = 0
    fps: float = 0.0
    """frames/s; 0 if unknown"""
    announced_frames: int = 0
    """0 if unknown"""


class RejectedError(VideoError):
    """A file that gives no clip; `reason` is one of `REASONS`."""

    def __init__(self, path: str | Path, reason: str, facts: VideoFacts | None = None) -> None:
        # A file name may hold line breaks, or bytes that are not valid text.
        super().__init__(f"{repr(str(path))[1:-1]} {reason}: {REASONS[reason]}")
        self.reason = reason
        self.facts = facts
        """None if the file did not open"""

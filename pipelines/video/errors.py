"""Define the errors of videos that cannot be decoded or classified."""

from pathlib import Path

__all__ = ["REASONS", "RejectedError", "VideoError"]


REASONS = {
    "missing": "the file does not exist",
    "unreadable": "no decoder opens it: it is not a video, is damaged at the start, or there is no read permission",
    "no_frames": "it opens, but not one frame decodes",
    "truncated": "more than a tenth of the frames that its header announces is missing, and fewer than 100 are left",
    "too_large": "its frames take more than 2 GiB, or an image does not fit into memory: use fewer or smaller frames",
    "crashed": "the decoding process crashed on it, twice",
    "timed_out": "decoding took longer than the time limit",
}
"""Why a file may give no clip: the column `reason` of rejected.csv."""


class VideoError(Exception):
    """A video, or another source of frames, that cannot be classified; the message is one line."""


class RejectedError(VideoError):
    """A file that gives no clip; `reason` is one of `REASONS`."""

    def __init__(self, path: str | Path, reason: str) -> None:
        # A file name may hold line breaks, or bytes that are not valid text.
        super().__init__(f"{repr(str(path))[1:-1]} {reason}: {REASONS[reason]}")
        self.reason = reason

"""A video with what a model says of it written on it.

Legend: H W picture height and width in pixels.
"""

import bisect
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from pipelines.core.errors import StepError
from pipelines.video.decode import pictures

__all__ = ["annotate"]


# Where the file does not say.
_FPS = 25.0
# MPEG-4, which every build of OpenCV writes.
_CODEC = "mp4v"
_SMALLEST_TEXT = 12


def annotate(video: str | Path, out: Path, words: Sequence[tuple[float, str]]) -> int:
    """Writes the pictures of a video in their own size, without sound, with words on them; whole or not at all.

    Args:
        video: The file.
        out: An .mp4 file to be (MPEG-4).
        words: From which second on which words are shown, in order.

    Returns:
        The number of pictures.

    Raises:
        RejectedError: the video does not open.
        StepError: the file can't be written: no room on the disk, say.
    """
    fps, each = pictures(os.fspath(video))
    starts, num_pictures = [start for start, _ in words], 0
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".tmp", dir=out.absolute().parent) as folder:
        file, writer = os.path.join(folder, "video.mp4"), cv2.VideoWriter()
        try:
            for seconds, picture in each:
                if not num_pictures:
                    size = picture.shape[1::-1]
                    writer.open(file, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*_CODEC), fps or _FPS, size)
                shown = picture if picture.shape[1::-1] == size else cv2.resize(picture, size)
                # Times are rounded in files.
                number = bisect.bisect(starts, seconds + 1e-4) - 1
                writer.write(_written(shown, words[number][1] if number >= 0 else ""))
                num_pictures += 1
        finally:
            writer.release()
        # OpenCV does not say when a disk is full.
        capture = cv2.VideoCapture(file)
        num_written = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if not num_pictures or num_written < num_pictures:
            raise StepError(f"{out}: {num_written:,} of {num_pictures:,} pictures could be written; is the disk full?")
        os.replace(file, out)
    return num_pictures


def _written(picture: np.ndarray, text: str) -> np.ndarray:
    """A copy with white text on a dark strip along the lower edge."""
    picture = picture.copy()
    if not text:
        return picture
    height, width = picture.shape[:2]
    points = max(_SMALLEST_TEXT, height // 16)
    while points > 6 and _width(text, points) > width - points:
        points -= 1
    top = max(0, height - 2 * points)
    picture[top:] //= 4
    place = (points // 2, min(height - 2, top + round(1.4 * points)))
    if hasattr(cv2, "FontFace"):
        cv2.putText(picture, text, place, (255, 255, 255), cv2.FontFace("sans"), points)
    else:
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, points / 30, (255, 255, 255), 1, cv2.LINE_AA)
    return picture


def _width(text: str, points: int) -> int:
    if hasattr(cv2, "FontFace"):
        return int(cv2.getTextSize((9999, 9999), text, (0, 0), cv2.FontFace("sans"), points)[2])
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, points / 30, 1)[0][0])

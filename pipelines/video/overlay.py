"""Write text onto a copy of a video.

Legend: H W image height and width in pixels.
"""

import bisect
import contextlib
import os
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import av.error
import cv2
import numpy as np

from pipelines.core.errors import StepError
from pipelines.video.errors import RejectedError
from pipelines.video.reader import DEFAULT_FPS
from pipelines.video.sampling import Sampling
from pipelines.video.worker import IsolatedDecoder

__all__ = ["annotate"]


# Every browser plays it. Other builds of FFmpeg may only have MPEG-4 Part 2.
_CODECS = ("libx264", "mpeg4")
_OPTIONS = {"preset": "veryfast", "crf": "20"}
_TICKS_PER_S = 10_000
_MIN_TEXT_SIZE = 12


def annotate(video: str | Path, out: Path, captions: Sequence[tuple[float, str]], *, time_limit_s: float) -> int:
    """Copies the images of a video in their own size, without sound, with captions; writes all of it or nothing.

    Args:
        video: The file; it is decoded in a child process.
        out: The .mp4 file to write (H.264); its images are shown at the times that they have in the video.
        captions: Texts, each with the second from which it is shown, in order.
        time_limit_s: For each block of frames.

    Returns:
        The number of images.

    Raises:
        RejectedError: the video cannot be decoded.
        StepError: the file cannot be written, for example because the disk is full.
    """
    with (
        IsolatedDecoder(time_limit_s) as decoder,
        tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".tmp", dir=out.absolute().parent) as folder,
    ):
        file = os.path.join(folder, "video.mp4")
        try:
            num_images = _write_copy(video, file, captions, decoder)
        except (av.error.FFmpegError, OSError) as error:
            raise StepError(f"{out} can't be written: {error.strerror}") from error
        num_written = decoder.count_frames(file)
        if num_written < num_images:
            raise StepError(f"{out}: {num_written:,} of {num_images:,} images could be written; is the disk full?")
        os.replace(file, out)
    return num_images


def _write_copy(video: str | Path, file: str, captions: Sequence[tuple[float, str]], decoder: IsolatedDecoder) -> int:
    stream = decoder.stream(video, None, Sampling())
    starts, num_images, tick = [start for start, _ in captions], 0, -1
    with contextlib.closing(stream.frames), av.open(file, "w", format="mp4") as copy:
        rate = Fraction(stream.fps or DEFAULT_FPS).limit_denominator(1000)
        track = copy.add_stream(_codec(), rate=rate, options=_OPTIONS)
        assert isinstance(track, av.VideoStream)
        # Its colours take two by two pixels.
        track.width, track.height = (max(2, size // 2 * 2) for size in (stream.frame.width, stream.frame.height))
        track.pix_fmt = "yuv420p"
        track.codec_context.time_base = Fraction(1, _TICKS_PER_S)
        try:
            for seconds, frame in stream.frames:
                # Times in files are rounded.
                number = bisect.bisect(starts, seconds + 1e-4) - 1
                captioned = _with_caption(frame, captions[number][1] if number >= 0 else "")
                image = av.VideoFrame.from_ndarray(captioned, format="rgb24")
                tick = max(tick + 1, round(seconds * _TICKS_PER_S))
                image.pts, image.time_base = tick, Fraction(1, _TICKS_PER_S)
                copy.mux(track.encode(image))
                num_images += 1
        except RejectedError as error:
            # Sampling may have accepted the part that is there.
            if error.reason != "truncated":
                raise
        copy.mux(track.encode())
    return num_images


def _codec() -> str:
    return next(name for name in _CODECS if name in av.codecs_available)


def _with_caption(frame: np.ndarray, text: str) -> np.ndarray:
    """A copy of a frame, with white text on a dark strip along the lower edge."""
    image = frame.copy()
    if not text:
        return image
    height, width = image.shape[:2]
    points = max(_MIN_TEXT_SIZE, height // 16)
    while points > 6 and _text_width(text, points) > width - points:
        points -= 1
    top = max(0, height - 2 * points)
    image[top:] //= 4
    position = (points // 2, min(height - 2, top + round(1.4 * points)))
    if hasattr(cv2, "FontFace"):
        cv2.putText(image, text, position, (255, 255, 255), cv2.FontFace("sans"), points)
    else:
        cv2.putText(image, text, position, cv2.FONT_HERSHEY_SIMPLEX, points / 30, (255, 255, 255), 1, cv2.LINE_AA)
    return image


def _text_width(text: str, points: int) -> int:
    if hasattr(cv2, "FontFace"):
        return int(cv2.getTextSize((9999, 9999), text, (0, 0), cv2.FontFace("sans"), points)[2])
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, points / 30, 1)[0][0])

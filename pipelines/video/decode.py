"""One video file -> uint8 frames of one size, with OpenCV; and the same in a child process that may die of it.

Legend: T time, H W frame height and width in pixels, C channels (3: RGB, 1: grey).
"""

import errno
import math
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import cv2
import numpy as np

from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling, evenly_spaced

__all__ = [
    "MAX_CLIP_BYTES",
    "REASONS",
    "Decoded",
    "RejectedError",
    "VideoError",
    "announced_frames",
    "as_clip",
    "decode",
    "decode_into",
    "decode_stream",
    "pictures",
    "shrink",
]


REASONS = {
    "missing": "there is no such file",
    "unreadable": "no decoder opens it: it is no video, damaged at the start, or not ours to read",
    "no_frames": "it opens, but not one frame decodes",
    "truncated": "of the frames that its header announces more than a tenth is missing, and fewer than 100 are left",
    "too_large": "its frames take more than 2 GiB, or a picture exceeds the memory: sample fewer or smaller frames",
    "crashed": "the decoder died of it, twice",
    "timed_out": "the decoder took longer than the limit",
}
"""Why a file may give no clip: the column `reason` of rejected.csv."""
MAX_CLIP_BYTES = 2**31
"""More than this no clip may take, decoded."""
# Damaged files are listed in rejected.csv, not reported on the terminal. FFmpeg reads its log level (-8: quiet) when it
# opens the first video.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
# Headers of sound files are off by a few frames (MPEG-1 has none, its count is an estimate). Clips that an upload cut
# short, but with seconds of action left, are worth keeping.
_WHOLE, _SLACK_FRAMES, _ENOUGH_FRAMES = 0.9, 2, 100
# A frame that repeats the last one takes no less in any container: a header that needs smaller ones is not believed.
_MIN_FRAME_BYTES = 8


class VideoError(Exception):
    """A video, or another source of frames, that cannot be classified; the message is one line."""


class RejectedError(VideoError):
    """A file that gives no clip; `reason` is one of `REASONS`."""

    def __init__(self, path: str | Path, reason: str) -> None:
        # A name may hold line ends, or bytes that are no letters.
        super().__init__(f"{repr(str(path))[1:-1]} {reason}: {REASONS[reason]}")
        self.reason = reason


class Decoded(NamedTuple):
    """A decoded clip."""

    frames: np.ndarray
    """uint8 [T, H, W, C]"""
    fps: float
    """frames/s of these frames, which are fewer than the file's when sampled; 0 where the file does not say"""


def decode(path: str | Path, frame: FrameSize, sampling: Sampling) -> Decoded:
    """Decodes one video, upright; every picture is brought to the size of `frame`, averaging over area.

    Contents decide, not names. Pictures are shrunk as they come: the full-size clip is never held. With `num_frames`,
    a file whose header miscounts is decoded twice.

    Raises:
        RejectedError: the file gives no clip, or too little of one.
    """
    # Only what is written of it takes memory.
    memory = np.empty(MAX_CLIP_BYTES, np.uint8)
    num_frames, fps = decode_into(os.fspath(path), frame, sampling, memory)
    return Decoded(as_clip(memory, num_frames, frame).copy(), fps)


def as_clip(memory: np.ndarray, num_frames: int, frame: FrameSize) -> np.ndarray:
    return memory[: num_frames * frame.size].reshape(num_frames, *frame.shape)


def decode_into(path: str, frame: FrameSize, sampling: Sampling, memory: np.ndarray) -> tuple[int, float]:
    """As `decode`, into the front of `memory`; returns the number of frames, and their rate in frames/s."""
    frames = as_clip(memory, len(memory) // frame.size, frame)
    with _open_file(path) as file:
        video = _open(file)
        try:
            num_frames, read = _take(video, video.num_announced, sampling, frames)
            if sampling.num_frames is not None and read.num_frames != video.num_announced:
                num_frames, read = _take(_open(file), read.num_frames, sampling, frames)
        except (MemoryError, cv2.error) as error:
            raise RejectedError(path, "too_large") from error
        _check(path, file, video, sampling, num_frames, read)
    if sampling.num_frames is not None:
        return num_frames, video.fps * num_frames / read.num_frames
    return num_frames, _rate(video, sampling)


def decode_stream(path: str, frame: FrameSize, sampling: Sampling) -> Iterator[bytes | memoryview]:
    """As `decode`, but one frame at a time, in constant memory; `sampling` must be without num_frames.

    Yields:
        The rate of the frames in frames/s, as 8 bytes of a float64; then the bytes of each frame [H, W, C].

    Raises:
        RejectedError: also at the end, of a file that is truncated.
    """
    assert sampling.num_frames is None
    num_frames, read, pixels = 0, _Read(), np.empty(frame.shape, np.uint8)
    with _open_file(path) as file:
        video = _open(file)
        yield np.float64(_rate(video, sampling)).tobytes()
        try:
            for picture in _pictures(video, 0, sampling, read):
                shrink(picture, sampling.fit, pixels)
                yield pixels.data.cast("B")
                num_frames += 1
        except (MemoryError, cv2.error) as error:
            raise RejectedError(path, "too_large") from error
        _check(path, file, video, sampling, num_frames, read)


def pictures(path: str) -> tuple[float, Iterator[tuple[float, np.ndarray]]]:
    """The rate of a video in frames/s, 0 where it does not say; and its pictures as they are, BGR, with times in s.

    Each is valid until the next.

    Raises:
        RejectedError: no decoder opens it.
    """
    file = _open_file(path)
    video = _open(file)

    def each() -> Iterator[tuple[float, np.ndarray]]:
        read = _Read()
        with file:
            for picture in _pictures(video, 0, Sampling(), read):
                yield read.seconds, picture

    return video.fps, each()


def _rate(video: "_Video", sampling: Sampling) -> float:
    """Of sampled frames, in frames/s, where they are not spread evenly; 0 where the file does not say."""
    return min(video.fps, sampling.fps) if sampling.fps is not None else video.fps / (sampling.every or 1)


def _check(path: str, file: IO[bytes], video: "_Video", sampling: Sampling, num_frames: int, read: "_Read") -> None:
    """Raises RejectedError where what a video gave is not enough of one."""
    if not num_frames:
        raise RejectedError(path, "no_frames")
    if read.num_frames == 1 and cv2.haveImageReader(_name(file)) and not video.capture.grab():
        # A still picture: FFmpeg opens those too.
        raise RejectedError(path, "unreadable")
    stopped = sampling.num_frames is None and num_frames == sampling.max_frames
    # Some announce frames at twice the true rate: what counts is how much of the time they cover.
    reached = max(read.num_frames, round(read.covered_s * video.fps) + 2)
    too_few = read.num_frames < _ENOUGH_FRAMES and reached < _WHOLE * video.num_announced - _SLACK_FRAMES
    if not stopped and too_few:
        raise RejectedError(path, "truncated")


def announced_frames(path: str) -> int:
    """How many frames the header announces; 0 where it does not say, or more than the file can hold."""
    with _open_file(path) as file:
        return _open(file).num_announced


def _open_file(path: str) -> IO[bytes]:
    try:
        # A pipe without a writer would keep a plain open waiting.
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except ValueError as error:  # the name has a zero byte
        raise RejectedError(path, "missing") from error
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
        raise RejectedError(path, "missing" if missing else "unreadable") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise RejectedError(path, "unreadable")
    return file


def _name(file: IO[bytes]) -> str:
    """A name that any library can open and that says nothing: neither its letters nor its extension may matter."""
    return f"/dev/fd/{file.fileno()}"


class _Video(NamedTuple):
    capture: cv2.VideoCapture
    num_announced: int
    """frames, says the header; 0 where it does not, or more than the file can hold"""
    fps: float
    """0 where the header does not say"""


def _open(file: IO[bytes]) -> _Video:
    # One thread: whoever has many clips decodes as many at a time as there are cores.
    capture = cv2.VideoCapture(_name(file), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise RejectedError(file.name, "unreadable")
    num_announced, fps = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
    if not 0 < num_announced <= os.fstat(file.fileno()).st_size / _MIN_FRAME_BYTES:
        num_announced = 0
    return _Video(capture, num_announced, fps if 0 < fps < math.inf else 0.0)


def _take(video: _Video, num_total: int, sampling: Sampling, frames: np.ndarray) -> tuple[int, "_Read"]:
    """Fills `frames` [T, H, W, C] with those sampled from a video of `num_total`; says how many there are.

    Raises:
        MemoryError: there is no room for all of them.
    """
    num_frames, read = 0, _Read()
    for picture in _pictures(video, num_total, sampling, read):
        if num_frames == len(frames):
            raise MemoryError
        shrink(picture, sampling.fit, frames[num_frames])
        num_frames += 1
    return num_frames, read


@dataclass(slots=True)
class _Read:
    """What was read of a video to find the sampled pictures."""

    num_frames: int = 0
    seconds: float = 0.0
    gap_s: float = 0.0
    """the largest between two frames"""

    @property
    def covered_s(self) -> float:
        return self.seconds - self.gap_s


def _pictures(video: _Video, num_total: int, sampling: Sampling, read: _Read) -> Iterator[np.ndarray]:
    """The sampled pictures, each valid until the next; `read` is kept up to date."""
    num_taken, tick, picture = 0, -1, None
    max_frames, every = sampling.max_frames or sys.maxsize, sampling.every or 1
    wanted = None if sampling.num_frames is None else evenly_spaced(num_total, min(sampling.num_frames, max_frames))
    for now in _grab(video):
        read.gap_s, read.seconds = max(read.gap_s, now - read.seconds), now
        index, read.num_frames = read.num_frames, read.num_frames + 1
        if index % every or (wanted is not None and index not in wanted):
            continue
        if sampling.fps is not None:
            last_tick, tick = tick, int(read.seconds * sampling.fps + 1e-6)
            if tick == last_tick:
                continue
        sound, picture = video.capture.retrieve(picture)
        if not sound:
            return
        yield picture
        num_taken += 1
        if wanted is None and num_taken == max_frames:
            return


def _grab(video: _Video) -> Iterator[float]:
    """Advances by one frame a time; yields its time from the first one in s."""
    step = 1 / (video.fps or 25)
    start, now = None, -step
    while video.capture.grab():
        # Some frames carry no time stamp: the last one of an MPEG-1 file, say.
        stamp = video.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        now = stamp if stamp > now else now + step
        start = now if start is None else start
        yield now - start


def shrink(picture: np.ndarray, fit: str, frame: np.ndarray) -> None:
    """Fills a frame [H, W, C], RGB or grey, with a BGR picture of any size."""
    # RGB is made in place: a second look at memory that is not in the cache would cost more than the conversion.
    in_place = frame.shape[2] == 3
    small = part = frame if in_place else np.empty((*frame.shape[:2], 3), np.uint8)
    if fit == "crop":
        picture = _centre(picture, small)
    elif fit == "letterbox":
        small[...] = 0
        part = _centre(small, picture)
    cv2.resize(picture, part.shape[1::-1], part, interpolation=cv2.INTER_AREA)
    cv2.cvtColor(small, cv2.COLOR_BGR2RGB if in_place else cv2.COLOR_BGR2GRAY, frame)


def _centre(image: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The largest part around the middle of `image` that has the proportions of `like`."""
    (height, width), (like_height, like_width) = image.shape[:2], like.shape[:2]
    part_height = max(1, min(height, round(width * like_height / like_width)))
    part_width = max(1, min(width, round(height * like_width / like_height)))
    top, left = (height - part_height) // 2, (width - part_width) // 2
    return image[top : top + part_height, left : left + part_width]

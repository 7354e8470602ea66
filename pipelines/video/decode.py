"""Decode one video file to uint8 frames of one size, with OpenCV, in this process (`worker` does it in a child).

Legend: T time, H W frame height and width in pixels, C channels (3: RGB, 1: grey).
"""

import contextlib
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

from pipelines.video.errors import RejectedError
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling, evenly_spaced

__all__ = [
    "MAX_CLIP_BYTES",
    "Decoded",
    "announced_frames",
    "as_clip",
    "decode",
    "decode_into",
    "open_images",
    "resize",
]


MAX_CLIP_BYTES = 2**31
"""The most bytes that a decoded clip may take."""
# Damaged files are listed in rejected.csv, not reported on the terminal. FFmpeg reads its log level (-8: quiet) when it
# opens the first video.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
# The headers of intact files are off by a few frames (MPEG-1 has no count, only an estimate). Clips that an incomplete
# upload cut short are worth keeping if they still show some seconds.
_MIN_SHARE, _SLACK_FRAMES, _ENOUGH_FRAMES = 0.9, 2, 100
# In every container, a frame that repeats the last one takes at least this much: a header that needs less is wrong.
_MIN_FRAME_BYTES = 8


class Decoded(NamedTuple):
    """A decoded clip."""

    frames: np.ndarray
    """uint8 [T, H, W, C]"""
    fps: float
    """frames/s of these frames, which are fewer than the file's when sampled; 0 if the file does not give it"""


def decode(path: str | Path, frame: FrameSize, sampling: Sampling) -> Decoded:
    """Decodes one video, upright; every image is resized to `frame`, averaging over area.

    The content of the file decides its format, not the name. Images are resized one by one: the clip is never held at
    its full size. With `num_frames`, a file whose header gives a wrong count is decoded twice.

    Raises:
        RejectedError: the file gives no clip, or too little of one.
    """
    # Untouched pages take no memory.
    memory = np.empty(MAX_CLIP_BYTES, np.uint8)
    num_frames, fps = decode_into(os.fspath(path), frame, sampling, memory)
    return Decoded(as_clip(memory, num_frames, frame).copy(), fps)


def as_clip(memory: np.ndarray, num_frames: int, frame: FrameSize) -> np.ndarray:
    """The first `num_frames` frames in a flat uint8 buffer, as a view [T, H, W, C]."""
    return memory[: num_frames * frame.size].reshape(num_frames, *frame.shape)


def decode_into(path: str, frame: FrameSize, sampling: Sampling, memory: np.ndarray) -> tuple[int, float]:
    """As `decode`, into the front of `memory`; returns the number of frames, and their rate in frames/s."""
    frames = as_clip(memory, len(memory) // frame.size, frame)
    with _open_file(path) as file:
        video = _open_video(file)
        try:
            num_frames, progress = _fill(video, video.num_announced, sampling, frames)
            if sampling.num_frames is not None and progress.num_frames != video.num_announced:
                num_frames, progress = _fill(_open_video(file), progress.num_frames, sampling, frames)
        except (MemoryError, cv2.error) as error:
            raise RejectedError(path, "too_large") from error
        _check_complete(path, file, video, sampling, num_frames, progress)
    if sampling.num_frames is not None:
        return num_frames, video.fps * num_frames / progress.num_frames
    return num_frames, _sampled_rate(video, sampling)


def open_images(path: str, sampling: Sampling) -> tuple[float, Iterator[tuple[float, np.ndarray]]]:
    """Opens a video to read its sampled images one at a time, in constant memory.

    Args:
        path: The file.
        sampling: Without num_frames: the length of the video is not known in advance.

    Returns:
        The rate of the sampled images in frames/s, 0 if the file does not give it; and the images in their own size,
        uint8 [H, W, 3] (BGR), with their times in s. Each image is valid until the next.

    Raises:
        RejectedError: here if the file does not open, after the last image if it is truncated.
    """
    assert sampling.num_frames is None
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_open_file(path))
        video = _open_video(file)
        stack.pop_all()

    def images() -> Iterator[tuple[float, np.ndarray]]:
        num_images, progress = 0, _Progress()
        with file:
            try:
                for image in _sampled_images(video, 0, sampling, progress):
                    yield progress.seconds, image
                    num_images += 1
            except (MemoryError, cv2.error) as error:
                raise RejectedError(path, "too_large") from error
            _check_complete(path, file, video, sampling, num_images, progress)

    return _sampled_rate(video, sampling), images()


def announced_frames(path: str) -> int:
    """The number of frames that the header announces; 0 if it does not, or announces more than the file can hold."""
    with _open_file(path) as file:
        return _open_video(file).num_announced


def _sampled_rate(video: "_Video", sampling: Sampling) -> float:
    """The rate of sampled frames in frames/s, unless they are evenly spaced; 0 if the file does not give it."""
    return min(video.fps, sampling.fps) if sampling.fps is not None else video.fps / (sampling.every or 1)


def _check_complete(
    path: str, file: IO[bytes], video: "_Video", sampling: Sampling, num_frames: int, progress: "_Progress"
) -> None:
    """Raises RejectedError if too little of a video was decoded."""
    if not num_frames:
        raise RejectedError(path, "no_frames")
    if progress.num_frames == 1 and cv2.haveImageReader(_device_name(file)) and not video.capture.grab():
        # A still image: FFmpeg opens those too.
        raise RejectedError(path, "unreadable")
    stopped = sampling.num_frames is None and num_frames == sampling.max_frames
    # Some files announce frames at twice the true rate: what counts is how much of the time they cover.
    reached = max(progress.num_frames, round(progress.covered_s * video.fps) + 2)
    too_few = progress.num_frames < _ENOUGH_FRAMES and reached < _MIN_SHARE * video.num_announced - _SLACK_FRAMES
    if not stopped and too_few:
        raise RejectedError(path, "truncated")


def _open_file(path: str) -> IO[bytes]:
    try:
        # Opening a named pipe without a writer would block.
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except ValueError as error:  # the name contains a zero byte
        raise RejectedError(path, "missing") from error
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
        raise RejectedError(path, "missing" if missing else "unreadable") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise RejectedError(path, "unreadable")
    return file


def _device_name(file: IO[bytes]) -> str:
    """A name for the open file that every library can open, and that hides its real name and extension."""
    return f"/dev/fd/{file.fileno()}"


class _Video(NamedTuple):
    capture: cv2.VideoCapture
    num_announced: int
    """frames, according to the header; 0 if it does not say, or announces more than the file can hold"""
    fps: float
    """0 if the header does not say"""


def _open_video(file: IO[bytes]) -> _Video:
    # One thread: callers with many clips decode as many at a time as there are cores.
    capture = cv2.VideoCapture(_device_name(file), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise RejectedError(file.name, "unreadable")
    num_announced, fps = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
    if not 0 < num_announced <= os.fstat(file.fileno()).st_size / _MIN_FRAME_BYTES:
        num_announced = 0
    return _Video(capture, num_announced, fps if 0 < fps < math.inf else 0.0)


def _fill(video: _Video, num_total: int, sampling: Sampling, frames: np.ndarray) -> tuple[int, "_Progress"]:
    """Fills `frames` [T, H, W, C] with the sampled frames of a video of `num_total` frames; returns their number.

    Raises:
        MemoryError: there is not enough room for all of them.
    """
    num_frames, progress = 0, _Progress()
    for image in _sampled_images(video, num_total, sampling, progress):
        if num_frames == len(frames):
            raise MemoryError
        resize(image, sampling.fit, frames[num_frames])
        num_frames += 1
    return num_frames, progress


@dataclass(slots=True)
class _Progress:
    """The part of a video that has been read to find the sampled images."""

    num_frames: int = 0
    seconds: float = 0.0
    """of the last frame, from the first"""
    gap_s: float = 0.0
    """the largest between two frames"""

    @property
    def covered_s(self) -> float:
        return self.seconds - self.gap_s


def _sampled_images(video: _Video, num_total: int, sampling: Sampling, progress: _Progress) -> Iterator[np.ndarray]:
    """The sampled images, each valid until the next; `progress` is kept up to date."""
    num_taken, tick, image = 0, -1, None
    max_frames, every = sampling.max_frames or sys.maxsize, sampling.every or 1
    wanted = None if sampling.num_frames is None else evenly_spaced(num_total, min(sampling.num_frames, max_frames))
    for now in _grab(video):
        progress.gap_s, progress.seconds = max(progress.gap_s, now - progress.seconds), now
        index, progress.num_frames = progress.num_frames, progress.num_frames + 1
        if index % every or (wanted is not None and index not in wanted):
            continue
        if sampling.fps is not None:
            last_tick, tick = tick, int(progress.seconds * sampling.fps + 1e-6)
            if tick == last_tick:
                continue
        success, image = video.capture.retrieve(image)
        if not success:
            return
        yield image
        num_taken += 1
        if wanted is None and num_taken == max_frames:
            return


def _grab(video: _Video) -> Iterator[float]:
    """Advances frame by frame; yields the time of each from the first one, in s."""
    step = 1 / (video.fps or 25)
    start, now = None, -step
    while video.capture.grab():
        # Some frames have no time stamp, for example the last one of an MPEG-1 file.
        stamp = video.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        now = stamp if stamp > now else now + step
        start = now if start is None else start
        yield now - start


def resize(image: np.ndarray, fit: str, frame: np.ndarray) -> None:
    """Fills a frame [H, W, C], RGB or grey, with a BGR image of any size."""
    # RGB is converted in place: a second buffer, which is not in the cache, would cost more than the conversion.
    in_place = frame.shape[2] == 3
    small = part = frame if in_place else np.empty((*frame.shape[:2], 3), np.uint8)
    if fit == "crop":
        image = _centre(image, small)
    elif fit == "letterbox":
        small[...] = 0
        part = _centre(small, image)
    cv2.resize(image, part.shape[1::-1], part, interpolation=cv2.INTER_AREA)
    cv2.cvtColor(small, cv2.COLOR_BGR2RGB if in_place else cv2.COLOR_BGR2GRAY, frame)


def _centre(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The largest part around the middle of `image` with the aspect ratio of `reference`."""
    (height, width), (other_height, other_width) = image.shape[:2], reference.shape[:2]
    part_height = max(1, min(height, round(width * other_height / other_width)))
    part_width = max(1, min(width, round(height * other_width / other_height)))
    top, left = (height - part_height) // 2, (width - part_width) // 2
    return image[top : top + part_height, left : left + part_width]

"""Decode one video to uint8 frames of one size, in this process (`worker` does it in a child).

Legend: T time, H W frame height and width in pixels, C channels (3: RGB, 1: grey).
"""

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import cv2
import numpy as np

from pipelines.video.errors import RejectedError, VideoFacts
from pipelines.video.ffmpeg import VideoReader
from pipelines.video.fitting import resize
from pipelines.video.frame import FrameSize
from pipelines.video.reader import Image
from pipelines.video.sampling import Sampling, evenly_spaced

__all__ = ["MAX_CLIP_BYTES", "Decoded", "Images", "announced_frames", "as_clip", "decode", "decode_into", "open_images"]


MAX_CLIP_BYTES = 2**31
"""The most bytes that a decoded clip may take."""
# Files announce a few frames more than they have (MPEG-1 has no count, only an estimate). Clips that an incomplete
# upload cut short are worth keeping if they still show some seconds.
_MIN_SHARE, _SLACK_FRAMES, _ENOUGH_FRAMES = 0.9, 2, 100


class Decoded(NamedTuple):
    """A decoded clip."""

    frames: np.ndarray
    """uint8 [T, H, W, C]"""
    fps: float
    """frames/s of these frames, which are fewer than the file's when sampled; 0 if the file does not give it"""
    times: list[float]
    """s from the first image of the file, one for each frame"""


def decode(path: str | Path, frame: FrameSize, sampling: Sampling) -> Decoded:
    """Decodes one video, upright; every image is resized to `frame`, averaging over area.

    The content of the file decides its format, not the name. Images are resized one by one: the clip is never held at
    its full size. With `num_frames`, a file whose header gives a wrong count is decoded twice.

    Raises:
        RejectedError: the file gives no clip, or too little of one.
    """
    # Untouched pages take no memory.
    memory = np.empty(MAX_CLIP_BYTES, np.uint8)
    times, fps = decode_into(os.fspath(path), frame, sampling, memory)
    return Decoded(as_clip(memory, len(times), frame).copy(), fps, times)


def as_clip(memory: np.ndarray, num_frames: int, frame: FrameSize) -> np.ndarray:
    """The first `num_frames` frames in a flat uint8 buffer, as a view [T, H, W, C]."""
    return memory[: num_frames * frame.size].reshape(num_frames, *frame.shape)


def decode_into(path: str, frame: FrameSize, sampling: Sampling, memory: np.ndarray) -> tuple[list[float], float]:
    """As `decode`, into the front of `memory`; returns the time of each frame in s, and their rate in frames/s."""
    frames = as_clip(memory, len(memory) // frame.size, frame)
    with _open_file(path) as file:
        video = VideoReader(file)
        with _rejecting(path, video):
            times, progress = _fill(video, video.num_announced, sampling, frames)
            if sampling.num_frames is not None and progress.num_frames != video.num_announced:
                times, _ = _fill(VideoReader(file), progress.num_frames, sampling, frames)
            _check_complete(path, video, sampling, len(times), progress)
    if sampling.num_frames is not None:
        return times, video.fps * len(times) / progress.num_frames
    return times, _sampled_rate(video, sampling)


class Images(NamedTuple):
    """The sampled images of an open video."""

    fps: float
    """of these images, in frames/s; 0 if the file does not give it"""
    images: Iterator[tuple[float, np.ndarray, float]]
    """time in s from the first one; uint8 [H, W, 3] (RGB) or [H, W] (grey) in its own size, valid until the next; width
    of a pixel in heights of a pixel"""


def open_images(path: str, sampling: Sampling) -> Images:
    """Opens a video to read its sampled images one at a time, in constant memory.

    Args:
        path: The file.
        sampling: Without num_frames: the length of the video is not known in advance.

    Raises:
        RejectedError: here if the file does not open, after the last image if it is truncated.
    """
    assert sampling.num_frames is None
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_open_file(path))
        video = VideoReader(file)
        stack.pop_all()

    def images() -> Iterator[tuple[float, np.ndarray, float]]:
        num_images, progress = 0, _Progress()
        with file, _rejecting(path, video):
            for image in _sampled_images(video, 0, sampling, progress):
                pixels = image.pixels()
                yield image.seconds, pixels, video.pixel_aspect
                num_images += 1
            _check_complete(path, video, sampling, num_images, progress)

    return Images(_sampled_rate(video, sampling), images())


def announced_frames(path: str) -> int:
    """The number of frames that the header announces; 0 if it does not, or announces more than the file can hold."""
    with _open_file(path) as file:
        return VideoReader(file).num_announced


@contextlib.contextmanager
def _rejecting(path: str, video: VideoReader) -> Iterator[None]:
    """Rejects a video that does not fit into memory; adds to a rejection what is known of the video."""
    try:
        yield
    except (MemoryError, cv2.error) as error:
        raise RejectedError(path, "too_large", _facts(video)) from error
    except RejectedError as error:
        raise RejectedError(path, error.reason, _facts(video)) from error


def _facts(video: VideoReader) -> VideoFacts:
    return VideoFacts(video.codec, video.width, video.height, video.fps, video.num_announced)


def _sampled_rate(video: VideoReader, sampling: Sampling) -> float:
    """The rate of sampled frames in frames/s, unless they are evenly spaced; 0 if the file does not give it."""
    if sampling.fps is not None:
        return min(video.fps, sampling.fps) or sampling.fps
    return video.fps / (sampling.every or 1)


def _check_complete(path: str, video: VideoReader, sampling: Sampling, num_frames: int, progress: "_Progress") -> None:
    """Raises RejectedError if too little of a video was decoded, and not because its header is wrong."""
    if not num_frames:
        raise RejectedError(path, "no_frames")
    stopped = sampling.num_frames is None and num_frames == sampling.max_frames
    # Some files announce frames at twice the true rate: what counts is how much of the time they cover.
    reached = max(progress.num_frames, round(progress.covered_s * video.fps) + 2)
    too_few = progress.num_frames < _ENOUGH_FRAMES and reached < _MIN_SHARE * video.num_announced - _SLACK_FRAMES
    if video.is_cut and not stopped and too_few:
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


def _fill(
    video: VideoReader, num_total: int, sampling: Sampling, frames: np.ndarray
) -> tuple[list[float], "_Progress"]:
    """Fills `frames` [T, H, W, C] with the sampled frames of a video of `num_total` frames; returns their times in s.

    Raises:
        MemoryError: there is not enough room for all of them.
    """
    times: list[float] = []
    progress = _Progress()
    for image in _sampled_images(video, num_total, sampling, progress):
        if len(times) == len(frames):
            raise MemoryError
        pixels = image.pixels()
        resize(pixels, sampling.fit, frames[len(times)], video.pixel_aspect)
        times.append(image.seconds)
    return times, progress


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


def _sampled_images(video: VideoReader, num_total: int, sampling: Sampling, progress: _Progress) -> Iterator[Image]:
    """The sampled images, each valid until the next; `progress` is kept up to date."""
    num_taken, tick = 0, -1
    max_frames, every = sampling.max_frames or sys.maxsize, sampling.every or 1
    wanted = None if sampling.num_frames is None else evenly_spaced(num_total, min(sampling.num_frames, max_frames))
    for index, image in enumerate(video):
        progress.gap_s = max(progress.gap_s, image.seconds - progress.seconds)
        progress.num_frames, progress.seconds = index + 1, image.seconds
        if index % every or (wanted is not None and index not in wanted):
            continue
        if sampling.fps is not None:
            last_tick, tick = tick, int(image.seconds * sampling.fps + 1e-6)
            if tick == last_tick:
                continue
        yield image
        num_taken += 1
        if wanted is None and num_taken == max_frames:
            return

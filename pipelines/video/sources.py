"""Read frames one after another, in constant memory: from a video, raw bytes on standard input, or a camera.

Legend: T time, H W frame height and width in pixels, C channels (3: RGB, 1: grey).
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipelines.core.errors import UserError
from pipelines.video.errors import VideoError
from pipelines.video.fitting import resize
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from pipelines.video.worker import IsolatedDecoder

__all__ = ["FrameSource", "open_camera", "open_raw", "open_video"]


@dataclass(frozen=True, slots=True)
class FrameSource:
    """Frames that are read once, in order."""

    frames: Iterator[tuple[float | None, np.ndarray]]
    """time in s (None: unknown) and uint8 [H, W, C], each valid until the next"""
    clip: np.ndarray | None = None
    """uint8 [T, H, W, C], all frames, if they are in memory anyway"""


@contextlib.contextmanager
def open_video(
    path: str | Path, frame: FrameSize, sampling: Sampling, decoder: IsolatedDecoder
) -> Iterator[FrameSource]:
    """Opens a video of any length; the decoder is free again at the end of the block.

    Args:
        path: The file.
        frame: The size that its images are resized to.
        sampling: Without num_frames: the length of the video is not known in advance.
        decoder: Decodes in a child process; its time limit holds for each block of frames.

    Raises:
        RejectedError: before the first frame or after the last; also `crashed`, `timed_out`.
    """
    stream = decoder.stream(path, frame, sampling)
    with contextlib.closing(stream.frames):
        yield FrameSource(stream.frames)


def open_raw(descriptor: int, frame: FrameSize) -> FrameSource:
    """Reads raw frames from a pipe or file: the bytes of uint8 [H, W, C], one frame after the other.

    Raises:
        VideoError: at the end, if the input is empty or ends within a frame.
    """

    def frames() -> Iterator[tuple[None, np.ndarray]]:
        number = 0
        while len(pixels := _read(descriptor, frame.size)) == frame.size:
            number += 1
            yield None, pixels.reshape(frame.shape)
        if len(pixels) or not number:
            raise VideoError(
                f"incomplete: standard input ends after {len(pixels):,} bytes of frame {number + 1:,}; a frame is "
                f"{frame.width}x{frame.height} pixels of {frame.channels} bytes, {frame.size:,} bytes in all"
            )

    return FrameSource(frames())


def _read(descriptor: int, num_bytes: int) -> np.ndarray:
    """uint8 [num_bytes], fewer at the end of the input."""
    data = np.empty(num_bytes, np.uint8)
    done = 0
    while done < num_bytes and (count := os.readv(descriptor, [data.data[done:]])):
        done += count
    return data[:done]


@contextlib.contextmanager
def open_camera(index: int, frame: FrameSize, sampling: Sampling) -> Iterator[FrameSource]:
    """Opens a camera, and releases it at the end of the block.

    Args:
        index: The camera's number in OpenCV, from 0.
        frame: The size that its images are resized to.
        sampling: fps (by the clock) and every; a camera's stream has no end, so the rest has no effect.

    Raises:
        UserError: there is no such camera.
    """
    capture = cv2.VideoCapture(index)
    try:
        if not capture.isOpened():
            raise UserError(f"camera {index} does not open; a file of that name is given as ./{index}")
        yield FrameSource(_camera_frames(capture, frame, sampling))
    finally:
        capture.release()


def _camera_frames(
    capture: cv2.VideoCapture, frame: FrameSize, sampling: Sampling
) -> Iterator[tuple[float, np.ndarray]]:
    start, number, tick = time.monotonic(), -1, -1
    pixels = np.empty(frame.shape, np.uint8)
    while capture.grab():
        number += 1
        now = time.monotonic() - start
        if number % (sampling.every or 1):
            continue
        if sampling.fps is not None:
            last_tick, tick = tick, int(now * sampling.fps)
            if tick == last_tick:
                continue
        success, image = capture.retrieve()
        if not success:
            return
        resize(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), sampling.fit, pixels)
        yield now, pixels

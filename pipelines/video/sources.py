"""Frames one after another, in constant memory: of a video, of raw bytes on standard input, of a camera.

Legend: T time, H W frame height and width in pixels, C channels (3: RGB, 1: grey).
"""

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipelines.core.errors import UserError
from pipelines.video.decode import REASONS, RejectedError, VideoError, decode_stream, shrink
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from pipelines.video.worker import limit_memory

__all__ = ["CutShortError", "Frames", "camera", "raw", "video"]


# Exit codes of the decoding process: what Python itself ends with lies below.
_FIRST_REASON = 64
_ORPHAN_S = 10


class CutShortError(VideoError):
    """Raw frames that are none, or end within one."""


@dataclass(frozen=True, slots=True)
class Frames:
    """A source of frames, to be read once."""

    fps: float
    """of the sampled frames, in frames/s; 0 where unknown"""
    each: Iterator[np.ndarray]
    """uint8 [H, W, C], valid until the next"""
    whole: np.ndarray | None = None
    """uint8 [T, H, W, C], all of them, where they are held anyway"""


@contextlib.contextmanager
def video(path: str | Path, frame: FrameSize, sampling: Sampling, time_limit_s: float) -> Iterator[Frames]:
    """A video of any length, by a decoder in a process of its own, which ends with the block.

    Args:
        path: The file.
        frame: The size that its pictures are brought to.
        sampling: Without num_frames, for which the whole file would have to be known.
        time_limit_s: For each frame.

    Raises:
        RejectedError: before the first frame or after the last; also `crashed`, `timed_out`.
    """
    # As isolation.py starts its own: without multiprocessing, found where this package lies, out of reach of Ctrl-C.
    search = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    job = json.dumps({"frame": [frame.width, frame.height, frame.channels], "sampling": sampling.to_dict()})
    process = subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-c",
            f"from {__name__} import _serve; _serve()",
            os.fspath(path),
            job,
            str(time_limit_s),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": search},
    )
    assert process.stdout is not None

    def each(pipe: int) -> Iterator[np.ndarray]:
        while (pixels := _read(pipe, frame.size, limit_s=time_limit_s)) is not None and len(pixels) == frame.size:
            yield pixels.reshape(frame.shape)
        ended = "timed_out" if pixels is None else _reason(process.wait())
        if ended:
            raise RejectedError(path, ended)

    try:
        pipe = process.stdout.fileno()
        head = _read(pipe, 8, limit_s=time_limit_s)
        if head is None or len(head) < 8:
            raise RejectedError(path, "timed_out" if head is None else _reason(process.wait()) or "crashed")
        yield Frames(float(head.view(np.float64)[0]), each(pipe))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _reason(exit_code: int) -> str:
    """Why a decoding process has ended; "" if well."""
    if exit_code == 0:
        return ""
    number = exit_code - _FIRST_REASON
    return list(REASONS)[number] if 0 <= number < len(REASONS) else "crashed"


def _serve() -> None:
    """The decoding process: frames to standard output, the reason as its exit code."""
    path, job, time_limit_s = sys.argv[1:]
    values = json.loads(job)
    cv2.setNumThreads(1)
    limit_memory()
    # What libraries print must not get among the frames.
    pipe = os.dup(1)
    os.dup2(2, 1)
    try:
        for part in decode_stream(path, FrameSize(*values["frame"]), Sampling.from_dict(values["sampling"])):
            # A reader that is gone ends this by SIGPIPE or here; one that is slow may be so.
            signal.alarm(0)
            view = memoryview(part)
            while view:
                view = view[os.write(pipe, view) :]
            signal.alarm(math.ceil(float(time_limit_s)) + _ORPHAN_S)
    except RejectedError as error:
        os._exit(_FIRST_REASON + list(REASONS).index(error.reason))
    except BrokenPipeError:
        os._exit(0)


def _read(pipe: int, num_bytes: int, *, limit_s: float | None = None) -> np.ndarray | None:
    """uint8 [num_bytes], fewer at the end; None where nothing comes for that long."""
    data = np.empty(num_bytes, np.uint8)
    view, done = data.data, 0
    while done < num_bytes:
        if limit_s is not None and not select.select([pipe], [], [], limit_s)[0]:
            return None
        count = os.readv(pipe, [view[done:]])
        if not count:
            break
        done += count
    return data[:done]


def raw(pipe: int, frame: FrameSize) -> Frames:
    """Raw frames as they come through a pipe: the bytes of uint8 [H, W, C], one frame after the other.

    Raises:
        CutShortError: at the end of input that is no whole number of frames, or none.
    """

    def each() -> Iterator[np.ndarray]:
        number = 0
        while (pixels := _read(pipe, frame.size)) is not None and len(pixels) == frame.size:
            number += 1
            yield pixels.reshape(frame.shape)
        assert pixels is not None
        if len(pixels) or not number:
            raise CutShortError(
                f"incomplete: standard input ends after {len(pixels):,} bytes of frame {number + 1:,}; a frame is "
                f"{frame.width}x{frame.height} pixels of {frame.channels} bytes, {frame.size:,} bytes in all"
            )

    return Frames(0.0, each())


@contextlib.contextmanager
def camera(index: int, frame: FrameSize, sampling: Sampling) -> Iterator[Frames]:
    """What a camera sees, until it is switched off.

    Args:
        index: As OpenCV counts cameras, from 0.
        frame: The size that its pictures are brought to.
        sampling: fps by the clock, or every; it has no say in when to end.

    Raises:
        UserError: there is no such camera.
    """
    capture = cv2.VideoCapture(index)
    try:
        if not capture.isOpened():
            raise UserError(f"camera {index} does not open; a file of that name is given as ./{index}")
        rate = capture.get(cv2.CAP_PROP_FPS)
        known = rate if 0 < rate < math.inf else 0.0
        yield Frames(sampling.fps or known / (sampling.every or 1), _seen(capture, frame, sampling))
    finally:
        capture.release()


def _seen(capture: cv2.VideoCapture, frame: FrameSize, sampling: Sampling) -> Iterator[np.ndarray]:
    start, number, tick = time.monotonic(), -1, -1
    pixels = np.empty(frame.shape, np.uint8)
    while capture.grab():
        number += 1
        if number % (sampling.every or 1):
            continue
        if sampling.fps is not None:
            last_tick, tick = tick, int((time.monotonic() - start) * sampling.fps)
            if tick == last_tick:
                continue
        sound, picture = capture.retrieve()
        if not sound:
            return
        shrink(picture, sampling.fit, pixels)
        yield pixels

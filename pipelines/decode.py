"""One video file -> uint8 frames of one size, with OpenCV; and the same in a child process that may die of it.

Legend: T time, H W frame height and width in pixels, C channels (3: RGB, 1: grey).
"""

import contextlib
import math
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
import numpy as np

from pipelines.shards import Frame

__all__ = ["REASONS", "Decoded", "IsolatedDecoder", "RejectedError", "Sampling", "decode"]

REASONS = {
    "missing": "there is no such file",
    "unreadable": "no decoder opens it: it is no video, or damaged at the start",
    "no_frames": "it opens, but not one frame decodes",
    "truncated": "of the frames that its header announces more than a tenth is missing, and fewer than 100 are left",
    "crashed": "the decoder died of it, twice",
    "timed_out": "the decoder took longer than the limit",
}
"""Why a file may give no clip: the column `reason` of rejected.csv."""

# Headers of sound files are off by a few frames (MPEG-1 has none, its count is an estimate). Clips that an upload cut
# short, but with seconds of action left, are worth keeping.
_WHOLE, _SLACK_FRAMES, _ENOUGH_FRAMES = 0.9, 2, 100

# A damaged file is told of in rejected.csv, not on the terminal. FFmpeg reads its level (-8: quiet) at the first video.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class RejectedError(ValueError):
    """A file that gives no clip; `reason` is one of `REASONS`."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path} {reason}: {REASONS[reason]}")
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Which frames of a video make its clip: all of them, or fewer; never more than the video has."""

    max_frames: int | None = None
    """never more than this many frames; without num_frames, the first ones"""
    num_frames: int | None = None
    """this many frames, evenly spaced over the video"""
    fps: float | None = None
    """this many frames per second, by the time stamps in the file"""

    def __post_init__(self) -> None:
        for name, value in self.to_dict().items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        if self.num_frames is not None and self.fps is not None:
            raise ValueError(f"num_frames={self.num_frames} and fps={self.fps} exclude each other; give one of them")

    def to_dict(self) -> dict[str, Any]:
        """As it stands in dataset.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Sampling":
        """The inverse of `to_dict`."""
        return cls(**values)


class Decoded(NamedTuple):
    """A decoded clip."""

    frames: np.ndarray
    """uint8 [T, H, W, C]"""
    fps: float
    """frames/s of these frames, which are fewer than the file's when sampled; 0 where the file does not say"""


def decode(path: str | Path, frame: Frame, sampling: Sampling) -> Decoded:
    """Decodes one video; every frame is stretched to the size of `frame`, averaging over area.

    Frames are shrunk as they come: the full-size clip is never held. With `num_frames`, a file whose header miscounts
    is decoded twice.

    Raises:
        RejectedError: the file gives no clip, or too little of one.
    """
    images, fps = _decode(Path(path).absolute(), frame, sampling)
    return Decoded(np.stack(images).reshape(-1, *frame.shape), fps)


def _decode(path: Path, frame: Frame, sampling: Sampling) -> tuple[list[np.ndarray], float]:
    """The images, [H, W, 3] or [H, W], and their rate."""
    capture = _open(path)
    num_announced, fps = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))), capture.get(cv2.CAP_PROP_FPS)
    images, num_read = _take(capture, frame, sampling, num_announced)
    if sampling.num_frames is not None and num_read != num_announced:
        images, num_read = _take(_open(path), frame, sampling, num_read)
    if not images:
        raise RejectedError(path, "no_frames")
    stopped = sampling.num_frames is None and len(images) == sampling.max_frames
    if not stopped and num_read < min(_WHOLE * num_announced - _SLACK_FRAMES, _ENOUGH_FRAMES):
        raise RejectedError(path, "truncated")
    return images, fps * len(images) / num_read if sampling.fps is None else min(fps, sampling.fps)


def _open(path: Path) -> cv2.VideoCapture:
    if not path.exists():
        raise RejectedError(path, "missing")
    # One thread: whoever has many clips decodes as many at a time as there are cores.
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise RejectedError(path, "unreadable")
    return capture


def _take(capture: cv2.VideoCapture, frame: Frame, sampling: Sampling, num_total: int) -> tuple[list[np.ndarray], int]:
    """The sampled frames of a video of `num_total` frames, resized; and how many were read to find them."""
    images: list[np.ndarray] = []
    max_frames, num_read, tick = sampling.max_frames or sys.maxsize, 0, -1
    wanted = None if sampling.num_frames is None else _evenly(num_total, min(sampling.num_frames, max_frames))
    for seconds in _grab(capture):
        num_read += 1
        if wanted is not None and num_read - 1 not in wanted:
            continue
        if sampling.fps is not None:
            last_tick, tick = tick, int(seconds * sampling.fps + 1e-6)
            if tick == last_tick:
                continue
        sound, image = capture.retrieve()
        if not sound:
            break
        image = cv2.resize(image, (frame.width, frame.height), interpolation=cv2.INTER_AREA)
        images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB if frame.channels == 3 else cv2.COLOR_BGR2GRAY))
        if wanted is None and len(images) == max_frames:
            break
    return images, num_read


def _grab(capture: cv2.VideoCapture) -> Iterator[float]:
    """Advances by one frame a time; yields its time from the first one in s."""
    step = 1 / (capture.get(cv2.CAP_PROP_FPS) or 25)
    start, now = None, -step
    while capture.grab():
        # Some frames carry no time stamp: the last one of an MPEG-1 file, say.
        stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        now = stamp if stamp > now else now + step
        start = now if start is None else start
        yield now - start


def _evenly(num_total: int, num_wanted: int) -> set[int]:
    """Indices of `num_wanted` frames, each in the middle of its share of `num_total`; all if there are no more."""
    if num_total <= num_wanted:
        return set(range(num_total))
    return {(2 * i + 1) * num_total // (2 * num_wanted) for i in range(num_wanted)}


class IsolatedDecoder:
    """`decode` in a child process: a decoder that crashes or hangs costs its clip and nothing else.

    The child starts with the first clip, serves many, and is replaced when it dies. It ends with its parent.

    Example:
        with IsolatedDecoder(time_limit_s=300) as decoder:
            frames, fps = decoder.decode("clip.avi", Frame(160, 120, 3), Sampling())
    """

    def __init__(self, time_limit_s: float) -> None:
        self.time_limit_s = time_limit_s
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "IsolatedDecoder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the child, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._connection.close()
            self._memory.file.close()

    def decode(self, path: str | Path, frame: Frame, sampling: Sampling) -> Decoded:
        """As the function `decode`, but the next call overwrites the frames: copy those that are to last.

        Raises:
            RejectedError: also `crashed`, `timed_out`.
        """
        path = Path(path).absolute()
        try:
            return self._ask(path, frame, sampling)
        except (EOFError, ConnectionError):
            # Perhaps the clip is innocent, and something else (short memory, a shutdown) killed the child.
            self.close()
        try:
            return self._ask(path, frame, sampling)
        except (EOFError, ConnectionError) as error:
            self.close()
            raise RejectedError(path, "crashed") from error

    def _ask(self, path: Path, frame: Frame, sampling: Sampling) -> Decoded:
        if self._process is None:
            self._start()
        self._connection.send((path, frame, sampling))
        if not self._connection.poll(self.time_limit_s):
            self.close()
            raise RejectedError(path, "timed_out")
        reply = self._connection.recv()
        if isinstance(reply, str):
            raise RejectedError(path, reply)
        num_frames, fps = reply
        return Decoded(self._memory.array((num_frames, *frame.shape)), fps)

    def _start(self) -> None:
        # Frames come back through memory that both map: a pipe would double the time that a clip takes.
        self._memory = _Memory(  # closed with the child, in close()
            os.fdopen(os.memfd_create("clip"), "r+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()  # noqa: SIM115
        )
        self._connection, other = Pipe()
        descriptors = other.fileno(), self._memory.file.fileno()
        # Not multiprocessing: its children first import the parent's main module, which in a Ray worker means Ray.
        # The child finds this package where we found it; a session of its own keeps Ctrl-C from looking like a crash.
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-P", "-c", f"from {__name__} import _serve; _serve{descriptors}"]
        self._process = subprocess.Popen(
            command,
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        other.close()
        try:
            assert self._connection.recv() == "ready"
        except (EOFError, ConnectionError) as error:
            self.close()
            raise RuntimeError(f"the decoding process does not start: {' '.join(command)}") from error


def _serve(connection_descriptor: int, memory_descriptor: int) -> None:
    """The child's side: answers until the parent's end closes."""
    cv2.setNumThreads(1)
    memory = _Memory(os.fdopen(memory_descriptor, "r+b"))
    with Connection(connection_descriptor) as connection, contextlib.suppress(EOFError, ConnectionError):
        connection.send("ready")
        while True:
            path, frame, sampling = connection.recv()
            try:
                images, fps = _decode(path, frame, sampling)
            except RejectedError as error:
                connection.send(error.reason)
                continue
            np.stack(images, out=memory.array((len(images), *images[0].shape)))
            connection.send((len(images), fps))


class _Memory:
    """A growing buffer that parent and child both map: a file without a name, in memory where the system has that."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self._buffer = np.empty(0, np.uint8)

    def array(self, shape: tuple[int, ...]) -> np.ndarray:
        num_bytes = math.prod(shape)
        if num_bytes > len(self._buffer):
            if num_bytes > os.fstat(self.file.fileno()).st_size:
                self.file.truncate(num_bytes)
            self._buffer = np.frombuffer(mmap.mmap(self.file.fileno(), num_bytes), np.uint8)
        return self._buffer[:num_bytes].reshape(shape)

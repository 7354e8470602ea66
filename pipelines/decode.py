"""One video file -> uint8 frames of one size, with OpenCV; and the same in a child process that may die of it.

Legend: T time, H W frame height and width in pixels, C channels (3: RGB, 1: grey).
"""

import contextlib
import errno
import itertools
import math
import mmap
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
import numpy as np

from pipelines.shards import Frame

__all__ = ["FITS", "MAX_CLIP_BYTES", "REASONS", "Decoded", "IsolatedDecoder", "RejectedError", "Sampling", "decode"]

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

FITS = ("stretch", "crop", "letterbox")
MAX_CLIP_BYTES = 2**31
"""More than this no clip may take, decoded."""

# Headers of sound files are off by a few frames (MPEG-1 has none, its count is an estimate). Clips that an upload cut
# short, but with seconds of action left, are worth keeping.
_WHOLE, _SLACK_FRAMES, _ENOUGH_FRAMES = 0.9, 2, 100
# A frame that repeats the last one takes no less in any container: a header that needs smaller ones is not believed.
_MIN_FRAME_BYTES = 8
# Fresh memory costs as much time as decoding into it, so clips up to this size leave theirs to the next one.
_KEPT_BYTES = 2**28
# Beyond what a decoding process starts with. The largest picture that FFmpeg takes needs 3 GiB.
_CHILD_BYTES = 2**33
_ORPHAN_S = 10

# A damaged file is told of in rejected.csv, not on the terminal. FFmpeg reads its level (-8: quiet) at the first video.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class RejectedError(ValueError):
    """A file that gives no clip; `reason` is one of `REASONS`."""

    def __init__(self, path: str | Path, reason: str) -> None:
        # A name may hold line ends, or bytes that are no letters.
        super().__init__(f"{repr(str(path))[1:-1]} {reason}: {REASONS[reason]}")
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Which frames of a video make its clip: all of them, or fewer; and how a picture becomes a frame."""

    max_frames: int | None = None
    """never more than this many frames; without num_frames, the first ones"""
    num_frames: int | None = None
    """this many frames, evenly spaced over the video; all of them if it has fewer"""
    fps: float | None = None
    """this many frames per second, by the time stamps in the file"""
    every: int | None = None
    """every n-th frame, beginning with the first"""
    fit: str = "stretch"
    """of pictures with other proportions than the frame: stretch, crop (its centre fills the frame) or letterbox (all
    of it, between black bars)"""

    def __post_init__(self) -> None:
        for name in ("max_frames", "num_frames", "fps", "every"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        given = [f"{n}={value}" for n in ("num_frames", "fps", "every") if (value := getattr(self, n)) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; give one of them")
        if self.fit not in FITS:
            raise ValueError(f"fit must be stretch, crop or letterbox, got {self.fit!r}")

    def to_dict(self) -> dict[str, Any]:
        """As it stands in dataset.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Sampling":
        """The inverse of `to_dict`; what older files do not have takes its default."""
        return cls(**values)


class Decoded(NamedTuple):
    """A decoded clip."""

    frames: np.ndarray
    """uint8 [T, H, W, C]"""
    fps: float
    """frames/s of these frames, which are fewer than the file's when sampled; 0 where the file does not say"""


def decode(path: str | Path, frame: Frame, sampling: Sampling) -> Decoded:
    """Decodes one video, upright; every picture is brought to the size of `frame`, averaging over area.

    Contents decide, not names. Pictures are shrunk as they come: the full-size clip is never held. With `num_frames`,
    a file whose header miscounts is decoded twice.

    Raises:
        RejectedError: the file gives no clip, or too little of one.
    """
    # Only what is written of it takes memory.
    memory = np.empty(MAX_CLIP_BYTES, np.uint8)
    num_frames, fps = _decode(os.fspath(path), frame, sampling, memory)
    return Decoded(_clip(memory, num_frames, frame).copy(), fps)


def _clip(memory: np.ndarray, num_frames: int, frame: Frame) -> np.ndarray:
    return memory[: num_frames * frame.size].reshape(num_frames, *frame.shape)


def _decode(path: str, frame: Frame, sampling: Sampling, memory: np.ndarray) -> tuple[int, float]:
    """Writes the clip at the start of `memory`; returns how many frames, and their rate."""
    frames = _clip(memory, len(memory) // frame.size, frame)
    with _open_file(path) as file:
        video = _open(file)
        try:
            num_frames, num_read, covered_s = _take(video, video.num_announced, sampling, frames)
            if sampling.num_frames is not None and num_read != video.num_announced:
                num_frames, num_read, covered_s = _take(_open(file), num_read, sampling, frames)
        except (MemoryError, cv2.error) as error:
            raise RejectedError(path, "too_large") from error
        if not num_frames:
            raise RejectedError(path, "no_frames")
        if num_read == 1 and cv2.haveImageReader(_name(file)) and not video.capture.grab():
            # A still picture: FFmpeg opens those too.
            raise RejectedError(path, "unreadable")
    stopped = sampling.num_frames is None and num_frames == sampling.max_frames
    # Some announce frames at twice the true rate: what counts is how much of the time they cover.
    reached = max(num_read, round(covered_s * video.fps) + 2)
    if not stopped and num_read < _ENOUGH_FRAMES and reached < _WHOLE * video.num_announced - _SLACK_FRAMES:
        raise RejectedError(path, "truncated")
    if sampling.fps is not None:
        return num_frames, min(video.fps, sampling.fps)
    return num_frames, video.fps / sampling.every if sampling.every else video.fps * num_frames / num_read


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


def _take(video: _Video, num_total: int, sampling: Sampling, frames: np.ndarray) -> tuple[int, int, float]:
    """Fills `frames` [T, H, W, C] with those sampled from a video of `num_total`.

    Returns:
        How many there are, how many were read to find them, and the time that these cover in s, the largest gap less.

    Raises:
        MemoryError: there is no room for all of them.
    """
    num_frames, num_read, seconds, gap, tick = 0, 0, 0.0, 0.0, -1
    max_frames, every = sampling.max_frames or sys.maxsize, sampling.every or 1
    wanted = None if sampling.num_frames is None else _evenly(num_total, min(sampling.num_frames, max_frames))
    picture = None
    for now in _grab(video):
        gap, seconds = max(gap, now - seconds), now
        index, num_read = num_read, num_read + 1
        if index % every or (wanted is not None and index not in wanted):
            continue
        if sampling.fps is not None:
            last_tick, tick = tick, int(seconds * sampling.fps + 1e-6)
            if tick == last_tick:
                continue
        sound, picture = video.capture.retrieve(picture)
        if not sound:
            break
        if num_frames == len(frames):
            raise MemoryError
        _shrink(picture, sampling.fit, frames[num_frames])
        num_frames += 1
        if wanted is None and num_frames == max_frames:
            break
    return num_frames, num_read, seconds - gap


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


def _evenly(num_total: int, num_wanted: int) -> set[int]:
    """Indices of `num_wanted` frames, each in the middle of its share of `num_total`; all if there are no more."""
    if num_total <= num_wanted:
        return set(range(num_total))
    return {(2 * i + 1) * num_total // (2 * num_wanted) for i in range(num_wanted)}


def _shrink(picture: np.ndarray, fit: str, frame: np.ndarray) -> None:
    """BGR picture -> RGB or grey frame [H, W, C]."""
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


class _Job(NamedTuple):
    path: str
    frame: Frame | None = None
    """None: only count the frames"""
    sampling: Sampling | None = None


def _absolute(path: str | Path) -> str:
    # The child may have started in another directory. Not os.path.abspath, which takes `link/..` for nothing.
    return os.path.join(os.getcwd(), path)


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
        self._connection: Connection
        self._memories: list[_Memory] = []
        self._slot = self._num_unanswered = 0
        self._asker: object = None

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
            self._num_unanswered = 0
            self._connection.close()
            for memory in self._memories:
                memory.file.close()
            # Frames that are handed out keep theirs.
            self._memories = []

    def decode(self, path: str | Path, frame: Frame, sampling: Sampling) -> Decoded:
        """As the function `decode`, but a later call overwrites the frames: copy those that are to last.

        Raises:
            RejectedError: also `crashed`, `timed_out`.
        """
        (result,) = self.decode_many([path], frame, sampling)
        if isinstance(result, RejectedError):
            raise result
        return result

    def decode_many(
        self, paths: Iterable[str | Path], frame: Frame, sampling: Sampling
    ) -> Generator[Decoded | RejectedError, None, None]:
        """One result for each path, in order; the child decodes the next clip while the caller works on this one.

        The frames last until the next result is asked for. `paths` is drawn from as results are asked for, and is one
        ahead. Stopping early is safe, and so is another call in between: it only costs the clip that is ahead.
        """
        jobs = (_Job(_absolute(path), frame, sampling) for path in paths)
        for answer in self._answers(jobs, self.time_limit_s):
            if isinstance(answer, RejectedError):
                yield answer
            else:
                slot, num_frames, fps = answer
                yield Decoded(_clip(self._memories[slot].array, num_frames, frame), fps)

    def count_frames(self, path: str | Path, time_limit_s: float = 10) -> int:
        """How many frames the file's header announces; 0 where it does not say, or more than the file can hold."""
        (answer,) = self._answers([_Job(_absolute(path))], time_limit_s)
        return 0 if isinstance(answer, RejectedError) else answer

    def _answers(self, jobs: Iterable[_Job], time_limit_s: float) -> Iterator[Any]:
        asker = object()
        try:
            for job, following in itertools.pairwise(itertools.chain(jobs, [None])):
                assert job is not None
                if self._asker is not asker:
                    self._forget()
                    self._asker = asker
                if not self._num_unanswered:
                    self._ask(job, time_limit_s)
                if following is not None:
                    self._ask(following, time_limit_s)
                yield self._answer(job, time_limit_s)
        finally:
            if self._asker is asker:
                self._forget()

    def _forget(self) -> None:
        # Who does not want to hear an answer must not hear it later as that to another question.
        if self._num_unanswered:
            self.close()

    def _ask(self, job: _Job, time_limit_s: float) -> None:
        if self._process is None:
            self._start()
        self._slot = 1 - self._slot
        self._memories[self._slot].release()
        self._num_unanswered += 1
        # A child that is dead is found out when it does not answer.
        with contextlib.suppress(ConnectionError):
            self._connection.send((job, self._slot, time_limit_s))

    def _answer(self, job: _Job, time_limit_s: float) -> Any:
        try:
            return self._receive(job, time_limit_s)
        except (EOFError, ConnectionError):
            # Perhaps the clip is innocent, and something else (short memory, a shutdown) killed the child.
            self.close()
            self._ask(job, time_limit_s)
        try:
            return self._receive(job, time_limit_s)
        except (EOFError, ConnectionError):
            self.close()
            return RejectedError(job.path, "crashed")

    def _receive(self, job: _Job, time_limit_s: float) -> Any:
        if not self._connection.poll(time_limit_s):
            self.close()
            return RejectedError(job.path, "timed_out")
        answer = self._connection.recv()
        self._num_unanswered -= 1
        return RejectedError(job.path, answer) if isinstance(answer, str) else answer

    def _start(self) -> None:
        # Frames come back through memory that both map: a pipe would double the time that a clip takes.
        self._memories = [_Memory() for _ in range(2)]
        self._connection, other = Pipe()
        descriptors = (other.fileno(), *(memory.file.fileno() for memory in self._memories))
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


def _serve(connection_descriptor: int, *memory_descriptors: int) -> None:
    """The child's side: answers until the parent's end closes."""
    cv2.setNumThreads(1)
    memories = [_Memory(descriptor) for descriptor in memory_descriptors]
    _limit_memory()
    with Connection(connection_descriptor) as connection, contextlib.suppress(EOFError, ConnectionError):
        connection.send("ready")
        while True:
            job, slot, time_limit_s = connection.recv()
            # Ends a child that hangs and has no parent left to see it.
            signal.alarm(math.ceil(time_limit_s) + _ORPHAN_S)
            answer: Any
            try:
                if job.frame is None:
                    with _open_file(job.path) as file:
                        answer = _open(file).num_announced
                else:
                    answer = slot, *_decode(job.path, job.frame, job.sampling, memories[slot].array)
            except RejectedError as error:
                answer = error.reason
            signal.alarm(0)
            connection.send(answer)


def _limit_memory() -> None:
    """A header that asks for all the memory is refused it; and a crash leaves no core of that size."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE + _CHILD_BYTES
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        if soft == resource.RLIM_INFINITY or soft > limit:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


class _Memory:
    """Room for the largest clip that parent and child both map: a file without a name, in memory where the system can.

    Only what has been written takes space, and keeps it for the clips to come.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is not None:
            self.file: IO[bytes] = os.fdopen(descriptor, "r+b")
        else:
            in_memory = hasattr(os, "memfd_create")
            self.file = os.fdopen(os.memfd_create("clip"), "r+b") if in_memory else tempfile.TemporaryFile()  # noqa: SIM115
            self.file.truncate(MAX_CLIP_BYTES)
        self.array = np.frombuffer(mmap.mmap(self.file.fileno(), MAX_CLIP_BYTES), np.uint8)

    def release(self) -> None:
        """Gives back what an uncommonly long clip has taken."""
        if os.fstat(self.file.fileno()).st_blocks * 512 > _KEPT_BYTES:
            self.file.truncate(0)
            self.file.truncate(MAX_CLIP_BYTES)

"""`decode` in a process of its own, so that a decoder may crash or hang, and frames come back without a copy.

Legend: T time, H W frame height and width in pixels, C channels (3: RGB, 1: grey).
"""

import contextlib
import itertools
import math
import mmap
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterable, Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
import numpy as np

from pipelines.video.decode import (
    MAX_CLIP_BYTES,
    Decoded,
    RejectedError,
    announced_frames,
    as_clip,
    decode_into,
)
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling

__all__ = ["IsolatedDecoder", "limit_memory"]


# Fresh memory costs as much time as decoding into it, so clips up to this size leave theirs to the next one.
_KEPT_BYTES = 2**28
# Beyond what a decoding process starts with. The largest picture that FFmpeg takes needs 3 GiB.
_CHILD_BYTES = 2**33
_ORPHAN_S = 10


class _Job(NamedTuple):
    path: str
    frame: FrameSize | None = None
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
            frames, fps = decoder.decode("clip.avi", FrameSize(160, 120, 3), Sampling())
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

    def decode(self, path: str | Path, frame: FrameSize, sampling: Sampling) -> Decoded:
        """As the function `decode`, but a later call overwrites the frames: copy those that are to last.

        Raises:
            RejectedError: also `crashed`, `timed_out`.
        """
        (result,) = self.decode_many([path], frame, sampling)
        if isinstance(result, RejectedError):
            raise result
        return result

    def decode_many(
        self, paths: Iterable[str | Path], frame: FrameSize, sampling: Sampling
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
                yield Decoded(as_clip(self._memories[slot].array, num_frames, frame), fps)

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
        path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
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
    limit_memory()
    with Connection(connection_descriptor) as connection, contextlib.suppress(EOFError, ConnectionError):
        connection.send("ready")
        while True:
            job, slot, time_limit_s = connection.recv()
            # Ends a child that hangs and has no parent left to see it.
            signal.alarm(math.ceil(time_limit_s) + _ORPHAN_S)
            answer: Any
            try:
                if job.frame is None:
                    answer = announced_frames(job.path)
                else:
                    answer = slot, *decode_into(job.path, job.frame, job.sampling, memories[slot].array)
            except RejectedError as error:
                answer = error.reason
            signal.alarm(0)
            connection.send(answer)


def limit_memory() -> None:
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

"""Decode videos in a child process that may crash or hang: whole clips, or streams of frames.

A clip or a block of frames is decoded straight into memory that parent and child share, so that nothing is copied.

Legend: T time, H W frame height and width in pixels, C channels (3: RGB, 1: grey).
"""

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Generator, Iterable, Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.video.child import Block, Job, Rejection, SharedMemory, serve
from pipelines.video.decode import Decoded, as_clip
from pipelines.video.errors import RejectedError
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling

__all__ = ["IsolatedDecoder", "Stream"]


class Stream(NamedTuple):
    """A video that is decoded while it is read."""

    frame: FrameSize
    fps: float
    """of the sampled frames, in frames/s; 0 if the file does not give it"""
    frames: Generator[tuple[float, np.ndarray], None, None]
    """time in s and uint8 [H, W, C], each valid until the next; raises RejectedError. Close it to stop early."""


class IsolatedDecoder:
    """Decodes in a child process: a decoder that crashes or hangs affects only its own clip.

    The child starts with the first clip, decodes many, is replaced when it dies, and ends with its parent.

    Example:
        with IsolatedDecoder(time_limit_s=300) as decoder:
            frames, fps = decoder.decode("clip.avi", FrameSize(160, 120, 3), Sampling())
    """

    def __init__(self, time_limit_s: float) -> None:
        self.time_limit_s = time_limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection
        self._memories: list[SharedMemory] = []
        self._slot = self._num_unanswered = 0
        self._caller: object = None

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
            # Frames that were returned keep their memory mapped.
            self._memories = []

    def decode(self, path: str | Path, frame: FrameSize, sampling: Sampling) -> Decoded:
        """As the function `decode`, but later calls overwrite the frames: copy those that are needed longer.

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
        """Yields one result for each path, in order; the child decodes the next clip while the caller uses this one.

        Frames are valid until the next result is requested. `paths` is read one item ahead of the results. It is safe
        to stop early, or to make other calls in between: this only repeats the clip that is decoded ahead.
        """
        jobs = (Job("clip", _absolute(path), frame, sampling) for path in paths)
        for answer in self._answers(jobs, self.time_limit_s):
            if isinstance(answer, RejectedError):
                yield answer
            else:
                slot, times, fps = answer
                yield Decoded(as_clip(self._memories[slot].array, len(times), frame), fps, times)

    def count_frames(self, path: str | Path, time_limit_s: float = 10) -> int:
        """The number of frames the header announces; 0 if it does not, or announces more than the file can hold."""
        (answer,) = self._answers([Job("count", _absolute(path))], time_limit_s)
        return 0 if isinstance(answer, RejectedError) else answer

    def stream(self, path: str | Path, frame: FrameSize | None, sampling: Sampling) -> Stream:
        """Opens a video of any length to read it frame by frame; the child decodes a block of frames ahead.

        The time limit holds for each block. Make no other call until the frames are used up or closed.

        Args:
            path: The file.
            frame: The size of the frames; None: RGB frames of the size of the first image.
            sampling: Without num_frames: the length of the video is not known in advance.

        Raises:
            RejectedError: the file does not open. Reasons that show later are raised in the place of a frame.
        """
        blocks = self._blocks(Job("open", _absolute(path), frame, sampling))
        first = next(blocks)
        return Stream(first.frame, first.fps, self._frames(path, itertools.chain([first], blocks), blocks))

    def _blocks(self, opening: Job) -> Generator[Block, None, None]:
        has_ended = False

        def jobs() -> Iterator[Job]:
            yield opening
            while not has_ended:
                yield opening._replace(kind="next")

        for answer in self._answers(jobs(), self.time_limit_s):
            if has_ended:
                # The answer to the request that was made one block ahead: the child is free again.
                continue
            if isinstance(answer, RejectedError):
                raise answer
            has_ended = not answer.has_more
            yield answer

    def _frames(
        self, path: str | Path, blocks: Iterable[Block], source: Generator[Block, None, None]
    ) -> Generator[tuple[float, np.ndarray], None, None]:
        with contextlib.closing(source):
            for block in blocks:
                frames = as_clip(self._memories[block.slot].array, len(block.times), block.frame)
                yield from zip(block.times, frames, strict=True)
                if block.rejection:
                    raise RejectedError(path, *block.rejection)

    def _answers(self, jobs: Iterable[Job], time_limit_s: float) -> Iterator[Any]:
        """Yields the answer to each job, or a RejectedError; the next job is sent before an answer is awaited."""
        caller = object()
        try:
            for job, following in itertools.pairwise(itertools.chain(jobs, [None])):
                assert job is not None
                if self._caller is not caller:
                    self._discard_answers()
                    self._caller = caller
                if not self._num_unanswered:
                    self._send(job, time_limit_s)
                if following is not None:
                    self._send(following, time_limit_s)
                yield self._receive_or_retry(job, time_limit_s)
        finally:
            if self._caller is caller:
                self._discard_answers()

    def _discard_answers(self) -> None:
        # Otherwise the next caller would take an answer to this one's job for its own.
        if self._num_unanswered:
            self.close()

    def _send(self, job: Job, time_limit_s: float) -> None:
        if self._process is None:
            self._start()
        self._slot = 1 - self._slot
        self._memories[self._slot].shrink()
        self._num_unanswered += 1
        # A dead child is noticed when its answer is awaited.
        with contextlib.suppress(ConnectionError):
            self._connection.send((job, self._slot, time_limit_s))

    def _receive_or_retry(self, job: Job, time_limit_s: float) -> Any:
        # The clip may be intact: something else (low memory, a shutdown) may have killed the child.
        for is_retry in (False, True):
            if is_retry:
                self._send(job, time_limit_s)
            try:
                return self._receive(job, time_limit_s)
            except (EOFError, ConnectionError):
                self.close()
        return RejectedError(job.path, "crashed")

    def _receive(self, job: Job, time_limit_s: float) -> Any:
        if not self._connection.poll(time_limit_s):
            self.close()
            return RejectedError(job.path, "timed_out")
        answer = self._connection.recv()
        self._num_unanswered -= 1
        return RejectedError(job.path, *answer) if isinstance(answer, Rejection) else answer

    def _start(self) -> None:
        # Through a pipe instead of shared memory, a clip would take twice as long.
        self._memories = [SharedMemory() for _ in range(2)]
        self._connection, other = Pipe()
        descriptors = (other.fileno(), *(memory.file.fileno() for memory in self._memories))
        # Not multiprocessing: its children first import the parent's main module, which in a Ray worker is Ray's.
        # The child imports this package from the same folder. It has its own session, which Ctrl-C does not reach.
        path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-P", "-c", f"from {serve.__module__} import serve; serve{descriptors}"]
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


def _absolute(path: str | Path) -> str:
    # The child may have started in another directory. Not os.path.abspath, which resolves `link/..` wrongly.
    return os.path.join(os.getcwd(), path)

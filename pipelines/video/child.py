"""Run the decoder in the child process that `worker` starts.

Legend: T time, H W frame height and width in pixels, C channels (3: RGB, 1: grey).
"""

import contextlib
import math
import mmap
import os
import resource
import signal
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
import numpy as np

from pipelines.video.decode import MAX_CLIP_BYTES, announced_frames, as_clip, decode_into, open_images
from pipelines.video.errors import RejectedError, VideoFacts
from pipelines.video.fitting import resize
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling

__all__ = ["Block", "Job", "Rejection", "SharedMemory", "serve"]


# Writing to fresh memory takes as long as decoding, so clips of up to this size leave theirs allocated.
_KEPT_BYTES = 2**28
# What a child may allocate after it has started. The largest image that FFmpeg accepts needs 3 GiB.
_CHILD_BYTES = 2**33
# The most that a block of a stream has; at least one frame.
_BLOCK_FRAMES, _BLOCK_BYTES = 32, 2**23
# A child whose parent died ends this long after the time limit, even if its decoder hangs.
_ORPHAN_S = 10


class Job(NamedTuple):
    """A request to the child."""

    kind: str
    """count, clip, open (a stream and its first block) or next (its next block)"""
    path: str
    frame: FrameSize | None = None
    sampling: Sampling = Sampling()


class Rejection(NamedTuple):
    """The answer to a job whose file gives no clip."""

    reason: str
    facts: VideoFacts | None = None


class Block(NamedTuple):
    """Consecutive frames of a stream."""

    slot: int
    """which of the shared memories holds them"""
    frame: FrameSize
    fps: float
    times: list[float]
    """s, one for each frame"""
    has_more: bool
    """whether there are more frames"""
    rejection: Rejection | None
    """why the video is rejected at its end"""


class SharedMemory:
    """Space for the largest clip, mapped by parent and child: an unnamed file, in memory if the system supports it.

    Only pages that were written take memory; they stay allocated for later clips.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is not None:
            self.file: IO[bytes] = os.fdopen(descriptor, "r+b")
        else:
            in_memory = hasattr(os, "memfd_create")
            self.file = os.fdopen(os.memfd_create("clip"), "r+b") if in_memory else tempfile.TemporaryFile()  # noqa: SIM115
            self.file.truncate(MAX_CLIP_BYTES)
        self.array = np.frombuffer(mmap.mmap(self.file.fileno(), MAX_CLIP_BYTES), np.uint8)

    def shrink(self) -> None:
        """Frees the memory if an unusually long clip took much of it."""
        if os.fstat(self.file.fileno()).st_blocks * 512 > _KEPT_BYTES:
            self.file.truncate(0)
            self.file.truncate(MAX_CLIP_BYTES)


class _BlockReader:
    """Reads a video block by block, in the child."""

    def __init__(self, job: Job) -> None:
        self._path, self._frame, self._fit = job.path, job.frame, job.sampling.fit
        self._fps, self._images = open_images(job.path, job.sampling)

    def read(self, slot: int, memory: np.ndarray) -> Block:
        """Decodes the next frames into the front of `memory`."""
        times: list[float] = []
        has_more, rejection = False, None
        try:
            for seconds, image, pixel_aspect in self._images:
                frame = self._frame = self._frame or _displayed_size(image, pixel_aspect)
                if frame.size > len(memory):
                    raise RejectedError(self._path, "too_large")
                resize(image, self._fit, as_clip(memory, len(times) + 1, frame)[-1], pixel_aspect)
                times.append(seconds)
                if len(times) == max(1, min(_BLOCK_FRAMES, _BLOCK_BYTES // frame.size)):
                    has_more = True
                    break
        except RejectedError as error:
            rejection = Rejection(error.reason, error.facts)
        except (MemoryError, cv2.error):
            rejection = Rejection("too_large")
        return Block(slot, self._frame or FrameSize(0, 0, 3), self._fps, times, has_more, rejection)


def _displayed_size(image: np.ndarray, pixel_aspect: float) -> FrameSize:
    return FrameSize(max(1, round(image.shape[1] * pixel_aspect)), image.shape[0], 3)


def serve(connection_descriptor: int, *memory_descriptors: int) -> None:
    """Answers jobs in the child until the parent closes the connection."""
    cv2.setNumThreads(1)
    memories = [SharedMemory(descriptor) for descriptor in memory_descriptors]
    _limit_memory()
    # Libraries may print to standard output, which is for the parent's results.
    os.dup2(2, 1)
    reader: _BlockReader | None = None
    with Connection(connection_descriptor) as connection, contextlib.suppress(EOFError, ConnectionError):
        connection.send("ready")
        while True:
            job, slot, time_limit_s = connection.recv()
            # Ends a child that hangs after its parent died.
            signal.alarm(math.ceil(time_limit_s) + _ORPHAN_S)
            try:
                if job.kind == "open":
                    reader = _BlockReader(job)
                answer = _answer(job, slot, memories[slot].array, reader)
            except RejectedError as error:
                answer = Rejection(error.reason, error.facts)
            signal.alarm(0)
            connection.send(answer)


def _answer(job: Job, slot: int, memory: np.ndarray, reader: _BlockReader | None) -> Any:
    if job.kind == "count":
        return announced_frames(job.path)
    if job.kind == "clip":
        assert job.frame is not None
        return slot, *decode_into(job.path, job.frame, job.sampling, memory)
    # If this child replaces one that crashed, the stream is lost.
    return Rejection("crashed") if reader is None else reader.read(slot, memory)


def _limit_memory() -> None:
    """Bounds what a wrong header can make the decoder allocate, and prevents huge core dumps after a crash."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE + _CHILD_BYTES
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        if soft == resource.RLIM_INFINITY or soft > limit:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))

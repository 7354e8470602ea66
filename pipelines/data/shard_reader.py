"""Read the clips of shards from memory-mapped files: raw frames as views, others decoded when they are asked for.

Legend: T time, H W frame height and width in pixels, C channels (3: RGB, 1: grey).
"""

import contextlib
import mmap
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.core.errors import UserError
from pipelines.data.codecs import CODECS, decode
from pipelines.data.shards import Clip, shard_schema
from pipelines.storage.cache import Remote, open_cached
from pipelines.video.frame import FrameSize

__all__ = ["Split"]


class _Shard(NamedTuple):
    path: str
    memory: mmap.mmap
    codec: str


class _Stored(NamedTuple):
    """The place of a clip's frames, and their checksum; None for raw frames."""

    shard: _Shard
    start: int
    num_bytes: int
    crc32: int | None

    def bytes(self) -> np.ndarray:
        """uint8 [num_bytes], a view of the mapped file."""
        return np.frombuffer(self.shard.memory, np.uint8, self.num_bytes, self.start)


class Split(Sequence[Clip]):
    """The clips of some shards, or given rows of them.

    Opening reads all columns but the frames. Raw frames are views of memory-mapped files: reading a clip copies
    nothing. Encoded frames are decoded each time that a clip is read. Many threads may read a split; after unpickling
    (in a spawned worker process) it opens its files again.

    Attributes:
        clip_ids: A string for each clip.
        labels: A tuple of class indices for each clip.
        groups: A string for each clip, "" if unknown.
        fps: frames/s of each clip, 0 if unknown.
        lengths: int32 [clips], frames of each clip.
        num_bytes: int64 [clips], bytes of each clip in its file.
        frame: The size of every frame.
    """

    def __init__(self, files: Sequence[Path | Remote], frame: FrameSize, rows: Sequence[int] | None = None) -> None:
        self._files, self.frame, self._rows = tuple(files), frame, rows
        self.clip_ids: list[str] = []
        self.labels: list[tuple[int, ...]] = []
        self.groups: list[str] = []
        self.fps: list[float] = []
        self._stored: list[_Stored] = []
        lengths: list[int] = []
        with contextlib.ExitStack() as opened:
            sources: list[Path | IO[bytes]] = [file for file in files if isinstance(file, Path)]
            if remote := [file for file in files if isinstance(file, Remote)]:
                sources += [opened.enter_context(file) for file in open_cached(remote)]
            for source in sources:
                path = source if isinstance(source, Path) else source.name
                try:
                    lengths += self._map(source)
                except (OSError, ValueError, pa.ArrowException) as error:
                    if isinstance(error, OSError) and error.strerror:
                        raise UserError(f"{path} can't be read: {error.strerror}") from error
                    raise _damaged(path, error) from error
        self.lengths = np.array(lengths, np.int32)
        if rows is not None:
            self._take(rows)
        self.num_bytes = np.array([stored.num_bytes for stored in self._stored], np.int64)

    def _take(self, rows: Sequence[int]) -> None:
        self.clip_ids = [self.clip_ids[row] for row in rows]
        self.labels = [self.labels[row] for row in rows]
        self.groups = [self.groups[row] for row in rows]
        self.fps = [self.fps[row] for row in rows]
        self._stored = [self._stored[row] for row in rows]
        self.lengths = self.lengths[list(rows)]

    def _map(self, file: Path | IO[bytes]) -> list[int]:
        """Adds the clips of a shard and closes its file; returns their lengths."""
        with file.open("rb") if isinstance(file, Path) else file as opened:
            # Private and writable, so that torch accepts views without a warning. Writes would stay in this process;
            # no swap is reserved for them.
            flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)
            memory = mmap.mmap(opened.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        whole = pa.py_buffer(memory)
        table = pa.ipc.open_file(whole).read_all()
        codec = (table.schema.metadata or {}).get(b"codec", b"raw").decode()
        if codec not in CODECS:
            raise ValueError(f"its codec is {codec!r}")
        if not table.schema.equals(shard_schema(codec)):
            raise ValueError(f"its columns are {', '.join(table.schema.names)}")
        # Otherwise a damaged offset could point anywhere in memory.
        table.validate(full=True)
        self.clip_ids += table["clip_id"].to_pylist()
        self.labels += map(tuple, table["labels"].to_pylist())
        self.groups += table["group"].to_pylist()
        self.fps += table["fps"].to_pylist()
        lengths: list[int] = table["num_frames"].to_pylist()
        checksums = [None] * len(lengths) if codec == "raw" else table["crc32"].to_pylist()
        shard = _Shard(str(opened.name), memory, codec)
        for length, crc32, column in zip(lengths, checksums, table["frames"].chunks, strict=True):
            _, offsets, data = column.buffers()
            start, stop = np.frombuffer(offsets, np.int64, count=2).tolist()
            num_bytes = stop - start
            if codec == "raw" and num_bytes != length * self.frame.size:
                raise ValueError(f"a clip has {num_bytes:,} bytes instead of {length * self.frame.size:,}")
            if length < 0 or (length > 0) != (num_bytes > 0):
                raise ValueError(f"a clip has {length:,} frames in {num_bytes:,} bytes")
            # Arrow keeps a buffer without bytes elsewhere.
            place = data.address - whole.address + start if num_bytes else 0
            self._stored.append(_Stored(shard, place, num_bytes, crc32))
        return lengths

    @property
    def is_encoded(self) -> bool:
        """Whether clips have to be decoded, because not all are raw."""
        return any(stored.crc32 is not None for stored in self._stored)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Clip:  # type: ignore[override]
        """Raises UserError if encoded frames are damaged; raw frames are taken as they are."""
        return Clip(self.clip_ids[index], self.labels[index], self.groups[index], self.fps[index], self._frames(index))

    def _frames(self, index: int) -> np.ndarray:
        stored, shape = self._stored[index], (int(self.lengths[index]), *self.frame.shape)
        data = stored.bytes()
        try:
            # First, because a decoder should not see bytes that nobody encoded.
            if stored.crc32 is not None and zlib.crc32(data.data) != stored.crc32:
                raise ValueError("its checksum differs")
            return decode(stored.shard.codec, data, shape)
        except ValueError as error:
            raise _damaged(stored.shard.path, f"{self.clip_ids[index]}: {error}") from error

    def prefetch(self, indices: Iterable[int]) -> None:
        """Reads clips from the disk into memory and this process's page tables; other threads run meanwhile."""
        clips = [self._stored[index] for index in indices]
        for shard, start, num_bytes, _ in clips:
            page = start - start % mmap.PAGESIZE
            shard.memory.madvise(mmap.MADV_WILLNEED, page, start - page + num_bytes)
        for stored in clips:
            # numpy's sum releases the interpreter lock; madvise holds it.
            stored.bytes()[:: mmap.PAGESIZE].sum()

    def release(self, indices: Iterable[int]) -> None:
        """Removes clips from this process's resident memory; the page cache of the system may keep them."""
        for index in indices:
            shard, start, num_bytes, _ = self._stored[index]
            first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (start + num_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
            if last > first:
                shard.memory.madvise(mmap.MADV_DONTNEED, first, last - first)

    def __reduce__(self) -> tuple[Any, ...]:
        return Split, (self._files, self.frame, self._rows)


def _damaged(path: object, error: object) -> UserError:
    return UserError(f"{path} is damaged ({' '.join(str(error).split())}); delete it and run preprocess --resume")

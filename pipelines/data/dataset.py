"""Read shards: dataset.json, and the clips as views of memory-mapped files; verify them.

Remote shards are first copied to this node's disk (storage.cache).

Legend: T time, H W frame height and width in pixels, C channels (3: RGB, 1: grey).
"""

import contextlib
import hashlib
import json
import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from pipelines.core.errors import UserError
from pipelines.data.shards import DATASET_JSON, FORMAT, FORMAT_VERSION, SCHEMA, Clip
from pipelines.storage.cache import Remote, open_cached
from pipelines.storage.location import Location
from pipelines.video.frame import FrameSize

__all__ = ["ShardDataset", "Split"]


def _is_damaged(file: Location, sha256: str) -> bool:
    digest = hashlib.sha256()
    try:
        for chunk in file.chunks():
            digest.update(chunk)
    except OSError:
        # A file that the disk cannot read is damaged. A network failure is no sign of damage: StorageError.
        return True
    return digest.hexdigest() != sha256


@dataclass(frozen=True)
class ShardDataset:
    """A finished directory of shards, as described by its dataset.json.

    Example:
        data = ShardDataset.open("shards")
        train = data.split("train")
        clip = train[0]           # clip.frames: uint8 [T, H, W, C], a view of the file
    """

    place: Location
    classes: tuple[str, ...]
    task: str
    """single_label or multi_label"""
    frame: FrameSize
    sampling: dict[str, Any]
    mean: tuple[float, ...]
    """per channel, of the train split, in units of uint8 values (0 to 255)"""
    std: tuple[float, ...]
    """likewise"""
    splits: dict[str, dict[str, Any]]
    """by name: num_clips, num_frames, shards (each file, num_clips, num_frames, num_bytes, sha256)"""
    rows: dict[str, tuple[int, ...]] | None = None
    """of a view with other splits (folds.py): by split, its rows in `clips()`; None: the splits of dataset.json"""

    @classmethod
    def open(cls, place: str | Path | Location, *, check_sizes: bool = True) -> "ShardDataset":
        """Reads dataset.json and checks the size of every local shard; `verify` checks the bytes.

        Args:
            place: The directory.
            check_sizes: False: do not check them, for callers that examine each shard (`damaged`).

        Raises:
            UserError: the directory is missing, unfinished or of another version, or a shard is missing or truncated.
        """
        place = Location.of(place)
        document = _read_dataset_json(place)
        try:
            dataset = cls(
                place,
                tuple(document["classes"]),
                document["task"],
                FrameSize(**document["frame"]),
                document["sampling"],
                tuple(document["mean"]),
                tuple(document["std"]),
                document["splits"],
            )
            for file, shard in dataset._shards():
                if check_sizes and place.is_local:
                    _check_size(file.local, shard["num_bytes"])
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{place / DATASET_JSON} is damaged ({error}); delete it and run preprocess --resume"
            ) from error
        return dataset

    def split(self, name: str) -> "Split":
        """Opens one split; remote shards are copied to this node's disk, unless they are there already.

        Raises:
            UserError: there is no split of this name, or a shard is not an Arrow file.
            StepError: a remote shard cannot be copied, or is damaged.
        """
        names = self.splits if self.rows is None else self.rows
        if name not in names:
            raise UserError(f"{self.place} has no split {name!r}; it has {', '.join(names)}")
        if self.rows is None:
            return self._read([(self.place / shard["file"], shard) for shard in self.splits[name]["shards"]])
        return self._read(self._shards(), self.rows[name])

    def clips(self) -> "Split":
        """All clips of all splits, in the order of the shards; the same errors as `split`."""
        return self._read(self._shards())

    def _read(self, shards: Iterable[tuple[Location, dict[str, Any]]], rows: Sequence[int] | None = None) -> "Split":
        shards = list(shards)
        if self.place.is_local:
            return Split([file.local for file, _ in shards], self.frame, rows)
        remote = [Remote(file, shard["sha256"], shard["num_bytes"]) for file, shard in shards]
        return Split(remote, self.frame, rows)

    def damaged(self) -> Iterator[tuple[str, bool]]:
        """Reads every shard; yields its name, and whether it is unreadable or its SHA-256 differs from dataset.json."""
        for file, shard in self._shards():
            yield shard["file"], _is_damaged(file, shard["sha256"])

    def verify(self) -> None:
        """Reads every shard and compares its SHA-256 with dataset.json.

        Raises:
            UserError: a shard differs; the message names the first one.
        """
        for file, is_damaged in self.damaged():
            if is_damaged:
                raise UserError(
                    f"{self.place / file} is damaged: its SHA-256 differs from {DATASET_JSON}; delete it and run "
                    "preprocess --resume"
                )

    def _shards(self) -> Iterator[tuple[Location, dict[str, Any]]]:
        for split in self.splits.values():
            for shard in split["shards"]:
                yield self.place / shard["file"], shard


def _read_dataset_json(place: Location) -> dict[str, Any]:
    file = place / DATASET_JSON
    try:
        text = file.read_text()
    except (FileNotFoundError, NotADirectoryError):
        if not place.is_dir():
            raise UserError(
                f"{place} is no directory; make shards there with: python -m pipelines.preprocess VIDEOS {place}"
            ) from None
        raise UserError(
            f"{place} has no {DATASET_JSON}: it is unfinished or no directory of shards; finish it with "
            "preprocess --resume"
        ) from None
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is damaged ({error}); delete it and run preprocess --resume") from error
    try:
        document = json.loads(text)
        found = document["format"], document["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); delete it and run preprocess --resume") from error
    if found != (FORMAT, FORMAT_VERSION):
        raise UserError(
            f"{file} has format {found[0]} version {found[1]}, this program reads {FORMAT} version "
            f"{FORMAT_VERSION}; run preprocess again, or use the program that wrote it"
        )
    return document


def _check_size(file: Path, num_bytes: int) -> None:
    if not file.exists():
        raise UserError(f"{file} is missing; run preprocess again, with --resume")
    if (size := file.stat().st_size) != num_bytes:
        raise UserError(
            f"{file} is damaged: it has {size:,} bytes instead of {num_bytes:,}; delete it and run preprocess --resume"
        )


class Split(Sequence[Clip]):
    """The clips of some shards, or given rows of them, as views of memory-mapped files: reading a clip copies nothing.

    Opening reads all columns but the frames. Many threads may read a split; after unpickling (in a spawned worker
    process) it opens its files again.

    Attributes:
        clip_ids: A string for each clip.
        labels: A tuple of class indices for each clip.
        groups: A string for each clip, "" if unknown.
        lengths: int32 [clips], frames of each clip.
        frame: The size of every frame.
    """

    def __init__(self, files: Sequence[Path | Remote], frame: FrameSize, rows: Sequence[int] | None = None) -> None:
        self._files, self.frame, self._rows = tuple(files), frame, rows
        self.clip_ids: list[str] = []
        self.labels: list[tuple[int, ...]] = []
        self.groups: list[str] = []
        self._fps: list[float] = []
        # For each clip: the mapped shard, and the offset of its frames.
        self._offsets: list[tuple[mmap.mmap, int]] = []
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
                    raise UserError(
                        f"{path} is damaged ({' '.join(str(error).split())}); delete it and run preprocess --resume"
                    ) from error
        self.lengths = np.array(lengths, np.int32)
        if rows is not None:
            self._take(rows)

    def _take(self, rows: Sequence[int]) -> None:
        self.clip_ids = [self.clip_ids[row] for row in rows]
        self.labels = [self.labels[row] for row in rows]
        self.groups = [self.groups[row] for row in rows]
        self._fps = [self._fps[row] for row in rows]
        self._offsets = [self._offsets[row] for row in rows]
        self.lengths = self.lengths[list(rows)]

    def _map(self, file: Path | IO[bytes]) -> list[int]:
        """Adds the clips of a shard and closes its file; returns their lengths."""
        with file.open("rb") if isinstance(file, Path) else file as opened:
            # Private and writable, so that torch accepts views without a warning. Writes would stay in this process;
            # no swap is reserved for them.
            flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)
            shard = mmap.mmap(opened.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        whole = pa.py_buffer(shard)
        table = pa.ipc.open_file(whole).read_all()
        if not table.schema.equals(SCHEMA):
            raise ValueError(f"its columns are {', '.join(table.schema.names)}")
        # Otherwise a damaged offset could point anywhere in memory.
        table.validate(full=True)
        self.clip_ids += table["clip_id"].to_pylist()
        self.labels += map(tuple, table["labels"].to_pylist())
        self.groups += table["group"].to_pylist()
        self._fps += table["fps"].to_pylist()
        lengths: list[int] = table["num_frames"].to_pylist()
        for length, column in zip(lengths, table["frames"].chunks, strict=True):
            _, offsets, data = column.buffers()
            start, stop = np.frombuffer(offsets, np.int64, count=2).tolist()
            if stop - start != length * self.frame.size:
                raise ValueError(f"a clip has {stop - start:,} bytes instead of {length * self.frame.size:,}")
            self._offsets.append((shard, data.address - whole.address + start))
        return lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Clip:  # type: ignore[override]
        return Clip(self.clip_ids[index], self.labels[index], self.groups[index], self._fps[index], self._frames(index))

    def _frames(self, index: int) -> np.ndarray:
        shard, start = self._offsets[index]
        length = int(self.lengths[index])
        frames = np.frombuffer(shard, np.uint8, length * self.frame.size, start)
        return frames.reshape(length, *self.frame.shape)

    def prefetch(self, indices: Iterable[int]) -> None:
        """Reads clips from the disk into memory and this process's page tables; other threads run meanwhile."""
        indices = list(indices)
        for index in indices:
            shard, start = self._offsets[index]
            page = start - start % mmap.PAGESIZE
            shard.madvise(mmap.MADV_WILLNEED, page, start - page + self._num_bytes(index))
        for index in indices:
            # numpy's sum releases the interpreter lock; madvise holds it.
            self._frames(index).reshape(-1)[:: mmap.PAGESIZE].sum()

    def release(self, indices: Iterable[int]) -> None:
        """Removes clips from this process's resident memory; the page cache of the system may keep them."""
        for index in indices:
            shard, start = self._offsets[index]
            first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (start + self._num_bytes(index)) // mmap.PAGESIZE * mmap.PAGESIZE
            if last > first:
                shard.madvise(mmap.MADV_DONTNEED, first, last - first)

    def _num_bytes(self, index: int) -> int:
        return int(self.lengths[index]) * self.frame.size

    def __reduce__(self) -> tuple[Any, ...]:
        return Split, (self._files, self.frame, self._rows)

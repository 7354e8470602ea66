"""The shard format: write, memory-map, verify. Readable by plain pyarrow, without Ray and without torch.

    SHARDS/dataset.json         what is there; written last, so without it the directory is unfinished
    SHARDS/<split>-NNNNN.arrow  uncompressed Arrow IPC file; a row is a clip, and so is a record batch

SHARDS is a local directory, or a URI that pyarrow opens; remote shards are read by way of this node's disk (cache.py).

Legend: T time, H W frame height and width in pixels, C channels (3: RGB, 1: grey).
"""

import hashlib
import io
import json
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from pipelines.cache import Remote, cached
from pipelines.cli import UserError
from pipelines.storage import Location

__all__ = [
    "DATASET_JSON",
    "FORMAT",
    "FORMAT_VERSION",
    "REJECTED_CSV",
    "SCHEMA",
    "Clip",
    "Frame",
    "ShardDataset",
    "Split",
    "write_dataset_json",
    "write_shard",
]

FORMAT = "ttrnn-shards"
FORMAT_VERSION = 1
DATASET_JSON = "dataset.json"
REJECTED_CSV = "rejected.csv"
SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("labels", pa.list_(pa.int32())),
        ("group", pa.string()),
        ("num_frames", pa.int32()),
        ("fps", pa.float32()),
        ("frames", pa.large_binary()),
    ],
    metadata={"format": FORMAT, "version": str(FORMAT_VERSION)},
)


@dataclass(frozen=True)
class Frame:
    """The size of every frame of a data set: width and height in pixels, channels 3 (RGB) or 1 (grey)."""

    width: int
    height: int
    channels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.height, self.width, self.channels

    @property
    def size(self) -> int:
        """Values in one frame: H * W * C."""
        return self.height * self.width * self.channels


@dataclass(frozen=True, eq=False)
class Clip:
    """One clip. `labels` are indices into the classes; `group` is "" and `fps` (frames/s) is 0 where unknown."""

    clip_id: str
    labels: tuple[int, ...]
    group: str
    fps: float
    frames: np.ndarray
    """uint8 [T, H, W, C]"""


def write_shard(place: str | Path | Location, clips: Iterable[Clip]) -> dict[str, Any]:
    """Writes one shard, whole or not at all, holding no more than one clip in memory.

    A clip is a record batch of its own: that lets a shard grow beyond the memory, and a row be read without a copy.

    Returns:
        The shard's entry in dataset.json: file, num_clips, num_frames, num_bytes, sha256.
    """
    place = Location.of(place)
    num_clips = num_frames = 0
    with place.writing() as file:
        hashing = _Hashing(file)
        with pa.ipc.new_file(hashing, SCHEMA) as writer:
            for clip in clips:
                writer.write_batch(_to_batch(clip))
                num_clips += 1
                num_frames += len(clip.frames)
    return {
        "file": place.name,
        "num_clips": num_clips,
        "num_frames": num_frames,
        "num_bytes": hashing.num_bytes,
        "sha256": hashing.digest.hexdigest(),
    }


class _Hashing(io.RawIOBase):
    """Takes the SHA-256 of what is written while it is in the cache: reading it again would cost as much as writing."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest, self.num_bytes = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.num_bytes += self.file.write(data)
        return memoryview(data).nbytes


def _to_batch(clip: Clip) -> pa.RecordBatch:
    assert clip.frames.dtype == np.uint8, clip.frames.dtype
    assert clip.frames.ndim == 4, clip.frames.shape
    offsets = np.array([0, clip.frames.nbytes], np.int64)
    # From buffers: pa.array([bytes]) would copy the frames twice.
    frames = pa.Array.from_buffers(
        pa.large_binary(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(clip.frames))]
    )
    row = [clip.clip_id, list(clip.labels), clip.group, len(clip.frames), clip.fps]
    columns = [pa.array([value], field.type) for value, field in zip(row, SCHEMA, strict=False)]
    return pa.record_batch([*columns, frames], schema=SCHEMA)


def _sha256(place: Location) -> str:
    digest = hashlib.sha256()
    for chunk in place.chunks():
        digest.update(chunk)
    return digest.hexdigest()


def _is_damaged(file: Location, sha256: str) -> bool:
    try:
        return _sha256(file) != sha256
    except OSError:
        # A disk that can't read a file has damaged it. A network that fails says nothing of the file: StorageError.
        return True


def write_dataset_json(
    place: str | Path | Location,
    *,
    classes: Sequence[str],
    task: str,
    frame: Frame,
    sampling: Mapping[str, Any],
    mean: Sequence[float],
    std: Sequence[float],
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    options: Mapping[str, Any],
) -> None:
    """Writes dataset.json, which says that the shards are complete: call it last.

    Args:
        place: The directory of the shards.
        classes: Names of the classes; a clip's labels are indices into them.
        task: "single_label" or "multi_label".
        frame: The size of every frame.
        sampling: How frames were picked from a video (decode.Sampling.to_dict).
        mean: Per channel, of the train split, in units of uint8 values (0 to 255).
        std: Likewise.
        splits: For each split what `write_shard` returned, in order.
        options: What the shards were made with, for a reader; nothing here is read back.
    """
    totals = {
        name: {
            "num_clips": sum(shard["num_clips"] for shard in shards),
            "num_frames": sum(shard["num_frames"] for shard in shards),
            "shards": list(shards),
        }
        for name, shards in splits.items()
    }
    document = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "classes": list(classes),
        "task": task,
        "frame": asdict(frame),
        "sampling": dict(sampling),
        "mean": list(mean),
        "std": list(std),
        "splits": totals,
        "options": dict(options),
    }
    (Location.of(place) / DATASET_JSON).write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")


@dataclass(frozen=True)
class ShardDataset:
    """A finished directory of shards: what dataset.json says of it.

    Example:
        data = ShardDataset.open("shards")
        train = data.split("train")
        clip = train[0]           # clip.frames: uint8 [T, H, W, C], a view of the file
    """

    place: Location
    classes: tuple[str, ...]
    task: str
    """single_label or multi_label"""
    frame: Frame
    sampling: dict[str, Any]
    mean: tuple[float, ...]
    """per channel, of the train split, in units of uint8 values (0 to 255)"""
    std: tuple[float, ...]
    """likewise"""
    splits: dict[str, dict[str, Any]]
    """by name: num_clips, num_frames, shards (each file, num_clips, num_frames, num_bytes, sha256)"""
    dealt: dict[str, tuple[int, ...]] | None = None
    """of a view (resplit.py): by split, which of all clips are in it; None: the splits as they were made"""

    @classmethod
    def open(cls, place: str | Path | Location, *, check_sizes: bool = True) -> "ShardDataset":
        """Reads dataset.json and checks that every local shard is there in its full size; `verify` checks the bytes.

        Args:
            place: The directory.
            check_sizes: False leaves the shards alone, for somebody who wants to know of each one (`damaged`).

        Raises:
            UserError: no such directory, unfinished, of another version, or a shard is missing or cut short.
        """
        place = Location.of(place)
        document = _read_dataset_json(place)
        try:
            dataset = cls(
                place,
                tuple(document["classes"]),
                document["task"],
                Frame(**document["frame"]),
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
        """Opens one split; remote shards are fetched to this node's disk, where they are not there yet.

        Raises:
            UserError: no split of this name, or a shard that is no Arrow file.
            StepError: a remote shard can't be fetched, or is damaged.
        """
        names = self.splits if self.dealt is None else self.dealt
        if name not in names:
            raise UserError(f"{self.place} has no split {name!r}; it has {', '.join(names)}")
        if self.dealt is None:
            return self._read([(self.place / shard["file"], shard) for shard in self.splits[name]["shards"]])
        return self._read(self._shards(), self.dealt[name])

    def clips(self) -> "Split":
        """All clips of all splits, in the order of the shards; the same errors as `split`."""
        return self._read(self._shards())

    def _read(self, shards: Iterable[tuple[Location, dict[str, Any]]], rows: Sequence[int] | None = None) -> "Split":
        shards = list(shards)
        if self.place.is_local:
            return Split([file.local for file, _ in shards], self.frame, rows)
        remote = [Remote(file, shard["sha256"], shard["num_bytes"]) for file, shard in shards]
        return Split(cached(remote), self.frame, rows)

    def damaged(self) -> Iterator[tuple[str, bool]]:
        """Reads every shard; yields its name, and whether its SHA-256 is not dataset.json's, or it can't be read."""
        for file, shard in self._shards():
            yield shard["file"], _is_damaged(file, shard["sha256"])

    def verify(self) -> None:
        """Reads every shard and compares its SHA-256 with dataset.json.

        Raises:
            UserError: naming the first shard that differs.
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
    """The clips of some shards, or the given rows of them, as views of memory-mapped files: reading one copies nothing.

    Opening reads the columns beside the frames, once. A split may be read by many threads; pickled (for a spawned
    worker process) it opens its files anew.

    Attributes:
        clip_ids: A string for each clip.
        labels: A tuple of class indices for each clip.
        groups: A string for each clip, "" where unknown.
        lengths: int32 [clips], frames of each clip.
        frame: The size of every frame.
    """

    def __init__(self, files: Sequence[Path], frame: Frame, rows: Sequence[int] | None = None) -> None:
        self._files, self.frame, self._rows = tuple(files), frame, rows
        self.clip_ids: list[str] = []
        self.labels: list[tuple[int, ...]] = []
        self.groups: list[str] = []
        self._fps: list[float] = []
        # Of each clip: the map of its shard, and where in it its frames begin.
        self._places: list[tuple[mmap.mmap, int]] = []
        lengths: list[int] = []
        for file in self._files:
            try:
                lengths += self._map(file)
            except (OSError, ValueError, pa.ArrowException) as error:
                if isinstance(error, OSError) and error.strerror:
                    raise UserError(f"{file} can't be read: {error.strerror}") from error
                raise UserError(
                    f"{file} is damaged ({' '.join(str(error).split())}); delete it and run preprocess --resume"
                ) from error
        self.lengths = np.array(lengths, np.int32)
        if rows is not None:
            self._take(rows)

    def _take(self, rows: Sequence[int]) -> None:
        self.clip_ids = [self.clip_ids[row] for row in rows]
        self.labels = [self.labels[row] for row in rows]
        self.groups = [self.groups[row] for row in rows]
        self._fps = [self._fps[row] for row in rows]
        self._places = [self._places[row] for row in rows]
        self.lengths = self.lengths[list(rows)]

    def _map(self, file: Path) -> list[int]:
        """Adds the clips of a shard; returns their lengths."""
        with file.open("rb") as opened:
            # Private and writable, so that torch takes views of it without a warning. What somebody wrote into one
            # would stay in this process. No swap is set aside for that.
            flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)
            shard = mmap.mmap(opened.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        whole = pa.py_buffer(shard)
        table = pa.ipc.open_file(whole).read_all()
        if not table.schema.equals(SCHEMA):
            raise ValueError(f"its columns are {', '.join(table.schema.names)}")
        # Otherwise a changed byte may lead anywhere in memory.
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
            self._places.append((shard, data.address - whole.address + start))
        return lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Clip:  # type: ignore[override]
        return Clip(self.clip_ids[index], self.labels[index], self.groups[index], self._fps[index], self._frames(index))

    def _frames(self, index: int) -> np.ndarray:
        shard, start = self._places[index]
        length = int(self.lengths[index])
        frames = np.frombuffer(shard, np.uint8, length * self.frame.size, start)
        return frames.reshape(length, *self.frame.shape)

    def prefetch(self, indices: Iterable[int]) -> None:
        """Brings clips from the disk into memory, and into this process's page tables; other threads run meanwhile."""
        indices = list(indices)
        for index in indices:
            shard, start = self._places[index]
            page = start - start % mmap.PAGESIZE
            shard.madvise(mmap.MADV_WILLNEED, page, start - page + self._num_bytes(index))
        for index in indices:
            # Sums by numpy, which lets go of the interpreter; madvise holds it.
            self._frames(index).reshape(-1)[:: mmap.PAGESIZE].sum()

    def release(self, indices: Iterable[int]) -> None:
        """Takes clips out of this process's resident memory; the system's cache keeps them while it has room."""
        for index in indices:
            shard, start = self._places[index]
            first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (start + self._num_bytes(index)) // mmap.PAGESIZE * mmap.PAGESIZE
            if last > first:
                shard.madvise(mmap.MADV_DONTNEED, first, last - first)

    def _num_bytes(self, index: int) -> int:
        return int(self.lengths[index]) * self.frame.size

    def __reduce__(self) -> tuple[Any, ...]:
        return Split, (self._files, self.frame, self._rows)

"""The shard format: write, memory-map, verify. Readable by plain pyarrow, without Ray and without torch.

    SHARDS/dataset.json         what is there; written last, so without it the directory is unfinished
    SHARDS/<split>-NNNNN.arrow  uncompressed Arrow IPC file; a row is a clip, and so is a record batch

Legend: T time, H W frame height and width in pixels, C channels (3: RGB, 1: grey).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.cli import UserError, user_errors

__all__ = [
    "DATASET_JSON",
    "FORMAT",
    "FORMAT_VERSION",
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


def write_shard(path: str | Path, clips: Iterable[Clip]) -> dict[str, Any]:
    """Writes one shard, whole or not at all, holding no more than one clip in memory.

    A clip is a record batch of its own: that lets a shard grow beyond the memory, and a row be read without a copy.

    Returns:
        The shard's entry in dataset.json: file, num_clips, num_frames, num_bytes, sha256.
    """
    # Here, because ttrnn loads torch, which readers of shards and decoding processes can do without.
    from ttrnn.files import atomic_write

    path = Path(path)
    num_clips = num_frames = 0
    with atomic_write(path, "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        for clip in clips:
            writer.write_batch(_to_batch(clip))
            num_clips += 1
            num_frames += len(clip.frames)
    return {
        "file": path.name,
        "num_clips": num_clips,
        "num_frames": num_frames,
        "num_bytes": path.stat().st_size,
        "sha256": _sha256(path),
    }


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_dataset_json(
    path: str | Path,
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
        path: The directory of the shards.
        classes: Names of the classes; a clip's labels are indices into them.
        task: "single_label" or "multi_label".
        frame: The size of every frame.
        sampling: How frames were picked from a video (decode.Sampling.to_dict).
        mean: Per channel, of the train split, in units of uint8 values (0 to 255).
        std: Likewise.
        splits: For each split what `write_shard` returned, in order.
        options: What the shards were made with, for a reader; nothing here is read back.
    """
    from ttrnn.files import atomic_write

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
    with atomic_write(Path(path) / DATASET_JSON) as file:
        json.dump(document, file, indent=2, allow_nan=False)
        file.write("\n")


@dataclass(frozen=True)
class ShardDataset:
    """A finished directory of shards: what dataset.json says of it.

    Example:
        data = ShardDataset.open("shards")
        train = data.split("train")
        clip = train[0]           # clip.frames: uint8 [T, H, W, C], a view of the file
    """

    path: Path
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

    @classmethod
    def open(cls, path: str | Path) -> "ShardDataset":
        """Reads dataset.json and checks that every shard is there in its full size; `verify` checks the bytes.

        Raises:
            UserError: no such directory, unfinished, of another version, or a shard is missing or cut short.
        """
        path = Path(path)
        document = _read_dataset_json(path)
        try:
            dataset = cls(
                path,
                tuple(document["classes"]),
                document["task"],
                Frame(**document["frame"]),
                document["sampling"],
                tuple(document["mean"]),
                tuple(document["std"]),
                document["splits"],
            )
            for file, shard in dataset._shards():
                _check_size(file, shard["num_bytes"])
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path / DATASET_JSON} is damaged ({error}); run preprocess again") from error
        return dataset

    def split(self, name: str) -> "Split":
        """Opens one split.

        Raises:
            UserError: no split of this name, or a shard that is no Arrow file.
        """
        if name not in self.splits:
            raise UserError(f"{self.path} has no split {name!r}; it has {', '.join(self.splits)}")
        return Split([self.path / shard["file"] for shard in self.splits[name]["shards"]], self.frame)

    def verify(self) -> None:
        """Reads every shard and compares its SHA-256 with dataset.json.

        Raises:
            UserError: naming the first shard that differs.
        """
        for file, shard in self._shards():
            if _sha256(file) != shard["sha256"]:
                raise UserError(f"{file} is damaged: its SHA-256 differs from {DATASET_JSON}; run preprocess again")

    def _shards(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        for split in self.splits.values():
            for shard in split["shards"]:
                yield self.path / shard["file"], shard


def _read_dataset_json(path: Path) -> dict[str, Any]:
    file = path / DATASET_JSON
    if not path.is_dir():
        raise UserError(f"{path} is no directory; make shards there with: python -m pipelines.preprocess VIDEOS {path}")
    if not file.exists():
        raise UserError(
            f"{path} has no {DATASET_JSON}: it is unfinished or no directory of shards; finish it with "
            "preprocess --resume"
        )
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        found = document["format"], document["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); run preprocess again") from error
    if found != (FORMAT, FORMAT_VERSION):
        raise UserError(
            f"{file} has format {found[0]} version {found[1]}, this program reads {FORMAT} version "
            f"{FORMAT_VERSION}; run preprocess again, or use the program that wrote it"
        )
    return document


def _check_size(file: Path, num_bytes: int) -> None:
    if not file.exists():
        raise UserError(f"{file} is missing; run preprocess again")
    if (size := file.stat().st_size) != num_bytes:
        raise UserError(f"{file} is damaged: it has {size:,} bytes instead of {num_bytes:,}; run preprocess again")


class Split(Sequence[Clip]):
    """The clips of one split, as read-only views of memory-mapped files: reading one copies nothing.

    Opening reads the columns beside the frames, once. A split may be read by many threads; pickled (for a spawned
    worker process) it opens its files anew.

    Attributes:
        clip_ids: A string for each clip.
        labels: A tuple of class indices for each clip.
        groups: A string for each clip, "" where unknown.
        lengths: int32 [clips], frames of each clip.
        frame: The size of every frame.
    """

    def __init__(self, files: Sequence[Path], frame: Frame) -> None:
        self._files, self.frame = tuple(files), frame
        self.clip_ids: list[str] = []
        self.labels: list[tuple[int, ...]] = []
        self.groups: list[str] = []
        self._fps: list[float] = []
        self._frames: list[np.ndarray] = []
        for file in self._files:
            # ArrowInvalid is a ValueError.
            with user_errors(f"{file} is damaged; run preprocess again"):
                self._map(file)
        self.lengths = np.array([len(frames) for frames in self._frames], np.int32)

    def _map(self, file: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(file)))
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            clip_id, labels, group, num_frames, fps = (batch.column(field)[0].as_py() for field in SCHEMA.names[:-1])
            self.clip_ids.append(clip_id)
            self.labels.append(tuple(labels))
            self.groups.append(group)
            self._fps.append(fps)
            _, offsets, data = batch.column("frames").buffers()
            start, stop = np.frombuffer(offsets, np.int64, count=2)
            frames = np.frombuffer(data, np.uint8)[start:stop]
            self._frames.append(frames.reshape(num_frames, *self.frame.shape))

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Clip:  # type: ignore[override]
        return Clip(self.clip_ids[index], self.labels[index], self.groups[index], self._fps[index], self._frames[index])

    def __reduce__(self) -> tuple[Any, ...]:
        return Split, (self._files, self.frame)

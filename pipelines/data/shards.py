"""Write shards of clips as Arrow IPC files that plain pyarrow reads, without Ray and without torch.

    SHARDS/dataset.json         the description; written last, so that a directory without it is unfinished
    SHARDS/<split>-NNNNN.arrow  uncompressed Arrow IPC file; a row is a clip, and so is a record batch

Version 1 holds raw frames. Version 2 holds frames as a codec encodes them (codecs.py), which the metadata of the schema
and dataset.json name, and their CRC-32.

Legend: T time, H W frame height and width in pixels, C channels (3: RGB, 1: grey).
"""

import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.data.codecs import encode
from pipelines.storage.location import Location
from pipelines.video.frame import FrameSize

__all__ = [
    "DATASET_JSON",
    "FORMAT",
    "VERSIONS",
    "Clip",
    "EncodedClip",
    "encode_clip",
    "shard_schema",
    "write_dataset_json",
    "write_encoded",
    "write_shard",
]


FORMAT = "ttrnn-shards"
VERSIONS = (1, 2)
DATASET_JSON = "dataset.json"


def shard_schema(codec: str) -> pa.Schema:
    """The columns of a shard; the checksum is that of the encoded frames, and raw frames have none."""
    fields = [
        ("clip_id", pa.string()),
        ("labels", pa.list_(pa.int32())),
        ("group", pa.string()),
        ("num_frames", pa.int32()),
        ("fps", pa.float32()),
        ("crc32", pa.uint32()),
        ("frames", pa.large_binary()),
    ]
    metadata = {"format": FORMAT, "version": str(_version(codec))}
    if codec == "raw":
        return pa.schema([field for field in fields if field[0] != "crc32"], metadata)
    return pa.schema(fields, {**metadata, "codec": codec})


def _version(codec: str) -> int:
    return 1 if codec == "raw" else 2


@dataclass(frozen=True, eq=False)
class Clip:
    """A decoded clip. `labels` are indices into the classes; `group` is "" and `fps` (frames/s) 0 if unknown."""

    clip_id: str
    labels: tuple[int, ...]
    group: str
    fps: float
    frames: np.ndarray
    """uint8 [T, H, W, C]"""


class EncodedClip(NamedTuple):
    """A row of a shard: a clip with its encoded frames."""

    clip_id: str
    labels: tuple[int, ...]
    group: str
    num_frames: int
    fps: float
    data: pa.Buffer


def encode_clip(clip: Clip, codec: str) -> EncodedClip:
    """The row of a clip; raw frames that are contiguous are not copied."""
    data = encode(codec, clip.frames)
    return EncodedClip(clip.clip_id, clip.labels, clip.group, len(clip.frames), clip.fps, data)


def write_shard(place: str | Path | Location, clips: Iterable[Clip], codec: str = "raw") -> dict[str, Any]:
    """Writes one shard atomically; see `write_encoded`."""
    return write_encoded(place, (encode_clip(clip, codec) for clip in clips), codec)


def write_encoded(place: str | Path | Location, clips: Iterable[EncodedClip], codec: str) -> dict[str, Any]:
    """Writes one shard atomically, holding at most one clip in memory.

    Every clip is a record batch: so a shard may be larger than the memory, and a row is read without a copy.

    Args:
        place: The file.
        clips: Its rows.
        codec: With which they were encoded.

    Returns:
        The shard's entry in dataset.json: file, num_clips, num_frames, num_bytes, sha256.
    """
    place, schema = Location.of(place), shard_schema(codec)
    num_clips = num_frames = 0
    with place.writing() as file:
        hashing = _Hashing(file)
        with pa.ipc.new_file(hashing, schema) as writer:
            for clip in clips:
                writer.write_batch(_to_batch(clip, schema))
                num_clips += 1
                num_frames += clip.num_frames
    return {
        "file": place.name,
        "num_clips": num_clips,
        "num_frames": num_frames,
        "num_bytes": hashing.num_bytes,
        "sha256": hashing.digest.hexdigest(),
    }


class _Hashing(io.RawIOBase):
    """A file that computes the SHA-256 of what is written: reading it again would take as long as writing it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest, self.num_bytes = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.num_bytes += self.file.write(data)
        return memoryview(data).nbytes


def _to_batch(clip: EncodedClip, schema: pa.Schema) -> pa.RecordBatch:
    *values, data = clip
    offsets = np.array([0, data.size], np.int64)
    # From buffers: pa.array([bytes]) would copy the frames twice.
    frames = pa.Array.from_buffers(pa.large_binary(), 1, [None, pa.py_buffer(offsets), data])
    if "crc32" in schema.names:
        values.append(zlib.crc32(data))
    columns = [pa.array([value], field.type) for value, field in zip(values, schema, strict=False)]
    return pa.record_batch([*columns, frames], schema=schema)


def write_dataset_json(
    place: str | Path | Location,
    *,
    classes: Sequence[str],
    task: str,
    frame: FrameSize,
    sampling: Mapping[str, Any],
    mean: Sequence[float],
    std: Sequence[float],
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    options: Mapping[str, Any],
    codec: str = "raw",
    decoder: str = "",
) -> None:
    """Writes dataset.json, which marks the shards as complete: call it last.

    Args:
        place: The directory of the shards.
        classes: Names of the classes; a clip's labels are indices into them.
        task: "single_label" or "multi_label".
        frame: The size of every frame.
        sampling: How frames were chosen (Sampling.to_dict).
        mean: Per channel, of the train split, in units of uint8 values (0 to 255).
        std: Likewise.
        splits: For each split the results of `write_shard`, in order.
        options: What the shards were made with; for information only.
        codec: With which the frames are encoded.
        decoder: Its name and version, on which pixels depend a little; for information only.
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
        "version": _version(codec),
        **({} if codec == "raw" else {"codec": codec}),
        "classes": list(classes),
        "task": task,
        "frame": asdict(frame),
        "sampling": dict(sampling),
        "mean": list(mean),
        "std": list(std),
        "splits": totals,
        "options": dict(options),
        "decoder": decoder,
    }
    (Location.of(place) / DATASET_JSON).write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")

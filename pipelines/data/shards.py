"""Write shards of clips as Arrow IPC files that plain pyarrow reads, without Ray and without torch.

    SHARDS/dataset.json         the description; written last, so that a directory without it is unfinished
    SHARDS/<split>-NNNNN.arrow  uncompressed Arrow IPC file; a row is a clip, and so is a record batch

Legend: T time, H W frame height and width in pixels, C channels (3: RGB, 1: grey).
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from pipelines.storage.location import Location
from pipelines.video.frame import FrameSize

__all__ = [
    "DATASET_JSON",
    "FORMAT",
    "FORMAT_VERSION",
    "SCHEMA",
    "Clip",
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


@dataclass(frozen=True, eq=False)
class Clip:
    """A decoded clip. `labels` are indices into the classes; `group` is "" and `fps` (frames/s) 0 if unknown."""

    clip_id: str
    labels: tuple[int, ...]
    group: str
    fps: float
    frames: np.ndarray
    """uint8 [T, H, W, C]"""


def write_shard(place: str | Path | Location, clips: Iterable[Clip]) -> dict[str, Any]:
    """Writes one shard atomically, holding at most one clip in memory.

    Every clip is a record batch: so a shard may be larger than the memory, and a row is read without a copy.

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
    """A file that computes the SHA-256 of what is written: reading it again would take as long as writing it."""

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
        "version": FORMAT_VERSION,
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

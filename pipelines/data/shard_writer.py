"""Decode the clips of one shard, and write the shard and the report on it; this runs on the workers.

Legend: T time, H W frame height and width in pixels, C channels.
"""

import contextlib
import errno
import functools
import itertools
import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np

from pipelines.data.background import Cuts, cut_clips, is_long
from pipelines.data.codecs import CODECS, decode
from pipelines.data.copies import local_copies, room_for_copies
from pipelines.data.plan import Shard, report_location
from pipelines.data.shards import Clip, EncodedClip, encode_clip, write_encoded
from pipelines.storage.filesystem import StorageError
from pipelines.storage.location import Location
from pipelines.video.errors import RejectedError
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from pipelines.video.worker import IsolatedDecoder

__all__ = ["make_shard"]


def make_shard(
    row: dict[str, Any],
    *,
    out: Location,
    frame: FrameSize,
    sampling: Sampling,
    time_limit_s: float,
    codec: str = "raw",
    cuts: Mapping[str, Cuts] = MappingProxyType({}),
    decoder: IsolatedDecoder | None = None,
) -> dict[str, Any]:
    """Decodes the clips of one shard (`row["shard"]`, from `Shard.to_json`) and writes it: the task of Ray Data.

    By default with a decoder that stays with this process. `cuts`, by split, are for shards of long videos.
    """
    decoder = decoder or _decoder(time_limit_s)
    shard = Shard.from_json(row["shard"])
    rejected: list[tuple[Any, ...]] = []
    lengths: list[tuple[int, float]] = []
    pixel_sums = np.zeros((3, frame.channels), np.int64)

    def clips() -> Iterator[EncodedClip]:
        nonlocal pixel_sums
        with room_for_copies() as directory:
            for clip_id, clip in _clips(shard, directory, frame, sampling, cuts, decoder):
                if isinstance(clip, RejectedError):
                    rejected.append((clip_id, clip.reason, *(clip.facts or ())))
                    continue
                encoded = encode_clip(clip, codec)
                lengths.append((len(clip.frames), clip.fps))
                if shard.split == "train":
                    pixel_sums += _pixel_sums(_as_read(encoded, clip.frames, codec))
                yield encoded

    try:
        entry = _write_unless_empty(out / shard.file, clips(), codec)
        report = {
            "shard": entry,
            "split": shard.split,
            "rejected": rejected,
            "pixel_sums": pixel_sums.tolist(),
            "lengths": lengths,
        }
        report_location(out, shard.file).write_text(json.dumps(report))
    except StorageError as error:
        return {"errno": 0, "error": str(error), "report": ""}
    except OSError as error:
        # As a row: Ray would wrap the exception, and the driver has to distinguish a full disk from other errors.
        return {"errno": error.errno or errno.EIO, "error": f"{out / shard.file}: {error.strerror}", "report": ""}
    return {"errno": 0, "error": "", "report": json.dumps(report)}


def _clips(
    shard: Shard,
    directory: str,
    frame: FrameSize,
    sampling: Sampling,
    cuts: Mapping[str, Cuts],
    decoder: IsolatedDecoder,
) -> Iterator[tuple[str, Clip | RejectedError]]:
    """The clip_id of each record of a shard, and its clip, or clips cut from it, or why it gives none or no more."""
    files = local_copies((clip.path for clip in shard.clips), directory)
    if any(map(is_long, shard.clips)):
        for record, file in zip(shard.clips, files, strict=True):
            try:
                for cut in cut_clips(record, file, frame, sampling, cuts[shard.split], decoder):
                    yield record.clip_id, cut
            except RejectedError as error:
                yield record.clip_id, error
        return
    with contextlib.closing(decoder.decode_many(files, frame, sampling)) as decoded:
        for clip, result in zip(shard.clips, decoded, strict=True):
            if isinstance(result, RejectedError):
                yield clip.clip_id, result
            else:
                yield clip.clip_id, Clip(clip.clip_id, clip.labels, clip.group, result.fps, result.frames)


def _write_unless_empty(file: Location, clips: Iterator[EncodedClip], codec: str) -> dict[str, Any]:
    first = next(clips, None)
    if first is None:
        return {"file": file.name, "num_clips": 0, "num_frames": 0, "num_bytes": 0, "sha256": ""}
    return write_encoded(file, itertools.chain([first], clips), codec)


@functools.cache
def _decoder(time_limit_s: float) -> IsolatedDecoder:
    """One decoder for the life of the worker process: starting its child takes longer than decoding many a clip."""
    return IsolatedDecoder(time_limit_s)


def _as_read(clip: EncodedClip, frames: np.ndarray, codec: str) -> np.ndarray:
    """The frames as training will read them."""
    return decode(codec, clip.data, frames.shape) if CODECS[codec].is_lossy else frames


def _pixel_sums(frames: np.ndarray) -> np.ndarray:
    """int64 [3, C]: the number of pixels, their sum, and the sum of their squares; integers add up in any order.

    From a clip of more than 16 frames, 16 to 31 evenly spaced ones are used.
    """
    some = frames[:: max(1, len(frames) // 16)]
    number = some[..., 0].size
    mean, std = cv2.meanStdDev(some.reshape(-1, *some.shape[2:]))
    moments = np.stack([np.ones_like(mean), mean, std**2 + mean**2])[..., 0]
    return np.rint(number * moments).astype(np.int64)

"""What a worker does: the clips of one shard, from video files to the file that holds them and the report on it.

Legend: T time, H W frame height and width in pixels, C channels.
"""

import contextlib
import errno
import functools
import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipelines.data.plan import report_location
from pipelines.data.shards import Clip, write_shard
from pipelines.storage.filesystem import StorageError
from pipelines.storage.location import Location
from pipelines.video.errors import RejectedError
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from pipelines.video.worker import IsolatedDecoder

__all__ = ["local_copies", "make_shard", "room_for_copies"]


def make_shard(
    row: dict[str, Any], *, out: Location, frame: FrameSize, sampling: Sampling, time_limit_s: float
) -> dict[str, Any]:
    """The Ray task: decodes the clips of one shard and writes it, then its report."""
    unit = json.loads(row["unit"])
    rejected: list[tuple[str, str]] = []
    pixel_sums = np.zeros((3, frame.channels), np.int64)

    def clips() -> Iterator[Clip]:
        nonlocal pixel_sums
        with room_for_copies() as directory:
            paths = local_copies((path for *_, path in unit["clips"]), directory)
            with contextlib.closing(_decoder(time_limit_s).decode_many(paths, frame, sampling)) as results:
                for (clip_id, labels, group, _), result in zip(unit["clips"], results, strict=True):
                    if isinstance(result, RejectedError):
                        rejected.append((clip_id, result.reason))
                        continue
                    if unit["split"] == "train":
                        pixel_sums += _pixel_sums(result.frames)
                    yield Clip(clip_id, tuple(labels), group, result.fps, result.frames)

    try:
        shard = _write_unless_empty(out / unit["file"], clips())
        report = {"shard": shard, "split": unit["split"], "rejected": rejected, "pixel_sums": pixel_sums.tolist()}
        report_location(out, unit["file"]).write_text(json.dumps(report))
    except StorageError as error:
        return {"errno": 0, "error": str(error), "report": ""}
    except OSError as error:
        # As a row: Ray would wrap it up, and the driver has to tell a full disk from other troubles.
        return {"errno": error.errno or errno.EIO, "error": f"{out / unit['file']}: {error.strerror}", "report": ""}
    return {"errno": 0, "error": "", "report": json.dumps(report)}


def _write_unless_empty(place: Location, clips: Iterator[Clip]) -> dict[str, Any]:
    first = next(clips, None)
    if first is None:
        return {"file": place.name, "num_clips": 0, "num_frames": 0, "num_bytes": 0, "sha256": ""}
    return write_shard(place, itertools.chain([first], clips))


room_for_copies = functools.partial(tempfile.TemporaryDirectory, prefix="ttrnn-")


def local_copies(paths: Iterable[str], directory: str) -> Iterator[Path]:
    """Paths that a decoder can open. A copy of a remote video lasts until the next path but one is asked for."""
    for number, path in enumerate(paths):
        place, copy = Location.of(path), Path(directory, str(number))
        if place.is_local:
            yield place.local
            continue
        with contextlib.suppress(FileNotFoundError):
            place.download(copy)
        yield copy
        Path(directory, str(number - 1)).unlink(missing_ok=True)


@functools.cache
def _decoder(time_limit_s: float) -> IsolatedDecoder:
    """One for the life of the worker process: its child takes longer to start than many a clip to decode."""
    return IsolatedDecoder(time_limit_s)


def _pixel_sums(frames: np.ndarray) -> np.ndarray:
    """int64 [3, C]: number of pixels, their sum, the sum of their squares; integers, so that order does not matter.

    Of a long clip every n-th frame is enough; no more than 31 count.
    """
    some = frames[:: max(1, len(frames) // 16)]
    number = some[..., 0].size
    mean, std = cv2.meanStdDev(some.reshape(-1, *some.shape[2:]))
    moments = np.stack([np.ones_like(mean), mean, std**2 + mean**2])[..., 0]
    return np.rint(number * moments).astype(np.int64)

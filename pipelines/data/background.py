"""Add clips of nothing to a data set: a class `background`, cut at random from long videos.

A long video is one record of the catalogue and one shard of the plan; the task that writes the shard cuts its clips.
"""

import contextlib
import logging
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.errors import UserError
from pipelines.core.text import plural
from pipelines.data.catalog import Catalog
from pipelines.data.clip import ClipRecord
from pipelines.data.partition import partition
from pipelines.data.plan import Plan
from pipelines.data.shards import Clip
from pipelines.data.splits import SPLITS
from pipelines.data.tree import list_tree
from pipelines.storage.location import Location
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from pipelines.video.windows import sample_clip
from pipelines.video.worker import IsolatedDecoder
from ttrnn.events import BACKGROUND

__all__ = ["Cuts", "add_background", "cut_clips", "is_long", "random_spans"]

log = logging.getLogger(__name__)
_PREFIX = "background:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cuts:
    """How to cut clips from the long videos of a split."""

    lengths: Sequence[tuple[int, float]]
    """frames of each clip of the other classes, and their rate in frames/s (0: unknown)"""
    num_clips: int
    """from each video"""
    seed: int

    @classmethod
    def of_split(cls, split: str, plan: Plan, reports: Mapping[str, Mapping[str, Any]], seed: int) -> "Cuts":
        """As many clips in a split as the other classes have there together, and of their lengths in train."""
        clips = [clip for shard in plan.shards if shard.split == split for clip in shard.clips]
        num_long = sum(map(is_long, clips))
        # The splits of a small data set may lack some lengths.
        train = [shard for shard in plan.shards if shard.split == "train" and not any(map(is_long, shard.clips))]
        lengths = [tuple(length) for shard in train for length in reports[shard.file].get("lengths", ())]
        return cls(lengths=lengths, num_clips=-(-(len(clips) - num_long) // max(1, num_long)), seed=seed)


def is_long(clip: ClipRecord) -> bool:
    """Whether a record is a long video to cut clips from."""
    return clip.clip_id.startswith(_PREFIX)


def add_background(catalog: Catalog, folder: str, seed: int, kept_splits: Mapping[str, str]) -> Catalog:
    """The catalogue with the long videos of a folder, each in one split.

    Args:
        catalog: The labelled clips.
        folder: Videos, in subfolders too, in which nothing happens; or its URI.
        seed: Of the splits.
        kept_splits: Splits of the videos, by clip_id, that are in the data set already.

    Raises:
        UserError: there are fewer videos than splits.
    """
    location = Location.of(folder).absolute()
    if not location.is_dir():
        raise UserError(
            f"--background {folder} is no folder; give one with long videos in which nothing happens, or none"
        )
    videos = sorted(list_tree(location)[0].videos)
    if len(videos) < len(SPLITS):
        raise UserError(
            f"--background {folder} has {plural(len(videos), 'video')}, but train, val and test each need their own; "
            "give 3 or more, for instance one long video cut in three"
        )
    units = {video: ("group", _PREFIX + video) for video in videos}
    fixed = {units[video]: kept_splits[_PREFIX + video] for video in videos if _PREFIX + video in kept_splits}
    splits = partition(((unit, frozenset([BACKGROUND])) for unit in units.values()), SPLITS, str(seed), fixed)
    counts = Counter(splits.values())
    log.info("%s: %d long videos (%s)", folder, len(videos), ", ".join(f"{name} {counts[name]}" for name in SPLITS))
    classes = catalog.classes if BACKGROUND in catalog.classes else (*catalog.classes, BACKGROUND)
    records = (
        ClipRecord(
            clip_id=_PREFIX + video,
            path=str(location / video),
            labels=(classes.index(BACKGROUND),),
            group=_PREFIX + video,
            split=splits[unit],
        )
        for video, unit in units.items()
    )
    return replace(catalog, clips=(*catalog.clips, *records), classes=classes)


def cut_clips(
    record: ClipRecord, file: Path, frame: FrameSize, sampling: Sampling, cuts: Cuts, decoder: IsolatedDecoder
) -> Iterator[Clip]:
    """Cuts clips at random from a long video, none of which share a frame; reads the video once, or twice with fps.

    Clips have as many frames as those of the other classes; if the sampling takes a number of frames of each clip, they
    last as long.

    Raises:
        RejectedError: the video does not decode, here or after some clips.
    """
    rng = np.random.default_rng([cuts.seed, zlib.crc32(record.clip_id.encode())])
    whole = replace(sampling, max_frames=None, num_frames=None)
    # The header does not say how many frames are left at another rate.
    total = 0 if sampling.fps else decoder.count_frames(file) // (sampling.every or 1)
    total = total or sum(1 for _ in decoder.stream(file, frame, whole).frames)
    stream = decoder.stream(file, frame, whole)
    drawn = [cuts.lengths[index] for index in rng.integers(len(cuts.lengths), size=cuts.num_clips)]
    is_timed = sampling.num_frames is not None and stream.fps
    lengths = [round(number / fps * stream.fps) if is_timed and fps else number for number, fps in drawn]
    spans = random_spans(total, lengths, rng)
    with contextlib.closing(stream.frames):
        for start, pixels_THWC in _pieces((pixels for _, pixels in stream.frames), spans):
            clip_THWC = sample_clip(pixels_THWC, sampling)
            fps = stream.fps * len(clip_THWC) / len(pixels_THWC) if sampling.num_frames is not None else stream.fps
            yield Clip(f"{record.clip_id}#{start}", record.labels, record.group, fps, clip_THWC)


def random_spans(total: int, lengths: Sequence[int], rng: np.random.Generator) -> list[tuple[int, int]]:
    """Places spans of these lengths at random in a line of `total`, in this order, without overlap.

    Args:
        total: Length of the line.
        lengths: Of the spans; those that have no room any more are left out, the first one is cut to fit.
        rng: Draws the gaps, of which all are equally probable.

    Returns:
        Start and end of each.
    """
    kept = [min(lengths[0], total)] if lengths and total else []
    for length in lengths[1:]:
        if sum(kept) + length > total:
            break
        kept.append(length)
    before = np.sort(rng.integers(total - sum(kept) + 1, size=len(kept)))
    starts = (before + np.cumsum([0, *kept])[:-1]).tolist()
    return [(start, start + length) for start, length in zip(starts, kept, strict=True)]


def _pieces(frames: Iterable[np.ndarray], spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, np.ndarray]]:
    """The start and the frames, T x H x W x C, of each span; a span that the frames do not reach is left out."""
    number, frames = 0, iter(frames)
    for start, end in spans:
        piece = []
        for pixels in frames:
            number += 1
            if number > start:
                piece.append(pixels.copy())
            if number == end:
                yield start, np.stack(piece)
                break

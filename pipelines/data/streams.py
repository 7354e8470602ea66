"""Join labelled clips and clips of nothing to one long stream, and read the table of what happens in streams."""

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipelines.core.errors import UserError
from pipelines.data.tables import Row, TableError, decode, read_rows
from pipelines.storage.location import Location
from ttrnn.events import BACKGROUND
from ttrnn.files import atomic_write

if TYPE_CHECKING:
    from pipelines.data.dataset import Split

__all__ = ["HEADER", "JoinedStream", "Truth", "join_clips", "read_truths", "write_truths"]

HEADER = ("video", "start_s", "end_s", "label")


class Truth(NamedTuple):
    """A stretch of a stream in which something happens."""

    label: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class JoinedStream:
    """Clips of a split, one after the other, each at its own frame rate."""

    split: "Split"
    classes: Sequence[str]
    rows: tuple[int, ...]
    """of the split, in order"""

    @property
    def seconds(self) -> float:
        """Length in s."""
        return float(sum(self.split.lengths[row] / self.split.fps[row] for row in self.rows))

    def frames(self) -> Iterator[tuple[float, np.ndarray]]:
        """The time of each frame in s and its pixels, uint8 [H, W, C]."""
        start_s = 0.0
        for row in self.rows:
            clip = self.split[row]
            for number, pixels in enumerate(clip.frames):
                yield start_s + number / clip.fps, pixels
            start_s += len(clip.frames) / clip.fps

    def truths(self) -> list[Truth]:
        """The clips that are not of nothing, in order."""
        found, start_s = [], 0.0
        for row in self.rows:
            end_s = start_s + float(self.split.lengths[row] / self.split.fps[row])
            found += [Truth(name, start_s, end_s) for name in self._labels(row)]
            start_s = end_s
        return found

    def spans(self, name: str) -> list[tuple[int, int]]:
        """Number of the first frame of each clip of a class, and of the frame that follows it."""
        found, start = [], 0
        for row in self.rows:
            end = start + int(self.split.lengths[row])
            found += [(start, end)] if name in self._labels(row) else []
            start = end
        return found

    def _labels(self, row: int) -> list[str]:
        return [name for name in (self.classes[label] for label in self.split.labels[row]) if name != BACKGROUND]


def join_clips(split: "Split", classes: Sequence[str], seed: int) -> JoinedStream:
    """Joins all clips of a split in random order, with clips of nothing before, between and after the others.

    Each clip of nothing is taken equally often, give or take one: once, unless there are too few to part the others.

    Raises:
        UserError: there are no clips of nothing, only such clips, or clips without a frame rate.
    """
    if BACKGROUND not in classes:
        raise UserError(
            f"the shards have no class {BACKGROUND!r}, clips of nothing, so false alarms cannot be counted; make "
            "shards with preprocess --background FOLDER and train again"
        )
    nothing = (list(classes).index(BACKGROUND),)
    rng, is_nothing = np.random.default_rng(seed), np.array([labels == nothing for labels in split.labels], bool)
    clips, pauses = rng.permutation(np.flatnonzero(~is_nothing)), np.flatnonzero(is_nothing)
    if not len(clips) or not len(pauses):
        raise UserError(f"a stream needs clips of {BACKGROUND!r} and others, got {len(pauses)} and {len(clips)}")
    if not min(split.fps) > 0:
        raise UserError(f"clip {split.clip_ids[int(np.argmin(split.fps))]} has no frame rate; preprocess it with --fps")
    num_gaps = len(clips) + 1
    times = math.ceil(num_gaps / len(pauses))
    order = np.concatenate([rng.permutation(pauses) for _ in range(times)])[: max(num_gaps, len(pauses))]
    # Every gap gets one, and the rest fall into gaps at random.
    gaps = np.concatenate([np.arange(num_gaps), rng.integers(num_gaps, size=len(order) - num_gaps)])
    rows: list[int] = []
    for gap in range(num_gaps):
        rows += order[gaps == gap].tolist()
        rows += clips[gap : gap + 1].tolist()
    return JoinedStream(split, classes, tuple(rows))


def read_truths(file: Location) -> dict[str, list[Truth]]:
    """By video, what happens in it, from a CSV file video,start_s,end_s,label; a video alone in its row has nothing.

    Videos are relative to the file.

    Raises:
        UserError: the file cannot be read, or a row of it; the message names the row.
    """
    try:
        header, *rows = read_rows(decode(file.read_bytes(), str(file))) or [Row(1, [])]
    except (OSError, TableError) as error:
        raise UserError(f"{file} cannot be read ({error}); give a CSV file {','.join(HEADER)}") from error
    names = [name.strip().lower() for name in header.values]
    if missing := [name for name in HEADER if name not in names]:
        raise UserError(f"{file} has no column {', '.join(missing)}; its header must have {','.join(HEADER)}")
    if not rows:
        raise UserError(f"{file} has no videos; give rows {','.join(HEADER)}")
    found: dict[str, list[Truth]] = {}
    for row in rows:
        values = dict(zip(names, (value.strip() for value in row.values), strict=False))
        video, start, end, label = (values.get(name, "") for name in HEADER)
        truths = found.setdefault(video, [])
        if not (start or end or label):
            continue
        try:
            truth = Truth(label, float(start), float(end))
        except ValueError:
            truth = Truth(label, math.nan, math.nan)
        if not (video and label and 0 <= truth.start_s < truth.end_s < math.inf):
            raise UserError(
                f"{file}, line {row.line}: {','.join(row.values)} must be a video, 0 <= start_s < end_s, and a label"
            )
        truths.append(truth)
    return {video: sorted(truths, key=lambda truth: truth[1:]) for video, truths in found.items()}


def write_truths(file: Path, streams: Iterable[tuple[str, Sequence[Truth]]]) -> None:
    """Writes what happens in each video, as `read_truths` reads it."""
    with atomic_write(file) as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(HEADER)
        for video, truths in streams:
            rows = [[f"{truth.start_s:.3f}", f"{truth.end_s:.3f}", truth.label] for truth in truths]
            writer.writerows([video, *row] for row in rows or [["", "", ""]])

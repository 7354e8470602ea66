"""Read a catalogue of labelled videos: every clip with its classes and its split."""

import logging
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.errors import UserError
from pipelines.data.layouts import CSV, LAYOUTS, READERS, list_tree, parent_of, read_csv, recognise
from pipelines.data.splits import DEFAULT_SPLITS, SPLITS, Row, SplitOptions, assign_splits
from pipelines.storage.location import Location

__all__ = ["Catalog", "Entry", "read_catalog"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """A clip to be."""

    path: str
    """local and absolute, or a URI"""
    clip_id: str
    """its path relative to the catalogue"""
    labels: tuple[int, ...]
    """indices into the classes"""
    group: str
    """"" where unknown"""
    split: str


@dataclass(frozen=True)
class Catalog:
    """All clips, ordered by clip_id; the classes; the task, single_label or multi_label."""

    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    """ordered by name, new ones after those that were known before"""
    task: str
    left_out: tuple[str, ...] = ()
    """video files that do not fit the layout, or whose names are not UTF-8 (what is not is escaped)"""


def read_catalog(
    videos: str | Path,
    layout: str = "auto",
    splits: SplitOptions = DEFAULT_SPLITS,
    *,
    split_list: int = 1,
    kept_splits: Mapping[str, str] | None = None,
    kept_classes: Sequence[str] = (),
    to_learn_from: bool = True,
) -> Catalog:
    """Lists the clips and gives each a split.

    Splits that the catalogue gives (a column, or the data set's own lists) are kept. Those that it lacks are cut from
    its train split, from all clips if it gives none: see `splits.assign_splits`.

    Args:
        videos: A folder of videos, or a CSV file `path,label,group,split` whose paths are relative to it or URIs. Or
            the URI of either.
        layout: "auto", or a name in `LAYOUTS`.
        splits: How to cut.
        split_list: Which of UCF101's three pairs of lists to take.
        kept_splits: Splits of the clips, by clip_id, that are in a data set already: they stay there.
        kept_classes: Classes of that data set: they keep their indices.
        to_learn_from: False: a catalogue that gives splits needs no train split; all are as it gives them, then.

    Raises:
        UserError: there is nothing that a classifier could be trained and tested on.
    """
    given = Location.of(videos).absolute()
    name, base, rows, left_out = _list_clips(given, layout, split_list)
    classes = list(kept_classes)
    classes += sorted(set().union(*(row.labels for row in rows)) - set(classes))
    if len(classes) < 2:
        raise UserError(
            f"{given} has fewer than two classes ({', '.join(classes) or 'none'}); give it another (layout {name} "
            f"reads {LAYOUTS[name]})"
        )
    if to_learn_from or {"", "train"} & {row.split for row in rows}:
        assigned = assign_splits(rows, splits, kept_splits, kept_classes)
    else:
        assigned = [row.split for row in rows]
    sizes = ", ".join(f"{split} {count:,}" for split, count in _count(assigned).items())
    log.info("%s: layout %s, %s clips of %d classes (%s)", given, name, f"{len(rows):,}", len(classes), sizes)
    index = {label: number for number, label in enumerate(classes)}
    labels = {names: tuple(sorted(index[label] for label in names)) for names in {row.labels for row in rows}}
    entries = tuple(
        Entry(_path(base, row.clip_id), row.clip_id, labels[row.labels], row.group, split)
        for row, split in zip(rows, assigned, strict=True)
    )
    task = "single_label" if all(len(names) == 1 for names in labels) else "multi_label"
    return Catalog(entries, tuple(classes), task, tuple(left_out))


def _count(splits: Sequence[str]) -> dict[str, int]:
    return {split: splits.count(split) for split in SPLITS}


def _list_clips(place: Location, layout: str, split_list: int) -> tuple[str, Location, list[Row], list[str]]:
    """(name of the layout, what clip_ids are relative to, rows ordered by clip_id, videos that are left out)."""
    if layout not in ("auto", *LAYOUTS):
        raise UserError(f"layout {layout!r} is unknown; the layouts are auto, {', '.join(LAYOUTS)}")
    if split_list not in (1, 2, 3):
        raise UserError(f"split_list must be 1, 2 or 3, as UCF101's lists are numbered, got {split_list}")
    if not place.exists():
        raise UserError(f"there is no {place}; give a folder of videos, or {CSV}")
    is_folder = place.is_dir()
    if layout != "auto" and (layout == "csv") == is_folder:
        what = "folder" if is_folder else "file"
        raise UserError(f"{place} is a {what}; layout {layout} reads {LAYOUTS[layout]}")
    left_out: list[str] = []
    if is_folder:
        tree, left_out = list_tree(place)
        name = recognise(tree) if layout == "auto" else layout
        below, rows = READERS[name](tree, split_list)
        base = place / below if below else place
        # Its lists leave out on purpose: scenes, and clips with noisy labels.
        if name != "hollywood2":
            found = {posixpath.join(below, row.clip_id) for row in rows}
            left_out += [video for video in tree.videos if video not in found]
    else:
        name, base, rows = "csv", parent_of(place), read_csv(place)
    if not rows:
        raise UserError(f"{place} has no videos for layout {name}, which reads {LAYOUTS[name]}")
    if left_out:
        some = ", ".join(map(repr, left_out[:3])) + (", ..." if len(left_out) > 3 else "")
        log.warning("%s: %s videos do not fit layout %s and are left out: %s", place, f"{len(left_out):,}", name, some)
    return name, base, sorted(rows), left_out


def _path(base: Location, clip_id: str) -> str:
    return clip_id if "://" in clip_id or clip_id.startswith("/") else str(base / clip_id)

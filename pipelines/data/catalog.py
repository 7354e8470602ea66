"""Read a catalogue of labelled videos: every clip with its classes and its split."""

import logging
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.errors import UserError
from pipelines.data.clip import ClipRecord, ListedClip
from pipelines.data.csv_layout import CSV, read_csv
from pipelines.data.layouts import LAYOUTS, READERS, recognise
from pipelines.data.splits import DEFAULT_SPLITS, SPLITS, SplitOptions, assign_splits
from pipelines.data.tree import list_tree, parent_of
from pipelines.storage.location import Location

__all__ = ["Catalog", "read_catalog"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Catalog:
    """All clips, ordered by clip_id; the classes; the task, single_label or multi_label."""

    clips: tuple[ClipRecord, ...]
    classes: tuple[str, ...]
    """ordered by name; new ones follow those that were known before"""
    task: str
    left_out: tuple[str, ...] = ()
    """video files that do not fit the layout, or whose names are not UTF-8 (invalid bytes are escaped)"""


def read_catalog(
    videos: str | Path,
    layout: str = "auto",
    splits: SplitOptions = DEFAULT_SPLITS,
    *,
    split_list: int = 1,
    kept_splits: Mapping[str, str] | None = None,
    kept_classes: Sequence[str] = (),
    for_training: bool = True,
) -> Catalog:
    """Lists the clips and gives each a split.

    Splits that the catalogue gives (in a column, or in the lists of a data set) are kept. Missing ones are cut from its
    train split, or from all clips if it gives none: see `splits.assign_splits`.

    Args:
        videos: A folder of videos, or a CSV file `path,label,group,split` whose paths are relative to it or URIs. Or
            the URI of either.
        layout: "auto", or a name in `LAYOUTS`.
        splits: How to split.
        split_list: Which of UCF101's three pairs of lists to use.
        kept_splits: Splits of the clips, by clip_id, that are in a data set already: they stay there.
        kept_classes: Classes of that data set: they keep their indices.
        for_training: False: given splits are kept as they are, even if there is no train split.

    Raises:
        UserError: the catalogue does not allow to train and test a classifier.
    """
    location = Location.of(videos).absolute()
    name, base, listed, left_out = _list_clips(location, layout, split_list)
    classes = list(kept_classes)
    classes += sorted(set().union(*(clip.labels for clip in listed)) - set(classes))
    if len(classes) < 2:
        raise UserError(
            f"{location} has fewer than two classes ({', '.join(classes) or 'none'}); give it another (layout {name} "
            f"reads {LAYOUTS[name]})"
        )
    if for_training or {"", "train"} & {clip.split for clip in listed}:
        assigned = assign_splits(listed, splits, kept_splits, kept_classes)
    else:
        assigned = [clip.split for clip in listed]
    sizes = ", ".join(f"{split} {assigned.count(split):,}" for split in SPLITS)
    log.info("%s: layout %s, %s clips of %d classes (%s)", location, name, f"{len(listed):,}", len(classes), sizes)
    index = {label: number for number, label in enumerate(classes)}
    labels = {names: tuple(sorted(index[label] for label in names)) for names in {clip.labels for clip in listed}}
    clips = tuple(
        ClipRecord(
            clip_id=clip.clip_id,
            path=_path(base, clip.clip_id),
            labels=labels[clip.labels],
            group=clip.group,
            split=split,
        )
        for clip, split in zip(listed, assigned, strict=True)
    )
    task = "single_label" if all(len(names) == 1 for names in labels) else "multi_label"
    return Catalog(clips, tuple(classes), task, tuple(left_out))


def _list_clips(location: Location, layout: str, split_list: int) -> tuple[str, Location, list[ListedClip], list[str]]:
    """The name of the layout, what clip_ids are relative to, the clips ordered by clip_id, and videos left out."""
    if layout not in ("auto", *LAYOUTS):
        raise UserError(f"layout {layout!r} is unknown; the layouts are auto, {', '.join(LAYOUTS)}")
    if split_list not in (1, 2, 3):
        raise UserError(f"split_list must be 1, 2 or 3, as UCF101's lists are numbered, got {split_list}")
    if not location.exists():
        raise UserError(f"{location} does not exist; give a folder of videos, or {CSV}")
    is_folder = location.is_dir()
    if layout != "auto" and (layout == "csv") == is_folder:
        kind = "folder" if is_folder else "file"
        raise UserError(f"{location} is a {kind}; layout {layout} reads {LAYOUTS[layout]}")
    left_out: list[str] = []
    if is_folder:
        tree, left_out = list_tree(location)
        name = recognise(tree) if layout == "auto" else layout
        folder, clips = READERS[name](tree, split_list)
        base = location / folder if folder else location
        # The lists of hollywood2 leave out videos on purpose: scenes, and clips with noisy labels.
        if name != "hollywood2":
            found = {posixpath.join(folder, clip.clip_id) for clip in clips}
            left_out += [video for video in tree.videos if video not in found]
    else:
        name, base, clips = "csv", parent_of(location), read_csv(location)
    if not clips:
        raise UserError(f"{location} has no videos for layout {name}, which reads {LAYOUTS[name]}")
    if left_out:
        some = ", ".join(map(repr, left_out[:3])) + (", ..." if len(left_out) > 3 else "")
        log.warning(
            "%s: %s videos do not fit layout %s and are left out: %s", location, f"{len(left_out):,}", name, some
        )
    return name, base, sorted(clips), left_out


def _path(base: Location, clip_id: str) -> str:
    return clip_id if "://" in clip_id or clip_id.startswith("/") else str(base / clip_id)

"""Read a catalogue of labelled videos: every clip with its classes and its split."""

import logging
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipelines.core.errors import UserError
from pipelines.core.text import plural
from pipelines.data.clip import ClipRecord, ListedClip
from pipelines.data.csv_layout import CSV, is_csv_catalog, read_csv
from pipelines.data.layouts import LAYOUTS, LIST_FAMILIES, read_as, recognise
from pipelines.data.passed_over import kinds_of, log_passed_over
from pipelines.data.problems import raise_problems
from pipelines.data.splits import DEFAULT_SPLITS, SPLITS, SplitOptions, assign_splits
from pipelines.data.tables import TableError, decode, read_rows
from pipelines.data.tree import list_tree, parent_of
from pipelines.storage.location import Location
from pipelines.video.suffixes import FILE_SUFFIXES, NO_CLIPS, PICTURE_SUFFIXES

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
    picture_fps: float | None = None
    """rate of folders of pictures, frames/s, if there are any and the layout knows it"""


class _Found(NamedTuple):
    """The clips in a folder or a file, ordered by clip_id."""

    layout: str
    base: Location
    """what clip_ids are relative to"""
    clips: list[ListedClip]
    left_out: list[str]
    problems: list[str]
    doubtful: frozenset[str] = frozenset()
    """labels of lines that cannot be read"""
    without_clip: tuple[str, ...] = ()
    """class folders without a clip, and their files"""


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
        videos: A folder of videos, or a CSV file `path,label,group,split` whose paths are relative to it or URIs, or a
            list of a data set (Kinetics, Jester, Something-Something, mmaction2). Or the URI of one.
        layout: "auto", or a name in `LAYOUTS`.
        splits: How to split.
        split_list: Which of the three pairs of lists of UCF101 or HMDB51 to use.
        kept_splits: Splits of the clips, by clip_id, that are in a data set already: they stay there.
        kept_classes: Classes of that data set: they keep their indices.
        for_training: False: given splits are kept as they are, even if there is no train split, and a class need not
            be in every split.

    Raises:
        UserError: the catalogue does not allow to train and test a classifier; the message names all problems.
    """
    location = Location.of(videos).absolute()
    found = _find(location, layout, split_list)
    listed = found.clips
    classes = list(kept_classes)
    classes += sorted(set().union(*(clip.labels for clip in listed)) - set(classes))
    if len(classes) < 2 and not found.problems:
        lost = f"; without a clip: {'; '.join(found.without_clip)}" if found.without_clip else ""
        raise UserError(
            f"{location} has fewer than two classes ({', '.join(classes) or 'none'}); give it another (layout "
            f"{found.layout} reads {read_as(found.layout)}){lost}"
        )
    if for_training or {"", "train"} & {clip.split for clip in listed}:
        assigned = assign_splits(
            listed,
            splits,
            kept_splits,
            kept_classes,
            for_training=for_training,
            problems=found.problems,
            doubtful=found.doubtful,
        )
    else:
        raise_problems(found.problems)
        assigned = [clip.split for clip in listed]
    sizes = ", ".join(f"{split} {assigned.count(split):,}" for split in SPLITS)
    log.info(
        "%s: layout %s, %s clips of %d classes (%s)", location, found.layout, f"{len(listed):,}", len(classes), sizes
    )
    clips = _records(found, assigned, classes)
    task = "single_label" if all(len(clip.labels) == 1 for clip in clips) else "multi_label"
    return Catalog(clips, tuple(classes), task, tuple(found.left_out), _picture_fps(found))


def _picture_fps(found: _Found) -> float | None:
    family = LIST_FAMILIES.get(found.layout)
    has_pictures = any(not clip.clip_id.lower().endswith(FILE_SUFFIXES) for clip in found.clips)
    return family.picture_fps if family and has_pictures else None


def _records(found: _Found, splits: Sequence[str], classes: Sequence[str]) -> tuple[ClipRecord, ...]:
    index = {label: number for number, label in enumerate(classes)}
    labels = {names: tuple(sorted(index[label] for label in names)) for names in {clip.labels for clip in found.clips}}
    return tuple(
        ClipRecord(
            clip_id=clip.clip_id,
            path=_path(found.base, clip.clip_id),
            labels=labels[clip.labels],
            group=clip.group,
            split=split,
        )
        for clip, split in zip(found.clips, splits, strict=True)
    )


def _find(location: Location, layout: str, split_list: int) -> _Found:
    """Lists the clips of a folder or a file; logs which videos and files it passes over."""
    if layout not in ("auto", "csv", *LAYOUTS):
        raise UserError(f"layout {layout!r} is unknown; the layouts are auto, csv, {', '.join(LAYOUTS)}")
    if split_list not in (1, 2, 3):
        raise UserError(f"split_list must be 1, 2 or 3, as UCF101's lists are numbered, got {split_list}")
    if not location.exists():
        raise UserError(f"{location} does not exist; give a folder of videos, or {CSV}")
    is_folder = location.is_dir()
    if layout != "auto" and (layout == "csv" if is_folder else layout not in ("csv", *LIST_FAMILIES)):
        kind = "folder" if is_folder else "file"
        raise UserError(f"{location} is a {kind}; layout {layout} reads {read_as(layout)}")
    found = _find_in_folder(location, layout, split_list) if is_folder else _find_in_file(location, layout)
    if not found.clips:
        raise_problems(found.problems)
        files = location.files() if is_folder else []
        if found.layout.endswith("folders"):
            _refuse_without_classes(location, [file for file in files if file.lower().endswith(FILE_SUFFIXES)])
        holds = [kinds_of(files)] if files else []
        if is_folder and not any(file.lower().endswith(FILE_SUFFIXES + PICTURE_SUFFIXES) for file in files):
            holds.append(NO_CLIPS)
        text = f"; it has {', but '.join(holds)}" if holds else ""
        raise UserError(
            f"{location} has no videos for layout {found.layout}, which reads {read_as(found.layout)}{text}"
        )
    return found


def _refuse_without_classes(location: Location, videos: Sequence[str]) -> None:
    """Refuses videos that lie in no class folder; the message shows one of them both ways."""
    if not videos:
        return
    named = {video: re.split(r"[\W\d_]", video)[0] for video in videos}
    # Names such as walk_01.avi may contain the class.
    label = named[videos[0]] if "" not in named.values() and len(set(named.values())) > 1 else "CLASS"
    raise UserError(
        f"{location} has {plural(len(videos), 'video')} but no class folders, so the classes are unknown; put each "
        f"video into a folder named after its class, {location / label / videos[0]}, or write a CSV file beside the "
        f"videos, header path,label and lines such as {videos[0]},{label}, and give that file"
    )


def _find_in_folder(location: Location, layout: str, split_list: int) -> _Found:
    tree, left_out = list_tree(location)
    name = recognise(tree) if layout == "auto" else layout
    listing = LAYOUTS[name].read(tree, split_list)
    base = location / listing.folder if listing.folder else location
    known = listing.omitted | {posixpath.join(listing.folder, clip.clip_id) for clip in listing.clips}
    left_out += [video for video in tree.videos if video not in known]
    if listing.clips and left_out:
        some = ", ".join(map(repr, left_out[:3])) + (", ..." if len(left_out) > 3 else "")
        log.warning(
            "%s: %s videos do not fit layout %s and are left out: %s", location, f"{len(left_out):,}", name, some
        )
    without_clip = log_passed_over(tree, listing) if listing.clips else []
    return _Found(name, base, sorted(listing.clips), left_out, [], frozenset(), tuple(without_clip))


def _find_in_file(file: Location, layout: str) -> _Found:
    name = _layout_of_file(file) if layout == "auto" else layout
    if name == "csv":
        clips, problems, doubtful = read_csv(file)
        return _Found(name, parent_of(file), sorted(clips), [], problems, doubtful)
    base, relative = parent_of(file), file.name
    # Lists lie beside the videos, or in a folder of their own beside that of the videos.
    if re.match("annotation|list|label|split", base.name.lower()):
        base, relative = parent_of(base), f"{base.name}/{relative}"
    tree, _ = list_tree(base)
    listing = LIST_FAMILIES[name].read_lists(tree, [relative])
    return _Found(name, base, sorted(listing.clips), [], [])


def _layout_of_file(file: Location) -> str:
    """The layout of a list, or csv."""
    if file.name.lower().endswith(FILE_SUFFIXES):
        return "csv"
    try:
        text = decode(file.read_bytes())
        if is_csv_catalog(read_rows(text)):
            return "csv"
    except TableError:
        return "csv"
    return next((name for name, family in LIST_FAMILIES.items() if family.parse(file.name, text)), "csv")


def _path(base: Location, clip_id: str) -> str:
    return clip_id if "://" in clip_id or clip_id.startswith("/") else str(base / clip_id)

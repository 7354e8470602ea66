"""Layouts of labelled videos (class folders, CSV, UCF11, Hollywood2, YouTube Celebrities) -> one table of clips.

A layout is a function that lists clips. What all have in common comes after it: splits, and what makes no sense.
"""

import csv
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np

from pipelines.cli import UserError

__all__ = ["LAYOUTS", "SPLITS", "Catalog", "Entry", "read_catalog"]

log = logging.getLogger(__name__)

SPLITS = {"train": 0.70, "val": 0.15, "test": 0.15}
"""The splits, and the share of the groups (of the clips, where no groups are known) that each gets."""

_VIDEO_SUFFIXES = (
    ".3gp",
    ".avi",
    ".flv",
    ".m4v",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpeg",
    ".mpg",
    ".ogv",
    ".ts",
    ".webm",
    ".wmv",
)
_CSV_COLUMNS = ("path", "label", "group", "split")
_UCF11_CLIP = re.compile(r"[^/]+/(v_[^/]+)/\1_\d+\.\w+")
_CELEBRITY_CLIP = re.compile(r"\d+_(\d+)_\d+_([^/]+)\.\w+")


@dataclass(frozen=True)
class Entry:
    """A clip to be. `clip_id` is its path relative to the catalogue; `labels` are indices into the classes."""

    path: Path
    clip_id: str
    labels: tuple[int, ...]
    group: str
    """"" where unknown"""
    split: str


@dataclass(frozen=True)
class Catalog:
    """All clips, ordered by clip_id; the classes, ordered by name; the task, single_label or multi_label."""

    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    task: str


@dataclass(frozen=True)
class _Row:
    """A clip as its layout tells of it."""

    clip_id: str
    labels: frozenset[str]
    group: str = ""
    split: str = ""


def read_catalog(path: str | Path, layout: str = "auto", allow_group_leak: bool = False, seed: int = 0) -> Catalog:
    """Lists the clips and gives each a split.

    Splits that the catalogue gives are kept. Those that it lacks are cut from its train split (from all clips if it
    gives none): 70/15/15, by group where groups are known, balanced over the classes, the same for the same seed.

    Args:
        path: A folder of videos, or a CSV file `path,label,group,split` whose paths are relative to it.
        layout: "auto", or a name in `LAYOUTS`.
        allow_group_leak: Let a group lie in two splits, and cut splits by clip whatever its group.
        seed: Of the cut.

    Raises:
        UserError: there is nothing that a classifier could be trained and tested on.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"there is no {path}; give a folder of videos, or a CSV file {','.join(_CSV_COLUMNS)}")
    name = _recognise(path) if layout == "auto" else layout
    if name not in LAYOUTS:
        raise UserError(f"layout {name!r} is unknown; the layouts are auto, {', '.join(LAYOUTS)}")
    if (name == "csv") == path.is_dir():
        raise UserError(
            f"{path} is a {'folder' if path.is_dir() else 'file'}; layout {name} reads {LAYOUTS[name].what}"
        )
    rows = sorted(LAYOUTS[name].read(path), key=lambda row: row.clip_id)
    if not rows:
        raise UserError(f"{path} has no videos; layout {name} reads {LAYOUTS[name].what}")
    classes = sorted(set().union(*(row.labels for row in rows)))
    if len(classes) < 2:
        raise UserError(
            f"{path} has fewer than two classes ({', '.join(classes) or 'none'}); give it another (layout "
            f"{name} reads {LAYOUTS[name].what})"
        )
    rows = _give_splits(rows, by_group=not allow_group_leak, seed=seed)
    if not allow_group_leak:
        _refuse_group_leak(rows)
    _refuse_rare_classes(rows, classes, allow_group_leak)
    sizes = Counter(row.split for row in rows)
    log.info(
        "%s: layout %s, %s clips of %d classes (%s)",
        path,
        name,
        f"{len(rows):,}",
        len(classes),
        ", ".join(f"{split} {sizes[split]:,}" for split in SPLITS),
    )
    base = path if path.is_dir() else path.parent
    task = "single_label" if all(len(row.labels) == 1 for row in rows) else "multi_label"
    entries = [
        Entry(base / row.clip_id, row.clip_id, tuple(sorted(map(classes.index, row.labels))), row.group, row.split)
        for row in rows
    ]
    return Catalog(tuple(entries), tuple(classes), task)


def _recognise(path: Path) -> str:
    if not path.is_dir():
        return "csv"
    if (path / "ClipSets").is_dir() and (path / "AVIClips").is_dir():
        return "hollywood2"
    videos = _videos(path)
    for name, pattern in {"ucf11": _UCF11_CLIP, "youtube-celebrities": _CELEBRITY_CLIP}.items():
        # Not all: one stray file should not cost the groups.
        if 2 * sum(pattern.fullmatch(video) is not None for video in videos) > len(videos):
            return name
    return "folders"


def _videos(path: Path) -> list[str]:
    """Video files at any depth, relative, but nothing hidden."""
    found = []
    for folder, folders, files in os.walk(path, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(folder, name).relative_to(path).as_posix()
            for name in files
            if not name.startswith(".") and PurePath(name).suffix.lower() in _VIDEO_SUFFIXES
        ]
    for video in found:
        if video != video.encode(errors="replace").decode():
            raise UserError(f"the name of {video!r} in {path} is not UTF-8; rename it")
    return sorted(found)


def _read_csv(path: Path) -> list[_Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            columns = [column for column in _CSV_COLUMNS if column not in (reader.fieldnames or [])]
            if columns:
                raise UserError(
                    f"{path} lacks the column {', '.join(columns)}; its first line must be "
                    f"{','.join(_CSV_COLUMNS)}, got {','.join(reader.fieldnames or ['nothing'])}"
                )
            lines = [(reader.line_num, {column: line[column].strip() for column in _CSV_COLUMNS}) for line in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path} is no CSV file ({error}); give a folder of videos, or a CSV file {','.join(_CSV_COLUMNS)}"
        ) from error
    rows: dict[str, _Row] = {}
    for number, line in lines:
        labels = [label.strip() for label in line["label"].split("|")]
        if not line["path"] or not all(labels):
            raise UserError(f"{path}, line {number}: the {'label' if line['path'] else 'path'} is empty")
        if line["split"] not in ("", *SPLITS):
            raise UserError(
                f"{path}, line {number}: split {line['split']!r} is unknown; the splits are "
                f"{', '.join(SPLITS)}, or empty"
            )
        clip_id = PurePath(os.path.relpath(path.parent / line["path"], path.parent)).as_posix()
        if clip_id in rows:
            raise UserError(f"{path}, line {number}: {clip_id} is listed twice; join its labels by | in one line")
        rows[clip_id] = _Row(clip_id, frozenset(labels), line["group"], line["split"])
    return list(rows.values())


def _read_folders(path: Path) -> list[_Row]:
    videos = _videos(path)
    for video in videos:
        if "/" not in video:
            raise UserError(f"{path / video} lies in no class folder; move it into one named after its class")
    if videos and {video.split("/")[0] for video in videos} <= set(SPLITS):
        raise UserError(
            f"the folders in {path} are splits, not classes; list the videos in a CSV file {','.join(_CSV_COLUMNS)}"
        )
    return [_Row(video, frozenset([video.split("/")[0]])) for video in videos]


def _read_ucf11(path: Path) -> list[_Row]:
    rows = []
    for video in _videos(path):
        label, *groups = video.split("/")[:-1] or [""]
        if not groups:
            raise _misfit(path / video, "ucf11")
        rows.append(_Row(video, frozenset([label]), "/".join([label, *groups])))
    return rows


def _read_hollywood2(path: Path) -> list[_Row]:
    labels: dict[tuple[str, str], set[str]] = defaultdict(set)
    for split in ("train", "test"):
        # Not the noisy lists *_autotrain.txt.
        for file in sorted((path / "ClipSets").glob(f"*_{split}.txt")):
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
                name, _, sign = line.strip().partition(" ")
                if sign.strip() not in ("1", "+1", "-1"):
                    raise UserError(f"{file}, line {number}: {line!r} is not CLIP +1 or CLIP -1")
                clip = labels[f"AVIClips/{name}.avi", split]
                if sign.strip() != "-1":
                    clip.add(file.stem.removesuffix(f"_{split}"))
    return [_Row(clip_id, frozenset(names), split=split) for (clip_id, split), names in labels.items()]


def _read_youtube_celebrities(path: Path) -> list[_Row]:
    rows = []
    for video in _videos(path):
        match = _CELEBRITY_CLIP.fullmatch(PurePath(video).name)
        if match is None:
            raise _misfit(path / video, "youtube-celebrities")
        video_number, person = match.groups()
        rows.append(_Row(video, frozenset([person]), f"{person}/{video_number}"))
    return rows


def _misfit(file: Path, layout: str) -> UserError:
    return UserError(f"{file} does not fit layout {layout}, which reads {LAYOUTS[layout].what}")


class _Layout(NamedTuple):
    read: Callable[[Path], list[_Row]]
    what: str


LAYOUTS = {
    "csv": _Layout(_read_csv, f"a CSV file {','.join(_CSV_COLUMNS)}"),
    "folders": _Layout(_read_folders, "CLASS/.../clip.avi"),
    "ucf11": _Layout(_read_ucf11, "CLASS/GROUP/clip.mpg (basketball/v_shooting_01/v_shooting_01_02.mpg)"),
    "hollywood2": _Layout(_read_hollywood2, "ClipSets/LABEL_train.txt, ClipSets/LABEL_test.txt and AVIClips/"),
    "youtube-celebrities": _Layout(
        _read_youtube_celebrities, "NUMBER_VIDEO_NUMBER_person.avi (0185_03_008_adam_sandler.avi)"
    ),
}
"""By name, each with what it reads."""


def _give_splits(rows: Sequence[_Row], by_group: bool, seed: int) -> list[_Row]:
    given = {row.split for row in rows}
    if "" in given and len(given) > 1:
        example = next(row for row in rows if not row.split)
        raise UserError(f"{example.clip_id} has no split, others have one; give every clip a split, or none")
    source = "" if "" in given else "train"
    missing = [split for split in SPLITS if split not in given]
    if source not in given:
        raise UserError("no clip has split train; give it to the clips to learn from")
    pool = [row for row in rows if row.split == source]
    cut = _cut(pool, list(dict.fromkeys(["train", *missing])), by_group, seed)
    return [replace(row, split=cut[_unit(row, by_group)]) if row.split == source else row for row in rows]


def _unit(row: _Row, by_group: bool) -> tuple[str, str]:
    """What a cut must not tear apart."""
    return ("group", row.group) if by_group and row.group else ("clip", row.clip_id)


def _cut(rows: Sequence[_Row], splits: Sequence[str], by_group: bool, seed: int) -> dict[tuple[str, str], str]:
    """Deals the units out so that each class has its share of units in every split, and one at least if it has three.

    Rare classes first, each unit to the split that needs its class most (iterative stratification, Sechidis et al.
    2011, with whole groups in place of samples).
    """
    # The label "" stands for any: it balances the splits as a whole, and takes in clips without a label.
    labels: dict[tuple[str, str], set[str]] = defaultdict(lambda: {""})
    for row in rows:
        labels[_unit(row, by_group)] |= row.labels
    num_units = Counter(label for unit_labels in labels.values() for label in unit_labels)
    total = sum(SPLITS[split] for split in splits)
    need: dict[str, dict[str, int]] = {}
    for label, count in num_units.items():
        need[label] = {split: max(1, round(count * SPLITS[split] / total)) for split in splits}
        need[label]["train"] += count - sum(need[label].values())
    units = sorted(labels)
    order = [units[i] for i in np.random.default_rng(seed).permutation(len(units))]
    cut: dict[tuple[str, str], str] = {}
    for label in sorted(num_units, key=lambda label: (num_units[label], label)):
        for unit in order:
            if label in labels[unit] and unit not in cut:
                cut[unit] = max(splits, key=lambda split: (need[label][split], need[""][split]))
                for unit_label in labels[unit]:
                    need[unit_label][cut[unit]] -= 1
    return cut


def _refuse_group_leak(rows: Sequence[_Row]) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.group:
            splits[row.group].add(row.split)
    leaks = [f"{group} ({', '.join(sorted(splits[group]))})" for group in sorted(splits) if len(splits[group]) > 1]
    if leaks:
        raise UserError(
            f"groups lie in several splits: {', '.join(leaks[:3])}{', ...' if len(leaks) > 3 else ''}; "
            "keep each in one, or allow it with --allow-group-leak"
        )


def _refuse_rare_classes(rows: Sequence[_Row], classes: Sequence[str], allow_group_leak: bool) -> None:
    for label in classes:
        own = [row for row in rows if label in row.labels]
        lacking = [split for split in SPLITS if split not in {row.split for row in own}]
        if lacking:
            groups = {_unit(row, by_group=True) for row in own}
            counts = f"{len(own)} clip{'s' * (len(own) > 1)} in {len(groups)} group{'s' * (len(groups) > 1)}"
            way_out = "give it more clips, or leave it out"
            if len(groups) < 3 <= len(own) and not allow_group_leak:
                way_out += ", or let its groups lie in several splits with --allow-group-leak"
            raise UserError(f"label {label!r} has {counts} and so none in {', '.join(lacking)}; {way_out}")

"""List the clips of a folder or CSV file of videos, in the layouts of well-known data sets.

A layout is a function that lists clips. Everything works on names relative to a folder, so a bucket reads as a local
folder does.
"""

import csv
import io
import logging
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

from pipelines.core.errors import UserError
from pipelines.data.splits import SPLITS, Row
from pipelines.storage.location import Location

__all__ = ["CSV", "LAYOUTS", "READERS", "VIDEOS", "list_tree", "parent_of", "read_csv", "recognise"]

log = logging.getLogger(__name__)


VIDEOS = (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")
"""What the names of videos end with, in small letters."""
_CSV_COLUMNS = ("path", "label", "group", "split")
CSV = f"a CSV file {','.join(_CSV_COLUMNS)}"
LAYOUTS = {
    "csv": CSV,
    "folders": "CLASS/.../clip.avi, or train/CLASS/.../clip.avi",
    "ucf11": "CLASS/GROUP/GROUP_NN.mpg (basketball/v_shooting_01/v_shooting_01_02.mpg)",
    "ucf101": "CLASS/v_CLASS_gNN_cNN.avi (Archery/v_Archery_g01_c02.avi), and ucfTrainTestlist/ inside or beside it",
    "hollywood2": "ClipSets/LABEL_train.txt, ClipSets/LABEL_test.txt and AVIClips/",
    "youtube-celebrities": "NUMBER_VIDEO_NUMBER_person.avi (0185_03_008_adam_sandler.avi)",
}
"""What each layout reads, by name."""
_SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


# "above" is what the archive or its reader has put around the data set. Annotations (UCF11) are no videos.
_UCF11_CLIP = re.compile(r"(?P<above>(?:[^/]+/)*)(?P<label>(?!v_)[^/]+)/(?:v_[^/]+/)?(?P<group>v_[^/]+_\d+)_\d+\.\w+")


_UCF101_CLIP = re.compile(r"(?P<above>(?:[^/]+/)*)(?P<label>[^/]+)/(?P<group>v_[^/]+_g\d+)_c\d+\.\w+")


_UCF101_FOLDERS = ("ucfTrainTestlist", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist")


# actions_train.txt and actions_test.txt only say which clips there are, *_autotrain.txt have noisy labels.
_HOLLYWOOD2_LIST = re.compile(r"(?P<above>(?:[^/]+/)*)ClipSets/(?!actions_)(?P<label>[^/]+)_(?P<split>train|test)\.txt")


# 0002_01_002_adam_sandler.avi is the second clip out of the first video of him; there are three videos of everybody.
_CELEBRITY_CLIP = re.compile(r"(?P<above>(?:[^/]+/)*)\d+_(?P<group>\d+)_\d+_(?P<label>[^/]+)\.\w+")


class _Tree(NamedTuple):
    """What lies below a folder, by relative name."""

    root: Location
    files: list[str]
    videos: list[str]


class _Listing(NamedTuple):
    """What a layout found: the folder in the tree that holds the data set ("" or "UCF-101"), clips relative to it."""

    below: str
    rows: list[Row]


def list_tree(place: Location) -> tuple[_Tree, list[str]]:
    """The tree, and the videos whose names are not UTF-8 and could be written nowhere."""
    files = place.files()
    videos, left_out = [], []
    for name in files:
        if name.lower().endswith(VIDEOS):
            if name.isascii() or _is_utf8(name):
                videos.append(name)
            else:
                left_out.append(name.encode("utf-8", "backslashreplace").decode())
    return _Tree(place, files, videos), left_out


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def parent_of(place: Location) -> Location:
    if place.is_local:
        return Location(os.path.dirname(os.path.abspath(place.text)))
    url = urlsplit(place.text)
    return Location(urlunsplit(url._replace(path=posixpath.dirname(url.path))))


def recognise(tree: _Tree) -> str:
    """The layout of a folder; logs what tells it."""
    name, why = "folders", "as neither names nor lists are those of a known data set"
    lists = sum(_HOLLYWOOD2_LIST.fullmatch(file) is not None for file in tree.files)
    if lists and any("AVIClips/" in video for video in tree.videos):
        name, why = "hollywood2", f"as {lists} lists lie in ClipSets, beside AVIClips"
    else:
        patterns = {"ucf101": _UCF101_CLIP, "ucf11": _UCF11_CLIP, "youtube-celebrities": _CELEBRITY_CLIP}
        for candidate, pattern in patterns.items():
            matches = [video for video in tree.videos if pattern.fullmatch(video)]
            # Not all: one stray file should not cost the groups.
            if 2 * len(matches) > len(tree.videos):
                name = candidate
                why = f"as {len(matches):,} of {len(tree.videos):,} videos are named like {matches[0]}"
                break
    log.info("%s: recognised layout %s, %s", tree.root, name, why)
    return name


def read_csv(place: Location) -> list[Row]:
    if place.name.lower().endswith(VIDEOS):
        raise UserError(f"{place} is a video; give the folder of all videos, or {CSV}")
    try:
        # Spreadsheets begin with a byte order mark.
        reader = csv.reader(io.StringIO(place.read_text().removeprefix("\ufeff"), newline=""))
        header = next(reader, [])
        lines = [(reader.line_num, line) for line in reader if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{place} is no CSV file ({error}); give a folder of videos, or {CSV}") from error
    if missing := [column for column in _CSV_COLUMNS if column not in header]:
        raise UserError(
            f"{place} lacks the column {', '.join(missing)}; its first line must be {','.join(_CSV_COLUMNS)}, got "
            f"{','.join(header) or 'nothing'}"
        )
    columns = [header.index(column) for column in _CSV_COLUMNS]
    width, folder = max(columns) + 1, parent_of(place)
    labels: dict[str, frozenset[str]] = {}
    rows: dict[str, Row] = {}
    for number, line in lines:
        line += [""] * (width - len(line))
        path, label, group, split = (line[column] for column in columns)
        if label not in labels:
            labels[label] = frozenset(part.strip() for part in label.split("|"))
        row = Row(_clip_id(path, folder), labels[label], group.strip(), split.strip())
        if not path.strip() or "" in row.labels:
            raise UserError(f"{place}, line {number}: the {'label' if path.strip() else 'path'} is empty")
        if row.split and row.split not in SPLITS:
            raise UserError(
                f"{place}, line {number}: split {row.split!r} is unknown; the splits are {', '.join(SPLITS)}, or empty"
            )
        if row.clip_id in rows:
            raise UserError(f"{place}, line {number}: {row.clip_id} is listed twice; join its labels by | in one line")
        rows[row.clip_id] = row
    return list(rows.values())


def _clip_id(path: str, folder: Location) -> str:
    if path.startswith("file://"):
        path = Location.of(path).text
    if "://" in path:
        return path
    if not path.startswith("/"):
        return posixpath.normpath(path)
    if not folder.is_local:
        return path
    clip_id = os.path.relpath(path, folder.text)
    # Out of a link the way up is another one.
    return os.path.relpath(path, os.path.realpath(folder.text)) if clip_id.startswith("../") else clip_id


def _read_folders(tree: _Tree, _: int) -> _Listing:
    videos = [video.split("/") for video in tree.videos if "/" in video]
    # The folder that an archive was unpacked into: there is but one, and classes lie in it.
    depth = int(
        len(videos) == len(tree.videos)
        and len({parts[0] for parts in videos}) == 1
        and all(len(parts) > 2 for parts in videos)
        and len({parts[1] for parts in videos}) > 1
    )
    # train/CLASS/clip.avi: what is above the classes says the split.
    by_split = bool(videos) and all(parts[depth].lower() in _SPLIT_FOLDERS for parts in videos)
    at = depth + by_split
    videos = [parts for parts in videos if len(parts) > at + 1]
    labels = {parts[at]: frozenset([parts[at]]) for parts in videos}
    rows = [
        Row("/".join(parts[depth:]), labels[parts[at]], split=_SPLIT_FOLDERS[parts[depth].lower()] if by_split else "")
        for parts in videos
    ]
    return _Listing(videos[0][0] if depth and videos else "", rows)


def _matches(tree: _Tree, pattern: re.Pattern[str], names: Sequence[str]) -> tuple[str, list[re.Match[str]]]:
    """The one folder in which all names lie that fit a pattern, and these names."""
    matches = [match for name in names if (match := pattern.fullmatch(name))]
    above = sorted({match["above"] for match in matches})
    if len(above) > 1:
        some = ", ".join(folder or "./" for folder in above[:3]) + (", ..." if len(above) > 3 else "")
        raise UserError(f"{tree.root} holds {len(above)} data sets ({some}); give one of them, or {CSV}")
    return above[0].rstrip("/") if above else "", matches


def _rows(matches: Sequence[re.Match[str]], below: str, group: str) -> list[Row]:
    """The clips that fit a pattern; `group` is a template for their groups."""
    labels = {match["label"]: frozenset([match["label"]]) for match in matches}
    start = len(below) + bool(below)
    return [Row(match.string[start:], labels[match["label"]], match.expand(group)) for match in matches]


def _read_ucf11(tree: _Tree, _: int) -> _Listing:
    below, matches = _matches(tree, _UCF11_CLIP, tree.videos)
    return _Listing(below, _rows(matches, below, r"\g<label>/\g<group>"))


def _read_youtube_celebrities(tree: _Tree, _: int) -> _Listing:
    matches = [match for video in tree.videos if (match := _CELEBRITY_CLIP.fullmatch(video))]
    # All that counts is in the file's name, so everybody may have a folder.
    below = posixpath.commonpath({match["above"] for match in matches} or {""})
    return _Listing(below, _rows(matches, below, r"\g<label>/\g<group>"))


def _read_ucf101(tree: _Tree, split_list: int) -> _Listing:
    below, matches = _matches(tree, _UCF101_CLIP, tree.videos)
    rows = _rows(matches, below, r"\g<group>")
    splits = _read_ucf101_lists(tree, split_list)
    if splits:
        rows = [row._replace(split=splits[stem]) for row in rows if (stem := _stem(row.clip_id)) in splits]
    return _Listing(below, rows)


def _stem(path: str) -> str:
    """Folder and files of UCF101's HandstandPushups differ in case, and some re-encode the clips."""
    return posixpath.splitext(posixpath.basename(path))[0].lower()


def _read_ucf101_lists(tree: _Tree, split_list: int) -> dict[str, str]:
    """Splits by stem, from the lists inside VIDEOS, or beside it. Empty where there are none."""
    file = f"trainlist{split_list:02}.txt"
    parent = parent_of(tree.root)
    inside = [tree.root / posixpath.dirname(name) for name in tree.files if posixpath.basename(name) == file]
    beside = [parent, *(parent / folder for folder in _UCF101_FOLDERS)]
    folder = next(iter(inside), None) or next((folder for folder in beside if (folder / file).exists()), None)
    if folder is None:
        if split_list != 1:
            raise UserError(f"there is no {file} in {tree.root} or in ucfTrainTestlist/ beside it; put it there")
        return {}
    splits = {}
    for split in ("train", "test"):
        for _, line in _list_lines(folder / f"{split}list{split_list:02}.txt"):
            splits[_stem(line.split()[0])] = split
    return splits


def _list_lines(file: Location) -> list[tuple[int, str]]:
    """The lines of a data set's list, numbered from 1, without empty ones."""
    try:
        text = file.read_text()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise UserError(f"{file} can't be read ({error}); unpack the data set's lists anew") from error
    return [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _read_hollywood2(tree: _Tree, _: int) -> _Listing:
    below, lists = _matches(tree, _HOLLYWOOD2_LIST, tree.files)
    labels: dict[str, set[str]] = defaultdict(set)
    splits: dict[str, str] = {}
    for match in lists:
        file = tree.root / match.string
        for number, line in _list_lines(file):
            name, sign = line.split()[0], line.split()[-1]
            if sign not in ("1", "+1", "-1"):
                raise UserError(f"{file}, line {number}: {line!r} is not CLIP 1 or CLIP -1")
            clip_id = f"AVIClips/{name}.avi"
            if splits.setdefault(clip_id, match["split"]) != match["split"]:
                raise UserError(
                    f"{file}, line {number}: {name} is in the lists of train and of test; take it out of one"
                )
            labels[clip_id] |= {match["label"]} if sign != "-1" else set()
    # A clip may show none of the actions.
    return _Listing(below, [Row(clip_id, frozenset(names), "", splits[clip_id]) for clip_id, names in labels.items()])


READERS: dict[str, Callable[[_Tree, int], _Listing]] = {
    "folders": _read_folders,
    "ucf11": _read_ucf11,
    "ucf101": _read_ucf101,
    "hollywood2": _read_hollywood2,
    "youtube-celebrities": _read_youtube_celebrities,
}

"""List the clips of a folder of videos, in the layouts of well-known data sets.

A layout is a function that lists clips. It works on names relative to a folder, so that a bucket is read like a local
folder.
"""

import logging
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipelines.core.errors import UserError
from pipelines.data.clip import ListedClip
from pipelines.data.csv_layout import CSV
from pipelines.data.tree import Tree, parent_of
from pipelines.storage.location import Location

__all__ = ["LAYOUTS", "READERS", "recognise"]

log = logging.getLogger(__name__)


LAYOUTS = {
    "csv": CSV,
    "folders": "CLASS/.../clip.avi, or train/CLASS/.../clip.avi",
    "ucf11": "CLASS/GROUP/GROUP_NN.mpg (basketball/v_shooting_01/v_shooting_01_02.mpg)",
    "ucf101": "CLASS/v_CLASS_gNN_cNN.avi (Archery/v_Archery_g01_c02.avi), and ucfTrainTestlist/ inside or beside it",
    "hollywood2": "ClipSets/LABEL_train.txt, ClipSets/LABEL_test.txt and AVIClips/",
    "youtube-celebrities": "NUMBER_VIDEO_NUMBER_person.avi (0185_03_008_adam_sandler.avi)",
}
"""The paths that each layout reads, by its name."""
_SPLIT_FOLDERS = {
    name: split
    for split, names in {"train": "train training", "val": "val valid validation", "test": "test testing"}.items()
    for name in names.split()
}


# "above" is the folder that contains the data set, for example one that the archive was unpacked into.
_UCF11_CLIP = re.compile(r"(?P<above>(?:[^/]+/)*)(?P<label>(?!v_)[^/]+)/(?:v_[^/]+/)?(?P<group>v_[^/]+_\d+)_\d+\.\w+")
_UCF101_CLIP = re.compile(r"(?P<above>(?:[^/]+/)*)(?P<label>[^/]+)/(?P<group>v_[^/]+_g\d+)_c\d+\.\w+")
_UCF101_FOLDERS = ("ucfTrainTestlist", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist")
# actions_train.txt and actions_test.txt only list the clips; *_autotrain.txt have noisy labels.
_HOLLYWOOD2_LIST = re.compile(r"(?P<above>(?:[^/]+/)*)ClipSets/(?!actions_)(?P<label>[^/]+)_(?P<split>train|test)\.txt")
# 0002_01_002_adam_sandler.avi is the second clip from the first video of this person; there are three per person.
_CELEBRITY_CLIP = re.compile(r"(?P<above>(?:[^/]+/)*)\d+_(?P<group>\d+)_\d+_(?P<label>[^/]+)\.\w+")


class _Listing(NamedTuple):
    """The folder in the tree that contains the data set ("" or "UCF-101"), and its clips, relative to that folder."""

    folder: str
    clips: list[ListedClip]


def recognise(tree: Tree) -> str:
    """The layout of a folder; logs the reason."""
    name, why = "folders", "because neither names nor lists are those of a known data set"
    lists = sum(_HOLLYWOOD2_LIST.fullmatch(file) is not None for file in tree.files)
    if lists and any("AVIClips/" in video for video in tree.videos):
        name, why = "hollywood2", f"because there are {lists} lists in ClipSets, beside AVIClips"
    else:
        patterns = {"ucf101": _UCF101_CLIP, "ucf11": _UCF11_CLIP, "youtube-celebrities": _CELEBRITY_CLIP}
        for candidate, pattern in patterns.items():
            matches = [video for video in tree.videos if pattern.fullmatch(video)]
            # Most, not all: one stray file should not make the groups unknown.
            if 2 * len(matches) > len(tree.videos):
                name = candidate
                why = f"because {len(matches):,} of {len(tree.videos):,} videos are named like {matches[0]}"
                break
    log.info("%s: recognised layout %s, %s", tree.root, name, why)
    return name


def _read_folders(tree: Tree, _: int) -> _Listing:
    videos = [video.split("/") for video in tree.videos if "/" in video]
    # The folder that an archive was unpacked into: the only one, and it contains the class folders.
    depth = int(
        len(videos) == len(tree.videos)
        and len({parts[0] for parts in videos}) == 1
        and all(len(parts) > 2 for parts in videos)
        and len({parts[1] for parts in videos}) > 1
    )
    # train/CLASS/clip.avi: the folder above the classes is the split.
    by_split = bool(videos) and all(parts[depth].lower() in _SPLIT_FOLDERS for parts in videos)
    at = depth + by_split
    videos = [parts for parts in videos if len(parts) > at + 1]
    labels = {parts[at]: frozenset([parts[at]]) for parts in videos}
    clips = [
        ListedClip(
            "/".join(parts[depth:]), labels[parts[at]], split=_SPLIT_FOLDERS[parts[depth].lower()] if by_split else ""
        )
        for parts in videos
    ]
    return _Listing(videos[0][0] if depth and videos else "", clips)


def _matches(tree: Tree, pattern: re.Pattern[str], names: Sequence[str]) -> tuple[str, list[re.Match[str]]]:
    """The one folder that contains all names that match a pattern, and the matches."""
    matches = [match for name in names if (match := pattern.fullmatch(name))]
    above = sorted({match["above"] for match in matches})
    if len(above) > 1:
        some = ", ".join(folder or "./" for folder in above[:3]) + (", ..." if len(above) > 3 else "")
        raise UserError(f"{tree.root} contains {len(above)} data sets ({some}); give one of them, or {CSV}")
    return above[0].rstrip("/") if above else "", matches


def _clips(matches: Sequence[re.Match[str]], folder: str, group: str) -> list[ListedClip]:
    """The clips that match a pattern; `group` is a template for their groups."""
    labels = {match["label"]: frozenset([match["label"]]) for match in matches}
    start = len(folder) + bool(folder)
    return [ListedClip(match.string[start:], labels[match["label"]], match.expand(group)) for match in matches]


def _read_ucf11(tree: Tree, _: int) -> _Listing:
    folder, matches = _matches(tree, _UCF11_CLIP, tree.videos)
    return _Listing(folder, _clips(matches, folder, r"\g<label>/\g<group>"))


def _read_youtube_celebrities(tree: Tree, _: int) -> _Listing:
    matches = [match for video in tree.videos if (match := _CELEBRITY_CLIP.fullmatch(video))]
    # The file name has all the information, so there may be a folder for each person.
    folder = posixpath.commonpath({match["above"] for match in matches} or {""})
    return _Listing(folder, _clips(matches, folder, r"\g<label>/\g<group>"))


def _read_ucf101(tree: Tree, split_list: int) -> _Listing:
    folder, matches = _matches(tree, _UCF101_CLIP, tree.videos)
    clips = _clips(matches, folder, r"\g<group>")
    splits = _read_ucf101_lists(tree, split_list)
    if splits:
        clips = [clip._replace(split=splits[stem]) for clip in clips if (stem := _stem(clip.clip_id)) in splits]
    return _Listing(folder, clips)


def _stem(path: str) -> str:
    """The key of a clip in the lists: UCF101's HandstandPushups differ in case, and clips may be re-encoded."""
    return posixpath.splitext(posixpath.basename(path))[0].lower()


def _read_ucf101_lists(tree: Tree, split_list: int) -> dict[str, str]:
    """Splits by stem, from the lists inside VIDEOS or beside it; empty if there are no lists."""
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
    """The lines of a list, numbered from 1, without empty ones."""
    try:
        text = file.read_text()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}); unpack the data set's lists again") from error
    return [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _read_hollywood2(tree: Tree, _: int) -> _Listing:
    folder, lists = _matches(tree, _HOLLYWOOD2_LIST, tree.files)
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
    return _Listing(
        folder, [ListedClip(clip_id, frozenset(names), "", splits[clip_id]) for clip_id, names in labels.items()]
    )


READERS: dict[str, Callable[[Tree, int], _Listing]] = {
    "folders": _read_folders,
    "ucf11": _read_ucf11,
    "ucf101": _read_ucf101,
    "hollywood2": _read_hollywood2,
    "youtube-celebrities": _read_youtube_celebrities,
}

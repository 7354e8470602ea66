"""List the clips of data sets whose files have names that contain the class and the group: UCF11, UCF101, YouTube
Celebrities.

Their class folders may lie in folders named after splits, or contain such folders.
"""

import posixpath
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from pipelines.core.errors import UserError
from pipelines.data.clip import ListedClip
from pipelines.data.csv_layout import CSV
from pipelines.data.listing import Listing, only_folder, taken_by
from pipelines.data.problems import some
from pipelines.data.split_names import split_named
from pipelines.data.tree import Tree

__all__ = [
    "is_celebrities",
    "is_ucf11",
    "is_ucf101",
    "read_celebrities",
    "read_ucf11",
    "read_ucf101_clips",
    "ucf_group",
]


_UCF11 = re.compile(r"(?P<folder>(?:[^/]+/)*)(?P<group>v_(?P<word>[^/]+)_\d+)_\d+(?:\.\w+)?")
_UCF101 = re.compile(r"(?P<folder>(?:[^/]+/)*)(?P<group>v_(?P<word>[^/]+)_g\d+)_c\d+(?:\.\w+)?")
# Folders of pictures have no extension.
# 0002_01_002_adam_sandler.avi is the second clip from the first video of this person; there are three per person.
_CELEBRITY = re.compile(r"(?P<folder>(?:[^/]+/)*)\d{4}_(?P<group>\d\d)_\d{3}_(?P<word>[^/]+?)(?:\.\w+)?")


class _Named(NamedTuple):
    """A video: its path, the folders above it, and what its name says."""

    path: str
    folders: list[str]
    group: str
    word: str


class _Placed(NamedTuple):
    """A video: the folder that contains the data set, its split and class, and its class folder or ""."""

    above: list[str]
    split: str
    label: str
    class_folder: str


def ucf_group(video: str) -> str:
    """The group of a clip that is named as in UCF101 (v_Archery_g01 of v_Archery_g01_c02.avi), or ""."""
    match = _UCF101.fullmatch(posixpath.basename(video))
    return match["group"] if match else ""


def is_ucf11(tree: Tree) -> str:
    """The reason to read a tree as UCF11; see `listing.Layout`."""
    return _reason(tree, "ucf11", _UCF11)


def is_ucf101(tree: Tree) -> str:
    """The reason to read a tree as UCF101; see `listing.Layout`."""
    return _reason(tree, "ucf101", _UCF101)


def is_celebrities(tree: Tree) -> str:
    """The reason to read a tree as YouTube Celebrities; see `listing.Layout`."""
    reason = _reason(tree, "youtube-celebrities", _CELEBRITY)
    if not reason:
        return ""
    folder_of, word_of = defaultdict(set), defaultdict(set)
    for video in _named(tree, _CELEBRITY):
        folders = [name for name in video.folders if not split_named(name)]
        folder_of[video.word].add("/".join(folders))
        word_of["/".join(folders)].add(video.word)
    if len(word_of) > 1 and any(len(own) > 1 for own in (*folder_of.values(), *word_of.values())):
        raise UserError(
            f"{tree.root}: the videos are named as in YouTube Celebrities, with the classes {some(sorted(folder_of))}, "
            f"but lie in the folders {some(sorted(map(posixpath.basename, word_of)))}; give --layout folders to take "
            f"the folders for classes, --layout youtube-celebrities to take the names, or {CSV}"
        )
    return reason


def _reason(tree: Tree, name: str, pattern: re.Pattern[str]) -> str:
    """As `taken_by`; raises UserError if a folder has videos of which none is named like the data set."""
    reason = taken_by(pattern, tree.videos)
    if not reason:
        return ""
    known = {match["folder"] for video in tree.videos if (match := pattern.fullmatch(video))}
    near = {folder[: end + 1] for folder in known for end, sign in enumerate(folder) if sign == "/"} | {""}
    lost: dict[str, int] = defaultdict(int)
    for video in tree.videos:
        folder = video[: video.rfind("/") + 1]
        if folder not in near and not folder.startswith(tuple(known - {""})):
            lost[folder] += 1
    if lost:
        folders = some(f"{folder} ({number:,} videos)" for folder, number in sorted(lost.items()))
        raise UserError(
            f"{tree.root}: most videos are named as in {name}, but none in {folders}; give --layout folders to take "
            f"every folder for a class, --layout {name} to leave these out, or {CSV}"
        )
    return reason


def _named(tree: Tree, pattern: re.Pattern[str]) -> list[_Named]:
    matches = [match for video in tree.videos if (match := pattern.fullmatch(video))]
    return [_Named(match.string, match["folder"].split("/")[:-1], match["group"], match["word"]) for match in matches]


def read_ucf11(tree: Tree, _: int) -> Listing:
    """Reads CLASS/GROUP/GROUP_NN.mpg."""
    # The folder of a group, v_shooting_01, is no class.
    videos = [
        video._replace(folders=video.folders[:-1]) if video.folders and video.folders[-1].startswith("v_") else video
        for video in _named(tree, _UCF11)
    ]
    return _read(tree, videos, by_class=True)


def read_ucf101_clips(tree: Tree) -> Listing:
    """Reads CLASS/v_CLASS_gNN_cNN.avi, without the lists of splits."""
    return _read(tree, _named(tree, _UCF101), by_class=False)


def read_celebrities(tree: Tree, _: int) -> Listing:
    """Reads NUMBER_VIDEO_NUMBER_person.avi; the name has all the information, so folders of persons do not matter."""
    clips, videos = [], _named(tree, _CELEBRITY)
    folder = posixpath.commonpath(["/".join(video.folders) for video in videos] or [""])
    start = len(folder) + bool(folder)
    for video in videos:
        split = next((split for name in reversed(video.folders) if (split := split_named(name))), "")
        group = f"{video.word}/{video.group}"
        clips.append(ListedClip(video.path[start:], frozenset([video.word]), group, split))
    return Listing(folder, clips)


def _read(tree: Tree, videos: Sequence[_Named], by_class: bool) -> Listing:
    """The clips of class folders; with `by_class`, groups of two classes may have the same name."""
    if any(video.folders for video in videos):
        videos = [video for video in videos if video.folders]
    places = _places(videos)
    named = sorted({place.label for place in places if place.class_folder and split_named(place.label)})
    if named:
        raise UserError(
            f"{tree.root} has folders named after splits, {some(named)}, with and without class folders; give --layout "
            f"class-folders to take all lowest folders for classes, or {CSV}"
        )
    folders = {"/".join([*place.above, ""]) for place in places}
    folder = only_folder(tree, folders)
    # The folder of an archive of one split, train.zip, is not part of the clips' names.
    start = len(folder) + bool(folder)
    tops = {video.path[start:].split("/")[0] for video in videos}
    if len(tops) == 1 and split_named(next(iter(tops))) and all(place.class_folder for place in places):
        folder = posixpath.join(folder, tops.pop())
        start = len(folder) + 1
    labels = {place.label: frozenset([place.label]) for place in places}
    clips = [
        ListedClip(
            video.path[start:],
            labels[place.label],
            f"{place.label}/{video.group}" if by_class else video.group,
            place.split,
        )
        for video, place in zip(videos, places, strict=True)
    ]
    return Listing(folder, clips, frozenset(place.class_folder for place in places) - {""})


def _places(videos: Sequence[_Named]) -> list[_Placed]:
    """The class and the split of every video: from its folders, or from its name where no folder is a class."""
    lowest = {video.folders[-1] if video.folders else "" for video in videos}
    if all(map(split_named, lowest)):
        upper = {video.folders[-2] if len(video.folders) > 1 else "" for video in videos}
        if len(upper) > 1 and "" not in upper:
            return [
                _Placed(
                    video.folders[:-2], split_named(video.folders[-1]), video.folders[-2], "/".join(video.folders[:-1])
                )
                for video in videos
            ]
        return [_Placed(video.folders[:-1], split_named(video.folders[-1]), video.word, "") for video in videos]
    if "" in lowest or (len(lowest) == 1 and len({video.word for video in videos}) > 1):
        return [_Placed(video.folders, "", video.word, "") for video in videos]
    places = []
    for video in videos:
        *above, label = video.folders
        split = split_named(above[-1]) if above else ""
        places.append(_Placed(above[:-1] if split else above, split, label, "/".join(video.folders)))
    return places

"""List the clips of class folders, which may lie in folders named after splits, or contain such folders."""

import posixpath
from collections import Counter, defaultdict
from collections.abc import Sequence

from pipelines.core.errors import UserError
from pipelines.data.clip import ListedClip
from pipelines.data.csv_layout import CSV
from pipelines.data.listing import Listing
from pipelines.data.problems import some
from pipelines.data.split_names import split_named
from pipelines.data.tree import Tree

__all__ = ["read_class_folders", "read_folders"]


def read_folders(tree: Tree, _: int) -> Listing:
    """Reads CLASS/.../clip, SPLIT/CLASS/.../clip and CLASS/SPLIT/.../clip, below the folder that an archive adds.

    Raises:
        UserError: folders named after splits are beside others, or contain no class folders; or class folders directly
            hold pictures.
    """
    depth = _depth(tree.videos)
    _refuse_single_pictures(tree, depth, may_have_splits=True)
    paths = [video.split("/") for video in tree.videos if "/" in video]
    tops = sorted({parts[depth] for parts in paths})
    splits = {name: split for name in tops if (split := split_named(name))}
    _refuse_ambiguous_folders(tree, depth, tops, list(splits))
    if len(splits) == 1:
        below = sorted({parts[depth + 1] for parts in paths if len(parts) > depth + 2})
        _refuse_ambiguous_folders(tree, depth + 1, below, [name for name in below if split_named(name)])
    if splits:
        return _listing(paths, depth, at=depth + 1, split_at=depth)
    if _contain_splits(paths, depth):
        _refuse_ambiguous_classes(tree, paths, depth)
        return _listing(paths, depth, at=depth, split_at=depth + 1)
    # The folder of an archive of one split: train.zip.
    lone = bool(depth) and bool(split_named(paths[0][depth - 1]))
    return _listing(paths, depth, at=depth, split_at=depth - 1 if lone else None)


def read_class_folders(tree: Tree, _: int) -> Listing:
    """Reads CLASS/.../clip, where a class may be named like a split."""
    depth = _depth(tree.videos)
    _refuse_single_pictures(tree, depth, may_have_splits=False)
    paths = [video.split("/") for video in tree.videos if "/" in video]
    return _listing(paths, depth, at=depth, split_at=None)


def _depth(videos: Sequence[str]) -> int:
    """The number of folders around the data set, which an archive adds: 1 for archive/CLASS/clip.avi."""
    folders = {posixpath.dirname(video) for video in videos}
    common = posixpath.commonpath(folders or [""])
    return common.count("/") + 1 if common and common not in folders else 0


def _refuse_single_pictures(tree: Tree, depth: int, may_have_splits: bool) -> None:
    """Refuses pictures in the place of clips, and folders that hold both pictures and folders of pictures."""
    for clip in sorted(tree.picture_folders.intersection(tree.videos)):
        parts = clip.split("/")
        is_in_split = may_have_splits and bool(split_named(parts[depth]))
        if len(parts) <= depth + 1 + is_in_split:
            raise UserError(
                f"{tree.root}: {clip}/ directly holds pictures, but in the place of a class; a clip is a folder of "
                f"pictures: put those of each clip into a folder of its own, {clip}/CLIP/0001.jpg, or give {CSV}"
            )
        above = ["/".join(parts[:end]) for end in range(1, len(parts))]
        for outer in tree.picture_folders.intersection(above):
            raise UserError(
                f"{tree.root}: {outer}/ holds pictures, and {clip}/ too: either may be the clip; move one of them "
                f"away, or give {CSV}"
            )


def _contain_splits(paths: Sequence[Sequence[str]], depth: int) -> bool:
    """Whether every class folder is divided into at least two splits: CLASS/train, CLASS/test."""
    names = {parts[depth + 1] if len(parts) > depth + 2 else "" for parts in paths}
    splits = {split_named(name) for name in names}
    return "" not in splits and len(splits) > 1


def _refuse_ambiguous_folders(tree: Tree, depth: int, tops: Sequence[str], named: Sequence[str]) -> None:
    if not named:
        return
    paths = [video.split("/") for video in tree.videos]
    others = [name for name in tops if name not in named]
    way = f"give --layout class-folders to take them all for classes, or {CSV}"
    if others:
        counts = Counter(parts[depth] for parts in paths if len(parts) > depth + 1)
        kinds = [some(f"{name}/ ({counts[name]:,} videos)" for name in names) for names in (named, others)]
        raise UserError(
            f"{tree.root} has folders named after splits, {kinds[0]}, beside others, {kinds[1]}: either splits that "
            f"contain class folders, or classes; move the others away for splits, or {way}"
        )
    if not any(len(parts) > depth + 2 for parts in paths):
        raise UserError(
            f"{tree.root} has only folders named after splits, {some(named)}, without class folders in them; put the "
            f"videos into {named[0]}/CLASS/, or {way}"
        )


def _refuse_ambiguous_classes(tree: Tree, paths: Sequence[Sequence[str]], depth: int) -> None:
    """Refuses SITE/train/CLASS, which could also be CLASS/train/GROUP: the folders below the splits have one name."""
    below: dict[str, set[str]] = defaultdict(set)
    for parts in paths:
        below[parts[depth]].add(parts[depth + 2] if len(parts) > depth + 3 else "")
    shared = sorted(set.intersection(*below.values()) - {""})
    if len(below) > 1 and shared:
        raise UserError(
            f"{tree.root}: the classes are either {some(sorted(below))}, or {some(shared)} in the splits of "
            f"each; give one of these folders, or --layout class-folders for the first, or {CSV}"
        )


def _listing(paths: Sequence[Sequence[str]], depth: int, at: int, split_at: int | None) -> Listing:
    """The clips whose class is the folder number `at`, and whose split is the folder number `split_at`."""
    deep = max(at, split_at if split_at is not None else 0) + 1
    paths = [parts for parts in paths if len(parts) > deep]
    labels = {parts[at]: frozenset([parts[at]]) for parts in paths}
    splits = {parts[split_at]: split_named(parts[split_at]) for parts in paths} if split_at is not None else {}
    clips = [
        ListedClip(
            "/".join(parts[depth:]), labels[parts[at]], split="" if split_at is None else splits[parts[split_at]]
        )
        for parts in paths
    ]
    folders = frozenset("/".join(parts[: at + 1]) for parts in paths)
    return Listing("/".join(paths[0][:depth]) if paths else "", clips, folders)

"""Find the videos and the folders of pictures of a tree by the names that lists give them."""

import posixpath
from collections import defaultdict

from pipelines.data.split_names import split_named
from pipelines.data.tree import Tree
from pipelines.video.suffixes import FILE_SUFFIXES

__all__ = ["ClipIndex"]


class ClipIndex:
    """The clips of a tree, and its folders that directly hold pictures."""

    def __init__(self, tree: Tree) -> None:
        self.picture_folders = tree.picture_folders
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for clip in dict.fromkeys((*tree.videos, *sorted(self.picture_folders))):
            self._by_stem[_without_suffix(posixpath.basename(clip))].append(clip)

    def find(self, key: str, split: str) -> list[str]:
        """The clips that a list names by `key`: one, none, or several whose folders do not tell them apart.

        Args:
            key: A path relative to some folder, above or below the tree's, or a file name, with or without extension.
            split: The split of the list; of several clips those in a folder of this split count.
        """
        key = posixpath.normpath(key)
        plain = _without_suffix(key)
        found = [clip for clip in self._by_stem.get(posixpath.basename(plain), ()) if _names(plain, clip)]
        # An extension in the list counts where two clips differ in nothing else.
        found = [clip for clip in found if _end_alike(key, clip)] or found
        if len(found) > 1:
            found = [clip for clip in found if split in map(split_named, clip.split("/"))] or found
        return found


def _without_suffix(name: str) -> str:
    return posixpath.splitext(name)[0] if name.lower().endswith(FILE_SUFFIXES) else name


def _names(key: str, clip: str) -> bool:
    return _end_alike(key, _without_suffix(clip))


def _end_alike(first: str, second: str) -> bool:
    """Whether one path is the end of the other."""
    return f"/{first}".endswith(f"/{second}") or f"/{second}".endswith(f"/{first}")

"""Define the result of reading a folder of videos, and a layout."""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pipelines.core.errors import UserError
from pipelines.data.clip import ListedClip
from pipelines.data.csv_layout import CSV
from pipelines.data.problems import some
from pipelines.data.tree import Tree

__all__ = ["Layout", "Listing", "only_folder", "taken_by"]


class Listing(NamedTuple):
    """The clips of a folder."""

    folder: str
    """the folder in the tree that contains the data set: "" or "UCF-101" """
    clips: list[ListedClip]
    """relative to that folder"""
    class_folders: frozenset[str] = frozenset()
    """folders whose names are the classes of clips, relative to the tree"""
    omitted: frozenset[str] = frozenset()
    """videos, relative to the tree, that the lists of a data set leave out on purpose"""


class Layout(NamedTuple):
    """An arrangement of videos."""

    reads: str
    """the paths that it reads, for messages"""
    read: Callable[[Tree, int], Listing]
    """lists the clips of a tree; the number is that of UCF101's or HMDB51's lists"""
    recognise: Callable[[Tree], str]
    """the reason to take this layout for a tree; "" if it is another"""


def taken_by(pattern: re.Pattern[str], names: Iterable[str], kind: str = "videos") -> str:
    """The reason to take a layout whose names match a pattern; "" if at most half of the names do."""
    names = list(names)
    matches = [name for name in names if pattern.fullmatch(name)]
    # Most, not all: one stray file should not make the groups unknown.
    if 2 * len(matches) <= len(names):
        return ""
    return f"because {len(matches):,} of {len(names):,} {kind} are named like {matches[0]}"


def only_folder(tree: Tree, folders: Iterable[str]) -> str:
    """The only one of the folders, without the slash behind it; "" if there is none. Raises UserError."""
    found = sorted(set(folders))
    if len(found) > 1:
        names = some(folder or "./" for folder in found)
        raise UserError(f"{tree.root} contains {len(found)} data sets ({names}); give one of them, or {CSV}")
    return found[0].rstrip("/") if found else ""

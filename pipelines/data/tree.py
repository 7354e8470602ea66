"""List the files and clips below a folder, local or remote."""

import os
import posixpath
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

from pipelines.storage.location import Location
from pipelines.video.suffixes import ARRAY_SUFFIXES, PICTURE_SUFFIXES, VIDEO_SUFFIXES

__all__ = ["Tree", "list_tree", "parent_of"]


class Tree(NamedTuple):
    """The files below a folder, by relative name."""

    root: Location
    files: list[str]
    videos: list[str]
    """the clips: videos; if there are none, arrays; if there are neither, the folders that directly hold pictures

    Features and previews are kept beside videos, and must not become clips.
    """
    picture_folders: frozenset[str]
    """all folders below that directly hold pictures"""


def list_tree(root: Location) -> tuple[Tree, list[str]]:
    """Lists a folder; also returns the clips to leave out because their names are not UTF-8, in escaped form."""
    files = root.files()
    videos, arrays, pictures = (
        [name for name in files if name.lower().endswith(suffixes)]
        for suffixes in (VIDEO_SUFFIXES, ARRAY_SUFFIXES, PICTURE_SUFFIXES)
    )
    folders = {posixpath.dirname(name) for name in pictures} - {""}
    found = videos or arrays or sorted(folders)
    clips = [name for name in found if name.isascii() or _is_utf8(name)]
    left_out = [name.encode("utf-8", "backslashreplace").decode() for name in found if not _is_utf8(name)]
    return Tree(root, files, clips, frozenset(folders)), left_out


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def parent_of(location: Location) -> Location:
    """The folder that contains a file or folder."""
    if location.is_local:
        return Location(os.path.dirname(os.path.abspath(location.text)))
    url = urlsplit(location.text)
    return Location(urlunsplit(url._replace(path=posixpath.dirname(url.path))))

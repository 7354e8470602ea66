"""List the files and videos below a folder, local or remote."""

import os
import posixpath
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

from pipelines.storage.location import Location

__all__ = ["VIDEO_SUFFIXES", "Tree", "list_tree", "parent_of"]


VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".m2t", ".m2ts", ".m2v", ".m4v", ".mkv",
    ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob",
    ".webm", ".wmv"
)  # fmt: skip
"""Extensions of video files, in lower case."""


class Tree(NamedTuple):
    """The files below a folder, by relative name."""

    root: Location
    files: list[str]
    videos: list[str]


def list_tree(root: Location) -> tuple[Tree, list[str]]:
    """Lists a folder; also returns the videos to leave out because their names are not UTF-8, in escaped form."""
    files = root.files()
    videos, left_out = [], []
    for name in files:
        if name.lower().endswith(VIDEO_SUFFIXES):
            if name.isascii() or _is_utf8(name):
                videos.append(name)
            else:
                left_out.append(name.encode("utf-8", "backslashreplace").decode())
    return Tree(root, files, videos), left_out


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

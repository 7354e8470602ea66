"""Read a catalogue of clips from a CSV file."""

import csv
import io
import os
import posixpath

from pipelines.core.errors import UserError
from pipelines.data.clip import ListedClip
from pipelines.data.splits import SPLITS
from pipelines.data.tree import VIDEO_SUFFIXES, parent_of
from pipelines.storage.location import Location

__all__ = ["CSV", "read_csv"]


_COLUMNS = ("path", "label", "group", "split")
CSV = f"a CSV file {','.join(_COLUMNS)}"
"""The name of a CSV catalogue in messages."""


def read_csv(file: Location) -> list[ListedClip]:
    """Lists the clips of a CSV file.

    Raises:
        UserError: the file is not CSV, lacks a column, or has a line with a missing, unknown or repeated value.
    """
    if file.name.lower().endswith(VIDEO_SUFFIXES):
        raise UserError(f"{file} is a video; give the folder of all videos, or {CSV}")
    try:
        # Spreadsheet programs write a byte order mark.
        reader = csv.reader(io.StringIO(file.read_text().removeprefix("\ufeff"), newline=""))
        header = next(reader, [])
        lines = [(reader.line_num, line) for line in reader if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} is not a CSV file ({error}); give a folder of videos, or {CSV}") from error
    if missing := [column for column in _COLUMNS if column not in header]:
        raise UserError(
            f"{file} lacks the column {', '.join(missing)}; its first line must be {','.join(_COLUMNS)}, got "
            f"{','.join(header) or 'nothing'}"
        )
    columns = [header.index(column) for column in _COLUMNS]
    width, folder = max(columns) + 1, parent_of(file)
    labels: dict[str, frozenset[str]] = {}
    clips: dict[str, ListedClip] = {}
    for number, line in lines:
        line += [""] * (width - len(line))
        path, label, group, split = (line[column] for column in columns)
        if label not in labels:
            labels[label] = frozenset(part.strip() for part in label.split("|"))
        clip = ListedClip(_clip_id(path, folder), labels[label], group.strip(), split.strip())
        if not path.strip() or "" in clip.labels:
            raise UserError(f"{file}, line {number}: the {'label' if path.strip() else 'path'} is empty")
        if clip.split and clip.split not in SPLITS:
            raise UserError(
                f"{file}, line {number}: split {clip.split!r} is unknown; the splits are {', '.join(SPLITS)}, or empty"
            )
        if clip.clip_id in clips:
            raise UserError(f"{file}, line {number}: {clip.clip_id} is listed twice; join its labels by | in one line")
        clips[clip.clip_id] = clip
    return list(clips.values())


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
    # From a symbolic link, `..` leads to the parent of its target.
    return os.path.relpath(path, os.path.realpath(folder.text)) if clip_id.startswith("../") else clip_id

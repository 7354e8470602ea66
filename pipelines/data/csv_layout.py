"""Read a catalogue of clips from a CSV file, also as spreadsheet programs write it."""

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from pipelines.core.errors import UserError
from pipelines.data.clip import ListedClip
from pipelines.data.problems import LineProblems
from pipelines.data.split_names import split_named
from pipelines.data.splits import SPLITS
from pipelines.data.tables import Row, TableError, decode, read_rows
from pipelines.data.tree import parent_of
from pipelines.storage.location import Location
from pipelines.video.suffixes import FILE_SUFFIXES

__all__ = ["CSV", "CsvCatalog", "is_csv_catalog", "read_csv"]


_COLUMNS = ("path", "label", "group", "split")
CSV = f"a CSV file {','.join(_COLUMNS)}"
"""The name of a CSV catalogue in messages."""


class CsvCatalog(NamedTuple):
    """The clips of the lines that can be read, the problems of the others, and the labels that these name."""

    clips: list[ListedClip]
    problems: list[str]
    doubtful: frozenset[str]
    """labels of lines with problems: how many clips they have is unknown"""


def is_csv_catalog(rows: list[Row]) -> bool:
    """Whether the first row names the columns path and label."""
    return bool(rows) and {"path", "label"} <= set(_header(rows))


def _header(rows: list[Row]) -> list[str]:
    return [name.strip().lower() for name in rows[0].values] if rows else []


def read_csv(file: Location) -> CsvCatalog:
    """Lists the clips of a CSV file; see `tables` for its separators and encodings.

    Raises:
        UserError: the file is not CSV, or lacks a column.
    """
    if file.name.lower().endswith(FILE_SUFFIXES):
        raise UserError(f"{file} is a clip; give the folder of all clips, or {CSV}")
    try:
        rows = read_rows(decode(file.read_bytes(), str(file)))
    except TableError as error:
        raise UserError(f"{file} is not a CSV file ({error}); give a folder of videos, or {CSV}") from error
    header = _header(rows)
    if missing := [column for column in _COLUMNS[:2] if column not in header]:
        raise UserError(
            f"{file} lacks the column {', '.join(missing)}; its first line must be {','.join(_COLUMNS)}, got "
            f"{','.join(header) or 'nothing'}"
        )
    return _read_lines(file, rows[1:], header)


def _read_lines(file: Location, rows: list[Row], header: list[str]) -> CsvCatalog:
    folder, columns = parent_of(file), [header.index(name) if name in header else None for name in _COLUMNS]
    problems = LineProblems(str(file))
    doubtful: set[str] = set()
    labels: dict[str, frozenset[str]] = {}
    clips: dict[str, ListedClip] = {}
    for number, values in rows:
        path, label, group, split = (
            values[column] if column is not None and column < len(values) else "" for column in columns
        )
        if label not in labels:
            labels[label] = frozenset(part.strip() for part in label.split("|"))
        own = list(_problems_of_line(path, labels[label], split))
        clip_id = "" if own else _clip_id(_found_path(path, folder), folder)
        if clip_id in clips:
            own = [f"{clip_id} is listed twice; join its labels by | in one line"]
        if own:
            doubtful |= labels[label]
            for problem in own:
                problems.add(number, problem)
        else:
            clips[clip_id] = ListedClip(clip_id, labels[label], group.strip(), split_named(split))
    return CsvCatalog(list(clips.values()), problems.texts(), frozenset(doubtful))


def _problems_of_line(path: str, labels: frozenset[str], split: str) -> Iterator[str]:
    if not path.strip():
        yield "the path is empty"
    elif "" in labels:
        yield "the label is empty"
    if os.name != "nt" and re.match(r"\s*([A-Za-z]:[\\/]|\\\\)", path):
        yield f"{path.strip()} is a path of a Windows machine; give paths relative to the CSV file"
    if split.strip() and not split_named(split):
        yield f"split {split.strip()!r} is unknown; the splits are {', '.join(SPLITS)}, or empty"


def _found_path(path: str, folder: Location) -> str:
    """The path as it is, or else the file that a spreadsheet meant: without blanks, with slashes, composed anew."""
    plain = path.strip().replace("\\", "/") if "://" not in path else path.strip()
    forms = dict.fromkeys([path, path.strip(), plain, *(unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))])
    if len(forms) == 1 or "://" in path:
        return plain
    if not folder.is_local:
        return plain
    return next((form for form in forms if os.path.lexists(os.path.join(folder.text, form))), plain)


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

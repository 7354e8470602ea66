"""Parse the lists of Kinetics, Jester, Something-Something and mmaction2."""

import json
import re
from typing import NamedTuple

from pipelines.data.split_names import split_in_file_name, split_named
from pipelines.data.tables import TableError, read_rows

__all__ = ["Entry", "parse_class_names", "parse_identities", "parse_kinetics", "parse_paths", "parse_templates"]


class Entry(NamedTuple):
    """A clip in a list."""

    keys: tuple[str, ...]
    """names that the clip may have: a path, or a file name without its extension; the first one that exists counts"""
    labels: tuple[str, ...]
    """names of classes, or their numbers; empty in the list of an unpublished test split"""
    split: str
    """"" if unknown"""
    group: str = ""
    num_frames: str = ""
    """the number before the labels, which is one more label unless the clip is a folder of pictures"""


_KINETICS = {"youtube_id", "time_start", "time_end"}
_IDENTITIES = ("path", "video_id", "id", "video", "video_name", "filename", "file_name", "file", "clip")
_PATH_LINE = re.compile(r"(?P<path>\S.*?)(?P<separator>[ \t,;])[ ]*(?P<numbers>\d+(?:(?P=separator)[ ]*\d+)*)\s*")


def parse_kinetics(name: str, text: str) -> list[Entry]:
    """Parses label,youtube_id,time_start,time_end,split; empty if the list is another."""
    try:
        rows = read_rows(text)
    except TableError:
        return []
    header = [value.strip().lower() for value in rows[0].values] if rows else []
    if not set(header) >= _KINETICS:
        return []
    entries = []
    for row in rows[1:]:
        clip = dict(zip(header, (value.strip() for value in row.values), strict=False))
        video = clip.get("youtube_id", "")
        try:
            start, end = (round(float(clip.get(column, ""))) for column in ("time_start", "time_end"))
        except ValueError:
            continue
        split = split_named(clip.get("split", "")) or split_in_file_name(name)
        keys = (f"{video}_{start:06}_{end:06}", f"{video}_{start}_{end}", video)
        entries.append(Entry(keys, (clip["label"],) if clip.get("label") else (), split, video))
    return entries


def parse_identities(name: str, text: str) -> list[Entry]:
    """Parses ID;label, as Jester and Something-Something v1 have it, or a table with a header; else empty."""
    split = split_in_file_name(name)
    try:
        rows = read_rows(text, ";,\t")
    except TableError:
        return []
    if not rows or not split:
        return []
    header = [value.strip().lower() for value in rows[0].values]
    identity = next((column for column in _IDENTITIES if column in header), None)
    if identity is not None and "label" in header:
        at, label_at, rows = header.index(identity), header.index("label"), rows[1:]
    elif all(row.values[0].strip().isdigit() and len(row.values) <= 2 for row in rows):
        at, label_at = 0, 1
    else:
        return []
    entries = []
    for _, values in rows:
        label = values[label_at].strip() if len(values) > label_at else ""
        if len(values) > at:
            entries.append(Entry((values[at].strip(),), (label,) if label else (), split))
    return entries


def parse_templates(name: str, text: str) -> list[Entry]:
    """Parses [{"id": .., "template": ..}], as Something-Something v2 has it; empty if the list is another."""
    split = split_in_file_name(name)
    try:
        document = json.loads(text)
    except ValueError:
        return []
    if not split or not isinstance(document, list):
        return []
    entries = []
    for clip in document:
        if not isinstance(clip, dict) or "id" not in clip:
            return []
        # The label is a sentence about one clip ("putting a box on a table"); the template is the class.
        label = re.sub(r"[\[\]]", "", str(clip.get("template") or clip.get("label") or ""))
        entries.append(Entry((str(clip["id"]),), (label,) if label else (), split))
    return entries


def parse_paths(name: str, text: str) -> list[Entry]:
    """Parses PATH [FRAMES] NUMBER ..., as mmaction2 has it; the labels are numbers. Empty if the list is another."""
    split = split_in_file_name(name)
    lines = [line for line in text.splitlines() if line.strip()]
    matches = [match for line in lines if (match := _PATH_LINE.fullmatch(line))]
    if not split or not lines or len(matches) < len(lines) or all(match["path"].isdigit() for match in matches):
        return []
    entries = []
    for match in matches:
        numbers = tuple(re.findall(r"\d+", match["numbers"]))
        frames, labels = (numbers[0], numbers[1:]) if len(numbers) > 1 else ("", numbers)
        entries.append(Entry((match["path"].replace("\\", "/"),), labels, split, num_frames=frames))
    return entries


def parse_class_names(text: str) -> list[str]:
    """The names of the classes, by number from 0: a name a line, or NUMBER NAME with numbers from 0 or 1."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    numbered = [match for line in lines if (match := re.fullmatch(r"(\d+)[ \t,:;]+(.+)", line))]
    if lines and len(numbered) == len(lines):
        numbers = [int(match[1]) for match in numbered]
        if sorted(numbers) in (list(range(len(lines))), list(range(1, len(lines) + 1))):
            return [name for _, name in sorted(zip(numbers, (match[2] for match in numbered), strict=True))]
    return lines

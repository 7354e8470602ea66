"""Define a clip on its way from the catalogue to the shards."""

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["ClipRecord", "ListedClip"]


class ListedClip(NamedTuple):
    """A clip as a catalogue lists it; group and split are "" if the catalogue does not give them."""

    clip_id: str
    labels: frozenset[str]
    """names of classes"""
    group: str = ""
    split: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRecord:
    """A clip with its place in a data set: what the catalogue, the plan and the writer of the shards know of it."""

    clip_id: str
    """path relative to the catalogue, or a URI"""
    path: str = ""
    """absolute local path, or a URI; "" in a plan that was read from its file"""
    labels: tuple[int, ...]
    """indices into the classes"""
    group: str
    """"" if unknown"""
    split: str

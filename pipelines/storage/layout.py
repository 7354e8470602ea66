"""Describe the files of a run or a sweep to what copies them between a bucket and this machine."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MirrorLayout"]


@dataclass(frozen=True, kw_only=True)
class MirrorLayout:
    """The files of a directory of results, for its mirror: which belong together, and when they are sent."""

    marker: str
    """the file that makes a directory one of this kind"""
    run_of: Callable[[str], str | None]
    """from the name of a file to its run, as a directory, "" for the top directory; None for files of no run"""
    has_ended: Callable[[Path], bool]
    """from the directory of a run to whether its training has ended"""
    last: tuple[str, ...]
    """files that say that a run has ended: sent after its other files, in this order"""
    checkpoint: str
    """the directory of a run without which it cannot be resumed"""
    keeps_checkpoints: bool = False
    """whether checkpoints of runs that have ended are sent too"""
    never_sent: tuple[str, ...] = ()
    """top directories and files"""
    sent_at_end: tuple[str, ...] = ()
    """files that are sent when the command ends, and not before"""
    journal: str | None = None
    """the file that says which trials there are, and which have ended"""
    trials: str = ""
    """the directory of the trials; runs elsewhere are sent after the journal"""
    known_trials: Callable[[Path], Collection[str]] | None = None
    """from the copy to the names of the trials in its journal"""

    def order(self, name: str) -> tuple[int, str]:
        """A key that sorts the files of a run in the order in which they are sent."""
        base = name.split("/")[-1]
        return (self.last.index(base) + 1 if base in self.last else 0), name

    def is_checkpoint(self, name: str) -> bool:
        """Whether a file lies in the checkpoint of a run."""
        return self.checkpoint in name.split("/")

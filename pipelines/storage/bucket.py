"""Work on, or read, a sweep, a run or a model that lies in a bucket: in a copy on this machine.

with working_copy(Location.of("s3://bucket/sweep"), SWEEP_LAYOUT, resume=True) as out:
    ...  # a directory of this machine, mirrored to the bucket as it grows (mirror.py)
with reading_copy(Location.of("s3://bucket/sweep"), markers=("sweep.json",), wanted=is_small) as copy:
    copy.path  # a directory of this machine, with the small files
    copy.fetch(copy.path / "trials" / "0007" / "model")
"""

import contextlib
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.errors import UserError
from pipelines.storage.cache import locked_copy, make_room
from pipelines.storage.layout import MirrorLayout
from pipelines.storage.location import Location
from pipelines.storage.mirror import MIRROR_JSON, Mirror, read_mirror
from pipelines.storage.output import no_empty_directory, prepare_out
from pipelines.storage.transfer import RUNNING, clear, for_each, list_files, pull, put, zipped_runs

__all__ = ["ReadingCopy", "reading_copy", "working_copy"]

_WAIT_S = 60.0


@contextlib.contextmanager
def working_copy(
    place: Location, layout: MirrorLayout, *, resume: bool = False, overwrite: bool = False
) -> Iterator[Path]:
    """Yields the directory to work in: OUT itself if it is local, else a copy, mirrored to OUT while the block runs.

    A bucket that does not answer delays nothing: it is reported once and tried again. The copy is deleted if the block
    ends without an error and the bucket holds everything.

    Args:
        place: OUT.
        layout: What OUT is to hold.
        resume: The copy begins with what OUT holds.
        overwrite: Delete what OUT holds first.

    Raises:
        UserError: OUT exists and neither is given, or this command did not make it, or another command works on it.
        StepError: at the end the bucket does not hold everything; the message says where the copy lies.
    """
    if place.is_local:
        with no_empty_directory(place):
            yield place.absolute().local
        return
    with locked_copy(place, "work") as copy:
        found = read_mirror(place)
        if found.get("of", layout.marker) != layout.marker:
            raise UserError(f"{place} was made by another command, which wrote {found['of']}; give another OUT")
        is_fresh = overwrite or place.is_empty()
        marker = MIRROR_JSON if found or overwrite else layout.marker
        prepare_out(place, marker=marker, overwrite=overwrite, resume=resume)
        mirror = Mirror(place, copy, layout)
        if is_fresh or not mirror.is_mirrored(found):
            mirror.take_over(is_fresh)
            make_room()
        else:
            mirror.resume()
        is_done = False
        try:
            with mirror.running():
                yield copy
            is_done = True
        finally:
            # A command that was refused leaves no files.
            if is_done or not (copy.exists() and any(copy.iterdir())):
                shutil.rmtree(copy.parent)


@dataclass(frozen=True)
class ReadingCopy:
    """The directory itself if it is local, else a copy of it that holds what was wanted."""

    path: Path
    """the directory on this machine"""
    place: Location
    """the directory that was requested"""
    names: Sequence[str] = ()
    """files of a remote directory"""

    def fetch(self, directory: Path) -> Path:
        """Makes sure that a directory inside the copy holds all its files, and returns it."""
        name = directory.relative_to(self.path).as_posix()
        missing = [file for file in self.names if file.startswith(f"{name}/") and not (self.path / file).exists()]
        pull(self.place, self.path, missing)
        return directory


@contextlib.contextmanager
def reading_copy(
    place: Location,
    *,
    markers: Collection[str],
    wanted: Callable[[str], bool],
    results: Sequence[str] = (),
) -> Iterator[ReadingCopy]:
    """Yields a sweep, run or model directory to read; of a remote one a copy, which the cache keeps for a while.

    Args:
        place: The directory.
        markers: A remote directory must hold one of these files.
        wanted: Selects the files to copy by their names; `ReadingCopy.fetch` copies others later.
        results: Files and directories that the block writes; of a copy they are put into `place` at its end.

    Raises:
        UserError: the directory holds none of the markers.
        StepError: the bucket does not answer.
    """
    if place.is_local:
        yield ReadingCopy(place.local, place)
        return
    with locked_copy(place, "read", wait_s=_WAIT_S) as path:
        names = place.files()
        if not set(markers) & set(names):
            raise UserError(f"{place} has no {' or '.join(markers)}; give the OUT of sweep, train or export")
        zipped = zipped_runs(names)
        names = [name for name in names if name.split("/")[-1] == RUNNING or not _lies_in(name, zipped)]
        clear(path)
        pull(place, path, [name for name in names if wanted(name)])
        make_room()
        yield ReadingCopy(path, place, names)
        written = [name for name in list_files(path) if name.split("/")[0] in results]
        for_each(lambda name: put(path, place, name), written)


def _lies_in(name: str, runs: Collection[str]) -> bool:
    return any(name.startswith(f"{run}/") for run in runs)

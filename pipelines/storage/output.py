"""Prepare the output directory of a command, or refuse it."""

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.core.errors import UserError
from pipelines.storage.location import Location

__all__ = [
    "delete_empty",
    "make_directory",
    "missing_directories",
    "no_empty_directory",
    "prepare_out",
    "refuse_existing",
    "refuse_other_options",
    "undone_if_refused",
]


def prepare_out(
    out: "str | Path | Location", *, marker: str, overwrite: bool = False, resume: bool | None = None
) -> Location:
    """Makes the output directory OUT, or refuses one that exists.

    Args:
        out: The directory, or its URI.
        marker: A file that only this command writes there; --overwrite deletes no directory without it.
        overwrite: Delete its content.
        resume: Keep its content; None for a command that has no --resume.

    Raises:
        UserError: OUT exists and neither is given, or this command did not make it.
    """
    refuse_existing(out, marker=marker, overwrite=overwrite, resume=resume)
    place = Location.of(out)
    if overwrite and not resume and place.is_dir() and not place.is_empty():
        place.clear(last=marker)
    make_directory(place)
    return place


def refuse_existing(
    out: "str | Path | Location", *, marker: str, overwrite: bool = False, resume: bool | None = None
) -> None:
    """Raises UserError where `prepare_out` does, but changes nothing: for commands that first read for long."""
    place = Location.of(out)
    _refuse_file(place)
    if not place.is_dir() or place.is_empty():
        return
    if not resume and not overwrite:
        way_out = "" if resume is None else "--resume continues it, "
        raise UserError(f"{out} exists; {way_out}--overwrite deletes it first")
    if not (place / marker).exists():
        raise UserError(
            f"{out} has no {marker}: nothing to resume there; give another OUT"
            if resume
            else f"{out} has no {marker}: it was not made by this command and is not deleted; "
            "give another OUT, or remove it yourself"
        )


def refuse_other_options(
    out: Path, earlier: Mapping[str, Any], settings: Mapping[str, Any], *, name_of_out: str = "OUT"
) -> None:
    """Raises UserError if the results in OUT were started with other options than `settings`."""
    for name, value in settings.items():
        if earlier.get(name) != value:
            raise UserError(
                f"{out} was started with {name} {earlier.get(name)!r}, not {value!r}; resume it with the same "
                f"options, or give another {name_of_out}"
            )


@contextlib.contextmanager
def undone_if_refused(out: Path, *, marker: str) -> Iterator[None]:
    """Deletes OUT if the block raises a UserError while OUT holds its marker only.

    Otherwise the corrected command would be refused because OUT exists.
    """
    try:
        yield
    except UserError:
        if [path.name for path in out.iterdir()] == [marker]:
            shutil.rmtree(out)
        raise


@contextlib.contextmanager
def no_empty_directory(place: Location) -> Iterator[None]:
    """Deletes a local directory and its parents at the end of the block, if the block made them and left them empty."""
    missing = missing_directories(place)
    try:
        yield
    finally:
        delete_empty(missing)


def missing_directories(place: Location) -> list[Path]:
    """A local directory and its parents, as far as they do not exist, the lowest first."""
    path = Path(place.text)
    return [each for each in (path, *path.parents) if place.is_local and not each.exists()]


def delete_empty(directories: Iterable[Path]) -> None:
    """Deletes those of the directories that exist and are empty."""
    for each in directories:
        with contextlib.suppress(OSError):
            each.rmdir()


def make_directory(place: Location) -> None:
    """Makes a directory and its parents. Raises UserError if that is impossible."""
    _refuse_file(place)
    try:
        place.mkdir()
    except OSError as error:
        raise UserError(f"{place} cannot be made: {error.strerror}") from error


def _refuse_file(place: Location) -> None:
    if place.exists() and not place.is_dir():
        raise UserError(f"{place} is a file; OUT must be a directory")

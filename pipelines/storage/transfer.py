"""Copy files between a bucket and a copy of it on this machine.

A run that is being trained lies in a bucket as one object, its running.zip.
"""

import contextlib
import os
import shutil
import zipfile
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipelines.core.errors import StepError
from pipelines.storage.location import Location

__all__ = ["RUNNING", "Files", "clear", "for_each", "list_files", "pull", "put", "zipped_runs"]

RUNNING = "running.zip"
"""The object that holds all files of a run that is being trained."""
Files = dict[str, tuple[int, int, int]]
"""Names of files, relative to a copy, and what changes when a file does: time, size and inode."""
_THREADS = 16


def zipped_runs(names: Iterable[str]) -> set[str]:
    """The runs, as directories, that lie in a bucket as one object; "" is the top directory."""
    return {name.removesuffix(RUNNING).rstrip("/") for name in names if name.split("/")[-1] == RUNNING}


def pull(place: Location, copy: Path, names: Sequence[str]) -> None:
    """Fetches files into a copy; those in a running.zip replace others of the same name.

    Raises:
        StepError: a running.zip is damaged, or the bucket does not answer.
    """

    def fetch(name: str) -> None:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).download(copy / name)

    for_each(fetch, names)
    for name in names:
        archive_path = copy / name
        if archive_path.name == RUNNING:
            try:
                with zipfile.ZipFile(archive_path) as archive:
                    archive.extractall(archive_path.parent)
            except zipfile.BadZipFile as error:
                raise StepError(
                    f"{place / name} is damaged ({error}); delete it: the training starts from the beginning"
                ) from error
            archive_path.unlink()


def put(copy: Path, place: Location, name: str) -> None:
    """Sends a file of a copy."""
    (place / os.path.dirname(name) if "/" in name else place).mkdir()
    (place / name).upload(copy / name)


def clear(copy: Path) -> None:
    """Makes a copy an empty directory."""
    shutil.rmtree(copy)
    copy.mkdir()


def list_files(copy: Path, skipped: Collection[str] = ()) -> Files:
    """All files of a copy, except for `skipped` at its top; nothing hidden, as files being written are."""
    found: Files = {}
    for folder, folders, names in os.walk(copy):
        inner = os.path.relpath(folder, copy)
        folders[:] = [name for name in folders if name[0] != "." and (inner != "." or name not in skipped)]
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                if name[0] != "." and (inner != "." or name not in skipped):
                    status = os.stat(os.path.join(folder, name))
                    found[os.path.normpath(os.path.join(inner, name))] = (
                        status.st_mtime_ns,
                        status.st_size,
                        status.st_ino,
                    )
    return found


def for_each(call: Callable[[str], Any], names: Sequence[str]) -> None:
    """Calls a function with each name, several at a time; raises the first error when all have ended."""
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(call, names))

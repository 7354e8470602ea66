"""Remote shards on this node's disk: kept under their SHA-256, up to a limit, the least recently used going first.

Two variables of the environment, because they belong to a node and not to a job:

    TTRNN_CACHE      the directory [default: ~/.cache/ttrnn]
    TTRNN_CACHE_GB   the limit in GB [default: half of the disk that the directory is on]
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pipelines.core.errors import StepError, UserError
from pipelines.storage.location import Location
from ttrnn.files import atomic_write, remove_leftovers

__all__ = ["Remote", "cache_directory", "cached"]


log = logging.getLogger(__name__)
# Whatever else lies in the directory is not ours to delete.
_OURS = "[0-9a-f]" * 64 + ".arrow"


class Remote(NamedTuple):
    """A remote file that never changes, and what it must be."""

    location: Location
    sha256: str
    num_bytes: int


def cache_directory() -> Path:
    """Where this node keeps copies of what lies elsewhere; made if it is not there. Raises UserError."""
    directory = Path(os.environ.get("TTRNN_CACHE") or Path.home() / ".cache" / "ttrnn").absolute()
    with _writable(directory):
        directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextlib.contextmanager
def _writable(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the cache {directory} can't be written ({error.strerror}); set TTRNN_CACHE to another directory"
        ) from error


def cached(files: Sequence[Remote]) -> list[Path]:
    """Local copies of the files, in order; fetched and checked where they are not there yet.

    Any number of processes may ask at the same time: one fetches, the others wait. A file that goes to make room stays
    readable for those who have it open.

    Raises:
        UserError: together they are larger than the limit, or the directory can't be written.
        StepError: a file is missing, differs from its SHA-256, or can't be fetched.
    """
    directory = cache_directory()
    with _writable(directory):
        lock = (directory / ".lock").open("w")
    by_path = {directory / f"{file.sha256}.arrow": file for file in files}
    with lock:
        limit, needed = _limit_bytes(directory), sum(file.num_bytes for file in by_path.values())
        if needed > limit:
            raise UserError(
                f"the shards take {needed / 1e9:,.3f} GB, the cache in {directory} may hold {limit / 1e9:,.3f} GB; set "
                "TTRNN_CACHE_GB higher, TTRNN_CACHE to a larger disk, or make smaller shards"
            )
        if _missing(by_path):
            # The system releases it when its holder dies.
            fcntl.flock(lock, fcntl.LOCK_EX)
            remove_leftovers(directory)
            _fetch_all(_missing(by_path), directory, limit, by_path)
    return [directory / f"{file.sha256}.arrow" for file in files]


def _limit_bytes(directory: Path) -> int:
    text = os.environ.get("TTRNN_CACHE_GB")
    if not text:
        return shutil.disk_usage(directory).total // 2
    try:
        limit = int(float(text) * 1e9)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise UserError(f"TTRNN_CACHE_GB must be a number of GB above 0, got {text!r}")
    return limit


def _missing(files: dict[Path, Remote]) -> dict[Path, Remote]:
    """Those that are not there; the others count as used just now."""
    missing = {}
    for path, file in files.items():
        try:
            os.utime(path)
            is_whole = path.stat().st_size == file.num_bytes
        except FileNotFoundError:
            is_whole = False
        if not is_whole:
            missing[path] = file
    return missing


def _fetch_all(files: dict[Path, Remote], directory: Path, limit: int, wanted: Collection[Path]) -> None:
    if not files:
        return
    num_bytes = sum(file.num_bytes for file in files.values())
    log.info("fetching %d shards, %s MB, into %s", len(files), f"{num_bytes / 1e6:,.0f}", directory)
    _make_room(directory, limit - num_bytes, wanted)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(_fetch, files.values(), files))


def _fetch(file: Remote, path: Path) -> None:
    digest = hashlib.sha256()
    with atomic_write(path, "wb") as target:
        try:
            for chunk in file.location.chunks():
                digest.update(chunk)
                target.write(chunk)
        except FileNotFoundError as error:
            raise StepError(f"{file.location} is missing; run preprocess again, with --resume") from error
        if digest.hexdigest() != file.sha256:
            raise StepError(
                f"{file.location} is damaged: its SHA-256 is not that of dataset.json; delete it and run preprocess "
                "--resume"
            )


def _make_room(directory: Path, limit: int, wanted: Collection[Path]) -> None:
    """Removes the least recently used until `limit` bytes are left, but nothing that is wanted now."""
    kept = sorted(((path.stat(), path) for path in directory.glob(_OURS)), key=lambda both: both[0].st_mtime_ns)
    total = sum(status.st_size for status, _ in kept)
    for status, path in kept:
        if total <= limit:
            return
        if path not in wanted:
            path.unlink(missing_ok=True)
            total -= status.st_size

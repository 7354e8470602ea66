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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pipelines.cli import StepError, UserError
from pipelines.storage import Location

__all__ = ["Remote", "cached"]

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 22


class Remote(NamedTuple):
    """A remote file that never changes, and what it must be."""

    location: Location
    sha256: str
    num_bytes: int


def cached(files: Sequence[Remote]) -> list[Path]:
    """Local copies of the files, in order; fetched and checked where they are not there yet.

    Any number of processes may ask at the same time: each file is fetched once. A file that goes to make room stays
    readable for those who have it open.

    Raises:
        UserError: together they are larger than the limit.
        StepError: a file differs from its SHA-256, or can't be fetched.
    """
    directory = Path(os.environ.get("TTRNN_CACHE") or Path.home() / ".cache" / "ttrnn")
    directory.mkdir(parents=True, exist_ok=True)
    limit, needed = _limit_bytes(directory), sum(file.num_bytes for file in files)
    if needed > limit:
        raise UserError(
            f"the shards take {needed / 1e9:.1f} GB, the cache in {directory} may hold {limit / 1e9:.1f} GB; set "
            "TTRNN_CACHE_GB higher, TTRNN_CACHE to a larger disk, or make smaller shards"
        )
    wanted = {file.sha256 for file in files}
    paths = [directory / f"{file.sha256}.arrow" for file in files]
    missing = [(file, path) for file, path in zip(files, paths, strict=True) if not _is_there(file, path)]
    if missing:
        log.info("fetching %d shards into %s", len(missing), directory)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda both: _fetch(both[0], both[1], limit, wanted), missing))
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
    return paths


def _limit_bytes(directory: Path) -> int:
    text = os.environ.get("TTRNN_CACHE_GB")
    if not text:
        return shutil.disk_usage(directory).total // 2
    try:
        return int(float(text) * 1e9)
    except (ValueError, OverflowError) as error:
        raise UserError(f"TTRNN_CACHE_GB must be a number of GB, got {text!r}") from error


def _is_there(file: Remote, path: Path) -> bool:
    return path.exists() and path.stat().st_size == file.num_bytes


def _fetch(file: Remote, path: Path, limit: int, wanted: set[str]) -> None:
    with _lock(path.with_suffix(".lock")):
        if _is_there(file, path):
            return
        with _lock(path.parent / ".room.lock"):
            _make_room(path.parent, limit - file.num_bytes, wanted)
        # Under the lock its name is ours: what a killed process left there is written over.
        temporary, digest = path.with_suffix(".tmp"), hashlib.sha256()
        with file.location.open() as source, temporary.open("wb") as target:
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                target.write(chunk)
        if digest.hexdigest() != file.sha256:
            temporary.unlink()
            raise StepError(
                f"{file.location} is damaged: its SHA-256 is not that of dataset.json; run preprocess again"
            )
        os.replace(temporary, path)


def _make_room(directory: Path, limit: int, wanted: set[str]) -> None:
    """Removes the least recently used until `limit` bytes are left, but nothing that is wanted now."""
    kept = sorted(((path.stat(), path) for path in directory.glob("*.arrow")), key=lambda both: both[0].st_mtime_ns)
    total = sum(status.st_size for status, _ in kept)
    for status, path in kept:
        if total <= limit:
            return
        if path.stem not in wanted:
            path.unlink(missing_ok=True)
            total -= status.st_size


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Between processes and threads; the system releases it when its holder dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

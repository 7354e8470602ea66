"""Keep copies of remote files on this node's disk, within a limit: the least recently used are deleted first.

Shards lie in the cache under their SHA-256, copies of sweeps and runs in its directories `work` and `read`. Environment
variables configure it, because it belongs to a node and not to a job:

    TTRNN_CACHE      the directory [default: ~/.cache/ttrnn]
    TTRNN_CACHE_GB   the limit in GB [default: half of the disk that holds the directory]
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Literal, NamedTuple

from pipelines.core.errors import StepError, UserError
from pipelines.storage.location import Location
from pipelines.storage.lock import only_writer
from ttrnn.files import atomic_write, remove_leftovers

__all__ = ["Remote", "cache_directory", "locked_copy", "make_room", "open_cached"]

log = logging.getLogger(__name__)

# Nothing else in the directory is ever deleted.
_SHARDS = "[0-9a-f]" * 64 + ".arrow"
_COPIES = "[0-9a-f]" * 16


class Remote(NamedTuple):
    """A remote file that never changes, with its digest and size."""

    location: Location
    sha256: str
    num_bytes: int


def cache_directory() -> Path:
    """The directory of this node's copies; made if it does not exist. Raises UserError."""
    try:
        directory = Path(os.environ.get("TTRNN_CACHE") or Path.home() / ".cache" / "ttrnn").absolute()
    except RuntimeError as error:
        raise UserError("there is no home directory for the cache; set TTRNN_CACHE to a directory") from error
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


def open_cached(files: Sequence[Remote]) -> list[IO[bytes]]:
    """Opens local copies of the files, in order; a file that is not in the cache is fetched and checked first.

    A file that another process deletes to make room stays readable for those who have opened it: hence files, not
    paths. Any number of processes may call this at the same time: one fetches, the others wait. The caller closes the
    files.

    Raises:
        UserError: together they are larger than the limit, or the directory can't be written.
        StepError: a file is missing, differs from its SHA-256, or can't be fetched.
    """
    directory = cache_directory()
    by_path = {directory / f"{file.sha256}.arrow": file for file in files}
    limit, needed = _limit_bytes(directory), sum(file.num_bytes for file in by_path.values())
    if needed > limit:
        raise UserError(
            f"the shards take {needed / 1e9:,.3f} GB, the cache in {directory} may hold {limit / 1e9:,.3f} GB; set "
            "TTRNN_CACHE_GB higher, TTRNN_CACHE to a larger disk, or make smaller shards"
        )
    opened = _open_all(files, directory)
    if opened is None:
        # Files are deleted under this lock only, so that those just fetched are still there to be opened.
        with _locked(directory):
            remove_leftovers(directory)
            _fetch_missing(by_path, directory, limit)
            opened = _open_all(files, directory)
        assert opened is not None, "a fetched file is missing from the cache"
    return opened


def _open_all(files: Sequence[Remote], directory: Path) -> list[IO[bytes]] | None:
    """The copies of all files, which count as used from now; None if one is missing."""
    with contextlib.ExitStack() as stack:
        opened = []
        for file in files:
            copy = _open(directory / f"{file.sha256}.arrow", file.num_bytes)
            if copy is None:
                return None
            opened.append(stack.enter_context(copy))
        stack.pop_all()
    return opened


def _open(path: Path, num_bytes: int) -> IO[bytes] | None:
    """The file, which counts as used from now; None if it is missing or not whole."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    os.utime(file.fileno())
    if os.fstat(file.fileno()).st_size == num_bytes:
        return file
    file.close()
    return None


@contextlib.contextmanager
def _locked(directory: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds the lock of the cache. Raises BlockingIOError if another process holds it and `wait` is False."""
    with _writable(directory):
        lock = (directory / ".lock").open("w")
    with lock:
        # The system releases it when this process ends.
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


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


def _fetch_missing(files: Mapping[Path, Remote], directory: Path, limit: int) -> None:
    missing = {}
    for path, file in files.items():
        copy = _open(path, file.num_bytes)
        if copy is None:
            missing[path] = file
        else:
            copy.close()
    if not missing:
        return
    num_bytes = sum(file.num_bytes for file in missing.values())
    log.info("fetching %d shards, %s MB, into %s", len(missing), f"{num_bytes / 1e6:,.0f}", directory)
    _make_room(directory, limit - num_bytes, files)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(_fetch, missing.values(), missing))


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


@contextlib.contextmanager
def locked_copy(place: Location, kind: Literal["work", "read"], *, wait_s: float = 0.0) -> Iterator[Path]:
    """Yields the directory of the copy of a sweep or a run, which no other process uses while the block runs.

    Args:
        place: What is copied.
        kind: `work` for a copy that a command changes: only its command deletes it, since the bucket may lack what it
            holds. `read` for a copy that the cache deletes to make room.
        wait_s: How long to wait for another process that uses it, in seconds.

    Raises:
        UserError: another process still uses it, or the cache can't be written.
    """
    home = cache_directory() / kind / hashlib.sha256(str(place).encode()).hexdigest()[:16]
    # A training locks the copy itself, hence the directory above it here.
    with only_writer(Location(str(home)), wait_s=wait_s):
        os.utime(home)
        copy = home / (place.name or "copy")
        copy.mkdir(exist_ok=True)
        yield copy


def make_room() -> None:
    """Deletes the least recently used files and unused copies until the cache is within its limit.

    Does nothing while another process fetches files, which makes room itself.
    """
    directory = cache_directory()
    with contextlib.suppress(BlockingIOError), _locked(directory, wait=False):
        _make_room(directory, _limit_bytes(directory))


def _make_room(directory: Path, limit: int, wanted: Collection[Path] = ()) -> None:
    """Deletes the least recently used until `limit` bytes are left.

    It keeps what is wanted, copies that are in use, and copies to work on.
    """
    used = []
    for path in (*directory.glob(_SHARDS), *directory.glob(f"read/{_COPIES}"), *directory.glob(f"work/{_COPIES}")):
        # A command may be deleting its own copy.
        with contextlib.suppress(FileNotFoundError):
            used.append((path.stat().st_mtime_ns, path, _num_bytes(path)))
    total = sum(num_bytes for _, _, num_bytes in used)
    for _, path, num_bytes in sorted(used):
        if total <= limit:
            return
        if path not in wanted and path.parent.name != "work" and _delete_unused(path):
            total -= num_bytes
    if total > limit:
        log.info("the cache in %s exceeds its limit by %s MB: it is in use", directory, f"{(total - limit) / 1e6:,.0f}")


def _num_bytes(path: Path) -> int:
    """The size of a file, or of all files of a directory."""
    if path.is_file():
        return path.stat().st_size
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def _delete_unused(path: Path) -> bool:
    """Deletes a file, or a copy unless another process holds its lock; whether it did."""
    if path.is_file():
        path.unlink(missing_ok=True)
        return True
    try:
        with only_writer(Location(str(path))):
            shutil.rmtree(path)
    except UserError:
        return False
    return True

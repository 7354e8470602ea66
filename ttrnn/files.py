"""Files written whole or not at all: a temporary name beside the target, fsync, rename."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

__all__ = ["atomic_directory", "atomic_write", "fsync_path", "remove_leftovers", "sha256"]


def fsync_path(path: Path) -> None:
    """Flushes one file or directory to the disk, so that it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a temporary file that takes the name `path` when the block ends well, and vanishes when it doesn't.

    Args:
        path: The final name. Its directory must exist.
        mode: "w" for UTF-8 text, "wb" for bytes.
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(
            descriptor, mode, encoding=None if "b" in mode else "utf-8", newline="" if mode == "w" else None
        ) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; these are results that others may read.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    fsync_path(path.parent)


@contextlib.contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yields a temporary directory that takes the place of `path` when the block ends well.

    An older directory at `path` is replaced; it is moved aside first, so that a reader never sees a mixture.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield temporary
        for file in temporary.rglob("*"):
            fsync_path(file)
        os.chmod(temporary, 0o777 & ~_umask())
        if path.exists():
            aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            os.replace(path, aside / path.name)
            try:
                os.replace(temporary, path)
            except BaseException:
                os.replace(aside / path.name, path)
                raise
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        else:
            os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_path(path.parent)


def remove_leftovers(directory: Path) -> None:
    """Deletes what writers that were killed in the middle have left in a directory. Nobody may be writing there."""
    for leftover in (*directory.glob(".*.tmp"), *directory.glob(".*.old")):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    # The only way to read the umask is to set it; 0o022 restores the common case between the two calls.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask

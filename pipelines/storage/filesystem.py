"""Open remote file systems through pyarrow, list local ones, and turn errors of remote ones into one line."""

import contextlib
import functools
import logging
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from pipelines.core.errors import StepError, UserError

__all__ = ["NOT_IN_URLS", "StorageError", "join_url", "list_local_files", "one_line_errors", "open_filesystem"]

log = logging.getLogger(__name__)

# urlsplit ends the path at a # and drops the other characters; object stores allow all of them in keys.
NOT_IN_URLS = str.maketrans({char: quote(char) for char in "#\t\n\r"})


class StorageError(StepError):
    """A remote file system refuses a request or does not answer. The message is one line."""


@contextlib.contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """Turns errors of a remote file system into a StorageError of one line; FileNotFoundError is passed on.

    Args:
        name: The file or directory, to begin the line with.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError, NotImplementedError) as error:
        raise StorageError(f"{name}: {' '.join(str(error).split())}") from error


def list_local_files(directory: str) -> list[str]:
    """All files below a local directory, by relative name with "/"; nothing hidden.

    Follows links but enters no directory twice. A directory that cannot be read is skipped with a warning.
    """
    names: list[str] = []
    seen: set[tuple[int, int]] = set()

    def warn(error: OSError) -> None:
        log.warning("%s can't be read (%s) and is left out", error.filename, error.strerror)

    for folder, folders, files in os.walk(directory, onerror=warn, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # Sorted, so that of two paths to one directory the same one is always taken.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        start = "" if folder == directory else f"{os.path.relpath(folder, directory)}/"
        names += [start + name for name in files if not name.startswith(".")]
    return names


def join_url(scheme: str, netloc: str, path: str, query: str) -> str:
    """The URL of these parts. (urlunsplit makes hdfs:/shards of hdfs:///shards.)"""
    return f"{scheme}://{netloc}{path}" + (f"?{query}" if query else "")


@functools.cache
def open_filesystem(scheme: str, netloc: str, query: str) -> tuple[Any, str]:
    """A pyarrow file system, and the path of its root (in an object store: the bucket).

    Raises:
        UserError: pyarrow does not know the scheme, or an option in the query is wrong.
    """
    from pyarrow import fs

    if scheme == "s3" and "allow_delayed_open" not in query:
        # A small file then takes one request instead of three.
        query = "&".join(filter(None, (query, "allow_delayed_open=true")))
    try:
        filesystem, root = fs.FileSystem.from_uri(join_url(scheme, netloc, "/", query))
    except (OSError, ValueError, ImportError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"{scheme}://{netloc} can't be opened ({reason}); give a path, or a URI that pyarrow knows (s3, gs, hdfs)"
        ) from error
    return filesystem, root

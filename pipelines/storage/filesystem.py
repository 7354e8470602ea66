"""Open remote file systems through pyarrow, and turn their errors into one line."""

import functools
import logging
import os
from typing import Any
from urllib.parse import quote

from pipelines.core.errors import StepError, UserError

__all__ = ["NOT_IN_URLS", "StorageError", "join_url", "local_files", "open_filesystem"]

log = logging.getLogger(__name__)


# No key of an object store is cut off at a #, but urlsplit does, and drops the others.
NOT_IN_URLS = str.maketrans({char: quote(char) for char in "#\t\n\r"})


class StorageError(StepError):
    """A remote file system refuses or does not answer; told in one line."""


def local_files(top: str) -> list[str]:
    names: list[str] = []
    seen: set[tuple[int, int]] = set()

    def tell(error: OSError) -> None:
        log.warning("%s can't be read (%s) and is left out", error.filename, error.strerror)

    for folder, folders, files in os.walk(top, onerror=tell, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # In order, so that of two ways to a directory it is always the same one that counts.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        start = "" if folder == top else f"{os.path.relpath(folder, top)}/"
        names += [start + name for name in files if not name.startswith(".")]
    return names


def join_url(scheme: str, netloc: str, path: str, query: str) -> str:
    # Not by urlunsplit, which makes hdfs:/shards of hdfs:///shards.
    return f"{scheme}://{netloc}{path}" + (f"?{query}" if query else "")


@functools.cache
def open_filesystem(scheme: str, netloc: str, query: str) -> tuple[Any, str]:
    """A pyarrow file system, and the path of its root (in an object store: the bucket)."""
    from pyarrow import fs

    if scheme == "s3" and "allow_delayed_open" not in query:
        # A small file is one request then, not three.
        query = "&".join(filter(None, (query, "allow_delayed_open=true")))
    try:
        filesystem, root = fs.FileSystem.from_uri(join_url(scheme, netloc, "/", query))
    except (OSError, ValueError, ImportError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"{scheme}://{netloc} can't be opened ({reason}); give a path, or a URI that pyarrow knows (s3, gs, hdfs)"
        ) from error
    return filesystem, root

"""Copy remote videos to local files, and count the frames that videos announce."""

import contextlib
import functools
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipelines.storage.location import Location
from pipelines.video.worker import IsolatedDecoder

__all__ = ["count_frames", "local_copies", "local_copy", "room_for_copies"]


# Downloads at a time; as many copies are on the disk at most.
_NUM_DOWNLOADS = 8
_TIME_LIMIT_S = 10.0


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """The local file of a video, or a temporary copy of a remote one; if that does not exist, neither does the copy."""
    with room_for_copies() as directory:
        yield next(local_copies([path], directory))


room_for_copies = functools.partial(tempfile.TemporaryDirectory, prefix="ttrnn-")
"""A context manager: a temporary directory for `local_copies`."""


def local_copies(paths: Iterable[str], directory: str) -> Iterator[Path]:
    """As `local_copy`, for one path after the other; a copy is deleted when the next path but one is requested."""
    for number, path in enumerate(paths):
        source, copy = Location.of(path), Path(directory, str(number))
        if source.is_local:
            yield source.local
            continue
        # The decoder reports a missing file.
        with contextlib.suppress(FileNotFoundError):
            source.download(copy)
        yield copy
        Path(directory, str(number - 1)).unlink(missing_ok=True)


def count_frames(paths: Sequence[str]) -> list[int]:
    """The frames that the header of each video announces, 0 if it does not; remote videos are copied in parallel."""
    lock = threading.Lock()
    with IsolatedDecoder(_TIME_LIMIT_S) as decoder, ThreadPoolExecutor(_NUM_DOWNLOADS) as threads:

        def count(path: str) -> int:
            with local_copy(path) as file, lock:
                return decoder.count_frames(file, _TIME_LIMIT_S)

        return list(threads.map(count, paths))

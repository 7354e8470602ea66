"""Copy remote clips to local files, and read their headers: the frames of videos, the frame size of arrays."""

import contextlib
import functools
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pipelines.storage.location import Location
from pipelines.video.errors import RejectedError
from pipelines.video.frame import FrameSize
from pipelines.video.suffixes import PICTURE_SUFFIXES
from pipelines.video.worker import IsolatedDecoder

__all__ = ["array_sizes", "count_frames", "local_copies", "local_copy", "room_for_copies"]


T = TypeVar("T")
# Downloads at a time; as many copies are on the disk at most.
_NUM_DOWNLOADS = 8
_TIME_LIMIT_S = 10.0


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """The local file of a clip, or a temporary copy of a remote one; if that does not exist, neither does the copy.

    A folder of pictures is copied as a folder.
    """
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
        _download(source, copy)
        yield copy
        _remove(Path(directory, str(number - 1)))


def _download(source: Location, copy: Path) -> None:
    """Copies a file, or the pictures in a folder; nothing if there is neither, which the decoder reports."""
    try:
        source.download(copy)
    except FileNotFoundError:
        pictures = [name for name in source.files() if "/" not in name and name.lower().endswith(PICTURE_SUFFIXES)]
        if pictures:
            copy.mkdir()
            with ThreadPoolExecutor(_NUM_DOWNLOADS) as threads:
                list(threads.map(lambda name: (source / name).download(copy / name), pictures))


def _remove(copy: Path) -> None:
    if copy.is_dir():
        shutil.rmtree(copy)
    else:
        copy.unlink(missing_ok=True)


def count_frames(paths: Sequence[str]) -> list[int]:
    """The frames that the header of each video announces, 0 if it does not; remote videos are copied in parallel."""
    return _examine(paths, lambda decoder, file: decoder.count_frames(file, _TIME_LIMIT_S))


def array_sizes(paths: Sequence[str]) -> dict[str, FrameSize | None]:
    """The frame size of each array, None for a file that is no array, by path; rejected files are left out."""

    def size(decoder: IsolatedDecoder, file: Path) -> FrameSize | RejectedError | None:
        try:
            return decoder.array_size(file, _TIME_LIMIT_S)
        except RejectedError as error:
            return error

    sizes = zip(paths, _examine(paths, size), strict=True)
    return {path: size for path, size in sizes if not isinstance(size, RejectedError)}


def _examine(paths: Sequence[str], work: Callable[[IsolatedDecoder, Path], T]) -> list[T]:
    """Calls `work` for each clip, one at a time; remote clips are copied in parallel."""
    lock = threading.Lock()
    with IsolatedDecoder(_TIME_LIMIT_S) as decoder, ThreadPoolExecutor(_NUM_DOWNLOADS) as threads:

        def call(path: str) -> T:
            with local_copy(path) as file, lock:
                return work(decoder, file)

        return list(threads.map(call, paths))

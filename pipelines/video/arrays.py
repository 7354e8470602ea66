"""Read the frames of an array: .npy, .npz, or Arrow.

Frames are read one by one, by position, not mapped into memory: a file that another program cuts short meanwhile would
end the process, and a recording may be larger than the address space that the decoding process is given.

Legend: T time, H W frame height and width in pixels, C channels (3: RGB, 1: grey).
"""

import contextlib
import functools
import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, NamedTuple

import numpy as np

from pipelines.video.errors import RejectedError
from pipelines.video.reader import DEFAULT_FPS, Image
from pipelines.video.sampling import Sampling
from pipelines.video.values import to_uint8

__all__ = ["ArrayFrames", "ArrayReader", "is_array"]


_NPY, _ZIP, _ARROW_FILE, _ARROW_MESSAGE = b"\x93NUMPY", b"PK", b"ARROW1", b"\xff\xff\xff\xff"
_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_MAX_HEADER_BYTES = 2**16
_MAX_FRAME_BYTES = _MAX_WHOLE_BYTES = 2**31


class ArrayFrames(NamedTuple):
    """An array of frames, as it is stored."""

    format: str
    dtype: np.dtype[Any]
    frame_shape: tuple[int, ...]
    """(H, W) or (H, W, C), not checked yet"""
    num_announced: int
    """frames; 0 if unknown"""
    frames: Iterable[Callable[[], np.ndarray]]
    """make each frame; frames that are skipped are not made"""
    fps: float = 0.0
    """frames/s; 0 if unknown"""
    times: np.ndarray | None = None
    """float64 [T], s; not checked yet"""
    is_cut: bool = False
    """whether the file ends early"""


def is_array(file: IO[bytes]) -> bool:
    """Whether a file holds an array, by its first bytes."""
    file.seek(0)
    head = file.read(8)
    return head.startswith((_NPY, _ZIP, _ARROW_FILE)) or _begins_message(head)


def _begins_message(head: bytes) -> bool:
    """Whether bytes are the beginning of an Arrow message: the size of its header follows, which is a few lines."""
    return len(head) == 8 and head.startswith(_ARROW_MESSAGE) and 0 < int.from_bytes(head[4:], "little") < 1 << 16


class ArrayReader:
    """An array, T x H x W or T x H x W x C, as a `Reader`.

    Args:
        file: A file with `is_array`. It stays open while the frames are read.
        sampling: The range of its values, unless they are uint8.

    Raises:
        RejectedError: unreadable, wrong_shape, wrong_type, no_range, several_arrays, wrong_times, no_rate, damaged.
        MemoryError: a frame takes more than 2 GiB.
    """

    pixel_aspect = 1.0

    def __init__(self, file: IO[bytes], sampling: Sampling) -> None:
        with _rejecting_damage(file.name):
            self._array = array = _open(file)
        self._limits, self._path = sampling.limits, file.name
        self.codec, self.is_cut, self.num_announced = f"{array.format} {array.dtype}", array.is_cut, array.num_announced
        _check(array, self._limits, file.name)
        self.height, self.width = array.frame_shape[:2]
        self.channels = 3 if array.frame_shape[2:] == (3,) else 1
        self.fps = _mean_rate(array.times) if array.times is not None else array.fps
        if not 0 <= self.fps < math.inf:
            raise RejectedError(file.name, "wrong_times")
        if sampling.fps is not None and not self.fps:
            raise RejectedError(file.name, "no_rate")

    def __iter__(self) -> Iterator[Image]:
        times = self._array.times
        with _rejecting_damage(self._path):
            for index, make in enumerate(self._array.frames):
                if times is not None and index >= len(times):
                    raise RejectedError(self._path, "wrong_times")
                seconds = index / (self.fps or DEFAULT_FPS) if times is None else float(times[index] - times[0])
                yield Image(seconds, functools.partial(self._pixels, make))

    def _pixels(self, make: Callable[[], np.ndarray]) -> np.ndarray:
        with _rejecting_damage(self._path):
            frame = make()
        if frame.ndim == 3 and self.channels == 1:
            frame = frame[:, :, 0]
        if frame.dtype != np.uint8:
            assert self._limits is not None
            frame = to_uint8(frame, self._limits)
        return np.ascontiguousarray(frame)


@contextlib.contextmanager
def _rejecting_damage(path: str) -> Iterator[None]:
    """Rejects a file whose content contradicts its header."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise RejectedError(path, "damaged") from error


def _check(array: ArrayFrames, limits: tuple[float, float] | None, path: str) -> None:
    if array.dtype.kind not in "biuf":
        raise RejectedError(path, "wrong_type")
    shape = array.frame_shape
    if len(shape) not in (2, 3) or shape[2:] not in ((), (1,), (3,)) or min(shape) < 1 or array.num_announced < 0:
        raise RejectedError(path, "wrong_shape")
    if math.prod(shape) * array.dtype.itemsize > _MAX_FRAME_BYTES:
        raise RejectedError(path, "too_large")
    if array.dtype != np.uint8 and limits is None:
        raise RejectedError(path, "no_range")
    times = array.times
    if times is not None and not (len(times) == array.num_announced and np.isfinite(times).all() and _is_sorted(times)):
        raise RejectedError(path, "wrong_times")


def _is_sorted(times: np.ndarray) -> bool:
    return bool((np.diff(times) >= 0).all())


def _mean_rate(times: np.ndarray) -> float:
    """The mean rate, frames/s; 0 if all frames have the same time."""
    span = float(times[-1] - times[0]) if len(times) else 0.0
    return (len(times) - 1) / span if span else 0.0


def _open(file: IO[bytes]) -> ArrayFrames:
    file.seek(0)
    head = file.read(8)
    file.seek(0)
    if head.startswith(_NPY):
        return _open_npy(file, file.name, os.fstat(file.fileno()).st_size)
    if head.startswith(_ZIP):
        return _open_npz(file)
    # Loading it takes as long as decoding a clip.
    from pipelines.video import arrow_arrays

    return arrow_arrays.open_file(file) if head.startswith(_ARROW_FILE) else arrow_arrays.open_tensor(file)


class _Header(NamedTuple):
    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]


def _read_header(stream: IO[bytes], path: str) -> _Header:
    """Reads the header of the .npy format, which is no code: no object is made from it."""
    try:
        version = np.lib.format.read_magic(stream)
        start = stream.tell()
        # Longer ones are those of arrays with named fields.
        is_short = version == (1, 0) or int.from_bytes(stream.read(4), "little") < _MAX_HEADER_BYTES
        stream.seek(start)
        read = _HEADER_READERS.get(version) if is_short else None
        # Python 2 wrote longer integers, of which numpy warns.
        with warnings.catch_warnings(action="ignore"):
            header = _Header(*read(stream)) if read else None
    except Exception as error:
        # Whatever numpy and the parser of Python raise about a damaged header.
        raise RejectedError(path, "unreadable") from error
    if header is None:
        raise RejectedError(path, "unreadable")
    return header


def _open_npy(stream: IO[bytes], path: str, num_bytes: int) -> ArrayFrames:
    """Opens an array in a file or in an archive, whose size is `num_bytes`."""
    header = _read_header(stream, path)
    start, (num_frames, *frame_shape) = stream.tell(), header.shape or (0,)
    frame_bytes = math.prod(frame_shape) * header.dtype.itemsize
    num_whole = (num_bytes - start) // frame_bytes if frame_bytes > 0 else 0
    opened = ArrayFrames("npy", header.dtype, tuple(frame_shape), num_frames, (), is_cut=num_whole < num_frames)
    if header.dtype.hasobject or not 0 < frame_bytes <= _MAX_FRAME_BYTES:
        return opened
    if header.is_fortran:
        return opened._replace(frames=_by_columns(stream, header, num_whole))

    def make(index: int) -> np.ndarray:
        stream.seek(start + index * frame_bytes)
        content = stream.read(frame_bytes)
        if len(content) < frame_bytes:
            raise EOFError
        return np.frombuffer(content, header.dtype).reshape(frame_shape)

    return opened._replace(frames=(functools.partial(make, index) for index in range(min(num_frames, num_whole))))


def _by_columns(stream: IO[bytes], header: _Header, num_whole: int) -> Iterator[Callable[[], np.ndarray]]:
    """The frames of an array that is stored with time last, so that every frame is spread over the file."""
    num_frames = header.shape[0]
    if num_whole < num_frames:
        return
    num_bytes = math.prod(header.shape) * header.dtype.itemsize
    if num_bytes > _MAX_WHOLE_BYTES:
        raise MemoryError
    content = stream.read(num_bytes)
    if len(content) < num_bytes:
        raise EOFError
    array = np.frombuffer(content, header.dtype).reshape(header.shape, order="F")
    for index in range(num_frames):
        yield functools.partial(array.__getitem__, index)


def _open_npz(file: IO[bytes]) -> ArrayFrames:
    """Opens the array `frames` of an archive, or its only one besides `fps` and `times`."""
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise RejectedError(file.name, "unreadable") from error
    members = {
        info.filename.removesuffix(".npy"): info for info in archive.infolist() if info.filename.endswith(".npy")
    }
    names = ["frames"] if "frames" in members else [name for name in members if name not in ("fps", "times")]
    if len(names) != 1:
        raise RejectedError(file.name, "several_arrays" if names else "unreadable")
    opened = _open_npy(_open_member(archive, members[names[0]], file.name), file.name, members[names[0]].file_size)
    opened = opened._replace(format="npz")
    if "times" in members:
        return opened._replace(times=_read_numbers(archive, members["times"], file.name, opened.num_announced))
    if "fps" in members:
        (fps,) = _read_numbers(archive, members["fps"], file.name, 1).tolist()
        # 0 means that the rate is unknown; an archive that gives a rate must give one.
        return opened._replace(fps=fps or math.nan)
    return opened


def _open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str) -> IO[bytes]:
    # numpy writes no others; some of those are not bounded in memory.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise RejectedError(path, "unreadable")
    return archive.open(info)


def _read_numbers(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str, number: int) -> np.ndarray:
    """float64 [number]"""
    with _open_member(archive, info, path) as stream:
        header = _read_header(stream, path)
        if (
            header.dtype.kind not in "iuf"
            or math.prod(header.shape) != number
            or not 0 < number * 8 <= _MAX_WHOLE_BYTES
        ):
            raise RejectedError(path, "wrong_times")
        content = stream.read(number * header.dtype.itemsize)
    if len(content) < number * header.dtype.itemsize:
        raise EOFError
    return np.frombuffer(content, header.dtype).astype(np.float64)

"""Read the frames of an Arrow file, in which a row is a frame, and of an Arrow tensor.

Legend: T time, H W frame height and width in pixels, C channels.
"""

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
import pyarrow as pa

from pipelines.video.arrays import ArrayFrames
from pipelines.video.errors import RejectedError

__all__ = ["open_file", "open_tensor"]

_MAX_BYTES = 2**31
_LISTS = (pa.ListArray, pa.LargeListArray, pa.FixedSizeListArray)


def open_file(file: IO[bytes]) -> ArrayFrames:
    """Opens an Arrow IPC file (.arrow, or .feather of version 2).

    Its column `frames`, or its only one, holds a frame in each row: a fixed-shape tensor, or lists in lists of one
    length. A column `times` (s), or `fps` in the metadata of its schema, is used if there is one.

    Raises:
        RejectedError: unreadable, several_arrays, wrong_shape, wrong_type, wrong_times.
    """
    with _rejecting(file.name, "unreadable"):
        reader = pa.ipc.open_file(pa.PythonFile(file, mode="r"))
        schema = reader.schema
        names = ["frames"] if "frames" in schema.names else [name for name in schema.names if name != "times"]
        if len(names) != 1 or schema.names.count(names[0]) != 1:
            raise RejectedError(file.name, "several_arrays" if names else "unreadable")
        times = _read_times(file) if "times" in schema.names else None
        first = _batch(reader, 0, names[0], file.name) if reader.num_record_batches else np.empty((0, 1, 1), np.uint8)
    num_frames = len(first) if reader.num_record_batches < 2 else 0
    return ArrayFrames(
        "arrow",
        first.dtype,
        first.shape[1:],
        num_frames if times is None else len(times),
        _rows(reader, first, names[0], file.name),
        _rate(schema, file.name),
        times,
    )


@contextlib.contextmanager
def _rejecting(path: str, reason: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, NotImplementedError) as error:
        raise RejectedError(path, reason) from error


def _read_times(file: IO[bytes]) -> np.ndarray | None:
    """float64 [T]; the other columns are not read."""
    file.seek(0)
    names = pa.ipc.open_file(pa.PythonFile(file, mode="r")).schema.names
    options = pa.ipc.IpcReadOptions(included_fields=[names.index("times")])
    file.seek(0)
    column = pa.ipc.open_file(pa.PythonFile(file, mode="r"), options=options).read_all()["times"]
    if column.null_count or not _is_number(column.type):
        raise RejectedError(file.name, "wrong_times")
    return column.to_numpy().astype(np.float64)


def _rate(schema: pa.Schema, path: str) -> float:
    text = (schema.metadata or {}).get(b"fps")
    if text is None:
        return 0.0
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    return rate or math.nan


def _rows(reader: Any, first: np.ndarray, name: str, path: str) -> Iterator[Callable[[], np.ndarray]]:
    for number in range(reader.num_record_batches):
        with _rejecting(path, "damaged"):
            batch = _batch(reader, number, name, path) if number else first
        if (batch.dtype, batch.shape[1:]) != (first.dtype, first.shape[1:]):
            raise RejectedError(path, "wrong_shape")
        for row in range(len(batch)):
            yield functools.partial(batch.__getitem__, row)


def _batch(reader: Any, number: int, name: str, path: str) -> np.ndarray:
    """The frames in a record batch: [rows, H, W] or [rows, H, W, C]."""
    column = reader.get_batch(number).column(name)
    # Otherwise a wrong offset could point anywhere in memory.
    column.validate(full=True)
    is_tensor = isinstance(column, pa.FixedShapeTensorArray)
    if is_tensor and _is_number(column.type.value_type) and not column.null_count:
        return column.to_numpy_ndarray()
    shape = [len(column)]
    while isinstance(column, _LISTS) and not column.null_count:
        values = column.flatten()
        if isinstance(column, pa.FixedSizeListArray):
            length = column.type.list_size
        else:
            length = len(values) // max(1, len(column))
            if (np.diff(column.offsets.to_numpy()) != length).any():
                raise RejectedError(path, "wrong_shape")
        shape.append(length)
        column = values
    if column.null_count or not _is_number(column.type):
        raise RejectedError(path, "wrong_type")
    return column.to_numpy(zero_copy_only=False).reshape(shape)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def open_tensor(file: IO[bytes]) -> ArrayFrames:
    """Opens a tensor that pyarrow.ipc.write_tensor wrote: T x H x W or T x H x W x C.

    Raises:
        RejectedError: unreadable.
        MemoryError: it takes more than 2 GiB.
    """
    if os.fstat(file.fileno()).st_size > _MAX_BYTES:
        raise MemoryError
    with _rejecting(file.name, "unreadable"):
        array = pa.ipc.read_tensor(pa.BufferReader(file.read())).to_numpy()
    if not array.ndim:
        raise RejectedError(file.name, "wrong_shape")
    frames = (functools.partial(array.__getitem__, index) for index in range(len(array)))
    return ArrayFrames("arrow tensor", array.dtype, array.shape[1:], len(array), frames)

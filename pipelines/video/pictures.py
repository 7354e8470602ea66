"""Read a folder of pictures as the frames of a clip, in the order of the numbers in their names.

Legend: H W image height and width in pixels.
"""

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from pipelines.video.errors import RejectedError
from pipelines.video.reader import DEFAULT_FPS, Image
from pipelines.video.sampling import Sampling
from pipelines.video.suffixes import PICTURE_SUFFIXES
from pipelines.video.values import to_uint8

__all__ = ["PictureReader"]


_SAME_KIND = {".jpeg": ".jpg", ".tiff": ".tif"}
_NOWHERE = os.open(os.devnull, os.O_WRONLY)
# Grey stays grey, 16 bits stay 16 bits; the orientation that a camera stored is applied, transparency is dropped.
_AS_STORED = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH


class PictureReader:
    """A folder of pictures, as a `Reader`; other files in it are ignored.

    Args:
        path: The folder.
        sampling: The rate of the pictures, and the range of those of more than 8 bits.

    Raises:
        RejectedError: unreadable, mixed_pictures, no_rate; while it is read: bad_picture, no_range.
    """

    pixel_aspect, is_cut, width, height = 1.0, False, 0, 0

    def __init__(self, path: str, sampling: Sampling) -> None:
        self._path, self._limits = path, sampling.limits
        self._names = _picture_names(path)
        self.num_announced, self.fps = len(self._names), sampling.picture_fps or 0.0
        self.codec = f"{_kind(self._names[0])[1:]} pictures"
        if sampling.fps is not None and not self.fps:
            raise RejectedError(path, "no_rate")

    def __iter__(self) -> Iterator[Image]:
        for index, name in enumerate(self._names):
            yield Image(index / (self.fps or DEFAULT_FPS), functools.partial(self._pixels, name))

    def _pixels(self, name: str) -> np.ndarray:
        image = _read(os.path.join(self._path, name))
        if image is None:
            raise RejectedError(self._path, "bad_picture")
        if image.dtype != np.uint8:
            if self._limits is None:
                raise RejectedError(self._path, "no_range")
            image = to_uint8(image, self._limits)
        self.height, self.width = image.shape[:2]
        return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _picture_names(path: str) -> list[str]:
    """The pictures in a folder, in order."""
    try:
        names = [name for name in os.listdir(path) if name.lower().endswith(PICTURE_SUFFIXES) and name[0] != "."]
    except OSError as error:
        raise RejectedError(path, "unreadable") from error
    if not names:
        raise RejectedError(path, "unreadable")
    # Optical flow, depth or a preview beside the frames.
    if len({(re.sub(r"\d+", "0", os.path.splitext(name)[0]), _kind(name)) for name in names}) > 1:
        raise RejectedError(path, "mixed_pictures")
    return sorted(names, key=lambda name: ([int(digits) for digits in re.findall(r"\d+", name)], name))


def _kind(name: str) -> str:
    suffix = os.path.splitext(name)[1].lower()
    return _SAME_KIND.get(suffix, suffix)


def _read(path: str) -> np.ndarray | None:
    """uint8, uint16 or float [H, W] or [H, W, 3] (BGR); None if it does not decode."""
    try:
        # A named pipe would block.
        content = Path(path).read_bytes() if os.path.isfile(path) else b""
    except OSError:
        return None
    if not content:
        return None
    with _silence():
        return cv2.imdecode(np.frombuffer(content, np.uint8), _AS_STORED)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Discards what image libraries print about damaged pictures, on standard error."""
    kept = os.dup(2)
    os.dup2(_NOWHERE, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)

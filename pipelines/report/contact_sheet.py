"""Draw a few clips of each class as strips of frames, so that wrong crops, colours or labels are easy to see.

Legend: T time, H W frame height and width in pixels, C channels (3: RGB, 1: grey).
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from matplotlib.text import Text

from pipelines.core.errors import UserError
from pipelines.data.dataset import Split
from pipelines.evaluation.plots import Sheet
from pipelines.storage.location import Location
from pipelines.video.frame import FrameSize

__all__ = ["MAX_CLASSES", "write_contact_sheet"]


# Enough for UCF101; the sheet then has at most 2,700 x 5,700 pixels.
MAX_CLASSES = 120
_NUM_STRIPS, _NUM_FRAMES = 4, 4
# With more classes than this, frames are smaller and classes are in two columns.
_MANY_CLASSES, _LARGE_SIDE, _SMALL_SIDE = 24, 128, 64
# Pixels.
_MARGIN, _HEADER, _NAME, _GAP, _FRAME_GAP, _CAPTION, _LINE = 16, 56, 180, 12, 2, 16, 17
_MIN_STRIP, _MIN_WIDTH = 140, 900
_INK, _GREY = "#111111", "#777777"


def write_contact_sheet(place: Location, title: str, classes: Sequence[str], split: Split) -> None:
    """Writes a PNG, whole or not at all: up to 4 clips of each class, spread over the split, with 4 frames each.

    Only these frames are read. Small ones are enlarged by a whole factor, large ones are shrunk. Only the first
    `MAX_CLASSES` classes are drawn; the title says so if there are more.

    Raises:
        UserError: the file can't be written.
    """
    drawn = classes[:MAX_CLASSES]
    if len(drawn) < len(classes):
        title = f"{title}, the first {len(drawn):,} of {len(classes):,} classes"
    size = _size(split.frame, _SMALL_SIDE if len(drawn) > _MANY_CLASSES else _LARGE_SIDE)
    pixels = _draw(title, _rows(drawn, split, size), split.frame, size)
    _, png = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    try:
        with place.writing() as file:
            file.write(png.tobytes())
    except OSError as error:
        raise UserError(f"contact sheet {place} can't be written ({error.strerror}); name another file") from error


@dataclass(frozen=True)
class _Row:
    """A class, with a strip for each of its clips: (clip_id, frames side by side, uint8 [H, about T * W, 3], RGB)."""

    name: str
    num_clips: int
    strips: list[tuple[str, np.ndarray]]


def _size(frame: FrameSize, side: int) -> tuple[int, int]:
    """(H, W) of a drawn frame: its longer side is shrunk to `side`, or enlarged by a whole factor to at most `side`."""
    longest = max(frame.height, frame.width)
    scale = side // longest if longest <= side else side / longest
    return max(1, round(scale * frame.height)), max(1, round(scale * frame.width))


def _rows(classes: Sequence[str], split: Split, size: tuple[int, int]) -> list[_Row]:
    clips: list[list[int]] = [[] for _ in classes]
    for index, labels in enumerate(split.labels):
        for label in labels:
            if label < len(classes):
                clips[label].append(index)
    return [
        _Row(name, len(own), [_strip(split, own[i], size) for i in _evenly(len(own), _NUM_STRIPS)])
        for name, own in zip(classes, clips, strict=True)
    ]


def _strip(split: Split, index: int, size: tuple[int, int]) -> tuple[str, np.ndarray]:
    (height, width), pitch = size, size[1] + _FRAME_GAP
    interpolation = cv2.INTER_NEAREST if height >= split.frame.height else cv2.INTER_AREA
    strip, frames = np.full((height, _NUM_FRAMES * pitch, 3), 255, np.uint8), split[index].frames
    for position, t in enumerate(_evenly(len(frames), _NUM_FRAMES)):
        frame = cv2.resize(frames[t], (width, height), interpolation=interpolation)
        strip[:, position * pitch : position * pitch + width] = frame.reshape(height, width, -1)
    split.release([index])
    return split.clip_ids[index], strip


def _evenly(total: int, number: int) -> list[int]:
    """`number` evenly spaced indices below `total`, with the first and the last; all of them if there are fewer."""
    indices: list[int] = np.linspace(0, total - 1, min(number, total)).round().astype(int).tolist()
    return indices


def _draw(title: str, rows: Sequence[_Row], frame: FrameSize, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3], RGB."""
    height, strip_width = size[0], max(_MIN_STRIP, _NUM_FRAMES * (size[1] + _FRAME_GAP)) + _GAP
    column_width = _NAME + strip_width * max(len(row.strips) for row in rows) + _GAP
    row_height = max(height + _CAPTION, 2 * _LINE) + _GAP
    num_columns = 2 if len(rows) > _MANY_CLASSES else 1
    num_lines = -(-len(rows) // num_columns)
    width = max(_MIN_WIDTH, 2 * _MARGIN + num_columns * column_width)
    letters = set(title).union(*(text for row in rows for text in (row.name, *(clip_id for clip_id, _ in row.strips))))
    page = _Page(2 * _MARGIN + _HEADER + num_lines * row_height, width, letters)
    page.write(_MARGIN, _MARGIN, title, 11, _INK, width - 2 * _MARGIN)
    kind = "RGB" if frame.channels == 3 else "grey"
    about = f"frames are stored as {frame.width} x {frame.height} {kind}; {_NUM_FRAMES} of each clip, evenly spaced"
    page.write(_MARGIN, _MARGIN + 24, about, 7.5, _GREY, width - 2 * _MARGIN)
    for number, row in enumerate(rows):
        column, line = divmod(number, num_lines)
        left, top = _MARGIN + column * column_width, _MARGIN + _HEADER + line * row_height
        bottom = page.write_name(left, top, row.name, _NAME - _GAP, max_lines=(row_height - _GAP) // _LINE - 1)
        page.write(left, bottom, f"{row.num_clips:,} clip{'' if row.num_clips == 1 else 's'}", 6.5, _GREY, _NAME - _GAP)
        for place, (clip_id, strip) in enumerate(row.strips):
            x = left + _NAME + place * strip_width
            page.paste(x, top, strip)
            page.write(x, top + height + 2, clip_id, 6, _GREY, strip_width - _GAP)
    return page.pixels()


class _Page:
    """A white page of height x width pixels for images and text in any script; x and y are upper left corners."""

    def __init__(self, height: int, width: int, letters: set[str]) -> None:
        self._height, self._sheet = height, Sheet(letters)
        self._sheet.resize(width, height)
        self._images: list[tuple[int, int, np.ndarray]] = []

    def paste(self, x: int, y: int, image: np.ndarray) -> None:
        self._images.append((x, y, image))

    def write(self, x: int, y: int, text: str, points: float, colour: str, room: int) -> None:
        """Writes one line. Text that does not fit is cut at the start, because names of clips differ at the end."""
        written = self._write(x, y, text, points, colour)
        text = written.get_text()
        if (number := _capacity(written, room)) < len(text):
            written.set_text(f"…{text[len(text) - number + 2 :]}")

    def write_name(self, x: int, y: int, text: str, room: int, max_lines: int) -> int:
        """Writes a name, wrapped into lines if it does not fit; returns the y below it."""
        written = self._write(x, y, text, 8, _INK)
        number = max(2, _capacity(written, room))
        lines = textwrap.wrap(written.get_text(), number, max_lines=max_lines, placeholder="…")
        written.set_text("\n".join(lines))
        return y + len(lines) * _LINE

    def _write(self, x: int, y: int, text: str, points: float, colour: str) -> Text:
        written: Text = self._sheet.write(x, self._height - y, text, points, color=colour, va="top")
        return written

    def pixels(self) -> np.ndarray:
        """uint8 [H, W, 3], RGB."""
        canvas: Any = self._sheet.figure.canvas
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
        for x, y, image in self._images:
            pixels[y : y + image.shape[0], x : x + image.shape[1]] = image
        return pixels


def _capacity(written: Text, room: int) -> int:
    """About how many of its characters fit into `room` pixels."""
    return int(len(written.get_text()) * min(1, room / max(1, written.get_window_extent().width)))

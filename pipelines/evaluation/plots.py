"""Pictures of a training and of what its model takes for what: learning-curve.png, confusion.png.

    learning_curve([{"epoch": 1, "train_loss": 2.3, "val_loss": 2.2, "val_metric": 0.2}, ...], "learning-curve.png")
    confusion_matrix(np.array([[5, 1], [0, 6]]), ["jump", "walk"], "confusion.png")

matplotlib is loaded by the first picture only. Its global state is left alone, so that any thread may draw.

Legend: C classes.
"""

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ttrnn.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BLUE", "GREY", "ORANGE", "confusion_matrix", "fonts", "learning_curve", "plain", "spelled"]


# Of Okabe and Ito, told apart by everybody.
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#666666"
# A power of two, so that a number of pixels is exact in inches, which matplotlib wants.
_DPI = 128
# Letters of a class name that are shown.
_MAX_NAME = 32
# Pixels.
_MARGIN, _TITLE, _AXIS_NAME, _GAP = 16, 28, 24, 6


def learning_curve(
    records: Sequence[Mapping[str, Any]],
    path: str | Path,
    *,
    metric: str = "metric",
    chance: float | None = None,
    watched: str = "val",
) -> None:
    """Writes a PNG of 1024 x 448 pixels: both losses and the metric over the epochs, with the best epoch marked.

    Args:
        records: At least one line of metrics.jsonl: epoch, train_loss, val_loss, val_metric (0 to 1).
        path: The file.
        metric: What val_metric is.
        chance: What guessing reaches, 0 to 1.
        watched: The split that val_loss and val_metric are of.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    best = max(records, key=lambda record: (record["val_metric"], -record["val_loss"]))
    figure = Figure(figsize=(8, 3.5), dpi=_DPI)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    losses, metrics = figure.subplots(1, 2)
    epochs = [record["epoch"] for record in records]
    # A line of one point can't be seen.
    style: dict[str, Any] = {"linewidth": 1.8 if len(records) < 200 else 1, "marker": "o" if len(records) < 2 else ""}
    for name, split, colour in (("train", "train", ORANGE), ("val", watched, BLUE)):
        losses.plot(epochs, [record[f"{name}_loss"] for record in records], color=colour, label=split, **style)
    losses.set_title("loss", loc="left", fontweight="bold")
    losses.legend(frameon=False)
    metrics.plot(epochs, [100 * record["val_metric"] for record in records], color=BLUE, **style)
    metrics.plot(best["epoch"], 100 * best["val_metric"], "o", color=BLUE, markersize=8)
    metrics.set_title(f"{metric.replace('_', ' ')} on {watched}, %", loc="left", fontweight="bold")
    is_late = 2 * best["epoch"] > epochs[0] + epochs[-1]
    metrics.annotate(
        f"best {100 * best['val_metric']:.1f}\nin epoch {best['epoch']}",
        (best["epoch"], 0.2),
        xycoords=("data", "axes fraction"),
        xytext=(-6 if is_late else 6, 0),
        textcoords="offset points",
        ha="right" if is_late else "left",
        color=BLUE,
    )
    if chance is not None:
        level, corner = 100 * chance, ("axes fraction", "data")
        metrics.axhline(level, linestyle=":", color=GREY, linewidth=1.2, zorder=0)
        style = {"xytext": (0, 3), "textcoords": "offset points", "ha": "right", "color": GREY, "fontsize": 9}
        metrics.annotate(f"chance {level:.1f}", (1, level), xycoords=corner, **style)
    for axes in (losses, metrics):
        axes.axvline(best["epoch"], linestyle=":", color=BLUE, linewidth=1.2, zorder=0)
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
        axes.set_xlabel("epoch")
        plain(axes)
    _save(figure, path)


def plain(axes: "Axes") -> None:
    """The house's look: a faint grid behind, and no box."""
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def confusion_matrix(counts_CC: np.ndarray, classes: Sequence[str], path: str | Path, *, title: str = "") -> None:
    """Writes a PNG: a row for each class, a column for what its clips were taken for; hits in blue, mistakes in orange.

    A cell is the darker the larger its share of the row. The number of clips stands in it where all numbers fit.

    Args:
        counts_CC: Whole numbers, as `pipelines.metrics.confusion` counts them.
        classes: Their names, in any script; the ends of long ones are cut off.
        path: The file.
        title: A line above.
    """
    sheet = _Sheet({*title}.union(*classes))
    names = [name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…" for name in classes]
    cell = int(np.clip(1100 // len(names), 15, 72))
    points = min(9.0, 0.62 * cell * 72 / _DPI)
    longest = max(sheet.width(name, points) for name in names)
    is_upright = longest > cell - 4
    left, side = _MARGIN + _AXIS_NAME + longest + _GAP, cell * len(names)
    bottom = _MARGIN + _AXIS_NAME + _GAP + (longest if is_upright else 20)
    right, top = left + side, bottom + side
    sheet.resize(max(right, left + sheet.width(title, 11, fontweight="bold")) + _MARGIN, top + _TITLE + _MARGIN)

    shares = counts_CC / np.maximum(counts_CC.sum(axis=1, keepdims=True), 1)
    sheet.paste(left, bottom, side, _paint(shares))
    sheet.write(left, top + 10, title, 11, fontweight="bold")
    sheet.write(left + side / 2, _MARGIN, "taken for", 10, color=GREY, ha="center")
    sheet.write(_MARGIN, bottom + side / 2, "class", 10, color=GREY, va="center", rotation=90)
    for number, name in enumerate(names):
        middle = (number + 0.5) * cell
        sheet.write(left - _GAP, top - middle, name, points, ha="right", va="center_baseline")
        angle = 90 if is_upright else 0
        sheet.write(left + middle, bottom - _GAP, name, points, ha="center", va="top", rotation=angle)
    # In the size that the longest number has room for, if it can be read.
    points = min(points, points * (cell - 3) / sheet.width("0" * len(str(counts_CC.max())), points))
    for row, column in np.argwhere(counts_CC if points >= 4.5 else []):
        is_dark = row == column and shares[row, column] > 0.4
        x, y = left + (column + 0.5) * cell, top - (row + 0.5) * cell
        style = {"ha": "center", "va": "center_baseline", "color": "white" if is_dark else "#111111"}
        sheet.write(x, y, str(counts_CC[row, column]), points, **style)
    _save(sheet.figure, path)


class _Sheet:
    """White paper for one matrix and text in any script; places are in pixels from the lower left corner."""

    def __init__(self, letters: set[str]) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.figure = Figure(dpi=_DPI)
        FigureCanvasAgg(self.figure)
        self._families, self._letters = fonts(letters)

    def write(self, x: float, y: float, text: str, points: float, **style: Any) -> Any:
        # A dollar sign is not mathematics.
        style = {"family": self._families, "size": points, "transform": None, "parse_math": False, **style}
        return self.figure.text(x, y, spelled(text, self._letters), None, **style)

    def width(self, text: str, points: float, **style: Any) -> int:
        written = self.write(0, 0, text, points, **style)
        width: int = math.ceil(written.get_window_extent().width)
        written.remove()
        return width

    def resize(self, width: int, height: int) -> None:
        self._size = width, height
        self.figure.set_size_inches(width / _DPI, height / _DPI)

    def paste(self, x: int, y: int, side: int, cells: np.ndarray) -> None:
        """A square of cells [C, C, 3] with lines between."""
        width, height = self._size
        axes = self.figure.add_axes((x / width, y / height, side / width, side / height))
        axes.imshow(cells, interpolation="nearest")
        for set_ticks in (axes.set_xticks, axes.set_yticks):
            set_ticks(np.arange(len(cells) + 1) - 0.5, [])
        axes.grid(color="#e4e4e4", linewidth=0.5)
        axes.tick_params(length=0)
        axes.spines[:].set_color("#b0b0b0")


def _paint(shares_CC: np.ndarray) -> np.ndarray:
    """[C, C, 3], RGB from 0 to 1: white for none, the full colour for all."""
    from matplotlib.colors import to_rgb

    colours = np.where(np.eye(len(shares_CC), dtype=bool)[..., None], to_rgb(BLUE), to_rgb(ORANGE))
    # By its root, so that single mistakes are seen.
    mixed: np.ndarray = 1 - (1 - colours) * shares_CC[..., None] ** 0.6
    return mixed


def _save(figure: "Figure", path: str | Path) -> None:
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")


def spelled(text: str, letters: set[str]) -> str:
    """The text with the codes of those letters that are not among `letters`."""
    return "".join(letter if letter in letters else letter.encode("unicode_escape").decode() for letter in text)


def fonts(letters: Iterable[str]) -> tuple[list[str], set[str]]:
    """Families to write these letters with, and which of the letters they have.

    The one that comes with matplotlib and, where it lacks letters, the installed one that has most of these.
    """
    from matplotlib import font_manager

    families = ["DejaVu Sans"]
    # Besides, what numbers and shortened texts are written with.
    printable = {letter for letter in {*letters, *"0123456789…"} if letter.isprintable()}
    if missing := printable - _letters(font_manager.findfont(families[0])):
        found: dict[str, int] = {}
        for entry in font_manager.fontManager.ttflist:
            # Last Resort, which has every letter, draws boxes. The list may be older than what is installed.
            if "Resort" not in entry.name:
                with contextlib.suppress(OSError, RuntimeError):
                    found[entry.name] = max(found.get(entry.name, 0), len(missing & _letters(entry.fname)))
        families.append(max(found, key=found.__getitem__))
    known = set().union(*(_letters(font_manager.findfont(family)) for family in families))
    return families, printable & known


def _letters(path: str) -> set[str]:
    from matplotlib import font_manager

    return set(map(chr, font_manager.get_font(path).get_charmap()))

"""Draw the learning curve of a run and the confusion matrix of a model.

    learning_curve([{"epoch": 1, "train_loss": 2.3, "val_loss": 2.2, "val_metric": 0.2}, ...], "learning-curve.png")
    confusion_matrix(np.array([[5, 1], [0, 6]]), ["jump", "walk"], "confusion.png")

matplotlib is loaded with the first figure. Its global state is not used, so that any thread may draw.

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

__all__ = ["BLUE", "GREY", "ORANGE", "Sheet", "confusion_matrix", "learning_curve", "plain_axes", "save"]


# Colours of Okabe and Ito, which colour-blind people can distinguish.
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#666666"
# A power of two: numbers of pixels are then exact in inches, the unit of matplotlib.
_DPI = 128
# Longer class names are cut.
_MAX_NAME = 32
# Pixels.
_MARGIN, _TITLE, _AXIS_LABEL, _GAP = 16, 28, 24, 6


def learning_curve(
    records: Sequence[Mapping[str, Any]],
    path: str | Path,
    *,
    metric: str = "metric",
    chance: float | None = None,
    val_split: str = "val",
) -> None:
    """Writes a PNG of 1024 x 448 pixels: both losses and the metric over the epochs, with the best epoch marked.

    Args:
        records: The lines of metrics.jsonl, at least one: epoch, train_loss, val_loss, val_metric (0 to 1).
        path: The file.
        metric: Name of the metric.
        chance: The metric of guessing, 0 to 1.
        val_split: The split that val_loss and val_metric were computed on.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    best = max(records, key=lambda record: (record["val_metric"], -record["val_loss"]))
    figure = Figure(figsize=(8, 3.5), dpi=_DPI)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    losses, metrics = figure.subplots(1, 2)
    epochs = [record["epoch"] for record in records]
    # A line of a single point is invisible without a marker.
    style: dict[str, Any] = {"linewidth": 1.8 if len(records) < 200 else 1, "marker": "o" if len(records) < 2 else ""}
    for name, split, colour in (("train", "train", ORANGE), ("val", val_split, BLUE)):
        losses.plot(epochs, [record[f"{name}_loss"] for record in records], color=colour, label=split, **style)
    losses.set_title("loss", loc="left", fontweight="bold")
    last = records[-1]
    for name, split, colour in (("train", "train", ORANGE), ("val", val_split, BLUE)):
        other = last["val_loss" if name == "train" else "train_loss"]
        # The label of the upper curve is above its end, that of the lower one below.
        is_upper = (last[f"{name}_loss"], name) > (other, "train" if name == "val" else "val")
        style_of = {"textcoords": "offset points", "color": colour, "va": "bottom" if is_upper else "top"}
        losses.annotate(split, (last["epoch"], last[f"{name}_loss"]), xytext=(4, 0), **style_of)
    metrics.plot(epochs, [100 * record["val_metric"] for record in records], color=BLUE, **style)
    metrics.plot(best["epoch"], 100 * best["val_metric"], "o", color=BLUE, markersize=8)
    metrics.set_title(f"{metric.replace('_', ' ')} on {val_split}, %", loc="left", fontweight="bold")
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
        plain_axes(axes)
    save(figure, path)


def plain_axes(axes: "Axes") -> None:
    """Styles axes with a faint grid in the background and without a box."""
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def confusion_matrix(counts_CC: np.ndarray, classes: Sequence[str], path: str | Path, *, title: str = "") -> None:
    """Writes a PNG with a row for each true class and a column for each predicted one; hits are blue, errors orange.

    A cell is darker the larger its share of the row. Cells show this share in percent if all numbers fit.

    Args:
        counts_CC: Integers, as counted by `pipelines.evaluation.metrics.confusion`.
        classes: Names of the classes, in any script; long names are cut.
        path: The file.
        title: A line above the matrix.
    """
    sheet = Sheet({*title}.union(*classes))
    names = [name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…" for name in classes]
    cell = int(np.clip(1100 // len(names), 15, 72))
    points = min(9.0, 0.62 * cell * 72 / _DPI)
    longest = max(sheet.width(name, points) for name in names)
    is_upright = longest > cell - 4
    left, side = _MARGIN + _AXIS_LABEL + longest + _GAP, cell * len(names)
    bottom = _MARGIN + _AXIS_LABEL + _GAP + (longest if is_upright else 20)
    right, top = left + side, bottom + side
    sheet.resize(max(right, left + sheet.width(title, 11, fontweight="bold")) + _MARGIN, top + _TITLE + _MARGIN)

    shares = counts_CC / np.maximum(counts_CC.sum(axis=1, keepdims=True), 1)
    sheet.paste(left, bottom, side, _paint(shares))
    sheet.write(left, top + 10, title, 11, fontweight="bold")
    sheet.write(left + side / 2, _MARGIN, "predicted, %", 10, color=GREY, ha="center")
    sheet.write(_MARGIN, bottom + side / 2, "true", 10, color=GREY, va="center", rotation=90)
    for number, name in enumerate(names):
        middle = (number + 0.5) * cell
        sheet.write(left - _GAP, top - middle, name, points, ha="right", va="center_baseline")
        angle = 90 if is_upright else 0
        sheet.write(left + middle, bottom - _GAP, name, points, ha="center", va="top", rotation=angle)
    percents_CC = np.rint(100 * shares).astype(int)
    # The font size at which the longest number fits, if it is legible.
    points = min(points, points * (cell - 3) / sheet.width("0" * len(str(percents_CC.max())), points))
    for row, column in np.argwhere(counts_CC if points >= 4.5 else []):
        is_dark = row == column and shares[row, column] > 0.4
        x, y = left + (column + 0.5) * cell, top - (row + 0.5) * cell
        style = {"ha": "center", "va": "center_baseline", "color": "white" if is_dark else "#111111"}
        sheet.write(x, y, str(percents_CC[row, column]), points, **style)
    save(sheet.figure, path)


class Sheet:
    """A white figure with text in any script; positions are in pixels from the lower left corner."""

    def __init__(self, letters: set[str]) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.figure = Figure(dpi=_DPI)
        FigureCanvasAgg(self.figure)
        self._families, self._letters = _fonts(letters)

    def write(self, x: float, y: float, text: str, points: float, **style: Any) -> Any:
        """Writes a text of so many points; returns matplotlib's Text."""
        # Dollar signs in names must not start a formula.
        style = {"family": self._families, "size": points, "transform": None, "parse_math": False, **style}
        return self.figure.text(x, y, _escape_missing(text, self._letters), None, **style)

    def width(self, text: str, points: float, **style: Any) -> int:
        """The width of a text in pixels."""
        written = self.write(0, 0, text, points, **style)
        width: int = math.ceil(written.get_window_extent().width)
        written.remove()
        return width

    def resize(self, width: int, height: int) -> None:
        """Sets the size in pixels."""
        self._size = width, height
        self.figure.set_size_inches(width / _DPI, height / _DPI)

    def paste(self, x: int, y: int, side: int, cells: np.ndarray) -> None:
        """Draws cells [C, C, 3] as a square with lines between them."""
        width, height = self._size
        axes = self.figure.add_axes((x / width, y / height, side / width, side / height))
        axes.imshow(cells, interpolation="nearest")
        for set_ticks in (axes.set_xticks, axes.set_yticks):
            set_ticks(np.arange(len(cells) + 1) - 0.5, [])
        axes.grid(color="#e4e4e4", linewidth=0.5)
        axes.tick_params(length=0)
        axes.spines[:].set_color("#b0b0b0")


def _paint(shares_CC: np.ndarray) -> np.ndarray:
    """Colours [C, C, 3], RGB from 0 to 1: white for a share of 0, the full colour for 1."""
    from matplotlib.colors import to_rgb

    colours = np.where(np.eye(len(shares_CC), dtype=bool)[..., None], to_rgb(BLUE), to_rgb(ORANGE))
    # The exponent makes small shares visible.
    mixed: np.ndarray = 1 - (1 - colours) * shares_CC[..., None] ** 0.6
    return mixed


def save(figure: "Figure", path: str | Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")


def _escape_missing(text: str, letters: set[str]) -> str:
    """The text with Unicode escapes for characters that are not in `letters`."""
    return "".join(letter if letter in letters else letter.encode("unicode_escape").decode() for letter in text)


def _fonts(letters: Iterable[str]) -> tuple[list[str], set[str]]:
    """(font families for these letters, those of the letters that the families have).

    The families are matplotlib's own and, if it lacks letters, the installed one that has most of these.
    """
    from matplotlib import font_manager

    families = ["DejaVu Sans"]
    # Digits and the ellipsis are always needed, for numbers and cut names.
    printable = {letter for letter in {*letters, *"0123456789…"} if letter.isprintable()}
    if missing := printable - _letters(font_manager.findfont(families[0])):
        found: dict[str, int] = {}
        for entry in font_manager.fontManager.ttflist:
            # The font Last Resort draws every letter as a box. Fonts of the list may have been uninstalled.
            if "Resort" not in entry.name:
                with contextlib.suppress(OSError, RuntimeError):
                    found[entry.name] = max(found.get(entry.name, 0), len(missing & _letters(entry.fname)))
        families.append(max(found, key=found.__getitem__))
    known = set().union(*(_letters(font_manager.findfont(family)) for family in families))
    return families, printable & known


def _letters(path: str) -> set[str]:
    from matplotlib import font_manager

    return set(map(chr, font_manager.get_font(path).get_charmap()))

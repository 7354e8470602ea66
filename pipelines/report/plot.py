"""Draw pareto.png."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.core.text import percent
from pipelines.evaluation.plots import plain_axes
from pipelines.report.points import ROLES, Point, marks, points
from ttrnn.files import atomic_write

__all__ = ["write_picture"]


# Of Okabe and Ito; the page has the same, and others by night.
_COLOURS = {
    "stopped": "#8a8a8a",
    "dominated": "#a0a0a0",
    "not_replicated": "#009e73",
    "test": "#b0568a",
    "frontier": "#0072b2",
    "dense": "#d55e00",
}
_WITH_INTERVALS = ("frontier", "test")


def write_picture(path: str | Path, data: Mapping[str, Any]) -> None:
    """Writes the frontier as a PNG, 1600 x 960 pixels.

    Args:
        path: The file.
        data: What pareto.json holds.
    """
    shown = points(data)
    (low, high), heights, ticks = _axes(shown, data["chance"])
    figure = Figure(figsize=(10, 6), dpi=160)
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.15)
    axes = figure.subplots()
    for role, (label, _, marker, size) in ROLES.items():
        if own := [point for point in shown if point.role == role]:
            _draw(axes, own, marker, 0.7 * size, label)
    line = [point for point in shown if point.role == "frontier"]
    blue = _COLOURS["frontier"]
    # Each point reaches right to the next one, the best to the edge.
    across = [point.trial["num_params"] for point in line] + [10**high]
    axes.plot(
        across, [100 * p.value for p in [*line, line[-1]]], drawstyle="steps-post", color=blue, linewidth=1.8, zorder=1
    )
    names = marks(data)
    for point in line:
        place = point.trial["num_params"], 100 * point.value
        _write(axes, names.get(point.trial["trial"], ""), place, (-7, 7), color=blue, fontweight="bold")
    axes.axhline(100 * data["chance"], linestyle=":", color="#666666", linewidth=1.2, zorder=0)
    place = 0.995, 100 * data["chance"]
    coordinates = ("axes fraction", "data")
    _write(axes, f"chance {percent(data['chance'])}", place, (0, 4), color="#666666", fontsize=9, xycoords=coordinates)
    axes.set(xscale="log", xlim=(10**low, 10**high), ylim=heights, xlabel="parameters of the whole model")
    axes.set_ylabel(f"validation {data['metric'].replace('_', ' ')}, %")
    axes.set_xticks(ticks, [_compact(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    # A dollar sign in the data set's name is not mathematics.
    axes.set_title(data["dataset"], loc="left", fontweight="bold", fontsize=14, parse_math=False)
    plain_axes(axes)
    axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=6)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")


def _draw(axes: Axes, own: Sequence[Point], marker: str, size: float, label: str) -> None:
    """The points of one role; those of the frontier, on validation and on test, with their intervals."""
    role, (xs, ys) = own[0].role, ([p.trial["num_params"] for p in own], [100 * p.value for p in own])
    colour = _COLOURS[role]
    face = "none" if role == "test" else colour
    axes.plot(xs, ys, marker, label=label, markersize=size, markeredgecolor=colour, markerfacecolor=face, clip_on=False)
    if role in _WITH_INTERVALS:
        for x, point in zip(xs, own, strict=True):
            if point.interval:
                # Those on test a little to the right, so that both are seen.
                place = x if role == "frontier" else 1.02 * x
                low, high = (100 * bound for bound in point.interval)
                axes.vlines(place, low, high, color=colour, alpha=0.5, linewidth=1.2)


def _write(axes: Axes, text: str, place: tuple[float, float], offset: tuple[int, int], **style: Any) -> None:
    axes.annotate(text, place, xytext=offset, textcoords="offset points", ha="right", **style)


def _axes(shown: Sequence[Point], chance: float) -> tuple[tuple[float, float], tuple[float, float], list[float]]:
    """(log10 of the lowest and highest num_params shown), (lowest and highest %), ticks of num_params."""
    logs = [math.log10(point.trial["num_params"]) for point in shown]
    drawn = [point.value for point in shown]
    drawn += [bound for point in shown if point.role in _WITH_INTERVALS for bound in point.interval or ()]
    heights = [100 * value for value in (*drawn, chance)]
    middle, half = (min(logs) + max(logs)) / 2, max(0.55 * (max(logs) - min(logs)), 0.4)
    low, high = middle - half, middle + half
    steps = (1, 2, 5) if high - low <= 2 else (1,)
    ticks = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    room = max(0.08 * (max(heights) - min(heights)), 3)
    return (
        (low, high),
        (max(min(heights) - room, -2), min(max(heights) + 1.5 * room, 104)),
        [tick for tick in ticks if low <= math.log10(tick) <= high],
    )


def _compact(value: float) -> str:
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"

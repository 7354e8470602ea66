"""Draw pareto.png."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.core.text import percent
from pipelines.evaluation.plots import plain_axes
from pipelines.report.pareto_data import ROLES, Mark, baseline_line, labels, marks
from ttrnn.files import atomic_write

__all__ = ["write_figure"]


# Colours of Okabe and Ito; report.html has the same, and lighter ones in dark mode.
_COLOURS = {
    "stopped": "#8a8a8a",
    "dominated": "#a0a0a0",
    "not_replicated": "#009e73",
    "baseline": "#8a6a00",
    "test": "#b0568a",
    "frontier": "#0072b2",
    "dense": "#d55e00",
}
_WITH_INTERVALS = ("frontier", "test")


def write_figure(path: str | Path, data: Mapping[str, Any]) -> None:
    """Plots the frontier into a PNG of 1600 x 960 pixels.

    Args:
        path: The file.
        data: Contents of pareto.json.
    """
    drawn = marks(data)
    (low, high), heights, ticks = _axis_limits(drawn, data["chance"])
    figure = Figure(figsize=(10, 6), dpi=160)
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.15)
    axes = figure.subplots()
    for role, (label, _, marker, size) in ROLES.items():
        if of_role := [mark for mark in drawn if mark.role == role]:
            _draw(axes, of_role, marker, 0.7 * size, label)
    _draw_frontier(axes, baseline_line(data), 10**high, labels(data), role="baseline", linestyle="--")
    _draw_frontier(axes, [mark for mark in drawn if mark.role == "frontier"], 10**high, labels(data))
    chance = 100 * data["chance"]
    axes.axhline(chance, linestyle=":", color="#666666", linewidth=1.2, zorder=0)
    style = {"color": "#666666", "fontsize": 9, "xycoords": ("axes fraction", "data")}
    _annotate(axes, f"chance {percent(data['chance'])}", (0.995, chance), (0, 4), **style)
    axes.set(xscale="log", xlim=(10**low, 10**high), ylim=heights, xlabel="parameters of the whole model")
    axes.set_ylabel(f"validation {data['metric'].replace('_', ' ')}, %")
    axes.set_xticks(ticks, [_compact(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    # A dollar sign in the data set's name must not start a formula.
    title = f"{data['dataset']}: {data['metric'].replace('_', ' ')} against parameters"
    axes.set_title(title, loc="left", fontweight="bold", fontsize=14, parse_math=False)
    plain_axes(axes)
    axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=6)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")


def _draw(axes: Axes, of_role: Sequence[Mark], marker: str, size: float, label: str) -> None:
    """Draws the marks of one role, with intervals for the frontier and the test metric."""
    role = of_role[0].role
    xs, ys = [mark.trial["num_params"] for mark in of_role], [100 * mark.value for mark in of_role]
    colour = _COLOURS[role]
    face = "none" if role == "test" else colour
    axes.plot(xs, ys, marker, label=label, markersize=size, markeredgecolor=colour, markerfacecolor=face, clip_on=False)
    if role in _WITH_INTERVALS:
        for x, mark in zip(xs, of_role, strict=True):
            if mark.interval:
                # Intervals on test are shifted to the right, so that they do not hide those on validation.
                position = x if role == "frontier" else 1.02 * x
                low, high = (100 * bound for bound in mark.interval)
                axes.vlines(position, low, high, color=colour, alpha=0.5, linewidth=1.2)


def _draw_frontier(
    axes: Axes,
    frontier: Sequence[Mark],
    right_end: float,
    names: Mapping[str, str],
    role: str = "frontier",
    linestyle: str = "-",
) -> None:
    """Draws a frontier as steps, each from one point to the next, the last one to the right end; adds labels."""
    if not frontier:
        return
    colour = _COLOURS[role]
    xs = [*(mark.trial["num_params"] for mark in frontier), right_end]
    ys = [100 * mark.value for mark in [*frontier, frontier[-1]]]
    axes.plot(xs, ys, drawstyle="steps-post", linestyle=linestyle, color=colour, linewidth=1.8, zorder=1)
    place: dict[str, Any] = {"offset": (-7, 7)} if role == "frontier" else {"offset": (8, -14), "ha": "left"}
    for x, y, mark in zip(xs, ys, frontier, strict=False):
        _annotate(axes, names.get(mark.trial["trial"], ""), (x, y), **place, color=colour, fontweight="bold")
        if role == "frontier":
            numbers = f"{x:,}: {mark.value:.0%}"
            # At the right end of the figure there is no room beside the point.
            offset, side = ((-9, -28), "right") if 2 * x > right_end else ((9, -13), "left")
            _annotate(axes, numbers, (x, y), offset, ha=side, color=colour, fontsize=8)


def _annotate(axes: Axes, text: str, position: tuple[float, float], offset: tuple[int, int], **style: Any) -> None:
    axes.annotate(text, position, xytext=offset, textcoords="offset points", **{"ha": "right", **style})


def _axis_limits(drawn: Sequence[Mark], chance: float) -> tuple[tuple[float, float], tuple[float, float], list[float]]:
    """((lowest, highest log10 of num_params), (lowest, highest %), ticks of num_params)."""
    logs = [math.log10(mark.trial["num_params"]) for mark in drawn]
    values = [mark.value for mark in drawn]
    values += [bound for mark in drawn if mark.role in _WITH_INTERVALS for bound in mark.interval or ()]
    heights = [100 * value for value in (*values, chance)]
    middle, half = (min(logs) + max(logs)) / 2, max(0.55 * (max(logs) - min(logs)), 0.4)
    low, high = middle - half, middle + half
    steps = (1, 2, 5) if high - low <= 2 else (1,)
    ticks = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    margin = max(0.08 * (max(heights) - min(heights)), 3)
    return (
        (low, high),
        (max(min(heights) - margin, -2), min(max(heights) + 1.5 * margin, 104)),
        [tick for tick in ticks if low <= math.log10(tick) <= high],
    )


def _compact(value: float) -> str:
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"

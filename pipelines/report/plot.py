"""Draw pareto.png."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipelines.core.text import percent
from pipelines.evaluation.plots import plain_axes
from pipelines.report.pareto_data import FORMAT_COLOURS, ROLES, Mark, baseline_line, formats, labels, marks
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
# Of roles where colours stand for formats.
_NEUTRAL = dict.fromkeys(_COLOURS, FORMAT_COLOURS["dense"]) | {"baseline": "#666666"}
_WITH_INTERVALS = ("frontier", "test")


def write_figure(path: str | Path, data: Mapping[str, Any]) -> None:
    """Plots the frontier into a PNG of 1600 x 960 pixels; where formats differ between trials, colours stand for them.

    Args:
        path: The file.
        data: Contents of pareto.json.
    """
    drawn = marks(data)
    format_title, form_of = next(iter(formats(data).items()), ("", {}))
    colours = _NEUTRAL if form_of else _COLOURS
    (low, high), heights, ticks = _axis_limits(drawn, data["chance"])
    figure = Figure(figsize=(10, 6), dpi=160)
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.15)
    axes = figure.subplots()
    for role, (label, _, marker, size) in ROLES.items():
        if of_role := [mark for mark in drawn if mark.role == role]:
            _draw(axes, of_role, marker, 0.7 * size, label, colours[role], form_of)
    frontier = [mark for mark in drawn if mark.role == "frontier"]
    _draw_frontier(axes, baseline_line(data), 10**high, labels(data), colours, role="baseline", linestyle="--")
    _draw_frontier(axes, frontier, 10**high, labels(data), colours, form_of=form_of)
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
    if form_of:
        keys = [Patch(color=colour, label=name) for name, colour in FORMAT_COLOURS.items() if name in form_of.values()]
        figure.legend(handles=keys, title=format_title, frameon=False, fontsize=9, loc="outside right upper")
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")


def _draw(
    axes: Axes,
    of_role: Sequence[Mark],
    marker: str,
    size: float,
    label: str,
    colour: str,
    form_of: Mapping[str, str],
) -> None:
    """Draws the marks of one role, with intervals for the frontier and the test metric; formats have their colours."""
    role = of_role[0].role
    xs, ys = [mark.trial["num_params"] for mark in of_role], [100 * mark.value for mark in of_role]
    colours = [FORMAT_COLOURS.get(form_of.get(mark.trial["trial"], ""), colour) for mark in of_role]
    style: dict[str, Any] = {"marker": marker, "linewidths": 1, "clip_on": False, "zorder": 2}
    # The legend has the colour of the role, whatever the formats of its marks.
    for places, own, text in (((xs, ys), colours, None), (([], []), colour, label)):
        points = axes.scatter(*places, size**2, color=own, label=text, **style)
        if role == "test":
            points.set_facecolor("none")
    if role in _WITH_INTERVALS:
        for x, mark, own in zip(xs, of_role, colours, strict=True):
            if mark.interval:
                # Intervals on test are shifted to the right, so that they do not hide those on validation.
                position = x if role == "frontier" else 1.02 * x
                low, high = (100 * bound for bound in mark.interval)
                axes.vlines(position, low, high, color=own, alpha=0.5, linewidth=1.2)


def _draw_frontier(
    axes: Axes,
    frontier: Sequence[Mark],
    right_end: float,
    names: Mapping[str, str],
    colours: Mapping[str, str],
    form_of: Mapping[str, str] | None = None,
    role: str = "frontier",
    linestyle: str = "-",
) -> None:
    """Draws a frontier as steps, each from one point to the next, the last one to the right end; adds labels."""
    if not frontier:
        return
    colour = colours[role]
    xs = [*(mark.trial["num_params"] for mark in frontier), right_end]
    ys = [100 * mark.value for mark in [*frontier, frontier[-1]]]
    axes.plot(xs, ys, drawstyle="steps-post", linestyle=linestyle, color=colour, linewidth=1.8, zorder=1)
    place: dict[str, Any] = {"offset": (-7, 7)} if role == "frontier" else {"offset": (8, -14), "ha": "left"}
    for x, y, mark in zip(xs, ys, frontier, strict=False):
        _annotate(axes, names.get(mark.trial["trial"], ""), (x, y), **place, color=colour, fontweight="bold")
        if role == "frontier":
            form = (form_of or {}).get(mark.trial["trial"], "")
            numbers = f"{x:,}: {mark.value:.0%} {form}".rstrip()
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

"""Draw pareto.png."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

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
_MARKER_SCALE = 0.7
"""Of the sizes in ROLES, for points."""
# Where a label may be at its point, the usual place first: heights in points, and sides by its alignment.
_NAMES = ((7, 20, 33, -14, -28), ("right", "left"))
_BASELINE_NAMES = ((-14, 7, -28, 20, -42), ("left", "right"))
_NUMBERS = ((-13, -26, -39, -52, 8, 21), ("left", "right"))


def write_figure(path: str | Path, data: Mapping[str, Any]) -> None:
    """Plots the frontier into a PNG of 1600 x 960 pixels; where formats differ between trials, colours stand for them.

    Args:
        path: The file.
        data: Contents of pareto.json.
    """
    figure = _draw_figure(data)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")


def _draw_figure(data: Mapping[str, Any]) -> Figure:
    drawn = marks(data)
    format_title, form_of = next(iter(formats(data).items()), ("", {}))
    colours = _NEUTRAL if form_of else _COLOURS
    (low, high), heights, ticks = _axis_limits(drawn, data["chance"])
    figure = Figure(figsize=(10, 6), dpi=160)
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.15)
    axes = figure.subplots()
    for role, (label, _, marker, size) in ROLES.items():
        if of_role := [mark for mark in drawn if mark.role == role]:
            _draw(axes, of_role, marker, _MARKER_SCALE * size, label, colours[role], form_of)
    frontiers = {"baseline": baseline_line(data), "frontier": [mark for mark in drawn if mark.role == "frontier"]}
    for role, linestyle in (("baseline", "--"), ("frontier", "-")):
        _draw_frontier(axes, frontiers[role], 10**high, colours[role], linestyle)
    chance = 100 * data["chance"]
    axes.axhline(chance, linestyle=":", color="#666666", linewidth=1.2, zorder=0)
    style: dict[str, Any] = {"color": "#666666", "fontsize": 9, "xycoords": ("axes fraction", "data")}
    chance_text = f"chance {percent(data['chance'])}"
    axes.annotate(chance_text, (0.995, chance), xytext=(0, 4), textcoords="offset points", ha="right", **style)
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
    # Labels are placed in pixels, so the layout must be final.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    lines = [box for frontier in frontiers.values() for box in _line_boxes(axes, frontier)]
    _add_labels(axes, _labels(frontiers, labels(data), form_of, colours), _mark_boxes(axes, drawn), lines)
    return figure


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


def _draw_frontier(axes: Axes, frontier: Sequence[Mark], right_end: float, colour: str, linestyle: str) -> None:
    """Draws a frontier as steps, each from one point to the next, the last one to the right end."""
    if not frontier:
        return
    xs = [*(mark.trial["num_params"] for mark in frontier), right_end]
    ys = [100 * mark.value for mark in [*frontier, frontier[-1]]]
    axes.plot(xs, ys, drawstyle="steps-post", linestyle=linestyle, color=colour, linewidth=1.8, zorder=1)


def _mark_boxes(axes: Axes, drawn: Sequence[Mark]) -> list[Bbox]:
    """The squares that the markers fill, in pixels."""
    boxes = []
    for mark in drawn:
        x, y = axes.transData.transform((mark.trial["num_params"], 100 * mark.value))
        radius = _MARKER_SCALE * ROLES[mark.role][3] / 2 * axes.figure.dpi / 72
        boxes.append(Bbox.from_extents(x - radius, y - radius, x + radius, y + radius))
    return boxes


def _line_boxes(axes: Axes, frontier: Sequence[Mark]) -> list[Bbox]:
    """The flat boxes around the horizontal and the vertical lines of a frontier, in pixels."""
    if not frontier:
        return []
    corners = axes.transData.transform([(mark.trial["num_params"], 100 * mark.value) for mark in frontier])
    boxes = []
    for (x, y), (next_x, next_y) in zip(corners, [*corners[1:], (axes.bbox.x1, corners[-1][1])], strict=True):
        boxes += [Bbox.from_extents(x, y - 1, next_x, y + 1), Bbox.from_extents(next_x - 1, y, next_x + 1, next_y)]
    return boxes


class _Label(NamedTuple):
    text: str
    position: tuple[float, float]
    """of the point, in the units of the axes"""
    places: tuple[Sequence[int], Sequence[str]]
    style: dict[str, Any]


def _labels(
    frontiers: Mapping[str, Sequence[Mark]],
    names: Mapping[str, str],
    form_of: Mapping[str, str],
    colours: Mapping[str, str],
) -> Iterator[_Label]:
    """The names of trials, and the numbers of those of the frontier."""
    for role, frontier in frontiers.items():
        for mark in frontier:
            trial, num_params = mark.trial["trial"], mark.trial["num_params"]
            position, colour = (num_params, 100 * mark.value), colours[role]
            if name := names.get(trial):
                places = _NAMES if role == "frontier" else _BASELINE_NAMES
                yield _Label(name, position, places, {"color": colour, "fontweight": "bold"})
            if role == "frontier":
                numbers = f"{num_params:,}: {mark.value:.0%} {form_of.get(trial, '')}".rstrip()
                yield _Label(numbers, position, _NUMBERS, {"color": colour, "fontsize": 8})


def _add_labels(axes: Axes, added: Iterable[_Label], taken: list[Bbox], lines: Sequence[Bbox]) -> None:
    """Adds each label at the first of its places in the axes that covers the fewest of `taken`, then the fewest lines.

    Their boxes are added to `taken`.
    """
    for text, position, places, style in added:
        found = []
        for height, side in itertools.product(*places):
            offset = (8 if side == "left" else -8, height)
            label = axes.annotate(text, position, xytext=offset, textcoords="offset points", ha=side, **style)
            box = label.get_window_extent()
            label.remove()
            is_outside = not (axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max))
            found.append((is_outside, box.count_overlaps(taken), box.count_overlaps(lines), box, label))
        *_, box, label = min(found, key=lambda each: each[:3])
        axes.add_artist(label)
        taken.append(box)


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

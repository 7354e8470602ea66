"""Write the rows of a run as CSV, as Markdown tables, and as a figure."""

import csv
import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tests.benchmarks.measure import Row
from tests.benchmarks.peers import DENSE, NATIVE, OURS
from ttrnn.files import atomic_write

__all__ = ["About", "markdown", "memory_table", "spread", "step_tables", "write"]

# Okabe and Ito's colours; a contender has the same colour in every panel.
_COLOURS = {
    (OURS, "float32"): "#0072B2",
    (OURS, "bfloat16"): "#56B4E9",
    (DENSE, "float32"): "#000000",
    (DENSE, "bfloat16"): "#BBBBBB",
    (NATIVE, "float32"): "#777777",
    ("tednet TTLSTM", "float32"): "#D55E00",
    ("tednet TTLinear", "float32"): "#E69F00",
    ("torchTT", "float32"): "#F0E442",
    ("tensorly-torch", "float32"): "#CC79A7",
    ("tensorly-torch", "bfloat16"): "#E3B5CF",
    ("tensorly-torch + opt_einsum", "float32"): "#009E73",
    ("tensorly-torch + opt_einsum", "bfloat16"): "#7FCEB9",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Conditions of a run."""

    date: str
    machine: str
    threads: int
    torch: str
    rounds: int
    not_installed: tuple[str, ...]


def write(out: Path, rows: list[Row], about: About) -> None:
    """Writes results.csv, results.md and results.png to the directory `out`."""
    with atomic_write(out / "results.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        common = {"threads": about.threads, "date": about.date, "machine": about.machine, "torch": about.torch}
        writer.writerow([*(field.name for field in dataclasses.fields(Row)), *common])
        writer.writerows([*_rounded(row), *common.values()] for row in rows)
    with atomic_write(out / "results.md") as file:
        file.write(markdown(rows, about))
    with atomic_write(out / "results.png", "wb") as file:
        _figure(rows, about).savefig(file, dpi=120)


def _rounded(row: Row) -> list[str]:
    return [f"{value:.5g}" if isinstance(value, float) else value for value in dataclasses.astuple(row)]


def markdown(rows: list[Row], about: About) -> str:
    """A line with date and machine, and the tables of the measured sections."""
    lines = [
        f"{about.date}; {about.machine}; {about.threads} threads; torch {about.torch}. "
        f"Median of {about.rounds} interleaved rounds (lowest to highest).",
        *([f"Not installed, hence not measured: {', '.join(about.not_installed)}."] if about.not_installed else []),
    ]
    for table in (step_tables, _product_table, _plans_table, _recurrence_table, memory_table, _loading_table):
        lines += table(rows)
    return "\n".join(lines) + "\n"


def _table(title: str, header: Iterable[str], body: Iterable[Iterable[str]]) -> list[str]:
    header, body = list(header), [list(cells) for cells in body]
    if not body:
        return []
    lines = [header, ["---"] * len(header), *body]
    return ["", f"**{title}**", "", *(f"| {' | '.join(cells)} |" for cells in lines)]


def _of(rows: list[Row], section: str, unit: str) -> list[Row]:
    return [row for row in rows if (row.section, row.unit) == (section, unit)]


def spread(row: Row | None, style: str = ",.0f") -> str:
    """Median (lowest to highest)."""
    return "" if row is None else f"{row.median:{style}} ({row.low:{style}} to {row.high:{style}})"


def step_tables(rows: list[Row]) -> list[str]:
    """A table for each shape: training step, forward pass, and ratios to ttrnn."""
    lines = []
    forwards = {(row.shape, row.name, row.precision): row for row in _of(rows, "forward", "us/frame")}
    ratios = {(row.shape, row.name, row.precision): row for row in _of(rows, "step", "times")}
    steps = _of(rows, "step", "us/frame")
    for shape in dict.fromkeys(row.shape for row in steps):
        body = []
        for row in sorted((row for row in steps if row.shape == shape), key=lambda row: row.median):
            slower = [ratios.get((shape, f"{row.name} {row.precision} / {OURS}", p)) for p in ("float32", "bfloat16")]
            forward = forwards[shape, row.name, row.precision]
            body.append(
                [row.name, row.precision, spread(row), spread(forward), *(spread(ratio, ".1f") for ratio in slower)]
            )
        header = ["", "precision", "training step", "forward", f"/ {OURS} float32", f"/ {OURS} bfloat16"]
        lines += _table(f"{shape} uint8 frames, us per frame; training step / that of {OURS}", header, body)
    return lines


def _product_table(rows: list[Row]) -> list[str]:
    times = {(row.shape, row.name, row.precision): row for row in _of(rows, "product", "us/frame")}
    body = [
        [
            row.shape,
            row.precision,
            spread(times[row.shape, "tt_product", row.precision], ".1f"),
            spread(times[row.shape, "bare GEMMs", row.precision], ".1f"),
            spread(times[row.shape, "frames read twice", "uint8"], ".1f"),
            spread(row, ".2f"),
        ]
        for row in _of(rows, "product", "times")
    ]
    header = ["", "precision", "TT product", "bare GEMMs", "frames read twice", "product / GEMMs"]
    return _table("TT product alone, forward and backward, us per frame", header, body)


def _plans_table(rows: list[Row]) -> list[str]:
    times = {(row.shape, row.precision, row.name.split()[0]): row for row in _of(rows, "plans", "us/frame")}
    body = []
    for row in _of(rows, "plans", "times"):
        chosen, fastest = (times[row.shape, row.precision, name] for name in ("chosen", "fastest"))
        body.append([row.shape, row.precision, spread(chosen, ".1f"), spread(fastest, ".1f"), spread(row, ".2f")])
    header = ["", "precision", "plan chosen", "fastest plan", "chosen / fastest"]
    return _table("Plans: forward and backward, us per row", header, body)


def _recurrence_table(rows: list[Row]) -> list[str]:
    # "LSTM 256 8x32": cell, hidden size, batch and time.
    ratios = {(row.name.split(" /")[0], *row.shape.split()): row for row in _of(rows, "recurrence", "times")}
    batches, times = ({int(size.split("x")[axis]) for *_, size in ratios} for axis in (0, 1))
    body = [
        [f"{cell}, {name}, batch {batch}"]
        + [spread(ratios[name, cell, hidden, f"{batch}x{time}"], ".2f") for time in sorted(times)]
        for name, cell, hidden in dict.fromkeys(key[:3] for key in ratios)
        for batch in sorted(batches)
    ]
    title = "Recurrence alone, forward and backward, hidden 256, float32: time of torch.nn's / time of the scan"
    return _table(title, ["", *(f"{time} frames" for time in sorted(times))], body)


def memory_table(rows: list[Row]) -> list[str]:
    """Peak memory."""
    ratios = {(row.shape, row.name, row.precision): row for row in _of(rows, "memory", "times")}
    body = []
    for row in _of(rows, "memory", "bytes"):
        ratio = ratios[row.shape, f"{row.name} / frames", row.precision]
        body.append([row.shape, row.name, row.precision, f"{row.median / 1e9:,.2f}", f"{ratio.median:,.1f}"])
    header = ["", "", "precision", "GB", "times the frames' bytes"]
    return _table("Peak memory of a training step, frames, weights and optimiser included", header, body)


def _loading_table(rows: list[Row]) -> list[str]:
    styles = {"us/frame": ".2f", "times": ".3f", "bytes": ",.0f"}
    body = [
        [row.name, row.shape, row.precision, f"{spread(row, styles[row.unit])} {row.unit}"]
        for row in rows
        if row.section == "loading"
    ]
    return _table("Reading: clips from shards", ["", "", "precision", ""], body)


def _figure(rows: list[Row], about: About) -> Figure:
    figure = Figure(figsize=(17, 9), layout="constrained")
    panels = (_draw_steps, _draw_memory, _draw_product, _draw_recurrence, *map(_growth_panel, _GROWTH))
    for axes, draw in zip(figure.subplots(2, 4).flat, panels, strict=True):
        draw(axes, rows)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        if axes.get_yscale() == "log":
            axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_visible(axes.has_data())
    measured = {(row.name, row.precision) for row in rows if row.section != "recurrence"}
    contenders = {_label(*key): Patch(color=colour) for key, colour in _COLOURS.items() if key in measured}
    figure.legend(contenders.values(), contenders.keys(), loc="outside lower center", ncols=6, frameon=False)
    figure.suptitle(f"{about.machine}; {about.threads} threads; torch {about.torch}; {about.date}", fontsize=10)
    return figure


def _label(name: str, precision: str) -> str:
    return name if precision in ("float32", "uint8") else f"{name}, {precision}"


def _draw_steps(axes: Axes, rows: list[Row]) -> None:
    steps = [row for row in _of(rows, "step", "us/frame") if row.shape.startswith("LSTM")]
    _grouped_bars(axes, steps, _COLOURS)
    axes.set(title="Training step of an LSTM", ylabel="us per frame", yscale="log")


def _draw_product(axes: Axes, rows: list[Row]) -> None:
    colours = {
        ("tt_product", "float32"): "#0072B2",
        ("bare GEMMs", "float32"): "#A6CBE3",
        ("tt_product", "bfloat16"): "#56B4E9",
        ("bare GEMMs", "bfloat16"): "#CDE7F8",
        ("frames read twice", "uint8"): "#999999",
    }
    _grouped_bars(axes, _of(rows, "product", "us/frame"), colours)
    axes.set(title="TT product, forward and backward", ylabel="us per frame")
    if axes.has_data():
        axes.legend(fontsize=7, frameon=False)


def _grouped_bars(axes: Axes, rows: list[Row], colours: dict[tuple[str, str], str]) -> None:
    """Draws a group of bars for each shape, one bar for each (name, precision), with its range."""
    shapes = list(dict.fromkeys(row.shape for row in rows))
    kinds = [key for key in colours if any((row.name, row.precision) == key for row in rows)]
    for number, key in enumerate(kinds):
        mine = [row for row in rows if (row.name, row.precision) == key]
        width = 0.85 / len(kinds)
        at = [shapes.index(row.shape) + (number - (len(kinds) - 1) / 2) * width for row in mine]
        medians = [row.median for row in mine]
        spread = [[row.median - row.low for row in mine], [row.high - row.median for row in mine]]
        axes.bar(at, medians, width, color=colours[key], label=_label(*key))
        axes.errorbar(at, medians, spread, fmt="none", ecolor="#444444", elinewidth=0.8)
    # "LSTM YouTube Celebrities 8x32" -> "YouTube Celebrities"
    axes.set_xticks(range(len(shapes)), ["\n".join(shape.split()[1:-1]) for shape in shapes])


def _draw_memory(axes: Axes, rows: list[Row]) -> None:
    peaks = [row for row in _of(rows, "memory", "bytes") if row.shape.startswith("LSTM")]
    peaks.sort(key=lambda row: -row.median)
    for at, row in enumerate(peaks):
        axes.barh(at, row.median / 1e9, color=_COLOURS[row.name, row.precision])
        axes.annotate(f" {row.median / 1e9:.2f}", (row.median / 1e9, at), va="center", fontsize=8)
    axes.set_yticks(range(len(peaks)), [_label(row.name, row.precision) for row in peaks], fontsize=8)
    axes.set(title=f"Peak memory, {peaks[0].shape if peaks else ''}", xlabel="GB, frames and optimiser included")
    axes.margins(x=0.15)


def _draw_recurrence(axes: Axes, rows: list[Row]) -> None:
    curves: dict[tuple[int, str], list[tuple[int, float]]] = {}
    for row in _of(rows, "recurrence", "times"):
        if row.name.startswith(NATIVE):
            continue
        cell, _, size = row.shape.split()
        batch, time = map(int, size.split("x"))
        curves.setdefault((batch, cell), []).append((time, row.median))
    batches = sorted({batch for batch, _ in curves})
    for (batch, cell), points in sorted(curves.items()):
        at, ratios = zip(*points, strict=True)
        colour, style = f"C{batches.index(batch)}", {"LSTM": "-", "GRU": "--"}[cell]
        axes.plot(at, ratios, style, marker="o", markersize=4, color=colour, label=f"{cell}, batch {batch}")
    axes.set(title="Recurrence alone: torch.nn / scan", xlabel="frames per clip", ylabel="times")
    if curves:
        axes.axhline(1, color="black", linewidth=0.8)
        # Room for the legend above the curves.
        axes.set_ylim(0, 1.4 * max(ratio for points in curves.values() for _, ratio in points))
        axes.legend(fontsize=7, frameon=False, ncols=2, handlelength=3)
        _ticks(axes, {time for points in curves.values() for time, _ in points})


_GROWTH = {"ranks": "rank", "modes": "number of modes", "batch": "clips per batch", "time": "frames per clip"}


def _growth_panel(what: str) -> Callable[[Axes, list[Row]], None]:
    def draw(axes: Axes, rows: list[Row]) -> None:
        # "ranks 4: 8x20x20x18 8x32" -> 4
        values = {
            row: int(row.shape.split()[1].rstrip(":"))
            for row in _of(rows, "growth", "us/frame")
            if row.shape.startswith(what)
        }
        for key, colour in _COLOURS.items():
            curve = [row for row in values if (row.name, row.precision) == key]
            at = [values[row] for row in curve]
            axes.plot(at, [row.median for row in curve], marker="o", markersize=4, color=colour)
            axes.fill_between(at, [row.low for row in curve], [row.high for row in curve], color=colour, alpha=0.15)
        axes.set(title=f"Training step by {_GROWTH[what]}", xlabel=_GROWTH[what], ylabel="us per frame")
        if values:
            axes.set_yscale("log")
            _ticks(axes, set(values.values()))

    return draw


def _ticks(axes: Axes, at: set[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(at), [str(tick) for tick in sorted(at)], minor=False)
    axes.minorticks_off()

"""Draws what pareto.py has computed: report.html, a page that loads nothing from elsewhere, and pareto.png.

Both are drawn from one structure of JSON values, the one that pareto.json holds:

    write_page("report.html", json.load(open("pareto.json")))
"""

import base64
import hashlib
import html
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any

from matplotlib.figure import Figure
from plotly.offline import get_plotlyjs

from pipelines import cli
from pipelines.cli import percent
from pipelines.metrics import standard_error
from pipelines.pictures import plain
from ttrnn.files import atomic_write

__all__ = ["marks", "texts", "write_page", "write_picture"]

# role: name in the legend, plotly's symbol, matplotlib's marker, size in px, colour of Okabe and Ito by day, by night
ROLES = {
    "stopped": ("not finished", "x-thin-open", "x", 7, "#8a8a8a", "#8f959c"),
    "dominated": ("dominated", "circle", "o", 8, "#a0a0a0", "#737a82"),
    "test": ("frontier on test", "diamond-open", "D", 10, "#b0568a", "#cc79a7"),
    "frontier": ("frontier", "circle", "o", 12, "#0072b2", "#56b4e9"),
    "dense": ("dense baseline", "square", "s", 12, "#d55e00", "#e69f00"),
}


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def texts(trial: Mapping[str, Any]) -> dict[str, str]:
    """A trial of pareto.json as a person reads it: every column, what was configured, and `modes`; `-` where unknown.

    `modes` is what the input-to-hidden weights map: `8x20x20x18 → 4x4x4x4`, or `dense → 4x4x4x4`.
    """
    config = {name: str(value) for name, value in trial["config"].items()}
    source = "dense" if config.get("input") == "dense" else config.get("in_modes", "-")
    shown = dict.fromkeys(("cell", "input", "ranks", "recurrent_ranks"), "-") | config
    shown |= {name: _count(trial[name]) for name in ("num_params", "input_params", "epochs")}
    shown |= {name: percent(trial[name]) for name in ("val_metric", "test_metric")}
    state = f"{trial['state']}: {trial['error']}" if trial["error"] else trial["state"]
    return shown | {
        "trial": trial["trial"],
        "state": state,
        "train_s": "-" if trial["train_s"] is None else cli.duration(trial["train_s"]),
        "modes": f"{source} → {config.get('hidden_modes', '-')}",
    }


def marks(data: Mapping[str, Any]) -> dict[str, str]:
    """What is special about which trial: name -> `best`, `knee`, `baseline`, or several of them."""
    found: dict[str, list[str]] = {}
    for mark in ("best", "knee", "baseline"):
        if data[mark] is not None:
            found.setdefault(data[mark], []).append(mark)
    return {trial: ", ".join(names) for trial, names in found.items()}


def _points(data: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The trials of each role that has any, in the order they are drawn; a point of the frontier may stand in three."""
    chosen = {point["trial"] for point in data["frontier"]}
    points: dict[str, list[dict[str, Any]]] = {role: [] for role in ROLES}
    for trial in data["trials"]:
        if trial["num_params"] and trial["val_metric"] is not None:
            is_dense = trial["config"].get("input") == "dense"
            role = "stopped" if trial["state"] != "complete" else "dense" if is_dense else "dominated"
            if role != "dominated" or trial["trial"] not in chosen:
                points[role].append(trial)
    points["frontier"] = data["frontier"]
    points["test"] = [point for point in data["frontier"] if point["test_metric"] is not None]
    return {role: trials for role, trials in points.items() if trials}


def _y(role: str, trial: Mapping[str, Any]) -> float:
    return 100 * trial["test_metric" if role == "test" else "val_metric"]


def _axes(data: Mapping[str, Any]) -> tuple[tuple[float, float], tuple[float, float], list[float]]:
    """(log10 of the lowest and highest num_params shown), (lowest and highest %), ticks of num_params."""
    points = _points(data)
    logs = [math.log10(trial["num_params"]) for trials in points.values() for trial in trials]
    heights = [_y(role, trial) for role, trials in points.items() for trial in trials] + [100 * data["chance"]]
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


def _steps(data: Mapping[str, Any], right: float) -> tuple[list[float], list[float]]:
    """The frontier as corners of a line: each point reaches right to the next one, the best to the edge."""
    points = data["frontier"]
    return [point["num_params"] for point in points] + [right], [_y("frontier", p) for p in [*points, points[-1]]]


def write_picture(path: str | Path, data: Mapping[str, Any]) -> None:
    """Writes the frontier as a PNG, 1600 x 960 pixels.

    Args:
        path: The file.
        data: What pareto.json holds.
    """
    (low, high), heights, ticks = _axes(data)
    figure = Figure(figsize=(10, 6), dpi=160)
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.15)
    axes = figure.subplots()
    for role, trials in _points(data).items():
        name, _, marker, size, colour, _ = ROLES[role]
        face = "none" if role == "test" else colour
        axes.plot(
            [trial["num_params"] for trial in trials],
            [_y(role, trial) for trial in trials],
            marker,
            label=name,
            markersize=0.7 * size,
            markeredgecolor=colour,
            markerfacecolor=face,
            clip_on=False,
        )
    blue = ROLES["frontier"][4]
    axes.plot(*_steps(data, 10**high), drawstyle="steps-post", color=blue, linewidth=1.8, zorder=1)
    for point in data["frontier"]:
        axes.annotate(
            marks(data).get(point["trial"], ""),
            (point["num_params"], _y("frontier", point)),
            xytext=(-7, 7),
            textcoords="offset points",
            ha="right",
            color=blue,
            fontweight="bold",
        )
    axes.axhline(100 * data["chance"], linestyle=":", color="#666666", linewidth=1.2, zorder=0)
    axes.annotate(
        f"chance {percent(data['chance'])}",
        (0.995, 100 * data["chance"]),
        color="#666666",
        fontsize=9,
        xycoords=("axes fraction", "data"),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
    )
    x_title, y_title = _titles(data)
    axes.set(xscale="log", xlim=(10**low, 10**high), ylim=heights, xlabel=x_title, ylabel=y_title)
    axes.set_xticks(ticks, [_compact(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    # A dollar sign in the data set's name is not mathematics.
    axes.set_title(data["dataset"], loc="left", fontweight="bold", fontsize=14, parse_math=False)
    plain(axes)
    axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=5)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")


def _metric_name(data: Mapping[str, Any]) -> str:
    return data["metric"].replace("_", " ")


def _titles(data: Mapping[str, Any]) -> tuple[str, str]:
    return "parameters of the whole model", f"validation {_metric_name(data)}, %"


def _plotly_figure(data: Mapping[str, Any]) -> dict[str, Any]:
    """The picture for plotly; colours are names of CSS variables, which the page resolves by day and by night."""
    (low, high), heights, ticks = _axes(data)
    xs, ys = _steps(data, 10**high)
    traces: list[dict[str, Any]] = [
        {
            "x": xs,
            "y": ys,
            "mode": "lines",
            "hoverinfo": "skip",
            "showlegend": False,
            "line": {"shape": "hv", "width": 2.5, "color": "var(--frontier)"},
        }
    ]
    for role, trials in _points(data).items():
        name, symbol, _, size, _, _ = ROLES[role]
        traces.append(
            {
                "name": name,
                "x": [trial["num_params"] for trial in trials],
                "y": [_y(role, trial) for trial in trials],
                "mode": "markers+text" if role == "frontier" else "markers",
                "cliponaxis": False,
                "marker": {
                    "symbol": symbol,
                    "size": size,
                    "color": f"var(--{role})",
                    "line": {"width": 2 if "open" in symbol else 0, "color": f"var(--{role})"},
                },
                "text": [f"<b>{marks(data).get(trial['trial'], '')}</b>" for trial in trials],
                "textposition": "top left",
                "textfont": {"color": "var(--frontier)", "size": 14},
                "hovertext": [_hover(trial) for trial in trials],
                "hoverinfo": "text",
            }
        )
    axis = {"gridcolor": "var(--rule)", "linecolor": "var(--rule)", "zeroline": False, "automargin": True}
    x_title, y_title = ({"text": text, "standoff": 12} for text in _titles(data))
    chance = 100 * data["chance"]
    return {
        "data": traces,
        "layout": {
            "xaxis": {
                **axis,
                "type": "log",
                "range": [low, high],
                "title": x_title,
                "tickvals": ticks,
                "ticktext": [_compact(tick) for tick in ticks],
            },
            "yaxis": {**axis, "range": heights, "title": y_title},
            "shapes": [
                {
                    "type": "line",
                    "xref": "paper",
                    "x0": 0,
                    "x1": 1,
                    "y0": chance,
                    "y1": chance,
                    "layer": "between",
                    "line": {"dash": "dot", "width": 1.5, "color": "var(--quiet)"},
                }
            ],
            "annotations": [
                {
                    "xref": "paper",
                    "x": 1,
                    "xanchor": "right",
                    "y": chance,
                    "yanchor": "bottom",
                    "showarrow": False,
                    "text": f"chance {percent(data['chance'])}",
                    "font": {"color": "var(--quiet)"},
                }
            ],
            "legend": {
                "orientation": "h",
                "x": 0.5,
                "xanchor": "center",
                "y": -0.16,
                "yanchor": "top",
                "traceorder": "reversed",
            },
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "var(--quiet)", "activecolor": "var(--frontier)"},
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": "var(--text)"},
            "hoverlabel": {
                "bgcolor": "var(--page)",
                "bordercolor": "var(--rule)",
                "align": "left",
                "font": {"color": "var(--text)"},
            },
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "hovermode": "closest",
            "margin": {"l": 10, "r": 16, "t": 12, "b": 10},
        },
    }


def _hover(trial: Mapping[str, Any]) -> str:
    shown = texts(trial)
    lines = [
        "trial {trial}, {cell}, {input} input",
        "modes {modes}",
        "ranks {ranks}, recurrent ranks {recurrent_ranks}",
        "{num_params} parameters, {input_params} of them input-to-hidden",
        "validation {val_metric}, test {test_metric}",
        "trained {train_s}, {epochs} epochs",
    ]
    # Plotly reads a few tags, and no &quot;.
    return "<br>".join(html.escape(line.format_map(shown), quote=False) for line in lines)


def write_page(path: str | Path, data: Mapping[str, Any]) -> None:
    """Writes the frontier as a page of HTML that loads nothing: plotly.js, styles and data are all in it.

    Its content security policy admits the page's own two scripts by their hashes and nothing else.

    Args:
        path: The file, 5 MB.
        data: What pareto.json holds.
    """
    scripts = [get_plotlyjs(), DRAW]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    states = Counter(trial["state"] for trial in data["trials"])
    page = Template(PAGE).substitute(
        policy=" ".join(f"'sha256-{digest}'" for digest in hashes),
        day="".join(f"--{role}: {colours[4]}; " for role, colours in ROLES.items()),
        night="".join(f"--{role}: {colours[5]}; " for role, colours in ROLES.items()),
        dataset=html.escape(data["dataset"]),
        metric=html.escape(_metric_name(data)),
        num_trials=len(data["trials"]),
        num_finished=states["complete"],
        cards=_cards(data),
        frontier=_table(data["frontier"], POINT_HEADS, data),
        trials=_table(data["trials"], {name: name for name in data["columns"]}, data),
        facts=_made(data, states),
        next="\n".join(html.escape(command) for command in data["next"]),
        plotly=scripts[0],
        draw=scripts[1],
        # Inside a script element only "<" could end the data early.
        figure=json.dumps(_plotly_figure(data), allow_nan=False).replace("<", "\\u003c"),
    )
    with atomic_write(path, "wb") as file:
        # A file name that is not UTF-8 travels in a str as lone surrogates, which have no UTF-8 form.
        file.write(page.encode("utf-8", errors="replace"))


def _cards(data: Mapping[str, Any]) -> str:
    trials = {trial["trial"]: trial for trial in data["trials"]}
    best, small, dense = trials[data["best"]], trials[data["knee"]], trials.get(data["baseline"])
    cards = [("best", "Best on validation", best)]
    if small is not best:
        cards.append(("knee", f"Knee, {_ratio(best, small)} times smaller", small))
    if dense is not None and dense is not best:
        cards.append(("dense", f"Dense baseline, {_ratio(dense, best)} times the size", dense))
    return "".join(
        f'<div class="card {role}"><h2>{title}</h2><p class="figure">{percent(trial["val_metric"])}</p>'
        f"<p>{_count(trial['num_params'])} parameters<br>trial {html.escape(trial['trial'])}, "
        + ("not tested" if trial["test_metric"] is None else f"test {percent(trial['test_metric'])}")
        + "</p></div>"
        for role, title, trial in cards
    )


def _ratio(large: Mapping[str, Any], small: Mapping[str, Any]) -> str:
    ratio = large["num_params"] / small["num_params"]
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"


def _table(trials: Iterable[Mapping[str, Any]], heads: Mapping[str, str], data: Mapping[str, Any]) -> str:
    """A table of trials whose columns are `mark` and names of `texts` under the given heads; numbers at the right."""
    numbers = ("num_params", "input_params", "val_metric", "test_metric", "epochs", "train_s")
    kinds = ["number" if name in numbers else name if name == "mark" else "text" for name in heads]

    def row(tag: str, cells: Iterable[str]) -> str:
        pairs = zip(kinds, cells, strict=True)
        return "".join(f'<{tag} class="{kind}">{html.escape(cell)}</{tag}>' for kind, cell in pairs)

    shown = [texts(trial) | {"mark": marks(data).get(trial["trial"], "")} for trial in trials]
    body = "".join(f"<tr>{row('td', (cells.get(name, '') for name in heads))}</tr>" for cells in shown)
    return (
        '<div class="scroll"><table><thead><tr>' + row("th", heads.values()) + "</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _made(data: Mapping[str, Any], states: Mapping[str, int]) -> str:
    """How the numbers were made, as the entries of a description list."""
    options, num_val = data["options"], data["num_val_clips"]
    best = data["frontier"][-1]["val_metric"]
    error = f"{100 * standard_error(best, num_val):.1f} points"
    noise = f"; the best point's standard error is {error} on so few clips: what lies closer may stand in any order"
    facts = {
        "Data set": f"{data['dataset']}, {data['num_classes']} classes: {', '.join(data['classes'])}",
        "Clips": f"{_count(num_val)} validation, {_count(data['num_test_clips'])} test",
        "Metric": f"{_metric_name(data)}; chance is {percent(data['chance'])}"
        + (noise if data["metric"] == "accuracy" else ""),
        "Trials": ", ".join(f"{number} {state}" for state, number in states.items())
        + f"; {options['epochs']} epochs at most, seed {options['seed']}",
        "Selection": "on validation: the best epoch of a trial, the frontier, and so the best point and the knee; a "
        "figure that was selected on flatters",
        "Test": "looked at once, after the frontier stood, and for its points only",
        "Parameters": "of the whole model, recurrent matrix and classifier included; input-to-hidden weights stand "
        "beside them, since papers count only those",
        "Knee": "the point highest above the chord from the smallest to the best, over the logarithm of the parameters",
        "Made": data["created"],
        "Command": data["command"],
    }
    return "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in facts.items())


POINT_HEADS = {
    "trial": "trial",
    "mark": "",
    "val_metric": "validation",
    "test_metric": "test",
    "num_params": "parameters",
    "input_params": "input-to-hidden",
    "cell": "cell",
    "modes": "modes",
    "ranks": "ranks",
    "recurrent_ranks": "recurrent ranks",
    "train_s": "trained",
}

DRAW = """
const chart = document.getElementById("chart");
const figure = document.getElementById("figure").textContent;
function draw() {
  const style = getComputedStyle(document.documentElement);
  const {data, layout} = JSON.parse(figure, (key, value) =>
    typeof value === "string" && value.startsWith("var(") ? style.getPropertyValue(value.slice(4, -1)).trim() : value);
  // A finger scrolls the page; only a mouse zooms by dragging.
  layout.dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
  // Named one by one: plotly's own choice has a button that sends the data to a cloud.
  Plotly.react(chart, data, layout, {responsive: true, displaylogo: false, plotlyServerURL: "",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]]});
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src $policy; \
style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$dataset: the frontier of parameters and $metric</title>
<style>
:root { --page: #ffffff; --panel: #f6f7f9; --text: #1c2128; --quiet: #5b6570; --rule: #dfe3e8; $day }
@media (prefers-color-scheme: dark) {
  :root { --page: #14181d; --panel: #1d232a; --text: #e6eaee; --quiet: #9aa5b1; --rule: #333c46; $night }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem clamp(1rem, 4vw, 3rem) 4rem; background: var(--page);
  color: var(--text); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0.5rem 0; overflow-wrap: anywhere; }
h2, summary { font-size: 1.15rem; font-weight: 600; margin: 2.5rem 0 0.75rem; }
summary { cursor: pointer; }
p { max-width: 52rem; margin: 0.5rem 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 1rem; margin: 1.5rem 0; }
.card { background: var(--panel); border-top: 4px solid var(--frontier); border-radius: 6px; padding: 0.9rem 1.1rem; }
.card.dense { border-color: var(--dense); }
.card h2 { margin: 0; font-size: 0.95rem; color: var(--quiet); }
.card p { margin: 0; color: var(--quiet); }
.card .figure { font-size: 2rem; line-height: 1.3; font-weight: 650; color: var(--text); }
#chart { height: clamp(24rem, 62vh, 36rem); }
.scroll { overflow-x: auto; border: 1px solid var(--rule); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 0.6rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--rule); }
tr:last-child td { border-bottom: 0; }
th { background: var(--panel); color: var(--quiet); font-weight: 600; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--panel); }
th.number, td.number { text-align: right; }
td.mark { color: var(--frontier); font-weight: 650; }
details table { font-size: 0.8rem; }
details td, details th { padding: 0.2rem 0.6rem; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: 0.4rem 1.5rem; margin: 0; }
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--panel); border-radius: 6px; padding: 0.9rem 1.1rem; overflow-x: auto; font-size: 0.85rem; }
</style>
</head>
<body>
<h1>$dataset: how small can the model be?</h1>
<p>$num_finished of $num_trials trials finished, and each is a point: further left is smaller, further up is better. On
the line, the frontier, no other model has as few parameters and as good a validation $metric.</p>
<div class="cards">$cards</div>
<div id="chart" role="img" aria-label="Parameters against validation $metric; the tables below hold the same figures">
<noscript>The picture needs JavaScript; pareto.png beside this page shows the same.</noscript></div>
<h2>The frontier</h2>
$frontier
<details><summary>All $num_trials trials</summary>
$trials
</details>
<h2>How these numbers were made</h2>
<dl>$facts</dl>
<h2>What next</h2>
<pre>$next</pre>
<script type="application/json" id="figure">$figure</script>
<script>$plotly</script>
<script>$draw</script>
</body>
</html>
"""

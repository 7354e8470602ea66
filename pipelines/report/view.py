"""Compute the data that the scripts of report.html draw: marks, learning curves, parallel coordinates, texts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.core.text import percent
from pipelines.report.pareto_data import (
    FORMAT_COLOURS,
    ROLES,
    all_trials,
    baseline_line,
    csv_tables,
    formats,
    kilobytes,
    labels,
    marks,
    milliseconds,
    refinements,
)
from pipelines.tuning.formatting import interval_text, matrix_formats, texts

__all__ = ["dimensions", "varying_options", "view"]


# Choices for the horizontal axis of the plot: name in pareto.json -> title.
_X_AXES = {
    "num_params": "parameters of the whole model",
    "input_params": "input-to-hidden weights",
    "multiply_adds": "MACs per frame",
}
# An axis of parallel coordinates lists at most this many different values by name.
_MAX_NAMES = 12
_MOST_DIGITS = 6


def view(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data for the scripts as JSON values; metrics in %."""
    trials, label, drawn = all_trials(data), labels(data), marks(data)
    x_axes = {name: title for name, title in _X_AXES.items() if any(mark.trial.get(name) for mark in drawn)}
    varying = varying_options(data["trials"])
    by_format = formats(data)
    selected = dict.fromkeys(name for name in map(data.get, ("best", "knee", "highest", "baseline")) if name)
    return {
        "metric": data["metric"].replace("_", " "),
        "chance": 100 * data["chance"],
        "roles": [{"role": role, "label": name, "shape": shape} for role, (name, shape, *_) in ROLES.items()],
        "x_axes": x_axes,
        "formats": [
            {"title": title, "names": [name for name in FORMAT_COLOURS if name in of.values()], "of": of}
            for title, of in by_format.items()
        ],
        "marks": [
            {"trial": m.trial["trial"], "role": m.role, "y": 100 * m.value, "interval": _percents(m.interval)}
            for m in drawn
        ],
        "frontier": [point["trial"] for point in data["frontier"]],
        "baselines": [mark.trial["trial"] for mark in baseline_line(data)],
        "refinements": refinements(data),
        "published": [
            {"model": claim["model"], "x": claim["num_input_params"], "y": 100 * claim["accuracy"]}
            for claim in data.get("published") or []
        ],
        "trials": {
            name: {
                "x": [trial.get(axis) for axis in x_axes],
                "label": label.get(name, ""),
                "tooltip": _tooltip(trial, [f"{title} {of[name]}" for title, of in by_format.items() if name in of]),
                "details": _details(trial, label.get(name, ""), varying, milliseconds(data, name, with_spread=True)),
                "curve": [[epoch, round(100 * value, 3)] for epoch, value in trial.get("curve") or []],
                "stopped": trial["state"] not in ("complete", "baseline"),
                "per_class": trial.get("per_class"),
                "is_baseline": trial["state"] == "baseline",
            }
            for name, trial in trials.items()
        },
        "dimensions": dimensions(data),
        "selected": list(selected),
        "export": next(
            (c.partition("--select")[0] + "--select trial:" for c in data["next"] if "pipelines.export" in c), ""
        ),
        "csv": csv_tables(data),
    }


def _percents(interval: Sequence[float] | None) -> list[float] | None:
    return None if interval is None else [100 * bound for bound in interval]


def _tooltip(trial: Mapping[str, Any], formats: Iterable[str]) -> list[str]:
    """Lines of the tooltip of a trial; `formats` are shown in one."""
    cells = texts(trial)
    replication = trial.get("replication")
    mean = f"mean of {len(replication['seeds'])} new seeds {percent(replication['val_mean'])}" if replication else ""
    lines = [
        f"trial {cells['trial']}, {cells['cell']}, {cells['input']} input",
        ", ".join(formats),
        f"modes {cells['modes']}",
        f"ranks {cells['ranks']}, recurrent ranks {cells['recurrent_ranks']}",
        f"{cells['num_params']} parameters, {cells['input_params']} of them input-to-hidden",
        f"validation {cells['val_metric']}, test {cells['test_metric']}",
        mean,
        f"refined from {trial['parent']}" if trial.get("parent") else "",
        f"trained {cells['train_s']}, {cells['epochs']} epochs",
        "" if trial["state"] in ("complete", "baseline") else cells["state"],
    ]
    return [line for line in lines if line]


def _details(trial: Mapping[str, Any], label: str, varying: Iterable[str], latency: str) -> dict[str, str]:
    """Rows of the table of selected trials."""
    cells = texts(trial)

    def metric(split: str) -> str:
        bounds = f" ({cells[f'{split}_interval']})" if trial.get(f"{split}_interval") else ""
        return cells[f"{split}_metric"] + bounds

    def replicated(split: str) -> str:
        found = trial.get("replication")
        if not found or found.get(f"{split}_mean") is None:
            return "-"
        runs = ", ".join(percent(value) for value in found[split])
        bounds = found.get(f"{split}_interval")
        return percent(found[f"{split}_mean"]) + (f" ({interval_text(bounds)})" if bounds else "") + f": {runs}"

    listed = ("cell", "input", "in_modes", "hidden_modes", "ranks", "recurrent_ranks")
    return {
        "label": label or "-",
        "state": cells["state"],
        "validation": metric("val"),
        "validation, replicated": replicated("val"),
        "test": metric("test"),
        "test, replicated": replicated("test"),
        "parameters": cells["num_params"],
        "kilobytes in float32": kilobytes(trial),
        "milliseconds per frame": latency,
        "input-to-hidden weights": cells["input_params"],
        "MACs per frame": cells["multiply_adds"],
        "cell": cells["cell"],
        "modes": cells["modes"],
        "ranks": cells["ranks"],
        "recurrent ranks": cells["recurrent_ranks"],
        **{name.replace("_", " "): cells.get(name, "-") for name in varying if name not in listed},
        "refined from": cells["parent"],
        "epochs": cells["epochs"],
        "trained": cells["train_s"],
    }


def varying_options(trials: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the options in which trials differ; trials without a configuration are ignored."""
    # The option init of a refined trial is shown as its parent; a teacher is a path.
    values: dict[str, set[str]] = {}
    configs = [trial["config"] for trial in trials if trial["config"]]
    for name in dict.fromkeys(name for config in configs for name in config if name not in ("init", "teacher")):
        values[name] = {str(config.get(name)) for config in configs}
    return [name for name, found in values.items() if len(found) > 1]


def dimensions(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The axes of parallel coordinates: the options in which trials differ, the parameters, and last the metric.

    Ranks are represented by the largest one, modes with too many different values by their number.

    Returns:
        For each axis title, kind (`log` or `linear` for numbers, `names` for texts in order) and values {trial: number
        or text}; trials without a metric are left out.
    """
    by_trial = {
        mark.trial["trial"]: mark for mark in marks(data) if mark.role != "test" and mark.trial["state"] != "baseline"
    }
    trials = [mark.trial for mark in by_trial.values()]
    axes = []
    for name in varying_options(trials):
        configs = {t["trial"]: {**t["config"], **matrix_formats(t["config"])} for t in trials if name in t["config"]}
        title, values = name.replace("_", " "), {trial: config[name] for trial, config in configs.items()}
        if name.endswith("ranks"):
            title = f"largest of {title}"
            values = {trial: _largest(value) for trial, value in values.items()}
        elif name.endswith("modes") and len(set(values.values())) > _MAX_NAMES:
            title = f"number of {title}"
            values = {trial: len(str(value).split("x")) for trial, value in values.items()}
        axes.append({"title": title, **_scale(values)})
    for title, kind, values in (
        ("parameters", "log", {name: mark.trial["num_params"] for name, mark in by_trial.items()}),
        (
            f"validation {data['metric'].replace('_', ' ')}, %",
            "linear",
            {n: 100 * m.value for n, m in by_trial.items()},
        ),
    ):
        axes.append({"title": title, "kind": kind, "values": values})
    return axes


def _largest(ranks: Any) -> Any:
    parts = str(ranks).split("x")
    return max(map(int, parts)) if all(part.isdecimal() for part in parts) else ranks


def _scale(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers with too many different values, or many digits, on a scale; the rest as names in order, numbers first."""
    found = set(values.values())
    are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)
    # Sampled ones have many digits.
    if are_numbers and (len(found) > _MAX_NAMES or any(len(str(value)) > _MOST_DIGITS for value in found)):
        is_log = min(found) > 0 and math.log10(max(found) / min(found)) >= 1
        return {"kind": "log" if is_log else "linear", "values": values}
    in_order = sorted(
        found, key=lambda value: (isinstance(value, str), 0 if isinstance(value, str) else value, str(value))
    )
    return {
        "kind": "names",
        "names": [str(value) for value in in_order],
        "values": {t: str(v) for t, v in values.items()},
    }

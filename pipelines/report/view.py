"""What the scripts of report.html draw and list, as JSON values: points, curves, coordinates, and words for them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.core.text import percent
from pipelines.report.points import ROLES, every_trial, links, marks, points, tables
from pipelines.tuning.formatting import span, texts

__all__ = ["dimensions", "varying", "view"]


# What can lie across the picture: name in pareto.json -> title.
_ACROSS = {
    "num_params": "parameters of the whole model",
    "input_params": "input-to-hidden weights",
    "multiply_adds": "multiply-adds per frame",
}
# Different values that an axis of parallel coordinates can name.
_MAX_NAMES = 12


def view(data: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's scripts draw, as JSON values; metrics in %."""
    trials, mark = every_trial(data), marks(data)
    shown = points(data)
    across = {name: title for name, title in _ACROSS.items() if any(p.trial.get(name) for p in shown)}
    differing = varying(data["trials"])
    chosen = dict.fromkeys(name for name in (data["best"], data["knee"], data["baseline"]) if name)
    return {
        "metric": data["metric"].replace("_", " "),
        "chance": 100 * data["chance"],
        "roles": [{"role": role, "label": label, "shape": shape} for role, (label, shape, *_) in ROLES.items()],
        "across": across,
        "points": [
            {"trial": p.trial["trial"], "role": p.role, "y": 100 * p.value, "interval": _percents(p.interval)}
            for p in shown
        ],
        "frontier": [point["trial"] for point in data["frontier"]],
        "links": links(data),
        "published": [
            {"model": claim["model"], "x": claim["num_input_params"], "y": 100 * claim["accuracy"]}
            for claim in data.get("published") or []
        ],
        "trials": {
            name: {
                "x": [trial.get(axis) for axis in across],
                "mark": mark.get(name, ""),
                "tip": _tip(trial),
                "about": _about(trial, mark.get(name, ""), differing),
                "curve": [[epoch, round(100 * value, 3)] for epoch, value in trial.get("curve") or []],
                "stopped": trial["state"] != "complete",
                "per_class": trial.get("per_class"),
            }
            for name, trial in trials.items()
        },
        "dimensions": dimensions(data),
        "chosen": list(chosen),
        "export": next(
            (c.partition("--select")[0] + "--select trial:" for c in data["next"] if "pipelines.export" in c), ""
        ),
        "csv": tables(data),
    }


def _percents(interval: Sequence[float] | None) -> list[float] | None:
    return None if interval is None else [100 * bound for bound in interval]


def _tip(trial: Mapping[str, Any]) -> list[str]:
    """Lines beside a point that is pointed at."""
    shown = texts(trial)
    confirmed = trial.get("replication")
    again = f"confirmed {percent(confirmed['val_mean'])} by {len(confirmed['seeds'])} seeds" if confirmed else ""
    lines = [
        f"trial {shown['trial']}, {shown['cell']}, {shown['input']} input",
        f"modes {shown['modes']}",
        f"ranks {shown['ranks']}, recurrent ranks {shown['recurrent_ranks']}",
        f"{shown['num_params']} parameters, {shown['input_params']} of them input-to-hidden",
        f"validation {shown['val_metric']}, test {shown['test_metric']}",
        again,
        f"refined from {trial['parent']}" if trial.get("parent") else "",
        f"trained {shown['train_s']}, {shown['epochs']} epochs",
        "" if trial["state"] == "complete" else shown["state"],
    ]
    return [line for line in lines if line]


def _about(trial: Mapping[str, Any], mark: str, differing: Iterable[str]) -> dict[str, str]:
    """Rows of the table of chosen trials."""
    shown = texts(trial)

    def measured(split: str) -> str:
        bounds = f" ({shown[f'{split}_interval']})" if trial.get(f"{split}_interval") else ""
        return shown[f"{split}_metric"] + bounds

    def confirmed(split: str) -> str:
        found = trial.get("replication")
        if not found or found.get(f"{split}_mean") is None:
            return "-"
        runs = ", ".join(percent(value) for value in found[split])
        bounds = found.get(f"{split}_interval")
        return percent(found[f"{split}_mean"]) + (f" ({span(bounds)})" if bounds else "") + f": {runs}"

    rest = [name for name in differing if name not in ("cell", "input", "in_modes", "hidden_modes")]
    return {
        "mark": mark or "-",
        "state": shown["state"],
        "validation": measured("val"),
        "validation, confirmed": confirmed("val"),
        "test": measured("test"),
        "test, confirmed": confirmed("test"),
        "parameters": shown["num_params"],
        "input-to-hidden weights": shown["input_params"],
        "multiply-adds per frame": shown["multiply_adds"],
        "cell": shown["cell"],
        "modes": shown["modes"],
        "ranks": shown["ranks"],
        "recurrent ranks": shown["recurrent_ranks"],
        **{name.replace("_", " "): shown.get(name, "-") for name in rest if name not in ("ranks", "recurrent_ranks")},
        "refined from": shown["parent"],
        "epochs": shown["epochs"],
        "trained": shown["train_s"],
    }


def varying(trials: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names that are not configured alike in all trials that have a configuration."""
    # Whose weights a refined trial starts from is told as its parent.
    values: dict[str, set[str]] = {}
    configs = [trial["config"] for trial in trials if trial["config"]]
    for name in dict.fromkeys(name for config in configs for name in config if name != "init"):
        values[name] = {str(config.get(name)) for config in configs}
    return [name for name, found in values.items() if len(found) > 1]


def dimensions(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The axes of parallel coordinates: what was configured differently, the parameters, and at last the metric.

    Of ranks it is the largest, of modes that are too many to name it is how many there are.

    Returns:
        For each axis its title, its kind (`log` or `linear` of numbers, `names` of texts in order) and values {trial:
        number or text}; trials without a metric are left out.
    """
    place = {point.trial["trial"]: point for point in points(data) if point.role != "test"}
    trials = [point.trial for point in place.values()]
    axes = []
    for name in varying(trials):
        title, values = name.replace("_", " "), {t["trial"]: t["config"][name] for t in trials if name in t["config"]}
        if name.endswith("ranks"):
            title = f"largest of {title}"
            values = {trial: _largest(value) for trial, value in values.items()}
        elif name.endswith("modes") and len(set(values.values())) > _MAX_NAMES:
            title = f"number of {title}"
            values = {trial: len(str(value).split("x")) for trial, value in values.items()}
        axes.append({"title": title, **_scale(values)})
    for title, kind, values in (
        ("parameters", "log", {name: point.trial["num_params"] for name, point in place.items()}),
        (f"validation {data['metric'].replace('_', ' ')}, %", "linear", {n: 100 * p.value for n, p in place.items()}),
    ):
        axes.append({"title": title, "kind": kind, "values": values})
    return axes


def _largest(ranks: Any) -> Any:
    parts = str(ranks).split("x")
    return max(map(int, parts)) if all(part.isdecimal() for part in parts) else ranks


def _scale(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers on a scale where they are too many to name, everything else as names in order: numbers first."""
    found = set(values.values())
    are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)
    if are_numbers and len(found) > _MAX_NAMES:
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

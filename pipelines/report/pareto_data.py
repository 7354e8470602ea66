"""Prepare the contents of pareto.json for figures, tables and report.html.

A missing key is treated as an unknown value, so that files of earlier versions can be shown.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pipelines.tuning.formatting import matrix_formats
from pipelines.tuning.sweep_directory import SweepDirectory

__all__ = [
    "FORMAT_COLOURS",
    "ROLES",
    "Mark",
    "all_trials",
    "baseline_line",
    "csv_tables",
    "formats",
    "kilobytes",
    "labels",
    "mark_on_test",
    "marks",
    "milliseconds",
    "refinements",
]


# role: (name in the legend, shape, matplotlib's marker, size in px), in drawing order.
ROLES = {
    "stopped": ("not finished", "cross", "x", 7),
    "dominated": ("dominated", "dot", "o", 7),
    "not_replicated": ("not replicated", "triangle", "^", 11),
    "baseline": ("baseline", "wedge", "v", 11),
    "test": ("test metric", "diamond", "D", 10),
    "frontier": ("frontier", "circle", "o", 12),
    "dense": ("dense baseline", "square", "s", 12),
}
# Differ also for people with red-green or blue-yellow blindness; page.css has the same, and others in dark mode.
FORMAT_COLOURS = {
    "tt": "#2c61fe",
    "cp": "#db7d24",
    "tucker": "#11a68b",
    "ht": "#c114aa",
    "tr": "#836826",
    "bt": "#285a6b",
    "low-rank": "#4f0485",
    "block-diagonal": "#7f2922",
    "dense": "#1c2128",
}
_FORMAT_TITLES = {"format": "input format", "recurrent_format": "recurrent format"}
_REPLICATION_COLUMNS = ("val_mean", "test_mean", "num_seeds")


class Mark(NamedTuple):
    """A marker of the plot of parameters against the metric."""

    role: str
    """one of ROLES"""
    trial: Mapping[str, Any]
    """a trial of pareto.json"""
    value: float
    """metric, 0 to 1: the mean of the replications if there are any, else that of the trial itself"""
    interval: Sequence[float] | None
    """[low, high] of 95% confidence"""


def labels(data: Mapping[str, Any]) -> dict[str, str]:
    """trial -> `best`, `knee`, `highest`, `baseline`, `not replicated`, or several of these, if it has a label."""
    found: dict[str, list[str]] = {}
    for label in ("best", "knee", "highest", "baseline"):
        if data.get(label) is not None and (label != "highest" or data["highest"] != data["best"]):
            found.setdefault(data[label], []).append(label)
    for point in data.get("not_replicated") or []:
        found.setdefault(point["trial"], []).append("not replicated")
    return {trial: ", ".join(names) for trial, names in found.items()}


def all_trials(data: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """name -> trial or baseline; points of the frontier and those that were not replicated with all their values."""
    found = {trial["trial"]: trial for trial in (*data["trials"], *(data.get("baselines") or []))}
    for point in [*data["frontier"], *(data.get("not_replicated") or [])]:
        found[point["trial"]] = {**found.get(point["trial"], {}), **point}
    return found


def marks(data: Mapping[str, Any]) -> list[Mark]:
    """The markers of the plot in drawing order; a trial of the frontier has up to three.

    Of the baselines, only the one that the frontier is held against and a dense one have a marker on test, lest they
    hide the others.
    """
    members = {role: {point["trial"] for point in data.get(role) or []} for role in ("frontier", "not_replicated")}
    found = []
    for name, trial in all_trials(data).items():
        if trial["num_params"] and trial["val_metric"] is not None:
            is_dense, is_baseline = trial["config"].get("input") == "dense", trial["state"] == "baseline"
            if is_baseline:
                roles = ["dense" if is_dense else "baseline"]
            elif trial["state"] != "complete":
                roles = ["stopped"]
            else:
                roles = [role for role, names in members.items() if name in names]
                roles = [*roles, "dense"] if is_dense else roles or ["dominated"]
            found += [_mark(role, trial, "val") for role in roles]
            test = mark_on_test(trial)
            if (
                test
                and not {"stopped", "dominated"} & set(roles)
                and ("baseline" not in roles or name == data["baseline"])
            ):
                found.append(test)
    order = list(ROLES)
    return sorted(found, key=lambda mark: (order.index(mark.role), mark.trial["num_params"]))


def mark_on_test(trial: Mapping[str, Any]) -> Mark | None:
    """The marker of a trial's test metric; None if it was not tested."""
    is_tested = trial["test_metric"] is not None or (trial.get("replication") or {}).get("test_mean") is not None
    return _mark("test", trial, "test") if is_tested else None


def formats(data: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """{title: {trial: tensor format}} of each matrix whose format differs between trials.

    Empty if there is only one format beside `dense`; baselines have none.
    """
    found = {trial["trial"]: matrix_formats(trial["config"]) for trial in data["trials"] if trial["config"]}
    if len({form for of_trial in found.values() for form in of_trial.values()} - {"dense"}) < 2:
        return {}
    by_title = {
        title: {name: of_trial[option] for name, of_trial in found.items()} for option, title in _FORMAT_TITLES.items()
    }
    return {title: of for title, of in by_title.items() if len(set(of.values())) > 1}


def baseline_line(data: Mapping[str, Any]) -> list[Mark]:
    """The markers of the baselines that no other one dominates, smallest first; of replicated ones if there are any."""
    drawn = [mark for mark in marks(data) if mark.trial["state"] == "baseline" and mark.role != "test"]
    drawn = [mark for mark in drawn if mark.trial.get("replication")] or drawn
    line: list[Mark] = []
    for mark in sorted(drawn, key=lambda mark: (mark.trial["num_params"], -mark.value)):
        if not line or mark.value > line[-1].value:
            line.append(mark)
    return line


def _mark(role: str, trial: Mapping[str, Any], split: str) -> Mark:
    replication = trial.get("replication") or {}
    value, interval = replication.get(f"{split}_mean"), replication.get(f"{split}_interval")
    if value is None:
        value, interval = trial[f"{split}_metric"], trial.get(f"{split}_interval")
    return Mark(role, trial, value, interval)


def kilobytes(trial: Mapping[str, Any]) -> str:
    """The size of the parameters in float32."""
    size = trial.get("num_params")
    return "-" if size is None else f"{4e-3 * size:,.1f}"


def milliseconds(data: Mapping[str, Any], trial: str, with_spread: bool = False) -> str:
    """The median time per frame, with the quartiles if `with_spread`; `-` for a trial that was not timed."""
    found = (data.get("latency") or {}).get("ms_per_frame", {}).get(trial)
    if found is None:
        return "-"
    low, median, high = (f"{value:.2g}" for value in found)
    return f"{median} ({low} to {high})" if with_spread else median


def refinements(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(parent, refined trial) pairs of which both are in the plot."""
    plotted = {mark.trial["trial"] for mark in marks(data)}
    pairs = [(trial.get("parent"), trial["trial"]) for trial in data["trials"]]
    return [(parent, name) for parent, name in pairs if parent in plotted and name in plotted]


def csv_tables(data: Mapping[str, Any]) -> dict[str, str]:
    """The contents of trials.csv and of pareto.csv, which has further columns for the replications, by file name.

    An empty cell is an unknown value or an option that the trial does not have; `none` is a value.
    """
    return {
        SweepDirectory.TRIALS_CSV: _csv([*data["trials"], *(data.get("baselines") or [])], data["columns"]),
        SweepDirectory.PARETO_CSV: _csv(data["frontier"], [*data["columns"], *_REPLICATION_COLUMNS]),
    }


def _csv(trials: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for trial in trials:
        replication = trial.get("replication") or {}
        cells = (replication.get("val_mean"), replication.get("test_mean"), len(replication.get("seeds", [])) or None)
        writer.writerow({**trial["config"], **trial, **dict(zip(_REPLICATION_COLUMNS, cells, strict=True))})
    return text.getvalue()

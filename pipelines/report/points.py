"""What of pareto.json is shown, and how a person reads it: the points in their roles, the words of a trial, the CSV.

Keys that an older pareto.json lacks count as not known.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["ROLES", "Point", "every_trial", "links", "marks", "points", "tables"]


# role: name in the legend, shape, matplotlib's marker, size in px. In the order they are drawn.
ROLES = {
    "stopped": ("not finished", "cross", "x", 7),
    "dominated": ("dominated", "dot", "o", 7),
    "not_replicated": ("not replicated", "triangle", "^", 11),
    "test": ("the same on test", "diamond", "D", 10),
    "frontier": ("frontier", "circle", "o", 12),
    "dense": ("dense baseline", "square", "s", 12),
}
_CONFIRMED_COLUMNS = ("val_mean", "test_mean", "num_seeds")


class Point(NamedTuple):
    """A mark in the picture."""

    role: str
    """one of ROLES"""
    trial: Mapping[str, Any]
    """as pareto.json has it"""
    value: float
    """height, 0 to 1: the mean of the confirming runs where there are any, else the trial's own metric"""
    interval: Sequence[float] | None
    """[low, high] of 95% confidence"""


def marks(data: Mapping[str, Any]) -> dict[str, str]:
    """What is special about which trial: name -> `best`, `knee`, `baseline`, `not_replicated`, or several of them."""
    found: dict[str, list[str]] = {}
    for mark in ("best", "knee", "baseline"):
        if data[mark] is not None:
            found.setdefault(data[mark], []).append(mark)
    for point in data.get("not_replicated") or []:
        found.setdefault(point["trial"], []).append("not_replicated")
    return {trial: ", ".join(names) for trial, names in found.items()}


def every_trial(data: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """name -> trial, with all that is known of those of the frontier and of the not_replicated ones."""
    found = {trial["trial"]: trial for trial in data["trials"]}
    for point in [*data["frontier"], *(data.get("not_replicated") or [])]:
        found[point["trial"]] = {**found.get(point["trial"], {}), **point}
    return found


def points(data: Mapping[str, Any]) -> list[Point]:
    """The marks of the picture in the order they are drawn; a trial of the frontier may have three."""
    apart = {role: {point["trial"] for point in data.get(role) or []} for role in ("frontier", "not_replicated")}
    found = []
    for name, trial in every_trial(data).items():
        if trial["num_params"] and trial["val_metric"] is not None:
            if trial["state"] != "complete":
                roles = ["stopped"]
            else:
                roles = [role for role, names in apart.items() if name in names]
                is_dense = trial["config"].get("input") == "dense"
                roles = [*roles, "dense"] if is_dense else roles or ["dominated"]
            found += [_point(role, trial, "val") for role in roles]
            is_tested = trial["test_metric"] is not None or (trial.get("replication") or {}).get("test_mean") is not None
            if is_tested and not {"stopped", "dominated"} & set(roles):
                found.append(_point("test", trial, "test"))
    order = list(ROLES)
    return sorted(found, key=lambda point: (order.index(point.role), point.trial["num_params"]))


def _point(role: str, trial: Mapping[str, Any], split: str) -> Point:
    confirmed = trial.get("replication") or {}
    value, interval = confirmed.get(f"{split}_mean"), confirmed.get(f"{split}_interval")
    if value is None:
        value, interval = trial[f"{split}_metric"], trial.get(f"{split}_interval")
    return Point(role, trial, value, interval)


def links(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(parent, refined trial) where both are shown."""
    shown = {point.trial["trial"] for point in points(data)}
    pairs = [(trial.get("parent"), trial["trial"]) for trial in data["trials"]]
    return [(parent, name) for parent, name in pairs if parent in shown and name in shown]


def tables(data: Mapping[str, Any]) -> dict[str, str]:
    """trials.csv and pareto.csv, the latter with what fresh seeds gave.

    An empty cell is not known, or not configured in this trial; `none` is a value.
    """
    return {
        "trials.csv": _table(data["trials"], data["columns"]),
        "pareto.csv": _table(data["frontier"], [*data["columns"], *_CONFIRMED_COLUMNS]),
    }


def _table(trials: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for trial in trials:
        confirmed = trial.get("replication") or {}
        cells = (confirmed.get("val_mean"), confirmed.get("test_mean"), len(confirmed.get("seeds", [])) or None)
        writer.writerow({**trial["config"], **trial, **dict(zip(_CONFIRMED_COLUMNS, cells, strict=True))})
    return text.getvalue()

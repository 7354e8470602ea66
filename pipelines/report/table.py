"""The frontier as a person at a terminal sees it: what pareto.json holds, as a table with a few lines below it."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipelines.core.text import percent
from pipelines.report.points import marks
from pipelines.tuning.formatting import texts

__all__ = ["frontier_table"]


_HEADS = {
    "trial": "trial",
    "cell": "cell",
    "modes": "modes",
    "ranks": "ranks",
    "recurrent_ranks": "recur.\nranks",
    "num_params": "params",
    "input_params": "input\nparams",
    "val_metric": "val",
    "test_metric": "test",
    "mark": "",
}


def frontier_table(result: Mapping[str, Any]) -> RenderableType:
    """The frontier as a table, what it has lost and the dense baseline below it, where the files lie, what is next.

    Args:
        result: What pareto.json holds, and "files".
    """
    title = f"{result['dataset']}: {result['metric'].replace('_', ' ')} against parameters"
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for name, head in _HEADS.items():
        # On a narrow terminal modes fold at their arrow, marks at their comma, and nothing else does.
        folds_to = {"modes": 12, "mark": 8}.get(name)
        table.add_column(
            head,
            justify="right" if name.endswith(("_params", "_metric")) else "left",
            no_wrap=folds_to is None,
            min_width=folds_to,
        )
    above = {point["trial"] for point in (*result["frontier"], *result["not_replicated"])}
    dense = [trial for trial in result["trials"] if trial["trial"] in {result["baseline"]} - above]
    special = marks(result)
    for trials in (result["frontier"], result["not_replicated"], dense):
        for trial in trials:
            shown = texts(trial) | {name: _metric(trial, name) for name in ("val_metric", "test_metric")}
            shown["mark"] = special.get(trial["trial"], "")
            table.add_row(*(Text(shown[name]) for name in _HEADS))
        table.add_section()
    return Group(table, Text("\n".join(["", *_about(result), "", *_where(result)])))


def _metric(trial: Mapping[str, Any], name: str) -> str:
    """The confirmed mean where there is one, else the single value; below it its 95% interval, if that is known."""
    split, confirmed = name.removesuffix("_metric"), trial["replication"]
    value, bounds = trial[name], trial[f"{split}_interval"]
    if confirmed is not None:
        value, bounds = confirmed[f"{split}_mean"], confirmed[f"{split}_interval"]
    if value is None or bounds is None:
        return percent(value)
    low, high = (f"{100 * bound:.0f}" for bound in bounds)
    return f"{percent(value)}\n{low}-{high}"


def _about(result: Mapping[str, Any]) -> list[str]:
    """What a reader must know of the figures above."""
    states = [trial["state"] for trial in result["trials"]]
    finished = f"{states.count('complete')} of {len(states)} trials finished"
    finished += f", {states.count('stopped')} stopped early" if "stopped" in states else ""
    confirmation, lines = result["replications"], []
    if confirmation is not None:
        counts = {len(point["replication"]["seeds"]) for point in result["frontier"]}
        number = " to ".join(map(str, sorted({min(counts), max(counts)})))
        lines.append(f"val and test: means of {number} trainings with fresh seeds, below them 95% intervals")
    elif any(point[f"{split}_interval"] for point in result["frontier"] for split in ("val", "test")):
        lines.append(
            "below val and test: 95% intervals of single trainings; the best of many is partly luck: sweep --resume "
            f"--confirm {result['options'].get('confirm') or 3} tells"
        )
    lines += [
        f"not_replicated: trial {point['trial']} had {percent(point['val_metric'])} in the sweep, "
        f"{percent(point['replication']['val_mean'])} on average when it was trained again"
        for point in result["not_replicated"]
        if point["replication"]
    ]
    lines += [
        f"not confirmed: trial {run['trial']} with seed {run['seed']}: {run['error']}"
        for run in (confirmation or {}).get("failed", [])
    ]
    return [
        f"{finished}, {result['epochs_trained']:,} epochs in all; {result['num_val_clips']} validation and "
        f"{result['num_test_clips']} test clips; chance {percent(result['chance'])}",
        *lines,
        *(f"on the edge of the space: {edge['text']}" for edge in result["edges"]),
    ]


def _where(result: Mapping[str, Any]) -> list[str]:
    return [
        *(f"{name:<12} {path}" for name, path in result["files"].items()),
        "",
        "next:",
        *(f"  {command}" for command in result["next"]),
    ]

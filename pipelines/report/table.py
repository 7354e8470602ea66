"""Format the frontier of a sweep for the terminal: a table, with notes and next steps below it."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipelines.core.text import percent
from pipelines.report.pareto_data import labels
from pipelines.tuning.formatting import texts

__all__ = ["frontier_table"]


_HEADERS = {
    "trial": "trial",
    "cell": "cell",
    "modes": "modes",
    "ranks": "ranks",
    "recurrent_ranks": "recur.\nranks",
    "num_params": "params",
    "input_params": "input\nparams",
    "val_metric": "val",
    "test_metric": "test",
    "label": "",
}
# On a narrow terminal only these columns are wrapped: modes at the arrow, labels between words.
_MIN_WIDTHS = {"modes": 12, "label": 10}


def frontier_table(result: Mapping[str, Any]) -> RenderableType:
    """The frontier, below it points that were not replicated, the baselines and chance; notes, files, next commands.

    Args:
        result: Contents of pareto.json, and "files".
    """
    title = f"{result['dataset']}: {result['metric'].replace('_', ' ')} against parameters"
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for name, header in _HEADERS.items():
        table.add_column(
            header,
            justify="right" if name.endswith(("_params", "_metric")) else "left",
            no_wrap=name not in _MIN_WIDTHS,
            min_width=_MIN_WIDTHS.get(name),
        )
    names = {point["trial"] for point in (*result["frontier"], *result["not_replicated"])}
    baselines = [trial for trial in result["trials"] if trial["trial"] in {result["baseline"]} - names]
    baselines = result.get("baselines") or baselines
    label = labels(result)
    for trials in (result["frontier"], result["not_replicated"], baselines):
        for trial in trials:
            cells = texts(trial) | {name: _metric(trial, name) for name in ("val_metric", "test_metric")}
            cells["label"] = label.get(trial["trial"], "")
            # The names of baselines are wrapped: modes need the room.
            cells["trial"] = "-\n".join(trial["trial"].rsplit("-", 1))
            table.add_row(*(Text(cells[name]) for name in _HEADERS))
        table.add_section()
    if result.get("baselines"):
        cells = {"trial": "chance", "val_metric": percent(result["chance"])}
        table.add_row(*(Text(cells.get(name, "")) for name in _HEADERS))
    headline = [Text(f"\n{found['sentence']}", style="bold")] if (found := result.get("verdict")) else []
    warning = ["", result["warning"]] if result.get("warning") else []
    notes = Text("\n".join(["", *_notes(result), "", *_next_steps(result), *warning]))
    return Group(table, *headline, notes)


def _metric(trial: Mapping[str, Any], name: str) -> str:
    """The mean of the replications if there are any, else the trial's own value; below it the 95% interval if known."""
    split, replication = name.removesuffix("_metric"), trial["replication"]
    value, bounds = trial[name], trial[f"{split}_interval"]
    if replication is not None:
        value, bounds = replication[f"{split}_mean"], replication[f"{split}_interval"]
    if value is None or bounds is None:
        return percent(value)
    low, high = (f"{100 * bound:.0f}" for bound in bounds)
    return f"{percent(value)}\n{low}-{high}"


def _notes(result: Mapping[str, Any]) -> list[str]:
    """How the values in the table were obtained, and what to know about them."""
    states = [trial["state"] for trial in result["trials"]]
    finished = f"{states.count('complete')} of {len(states)} trials finished"
    finished += f", {states.count('stopped')} stopped early" if "stopped" in states else ""
    replications, lines = result["replications"], []
    if replications is not None:
        counts = {len(point["replication"]["seeds"]) for point in result["frontier"]}
        number = " to ".join(map(str, sorted({min(counts), max(counts)})))
        lines.append(f"val and test: means of {number} trainings with new seeds, with 95% intervals below")
    elif any(point[f"{split}_interval"] for point in result["frontier"] for split in ("val", "test")):
        lines.append(
            "below val and test: 95% intervals of single trainings; the best of many trials is partly best by chance: "
            f"replicate with sweep --resume --confirm {result['options'].get('confirm') or 3}"
        )
    lines += [
        f"not replicated: trial {point['trial']} had {percent(point['val_metric'])} in the sweep, but "
        f"{percent(point['replication']['val_mean'])} on average with new seeds"
        for point in result["not_replicated"]
        if point["replication"]
    ]
    if left_out := (replications or {}).get("left_out"):
        lines.append(f"no time to replicate {', '.join(left_out)}: resume with --confirm, or a --time-budget")
    lines += [
        f"replication failed: trial {run['trial']} with seed {run['seed']}: {run['error']}"
        for run in (replications or {}).get("failed", [])
    ]
    return [
        f"{finished}, {result['epochs_trained']:,} epochs in all; {result['num_val_clips']} validation and "
        f"{result['num_test_clips']} test clips; chance {percent(result['chance'])}",
        *lines,
        *(f"at the edge of the search space: {edge['text']}" for edge in result["edges"]),
    ]


def _next_steps(result: Mapping[str, Any]) -> list[str]:
    return [
        *(f"{name:<12} {path}" for name, path in result["files"].items()),
        "",
        "next:",
        *(f"  {command}" for command in result["next"]),
    ]

"""The table of a reproduction: rows from runs, as CSV, Markdown, and in the terminal."""

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from pipelines import cli
from pipelines.runs import RESULT_COLUMNS
from ttrnn.files import atomic_write

__all__ = ["RUN_COLUMNS", "WATCHED", "plain_table", "rows", "terminal_table", "write_table"]

WATCHED = "watched on the test fold"
"""What is said of every row of the published protocol."""

RUN_COLUMNS = ("protocol", "model", "fold", "seed", *RESULT_COLUMNS)
"""Of runs.csv."""

_DONE = ("complete", "stopped")
_SHOWN = {
    "protocol": "protocol",
    "model": "model",
    "value": "measured",
    "published": "published",
    "chance": "chance",
    "num_clips": "clips tested",
    "input_params": "input params",
    "num_params": "all params",
    "compression": "compression",
    "epochs": "epochs",
    "epoch_s": "epoch",
    "train_s": "training",
    "peak_bytes": "memory",
    "note": "note",
}


def rows(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each protocol and model, over its folds and seeds.

    Args:
        runs: Of each run what RUN_COLUMNS names, `published` and `dense_params`; what it has not is None. Those that
            are to come have the state "waiting".

    Returns:
        protocol, model, metric, value (mean, 0 to 1), spread (standard deviation, of two runs or more), published,
        chance, num_runs (that have a value), num_planned, num_clips (tested, of all of them), input_params, num_params,
        compression (dense input-to-hidden parameters over those of the model), epochs, epoch_s, train_s (means of a
        run), peak_bytes (the highest), note. What no run says is None.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["protocol"], run["model"]), []).append(run)
    return [_row(group) for group in groups.values()]


def _row(group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, done = group[0], [run for run in group if run["state"] in _DONE]

    def mean(name: str) -> float | None:
        return statistics.fmean(run[name] for run in done) if done else None

    epochs, train_s = mean("epochs"), mean("train_s")
    peaks = [run["peak_bytes"] for run in done if run["peak_bytes"]]
    return {
        "protocol": first["protocol"],
        "model": first["model"],
        "metric": first["metric"],
        "value": mean("value"),
        "spread": statistics.stdev(run["value"] for run in done) if len(done) > 1 else None,
        "published": first["published"],
        "chance": mean("chance"),
        "num_runs": len(done),
        "num_planned": len(group),
        "num_clips": sum(run["num_clips"] for run in done),
        "input_params": first["input_params"],
        "num_params": first["num_params"],
        "compression": first["dense_params"] / first["input_params"],
        "epochs": epochs,
        "epoch_s": train_s / epochs if train_s is not None and epochs else None,
        "train_s": train_s,
        "peak_bytes": max(peaks) if peaks else None,
        "note": "; ".join(_notes(group)),
    }


def _notes(group: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = [WATCHED] if group[0]["protocol"] == "published" else []
    stopped = [run["epochs"] for run in group if run["state"] == "stopped"]
    if stopped:
        between = f"{min(stopped)} to {max(stopped)}" if min(stopped) != max(stopped) else f"{stopped[0]}"
        notes.append(f"{len(stopped)} of {len(group)} runs stopped after {between} epochs for lack of time")
    for state in ("waiting", "failed", "refused"):
        some = [run for run in group if run["state"] == state]
        if some:
            reason = f": {some[0]['error']}" if some[0].get("error") else ""
            notes.append(f"{len(some)} of {len(group)} runs {state}{reason}")
    return notes


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    spread = "" if row["spread"] is None else f" ± {100 * row['spread']:.1f}"
    texts = {
        "value": _percent(row["value"]) + spread,
        "published": _percent(row["published"]),
        "chance": _percent(row["chance"]),
        "compression": f"{row['compression']:,.0f}",
        "epochs": "-" if row["epochs"] is None else f"{row['epochs']:g}",
        "peak_bytes": "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:,.0f} MB",
        **{name: f"{row[name]:,}" for name in ("num_clips", "input_params", "num_params")},
        **{name: "-" if row[name] is None else cli.duration(row[name]) for name in ("epoch_s", "train_s")},
    }
    return {name: texts.get(name, str(row[name])) for name in _SHOWN}


def terminal_table(found: Sequence[Mapping[str, Any]], title: str) -> Table:
    """For a person at a terminal: the most of it, notes left to what comes below the table."""
    names = [name for name in _SHOWN if name not in ("num_clips", "compression", "train_s", "note")]
    return plain_table(
        [_SHOWN[name] for name in names], [[_texts(row)[name] for name in names] for row in found], title
    )


def plain_table(header: Sequence[str], lines: Sequence[Sequence[str]], title: str) -> Table:
    """A table whose cells are never cut or folded, however narrow the terminal; numbers to the right."""
    table = Table(box=box.SIMPLE, title=title, title_justify="left", pad_edge=False)
    for number, name in enumerate(header):
        width = max(len(name), *(len(line[number]) for line in lines))
        is_number = all(line[number][:1].isdigit() or line[number] == "-" for line in lines)
        table.add_column(name, no_wrap=True, min_width=width, justify="right" if is_number else "left")
    for line in lines:
        table.add_row(*line)
    return table


def write_table(
    out: Path, found: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]], title: str, remarks: Sequence[str]
) -> None:
    """Writes OUT/table.csv, table.md and runs.csv, each whole or not at all."""
    _write_csv(out / "table.csv", list(found[0]), found)
    _write_csv(out / "runs.csv", RUN_COLUMNS, runs)
    lines = [f"# {title}", "", *(f"- {remark}" for remark in remarks), ""]
    lines += [_markdown(_SHOWN.values()), _markdown(["---"] * len(_SHOWN))]
    lines += [_markdown(_texts(row).values()) for row in found]
    with atomic_write(out / "table.md") as file:
        file.write("\n".join(lines) + "\n")


def _markdown(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _write_csv(path: Path, columns: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    with atomic_write(path) as file:
        file.write(text.getvalue())

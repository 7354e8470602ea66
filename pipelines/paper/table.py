"""Compute the rows of the table from the runs, and write it as CSV, as Markdown and to the terminal."""

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.text import duration, percent
from pipelines.evaluation.bootstrap import interval
from pipelines.evaluation.evaluator import read_predictions
from pipelines.evaluation.metrics import METRICS
from pipelines.training.single_run import RESULT_COLUMNS
from ttrnn.files import atomic_write

__all__ = ["RUN_COLUMNS", "WATCHED", "plain_table", "rows", "terminal_table", "write_table"]


WATCHED = "validated on the test fold"
"""Note on each row of the published protocol."""
RUN_COLUMNS = ("protocol", "model", "fold", "seed", *RESULT_COLUMNS)
"""Columns of runs.csv."""
_DONE = ("complete", "stopped")
_HEADERS = {
    "protocol": "protocol",
    "model": "model",
    "value": "measured",
    "interval": "95% interval",
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
        runs: For each run, the values that RUN_COLUMNS names, `published` and `dense_params`; missing ones are None.
            Runs that are not trained yet have the state "waiting".

    Returns:
        protocol, model, metric, value (mean over runs, 0 to 1), spread (standard deviation over two or more runs), low
        and high (95% interval over all test clips, see bootstrap.interval), published, chance, num_runs (with a value),
        num_planned, num_clips (tested in all runs), input_params, num_params, compression (ratio of the dense
        input-to-hidden parameters to those of the model), epochs, epoch_s, train_s (means over runs), peak_bytes (the
        maximum), note. Values that no run has are None.
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
    low, high = _interval([Path(run["out"]) for run in done], first["metric"]) if done else (None, None)
    peaks = [run["peak_bytes"] for run in done if run["peak_bytes"]]
    return {
        "protocol": first["protocol"],
        "model": first["model"],
        "metric": first["metric"],
        "value": mean("value"),
        "spread": statistics.stdev(run["value"] for run in done) if len(done) > 1 else None,
        "low": low,
        "high": high,
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


def _interval(outs: Sequence[Path], metric: str) -> tuple[float, float]:
    """The 95% interval of the metric over the test clips of all runs, sampled by group if groups are known.

    Each run has its own columns of scores, in which the clips of other runs have the lowest score, because the scores
    of different models cannot be compared.
    """
    scores: list[list[float]] = []
    labels: list[tuple[int, ...]] = []
    units: list[str] = []
    for number, out in enumerate(outs):
        names, found = read_predictions(out / "test")
        before, after = ([-1.0] * (count * len(names)) for count in (number, len(outs) - number - 1))
        scores += [[*before, *row, *after] for row in found.scores.tolist()]
        labels += [tuple(number * len(names) + label for label in own) for own in found.labels]
        # The same clip in runs with different seeds is one unit.
        units += [group or f"clip {name}" for name, group in zip(found.clip_ids, found.groups, strict=True)]
    task = next(task for task, name in METRICS.items() if name == metric)
    bounds = interval(task, np.array(scores), labels, units)
    return bounds.low, bounds.high


def _notes(group: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = [WATCHED] if group[0]["protocol"] == "published" else []
    stopped = [run["epochs"] for run in group if run["state"] == "stopped"]
    if stopped:
        between = f"{min(stopped)} to {max(stopped)}" if min(stopped) != max(stopped) else f"{stopped[0]}"
        epochs = "epoch" if max(stopped) == 1 else "epochs"
        notes.append(f"{len(stopped)} of {len(group)} runs stopped after {between} {epochs} for lack of time")
    for state in ("waiting", "failed", "refused"):
        affected = [run for run in group if run["state"] == state]
        if affected:
            reason = f": {affected[0]['error']}" if affected[0].get("error") else ""
            notes.append(f"{len(affected)} of {len(group)} runs {state}{reason}")
    return notes


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    spread = "" if row["spread"] is None else f" ± {100 * row['spread']:.1f}"
    texts = {
        "value": percent(row["value"]) + spread,
        "published": percent(row["published"]),
        "interval": "-" if row["low"] is None else f"{percent(row['low'])} to {percent(row['high'])}",
        "chance": percent(row["chance"]),
        "compression": f"{row['compression']:,.0f}",
        "epochs": "-" if row["epochs"] is None else f"{row['epochs']:g}",
        "peak_bytes": "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:,.0f} MB",
        **{name: f"{row[name]:,}" for name in ("num_clips", "input_params", "num_params")},
        **{name: "-" if row[name] is None else duration(row[name]) for name in ("epoch_s", "train_s")},
    }
    return {name: texts[name] if name in texts else str(row[name]) for name in _HEADERS}


def terminal_table(table_rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """Formats the table for a terminal, without notes, which are printed below it."""
    names = [name for name in _HEADERS if name not in ("num_clips", "note")]
    lines = [[_texts(row)[name] for name in names] for row in table_rows]
    return plain_table([_HEADERS[name] for name in names], lines, title)


def plain_table(header: Sequence[str], lines: Sequence[Sequence[str]], title: str) -> str:
    """Formats columns of text, numbers right-aligned; never truncated or wrapped, unlike rich on a narrow terminal."""
    columns = list(zip(header, *lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numbers = [all(cell[:1].isdigit() or cell == "-" for cell in column[1:]) for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(cells, widths, numbers, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([title, "", line(header), "  ".join("-" * width for width in widths), *map(line, lines), ""])


def write_table(
    out: Path,
    table_rows: Sequence[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]],
    title: str,
    remarks: Sequence[str],
) -> None:
    """Writes OUT/table.csv, table.md and runs.csv, each whole or not at all."""
    _write_csv(out / "table.csv", list(table_rows[0]), table_rows)
    _write_csv(out / "runs.csv", RUN_COLUMNS, runs)
    lines = [f"# {title}", "", *(f"- {remark}" for remark in remarks), ""]
    lines += [_markdown(_HEADERS.values()), _markdown(["---"] * len(_HEADERS))]
    lines += [_markdown(_texts(row).values()) for row in table_rows]
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

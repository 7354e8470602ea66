"""Compute the table of a bake-off, compare each contender with the first one, and write CSV, Markdown and figure.

Legend: R resamples of the test clips.
"""

import csv
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.bakeoff.compare import Difference, differences
from pipelines.bakeoff.figure import draw
from pipelines.bakeoff.options import BakeoffOptions, Cell
from pipelines.core.text import duration
from pipelines.data.dataset import ShardDataset
from pipelines.evaluation.bootstrap import resample
from pipelines.evaluation.evaluator import read_predictions
from pipelines.training.run_directory import RunDirectory
from search_spaces.bakeoff import CONTENDERS
from ttrnn.files import atomic_write

__all__ = ["COLUMNS", "Row", "cells_of", "remarks", "rows", "write_files"]

COLUMNS = (
    "budget", "data", "contender", "num_params", "input_params", "hidden_modes", "ranks", "recurrent_ranks", "lr",
    "num_trials", "num_seeds", "val_mean", "test_mean", "tests", "clip_variance", "seed_variance", "difference",
    "difference_clip_variance", "chance", "num_val_clips", "num_test_clips", "epochs", "search_s", "train_s", "note",
)  # fmt: skip
"""Columns of bakeoff.csv, one row for each cell. Metrics are shares, from 0 to 1, and their means are those of all
seeds; variances are of the mean of one seed (seed_variance) or of the mean over the seeds (the others), 0 to 1."""

Row = dict[str, Any]


def rows(
    out: Path, results: Mapping[Cell, Mapping[str, Mapping[str, Any]]], data: Mapping[str, ShardDataset]
) -> list[Row]:
    """A row for each cell, see COLUMNS.

    Clips are resampled for all models of a data set alike, so that differences are paired; see bootstrap.resample.

    Args:
        out: The directory of the bake-off.
        results: For each cell, the results of its runs by name.
        data: The data sets by name.
    """
    found: list[Row] = []
    first: dict[tuple[int, str], tuple[float, np.ndarray]] = {}
    for cell, runs in results.items():
        seeds = {name: run for name, run in runs.items() if name.startswith("seed-") and run["state"] == "complete"}
        trials = [run for name, run in runs.items() if name.startswith("search-")]
        row: Row = {
            **dict.fromkeys(COLUMNS),
            "budget": cell.budget,
            "data": cell.data,
            "contender": str(cell.contender),
        }
        row |= {"num_trials": len(trials), "num_seeds": len(seeds), "note": _note(runs)}
        row["search_s"] = sum(run["train_s"] or 0.0 for run in trials)
        if seeds:
            directories = {name: cell.run(out, name) for name in seeds}
            means_R = np.mean([_resampled(run, data[cell.data].task) for run in directories.values()], axis=0)
            row |= _metrics(list(seeds.values()), next(iter(directories.values())), data[cell.data])
            row["clip_variance"] = float(means_R.var())
            if cell.contender == CONTENDERS[0]:
                first[cell.budget, cell.data] = row["test_mean"], means_R
            if (reference := first.get((cell.budget, cell.data))) is not None:
                row["difference"] = row["test_mean"] - reference[0]
                row["difference_clip_variance"] = float((means_R - reference[1]).var())
        found.append(row)
    return found


def _note(runs: Mapping[str, Mapping[str, Any]]) -> str:
    if not runs:
        return "no model is small enough"
    return "; ".join(f"{name}: {run['error']}" for name, run in runs.items() if run["state"] != "complete")


def _metrics(seeds: Sequence[Mapping[str, Any]], run: RunDirectory, data: ShardDataset) -> Row:
    options, tests = run.options(), [float(seed["value"]) for seed in seeds]
    config = run.summary()["config"]
    return {
        **{name: seeds[0][name] for name in ("num_params", "input_params", "chance", "epochs")},
        **{name: config[name] for name in ("hidden_modes", "ranks", "recurrent_ranks")},
        "lr": options["lr"],
        "val_mean": statistics.fmean(float(seed["val_metric"]) for seed in seeds),
        "test_mean": statistics.fmean(tests),
        "tests": ";".join(f"{value:.4f}" for value in tests),
        "seed_variance": statistics.variance(tests) if len(tests) > 1 else None,
        "num_val_clips": len(data.split("val")),
        "num_test_clips": seeds[0]["num_clips"],
        "train_s": statistics.fmean(float(seed["train_s"]) for seed in seeds),
    }


def _resampled(run: RunDirectory, task: str) -> np.ndarray:
    """[R]: the metric of resamples of the test clips."""
    _, found = read_predictions(run.evaluation("test"))
    return resample(task, found.scores, found.labels, found.groups).values


def remarks(table: Sequence[Row], options: BakeoffOptions) -> list[str]:
    """Sentences for below the table: verdicts by budget, the protocol, and what it cost."""
    found, compared = [], differences(table)
    for budget in dict.fromkeys(row["budget"] for row in table):
        own = {name: one for (size, name), one in compared.items() if size == budget}
        found.append(f"{budget:,} parameters: {_verdict(own)}")
    total_s = sum(row["search_s"] + (row["train_s"] or 0.0) * row["num_seeds"] for row in table)
    return [
        *found,
        f"{len(compared)} comparisons at 95%: about {0.05 * len(compared):.1f} would differ by chance alone",
        f"for each cell {options.num_trials} models were trained for a third of the steps, and the one with the "
        f"highest validation metric again for all {options.steps:,} steps with {options.seeds} new seeds, each "
        "tested once",
        "intervals are for new seeds, pooled over contenders, and for more test clips, resampled for both models alike",
        f"all trainings together took {duration(total_s)} on one core or GPU each",
    ]


def _verdict(compared: Mapping[str, Difference]) -> str:
    groups = {
        "better than": [name for name, one in compared.items() if one.low > 0],
        "worse than": [name for name, one in compared.items() if one.high < 0],
        "within noise of": [name for name, one in compared.items() if not one.is_significant],
    }
    parts = [f"{word} {CONTENDERS[0]}: {', '.join(names) or 'none'}" for word, names in groups.items()]
    return "; ".join(parts)


def cells_of(table: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and cells: for each budget and contender the metric of each data set, their mean and the difference."""
    names, compared = list(dict.fromkeys(row["data"] for row in table)), differences(table)
    body = []
    for budget, contender in dict.fromkeys((int(row["budget"]), row["contender"]) for row in table):
        own = {row["data"]: row for row in table if (int(row["budget"]), row["contender"]) == (budget, contender)}
        tested = {name: row for name, row in own.items() if row["test_mean"] not in (None, "")}
        if not tested and not any(row["note"] for row in own.values()):
            # Its seeds have not been trained yet.
            continue
        sizes = sorted(int(row["num_params"]) for row in tested.values())
        cells = [f"{budget:,}", contender, f"{sizes[0]:,} to {sizes[-1]:,}" if sizes else "-"]
        cells += [_metric(own[name]) if name in tested else "-" for name in names]
        one = compared.get((budget, contender))
        text = f"{100 * one.mean:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})" if one else "-"
        if one and len(one.by_data) < len(names):
            text += f" on {len(one.by_data)}"
        train_s = sum(float(row["train_s"]) for row in tested.values())
        body.append([*cells, text, duration(train_s) if tested else "-"])
    header = ["budget", "input+recurrent", "parameters", *names, f"mean difference to {CONTENDERS[0]}", "training"]
    return header, body


def _metric(row: Mapping[str, Any]) -> str:
    tests = [float(text) for text in row["tests"].split(";")]
    return f"{100 * float(row['test_mean']):.1f} ({100 * min(tests):.1f}-{100 * max(tests):.1f})"


def write_files(out: Path, table: Sequence[Row], notes: Iterable[str]) -> None:
    """Writes OUT/bakeoff.csv, bakeoff.md and bakeoff.png, each whole or not at all."""
    with atomic_write(out / "bakeoff.csv") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _rounded(value) for name, value in row.items()} for row in table)
    header, body = cells_of(table)
    lines = [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *body)]
    with atomic_write(out / "bakeoff.md") as file:
        file.write("\n".join(["# Tensor formats at equal size", "", *lines, "", *(f"- {note}" for note in notes), ""]))
    compared = differences(table)
    if compared:
        draw(out / "bakeoff.png", compared)


def _rounded(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value

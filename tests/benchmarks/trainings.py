"""Collect trainings with their learning curves from sweeps and runs into one CSV file, for tests.benchmarks.replay.

    python -m tests.benchmarks.trainings runs/sweep bench/ablation/runs/words --out tests/benchmarks/trainings.csv

A training that the file has already is not added again. Paths are left out: of the shards only the name is kept, of a
teacher and of initial weights whether there were any.
"""

import csv
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core import command
from pipelines.core.errors import UserError
from pipelines.core.options import positional
from pipelines.training.run_directory import ENDED, RunDirectory
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.tuning.trial import Trial, read_trial
from ttrnn.files import atomic_write

__all__ = ["collect", "read_trainings"]

log = logging.getLogger("tests.benchmarks.trainings")

_FIRST = (
    "data",
    "seed",
    "num_params",
    "multiply_adds",
    "num_val_clips",
    "epochs",
    "epochs_planned",
    "state",
    "teacher",
    "init",
    "train_s",
    "val_metric",
)
_LAST = "curve"
# Together they identify a training: two trainings never take the same number of milliseconds.
_IDENTITY = ("data", "seed", "num_params", "epochs", "train_s", "curve")
# Settings that are columns of their own, do not affect the result, or hold paths.
_NOT_SETTINGS = (*_FIRST, "shards", "num_workers")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingsOptions:
    """Add the ended trainings of sweeps and of runs, with their learning curves, to a CSV file."""

    places: tuple[str, ...] = positional()
    """sweeps, runs of train, and directories of runs"""
    out: str = "tests/benchmarks/trainings.csv"
    """CSV file to add them to"""


def collect(options: TrainingsOptions) -> dict[str, Any]:
    """Adds the trainings of all places to the file."""
    path = Path(options.out)
    rows = {_identity(row): row for row in (read_trainings(path) if path.exists() else [])}
    before = len(rows)
    for place in options.places:
        found = list(_rows(Path(place)))
        log.info("%s: %d trainings", place, len(found))
        # A row that was written by an earlier version is replaced: it may lack settings.
        rows |= {_identity(row): row for row in found}
    _write(path, rows.values())
    return {"out": options.out, "num_trainings": len(rows), "num_added": len(rows) - before}


def _rows(place: Path) -> Iterator[dict[str, str]]:
    """The trainings of a sweep, its trials and their replications, or of a directory of runs."""
    for run, trial, data in _runs(place):
        # A training that has not ended would be another one later.
        if trial.state in ENDED and trial.curve:
            yield _row(run, trial, data)


def _runs(place: Path) -> Iterator[tuple[RunDirectory, Trial, str | None]]:
    """Each run, what is known about it, and the name of its data set if the sweep has one."""
    sweep = SweepDirectory(place)
    if sweep.exists():
        data = sweep.read().get("dataset")
        for trial in sweep.trials():
            yield sweep.run(trial.trial), trial, data
            for seed in sweep.replication_results(trial.trial):
                run = sweep.replication(trial.trial, seed)
                yield run, read_trial(run), data
        return
    runs = [RunDirectory(path) for path in (place, *sorted(place.glob("*"))) if RunDirectory(path).config_path.exists()]
    if not runs:
        raise UserError(f"{place} is neither a sweep nor a run of train, and has no runs in it")
    for run in runs:
        yield run, read_trial(run), None


def _row(run: RunDirectory, trial: Trial, data: str | None) -> dict[str, str]:
    options = run.options()
    settings = {**options, **trial.config}
    values = {
        "data": data or Path(options["shards"]).name,
        "seed": options["seed"],
        "num_params": trial.num_params,
        "multiply_adds": trial.multiply_adds,
        "num_val_clips": run.summary().get("num_val_clips"),
        "epochs": len(trial.curve),
        "epochs_planned": options["epochs"],
        "state": trial.state,
        "teacher": options.get("teacher") not in (None, "none"),
        "init": options["init"] is not None,
        "train_s": None if trial.train_s is None else f"{trial.train_s:.3f}",
        "val_metric": None if trial.val_metric is None else f"{trial.val_metric:.4f}",
        **{name: settings[name] for name in settings if name not in _NOT_SETTINGS},
        _LAST: ";".join(f"{value:.4f}" for _, value in trial.curve),
    }
    return {name: "none" if value is None else str(value) for name, value in values.items()}


def _identity(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in _IDENTITY)


def read_trainings(path: Path) -> list[dict[str, str]]:
    """Reads the file: a dict for each training, without the settings that its version did not have.

    Raises:
        UserError: there is no such file.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; write it with python -m tests.benchmarks.trainings")
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: text for name, text in row.items() if text != ""} for row in csv.DictReader(file)]


def _write(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Writes the file, in an order that does not depend on that of the rows."""
    rows = sorted(rows, key=_identity)
    settings = sorted({name for row in rows for name in row} - {*_FIRST, _LAST})
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, [*_FIRST, *settings, _LAST], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return command.run(
        TrainingsOptions,
        collect,
        lambda result: f"{result['out']}: {result['num_trainings']} trainings, {result['num_added']} of them new",
        argv,
    )


if __name__ == "__main__":
    from tests.benchmarks.trainings import main as importable_main

    sys.exit(importable_main())

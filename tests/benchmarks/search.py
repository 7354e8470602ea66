"""Compare searches by the hypervolume of their frontiers at equal numbers of trained epochs.

    python -m tests.benchmarks.search shards/words shards/letters
    python -m tests.benchmarks.search shards/words --contenders optuna,ours --seeds 1

Every contender explores the space `small` from the same hand-made models, with the same number of epochs. Finished
sweeps are not run again.
"""

import csv
import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from pipelines.core import command
from pipelines.core.options import positional
from pipelines.evaluation.plots import plain_axes
from pipelines.tuning.frontier import hypervolume
from pipelines.tuning.importance import read_study
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.tuning.trial import Trial, read_trial
from search_spaces import Answers, First, small
from ttrnn.files import atomic_write

log = logging.getLogger("tests.benchmarks.search")

CONTENDERS: dict[str, dict[str, Any]] = {
    "random": {"sampler": "random", "early_stopping": "none"},
    "optuna": {"sampler": "default", "early_stopping": "none"},
    "asha": {"sampler": "tpe", "early_stopping": "asha"},
    "ours": {"sampler": "tpe", "early_stopping": "frontier", "refine": True},
}
NAMES = {
    "random": "random search",
    "optuna": "Optuna's default, nothing stopped",
    "asha": "TPE and ASHA",
    "ours": "ttrnn: early stopping for a frontier, and --refine",
}
space = small.space


def first(frame: Sequence[int], answers: Answers) -> First:
    """The hand-made models of the space, without its questions about the data."""
    return small.first(frame, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchBenchmarkOptions:
    """Compare searches by the hypervolume of their frontiers at equal numbers of trained epochs; write search.csv."""

    shards: tuple[str, ...] = positional()
    """directories of shards, written by preprocess"""
    contenders: str = ",".join(CONTENDERS)
    """names of the searches, separated by commas"""
    seeds: int = 3
    """number of seeds, from 0"""
    num_trials: int = 24
    """number of trials whose full number of epochs is the budget"""
    epochs: int = 16
    """of a trial"""
    first: int = 8
    """number of trials of ours before its first refinement"""
    out: str = "bench/search"
    """directory of the sweeps, of search.csv and of the figure"""


@dataclass(frozen=True, slots=True)
class Trace:
    """The hypervolume of a sweep after each trial, by number of epochs."""

    epochs: list[int]
    hypervolumes: list[float]

    def at(self, epochs: float) -> float:
        """The hypervolume after a number of trained epochs."""
        reached = [value for done, value in zip(self.epochs, self.hypervolumes, strict=True) if done <= epochs]
        return reached[-1] if reached else 0.0

    def epochs_to(self, hypervolume: float) -> float:
        """The number of epochs after which a hypervolume was reached; infinite if never."""
        pairs = zip(self.epochs, self.hypervolumes, strict=True)
        return next((done for done, value in pairs if value >= hypervolume), float("inf"))


def benchmark(options: SearchBenchmarkOptions) -> dict[str, Any]:
    """Runs the missing sweeps, seed by seed, and writes search.csv and the figure after each."""
    out, traces = Path(options.out), {}
    for seed in range(options.seeds):
        for shards in options.shards:
            for name in options.contenders.split(","):
                traces[Path(shards).name, name, seed] = _run(options, shards, name, seed)
                log.info("%s, %s, seed %d: %.4f", shards, name, seed, traces[Path(shards).name, name, seed].at(1e9))
                rows = _rows(options, traces)
                with atomic_write(out / "search.csv") as file:
                    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(rows)
                _figure(out / "search.png", options, traces)
    return {"out": str(out), "table": table(rows)}


def _run(options: SearchBenchmarkOptions, shards: str, name: str, seed: int) -> Trace:
    """A sweep, extended until the budget of epochs is spent."""
    out = Path(options.out) / Path(shards).name / f"{name}-{seed}"
    budget = options.num_trials * options.epochs
    done = out / "trained.json"
    num_trials = options.first if name == "ours" else options.num_trials
    while not done.exists():
        _sweep(options, shards, out, num_trials, seed, CONTENDERS[name])
        trained = trace(out).epochs[-1]
        log.info("%s, seed %d: %d trials, %d of %d epochs", name, seed, num_trials, trained, budget)
        if trained >= budget:
            with atomic_write(done) as file:
                json.dump({"epochs": trained, "num_trials": num_trials}, file)
        num_trials += options.first
    return trace(out)


def _sweep(
    options: SearchBenchmarkOptions, shards: str, out: Path, num_trials: int, seed: int, chosen: Mapping[str, Any]
) -> None:
    values = {
        "data": shards,
        "out": str(out),
        "space": "tests.benchmarks.search:space",
        "num_trials": num_trials,
        "baselines": "none",
        "epochs": options.epochs,
        "seed": seed,
        "resume": True,
        **chosen,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    config = out.with_suffix(".json")
    with atomic_write(config) as file:
        json.dump(values, file)
    words = [sys.executable, "-m", "pipelines.sweep", "--config", str(config), "--json"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def trace(sweep_dir: Path) -> Trace:
    """Trials in the order of their ends; epochs of trials that are running at that time are not counted."""
    study = read_study(SweepDirectory(sweep_dir).journal)
    ended = [name for name, trial in study.items() if trial.datetime_complete and "rejected" not in trial.user_attrs]
    ended.sort(key=lambda name: study[name].datetime_complete)
    epochs, hypervolumes, places = [0], [0.0], []
    for name in ended:
        trial = read_trial(SweepDirectory(sweep_dir).run(name))
        epochs.append(epochs[-1] + (trial.epochs or 0))
        places += _place(trial)
        hypervolumes.append(hypervolume(places))
    return Trace(epochs, hypervolumes)


def _place(trial: Trial) -> list[tuple[float, float]]:
    return [trial.coordinates] if trial.is_finished else []


def _rows(options: SearchBenchmarkOptions, traces: Mapping[tuple[str, str, int], Trace]) -> list[dict[str, Any]]:
    """Of each sweep: hypervolume at a third of the budget and at its end, and when the mean of Optuna was reached."""
    budget = options.num_trials * options.epochs
    rows = []
    for (data, name, seed), own in traces.items():
        of_optuna = [one.at(budget) for (d, n, _), one in traces.items() if (d, n) == (data, "optuna")]
        needed = own.epochs_to(mean(of_optuna)) if of_optuna else float("inf")
        rows.append(
            {
                "data": data,
                "search": NAMES[name],
                "seed": seed,
                "epochs": budget,
                "at a third": f"{own.at(budget // 3):.6f}",
                "at the end": f"{own.at(budget):.6f}",
                "to Optuna's end": "never" if needed == float("inf") else f"{needed:.0f}",
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: mean (lowest to highest) over the seeds; rows are those of the CSV."""
    columns = ("at a third", "at the end")
    head = ["data", "search", "epochs", *columns, "epochs to Optuna's end, by seed"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for data, name in dict.fromkeys((row["data"], row["search"]) for row in rows):
        own = [row for row in rows if (row["data"], row["search"]) == (data, name)]
        spreads = [_spread([float(row[column]) for row in own]) for column in columns]
        needed = ", ".join(row["to Optuna's end"] for row in own)
        lines.append(f"| {' | '.join([data, name, str(own[0]['epochs']), *spreads, needed])} |")
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _figure(path: Path, options: SearchBenchmarkOptions, traces: Mapping[tuple[str, str, int], Trace]) -> None:
    """Hypervolume against epochs: mean and range over the seeds."""
    names = list(dict.fromkeys(data for data, _, _ in traces))
    figure = Figure(figsize=(6 * len(names), 4.5), dpi=120, layout="constrained")
    all_axes = figure.subplots(1, len(names), squeeze=False)[0]
    budget = options.num_trials * options.epochs
    grid = list(range(0, budget + 1, 4))
    for axes, data in zip(all_axes, names, strict=True):
        for name in options.contenders.split(","):
            own = [found for (d, n, _), found in traces.items() if (d, n) == (data, name)]
            if not own:
                continue
            values = [[one.at(epochs) for one in own] for epochs in grid]
            (line,) = axes.step(grid, [mean(at) for at in values], where="post", label=NAMES[name])
            low, high = [min(at) for at in values], [max(at) for at in values]
            axes.fill_between(grid, low, high, step="post", alpha=0.15, color=line.get_color())
        axes.set(title=data, xlabel="epochs trained, all trials", ylabel="hypervolume")
        plain_axes(axes)
    all_axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return command.run(SearchBenchmarkOptions, benchmark, lambda result: result["table"], argv)


if __name__ == "__main__":
    from tests.benchmarks.search import main as importable_main

    sys.exit(importable_main())

"""Measure the overhead of a sweep: time beyond the training of its trials, and memory of the command.

    python -m tests.benchmarks.overhead SHARDS --num-trials 200 --epochs 6

All trials have the same small model; the overhead is the time beyond the sum of their training times.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from pipelines.core import command
from pipelines.core.options import positional
from pipelines.tuning.importance import read_study
from pipelines.tuning.sweep_directory import SweepDirectory


def space(trial: optuna.Trial) -> dict[str, Any]:
    """One small model; trials differ in the learning rate only."""
    return {"hidden_modes": "2x2x2x2", "ranks": "2", "lr": trial.suggest_float("lr", 1e-3, 1e-2, log=True)}


@dataclass(frozen=True, kw_only=True, slots=True)
class OverheadOptions:
    """Compare the time of a sweep with that of its trials, and measure the memory of the command."""

    shards: str = positional()
    """directory of shards, written by preprocess"""
    num_trials: int = 200
    """of the sweep"""
    epochs: int = 6
    """of a trial"""
    slots: int = 2
    """number of trials at a time: processors of this machine"""


def overhead(options: OverheadOptions) -> dict[str, Any]:
    """Runs the command and measures it."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "sweep"
        numbers = ["--num-trials", str(options.num_trials), "--epochs", str(options.epochs), "--baselines", "none"]
        words = ["--data", options.shards, "--out", str(out), "--space", "tests.benchmarks.overhead:space"]
        words += ["--early-stopping", "none", *numbers]
        start = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "pipelines.sweep", *words], stdout=subprocess.DEVNULL)
        resident = []
        while process.poll() is None:
            time.sleep(2)
            resident.append((len(list(out.glob("trials/*/summary.json"))), _resident_bytes(process.pid)))
        wall_s = time.monotonic() - start
        if process.returncode:
            raise SystemExit(process.returncode)
        trials = read_study(SweepDirectory(out).journal).values()
        spans = [(trial.datetime_start, trial.datetime_complete) for trial in trials]
        # From the start of the first trial to the end of the last: without the start of Ray and the report.
        trials_s = (max(end for _, end in spans) - min(begin for begin, _ in spans)).total_seconds()
        train_s = sum(trial.train_s or 0.0 for trial in SweepDirectory(out).trials())
    ideal_s = train_s / options.slots
    marks = [at * options.num_trials // 4 for at in (1, 2, 3, 4)]
    memory = {f"{mark} trials": max((size for done, size in resident if done <= mark), default=0) for mark in marks}
    return {
        "wall_s": round(wall_s, 1),
        "trials_s": round(trials_s, 1),
        "train_s / slots": round(ideal_s, 1),
        "ratio": round(trials_s / ideal_s, 3),
        "ratio of the whole command": round(wall_s / ideal_s, 3),
        "overhead per trial, s": round((trials_s - ideal_s) * options.slots / options.num_trials, 3),
        "most resident MB up to": {name: round(size / 1e6) for name, size in memory.items()},
    }


def _resident_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


def main(argv: list[str] | None = None) -> int:
    """The command; see the docstring of this module."""
    return command.run(OverheadOptions, overhead, lambda result: json.dumps(result, indent=1), argv)


if __name__ == "__main__":
    from tests.benchmarks.overhead import main as importable_main

    sys.exit(importable_main())

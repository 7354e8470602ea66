"""Kill processes of sweeps at random times, and check that --resume completes the sweeps.

    python -m tests.benchmarks.kills
    python -m tests.benchmarks.kills --num-kills 30 --seed 1

Each round starts a sweep, kills the driver, a trial, an agent of Ray or its raylet by SIGKILL at a random moment, and
resumes it until it is complete. Then it must have all its trials, each of them once, none of them running, and no
half-written file.
"""

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core import command
from pipelines.tuning.importance import read_study
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.tuning.trial import read_trial
from tests.shards import make_shards

log = logging.getLogger("tests.benchmarks.kills")

VICTIMS = {"driver": "", "trial": "ray::ImplicitFunc", "agent": "ray::RuntimeEnvAgent", "raylet": "/raylet "}


@dataclass(frozen=True, kw_only=True, slots=True)
class KillsOptions:
    """Kill sweeps at random times and resume them; print a table, and fail if a sweep is incomplete afterwards."""

    num_kills: int = 10
    """number of rounds, with one kill each"""
    num_trials: int = 8
    """of each sweep"""
    epochs: int = 60
    """of each trial"""
    longest: float = 20.0
    """latest time of the kill after the start of the first trial, s"""
    seed: int = 0
    """seed of the times and the killed processes"""


def kills(options: KillsOptions) -> dict[str, Any]:
    """A row for each round."""
    chance, rows = random.Random(options.seed), []
    with tempfile.TemporaryDirectory() as directory:
        shards = make_shards(Path(directory) / "shards")
        for number in range(options.num_kills):
            victim, delay_s = chance.choice(list(VICTIMS)), chance.uniform(0, options.longest)
            rows.append(_round(options, shards, Path(directory) / f"sweep-{number}", victim, delay_s))
            log.info("%d of %d: %s", number + 1, options.num_kills, rows[-1])
    return {"rows": rows, "exit_code": 0 if all(row["whole"] for row in rows) else 1}


def _round(options: KillsOptions, shards: Path, out: Path, victim: str, delay_s: float) -> dict[str, Any]:
    process = subprocess.Popen(_command(options, shards, out), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(out.glob("trials/*/metrics.jsonl")):
        time.sleep(0.1)
    time.sleep(delay_s)
    killed = 0 if process.poll() is not None else _kill(process.pid, victim)
    _, stderr = process.communicate(timeout=300)
    first, num_resumes = process.returncode, 0
    done = first == 0
    while not done and num_resumes < 5:
        num_resumes += 1
        again = subprocess.run(_command(options, shards, out), stderr=subprocess.PIPE, text=True, timeout=300)
        done, stderr = again.returncode == 0, again.stderr
    if not done:
        log.error("%s", stderr)
    problems = _problems(options, out) if done else ["not done"]
    row = {"victim": victim, "after_s": round(delay_s, 1), "killed": killed, "exit": first, "resumes": num_resumes}
    shutil.rmtree(out, ignore_errors=True)
    return {**row, "problems": problems, "whole": not problems}


def _command(options: KillsOptions, shards: Path, out: Path) -> list[str]:
    numbers = ["--num-trials", str(options.num_trials), "--epochs", str(options.epochs)]
    words = ["--data", str(shards), "--out", str(out), "--space", "ranks", "--refine", "--resume", *numbers]
    return [sys.executable, "-m", "pipelines.sweep", *words]


def _kill(driver: int, victim: str) -> int:
    """Kills one process of this driver whose command line contains a text; returns the number of such processes."""
    if victim == "driver":
        os.kill(driver, signal.SIGKILL)
        return 1
    found = [pid for pid in _descendants(driver) if VICTIMS[victim] in _command_line(pid)]
    for pid in found[:1]:
        os.kill(pid, signal.SIGKILL)
    return len(found)


def _descendants(pid: int) -> list[int]:
    lines = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.splitlines()
    parents = {int(child): int(parent) for child, parent in (line.split() for line in lines)}
    found, last = [pid], 0
    while len(found) > last:
        known, last = set(found), len(found)
        found += [child for child, parent in parents.items() if parent in known and child not in known]
    return found[1:]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _problems(options: KillsOptions, out: Path) -> list[str]:
    """Checks a sweep that is complete."""
    problems, ended, seen = [], 0, set()
    for name, trial in read_study(SweepDirectory(out).journal).items():
        if not trial.state.is_finished():
            problems.append(f"trial {name} is {trial.state.name}")
        attrs = trial.user_attrs
        if "values" not in attrs or "rejected" in attrs or trial.state.name == "FAIL":
            continue
        ended += "parent" not in attrs
        key = json.dumps(attrs["values"], sort_keys=True)
        problems += [f"trial {name} exists twice"] if key in seen else []
        seen.add(key)
        found = read_trial(SweepDirectory(out).run(name))
        if found.state not in ("complete", "stopped", "failed"):
            problems.append(f"trial {name} has state {found.state}")
    if ended != options.num_trials:
        problems.append(f"{ended} trials, not {options.num_trials}")
    problems += [f"left over: {path.name}" for path in out.rglob("*.tmp")]
    return problems


def summary(result: dict[str, Any]) -> str:
    """A line for each round."""
    return "\n".join(json.dumps(row) for row in result["rows"])


def main(argv: list[str] | None = None) -> int:
    """The command; see the docstring of this module."""
    return command.run(KillsOptions, kills, summary, argv)


if __name__ == "__main__":
    from tests.benchmarks.kills import main as importable_main

    sys.exit(importable_main())

"""Measure trials per hour on one node and on two, of one processor each, and the duration of ray up, submit and down.

    python -m tests.benchmarks.cluster --num-trials 24 --epochs 8

Requires root and two idle processors: the nodes are those of tests/two_nodes.py. The same sweep runs alternately on the
head alone and on both nodes. Trials per hour are those of the search, from the start of its first trial to the end of
the last.
"""

import json
import logging
import re
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipelines.core import command
from pipelines.core.errors import UserError
from pipelines.tuning.importance import read_study
from pipelines.tuning.sweep_directory import SweepDirectory
from tests import two_nodes
from tests.machines import ADDRESSES, HOME, Machine
from tests.two_nodes import TwoNodes

log = logging.getLogger("tests.benchmarks.cluster")

YAML = f"{HOME}/cluster.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterOptions:
    """Measure trials per hour on one node and on two."""

    num_trials: int = 24
    """trials of each sweep"""
    epochs: int = 8
    """epochs of each trial"""
    rounds: int = 1
    """number of sweeps on one node, and on two"""


def measure(options: ClusterOptions) -> dict[str, Any]:
    """Runs the sweeps and measures trials per hour."""
    if reason := two_nodes.missing():
        raise UserError(f"nodes cannot be started on this machine: {reason}")
    rates: dict[int, list[float]] = {1: [], 2: []}
    times: dict[str, list[float]] = {}
    for round_ in range(options.rounds):
        for num_nodes in (1, 2) if round_ % 2 == 0 else (2, 1):
            with two_nodes.two_nodes(("laptop", "head", "worker")[: num_nodes + 1]) as nodes:
                rates[num_nodes].append(_rate(nodes, num_nodes, options, times))
            log.info("%d nodes: %.0f trials/h", num_nodes, rates[num_nodes][-1])
    medians = {num_nodes: statistics.median(values) for num_nodes, values in rates.items()}
    return {
        "trials_per_hour": medians,
        "speedup": round(medians[2] / medians[1], 2),
        "seconds": {name: [round(value, 1) for value in values] for name, values in times.items()},
    }


def _rate(nodes: TwoNodes, num_nodes: int, options: ClusterOptions, times: dict[str, list[float]]) -> float:
    laptop, head = nodes["laptop"], nodes["head"]
    if num_nodes == 1:
        text = laptop.path(YAML).read_text().replace(f"worker_ips: [{ADDRESSES['worker']}]", "worker_ips: []")
        laptop.write(YAML, text)

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        times.setdefault(f"{name}, {num_nodes} nodes", []).append(time.monotonic() - start)
        log.info("%d nodes: %s took %.1f s", num_nodes, name, times[f"{name}, {num_nodes} nodes"][-1])

    with timed("ray up"):
        laptop.run("ray", "up", "--yes", YAML)
    with timed("until all nodes have joined"):
        while f" {num_nodes} local.cluster.node" not in head.login("ray status").stdout:
            time.sleep(0.5)
    # Makes the shards, so that the sweep below consists of trials only.
    with timed("ray submit, demo, 2 trials"):
        _submit(laptop, "--num-trials", "2", "--epochs", "1", "--out", "runs/demo")
    # Dense baselines take longer than all other trials, at random times.
    fixed = ("--sampler", "random", "--early-stopping", "none", "--max-params", "100000", "--data", "runs/demo/shards")
    sizes = ("--num-trials", str(options.num_trials), "--epochs", str(options.epochs))
    with timed(f"ray submit, {options.num_trials} trials"):
        _submit(laptop, *fixed, *sizes, "--out", "runs/sweep")
    with timed("ray rsync-down"):
        laptop.run("ray", "rsync-down", YAML, "~/runs/sweep/", f"{HOME}/sweep/")
    with timed("ray down"):
        laptop.run("ray", "down", "--yes", YAML)
    trials = [
        trial
        for trial in read_study(SweepDirectory(head.path("~/runs/sweep")).journal).values()
        if trial.datetime_complete
    ]
    seconds = max(t.datetime_complete for t in trials) - min(t.datetime_start for t in trials)
    return 3600 * len(trials) / seconds.total_seconds()


def _submit(laptop: Machine, *options: str) -> None:
    result = laptop.run("ray", "submit", YAML, "pipelines/sweep.py", "--", *options)
    for line in re.findall(r"^(?:search|\d+ of \d+ trials).*$", result.stdout + result.stderr, re.MULTILINE)[-1:]:
        log.info("%s", line.strip())


def main(argv: list[str] | None = None) -> int:
    """The command; see the docstring of this module."""
    return command.run(ClusterOptions, measure, lambda result: json.dumps(result, indent=1), argv)


if __name__ == "__main__":
    from tests.benchmarks.cluster import main as importable_main

    sys.exit(importable_main())

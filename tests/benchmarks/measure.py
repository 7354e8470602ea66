"""Measure times of interleaved contenders, with medians and spread, and peak memory in a separate process.

python -m tests.benchmarks.measure NAME CELL PRECISION BATCH TIME      prints the peak of a training step, in bytes
"""

import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from tests.benchmarks import peers
from tests.benchmarks.peers import Problem

__all__ = ["Row", "interleaved", "peak_bytes", "row", "status_bytes", "training_step"]

Key = TypeVar("Key", bound=Hashable)
# A contender is stopped at this share of the machine's memory, so that the machine does not run out of it.
_MEMORY_SHARE = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A measurement, as a row of the CSV."""

    section: str
    name: str
    shape: str
    precision: str
    median: float
    low: float
    high: float
    unit: str


def row(section: str, name: str, shape: str, precision: str, values: list[float], unit: str) -> Row:
    """A row with median, minimum and maximum over the rounds."""
    return Row(
        section=section,
        name=name,
        shape=shape,
        precision=precision,
        median=statistics.median(values),
        low=min(values),
        high=max(values),
        unit=unit,
    )


def interleaved(work: Mapping[Key, Callable[[], object]], rounds: int, least_s: float = 0.02) -> dict[Key, list[float]]:
    """Seconds per call. Every contender runs once per round, so that all are disturbed alike by other processes.

    Two calls are a warm-up; a call of less than `least_s` seconds is repeated within its round for that time.
    """
    repeats = {}
    for key, call in work.items():
        call()
        repeats[key] = max(1, math.ceil(least_s / _seconds(call, 1)))
    times: dict[Key, list[float]] = {key: [] for key in work}
    for _ in range(rounds):
        for key, call in work.items():
            times[key].append(_seconds(call, repeats[key]))
    return times


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def training_step(network: nn.Module, frames: Tensor) -> Callable[[], None]:
    """Forward pass, loss on the last state, backward pass, and AdamW (torch's fused one for all contenders)."""
    # With this learning rate, the weights are practically constant over all rounds.
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        loss = network(frames).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def peak_bytes(name: str, problem: Problem, precision: str) -> int | None:
    """Peak memory of a training step beyond the imported libraries: frames, weights, optimizer, activations.

    None if the step runs out of memory, or without /proc.
    """
    arguments = (name, problem.cell, precision, str(problem.batch), str(problem.time))
    done = subprocess.run([sys.executable, "-m", __name__, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else None


def status_bytes(field: str) -> int:
    """A line of /proc/self/status: VmRSS, VmHWM, RssAnon, RssFile."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def _peak_of_two_steps(name: str, cell: str, precision: str, batch: str, time_: str) -> int:
    total = 1024 * int(Path("/proc/meminfo").read_text().split()[1])
    resource.setrlimit(resource.RLIMIT_DATA, (int(_MEMORY_SHARE * total),) * 2)
    # Memory of imports and first calls does not count.
    small = Problem(cell=cell, batch=1, time=1)
    training_step(peers.build(name, small, precision), small.frames())()
    before = status_bytes("VmRSS")
    problem = Problem(cell=cell, batch=int(batch), time=int(time_))
    step = training_step(peers.build(name, problem, precision), problem.frames())
    # The optimizer creates its state in the first step.
    step()
    step()
    return status_bytes("VmHWM") - before


if __name__ == "__main__":
    sys.stdout.write(f"{_peak_of_two_steps(*sys.argv[1:])}\n")

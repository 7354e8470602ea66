"""Measure training steps on a CUDA device: frames/s and peak memory, as CSV on standard output.

python -m tests.benchmarks.gpu      about four minutes; see gpu.sh
"""

import csv
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from tests.benchmarks import peers
from tests.benchmarks.measure import training_step
from tests.benchmarks.peers import DENSE, OURS, PAPER, Problem

__all__ = ["main"]

_CONTENDERS = (OURS, DENSE, "tensorly-torch + opt_einsum")
_PRECISIONS = ("float32", "bfloat16")
_ROUNDS, _SECONDS = 5, 1.0


def main() -> None:
    """Contenders in turn, once a round; medians and extremes of the rounds."""
    out = csv.writer(sys.stdout)
    out.writerow(["shape", "cell", "name", "precision", "frames_per_s", "lowest", "highest", "peak_bytes"])
    absent = peers.missing()
    for shape, in_modes in PAPER.items():
        for cell in ("gru", "lstm"):
            problem = Problem(cell=cell, in_modes=in_modes, batch=16, time=64)
            names = [(name, precision) for name in _CONTENDERS if name not in absent for precision in _PRECISIONS]
            steps = {key: _step(*key, problem) for key in names}
            rates: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
            for _ in range(_ROUNDS):
                for key, (step, _) in steps.items():
                    rates[key].append(problem.num_frames * _per_second(step))
            for (name, precision), values in rates.items():
                summary = [round(part(values)) for part in (statistics.median, min, max)]
                out.writerow([shape, cell, name, precision, *summary, steps[name, precision][1]])
            sys.stdout.flush()


def _step(name: str, precision: str, problem: Problem) -> tuple[Callable[[], None], int]:
    """A training step, and the most bytes that it needs."""
    network: nn.Module = peers.build(name, problem).cuda()
    frames = problem.frames().cuda()

    def run() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
            step()

    step = training_step(network, frames)
    run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return run, torch.cuda.max_memory_allocated()


def _per_second(step: Callable[[], None]) -> float:
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < _SECONDS / _ROUNDS:
        step()
        torch.cuda.synchronize()
        count += 1
    return count / passed


if __name__ == "__main__":
    main()

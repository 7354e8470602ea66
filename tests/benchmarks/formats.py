"""Time a training step in each tensor format, and of the tensor train against an earlier checkout of the library.

    python -m tests.benchmarks.formats                        # each format against the tensor train, at equal ranks
    python -m tests.benchmarks.formats --before ../earlier    # the tensor train, both checkouts in turn

Both sides run in processes of their own with one thread, wait for each other and alternate step by step. The result is
the ratio of the medians, with the quartiles of the ratios of neighbouring steps.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Frames of the paper, and small grey ones, where what is done once per step weighs most.
_MODELS: dict[str, dict[str, Any]] = {
    "160x120": {"width": 160, "height": 120, "in_modes": "8x20x20x18", "recurrent_ranks": "4"},
    "64x32 grey": {"width": 64, "height": 32, "channels": 1, "in_modes": "4x8x8x8", "recurrent_ranks": "4"},
}
_CLIPS, _FRAMES = 8, 24


def main() -> None:
    """Prints one line for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout of the library")
    parser.add_argument("--steps", type=int, default=60, help="steps of each side (default 60)")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        _serve(json.loads(options.serve))
        return
    here = Path.cwd()
    for name, model in _MODELS.items():
        formats = ("cp", "tucker", "ht", "tr", "bt", "low-rank")
        pairs = {f"{form} / tt": ((here, {**model, "format": form, "recurrent_format": form}), (here, model))
                 for form in formats}  # fmt: skip
        if options.before is not None:
            pairs = {"this checkout / the earlier one": ((here, model), (options.before, model))}
        for what, sides in pairs.items():
            _write(f"{name}: {what} {_compare(sides, options.steps)}")


def _write(line: object) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _compare(sides: Sequence[tuple[Path, dict[str, Any]]], num_steps: int) -> str:
    with _worker(*sides[0]) as first, _worker(*sides[1]) as second:
        # The first of a pair may be slower: the order alternates.
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(num_steps + 5):
            for side in (0, 1) if number % 2 else (1, 0):
                taken = _step((first, second)[side])
                if number >= 5:
                    times[side].append(taken)
    low, _, high = statistics.quantiles([a / b for a, b in zip(*times, strict=True)], n=4)
    one, other = map(statistics.median, times)
    return f"{one / other:.3f} ({low:.3f} to {high:.3f}); {1e3 * one:.1f} and {1e3 * other:.1f} ms a step"


@contextmanager
def _worker(checkout: Path, model: dict[str, Any]) -> Iterator["subprocess.Popen[str]"]:
    environment = {**os.environ, "PYTHONPATH": str(checkout.absolute()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).absolute()), "--serve", json.dumps(model)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment, cwd=checkout) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def _step(process: "subprocess.Popen[str]") -> float:
    """Seconds of the next step."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def _serve(model: dict[str, Any]) -> None:
    """Takes a training step for each line on standard input, and answers with its seconds."""
    import torch

    from ttrnn import ModelConfig, VideoClassifier

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = VideoClassifier(ModelConfig(classes=tuple("abcdefghij"), **model))
    config, labels = network.config, torch.arange(_CLIPS)
    shape = (_CLIPS, _FRAMES, config.height, config.width, config.channels)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8)
    for _ in sys.stdin:
        start = time.perf_counter()
        network.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(network(clips), labels).backward()
        _write(time.perf_counter() - start)


if __name__ == "__main__":
    main()

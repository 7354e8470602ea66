"""Measure the CPU seconds from the start of a command to its end, beside those of `import torch`.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.startup          a minute

The paper's UCF11 model with a TT recurrent matrix, and a clip of the demo. All commands run once per round, in turn;
CPU seconds of the process and its children, lowest, median and highest. Writes docs/results/startup.csv.
"""

import csv
import dataclasses
import os
import statistics
import sys
import tempfile
from datetime import date
from pathlib import Path

import torch

import ttrnn
from tests.benchmarks.ship import PAPER
from tests.videos import moving_square, write_video

__all__ = ["COMMANDS"]

_REPO = Path(__file__).parents[2]
_ROUNDS = 3
COMMANDS = {
    "import torch": ("-c", "import torch"),
    "predict model clip.avi": ("-m", "pipelines", "predict", "model", "clip.avi"),
    "predict model/clip.onnx clip.avi": ("-m", "pipelines", "predict", "model/clip.onnx", "clip.avi"),
    "predict --help": ("-m", "pipelines", "predict", "--help"),
    "evaluate --help": ("-m", "pipelines", "evaluate", "--help"),
    "train --help": ("-m", "pipelines", "train", "--help"),
    "sweep --help": ("-m", "pipelines", "sweep", "--help"),
    "--help": ("-m", "pipelines", "--help"),
}


def _cpu_s(words: tuple[str, ...]) -> float:
    """CPU seconds of a Python process and of those that it starts."""
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    environment = {**os.environ, "PYTHONPATH": str(_REPO)}
    pid = os.posix_spawn(sys.executable, [sys.executable, *words], environment, file_actions=silent)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(words)} ends with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    """Measures and writes the CSV; returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = ttrnn.VideoClassifier(dataclasses.replace(PAPER, recurrent_ranks="4")).eval()
        ttrnn.save(model, Path(folder) / "model")
        ttrnn.export_onnx_clip(model, Path(folder) / "model" / "clip.onnx")
        write_video(Path(folder) / "clip.avi", moving_square())
        os.chdir(folder)
        rounds = [{name: _cpu_s(words) for name, words in COMMANDS.items()} for _ in range(_ROUNDS)]
        os.chdir(_REPO)
    with (_REPO / "docs" / "results" / "startup.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["command line", "lowest, CPU s", "median", "highest", "date", "command"])
        for name in COMMANDS:
            seconds = [taken[name] for taken in rounds]
            figures = [f"{value:.2f}" for value in (min(seconds), statistics.median(seconds), max(seconds))]
            about = [date.today().isoformat(), "OMP_NUM_THREADS=1 python -m tests.benchmarks.startup"]
            writer.writerow([name, *figures, *about])
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Measure the forms of exported models: accuracy on the test split, memory, size and time a frame.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.forms runs/sweep [--sweeps MORE,..] [--runs RUN,..] [--rounds 20]

Of each sweep it takes the one-directional models with the highest validation metric near each of --sizes parameters;
beside them the models of --runs, and the paper's TT-GRU for frames of 160x120x3 with a TT recurrent matrix, untrained,
for its size and time. Forms: the model in PyTorch; C in float32 and in int8, calibrated on the train split; ONNX, the
step; JavaScript (its times: tests/benchmarks/js.py). Times are the fastest of the rounds, on one
core; without --rounds none are taken.
"""

import csv
import dataclasses
import logging
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.core import command
from pipelines.core.options import positional
from pipelines.data.folds import Folding, folds_of, open_folds
from pipelines.data.shard_reader import Split
from pipelines.evaluation.classifier import open_classifier
from pipelines.evaluation.metrics import task_metric
from pipelines.evaluation.model_files import model_results
from pipelines.evaluation.run_clips import clips_of_run
from pipelines.evaluation.torch_classifier import load_model
from pipelines.tuning.sweep_directory import SweepDirectory
from tests.benchmarks.measure import interleaved
from tests.benchmarks.ship import PAPER
from ttrnn.export import export_onnx_step
from ttrnn.integer import IntegerModel
from ttrnn.model import VideoClassifier
from ttrnn.portable.c_export import compiled, outputs
from ttrnn.portable.c_tables import Weights, state_bytes
from ttrnn.portable.js import javascript
from ttrnn.portable.rounding import integer_model
from ttrnn.portable.weights import ModelWeights

__all__ = ["FormsOptions", "forms"]

log = logging.getLogger("tests.benchmarks")

_NUM_CALIBRATION = 64
_CLIPS_AT_ONCE = 16
_NEAR = (0.6, 1.35)


@dataclass(frozen=True, kw_only=True, slots=True)
class FormsOptions:
    """Accuracy, memory, size and time of the forms of exported models."""

    sweep: str = positional()
    """directory of a sweep, whose shards are still there"""
    sweeps: str = ""
    """further sweeps, separated by commas"""
    runs: str = ""
    """further runs of train, separated by commas"""
    sizes: str = "1000,3000,10000"
    """numbers of parameters near which a model is taken, separated by commas"""
    rounds: int = 0
    """rounds of timing; 0 for none"""
    out: str = "docs/results/forms.csv"
    """CSV to write"""


def forms(options: FormsOptions) -> dict[str, Any]:
    """Writes the CSV and returns its rows."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for trial, path in _models(options):
        model, results = load_model(path).cpu(), model_results(path)
        split = open_folds(results["shards"], Folding(**folds_of(results))).split("test")
        found = _measured(model, split, clips_of_run(results, "train", _NUM_CALIBRATION), options.rounds)
        rows += [{"data": Path(results["shards"]).name, "trial": trial, **row} for row in found]
        log.info("%s: %d parameters", path, model.num_params)
    paper = VideoClassifier(dataclasses.replace(PAPER, recurrent_ranks="4")).eval()
    noise = [np.random.default_rng(0).integers(0, 256, (8, 120, 160, 3), dtype=np.uint8)]
    rows += [{"data": "noise", "trial": "paper", **row} for row in _measured(paper, None, noise, options.rounds)]
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    with open(options.out, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return {"out": options.out, "rows": rows}


def _models(options: FormsOptions) -> Iterator[tuple[str, Path]]:
    """Name and directory of each model."""
    sizes = [int(size) for size in options.sizes.split(",")]
    for sweep in [options.sweep, *filter(None, options.sweeps.split(","))]:
        yield from _chosen(SweepDirectory(sweep), sizes)
    for run in filter(None, options.runs.split(",")):
        yield Path(run).name, Path(run)


def _chosen(sweep: SweepDirectory, sizes: Sequence[int]) -> Iterator[tuple[str, Path]]:
    trials = [trial for trial in sweep.trials() if trial.state == "complete" and not trial.config["bidirectional"]]
    for size in sizes:
        near = [trial for trial in trials if _NEAR[0] * size <= trial.num_params <= _NEAR[1] * size]
        if near:
            best = max(near, key=lambda trial: trial.val_metric)
            yield best.trial, Path(str(sweep.run(best.trial).model))


def _measured(
    model: VideoClassifier, split: Split | None, calibration: list[np.ndarray], rounds: int
) -> Iterator[dict[str, Any]]:
    """A row for each form."""
    clips = calibration[:8]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        onnx_file = folder / "step.onnx"
        export_onnx_step(model, onnx_file)
        stream, step = model.stream(), open_classifier(onnx_file).stream()
        frame = clips[0][0]
        times = (
            interleaved({"pytorch": lambda: stream.push(frame), "onnx": lambda: step(frame)}, rounds) if rounds else {}
        )
        exact = _torch_metric(model, split)
        yield _row(model, "pytorch", exact, exact, split, us=times.get("pytorch"))
        # The ONNX file was compared with the model when it was written; its accuracy is not measured again.
        onnx_bytes = onnx_file.stat().st_size
        yield _row(model, "onnx step", None, None, None, us=times.get("onnx"), num_bytes=onnx_bytes)
        yield _row(model, "javascript", None, None, None, num_bytes=len(javascript(model, "float32", None).encode()))
        for weights in (ModelWeights.of(model), integer_model(model, calibration)):
            program = compiled(weights, folder)
            name = "c int8" if isinstance(weights, IntegerModel) else "c float32"
            row = _row(model, name, _c_metric(program, weights, split), exact, split)
            row |= {"ram_bytes": state_bytes(weights), "file_bytes": _flash(folder)}
            yield row | ({"us_a_frame": _c_us(folder, clips, rounds)} if rounds else {})


def _row(
    model: VideoClassifier,
    form: str,
    metric: float | None,
    exact: float | None,
    split: Split | None,
    *,
    us: Sequence[float] | None = None,
    num_bytes: int | str = "",
) -> dict[str, Any]:
    has_metric = metric is not None and exact is not None
    return {
        "frame": f"{model.config.width}x{model.config.height}x{model.config.channels}",
        "num_params": model.num_params,
        "form": form,
        "ram_bytes": "",
        "file_bytes": num_bytes,
        "us_a_frame": "" if us is None else round(1e6 * min(us), 1),
        "test_metric": round(metric, 4) if has_metric else "",
        "points_lost": round(100 * (exact - metric), 2) if has_metric else "",
        "num_test_clips": len(split) if split is not None else "",
    }


def _torch_metric(model: VideoClassifier, split: Split | None) -> float | None:
    if split is None:
        return None
    scores = np.stack([model.predict(np.array(clip.frames)).numpy() for clip in split])
    return task_metric(model.config.task, scores, split.labels)


def _c_metric(program: Path, weights: Weights, split: Split | None) -> float | None:
    if split is None:
        return None
    scores: list[np.ndarray] = []
    for start in range(0, len(split), _CLIPS_AT_ONCE):
        clips = [np.array(split[number].frames) for number in range(start, min(start + _CLIPS_AT_ONCE, len(split)))]
        scores += [found[-1].astype(np.float32) for _, found in outputs(program, weights, clips)]
    return task_metric(weights.config.task, np.stack(scores), split.labels)


def _flash(folder: Path) -> int:
    """Bytes of code and constants: for a Cortex-M4 if its compiler is there, else for this machine."""
    arm = shutil.which("arm-none-eabi-gcc") is not None
    prefix, flags = ("arm-none-eabi-", ["-mcpu=cortex-m4", "-mthumb"]) if arm else ("", [])
    subprocess.run([f"{prefix}gcc", *flags, "-std=c99", "-Os", "-c", "model.c"], cwd=folder, check=True)
    size = subprocess.run([f"{prefix}size", "model.o"], cwd=folder, check=True, capture_output=True, text=True).stdout
    return int(size.splitlines()[1].split()[0])


def _c_us(folder: Path, clips: Sequence[np.ndarray], rounds: int) -> float:
    """The fastest of `rounds` passes over the frames, and three times that, by the median."""
    source = Path(__file__).with_suffix(".c")
    flags = ["-std=c99", "-O3", f"-DROUNDS={rounds}", f"-I{folder}"]
    subprocess.run(["cc", *flags, "-o", "time", source, "model.c", "-lm"], cwd=folder, check=True)
    frames = b"".join(clip.tobytes() for clip in clips)
    runs = [subprocess.run([folder / "time"], input=frames, capture_output=True, check=True) for _ in range(3)]
    return round(statistics.median(float(run.stdout) for run in runs), 1)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row for each model, as Markdown."""
    models: dict[tuple[str, str, str], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        models.setdefault((row["data"], row["frame"], str(row["num_params"])), {})[row["form"]] = row
    lines = [
        "| data, frame | parameters | int8: RAM, flash | float32: RAM, flash | us a frame: int8, float32, ONNX | test "
        "accuracy: float32, int8 | test clips |",
        "|---" * 7 + "|",
    ]
    for (data, frame, params), forms in models.items():
        ints, floats = forms["c int8"], forms["c float32"]
        sizes = [f"{int(row['ram_bytes']):,}, {int(row['file_bytes']):,}" for row in (ints, floats)]
        times = ", ".join(str(row["us_a_frame"] or "-") for row in (ints, floats, forms["onnx step"]))
        accuracy, clips = "not trained", ""
        if ints["test_metric"] != "":
            accuracy = ", ".join(f"{100 * float(row['test_metric']):.1f}%" for row in (floats, ints))
            clips = ints["num_test_clips"]
        lines.append(f"| {data}, {frame} | {int(params):,} | {' | '.join(sizes)} | {times} | {accuracy} | {clips} |")
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> str:
    """The table of the rows."""
    return table(result["rows"])


if __name__ == "__main__":
    sys.exit(command.run(FormsOptions, forms, summary))

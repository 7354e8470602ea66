"""Measure exported models on one core: time per frame of a stream and of clips, size and memory of each form.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.ship                     a few minutes
    OMP_NUM_THREADS=1 python -m tests.benchmarks.ship --alone --out docs/results/ship.csv

The paper's UCF11 GRU: 160x120x3, 8x20x20x18 -> 4x4x4x4, ranks 4; with a TT recurrent matrix; and the dense baseline.
Every contender runs once per round, on a few frames or one clip; with --alone, one contender after the other. Fastest
round, median and slowest are measured; on a machine with other load, the fastest is the most reliable. Peak memory is
that of a separate process, less the frames and the memory of the runtime with a model of 4x4 pixels.
"""

import csv
import dataclasses
import importlib
import logging
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

import ttrnn
from pipelines.core import command
from tests.benchmarks.measure import interleaved, status_bytes
from ttrnn.export import export_onnx_clip, export_onnx_step
from ttrnn.files import atomic_write
from ttrnn.model import ModelConfig, VideoClassifier
from ttrnn.program import export_program

__all__ = ["ShipOptions", "ship"]

log = logging.getLogger("tests.benchmarks")

PAPER = ModelConfig(width=160, height=120, classes=tuple(f"class {n}" for n in range(11)), in_modes="8x20x20x18",
                    hidden_modes="4x4x4x4", ranks="4", mean=(90.0, 100.0, 110.0))  # fmt: skip
MODELS = {
    "tt-gru": PAPER,
    "tt-gru, recurrent tt": dataclasses.replace(PAPER, recurrent_ranks="4"),
    "dense gru": dataclasses.replace(PAPER, input="dense", hidden_modes="256"),
}
WEIGHTS = "model/model.safetensors"
FILES = {"onnx step": "step.onnx", "onnx clip": "clip.onnx", "program step": "step.pt2", "torch stream": WEIGHTS,
         "torch clip": WEIGHTS}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class ShipOptions:
    """Time per frame, size and peak memory of each form of the paper's UCF11 GRU, on one core."""

    rounds: int = 40
    """number of rounds, in each of which every contender runs once"""
    num_frames: int = 100
    """number of frames of the clip"""
    alone: bool = False
    """run all rounds of a contender before the next one, so that its weights stay in the cache"""
    out: str = "bench/ship.csv"
    """the file to write"""


def open_form(form: str, folder: Path, frames_THWC: torch.Tensor) -> tuple[Callable[[], object], int]:
    """A function that classifies the next frame of a stream or a clip, and its number of frames."""
    frame, num_frames = frames_THWC[:1], len(frames_THWC)
    if form == "torch clip":
        model = ttrnn.load(folder / "model")
        return lambda: model.predict(frames_THWC), num_frames
    if form == "torch stream":
        stream = ttrnn.load(folder / "model").stream()
        return lambda: stream.push(frame[0]), 1
    if form == "program step":
        module = torch.export.load(folder / "step.pt2").module()
        state: list[Any] = [torch.zeros(1, 1, 256)]

        @torch.inference_mode()
        def step() -> None:
            _, _, *state[:] = module(frame, *state)

        return step, 1
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / FILES[form], options, providers=["CPUExecutionProvider"])
    if form == "onnx step":
        feeds = {"frame": frame.numpy(), "h_0": torch.zeros(1, 1, 256).numpy()}

        def turn() -> None:
            feeds["h_0"] = session.run(["scores", "h_n"], feeds)[1]

        return turn, 1
    clip = {
        "frames": frames_THWC.unsqueeze(0).numpy(),
        "lengths": torch.tensor([num_frames], dtype=torch.int32).numpy(),
    }
    return lambda: session.run(["scores"], clip), num_frames


def _frames(num_frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_frames, 120, 160, 3), dtype=torch.uint8, generator=generator)


def _peak_mb(form: str, folder: Path, num_frames: int) -> float:
    """Peak memory of a separate process for the form, beyond frames and runtime, MB."""
    command = [sys.executable, "-m", "tests.benchmarks.ship", "--measure", form, str(folder), str(num_frames)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def _measure_peak(form: str, folder: str, num_frames: str) -> None:
    frames = _frames(int(num_frames))
    torch.set_num_threads(1)
    open_form(form, Path(folder).parent / "small", torch.zeros(2, 4, 4, 1, dtype=torch.uint8))[0]()
    # Resets the peak.
    Path("/proc/self/clear_refs").write_text("5")
    before = status_bytes("VmRSS")
    call, _ = open_form(form, Path(folder), frames)
    for _ in range(3):
        call()
    sys.stdout.write(f"{(status_bytes('VmHWM') - before) / 1e6:.1f}\n")


def _write(config: ModelConfig, parent: str, name: str) -> Path:
    """Writes a directory with all forms of a model."""
    torch.manual_seed(0)
    model, folder = VideoClassifier(config).eval(), Path(parent) / name
    ttrnn.save(model, folder / "model")
    export_onnx_step(model, folder / "step.onnx")
    export_onnx_clip(model, folder / "clip.onnx")
    export_program(model, folder / "step.pt2")
    return folder


def ship(options: ShipOptions) -> dict[str, Any]:
    """Returns a row for each model and form."""
    torch.set_num_threads(1)
    rows, frames = [], _frames(options.num_frames)
    with tempfile.TemporaryDirectory() as temporary:
        _write(
            dataclasses.replace(PAPER, width=4, height=4, channels=1, in_modes="2x2x2x2", mean=(0.0,)),
            temporary,
            "small",
        )
        work, num_frames = {}, {}
        for name, config in MODELS.items():
            folder = _write(config, temporary, name)
            for form in FILES:
                work[name, form], num_frames[name, form] = open_form(form, folder, frames)
        groups = [{key: call} for key, call in work.items()] if options.alone else [work]
        times = {k: v for group in groups for k, v in interleaved(group, options.rounds, least_s=0.005).items()}
        for (name, form), seconds in times.items():
            folder, each = Path(temporary) / name, [1e6 * value / num_frames[name, form] for value in seconds]
            rows.append({
                "model": name, "form": form, "num_params": MODELS[name].num_params,
                "us_a_frame": min(each), "median_us": statistics.median(each), "slowest_us": max(each),
                "num_bytes": (folder / FILES[form]).stat().st_size,
                "peak_mb": _peak_mb(form, folder, options.num_frames)})  # fmt: skip
            log.info("%s, %s: %.0f us", name, form, rows[-1]["us_a_frame"])
    _write_csv(Path(options.out), rows, options)
    return {"rows": rows, "out": options.out}


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]], options: ShipOptions) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, [*rows[0], "date", "command"], lineterminator="\n")
        writer.writeheader()
        command_line = "OMP_NUM_THREADS=1 python -m tests.benchmarks.ship" + " --alone" * options.alone
        writer.writerows({**row, "date": date.today().isoformat(), "command": command_line} for row in rows)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; rows are those of the CSV."""
    lines = ["| model | form | us a frame: fastest (median) | file, kB |", "|---|---|---|---|"]
    for row in rows:
        times = f"{float(row['us_a_frame']):,.0f}" + (f" ({float(row['median_us']):,.0f})" if row["median_us"] else "")
        lines.append(f"| {row['model']} | {row['form']} | {times} | {float(row['num_bytes']) / 1000:,.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        _measure_peak(*sys.argv[2:])
    else:
        sys.exit(command.run(ShipOptions, ship, lambda result: table(result["rows"])))

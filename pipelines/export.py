"""(5) Pick a model from the frontier of a sweep, or the one of a run, and write a model directory.

python -m pipelines.export runs/sweep model --select knee
python -m pipelines.export runs/sweep model --select smallest --max-params 20000
python -m pipelines.export runs/sweep model --select trial:0007
python -m pipelines.export runs/gru model --onnx --program
python -m pipelines.export runs/gru model --dtype int8
python -m pipelines.export s3://bucket/sweep model
"""

import dataclasses
import logging
import shlex
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

import ttrnn.checkpoint
from pipelines.core import command
from pipelines.core.errors import UserError, user_errors
from pipelines.core.options import positional
from pipelines.core.text import percent, python
from pipelines.data.shards import DATASET_JSON
from pipelines.evaluation.classifier import load_model
from pipelines.evaluation.evaluator import evaluate_model
from pipelines.report.frontier_files import known_tests
from pipelines.storage.bucket import reading_copy
from pipelines.storage.location import Location
from pipelines.training.run_directory import RunDirectory
from pipelines.tuning.replication import draw_frontier
from pipelines.tuning.selection import between_neighbours, choose
from pipelines.tuning.sweep_directory import SweepDirectory
from ttrnn.checkpoint import read_config
from ttrnn.files import atomic_directory
from ttrnn.program import export_program
from ttrnn.quantise import DTYPES, rounded

__all__ = ["ExportOptions", "export"]


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """Write a model directory: weights, configuration and a model card; all that predict needs."""

    source: str = positional()
    """directory or URI of a sweep or of a run"""
    out: str = positional()
    """model directory to write"""
    select: str = "best"
    """of a sweep: best (validation metric), knee, smallest (within --tolerance of the best), or trial:ID; by confirmed
    values where there are such"""
    tolerance: float | None = None
    """with --select smallest: how far below the best's metric it may lie, 0 to 1; default: one standard error"""
    max_params: int | None = None
    """of a sweep: only models with at most this many parameters, classifier included; not with trial:ID"""
    onnx: bool = False
    """also write step.onnx (one frame and the state in, scores and the state out; not of bidirectional models) and
    clip.onnx (clips of any length in, scores out); needs pip install ttrnn[onnx]"""
    program: bool = False
    """also write step.pt2, the step as a torch.export program; only for who trusts you: loading one may run code"""
    dtype: str = "float32"
    """of the weights on disk: float32, bfloat16 or int8; what rounding costs is measured on the validation split"""
    overwrite: bool = False
    """replace OUT"""

    def __post_init__(self) -> None:
        if self.max_params is not None and self.select.startswith("trial:"):
            raise ValueError(f"select {self.select} names one model; leave max_params out")
        if self.select not in ("best", "knee", "smallest") and not self.select.startswith("trial:"):
            raise ValueError(f"select must be best, knee, smallest or trial:ID, got {self.select!r}")
        if self.tolerance is not None and (self.select != "smallest" or not 0 <= self.tolerance < 1):
            raise ValueError(
                f"tolerance belongs to --select smallest and lies between 0 and 1, got {self.tolerance:g} with "
                f"--select {self.select}"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")


def export(options: ExportOptions) -> dict[str, Any]:
    """The command as a function. Returns what was chosen and where it lies."""
    with reading_copy(Location.of(options.source)) as source:
        return _export(options, source, Location.of(options.out).local)


def _export(options: ExportOptions, source: Path, out: Path) -> dict[str, Any]:
    if out.exists() and not options.overwrite:
        raise UserError(f"{out} exists; --overwrite replaces it")
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]) and not (out / "model.safetensors").exists():
        raise UserError(f"{out} is no model directory and is not replaced; give another OUT")
    chosen: dict[str, Any] = {}
    neighbours: list[dict[str, Any]] = []
    tested: dict[tuple[str, str], dict[str, Any]] = {}
    directory, run = SweepDirectory(source), RunDirectory(source)
    if directory.exists():
        sweep, drawn = directory.read(), draw_frontier(directory, directory.finished_trials())
        trial = choose(
            drawn.points, drawn.trials, options.select, sweep["num_val_clips"], options.max_params, options.tolerance
        )
        neighbours = between_neighbours(drawn.points, trial)
        model_directory = directory.run(trial.trial).model
        chosen = {"trial": trial.trial, "select": options.select}
        if trial.replication is not None:
            chosen["replication"] = dataclasses.asdict(trial.replication)
        tested = known_tests(directory.pareto_json)
    elif run.model.exists():
        model_directory = run.model
    else:
        raise UserError(
            f"{options.source} is neither a sweep nor a run with a model; give the OUT directory of sweep or train"
        )
    model = load_model(model_directory).cpu()
    config = read_config(model_directory)
    found = tested.get((chosen.get("trial", ""), config["sha256"]["model.safetensors"]), {})
    chosen |= {name: found[name] for name in ("test_metric", "test_interval") if name in found}
    results = {**config["results"], **chosen}
    if options.dtype != "float32":
        results |= _loss(model_directory, rounded(model, options.dtype), results)
    with atomic_directory(out) as temporary:
        ttrnn.checkpoint.write(model, temporary, results, options.dtype)
        if options.dtype != "float32":
            # What the other forms hold is what the directory holds.
            model = rounded(model, options.dtype)
        if options.onnx:
            _write_onnx(model, temporary)
        if options.program:
            with user_errors("--program"):
                export_program(model, temporary / "step.pt2")
    return {
        "out": str(out),
        "num_params": model.config.num_params,
        "input_params": model.config.input_params,
        **results,
        "dtype": options.dtype,
        "num_bytes": sum(file.stat().st_size for file in out.iterdir()),
        "files": {file.name: file.stat().st_size for file in sorted(out.iterdir())},
        "neighbours": neighbours,
    }


def _loss(directory: Path, model: ttrnn.VideoClassifier, results: Mapping[str, Any]) -> dict[str, Any]:
    """The metric of rounded weights on the validation split that chose the epoch, beside that of the exact ones."""
    shards = results.get("shards")
    if results.get("watch_test") or shards is None or not (Location.of(shards) / DATASET_JSON).exists():
        log.warning("the shards %s are gone, or have no validation split: what rounding costs is not measured", shards)
        return {}
    with tempfile.TemporaryDirectory() as temporary:
        ttrnn.save(model, Path(temporary) / "model", dict(results))
        value = evaluate_model(Path(temporary) / "model", shards, "val")["value"]
    exact = evaluate_model(directory, shards, "val")["value"]
    return {"val_metric_rounded": value, "lost_by_rounding": exact - value}


def _write_onnx(model: ttrnn.VideoClassifier, out: Path) -> None:
    from ttrnn.export import export_onnx_clip, export_onnx_step

    try:
        export_onnx_clip(model, out / "clip.onnx")
        if model.config.bidirectional:
            log.info("no step.onnx: a bidirectional model starts at the last frame, and can't stream")
        else:
            export_onnx_step(model, out / "step.onnx")
    except ImportError as error:
        raise UserError(f"--onnx needs {error.name}; install it with: pip install 'ttrnn[onnx]'") from error


def summary(result: dict[str, Any]) -> RenderableType:
    """What a person reads: the model, beside its neighbours on the frontier, and the files."""
    metric = result["metric"].replace("_", " ")
    confirmed, again, rounding = result.get("replication"), "", ""
    if confirmed is not None:
        again = f"; on average {percent(confirmed['val_mean'])} when trained again with {len(confirmed['seeds'])} seeds"
    if "val_metric_rounded" in result:
        lost = (
            f"{100 * abs(result['lost_by_rounding']):.1f} points {'lost' if result['lost_by_rounding'] >= 0 else 'won'}"
        )
        rounding = f"; {percent(result['val_metric_rounded'])} in {result['dtype']} ({lost})"
    parts: list[RenderableType] = []
    if result["neighbours"]:
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for name in ("trial", "parameters", metric):
            table.add_column(name, justify="left" if name == "trial" else "right")
        table.add_column()
        for row in result["neighbours"]:
            is_chosen = row["trial"] == result["trial"]
            mark = f"chosen: {result['select']}" if is_chosen else ""
            table.add_row(row["trial"], f"{row['num_params']:,}", percent(row["val_metric"]), mark)
        parts.append(table)
    trial = f"trial {result['trial']}, " if "trial" in result else ""
    files = ", ".join(f"{name} {size:,}" for name, size in result["files"].items())
    parts.append(
        f"{result['out']}: {trial}{result['num_params']:,} parameters, {metric} {100 * result['val_metric']:.1f}% on "
        f"{result['num_val_clips']} validation clips{again}{rounding}\n"
        f"bytes: {files}\n"
        f"next: {python()} -m pipelines.predict {shlex.quote(result['out'])} VIDEO"
    )
    return Group(*parts)


def main(argv: list[str] | None = None) -> int:
    """The command; see the head of this file."""
    return command.run(ExportOptions, export, summary, argv)


if __name__ == "__main__":
    # As `python pipelines/export.py` too: the same importable module either way.
    from pipelines.export import main as importable_main

    sys.exit(importable_main())

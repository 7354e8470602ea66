"""(5) Export a model of the frontier of a sweep, or the model of a run, as a model directory.

python -m pipelines.export runs/sweep model --select knee
python -m pipelines.export runs/sweep model --select smallest --max-params 20000
python -m pipelines.export runs/sweep model --select trial:0007
python -m pipelines.export runs/gru model --onnx --program
python -m pipelines.export runs/gru model --dtype int8 --js --c
python -m pipelines.export runs/gru trigger --false-alarms-per-hour 1
python -m pipelines.export s3://bucket/sweep model
"""

import dataclasses
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from rich.console import Group, RenderableType

from pipelines.core import command
from pipelines.core.errors import UserError, user_errors
from pipelines.core.options import positional, takes_options
from pipelines.core.terminal import table
from pipelines.core.text import percent, plural, program
from pipelines.data.kinds import MODELS, Argument, check_arguments
from pipelines.evaluation.packaging import check_out, package_model
from pipelines.evaluation.stream_evaluator import events_text
from pipelines.storage.bucket import reading_copy
from pipelines.storage.location import Location
from pipelines.training.run_directory import RunDirectory, is_of_model
from pipelines.tuning.selection import check_rule, select_trial
from pipelines.tuning.sweep_directory import SweepDirectory, is_result
from ttrnn.checkpoint import read_config
from ttrnn.quantise import DTYPES

__all__ = ["ExportOptions", "export"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """Write a model directory: weights, configuration and model card; predict needs nothing else."""

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {"dtype": DTYPES}

    source: str = positional()
    """directory or URI of a sweep, of a run, or of a model"""
    out: str = positional()
    """model directory to write"""
    select: str = "best"
    """for a sweep: best (of --max-params, given here or to the sweep; without it, the knee), knee (from where on more
    parameters gain less), highest (validation metric), smallest (within --tolerance of the highest), or a trial (9); by
    the means of replications if there are any"""
    tolerance: float | None = None
    """with --select smallest: by how much its metric may be below the highest, 0 to 1; default: one standard error"""
    max_params: int | None = None
    """for a sweep: only models with at most this many parameters, classifier included; not with trial:ID"""
    onnx: bool = False
    """also write step.onnx (one frame and the state in, scores and the state out; not for bidirectional models) and
    clip.onnx (clips of any length in, scores out); needs pip install ttrnn[onnx]"""
    program: bool = False
    """also write step.pt2, the step as a torch.export program; loading one may run code, so users must trust you"""
    js: bool = False
    """also write model.js, a module without dependencies for browsers and Node, and demo.html, a page that shows it at
    work; compared with the model in Node if there is a `node`; not for bidirectional models"""
    c: bool = False
    """also write c/: model.h and model.c, C99 for microcontrollers that takes frames line by line, with a main() and an
    Arduino sketch; in whole numbers with --dtype int8; not for bidirectional models"""
    dtype: str = "float32"
    """of the weights on disk: float32, bfloat16 or int8; the loss by rounding is evaluated on the validation split"""
    false_alarms_per_hour: float | None = None
    """choose thresholds for predict --events, on validation clips joined with those of the class background, so that
    there are at most so many false alarms an hour, all classes together"""
    window: int | None = None
    """with --false-alarms-per-hour: frames that a decision may rest on; default: the median length of the clips"""
    overwrite: bool = False
    """replace OUT"""

    def __post_init__(self) -> None:
        if self.false_alarms_per_hour is not None and not 0 <= self.false_alarms_per_hour < math.inf:
            raise ValueError(f"false_alarms_per_hour must be 0 or more, got {self.false_alarms_per_hour}")
        if self.window is not None and (self.window < 1 or self.false_alarms_per_hour is None):
            raise ValueError(f"window must be 1 or more, with false_alarms_per_hour, got {self.window}")
        check_rule(self.select, self.max_params, self.tolerance)
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")


@takes_options(ExportOptions)
def export(options: ExportOptions) -> dict[str, Any]:
    """The command as a function. Returns the results and files of the exported model, and its neighbours."""
    check_arguments(
        "export", Argument("SOURCE", options.source, MODELS), Argument("OUT", options.out, ("model",), is_out=True)
    )
    out, markers = Location.of(options.out).local, (SweepDirectory.MARKER, RunDirectory.MARKER)
    check_out(out, overwrite=options.overwrite)
    names = ("dtype", "onnx", "program", "js", "c", "false_alarms_per_hour", "window")
    forms: dict[str, Any] = {name: getattr(options, name) for name in names}
    with reading_copy(Location.of(options.source), markers=markers, wanted=_is_wanted) as copy:
        sweep, model_dir = SweepDirectory(copy.path), RunDirectory(copy.path).model
        results: dict[str, Any] = {}
        neighbours: list[dict[str, Any]] = []
        if sweep.exists():
            trial, neighbours = select_trial(sweep, options.select, options.max_params, options.tolerance)
            model_dir = copy.fetch(sweep.run(trial.trial).model)
            results = {"trial": trial.trial, "select": options.select}
            if trial.replication is not None:
                results["replication"] = dataclasses.asdict(trial.replication)
            with user_errors():
                weights = read_config(model_dir)["sha256"]["model.safetensors"]
            test = sweep.known_tests().get((trial.trial, weights), {})
            results |= {name: test[name] for name in ("test_metric", "test_interval") if name in test}
        elif (options.select, options.max_params, options.tolerance) != ("best", None, None):
            raise UserError(
                f"{options.source} is no sweep, so there is nothing to choose; leave out --select, --max-params and "
                "--tolerance"
            )
        elif (copy.path / "model.safetensors").exists():
            model_dir = copy.path
        elif not model_dir.exists():
            raise UserError(
                f"{options.source} is no sweep, and no run or directory with a model; give the OUT of sweep or train"
            )
        return {"out": str(out), **package_model(model_dir, out, results, **forms), "neighbours": neighbours}


def _is_wanted(name: str) -> bool:
    """Whether a file of SOURCE is needed to select a model of a sweep, or belongs to the model of a run."""
    return is_result(name) or is_of_model(name)


def summary(result: dict[str, Any]) -> RenderableType:
    """Formats the result for the terminal: the model beside its neighbours on the frontier, and the files."""
    metric = result["metric"].replace("_", " ")
    replication, parts, text = result.get("replication"), [], ""
    if replication is not None:
        seeds = len(replication["seeds"])
        text += f"; {percent(replication['val_mean'])} on average when trained again with {seeds} new seeds"
    if "val_metric_rounded" in result:
        change = "lost" if result["lost_by_rounding"] >= 0 else "gained"
        points = f"{100 * abs(result['lost_by_rounding']):.1f} points {change}"
        text += f"; {percent(result['val_metric_rounded'])} in {result['dtype']} ({points})"
    if "c" in result:
        c = result["c"]
        watch = f" (ttrnn_watch: {c['watch_bytes']:,})" if c["watch_bytes"] else ""
        text += f"; C in {c['dtype']} with {c['ram_bytes']:,} bytes of memory{watch}, "
        text += f"probabilities within {c['difference']:.1e}" if c["compiled"] else "not compiled: there is no cc"
    if result["neighbours"]:
        neighbours = table("trial", "parameters", metric, "", right=("parameters", metric))
        for row in result["neighbours"]:
            note = f"selected: {result['select']}" if row["trial"] == result["trial"] else ""
            neighbours.add_row(row["trial"], f"{row['num_params']:,}", percent(row["val_metric"]), note)
        parts.append(neighbours)
    trial = f"trial {result['trial']}, " if "trial" in result else ""
    files = ", ".join(f"{name} {size:,}" for name, size in result["files"].items())
    return Group(
        *parts,
        f"{result['out']}: {trial}{result['num_params']:,} parameters, {metric} {100 * result['val_metric']:.1f}% on "
        f"{result['num_val_clips']} validation clips{text}\n"
        f"bytes: {files}",
        *_events(result.get("events", {})),
        f"next: {program('predict')} {shlex.quote(result['out'])} VIDEO{' --events' if 'events' in result else ''}",
    )


def _events(events: Mapping[str, Any]) -> list[str]:
    """The window, and how the thresholds did on the stream on which they were chosen."""
    if "limit" not in events:
        return []
    never = [row["class"] for row in events["per_class"] if row["class"] not in events["thresholds"]]
    return [
        f"events: window {events['window']} frames, hop {events['hop']}; thresholds for at most {events['limit']:g} "
        f"false alarms an hour, chosen on {events['num_events']:,} validation clips joined with "
        f"{plural(events['num_pauses'], 'clip')} of nothing, for which these figures are optimistic:",
        f"    {events_text(events)}",
        *([f"    never alarming: {', '.join(never)}"] if never else []),
    ]


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    return command.run(ExportOptions, export, summary, argv)


if __name__ == "__main__":
    # `python pipelines/export.py` must run the importable module too.
    from pipelines.export import main as importable_main

    sys.exit(importable_main())

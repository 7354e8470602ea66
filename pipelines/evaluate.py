"""(6) Evaluate a model on one split of a data set: the metric, its confidence interval, and the metrics of each class.

    python -m pipelines.evaluate runs/sweep/best SHARDS --split test
    python -m pipelines.evaluate runs/sweep/best SHARDS --out runs/test
    python -m pipelines.evaluate runs/sweep/best SHARDS --compare runs/sweep/trials/0007
    python -m pipelines.evaluate model/clip.onnx VIDEOS --split all --json
    python -m pipelines.evaluate trigger --stream streams.csv

--out writes predictions.csv with a line for each clip, per_class.csv and, if clips have one label, confusion.csv and
confusion.png; with --compare also differing.csv, the clips for which the two models predict different classes; with
--stream events.csv.
"""

import contextlib
import sys
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pipelines.core import command
from pipelines.core.options import positional, takes_options
from pipelines.core.terminal import table
from pipelines.core.text import percent, plural
from pipelines.data.kinds import MODELS, Argument, check_arguments
from pipelines.evaluation.compare import comparison_text
from pipelines.evaluation.evaluator import evaluate_model, headline
from pipelines.evaluation.model_files import reading_model
from pipelines.evaluation.stream_evaluator import evaluate_streams, events_text
from pipelines.storage.location import Location
from pipelines.storage.output import no_empty_directory, prepare_out

__all__ = ["EvaluateOptions", "evaluate"]

_NUM_NAMED = 5
"""Clips without a prediction that are named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateOptions:
    """Evaluate a model on one split of a data set: accuracy, or mean average precision if clips have several labels."""

    model: str = positional()
    """model directory, run or ONNX file (clip or step), or its URI, such as runs/sweep/best"""
    shards: str = positional(default="")
    """directory that preprocess wrote; or a folder or CSV of videos, which are decoded by the model's configuration"""
    split: str = "test"
    """train, val, test or all; videos without given splits are split as preprocess does by default"""
    compare: str | None = None
    """another model, evaluated on the same clips; tests whether the difference is significant"""
    folds: int | None = None
    """number of folds to split the clips into, as in train; default: that of the run that trained the model if it was
    trained on SHARDS, else the splits of SHARDS"""
    fold: int | None = None
    """with --folds: number of the fold that is the test split, from 0"""
    split_by: str = "group"
    """with --folds: group or clip"""
    stream: str | None = None
    """instead of SHARDS: a CSV file video,start_s,end_s,label of long videos, for a model that was exported with
    thresholds; a video in which nothing happens is alone in its row"""
    out: str | None = None
    """directory for predictions, confusion matrix and metrics by class; default: none are written"""
    overwrite: bool = False
    """delete OUT first if it exists"""

    def __post_init__(self) -> None:
        if bool(self.shards) == (self.stream is not None):
            raise ValueError(f"give SHARDS or --stream CSV, one of them, got {self.shards!r} and {self.stream!r}")
        others = {"compare": self.compare, "folds": self.folds, "fold": self.fold}
        if self.stream is not None and (given := [name for name, value in others.items() if value is not None]):
            raise ValueError(f"{given[0]} needs SHARDS; leave it out with --stream")


@takes_options(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """The command as a function."""
    check_arguments(
        "evaluate",
        Argument("MODEL", options.model, MODELS),
        Argument("SHARDS", options.shards, ("shards", "videos")),
    )
    splits = {"folds": options.folds, "fold": options.fold, "split_by": options.split_by}
    given = splits != {"folds": None, "fold": None, "split_by": "group"}
    out = None if options.out is None else Location.of(options.out).local
    with contextlib.ExitStack() as stack:
        if out is not None:
            stack.enter_context(no_empty_directory(Location.of(out)))
            marker = "predictions.csv" if options.stream is None else "events.csv"
            prepare_out(out, marker=marker, overwrite=options.overwrite)
        model, other = (
            None if path is None else stack.enter_context(reading_model(path))
            for path in (options.model, options.compare)
        )
        assert model is not None
        if options.stream is not None:
            result = evaluate_streams(model, options.stream, out=out)
            return {**result, "model": options.model, **({"out": options.out} if out else {})}
        result = evaluate_model(
            model, options.shards, options.split, out=out, other_dir=other, **(splits if given else {})
        )
    if options.compare is not None:
        result["compare"]["model"] = options.compare
    return {**result, "model": options.model, **({"out": options.out} if out else {})}


def summary(result: dict[str, Any]) -> RenderableType:
    """Formats the result for the terminal."""
    if "hours" in result:
        return _stream_summary(result)
    rows = result["per_class"]
    words = {"num_clips": "clips", "f1": "F1", "average_precision": "average precision"}
    headers = [words.get(name, name) for name in rows[0]]
    classes = table(*headers, right=headers[1:])
    for name, num_clips, *shares in (row.values() for row in rows):
        classes.add_row(Text(name), f"{num_clips:,}", *map(percent, shares))
    sizes = (result["num_params"], result["input_params"])
    first_line = headline(result)
    if None not in sizes:
        first_line += ", {:,} parameters, {:,} of them input-to-hidden".format(*sizes)
    parts: list[RenderableType] = [Text(first_line)]
    if "rejected" in result:
        parts.append(Text(f"left out because they could not be decoded: {plural(len(result['rejected']), 'clip')}"))
        parts += [Text(f"    {clip['error']}") for clip in result["rejected"][:_NUM_NAMED]]
        if (others := len(result["rejected"]) - _NUM_NAMED) > 0:
            parts.append(Text(f"    and {others:,} more; --json lists all"))
    parts.append(classes)
    if "compare" in result:
        parts += ["", Text(_comparison(result))]
    return Group(*parts, *([f"written to {result['out']}"] if "out" in result else []))


def _stream_summary(result: dict[str, Any]) -> RenderableType:
    numbers = ("events", "recall", "false alarms", "an hour", "mean delay, s")
    classes = table("class", *numbers, right=numbers)
    for row in result["per_class"]:
        recall = "-" if row["recall"] is None else percent(row["recall"])
        delay = "-" if row["mean_delay_s"] is None else f"{row['mean_delay_s']:.2f}"
        counts = (f"{row['num_events']:,}", recall, f"{row['num_false_alarms']:,}")
        classes.add_row(Text(row["class"]), *counts, f"{row['false_alarms_per_hour']:.1f}", delay)
    text = f"{events_text(result)}\n{plural(result['num_videos'], 'video')}, window {result['window']} frames"
    return Group(Text(text), classes, *([f"written to {result['out']}"] if "out" in result else []))


def _comparison(result: dict[str, Any]) -> str:
    other = result["compare"]
    low, high = (percent(bound) for bound in other["interval"])
    size = "" if other["num_params"] is None else f", {other['num_params']:,} parameters"
    return (
        f"compared with {other['model']}: {other['metric'].replace('_', ' ')} {percent(other['value'])} "
        f"(95% interval {low} to {high}){size}\n"
        f"{comparison_text(other, result['num_clips'], result['num_groups'])}"
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    return command.run(EvaluateOptions, evaluate, summary, argv)


if __name__ == "__main__":
    # `python pipelines/evaluate.py` must run the importable module too.
    from pipelines.evaluate import main as importable_main

    sys.exit(importable_main())

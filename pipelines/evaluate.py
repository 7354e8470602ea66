"""(6) How good a model is on one split of a data set: the metric and how sure it is, and how well each class is told.

    python -m pipelines.evaluate runs/sweep/best SHARDS --split test
    python -m pipelines.evaluate runs/sweep/best SHARDS --out runs/test
    python -m pipelines.evaluate runs/sweep/best SHARDS --json

With --out it writes there confusion.png and confusion.csv (where a clip has one label), per_class.csv, and
predictions.csv with a line for each clip.
"""

import csv
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

import ttrnn
from pipelines import cli
from pipelines.cli import UserError, percent
from pipelines.measure import predict_split
from pipelines.metrics import METRICS, chance_level, confusion, interval, per_class, score
from pipelines.mirror import reading_copy
from pipelines.pictures import confusion_matrix
from pipelines.recipe import TrainOptions, local_device, open_data
from pipelines.shards import ShardDataset, Split
from pipelines.storage import Location, prepare_out
from ttrnn.checkpoint import read_config
from ttrnn.files import atomic_write
from ttrnn.model import VideoClassifier

__all__ = ["EvaluateOptions", "evaluate", "evaluate_model", "headline", "load_model", "measure"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateOptions:
    """Measure a model on one split of a data set: accuracy, or mean average precision for clips with several labels."""

    model: str = cli.positional()
    """model directory or its URI, such as runs/sweep/best"""
    shards: str = cli.positional()
    """directory that preprocess wrote"""
    split: str = "test"
    """train, val or test"""
    folds: int | None = None
    """measure on folds that are dealt anew, as train has them; default: those of the run that the model comes from if
    it learnt from SHARDS, else the splits as they are there"""
    fold: int | None = None
    """with --folds: the part that is the test split, from 0"""
    split_by: str = "group"
    """with --folds: group or clip"""
    out: str | None = None
    """directory for predictions, confusion matrix and table of classes; default: none are written"""
    overwrite: bool = False
    """delete older ones in OUT first"""


def load_model(path: str | Path) -> VideoClassifier:
    """The model of a model directory or of a run, on the GPU where there is one. Raises UserError if it is damaged."""
    with cli.user_errors():
        model = ttrnn.load(_directory(path))
    return model.to(local_device())


def _directory(path: str | Path) -> Path:
    """The model directory, of a run too."""
    path = Path(path)
    is_run = not (path / "model.safetensors").exists() and (path / "model" / "config.json").exists()
    return path / "model" if is_run else path


def evaluate_model(
    model_dir: str | Path,
    shards_dir: str | Path | Location,
    split: str = "test",
    *,
    out: str | Path | None = None,
    **splits: Any,
) -> dict[str, Any]:
    """As `measure`, of a directory of shards.

    Args:
        model_dir: A model directory, or a run.
        shards_dir: The data.
        split: train, val or test.
        out: As `measure` has it.
        **splits: folds, fold and split_by as train has them; without them, those of the run that the model comes from
            if it learnt from these shards, else the splits as they were made.

    Raises:
        UserError: damaged model or shards, a data set whose frames or classes are not the model's, or the validation
            split of a run that learnt from it.
    """
    splits = splits or _splits_learnt(model_dir, shards_dir, split)
    with cli.user_errors():
        data = open_data(shards_dir, TrainOptions(shards=str(shards_dir), out=str(model_dir), **splits))
    result = measure(model_dir, data, split, out)
    return {**result, **splits, "model": str(model_dir), "shards": str(shards_dir)}


def _splits_learnt(model_dir: str | Path, shards_dir: str | Path | Location, split: str) -> dict[str, Any]:
    """The options of splits that a model learnt under, where these are not the splits of the shards; else {}.

    The model directory knows them: a copy or an export of it must not be tested on what it learnt from.
    """
    with cli.user_errors():
        results = read_config(_directory(model_dir))["results"]
    if not (results.get("folds") or results.get("watch_test")):
        return {}
    if results["shards"] != str(Location.of(shards_dir).absolute()):
        log.warning(
            "%s learnt from other splits, of %s; if %s has the same clips, give the --folds of its run, or it may be "
            "measured on what it learnt from",
            model_dir,
            results["shards"],
            shards_dir,
        )
        return {}
    if results.get("watch_test") and split == "val":
        raise UserError(f"{model_dir} learnt from the clips of val too (watch_test); give --split test")
    return {name: results[name] for name in ("folds", "fold", "split_by")} if results["folds"] else {}


def measure(
    model_dir: str | Path, data: ShardDataset, split: str = "test", out: str | Path | None = None
) -> dict[str, Any]:
    """The metric of a model on a split, with what it takes to judge it.

    Args:
        model_dir: A model directory, or a run.
        data: The data set.
        split: train, val or test.
        out: A directory, which gets the files that the head of this module names, each whole or not at all.

    Returns:
        metric (its name), value (0 to 1), num_clips, chance (0 to 1), num_params, input_params, split; interval ([low,
        high] of 95% confidence), interval_by (group or clip: what was drawn anew for it), num_groups, per_class (a row
        for each class, as `metrics.per_class` has it).

    Raises:
        UserError: a damaged model, a data set whose frames or classes are not the model's, or an empty split.
    """
    model = load_model(model_dir)
    config = model.config
    _check(model_dir, model, data)
    clips = data.split(split)
    if not len(clips):
        raise UserError(f"{data.place} has no clips in its split {split!r}")
    rows, indices, _ = predict_split(model, clips)
    scores_BC = np.empty_like(rows)
    scores_BC[indices] = rows
    bounds = interval(config.task, scores_BC, clips.labels, clips.groups)
    result = {
        "metric": METRICS[config.task],
        "value": score(config.task, scores_BC, clips.labels),
        "interval": [bounds.low, bounds.high],
        "interval_by": bounds.by,
        "num_clips": len(clips),
        "num_groups": bounds.num_groups,
        "chance": chance_level(config.task, clips.labels, len(config.classes)),
        "num_params": config.num_params,
        "input_params": config.input_params,
        "split": split,
        "per_class": per_class(config.task, scores_BC, clips.labels, config.classes),
    }
    if out is not None:
        _write_files(Path(out), result, config.task, config.classes, clips, scores_BC)
    return result


def _check(model_dir: str | Path, model: VideoClassifier, data: ShardDataset) -> None:
    config = model.config
    frames = [(part.width, part.height, part.channels) for part in (config, data.frame)]
    if frames[0] != frames[1]:
        raise UserError(
            f"{model_dir} takes frames of {frames[0]} (width, height, channels), {data.place} has {frames[1]}; "
            "preprocess the videos at the model's size"
        )
    if config.task != data.task:
        raise UserError(
            f"{model_dir} is for {config.task} data, {data.place} is {data.task}; give data of the model's kind"
        )
    if config.classes != data.classes:
        raise UserError(
            f"{model_dir} knows the classes {', '.join(config.classes)}; {data.place} has {', '.join(data.classes)}"
        )


def _write_files(
    out: Path, result: Mapping[str, Any], task: str, classes: Sequence[str], clips: Split, scores_BC: np.ndarray
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if task == "single_label":
        counts_CC = confusion(scores_BC, clips.labels)
        _write_csv(
            out / "confusion.csv",
            ["class", *classes],
            ([name, *row] for name, row in zip(classes, counts_CC.tolist(), strict=True)),
        )
        title = f"accuracy {percent(result['value'])} on {len(clips):,} clips of {result['split']}"
        confusion_matrix(counts_CC, classes, out / "confusion.png", title=title)
        chosen_BC = np.eye(len(classes), dtype=bool)[scores_BC.argmax(axis=1)]
    else:
        chosen_BC = scores_BC >= 0.5
    _write_csv(out / "per_class.csv", list(result["per_class"][0]), (row.values() for row in result["per_class"]))

    def names(labels: Iterable[int]) -> str:
        return "|".join(classes[label] for label in labels)

    predicted = (names(np.flatnonzero(row)) for row in chosen_BC)
    columns = (clips.clip_ids, clips.groups, map(names, clips.labels), predicted, scores_BC.tolist())
    _write_csv(
        out / "predictions.csv",
        ["clip_id", "group", "label", "predicted", *(f"p({name})" for name in classes)],
        ([*about, *(f"{value:.6g}" for value in row)] for *about, row in zip(*columns, strict=True)),
    )


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """The command as a function."""
    splits = {"folds": options.folds, "fold": options.fold, "split_by": options.split_by}
    given = splits != {"folds": None, "fold": None, "split_by": "group"}
    out = None
    if options.out is not None:
        out = Location.of(options.out).local
        prepare_out(out, marker="predictions.csv", overwrite=options.overwrite)
    with reading_copy(Location.of(options.model)) as model:
        result = evaluate_model(model, options.shards, options.split, out=out, **(splits if given else {}))
    return {**result, "model": options.model, **({"out": options.out} if out else {})}


def headline(result: Mapping[str, Any]) -> str:
    """The metric of `measure`, its interval, what that rests on, and chance."""
    low, high = (percent(bound) for bound in result["interval"])
    num_groups, by = result["num_groups"], ""
    if result["interval_by"] == "group":
        by = f" by {num_groups} groups"
    elif 0 < num_groups < result["num_clips"]:
        by = f" for more clips of the same {num_groups} group{'s' if num_groups > 1 else ''}"
    return (
        f"{result['metric'].replace('_', ' ')} {percent(result['value'])} (95% interval {low} to {high}{by}; chance "
        f"{percent(result['chance'])}) on {result['num_clips']:,} clips of {result['split']}"
    )


def summary(result: dict[str, Any]) -> RenderableType:
    """What a person reads."""
    rows = result["per_class"]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in rows[0]:
        head = {"num_clips": "clips", "f1": "F1", "average_precision": "average precision"}.get(name, name)
        table.add_column(head, justify="left" if name == "class" else "right")
    for name, num_clips, *shares in (row.values() for row in rows):
        table.add_row(Text(name), f"{num_clips:,}", *map(percent, shares))
    about = (
        f"{headline(result)}, {result['num_params']:,} parameters, {result['input_params']:,} of them input-to-hidden"
    )
    where = [f"written to {result['out']}"] if "out" in result else []
    return Group(Text(about), table, *where)


def main(argv: list[str] | None = None) -> int:
    """The command; see the head of this file."""
    return cli.run(EvaluateOptions, evaluate, summary, argv)


if __name__ == "__main__":
    # As `python pipelines/evaluate.py` too: the same importable module either way.
    from pipelines.evaluate import main as importable_main

    sys.exit(importable_main())

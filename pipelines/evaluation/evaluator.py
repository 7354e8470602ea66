"""Evaluate a model on a split: metric, interval, metrics by class, predictions, confusion matrix."""

import csv
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.errors import UserError, user_errors
from pipelines.core.text import percent
from pipelines.data.dataset import ShardDataset
from pipelines.data.folds import Folding, open_folds
from pipelines.evaluation.bootstrap import interval
from pipelines.evaluation.classifier import Classifier, model_results, open_classifier
from pipelines.evaluation.compare import chosen, compare, rests_on
from pipelines.evaluation.metrics import METRICS, chance_level, confusion, per_class, score
from pipelines.evaluation.plots import confusion_matrix
from pipelines.evaluation.scoring import Scored, is_catalog, score_catalog, score_shards
from pipelines.storage.location import Location
from ttrnn.files import atomic_write

__all__ = ["evaluate_model", "headline", "measure"]

log = logging.getLogger(__name__)


def evaluate_model(
    model_dir: str | Path,
    data_place: str | Path | Location,
    split: str = "test",
    *,
    out: str | Path | None = None,
    other_dir: str | Path | None = None,
    **splits: Any,
) -> dict[str, Any]:
    """As `measure`, of a directory of shards or of a catalogue.

    Args:
        model_dir: A model directory, a run or an ONNX file.
        data_place: Shards; or a folder or CSV of videos, which are decoded as the model's configuration says.
        split: train, val, test or all.
        out: As `measure` has it.
        other_dir: Another model, to compare with.
        **splits: Of shards: folds, fold and split_by as train has them; without them, those of the run that the model
            comes from if it learnt from these shards, else the splits as they were made.

    Returns:
        As `measure`; with a catalogue `rejected`, the clips that gave no frames; with other_dir `compare`: its value,
        interval and num_params, and what `compare.compare` found.

    Raises:
        UserError: damaged model or data, data whose frames or classes are not the model's, or the validation split of a
            run that learnt from it.
    """
    place = Location.of(data_place)
    models = [(str(path), open_classifier(path)) for path in (model_dir, other_dir) if path is not None]
    if len({(model.task, model.classes) for _, model in models}) > 1:
        raise UserError(f"{models[0][0]} and {models[1][0]} know different classes, and can't be compared")
    if is_catalog(place):
        if splits:
            raise UserError(f"--folds, --fold and --split-by are of shards; {place} is a catalogue: leave them out")
        learnt = [_splits_learnt(name, place, split) for name, _ in models]
        scored = [score_catalog(name, model, place, split) for name, model in models]
    else:
        learnt = [splits or _splits_learnt(name, place, split) for name, _ in models]
        splits = learnt[0]
        with user_errors():
            folding = Folding(**splits)
        data = open_folds(place, folding)
        scored = [score_shards(name, model, data, split) for name, model in models]
    if learnt[0] != learnt[-1]:
        raise UserError(
            f"{models[0][0]} and {models[-1][0]} learnt from different splits, so that no clips are new to both; give "
            "two of the same fold, or --folds, --fold and --split-by if you know better"
        )
    result = _judged(models[0][1], scored, split, out)
    if len(models) > 1:
        result["compare"]["num_params"] = models[1][1].num_params
    return {**result, **splits, "model": str(model_dir), "shards": str(data_place)}


def _splits_learnt(model_dir: str | Path, place: Location, split: str) -> dict[str, Any]:
    """The options of splits that a model learnt under, where these are not the splits of the shards; else {}.

    The model directory knows them: a copy or an export of it must not be tested on what it learnt from.
    """
    results = model_results(model_dir)
    if not (results.get("folds") or results.get("watch_test")):
        return {}
    if results["shards"] != str(place.absolute()):
        log.warning(
            "%s learnt from other splits, of %s; if %s has the same clips, give the --folds of its run, or it may be "
            "measured on what it learnt from",
            model_dir,
            results["shards"],
            place,
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
        model_dir: A model directory, a run or an ONNX file.
        data: The data set.
        split: train, val, test or all.
        out: A directory, which gets the files that the head of this module names, each whole or not at all.

    Returns:
        metric (its name), value (0 to 1), num_clips, chance (0 to 1), num_params, input_params, split; interval ([low,
        high] of 95% confidence), interval_by (group or clip: what was drawn anew for it), num_groups, per_class (a row
        for each class, as `metrics.per_class` has it).

    Raises:
        UserError: a damaged model, a data set whose frames or classes are not the model's, or an empty split.
    """
    model = open_classifier(model_dir)
    return _judged(model, [score_shards(str(model_dir), model, data, split)], split, out)


def _judged(model: Classifier, scored: list[Scored], split: str, out: str | Path | None) -> dict[str, Any]:
    """Of the first; with a second one, also how they compare on the clips that both have."""
    rejected = dict(pair for part in scored for pair in part.rejected)
    if len(scored) > 1:
        both = [clip_id for clip_id in scored[0].clip_ids if clip_id in set(scored[1].clip_ids)]
        scored = [part.only(both) for part in scored]
    clips, task = scored[0], model.task
    result = {
        **_metric(task, clips),
        "num_clips": len(clips.clip_ids),
        "chance": chance_level(task, clips.labels, len(model.classes)),
        "num_params": model.num_params,
        "input_params": model.input_params,
        "split": split,
        "per_class": per_class(task, clips.scores, clips.labels, model.classes),
    }
    if rejected:
        result["rejected"] = [{"path": path, "error": error} for path, error in rejected.items()]
    if len(scored) > 1:
        found = compare(task, clips.scores, scored[1].scores, clips.labels, clips.groups)
        result["compare"] = {**_metric(task, scored[1]), **found}
    if out is not None:
        _write_files(Path(out), result, task, model.classes, scored)
    return result


def _metric(task: str, clips: Scored) -> dict[str, Any]:
    bounds = interval(task, clips.scores, clips.labels, clips.groups)
    return {
        "metric": METRICS[task],
        "value": score(task, clips.scores, clips.labels),
        "interval": [bounds.low, bounds.high],
        "interval_by": bounds.by,
        "num_groups": bounds.num_groups,
    }


def _write_files(
    out: Path, result: Mapping[str, Any], task: str, classes: Sequence[str], scored: Sequence[Scored]
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    clips = scored[0]
    if task == "single_label":
        counts_CC = confusion(clips.scores, clips.labels)
        _write_csv(
            out / "confusion.csv",
            ["class", *classes],
            ([name, *row] for name, row in zip(classes, counts_CC.tolist(), strict=True)),
        )
        title = f"accuracy {percent(result['value'])} on {_clips(result)}"
        confusion_matrix(counts_CC, classes, out / "confusion.png", title=title)
    _write_csv(out / "per_class.csv", list(result["per_class"][0]), (row.values() for row in result["per_class"]))

    def names(labels: Iterable[int]) -> str:
        return "|".join(classes[label] for label in labels)

    predicted, *others = ([names(np.flatnonzero(row)) for row in chosen(task, part.scores)] for part in scored)
    columns = (clips.clip_ids, clips.groups, map(names, clips.labels), predicted, clips.scores.tolist())
    _write_csv(
        out / "predictions.csv",
        ["clip_id", "group", "label", "predicted", *(f"p({name})" for name in classes)],
        ([*about, *(f"{value:.6g}" for value in row)] for *about, row in zip(*columns, strict=True)),
    )
    for other in others:
        rows = zip(clips.clip_ids, clips.groups, map(names, clips.labels), predicted, other, strict=True)
        _write_csv(
            out / "differing.csv",
            ["clip_id", "group", "label", "predicted", "predicted_by_other"],
            (row for row in rows if row[3] != row[4]),
        )


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)


def headline(result: Mapping[str, Any]) -> str:
    """The metric of `measure`, its interval, what that rests on, and chance."""
    low, high = (percent(bound) for bound in result["interval"])
    by = rests_on(result["interval_by"], result["num_groups"], result["num_clips"])
    return (
        f"{result['metric'].replace('_', ' ')} {percent(result['value'])} (95% interval {low} to {high}{by}; chance "
        f"{percent(result['chance'])}) on {_clips(result)}"
    )


def _clips(result: Mapping[str, Any]) -> str:
    number = f"{result['num_clips']:,} clips"
    return f"all {number}" if result["split"] == "all" else f"{number} of {result['split']}"

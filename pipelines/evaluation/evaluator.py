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
from pipelines.data.folds import Folding, folds_of, open_folds
from pipelines.evaluation.bootstrap import interval
from pipelines.evaluation.classifier import Classifier, open_classifier
from pipelines.evaluation.compare import compare, interval_note, predicted_classes
from pipelines.evaluation.metrics import METRICS, chance_level, confusion, per_class, task_metric
from pipelines.evaluation.model_files import model_results
from pipelines.evaluation.plots import confusion_matrix
from pipelines.evaluation.predictions import Predictions, is_catalog, predict_catalog, predict_shards
from pipelines.storage.location import Location
from ttrnn.files import atomic_write

__all__ = ["evaluate_dataset", "evaluate_model", "headline", "read_predictions"]

log = logging.getLogger(__name__)
_PREDICTIONS = "predictions.csv"


def evaluate_model(
    model_dir: str | Path,
    data_place: str | Path | Location,
    split: str = "test",
    *,
    out: str | Path | None = None,
    other_dir: str | Path | None = None,
    **splits: Any,
) -> dict[str, Any]:
    """Evaluates a model on shards or on a catalogue of videos, and compares it with another one if that is given.

    Args:
        model_dir: A model directory, a run or an ONNX file.
        data_place: Shards; or a folder or CSV of videos, which are decoded by the model's configuration.
        split: train, val, test or all.
        out: As in `evaluate_dataset`.
        other_dir: Another model, to compare with.
        **splits: For shards: folds, fold and split_by as in train. Default: those of the run that trained the model if
            it was trained on these shards, else the splits of the shards.

    Returns:
        As `evaluate_dataset`; for a catalogue also `rejected`, the clips that could not be decoded; with other_dir also
        `compare`: value, interval and num_params of the other model, and the result of `compare.compare`.

    Raises:
        UserError: damaged model or data, data with other frames or classes than the model's, or the validation split of
            a run that was trained on it.
    """
    place = Location.of(data_place)
    models = [
        (str(path), open_classifier(path, may_be_baseline=True)) for path in (model_dir, other_dir) if path is not None
    ]
    if len({(model.task, model.classes) for _, model in models}) > 1:
        raise UserError(f"{models[0][0]} and {models[1][0]} have different classes and can't be compared")
    if is_catalog(place):
        if splits:
            raise UserError(f"--folds, --fold and --split-by need shards; {place} is a catalogue: leave them out")
        trained = [_training_splits(name, place, split) for name, _ in models]
        predictions = [predict_catalog(name, model, place, split) for name, model in models]
    else:
        trained = [splits or _training_splits(name, place, split) for name, _ in models]
        splits = trained[0]
        with user_errors():
            folding = Folding(**splits)
        data = open_folds(place, folding)
        predictions = [predict_shards(name, model, data, split) for name, model in models]
    if trained[0] != trained[-1]:
        raise UserError(
            f"{models[0][0]} and {models[-1][0]} were trained on different splits, so the test clips of one may be "
            "training clips of the other; give two models of the same fold, or set --folds, --fold and --split-by"
        )
    result = _evaluate(models[0][1], predictions, split, out)
    if len(models) > 1:
        result["compare"]["num_params"] = models[1][1].num_params
    return {**result, **splits, "model": str(model_dir), "shards": str(data_place)}


def _training_splits(model_dir: str | Path, place: Location, split: str) -> dict[str, Any]:
    """The options of splits that a model was trained with, if they are not the splits of the shards; else {}.

    They are read from the model directory, so that a copy or an export of a model is not tested on its training clips.
    """
    results = model_results(model_dir)
    if not (results.get("folds") or results.get("watch_test")):
        return {}
    if results["shards"] != str(place.absolute()):
        log.warning(
            "%s was trained on other splits, of %s; if %s has the same clips, give the --folds of its run, or it may "
            "be evaluated on its training clips",
            model_dir,
            results["shards"],
            place,
        )
        return {}
    if results.get("watch_test") and split == "val":
        raise UserError(f"{model_dir} was trained on the clips of val too (watch_test); give --split test")
    return folds_of(results)


def evaluate_dataset(
    model_dir: str | Path, data: ShardDataset, split: str = "test", out: str | Path | None = None
) -> dict[str, Any]:
    """Evaluates a model on a split of a data set.

    Args:
        model_dir: A model directory, a run or an ONNX file.
        data: The data set.
        split: train, val, test or all.
        out: A directory to write predictions.csv, per_class.csv and, if clips have one label, confusion.csv and
            confusion.png to, each whole or not at all.

    Returns:
        metric (its name), value (0 to 1), num_clips, chance (0 to 1), num_params, input_params, split; interval ([low,
        high] of 95% confidence), interval_by (group or clip: the unit that was resampled), num_groups, per_class (the
        rows of `metrics.per_class`).

    Raises:
        UserError: a damaged model, a data set with other frames or classes than the model's, or an empty split.
    """
    model = open_classifier(model_dir, may_be_baseline=True)
    return _evaluate(model, [predict_shards(str(model_dir), model, data, split)], split, out)


def _evaluate(model: Classifier, predictions: list[Predictions], split: str, out: str | Path | None) -> dict[str, Any]:
    """The result for the first predictions; with second ones, both are compared on the clips that both have."""
    rejected = dict(pair for part in predictions for pair in part.rejected)
    if len(predictions) > 1:
        second_ids = set(predictions[1].clip_ids)
        common = [clip_id for clip_id in predictions[0].clip_ids if clip_id in second_ids]
        predictions = [part.subset(common) for part in predictions]
    clips, task = predictions[0], model.task
    result = {
        **_metric_and_interval(task, clips),
        "num_clips": len(clips.clip_ids),
        "chance": chance_level(task, clips.labels, len(model.classes)),
        "num_params": model.num_params,
        "input_params": model.input_params,
        "split": split,
        "per_class": per_class(task, clips.scores, clips.labels, model.classes),
    }
    if rejected:
        result["rejected"] = [{"path": path, "error": error} for path, error in rejected.items()]
    if len(predictions) > 1:
        comparison = compare(task, clips.scores, predictions[1].scores, clips.labels, clips.groups)
        result["compare"] = {**_metric_and_interval(task, predictions[1]), **comparison}
    if out is not None:
        _write_files(Path(out), result, task, model.classes, predictions)
    return result


def _metric_and_interval(task: str, clips: Predictions) -> dict[str, Any]:
    bounds = interval(task, clips.scores, clips.labels, clips.groups)
    return {
        "metric": METRICS[task],
        "value": task_metric(task, clips.scores, clips.labels),
        "interval": [bounds.low, bounds.high],
        "interval_by": bounds.by,
        "num_groups": bounds.num_groups,
    }


def _write_files(
    out: Path, result: Mapping[str, Any], task: str, classes: Sequence[str], predictions: Sequence[Predictions]
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    clips = predictions[0]
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

    predicted, *others = (
        [names(np.flatnonzero(row)) for row in predicted_classes(task, part.scores)] for part in predictions
    )
    columns = (clips.clip_ids, clips.groups, map(names, clips.labels), predicted, clips.scores.tolist())
    _write_csv(
        out / _PREDICTIONS,
        ["clip_id", "group", "label", "predicted", *(f"p({name})" for name in classes)],
        ([*clip, *(f"{value:.6g}" for value in row)] for *clip, row in zip(*columns, strict=True)),
    )
    for other in others:
        rows = zip(clips.clip_ids, clips.groups, map(names, clips.labels), predicted, other, strict=True)
        _write_csv(
            out / "differing.csv",
            ["clip_id", "group", "label", "predicted", "predicted_by_other"],
            (row for row in rows if row[3] != row[4]),
        )


def read_predictions(out: Path) -> tuple[list[str], Predictions]:
    """The classes and the predictions that an evaluation wrote to a directory, with scores of six digits."""
    with (out / _PREDICTIONS).open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    # clip_id, group, label, predicted, and then p(CLASS) for each class.
    numbers = {name[2:-1]: number for number, name in enumerate(header[4:])}
    # The name of a single class may contain |.
    names = ([label] if label in numbers else label.split("|") for _, _, label, *_ in lines)
    return list(numbers), Predictions(
        clip_ids=[line[0] for line in lines],
        labels=[tuple(numbers[name] for name in own if name) for own in names],
        groups=[line[1] for line in lines],
        scores=np.array([[float(text) for text in line[4:]] for line in lines]),
    )


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def headline(result: Mapping[str, Any]) -> str:
    """A line with the metric of an evaluation, its interval and the chance level."""
    low, high = (percent(bound) for bound in result["interval"])
    note = interval_note(result["interval_by"], result["num_groups"], result["num_clips"])
    return (
        f"{result['metric'].replace('_', ' ')} {percent(result['value'])} (95% interval {low} to {high}{note}; chance "
        f"{percent(result['chance'])}) on {_clips(result)}"
    )


def _clips(result: Mapping[str, Any]) -> str:
    number = f"{result['num_clips']:,} clips"
    return f"all {number}" if result["split"] == "all" else f"{number} of {result['split']}"

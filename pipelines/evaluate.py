"""(6) How good a model is on one split of a data set.

python -m pipelines.evaluate runs/sweep/best SHARDS --split test
python -m pipelines.evaluate runs/sweep/best SHARDS --json
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ttrnn
from pipelines import cli
from pipelines.cli import UserError
from pipelines.fit import predict_split
from pipelines.metrics import METRICS, chance_level, score
from pipelines.recipe import TrainOptions, local_device, open_data, splits_of_run
from pipelines.storage import Location
from ttrnn.model import VideoClassifier

__all__ = ["EvaluateOptions", "evaluate", "evaluate_model", "load_model"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateOptions:
    """Measure a model on one split of a data set: accuracy, or mean average precision for clips with several labels."""

    model: str = cli.positional()
    """model directory, such as runs/sweep/best"""
    shards: str = cli.positional()
    """directory that preprocess wrote"""
    split: str = "test"
    """train, val or test"""
    folds: int | None = None
    """measure on folds that are dealt anew, as train has them; default: as the run learnt that the model lies in, else
    the splits as they are in SHARDS"""
    fold: int | None = None
    """with --folds: the part that is the test split, from 0"""
    split_by: str = "group"
    """with --folds: group or clip"""


def load_model(path: str | Path) -> VideoClassifier:
    """The model of a model directory or of a run, on the GPU where there is one. Raises UserError if it is damaged."""
    path = Path(path)
    if not (path / "model.safetensors").exists() and (path / "model" / "config.json").exists():
        path = path / "model"
    with cli.user_errors():
        model = ttrnn.load(path)
    return model.to(local_device())


def evaluate_model(
    model_dir: str | Path, shards_dir: str | Path | Location, split: str = "test", **splits: Any
) -> dict[str, Any]:
    """The metric of a model on a split, with what it takes to judge it.

    Args:
        model_dir: A model directory, or a run.
        shards_dir: The data.
        split: train, val or test.
        **splits: folds, fold and split_by as train has them; without them, those of the run that the model lies in if
            it learnt from these shards, else the splits as they were made.

    Returns:
        metric (its name), value (0 to 1), num_clips, chance (0 to 1), num_params, input_params, split, model, shards.

    Raises:
        UserError: damaged model or shards, or a data set whose frames or classes are not the model's.
    """
    splits = splits or splits_of_run(model_dir, shards_dir)
    with cli.user_errors():
        data = open_data(shards_dir, TrainOptions(shards=str(shards_dir), out=str(model_dir), **splits))
    model = load_model(model_dir)
    config = model.config
    frames = [(part.width, part.height, part.channels) for part in (config, data.frame)]
    if frames[0] != frames[1]:
        raise UserError(
            f"{model_dir} takes frames of {frames[0]} (width, height, channels), {shards_dir} has {frames[1]}; "
            "preprocess the videos at the model's size"
        )
    if config.task != data.task:
        raise UserError(
            f"{model_dir} is for {config.task} data, {shards_dir} is {data.task}; give data of the model's kind"
        )
    if config.classes != data.classes:
        raise UserError(
            f"{model_dir} knows the classes {', '.join(config.classes)}; {shards_dir} has {', '.join(data.classes)}"
        )
    clips = data.split(split)
    if not len(clips):
        raise UserError(f"{shards_dir} has no clips in its split {split!r}")
    scores, indices, _ = predict_split(model, clips)
    labels = [clips.labels[index] for index in indices]
    return {
        "metric": METRICS[config.task],
        "value": score(config.task, scores, labels),
        "num_clips": len(clips),
        "chance": chance_level(config.task, labels, len(config.classes)),
        "num_params": config.num_params,
        "input_params": config.input_params,
        "split": split,
        **splits,
        "model": str(model_dir),
        "shards": str(shards_dir),
    }


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """The command as a function."""
    splits = {"folds": options.folds, "fold": options.fold, "split_by": options.split_by}
    given = splits != {"folds": None, "fold": None, "split_by": "group"}
    return evaluate_model(options.model, options.shards, options.split, **(splits if given else {}))


def summary(result: dict[str, Any]) -> str:
    """What a person reads."""
    return (
        f"{result['metric'].replace('_', ' ')} {100 * result['value']:.1f}% on {result['num_clips']} clips of "
        f"{result['split']} (chance {100 * result['chance']:.1f}%), {result['num_params']:,} parameters, "
        f"{result['input_params']:,} of them input-to-hidden"
    )


def main(argv: list[str] | None = None) -> int:
    """The command; see the head of this file."""
    return cli.run(EvaluateOptions, evaluate, summary, argv)


if __name__ == "__main__":
    # As `python pipelines/evaluate.py` too: the same importable module either way.
    from pipelines.evaluate import main as importable_main

    sys.exit(importable_main())

"""(2) Train one model on shards.

    python -m pipelines.train SHARDS runs/gru --cell gru --ranks 4 --epochs 24
    python -m pipelines.train SHARDS runs/tiny --recurrent-ranks 4 --hidden-modes 4x4x4x4
    python -m pipelines.train SHARDS runs/dense --input dense
    python -m pipelines.train SHARDS runs/smaller --init runs/gru/model --ranks 2 --epochs 4
    python -m pipelines.train SHARDS runs/gru --resume
    python -m pipelines.train SHARDS s3://bucket/gru

Leaves RUN/config.json, metrics.jsonl (a line per epoch), summary.json, checkpoint/ (to resume) and model/ (best epoch
on the validation split); to look at, learning-curve.png, tensorboard/, and in val/ what the model makes of the
validation split, as evaluate writes it. `fit` is plain PyTorch and knows nothing of Ray; with --num-workers of two and
more, Ray Train runs it on each worker and torch.distributed averages the gradients.
"""

import dataclasses
import logging
import os
import shlex
import sys
from typing import Any

from pipelines.cluster.session import start_ray
from pipelines.core import command
from pipelines.core.text import duration, python
from pipelines.data.folds import open_folds
from pipelines.evaluation.evaluator import evaluate_dataset, headline
from pipelines.evaluation.metrics import METRICS
from pipelines.storage.bucket import working_copy
from pipelines.storage.location import Location
from pipelines.storage.output import prepare_out
from pipelines.training.distributed import fit_on_ray, following
from pipelines.training.head_node import serve_files
from pipelines.training.options import TrainOptions, flat_config
from pipelines.training.run_directory import RUN_LAYOUT, RunDirectory
from pipelines.training.setup import model_config, resolve_precision, starting_model, training_splits
from pipelines.training.tracking import Tracking, check_tracker
from pipelines.training.trainer import DivergedError, OnEpoch, fit
from ttrnn.files import atomic_directory

__all__ = ["train"]


log = logging.getLogger(__name__)


def train(options: TrainOptions) -> dict[str, Any]:
    """Makes or resumes the run in OUT, on this process or on Ray workers; gives summary.json with where it lies."""
    place = Location.of(options.out)
    with working_copy(place, RUN_LAYOUT, resume=options.resume, overwrite=options.overwrite) as out:
        result = _train(dataclasses.replace(options, out=str(out)))
    if place.is_local:
        return result
    return {**result, "out": str(place), "model": str(place / RunDirectory(out).model.name)}


def _train(options: TrainOptions) -> dict[str, Any]:
    # Absolute, since Ray's workers have a working directory of their own.
    shards = str(Location.of(options.shards).absolute())
    init = None if options.init is None else os.path.abspath(options.init)
    options = dataclasses.replace(options, shards=shards, out=os.path.abspath(options.out), init=init)
    check_tracker(options.track)
    options = resolve_precision(options)
    data = open_folds(options.shards, options.folding)
    training_splits(options, data)
    config = model_config(options, data)
    if options.init is not None and not options.resume:
        starting_model(options.init, config)
    run = RunDirectory(Location.of(options.out).local)
    if run.config_path.exists():
        # Other directories have a config.json too: --overwrite must not delete them.
        run.options()
    prepare_out(run.path, marker=RunDirectory.MARKER, overwrite=options.overwrite, resume=options.resume)
    run.claim(options, config)
    log.info(
        "%s, %s parameters, %s of them input-to-hidden (%s)",
        config.cell,
        f"{config.num_params:,}",
        f"{config.input_params:,}",
        config.input_shape,
    )
    settings = options.settings() | flat_config(options, config)
    with Tracking(run, settings, METRICS[config.task], options.track) as tracking:
        on_epoch = _on_epoch(tracking)
        if options.num_workers == 1:
            summary = fit(options, on_epoch)
        else:
            known = {"epochs_planned": options.epochs, "metric": METRICS[config.task]}
            with start_ray(), serve_files() as server, following(run, known, on_epoch):
                summary = fit_on_ray(options, server)
            if summary["state"] == "failed":
                raise DivergedError(summary["error"])
        # A run that watches the test split has that as its validation split, and says so.
        split = "test" if options.watch_test else "val"
        with atomic_directory(run.evaluation(split)) as files:
            measured = evaluate_dataset(run.model, data, split, files)
        tracking.finish(summary, [run.curve_path, run.summary_path, *sorted(run.evaluation(split).iterdir())])
    return {**summary, "measured": measured, "out": str(run), "model": str(run.model), "shards": options.shards}


def _on_epoch(tracking: Tracking) -> OnEpoch:
    """What is done after each epoch: a line for people, and the trackers."""
    times: list[float] = []

    def on_epoch(record: dict[str, Any]) -> None:
        times.append(record["time_s"])
        planned, number = record["epochs_planned"], record["epoch"]
        left_s = (planned - number) * sum(times) / len(times)
        log.info(
            "epoch %*d/%d  train loss %.3f  val loss %.3f  val %s %5.1f%%  %s frames/s  %s",
            len(str(planned)),
            number,
            planned,
            record["train_loss"],
            record["val_loss"],
            "accuracy" if record["metric"] == "accuracy" else "MAP",
            100 * record["val_metric"],
            f"{record['frames_per_s']:,.0f}",
            f"{duration(left_s)} left" if number < planned else "done",
        )
        tracking.update()

    return on_epoch


def summary(result: dict[str, Any]) -> str:
    """What a person reads at the end."""
    model, shards = shlex.quote(result["model"]), shlex.quote(result["shards"])
    return (
        f"{headline(result['measured'])}\n"
        f"epoch {result['best_epoch']} of {result['epochs']} is kept, {result['num_params']:,} parameters, "
        f"{duration(result['train_s'])}\n"
        f"model: {result['model']}\n"
        f"next:  {python()} -m pipelines.evaluate {model} {shards} --split test"
    )


def main(argv: list[str] | None = None) -> int:
    """The command; see the head of this file."""
    return command.run(TrainOptions, train, summary, argv)


if __name__ == "__main__":
    # As `python pipelines/train.py` too: the importable module is the one that Ray pickles by reference.
    from pipelines.train import main as importable_main

    sys.exit(importable_main())

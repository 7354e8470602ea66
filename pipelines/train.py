"""(2) Train one model on shards.

    python -m pipelines.train SHARDS runs/gru --cell gru --ranks 4 --epochs 24
    python -m pipelines.train SHARDS runs/tiny --recurrent-ranks 4 --hidden-modes 4x4x4x4
    python -m pipelines.train SHARDS runs/dense --input dense
    python -m pipelines.train SHARDS runs/smaller --init runs/gru/model --ranks 2 --epochs 4
    python -m pipelines.train SHARDS runs/taught --ranks 2 --teacher runs/gru/model
    python -m pipelines.train SHARDS runs/gru --resume
    python -m pipelines.train SHARDS s3://bucket/gru

Writes RUN/config.json, metrics.jsonl (a line per epoch), summary.json, checkpoint/ (to resume), model/ (best epoch on
the validation split), learning-curve.png, tensorboard/, and val/ (evaluation on the validation split, see evaluate).
With --num-workers 2 or more, Ray Train runs the training on each worker and torch.distributed averages the gradients.
"""

import dataclasses
import logging
import os
import sys
from typing import Any

from pipelines.cluster.session import start_ray
from pipelines.core import command
from pipelines.core.options import takes_options
from pipelines.data.folds import open_folds
from pipelines.data.kinds import Argument, check_arguments
from pipelines.evaluation.evaluator import evaluate_dataset
from pipelines.evaluation.metrics import METRICS
from pipelines.storage.bucket import working_copy
from pipelines.storage.location import Location
from pipelines.storage.output import prepare_out, refuse_existing, undone_if_refused
from pipelines.training.console import epoch_logger, run_summary
from pipelines.training.distributed import fit_on_ray, following
from pipelines.training.head_node import serve_files
from pipelines.training.options import TrainOptions, flat_config
from pipelines.training.run_directory import RUN_LAYOUT, RunDirectory
from pipelines.training.setup import model_config, resolve_precision, starting_model, training_splits
from pipelines.training.teacher import check_teachers
from pipelines.training.tracking import Tracking, check_tracker
from pipelines.training.trainer import DivergedError, fit
from ttrnn.files import atomic_directory

__all__ = ["train"]


log = logging.getLogger(__name__)


@takes_options(TrainOptions)
def train(options: TrainOptions) -> dict[str, Any]:
    """Trains or resumes the run in OUT; returns summary.json and the paths of the run."""
    check_arguments(
        "train",
        Argument("SHARDS", options.shards, ("shards",)),
        Argument("OUT", options.out, ("run",), is_out=True),
    )
    target = Location.of(options.out)
    with working_copy(target, RUN_LAYOUT, resume=options.resume, overwrite=options.overwrite) as out:
        result = _train(dataclasses.replace(options, out=str(out)))
    if target.is_local:
        return result
    return {**result, "out": str(target), "model": str(target / RunDirectory(out).model.name)}


def _train(options: TrainOptions) -> dict[str, Any]:
    # Absolute: the working directory of Ray's workers is another one.
    shards = str(Location.of(options.shards).absolute())
    init = None if options.init is None else os.path.abspath(options.init)
    teacher = ",".join(map(os.path.abspath, options.teacher_paths)) or None
    options = dataclasses.replace(options, shards=shards, out=os.path.abspath(options.out), init=init, teacher=teacher)
    check_tracker(options.track)
    run = RunDirectory(Location.of(options.out).local)
    if run.config_path.exists():
        # Raises UserError for the config.json of another program, whose directory --overwrite must not delete.
        run.options()
    refuse_existing(run.path, marker=RunDirectory.MARKER, overwrite=options.overwrite, resume=options.resume)
    options = resolve_precision(options)
    data = open_folds(options.shards, options.folding)
    training_splits(options, data)
    config = model_config(options, data)
    if options.init is not None and not options.resume:
        starting_model(options.init, config)
    check_teachers(options.teacher_paths, data)
    prepare_out(run.path, marker=RunDirectory.MARKER, overwrite=options.overwrite, resume=options.resume)
    run.claim(options, config)
    log.info(
        "%s, %s parameters, %s of them input-to-hidden (modes %s -> %s, ranks %s)",
        config.cell,
        f"{config.num_params:,}",
        f"{config.input_params:,}",
        config.in_modes,
        config.hidden_modes,
        config.ranks,
    )
    settings = options.settings() | flat_config(options, config)
    with (
        undone_if_refused(run.path, marker=RunDirectory.MARKER),
        Tracking(run, settings, METRICS[config.task], options.track) as tracking,
    ):
        log_epoch = epoch_logger()

        def on_epoch(record: dict[str, Any]) -> None:
            log_epoch(record)
            tracking.update()

        if options.num_workers == 1:
            summary = fit(options, on_epoch)
        else:
            constants = {"epochs_planned": options.epochs, "metric": METRICS[config.task]}
            with start_ray(), serve_files() as server, following(run, constants, on_epoch):
                summary = fit_on_ray(options, server)
            if summary["state"] == "failed":
                raise DivergedError(summary["error"])
        # With watch_test, the test split is the validation split.
        split = "test" if options.watch_test else "val"
        with atomic_directory(run.evaluation(split)) as files:
            measured = evaluate_dataset(run.model, data, split, files)
        tracking.finish(summary, [run.curve_path, run.summary_path, *sorted(run.evaluation(split).iterdir())])
    return {**summary, "measured": measured, "out": str(run), "model": str(run.model), "shards": options.shards}


def main(argv: list[str] | None = None) -> int:
    """The command; see the docstring of this module."""
    return command.run(TrainOptions, train, run_summary, argv)


if __name__ == "__main__":
    # Run the importable module, also for `python pipelines/train.py`: Ray pickles its functions by reference.
    from pipelines.train import main as importable_main

    sys.exit(importable_main())

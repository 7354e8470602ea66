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

import contextlib
import dataclasses
import json
import logging
import os
import shlex
import shutil
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from pipelines import cli
from pipelines.background import repeated
from pipelines.cli import StepError
from pipelines.cluster import devices, start_ray
from pipelines.evaluate import headline, measure
from pipelines.fit import DivergedError, OnEpoch, fit
from pipelines.home import kept_home
from pipelines.metrics import METRICS
from pipelines.mirror import working_copy
from pipelines.recipe import (
    TrainOptions,
    claim_run,
    flat_config,
    model_config,
    open_data,
    read_options,
    resolve_precision,
    starting_model,
    training_splits,
)
from pipelines.storage import Location, prepare_out
from pipelines.tracking import CURVE, Tracking, check_tracker
from pipelines.visit import visiting
from ttrnn.files import atomic_directory

__all__ = ["DivergedError", "TrainOptions", "fit", "fit_on_ray", "train"]

log = logging.getLogger(__name__)


def train(options: TrainOptions) -> dict[str, Any]:
    """Makes or resumes the run in OUT, on this process or on Ray workers; gives summary.json with where it lies."""
    place = Location.of(options.out)
    with working_copy(place, marker="config.json", resume=options.resume, overwrite=options.overwrite) as out:
        result = _train(dataclasses.replace(options, out=str(out)))
    return result if place.is_local else {**result, "out": str(place), "model": str(place / "model")}


def _train(options: TrainOptions) -> dict[str, Any]:
    # Absolute, since Ray's workers have a working directory of their own.
    shards = str(Location.of(options.shards).absolute())
    init = None if options.init is None else os.path.abspath(options.init)
    options = dataclasses.replace(options, shards=shards, out=os.path.abspath(options.out), init=init)
    check_tracker(options.track)
    options = resolve_precision(options)
    data = open_data(options.shards, options)
    training_splits(options, data)
    config = model_config(options, data)
    if options.init is not None and not options.resume:
        starting_model(options.init, config)
    if Path(options.out, "config.json").exists():
        # Other things have a config.json too: --overwrite must not delete them.
        read_options(Path(options.out, "config.json"))
    out = Location.of(options.out).local
    prepare_out(out, marker="config.json", overwrite=options.overwrite, resume=options.resume)
    claim_run(out, options, config)
    log.info(
        "%s, %s parameters, %s of them input-to-hidden (%s)",
        config.cell,
        f"{config.num_params:,}",
        f"{config.input_params:,}",
        config.input_shape,
    )
    settings = options.settings() | flat_config(options, config)
    with Tracking(out, settings, METRICS[config.task], options.track) as tracking:
        on_epoch = _on_epoch(tracking)
        if options.num_workers == 1:
            summary = fit(options, on_epoch)
        else:
            known = {"epochs_planned": options.epochs, "metric": METRICS[config.task]}
            with start_ray(), kept_home() as home, _following(out / "metrics.jsonl", known, on_epoch):
                summary = fit_on_ray(options, home)
            if summary["state"] == "failed":
                raise DivergedError(summary["error"])
        # A run that watches the test split has that as its validation split, and says so.
        split = "test" if options.watch_test else "val"
        with atomic_directory(out / split) as files:
            measured = measure(out / "model", data, split, files)
        tracking.finish(summary, [out / CURVE, out / "summary.json", *sorted((out / split).iterdir())])
    return {**summary, "measured": measured, "out": str(out), "model": str(out / "model"), "shards": options.shards}


def fit_on_ray(
    options: TrainOptions, home: str | None, callbacks: list[Any] | None = None, name: str | None = None
) -> dict[str, Any]:
    """`fit` on options.num_workers Ray Train workers; a worker that dies brings all back to the last checkpoint.

    Args:
        options: OUT is a directory of this node, and this node is home.
        home: For workers on other nodes, as home.kept_home gives it.
        callbacks: Of Ray Train.
        name: Of the run, to Ray.

    Raises:
        StepError: there is no room for the workers, for long.
    """
    # Each report waits for the next health check, 2 s apart by default.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
    # Four times so long it waits for a node in place of one that is lost; in a minute each, the default, none boots.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            # One of them starts a process that outlives a driver which is killed, for ever: it waits for what only
            # Ray's dashboard tells, which is not installed.
            callbacks = super()._create_default_callbacks()  # type: ignore[misc]
            return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]

    device, _ = devices(options.num_workers)
    out = Path(options.out)
    trainer = Trainer(
        _fit_worker,
        train_loop_config={"options": dataclasses.asdict(options), "home": home},
        scaling_config=ScalingConfig(num_workers=options.num_workers, use_gpu=device == "GPU"),
        # A name that was there before would silently resume.
        run_config=RunConfig(
            name=name or f"train-{uuid.uuid4().hex[:8]}",
            storage_path=str(out / ".ray"),
            failure_config=FailureConfig(max_failures=3, controller_failure_limit=3),  # type: ignore[call-arg]
            callbacks=callbacks or [],
        ),
    )
    try:
        _in_a_thread(trainer.fit)
    except ControllerError as error:
        reason = str(error).splitlines()[-1].split(". ")[0]
        raise StepError(
            f"{options.num_workers} workers could not be started, or kept: {reason}; when there are as many free "
            f"{device}s, go on with --resume"
        ) from error
    shutil.rmtree(out / ".ray", ignore_errors=True)
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return summary


def _in_a_thread(function: Callable[[], Any]) -> None:
    """Calls it, raising what it raises. In the main thread Ray would take Ctrl-C for itself, and for good."""
    outcome: Future[Any] = Future()

    def call() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    outcome.result()


def _fit_worker(config: dict[str, Any]) -> None:
    import ray.train

    options = TrainOptions(**config["options"])
    is_writer = ray.train.get_context().get_world_rank() == 0
    with visiting(config["home"], options.out, is_writer=is_writer) as visit:

        def report(record: dict[str, Any]) -> None:
            visit.send()
            ray.train.report(record)

        try:
            summary = fit(visit.brought(options), report, visit.send)
        except DivergedError as error:
            # To Ray it would be a fault to try again, with the same end.
            summary = error.summary
    # Once more: a run that had finished when its driver died still owes a report.
    ray.train.report({**summary, "epoch": summary["epochs"]})


@contextlib.contextmanager
def _following(metrics: Path, known: dict[str, Any], on_epoch: OnEpoch) -> Iterator[None]:
    """Passes on the lines that workers, maybe on other machines, add to metrics.jsonl, with what else is known."""

    def whole_lines() -> list[str]:
        lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True) if metrics.exists() else []
        return [line for line in lines if line.endswith("\n")]

    # Those of a run that is resumed were told when they were new.
    seen = len(whole_lines())

    def read() -> None:
        nonlocal seen
        for line in whole_lines()[seen:]:
            record = json.loads(line)
            on_epoch({**record, **known, "epoch_val_metric": record["val_metric"]})
            seen += 1

    try:
        with repeated(read, 1):
            yield
    finally:
        read()


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
            100 * record["epoch_val_metric"],
            f"{record['frames_per_s']:,.0f}",
            f"{cli.duration(left_s)} left" if number < planned else "done",
        )
        tracking.update()

    return on_epoch


def summary(result: dict[str, Any]) -> str:
    """What a person reads at the end."""
    model, shards = shlex.quote(result["model"]), shlex.quote(result["shards"])
    return (
        f"{headline(result['measured'])}\n"
        f"epoch {result['best_epoch']} of {result['epochs']} is kept, {result['num_params']:,} parameters, "
        f"{cli.duration(result['train_s'])}\n"
        f"model: {result['model']}\n"
        f"next:  {cli.python()} -m pipelines.evaluate {model} {shards} --split test"
    )


def main(argv: list[str] | None = None) -> int:
    """The command; see the head of this file."""
    return cli.run(TrainOptions, train, summary, argv)


if __name__ == "__main__":
    # As `python pipelines/train.py` too: the importable module is the one that Ray pickles by reference.
    from pipelines.train import main as importable_main

    sys.exit(importable_main())

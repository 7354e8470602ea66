"""Train one model on several Ray Train workers."""

import contextlib
import dataclasses
import os
import shutil
import uuid
from collections.abc import Iterator
from typing import Any

from pipelines.cluster.interrupts import run_in_thread
from pipelines.cluster.ray_internals import torch_trainer
from pipelines.cluster.slots import count_groups
from pipelines.core.errors import StepError
from pipelines.core.periodic import repeated
from pipelines.training.options import TrainOptions
from pipelines.training.run_directory import RunDirectory
from pipelines.training.staging import staged_run
from pipelines.training.trainer import DivergedError, OnEpoch, fit

__all__ = ["fit_on_ray", "following"]


def fit_on_ray(
    options: TrainOptions, server: str | None, callbacks: list[Any] | None = None, name: str | None = None
) -> dict[str, Any]:
    """Runs `fit` on options.num_workers Ray Train workers. If one dies, all are restarted from the last checkpoint.

    Args:
        options: OUT is a directory of this node, which is the head node.
        server: Name of the file server for workers on other nodes, from `serve_files`.
        callbacks: Callbacks for Ray Train.
        name: Name of the run in Ray.

    Raises:
        StepError: the cluster has had no room for the workers for a long time.
    """
    # Each report waits for the next health check; by default these are 2 s apart.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
    # Ray Train waits four times this long for the replacement of a lost node; the default of 60 s is too short.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig

    device, _ = count_groups(options.num_workers)
    run = RunDirectory(options.out)
    trainer = torch_trainer()(
        _fit_worker,
        train_loop_config={"options": dataclasses.asdict(options), "server": server},
        scaling_config=ScalingConfig(num_workers=options.num_workers, use_gpu=device == "GPU"),
        # With a name that exists, Ray Train would silently resume that run.
        run_config=RunConfig(
            name=name or f"train-{uuid.uuid4().hex[:8]}",
            storage_path=str(run.ray_state),
            failure_config=FailureConfig(max_failures=3, controller_failure_limit=3),  # type: ignore[call-arg]
            callbacks=callbacks or [],
        ),
    )
    try:
        run_in_thread(trainer.fit)
    except ControllerError as error:
        reason = str(error).splitlines()[-1].split(". ")[0]
        raise StepError(
            f"{options.num_workers} workers could not be started or did not stay alive: {reason}; resume with --resume "
            f"when {options.num_workers} {device}s are free"
        ) from error
    shutil.rmtree(run.ray_state, ignore_errors=True)
    return run.summary()


def _fit_worker(config: dict[str, Any]) -> None:
    import ray.train

    options = TrainOptions(**config["options"])
    is_writer = ray.train.get_context().get_world_rank() == 0
    with staged_run(config["server"], options.out, is_writer=is_writer) as staged:

        def report(record: dict[str, Any]) -> None:
            staged.upload()
            ray.train.report(record)

        try:
            summary = fit(staged.localized(options), report, staged.upload)
        except DivergedError as error:
            # An error would make Ray retry, with the same outcome.
            summary = error.summary
    # A run that had finished when its driver was killed has not made its last report.
    ray.train.report({**summary, "epoch": summary["epochs"], "best_val_metric": summary["val_metric"]})


@contextlib.contextmanager
def following(run: RunDirectory, constants: dict[str, Any], on_epoch: OnEpoch) -> Iterator[None]:
    """Calls `on_epoch` with the lines that the workers, on any node, add to metrics.jsonl while the block runs.

    Args:
        run: The run that the workers train.
        constants: Values that are added to each line.
        on_epoch: Called with each new line; not with those that a resumed run already has.
    """
    num_read = len(run.metrics())

    def read() -> None:
        nonlocal num_read
        for record in run.metrics()[num_read:]:
            on_epoch({**record, **constants})
            num_read += 1

    try:
        with repeated(read, 1):
            yield
    finally:
        read()

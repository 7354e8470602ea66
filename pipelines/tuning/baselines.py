"""Plan the baselines of a sweep: the simple models that its frontier is held against, and on request a dense GRU."""

import logging
from collections.abc import Mapping
from typing import Any

from pipelines.baselines.sizes import TARGETS, baseline_options
from pipelines.cluster.slots import Slots
from pipelines.core.text import duration
from pipelines.data.dataset import ShardDataset
from pipelines.data.loader import num_steps
from pipelines.training.memory import measure_step, step_bytes
from pipelines.training.options import TrainOptions
from pipelines.training.queue import Training
from pipelines.training.run_directory import ENDED, RunDirectory
from pipelines.training.setup import any_model_config, model_config, resolve_precision
from pipelines.training.teacher import teacher_macs
from pipelines.tuning.options import SweepOptions
from pipelines.tuning.sweep_directory import SweepDirectory

__all__ = ["announce", "baseline_trainings", "settle", "targets"]

log = logging.getLogger(__name__)

# Of 1/100 and 1/50 the better one on spoken words.
_LR = 1e-2
_DENSE = {"input": "dense", "hidden_modes": "4x4x4x4", "lr": 3e-3}
# With fewer trials, baselines of three sizes would take more than a fifth of the time of the sweep.
_TRIALS_FOR_ALL_SIZES = 16


def targets(num_trials: int) -> tuple[int, ...]:
    """The sizes of baselines for a sweep: all three from 16 trials on, below that the middle one only."""
    return TARGETS if num_trials >= _TRIALS_FOR_ALL_SIZES else TARGETS[1:2]


def baseline_trainings(
    options: SweepOptions, common: Mapping[str, Any], sweep: SweepDirectory, data: ShardDataset, slots: Slots
) -> tuple[list[Training], list[Training]]:
    """The baselines to train or to resume, by `options.baselines`: (those between the trials, the one after them).

    They are trained like the trials: `common` has what was found out about the data, and the teacher. A baseline is
    left out if it is above --max-params or needs more memory than a node has.

    Args:
        options: Of the sweep.
        common: Options of train that are the same for all trials.
        sweep: The directory of the sweep.
        data: The data set.
        slots: Their memory.
    """
    if options.baselines == "none":
        return [], []
    chosen = baseline_options(data.frame.shape, len(data.classes), targets(options.most_trials))
    limit = options.max_params
    small = [
        training
        for name, values in chosen.items()
        if (training := _training(name, {"lr": _LR, **values, **common}, sweep, data, slots)) is not None
        and (limit is None or training.model.num_params <= limit)
    ]
    dense = None
    if options.baselines == "dense":
        dense = _training("dense", {**_DENSE, **common}, sweep, data, slots)
    return small, [] if dense is None else [dense]


def _training(
    name: str, values: Mapping[str, Any], sweep: SweepDirectory, data: ShardDataset, slots: Slots
) -> Training | None:
    """None if it has ended, or does not fit the memory."""
    run = sweep.run(name)
    if run.summary().get("state") in ENDED:
        return None
    options = TrainOptions(**{**values, "shards": str(data.place), "out": str(run)})
    model = any_model_config(options, data)
    longest = max(int(data.split(split).lengths.max(initial=0)) for split in ("train", "val"))
    memory_bytes = step_bytes(model, options.batch_size, longest, slots.device_type, data.codec)
    if memory_bytes > slots.memory_bytes:
        log.warning(
            "the baseline %s is left out: it needs %.1f GB, the largest node has %.1f GB",
            name,
            memory_bytes / 1e9,
            slots.memory_bytes / 1e9,
        )
        return None
    return Training(
        name=name,
        options=options,
        model=model,
        memory_bytes=memory_bytes,
        is_baseline=True,
        teacher_macs=teacher_macs(options.teacher),
    )


def announce(training: Training, data: ShardDataset) -> None:
    """Logs the costs of the dense baseline."""
    options, model = resolve_precision(training.options), model_config(training.options, data)
    step, train, val = measure_step(options, model), data.split("train"), data.split("val")
    frames = [int(split.lengths.sum()) for split in (train, val)]
    epoch_s = step.training_s(num_steps(len(train), options.batch_size), *frames)
    log.info(
        "the dense baseline is trained after the trials: %s parameters, about %.1f GB of memory and %s on one "
        "worker of this machine",
        f"{model.num_params:,}",
        training.memory_bytes / 1e9,
        duration(options.epochs * epoch_s),
    )


def settle(training: Training, error: str | None) -> None:
    """Records that a baseline has failed; removes the checkpoint of one that has ended."""
    run = RunDirectory(training.options.out)
    if error is not None:
        run.add_to_summary(state="failed", error=error)
    if run.summary().get("state") in ENDED:
        run.remove_checkpoint()

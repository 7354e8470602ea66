"""Judge before a sweep whether there is enough data to choose between models, and estimate its time and disk space."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pipelines.cluster.slots import Slots
from pipelines.core.text import duration, plural, program
from pipelines.data.dataset import ShardDataset, Split
from pipelines.data.loader import num_steps
from pipelines.data.rejected import read_rejected
from pipelines.evaluation.bootstrap import independent_units
from pipelines.evaluation.compare import smallest_difference
from pipelines.training.memory import measure_step
from pipelines.training.queue import Training
from pipelines.training.setup import resolve_precision
from pipelines.tuning.options import SweepOptions
from pipelines.tuning.time_left import Forecast
from ttrnn.model import ModelConfig

__all__ = ["check_data", "cost_text", "forecast_of", "measured_epoch"]

# With a larger smallest difference, repeated folds are recommended.
_FEW = 0.1
_FOLDS = 5
# Bytes of a finished run: those of its records, and those of each parameter; measured in the demo's sweep.
_RUN_BYTES, _PARAMETER_BYTES = 20e3, 4


def check_data(data: ShardDataset) -> dict[str, Any]:
    """Counts the clips, and computes how small a difference between two models the validation clips can show.

    Returns:
        clips_per_class {split: {class: number}}, classes_without_val, num_val_units and val_unit (clip, or group if
        clips of a group are not independent), smallest_difference (0 to 1; None for several labels per clip), rejected
        {reason: number}, folds (a command that repeats trainings on folds, if there are few clips), and text: all of it
        in sentences.
    """
    splits = {name: data.split(name) for name in data.splits}
    counts = {name: _per_class(split, data.classes) for name, split in splits.items()}
    without = [name for name in data.classes if not counts.get("val", {}).get(name)]
    unit, num_units = _units(splits["val"])
    least = smallest_difference(num_units) if data.task == "single_label" else None
    rejected = dict(Counter(reason for _, reason in read_rejected(data.place)).most_common())
    folds = _folds(data) if least is not None and least > _FEW else None
    text = [
        "clips per class: " + "; ".join(f"{name} {_range(own)}" for name, own in counts.items()),
        *([f"without validation clips: {', '.join(without)}"] if without else []),
        *([] if least is None else [_difference_text(least, num_units, unit, len(splits["val"]))]),
        *([_rejected_text(rejected)] if rejected else []),
        *([] if folds is None else [_folds_text(data, folds)]),
    ]
    return {
        "clips_per_class": counts,
        "classes_without_val": without,
        "num_val_units": num_units,
        "val_unit": unit,
        "smallest_difference": least,
        "rejected": rejected,
        "folds": folds,
        "text": text,
    }


def _per_class(split: Split, classes: Sequence[str]) -> dict[str, int]:
    counts = Counter(label for labels in split.labels for label in labels)
    return {name: counts[label] for label, name in enumerate(classes)}


def _units(split: Split) -> tuple[str, int]:
    if not len(split):
        return "clip", 0
    unit, numbers = independent_units(split.groups)
    return unit, int(numbers.max()) + 1


def _range(counts: Mapping[str, int]) -> str:
    least, most = min(counts, key=lambda name: counts[name]), max(counts, key=lambda name: counts[name])
    if counts[least] == counts[most]:
        return f"{counts[least]:,} each"
    return f"{counts[least]:,} ({least}) to {counts[most]:,} ({most})"


def _difference_text(least: float, num_units: int, unit: str, num_clips: int) -> str:
    what = f"{num_clips:,} validation clips" + (f" of {num_units:,} groups" if unit == "group" else "")
    return f"{what}: a difference of less than {100 * least:.0f} points between two models may be chance"


def _rejected_text(rejected: Mapping[str, int]) -> str:
    total = sum(rejected.values())
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in rejected.items())
    return f"{plural(total, 'clip')} rejected: {reasons}"


def _folds(data: ShardDataset) -> str | None:
    """A command that trains and tests a model on each fold; None if a class has too few groups or clips for folds."""
    clips = data.clips()
    units: dict[int, set[str]] = {label: set() for label in range(len(data.classes))}
    for clip_id, group, labels in zip(clips.clip_ids, clips.groups, clips.labels, strict=True):
        for label in labels:
            units[label].add(group or clip_id)
    folds = min(_FOLDS, *map(len, units.values()))
    if folds < 3:
        return None
    run, numbers, shards = "runs/fold$fold", " ".join(map(str, range(folds))), shlex.quote(str(data.place))
    return (
        f"for fold in {numbers}; do {program('train')} {shards} {run} --folds {folds} --fold $fold && "
        f"{program('evaluate')} {run} {shards}; done"
    )


def _folds_text(data: ShardDataset, command: str) -> str:
    clips = data.clips()
    least = smallest_difference(_units(clips)[1])
    return (
        f"compare models by their means over repeated folds, which test all {len(clips):,} clips ({100 * least:.0f} "
        f"points): {command}"
    )


def forecast_of(data: ShardDataset, options: SweepOptions, num_slots: int) -> Forecast:
    """The forecast of a sweep that has not begun."""
    train, val = (data.split(name).lengths for name in ("train", "val"))
    return Forecast(
        # A frame of validation costs about a third of one of training.
        num_frames=float(train.sum() + val.sum() / 3),
        num_clips=len(train),
        num_slots=num_slots,
        num_seeds=options.confirm,
        refines=options.refine,
    )


def measured_epoch(training: Training, forecast: Forecast, slots: Slots) -> float:
    """The expected seconds of an epoch, from a few steps on this node with the threads of a training."""
    assert isinstance(training.model, ModelConfig)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(slots.cpus_per_worker)
    try:
        step = measure_step(resolve_precision(training.options), training.model)
    finally:
        torch.set_num_threads(num_threads)
    return step.training_s(num_steps(forecast.num_clips, training.options.batch_size), forecast.num_frames)


def cost_text(options: SweepOptions, data: ShardDataset, usual: Training, forecast: Forecast) -> str:
    """The expected time and disk space of a sweep, if all models whose sizes are not known cost as much as one."""
    total_s = forecast.seconds(0.0, [], 60 * options.time_budget if options.time_budget else float("inf"))
    shards = sum(shard["num_bytes"] for split in data.splits.values() for shard in split["shards"])
    models = options.most_trials * (_RUN_BYTES + _PARAMETER_BYTES * usual.model.num_params)
    what = f"{plural(options.most_trials, 'trial')} of {plural(options.epochs_per_trial, 'epoch')}"
    what += ", refinements" if options.refine else ""
    what += f", {options.confirm} replications of each point" if options.confirm else ""
    what += f", {forecast.num_slots} at a time"
    return (
        f"{what}: about {duration(total_s or 0.0)} of training and {models / 1e6:,.0f} MB, "
        f"beside {shards / 1e6:,.0f} MB of shards, if most models cost as much as one of "
        f"{usual.model.num_params:,} parameters, of which a few steps were measured"
    )

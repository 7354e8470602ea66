"""Estimate parameters, memory and time of a reproduction, without training anything or writing files."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.cluster.slots import local_device
from pipelines.core.text import duration
from pipelines.data.catalog import read_catalog
from pipelines.data.dataset import ShardDataset
from pipelines.data.estimate import expected_frames
from pipelines.data.folds import open_folds
from pipelines.data.loader import num_steps
from pipelines.data.options import PreprocessOptions
from pipelines.data.shards import DATASET_JSON
from pipelines.data.splits import SPLITS, SplitOptions
from pipelines.evaluation.metrics import METRICS
from pipelines.paper.protocols import PaperRun, ReproduceOptions, plan_runs
from pipelines.paper.table import plain_table
from pipelines.storage.location import Location
from pipelines.training.memory import free_bytes, measure_step, step_bytes
from pipelines.training.options import TrainOptions
from pipelines.training.setup import model_config, resolve_precision
from pipelines.video.frame import FrameSize
from search_spaces.paper import EXPERIMENTS
from ttrnn.model import ModelConfig

__all__ = ["dry_run", "dry_run_summary"]


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Size and kind of a data set without shards."""

    whence: str
    """where the numbers come from"""
    classes: tuple[str, ...]
    task: str
    num_clips: int
    num_test_clips: int
    mean_frames: float


def dry_run(options: ReproduceOptions) -> dict[str, Any]:
    """Estimates parameters, memory and time of each model, without training anything or writing files.

    The numbers of frames and clips are those of the shards, if DATA or OUT has some, else estimates from the videos,
    or, without DATA, those of the paper.

    Returns:
        dataset, dry_run, models (a line for each), whence (origin of the numbers of frames), num_train_frames and
        num_steps (of an epoch), device, free_bytes, total_s (of all runs in sequence), num_together (runs at a time).

    Raises:
        UserError: DATA cannot be split as the protocols require.
    """
    source = _shards_if_any(options) or _scale(options)
    data = source if isinstance(source, ShardDataset) else _placeholder(options.dataset, source)
    runs = plan_runs(options, "", Path(options.out), data)
    first = {run.protocol: run.train for run in reversed(runs)}
    amounts = {protocol: _amounts(first[protocol], source) for protocol in options.protocols}
    longest = options.max_frames or EXPERIMENTS[options.dataset].max_frames
    if isinstance(source, ShardDataset):
        longest = int(data.clips().lengths.max())
    lines, threads = [], torch.get_num_threads()
    torch.set_num_threads(options.cpus_per_run)
    try:
        for model in options.models:
            train = resolve_precision(next(run for run in runs if run.model == model).train)
            lines.append(_line(model, train, model_config(train, data), longest, amounts, runs))
    finally:
        torch.set_num_threads(threads)
    num_steps, num_frames, _ = amounts[options.protocols[0]]
    device = local_device().type
    return {
        "dataset": options.dataset,
        "dry_run": True,
        "models": lines,
        "whence": "of the shards" if isinstance(source, ShardDataset) else source.whence,
        "num_train_frames": round(num_frames),
        "num_steps": num_steps,
        "device": device,
        "free_bytes": free_bytes(device),
        "total_s": sum(line["total_s"] for line in lines),
        "num_together": max(1, (os.cpu_count() or 1) // options.cpus_per_run) if device == "cpu" else 1,
    }


def _line(
    model: str,
    train: TrainOptions,
    config: ModelConfig,
    longest: int,
    amounts: Mapping[str, tuple[int, float, float]],
    runs: Sequence[PaperRun],
) -> dict[str, Any]:
    """The estimates for a model: of an epoch and a run for the first protocol, and of all runs for all protocols."""
    time = measure_step(train, config)
    log.info("%s: %.0f us per frame", model, 1e6 * time.frame_s)
    seconds = {protocol: train.epochs * time.training_s(*amount) for protocol, amount in amounts.items()}
    run_s, model_runs = next(iter(seconds.values())), [run for run in runs if run.model == model]
    device = local_device().type
    memory_bytes = step_bytes(config, train.batch_size, longest, device)
    return {
        "model": model,
        "in_modes": config.in_modes,
        "hidden_modes": config.hidden_modes,
        "ranks": config.ranks,
        "input_params": config.input_params,
        "num_params": config.num_params,
        "compression": config.frame_size * config.input_shape.out_features / config.input_params,
        "memory_bytes": memory_bytes,
        "fits": memory_bytes <= free_bytes(device),
        "step_s": time.step_s,
        "frame_s": time.frame_s,
        "frames_per_s": 1 / time.frame_s,
        "epochs": train.epochs,
        "epoch_s": run_s / train.epochs,
        "run_s": run_s,
        "num_runs": len(model_runs),
        "total_s": sum(seconds[run.protocol] for run in model_runs),
    }


def _shards_if_any(options: ReproduceOptions) -> ShardDataset | None:
    for location in (Location.of(options.data), Location.of(options.out) / "shards"):
        if options.data and (location / DATASET_JSON).exists():
            return ShardDataset.open(location.absolute())
    return None


def _scale(options: ReproduceOptions) -> _Scale:
    """The size of the data set, from the names and some headers of the videos, or from the paper."""
    experiment = EXPERIMENTS[options.dataset]
    longest = options.max_frames or experiment.max_frames
    if not options.data:
        return _Scale(
            "from the paper",
            tuple(f"class {number}" for number in range(experiment.num_classes)),
            next(task for task, metric in METRICS.items() if metric == experiment.metric),
            experiment.num_clips,
            experiment.num_test_clips,
            min(experiment.mean_frames, longest),
        )
    catalog = read_catalog(options.data, splits=SplitOptions(allow_group_leak=experiment.folds is not None))
    clips = catalog.clips
    mean_frames = expected_frames(clips, PreprocessOptions(videos=options.data, out=options.out, max_frames=longest))
    num_test = sum(clip.split == "test" for clip in clips)
    whence = "estimated from the headers of some videos"
    return _Scale(whence, catalog.classes, catalog.task, len(clips), num_test, mean_frames or experiment.mean_frames)


def _amounts(train: TrainOptions, source: ShardDataset | _Scale) -> tuple[int, float, float]:
    """Numbers of steps, training frames and validation frames of an epoch."""
    if isinstance(source, ShardDataset):
        splits = open_folds(source.place, train.folding)
        lengths = [splits.split(name).lengths for name in ("train", "val")]
        return num_steps(len(lengths[0]), train.batch_size), float(lengths[0].sum()), float(lengths[1].sum())
    num_val = source.num_clips // train.folds if train.folds else source.num_test_clips
    num_train = source.num_clips - num_val
    if not train.watch_test:
        num_val = round(num_train * SPLITS["val"] / (SPLITS["train"] + SPLITS["val"]))
        num_train -= num_val
    return num_steps(num_train, train.batch_size), num_train * source.mean_frames, num_val * source.mean_frames


def _placeholder(dataset: str, scale: _Scale) -> ShardDataset:
    """A data set without shards, from which model configurations can be made."""
    return ShardDataset(
        place=Location.of("."),
        classes=scale.classes,
        task=scale.task,
        frame=FrameSize(EXPERIMENTS[dataset].width, EXPERIMENTS[dataset].height, 3),
        sampling={},
        mean=(128.0,),
        std=(1.0,),
        splits={},
    )


def dry_run_summary(result: dict[str, Any]) -> str:
    """Formats the result of `dry_run` as a table."""
    header = ["model", "input modes", "ranks", "input params", "compression", "all params", "memory"]
    lines = [
        [
            line["model"],
            line["in_modes"],
            line["ranks"],
            f"{line['input_params']:,}",
            f"{line['compression']:,.0f}",
            f"{line['num_params']:,}",
            f"{line['memory_bytes'] / 1e9:.1f} GB" + ("" if line["fits"] else ": does not fit"),
            f"{1e6 * line['frame_s']:.0f} us",
            f"{1e3 * line['step_s']:.0f} ms",
            duration(line["epoch_s"]),
            duration(line["run_s"]),
            f"{line['total_s'] / 3600:,.1f} h",
        ]
        for line in result["models"]
    ]
    runs, epochs = result["models"][0]["num_runs"], result["models"][0]["epochs"]
    header += ["per frame", "+ per step", "epoch", f"{epochs:,} epochs", f"{runs:,} runs"]
    hours, number = result["total_s"] / 3600, result["num_together"]
    parts = [
        plain_table(header, lines, f"{result['dataset']}: estimated cost of the table"),
        f"{result['num_train_frames']:,} frames in {result['num_steps']:,} steps per epoch ({result['whence']}); times "
        f"measured in a few steps on random frames on this {result['device']}, with its current load",
        f"memory by the formula of pipelines.training.memory.step_bytes; {result['free_bytes'] / 1e9:.1f} GB are free",
        f"{hours:,.1f} h for all runs in sequence, {hours / number:,.1f} h with {number} at a time",
    ]
    return "\n".join(parts)

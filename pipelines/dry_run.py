"""What a reproduction would take, with nothing trained and nothing written: shapes, parameters, memory, time."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines import cli
from pipelines.batches import num_steps
from pipelines.cost import free_bytes, measure_step, step_bytes
from pipelines.metrics import METRICS
from pipelines.protocols import ReproduceOptions, plan_runs
from pipelines.recipe import TrainOptions, local_device, model_config, open_data, resolve_precision
from pipelines.runs import Run
from pipelines.shards import DATASET_JSON, Frame, ShardDataset
from pipelines.splits import SPLITS
from pipelines.storage import Location
from pipelines.table import plain_table
from search_spaces.paper import EXPERIMENTS
from ttrnn.model import ModelConfig

__all__ = ["dry_run", "dry_run_summary"]

log = logging.getLogger(__name__)


def dry_run(options: ReproduceOptions) -> dict[str, Any]:
    """Shapes, parameters, memory and time of each model, with nothing trained and nothing written."""
    data = _shards_if_any(options)
    experiment, device = EXPERIMENTS[options.dataset], local_device().type
    runs = plan_runs(options, "", Path(options.out), data)
    amounts = {protocol: _amounts(options, protocol, runs, data) for protocol in options.protocols}
    longest = int(data.clips().lengths.max()) if data else options.max_frames or experiment.max_frames
    free, lines = free_bytes(device), []
    threads = torch.get_num_threads()
    torch.set_num_threads(options.cpus_per_run)
    try:
        for model in options.models:
            own = [run for run in runs if run.model == model]
            train = resolve_precision(own[0].train)
            config = _config(train, options.dataset, data)
            time = measure_step(train, config)
            seconds = {protocol: train.epochs * time.training_s(*amount) for protocol, amount in amounts.items()}
            needs = step_bytes(config, train.batch_size, longest, device)
            lines.append(
                {
                    "model": model,
                    "in_modes": config.in_modes,
                    "hidden_modes": config.hidden_modes,
                    "ranks": config.ranks,
                    "input_params": config.input_params,
                    "num_params": config.num_params,
                    "compression": config.frame_size * config.input_shape.out_features / config.input_params,
                    "memory_bytes": needs,
                    "fits": needs <= free,
                    "step_s": time.step_s,
                    "frame_s": time.frame_s,
                    "frames_per_s": 1 / time.frame_s,
                    "epochs": train.epochs,
                    "epoch_s": seconds[options.protocols[0]] / train.epochs,
                    "run_s": seconds[options.protocols[0]],
                    "num_runs": len(own),
                    "total_s": sum(seconds[run.protocol] for run in own),
                }
            )
            log.info("%s: %.0f us a frame", model, 1e6 * time.frame_s)
    finally:
        torch.set_num_threads(threads)
    num_steps, num_frames, _ = amounts[options.protocols[0]]
    return {
        "dataset": options.dataset,
        "dry_run": True,
        "models": lines,
        "assumed": data is None,
        "num_train_frames": round(num_frames),
        "num_steps": num_steps,
        "device": device,
        "free_bytes": free,
        "total_s": sum(line["total_s"] for line in lines),
        "num_together": max(1, (os.cpu_count() or 1) // options.cpus_per_run) if device == "cpu" else 1,
    }


def _shards_if_any(options: ReproduceOptions) -> ShardDataset | None:
    """The shards that DATA is, or that OUT has of it already; None without them: then the paper's numbers stand in."""
    for place in (Location.of(options.data), Location.of(options.out) / "shards"):
        if options.data and (place / DATASET_JSON).exists():
            return ShardDataset.open(place.absolute())
    return None


def _amounts(
    options: ReproduceOptions, protocol: str, runs: Sequence[Run], data: ShardDataset | None
) -> tuple[int, float, float]:
    """Of an epoch in a protocol's first run: steps, frames that are learnt from, frames that are watched."""
    experiment = EXPERIMENTS[options.dataset]
    train = next(run for run in runs if run.protocol == protocol).train
    if data is not None:
        splits = open_data(data.place, train)
        lengths = {name: splits.split(name).lengths for name in ("train", "val")}
        return num_steps(len(lengths["train"]), train.batch_size), float(lengths["train"].sum()), lengths["val"].sum()
    watched = experiment.num_clips // train.folds if train.folds else experiment.num_test_clips
    learnt = experiment.num_clips - watched
    if protocol == "ours":
        watched = round(learnt * SPLITS["val"] / (SPLITS["train"] + SPLITS["val"]))
        learnt -= watched
    mean_frames = min(experiment.mean_frames, options.max_frames or experiment.max_frames)
    return num_steps(learnt, train.batch_size), learnt * mean_frames, watched * mean_frames


def _config(train: TrainOptions, dataset: str, data: ShardDataset | None) -> ModelConfig:
    """A run's model: on the data, or on frames and classes as the paper has them."""
    if data is not None:
        return model_config(train, data)
    experiment = EXPERIMENTS[dataset]
    nothing = ShardDataset(
        place=Location.of("."),
        classes=tuple(f"class {number}" for number in range(experiment.num_classes)),
        task=next(task for task, metric in METRICS.items() if metric == experiment.metric),
        frame=Frame(experiment.width, experiment.height, 3),
        sampling={},
        mean=(128.0,),
        std=(1.0,),
        splits={},
    )
    return model_config(train, nothing)


def dry_run_summary(result: dict[str, Any]) -> str:
    """What a person reads of it."""
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
            cli.duration(line["epoch_s"]),
            cli.duration(line["run_s"]),
            f"{line['total_s'] / 3600:,.1f} h",
        ]
        for line in result["models"]
    ]
    runs, epochs = result["models"][0]["num_runs"], result["models"][0]["epochs"]
    header += ["a frame", "+ a step", "an epoch", f"{epochs:,} epochs", f"{runs:,} runs"]
    whose = "assumed after the paper" if result["assumed"] else "of the data"
    hours, number = result["total_s"] / 3600, result["num_together"]
    parts = [
        plain_table(header, lines, f"{result['dataset']}: what the table takes"),
        f"{result['num_train_frames']:,} frames in {result['num_steps']:,} steps an epoch ({whose}); times by a few "
        f"steps on random frames, on this {result['device']}, as busy as it is now",
        f"memory by the formula of pipelines.cost.step_bytes; {result['free_bytes'] / 1e9:.1f} GB are free",
        f"{hours:,.1f} h one run after the other, {hours / number:,.1f} h with {number} at a time",
    ]
    return "\n".join(parts)

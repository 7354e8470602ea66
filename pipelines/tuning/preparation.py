"""Prepare a sweep: claim its directory, make its shards, and describe its data in sweep.json."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from pipelines.core.errors import UserError
from pipelines.data.dataset import ShardDataset
from pipelines.data.demo_videos import CHANNELS, HEIGHT, MARKER, NUM_CLIPS, WIDTH, render_demo
from pipelines.data.options import PreprocessOptions
from pipelines.data.plan import PREPROCESS_JSON
from pipelines.data.preprocessing import make_shards
from pipelines.data.shards import DATASET_JSON
from pipelines.evaluation.metrics import METRICS, chance_level
from pipelines.storage.location import Location
from pipelines.storage.output import prepare_out, refuse_other_options
from pipelines.tuning.data_check import check_data
from pipelines.tuning.options import MAY_GROW, SweepOptions
from pipelines.tuning.sweep_directory import SweepDirectory

__all__ = ["claim_sweep", "describe_data", "prepare_shards"]

log = logging.getLogger(__name__)


def claim_sweep(sweep: SweepDirectory, options: SweepOptions) -> SweepOptions:
    """Writes sweep.json; if it exists, checks that the sweep was started with these options.

    Returns:
        The options; for those in MAY_GROW the larger one of the current and the earlier value, and the earlier number
        of epochs if there is none.

    Raises:
        UserError: the sweep was started with other options.
    """
    if not sweep.exists():
        sweep.write({"options": options.settings()})
        return options
    earlier = sweep.read()["options"]
    if "max_flops" in earlier:
        # The name of the option in earlier versions.
        earlier["max_macs"] = earlier.pop("max_flops")
    # Sweeps of earlier versions have no baselines; any sweep may get more or none on resumption.
    earlier["baselines"] = options.baselines
    earlier = {"teacher": options.settings()["teacher"], "streamable": False, **earlier}
    if not earlier.keys() >= options.settings().keys():
        raise UserError(f"{sweep} is from an earlier version and cannot be resumed; give another --out")
    if options.epochs is None:
        options = dataclasses.replace(options, epochs=earlier["epochs"])
    if earlier["epochs"] is None:
        # It was killed before its epochs were planned.
        earlier["epochs"] = options.settings()["epochs"]
    settings = {name: value for name, value in options.settings().items() if name not in ("out", *MAY_GROW)}
    refuse_other_options(sweep.path, earlier, settings, name_of_out="--out")
    # A time budget alone asks for as many trials as fit.
    is_planned = options.time_budget is not None and options.num_trials is None
    least = options.num_trials or earlier["num_trials"] or options.most_trials
    num_trials = None if is_planned else max(earlier["num_trials"] or 0, least)
    grown = {name: max(earlier[name], getattr(options, name)) for name in ("refine", "confirm")}
    return dataclasses.replace(options, num_trials=num_trials, **grown)


def prepare_shards(options: SweepOptions, sweep: SweepDirectory) -> Location:
    """Returns the directory of shards: that in options.data, or one made from its videos or from the demo."""
    out = Location.of(options.out)
    # For a sweep in a bucket, the shards are written there directly, where all nodes can read them.
    shards = (Location.of(sweep.path) if out.is_local else out) / "shards"
    frame: dict[str, Any] = {}
    if options.data is None:
        videos = Location.of(sweep.videos)
        if not (videos / MARKER).exists():
            log.info("rendering the demo data set to %s", videos)
            prepare_out(videos, marker=MARKER)
            render_demo(videos.local, NUM_CLIPS, options.seed)
        frame = {"width": WIDTH, "height": HEIGHT, "channels": CHANNELS}
    elif any((Location.of(options.data) / name).exists() for name in (DATASET_JSON, PREPROCESS_JSON)):
        return Location.of(options.data).absolute()
    else:
        videos = Location.of(options.data).absolute()
    if not (shards / DATASET_JSON).exists():
        make_shards(
            PreprocessOptions(videos=str(videos), out=str(shards), resume=shards.exists(), seed=options.seed, **frame)
        )
    return shards


def describe_data(sweep: SweepDirectory, options: SweepOptions, data: ShardDataset) -> dict[str, Any]:
    """Adds the metric, the classes and `check_data` to sweep.json, and logs the latter; returns its contents."""
    val, test = data.split("val"), data.split("test")
    document: dict[str, Any] = {
        "options": options.settings(),
        "shards": str(data.place),
        "dataset": "demo" if options.data is None else Path(Location.of(options.data).absolute().name).stem,
        "metric": METRICS[data.task],
        "classes": data.classes,
        "num_classes": len(data.classes),
        "num_val_clips": len(val),
        "num_test_clips": len(test),
        "chance": chance_level(data.task, val.labels, len(data.classes)),
        # The cost is estimated when the sweep starts.
        "data_check": {"cost": None, **sweep.read().get("data_check", {}), **check_data(data)},
    }
    sweep.write(document)
    for sentence in document["data_check"]["text"]:
        log.info("%s", sentence)
    return document

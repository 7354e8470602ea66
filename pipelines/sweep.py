"""(3) Explore tensor-train shapes and ranks: validation metric up, parameters down. Does the whole job.

    python -m pipelines.sweep                                       the embedded demo
    python -m pipelines.sweep --data VIDEOS --out runs/mine         videos of your own
    python -m pipelines.sweep --data SHARDS --out runs/mine --num-trials 64 --max-params 20000
    python -m pipelines.sweep --data SHARDS --out runs/mine --refine --confirm 3
    python -m pipelines.sweep --data SHARDS --out runs/mine --resume --num-trials 200
    python -m pipelines.sweep --data SHARDS --out s3://bucket/mine

Leaves SWEEP/sweep.json, study.journal (opens in optuna-dashboard), trials/ID/ (each a run as train leaves it), confirm/
(the frontier's points trained again), ray.log, and what pareto.py makes of them: trials.csv, pareto.csv, pareto.json,
report.html, pareto.png, best/ (a model directory).
"""

import dataclasses
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from pipelines.cluster.session import exit_if_ray_dies, start_ray
from pipelines.cluster.slots import Slots
from pipelines.core import command
from pipelines.core.errors import UserError
from pipelines.data.dataset import ShardDataset
from pipelines.data.demo_videos import CHANNELS, HEIGHT, MARKER, NUM_CLIPS, WIDTH, render_demo
from pipelines.data.options import PreprocessOptions
from pipelines.data.plan import PREPROCESS_JSON
from pipelines.data.preprocessing import make_shards
from pipelines.data.shards import DATASET_JSON
from pipelines.evaluation.metrics import METRICS, chance_level
from pipelines.inference.prediction import predict_videos
from pipelines.inference.table import predictions_table
from pipelines.report.frontier_files import write_frontier
from pipelines.report.table import frontier_table
from pipelines.storage.bucket import working_copy
from pipelines.storage.location import Location
from pipelines.storage.lock import only_writer
from pipelines.storage.output import prepare_out, refuse_other_options, undone_if_refused
from pipelines.tuning.display import Screen, tune_callback
from pipelines.tuning.options import MAY_GROW, SweepOptions
from pipelines.tuning.replicate import points_to_replicate, replicate
from pipelines.tuning.search_job import run_search
from pipelines.tuning.sweep_directory import SWEEP_LAYOUT, SweepDirectory

__all__ = ["SweepOptions", "sweep"]


log = logging.getLogger(__name__)


def sweep(options: SweepOptions) -> dict[str, Any]:
    """The whole job: data, trials, frontier, report, best model; for the demo, one held-out video classified too.

    Raises:
        UserError: no such data, other options than those of the sweep that is resumed, or another command works on it.
    """
    if options.data is not None and not Location.of(options.data).exists():
        raise UserError(f"there is no {options.data}; give a folder of videos, a CSV or shards as --data")
    place = Location.of(options.out)
    if options.overwrite and options.data is not None and Location.of(options.data).lies_in(place):
        raise UserError(f"--overwrite deletes {options.out}, in which --data {options.data} lies; give another --out")
    start = time.monotonic()
    deadline = start + 60 * (options.time_budget or math.inf)
    with (
        working_copy(place, SWEEP_LAYOUT, resume=options.resume, overwrite=options.overwrite) as out,
        only_writer(Location.of(out)),
    ):
        return _sweep(options, SweepDirectory(out), start, deadline)


def _sweep(options: SweepOptions, out: SweepDirectory, start: float, deadline: float) -> dict[str, Any]:
    marker = SweepDirectory.MARKER
    prepare_out(out.path, marker=marker, overwrite=options.overwrite, resume=options.resume)
    options = _claim(out, options)
    with undone_if_refused(out.path, marker=marker), start_ray():
        data = ShardDataset.open(_shards(options, out))
        facts = _write_facts(out, options, data)
        slots = Slots.of_cluster(options.num_workers, options.gpus_per_worker, options.slots)
        budget_s = deadline - time.monotonic() if options.time_budget else None
        with (
            Screen(
                metric=facts["metric"], chance=facts["chance"], chatter=out.ray_log, time_budget_s=budget_s
            ) as screen,
            exit_if_ray_dies(screen.close),
        ):
            num_failed = run_search(options, out, data, slots, deadline, screen)
            if options.confirm and time.monotonic() < deadline:
                seeds = range(options.seed + 1, options.seed + 1 + options.confirm)
                replicate(
                    out,
                    points_to_replicate(out.finished_trials()),
                    seeds,
                    slots if options.num_workers == 1 else Slots.of_cluster(1, options.gpus_per_worker, options.slots),
                    on_start=lambda num_runs: screen.stage("confirm", num_runs),
                    callbacks=[tune_callback(screen, joins=False)],
                )
    result = write_frontier(out.path, place=Location.of(options.out).absolute())
    if num_failed:
        log.error("%d trials crashed; --resume begins others in their place", num_failed)
        result["exit_code"] = 1
    if time.monotonic() > deadline:
        log.warning("the time of %g minutes is up; resume the sweep with --resume", options.time_budget)
    result["wall_s"] = round(time.monotonic() - start, 1)
    if options.data is None:
        video = out.videos / data.split("test").clip_ids[0]
        log.info("classifying %s, which no model has seen, with the best model", video)
        result.update(predict_videos(str(out.best), [str(video)]))
    return result


def _claim(out: SweepDirectory, options: SweepOptions) -> SweepOptions:
    """Writes sweep.json, or refuses to resume a sweep that was started with other options.

    Returns:
        The options; of trials, refinement and replication what the sweep was started with, if that is more.
    """
    if not out.exists():
        out.write({"options": options.settings()})
        return options
    earlier = out.read()["options"]
    if not earlier.keys() >= options.settings().keys():
        raise UserError(f"{out} is from an earlier version, which this one can't resume; give another --out")
    settings = {name: value for name, value in options.settings().items() if name not in ("out", *MAY_GROW)}
    refuse_other_options(out.path, earlier, settings, name_of_out="--out")
    return dataclasses.replace(options, **{name: max(earlier[name], getattr(options, name)) for name in MAY_GROW})


def _shards(options: SweepOptions, out: SweepDirectory) -> Location:
    """The directory of shards: what was given, or what is made of the videos that were given or rendered."""
    place = Location.of(options.out)
    # Where all nodes read them.
    shards = (Location.of(out.path) if place.is_local else place) / "shards"
    frame: dict[str, Any] = {}
    if options.data is None:
        videos = Location.of(out.videos)
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


def _write_facts(out: SweepDirectory, options: SweepOptions, data: ShardDataset) -> dict[str, Any]:
    """Adds to sweep.json what a reader of the results must know about the data."""
    val, test = data.split("val"), data.split("test")
    facts = {
        "options": options.settings(),
        "shards": str(data.place),
        "dataset": "demo" if options.data is None else Path(Location.of(options.data).absolute().name).stem,
        "metric": METRICS[data.task],
        "classes": data.classes,
        "num_classes": len(data.classes),
        "num_val_clips": len(val),
        "num_test_clips": len(test),
        "chance": chance_level(data.task, val.labels, len(data.classes)),
    }
    out.write(facts)
    return facts


def summary(result: dict[str, Any]) -> RenderableType:
    """The frontier, where everything lies, what to try next; the classified demo video."""
    parts: list[RenderableType] = [frontier_table(result)]
    if "videos" in result:
        parts.append(predictions_table(result))
    return Group(*parts)


def main(argv: list[str] | None = None) -> int:
    """The command; see the head of this file."""
    return command.run(SweepOptions, sweep, summary, argv)


if __name__ == "__main__":
    # As `python pipelines/sweep.py` too: the importable module is the one that Ray pickles by reference.
    from pipelines.sweep import main as importable_main

    sys.exit(importable_main())

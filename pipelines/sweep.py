"""(3) Explore tensor-train shapes and ranks for small models with a good validation metric: the whole pipeline.

    python -m pipelines.sweep                                       the embedded demo
    python -m pipelines.sweep --data VIDEOS --out runs/mine         videos of your own
    python -m pipelines.sweep --data SHARDS --out runs/mine --num-trials 64 --max-params 20000
    python -m pipelines.sweep --data SHARDS --out runs/mine --refine --confirm 3
    python -m pipelines.sweep --data SHARDS --out runs/mine --time-budget 20 --refine --confirm 3
    python -m pipelines.sweep --data SHARDS --out runs/mine --resume --num-trials 200
    python -m pipelines.sweep --data SHARDS --out s3://bucket/mine

Writes SWEEP/sweep.json, study.journal (for optuna-dashboard), trials/ID/ (each a run, see train), confirm/ (models of
the frontier trained again with new seeds), ray.log, and the files of pareto: trials.csv, pareto.csv, pareto.json,
report.html, pareto.png, best/ (a model directory).
"""

import logging
import math
import sys
import time
from typing import Any

from rich.console import Group, RenderableType

from pipelines.cluster.session import exit_if_ray_dies, start_ray
from pipelines.cluster.slots import Slots
from pipelines.core import command
from pipelines.core.errors import UserError
from pipelines.core.options import takes_options
from pipelines.data.dataset import ShardDataset
from pipelines.data.kinds import Argument, check_arguments
from pipelines.inference.prediction import predict_videos
from pipelines.inference.table import predictions_table
from pipelines.report.frontier_files import write_frontier
from pipelines.report.table import frontier_table
from pipelines.storage.bucket import working_copy
from pipelines.storage.location import Location
from pipelines.storage.lock import only_writer
from pipelines.storage.output import prepare_out, undone_if_refused
from pipelines.training.teacher import check_teachers
from pipelines.tuning.data_check import forecast_of
from pipelines.tuning.display import Screen, tune_callback
from pipelines.tuning.options import SweepOptions
from pipelines.tuning.preparation import claim_sweep, describe_data, prepare_shards
from pipelines.tuning.replicate import points_to_replicate, replicate, within_time
from pipelines.tuning.search_job import run_search
from pipelines.tuning.space_check import check_before_ray
from pipelines.tuning.sweep_directory import SWEEP_LAYOUT, SweepDirectory
from pipelines.tuning.trial import Trial

__all__ = ["SweepOptions", "sweep"]


log = logging.getLogger(__name__)


@takes_options(SweepOptions)
def sweep(options: SweepOptions) -> dict[str, Any]:
    """Makes shards if necessary, trains the trials, writes frontier, report and best model; classifies a demo video.

    Raises:
        UserError: there is no such data, the sweep was started with other options, or another command writes to it.
    """
    if options.data is not None and not Location.of(options.data).exists():
        raise UserError(f"there is no {options.data}; give a folder of videos, a CSV or shards as --data")
    check_arguments(
        "sweep",
        Argument("--data DATA", options.data, ("shards", "videos")),
        Argument("--out OUT", options.out, ("sweep",), is_out=True),
    )
    target = Location.of(options.out)
    if options.overwrite and options.data is not None and Location.of(options.data).lies_in(target):
        raise UserError(f"--overwrite deletes {options.out}, in which --data {options.data} lies; give another --out")
    start = time.monotonic()
    deadline = start + 60 * (options.time_budget or math.inf)
    with (
        working_copy(target, SWEEP_LAYOUT, resume=options.resume, overwrite=options.overwrite) as out,
        only_writer(Location.of(out)),
    ):
        return _sweep(options, SweepDirectory(out), start, deadline)


def _sweep(options: SweepOptions, out: SweepDirectory, start: float, deadline: float) -> dict[str, Any]:
    marker = SweepDirectory.MARKER
    prepare_out(out.path, marker=marker, overwrite=options.overwrite, resume=options.resume)
    options = claim_sweep(out, options)
    with undone_if_refused(out.path, marker=marker):
        check_before_ray(options, out)
    with undone_if_refused(out.path, marker=marker), start_ray():
        data = ShardDataset.open(prepare_shards(options, out))
        check_teachers(options.teacher_paths, data)
        document = describe_data(out, options, data)
        slots = Slots.of_cluster(options.num_workers, options.gpus_per_worker, options.slots)
        budget_s = deadline - time.monotonic() if options.time_budget else None
        with (
            Screen(
                metric=document["metric"],
                chance=document["chance"],
                chatter=out.ray_log,
                time_budget_s=budget_s,
                forecast=forecast_of(data, options, slots.num_slots),
            ) as screen,
            exit_if_ray_dies(screen.close),
        ):
            num_failed = run_search(options, out, data, slots, deadline, screen)
            if options.confirm and time.monotonic() < deadline:
                seeds = range(options.seed + 1, options.seed + 1 + options.confirm)
                if options.num_workers > 1:
                    slots = Slots.of_cluster(1, options.gpus_per_worker, options.slots)
                points, left_out = _points(out, options, slots, deadline - time.monotonic())
                replicate(
                    out,
                    points,
                    seeds,
                    slots,
                    left_out=left_out,
                    on_start=lambda runs: screen.stage("confirm", len(runs), planned=runs),
                    callbacks=[tune_callback(screen, joins=False)],
                )
    result = write_frontier(out.path, place=Location.of(options.out).absolute())
    if num_failed:
        log.error("%d trials crashed; --resume replaces them by new ones", num_failed)
        result["exit_code"] = 1
    if time.monotonic() > deadline:
        log.warning("the time budget of %g minutes is used up; resume the sweep with --resume", options.time_budget)
    result["wall_s"] = round(time.monotonic() - start, 1)
    if options.data is None:
        video = out.videos / data.split("test").clip_ids[0]
        log.info("classifying %s, a video of the test split, with the best model", video)
        result.update(predict_videos(str(out.best), [str(video)]))
    return result


def _points(sweep: SweepDirectory, options: SweepOptions, slots: Slots, time_s: float) -> tuple[list[Trial], list[str]]:
    """The points to replicate, and the names of those for which there is no time."""
    trials = sweep.finished_trials()
    points = points_to_replicate(trials)
    if options.time_budget is None:
        return points, []
    kept = within_time(
        points,
        trials,
        chance=sweep.read()["chance"],
        num_runs=lambda trial: options.confirm - len(sweep.replication_results(trial)),
        num_slots=slots.num_slots,
        time_s=time_s,
    )
    left_out = [point.trial for point in points if point not in kept]
    if left_out:
        log.info("there is no time to replicate %s; left off the frontier", ", ".join(left_out))
    return kept, left_out


def summary(result: dict[str, Any]) -> RenderableType:
    """The table of the frontier, with paths and next commands; and the predictions for the demo video."""
    parts: list[RenderableType] = [frontier_table(result)]
    if "videos" in result:
        parts.append(predictions_table(result))
    return Group(*parts)


def main(argv: list[str] | None = None) -> int:
    """The command; see the docstring of this module."""
    return command.run(SweepOptions, sweep, summary, argv)


if __name__ == "__main__":
    # Run the importable module, also for `python pipelines/sweep.py`: Ray pickles its functions by reference.
    from pipelines.sweep import main as importable_main

    sys.exit(importable_main())

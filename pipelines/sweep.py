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
import json
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

import search_spaces
from pipelines import cli, demo, pareto
from pipelines import predict as prediction
from pipelines.cli import UserError
from pipelines.cluster import Slots, ends_with_ray, start_ray
from pipelines.confirm import confirm, points_to_confirm
from pipelines.cost import step_bytes
from pipelines.frontier import frontier
from pipelines.metrics import METRICS, chance_level
from pipelines.mirror import working_copy
from pipelines.preprocess import PREPROCESS_JSON, PreprocessOptions, preprocess
from pipelines.recipe import TrainOptions
from pipelines.refine import propose
from pipelines.screen import Screen, tune_callback
from pipelines.search import SAMPLERS, Point, Search
from pipelines.shards import DATASET_JSON, ShardDataset
from pipelines.stopping import STOPPING, Curve, Judge
from pipelines.storage import Location, only_writer, prepare_out, refuse_other_options, undone_if_refused
from pipelines.trials import Trial, begun_trials, read_sweep, read_trials
from ttrnn.files import atomic_write
from ttrnn.model import ModelConfig

__all__ = ["SweepOptions", "sweep"]

log = logging.getLogger(__name__)

# A resumed sweep may have more of these than it was started with.
_MAY_GROW = ("num_trials", "refine", "confirm")
_OF_THE_COMMAND = ("gpus_per_worker", "slots", "time_budget", "resume", "overwrite")


def _default_out() -> str:
    storage = os.environ.get("TTRNN_STORAGE")
    return str(Location.of(storage) / "runs" / "sweep") if storage else "runs/sweep"


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepOptions:
    """Explore tensor-train shapes and ranks with Ray Tune and Optuna; then frontier, report and best model."""

    data: str | None = None
    """videos (folder or CSV) or shards; default: the embedded demo"""
    out: str = dataclasses.field(default_factory=_default_out)
    """directory of the sweep, or its URI: s3://bucket/sweep is worked on in a copy, mirrored there as it grows, and
    resumed from any machine [default: runs/sweep, below $TTRNN_STORAGE where that is set: s3://bucket, say]"""
    space: str = "shapes"
    """what to try: shapes (cells, modes, ranks), ranks (the paper's shape, ranks only), or package.module:function of
    your own"""
    num_trials: int = 16
    """models to train; those that exceed a limit, or were there before, are passed over and do not count"""
    epochs: int = 16
    """passes over the train split for each of them"""
    max_params: int | None = None
    """train no model with more parameters than this, classifier included; default: no limit"""
    max_flops: int | None = None
    """nor one with more multiply-adds for a frame than this; default: no limit"""
    sampler: str = "tpe"
    """how models are chosen: tpe (learns which shapes and ranks pay), random, or default (Optuna's own default)"""
    early_stopping: str = "frontier"
    """frontier: end a trial that a smaller one surpasses, beyond noise, at the same epoch; asha: successive halving by
    the metric alone; none. Trials of several workers are not ended early"""
    refine: bool = False
    """afterwards round the frontier's models to lower ranks and train them on for a few epochs: one training gives
    many points"""
    confirm: int = 0
    """at the end train the frontier's models anew with so many fresh seeds each, and redraw it from their means"""
    time_budget: float | None = None
    """minutes after which no trial begins and those that run pause; --resume goes on; confirmation, once begun, is not
    cut short; default: no limit"""
    seed: int = 0
    """of the search, the models and the demo"""
    num_workers: int = 1
    """processes (GPUs) that share one trial; as many trials run at a time as fit"""
    gpus_per_worker: float = 1.0
    """where there are GPUs: less than 1 lets several trials of small models share one, 0.25 four; they must fit in its
    memory together"""
    slots: int | None = None
    """trials at a time; default: as many as fit on the nodes that are up. With more, a cluster that can grow starts
    nodes for them"""
    resume: bool = False
    """continue a sweep that was interrupted"""
    overwrite: bool = False
    """delete an older sweep first"""

    def __post_init__(self) -> None:
        for name in ("num_trials", "epochs", "num_workers", "slots", "max_params", "max_flops"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("seed", "confirm"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.time_budget is not None and not self.time_budget > 0:
            raise ValueError(f"time_budget must be positive minutes, got {self.time_budget}")
        for name, choices in (("sampler", SAMPLERS), ("early_stopping", STOPPING)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if not 0 < self.gpus_per_worker <= 1:
            raise ValueError(f"0 < gpus_per_worker <= 1 must hold, got {self.gpus_per_worker}")
        search_spaces.load(self.space)

    def settings(self) -> dict[str, Any]:
        """What decides the result, and where it goes."""
        data = None if self.data is None else str(Location.of(self.data).absolute())
        values = dataclasses.asdict(self) | {"data": data}
        return {name: value for name, value in values.items() if name not in _OF_THE_COMMAND}


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
        working_copy(place, marker="sweep.json", resume=options.resume, overwrite=options.overwrite) as out,
        only_writer(Location.of(out)),
    ):
        return _sweep(options, out, start, deadline)


def _sweep(options: SweepOptions, out: Path, start: float, deadline: float) -> dict[str, Any]:
    prepare_out(out, marker="sweep.json", overwrite=options.overwrite, resume=options.resume)
    options = _claim(out, options)
    with undone_if_refused(out, marker="sweep.json"), start_ray():
        data = ShardDataset.open(_shards(options, out))
        facts = _write_facts(out, options, data)
        slots = Slots.of_cluster(options.num_workers, options.gpus_per_worker, options.slots)
        budget_s = deadline - time.monotonic() if options.time_budget else None
        with (
            Screen(
                metric=facts["metric"], chance=facts["chance"], chatter=out / "ray.log", time_budget_s=budget_s
            ) as screen,
            ends_with_ray(screen.close),
        ):
            num_failed = _run_trials(options, out, data, slots, deadline, screen)
            if options.confirm and time.monotonic() < deadline:
                _confirm(out, options, screen)
    result = pareto.write_frontier(out, place=Location.of(options.out).absolute())
    if num_failed:
        log.error("%d trials crashed; --resume begins others in their place", num_failed)
        result["exit_code"] = 1
    if time.monotonic() > deadline:
        log.warning("the time of %g minutes is up; --resume goes on", options.time_budget)
    result["wall_s"] = round(time.monotonic() - start, 1)
    if options.data is None:
        video = out / "videos" / data.split("test").clip_ids[0]
        log.info("classifying %s, which no model has seen, with the best model", video)
        result.update(prediction.predict(prediction.PredictOptions(model=str(out / "best"), video=(str(video),))))
    return result


def _confirm(out: Path, options: SweepOptions, screen: Screen) -> None:
    """Trains the frontier anew with seeds that it was not chosen by. Runs that fail are told at the end."""
    points = points_to_confirm(read_trials(out))
    seeds = [options.seed + number for number in range(1, options.confirm + 1)]

    def on_start(num_runs: int) -> None:
        screen.stage("confirm", num_runs)

    def on_end(run: Trial) -> None:
        screen.ended(run, joins=False)

    confirm(out, points, seeds, on_start=on_start, on_end=on_end)


def _claim(out: Path, options: SweepOptions) -> SweepOptions:
    """Writes sweep.json, or refuses to resume a sweep that was started with other options.

    Returns:
        The options; of trials, refinement and confirmation what the sweep was started with, if that is more.
    """
    path = out / "sweep.json"
    if not path.exists():
        with atomic_write(path) as file:
            json.dump({"format": "ttrnn-sweep", "version": 1, "options": options.settings()}, file, indent=1)
        return options
    earlier = read_sweep(out)["options"]
    if not earlier.keys() >= options.settings().keys():
        raise UserError(f"{out} is from an earlier version, which this one can't resume; give another --out")
    settings = {name: value for name, value in options.settings().items() if name not in ("out", *_MAY_GROW)}
    refuse_other_options(out, earlier, settings, name_of_out="--out")
    return dataclasses.replace(options, **{name: max(earlier[name], getattr(options, name)) for name in _MAY_GROW})


def _shards(options: SweepOptions, out: Path) -> Location:
    """The directory of shards: what was given, or what is made of the videos that were given or rendered."""
    place = Location.of(options.out)
    # Where all nodes read them.
    shards = (Location.of(out) if place.is_local else place) / "shards"
    frame: dict[str, Any] = {}
    if options.data is None:
        videos = Location.of(out / "videos")
        if not (videos / demo.MARKER).exists():
            log.info("rendering the demo data set to %s", videos)
            demo.demo(demo.DemoOptions(out=str(videos), seed=options.seed))
        frame = {"width": demo.WIDTH, "height": demo.HEIGHT, "channels": demo.CHANNELS}
    elif any((Location.of(options.data) / name).exists() for name in (DATASET_JSON, PREPROCESS_JSON)):
        return Location.of(options.data).absolute()
    else:
        videos = Location.of(options.data).absolute()
    if not (shards / DATASET_JSON).exists():
        preprocess(
            PreprocessOptions(videos=str(videos), out=str(shards), resume=shards.exists(), seed=options.seed, **frame)
        )
    return shards


def _write_facts(out: Path, options: SweepOptions, data: ShardDataset) -> dict[str, Any]:
    """Adds to sweep.json what a reader of the results must know about the data."""
    val, test = data.split("val"), data.split("test")
    facts = {
        "format": "ttrnn-sweep",
        "version": 1,
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
    with atomic_write(out / "sweep.json") as file:
        json.dump(facts, file, indent=1)
    return facts


def _run_trials(
    options: SweepOptions, out: Path, data: ShardDataset, slots: Slots, deadline: float, screen: Screen
) -> int:
    """Runs, resumes or extends the search, and refines what it found; gives the number of trials that crashed."""
    from pipelines.tuning import run_trials

    search = _search(options, out, data, slots)
    log.info(
        "sweeping %d trials of %d epochs, %d at a time, over the space %s",
        options.num_trials,
        options.epochs,
        slots.num_slots,
        options.space,
    )
    earlier = begun_trials(out)
    judge = Judge(len(data.split("val")), grace=max(1, options.epochs // 4))
    for trial in earlier:
        # A refined trial begins where others end: it is compared with none.
        if trial.num_params is not None and trial.parent is None and trial.state != "failed":
            judge.add(Curve.of(trial.trial, trial.num_params, trial.curve))
    ended = [trial for trial in earlier if trial.state in ("complete", "stopped") and trial.parent is None]
    screen.stage("search", options.num_trials, ended)
    num_failed = run_trials(
        search,
        lambda: _refinements(search, options, out, screen),
        judge,
        slots,
        scheduler=options.early_stopping,
        epochs=options.epochs,
        state=out / ".tune",
        deadline=deadline,
        callbacks=[tune_callback(screen)],
    )
    if search.exhausted:
        log.warning("%s", search.exhausted)
    return num_failed


def _search(options: SweepOptions, out: Path, data: ShardDataset, slots: Slots) -> Search:
    longest = max(int(data.split(name).lengths.max(initial=0)) for name in ("train", "val"))
    limits = {name: getattr(options, name) for name in ("max_params", "max_flops")}
    limits["memory_bytes"] = slots.memory_bytes

    def costs(train: TrainOptions, model: ModelConfig) -> dict[str, float]:
        return {
            "max_params": model.num_params,
            "max_flops": model.multiply_adds,
            "memory_bytes": step_bytes(model, train.batch_size, longest, "cuda" if slots.device == "GPU" else "cpu"),
        }

    return Search(
        out,
        data,
        {"epochs": options.epochs, "seed": options.seed, "num_workers": options.num_workers},
        space=options.space,
        num_trials=options.num_trials,
        costs=costs,
        limits={name: limit for name, limit in limits.items() if limit is not None and limit < math.inf},
        sampler=options.sampler,
        seed=options.seed,
    )


def _refinements(search: Search, options: SweepOptions, out: Path, screen: Screen) -> Sequence[Point]:
    """A round of models that start from the frontier's, rounded to lower ranks; none when there is nothing more."""
    trials = read_trials(out) if options.refine else []
    proposals = propose(out, frontier(trials), trials, epochs=options.epochs, max_params=options.max_params)
    found = [search.refine(proposal.values, proposal.parent) for proposal in proposals]
    points = [point for point in found if point is not None]
    if points:
        screen.stage("refine", len(points))
    return points


def summary(result: dict[str, Any]) -> RenderableType:
    """The frontier, where everything lies, what to try next; the classified demo video."""
    parts: list[RenderableType] = [pareto.summary(result)]
    if "videos" in result:
        parts.append(prediction.summary(result))
    return Group(*parts)


def main(argv: list[str] | None = None) -> int:
    """The command; see the head of this file."""
    return cli.run(SweepOptions, sweep, summary, argv)


if __name__ == "__main__":
    # As `python pipelines/sweep.py` too: the importable module is the one that Ray pickles by reference.
    from pipelines.sweep import main as importable_main

    sys.exit(importable_main())

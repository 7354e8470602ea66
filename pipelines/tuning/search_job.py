"""Search, refine and replicate: the trainings of a sweep."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from pipelines.cluster.slots import Slots
from pipelines.data.dataset import ShardDataset
from pipelines.training.memory import step_bytes
from pipelines.training.options import TrainOptions
from pipelines.tuning.display import Screen, tune_callback
from pipelines.tuning.frontier import frontier
from pipelines.tuning.options import SweepOptions
from pipelines.tuning.refine import propose
from pipelines.tuning.replicate import confirm, points_to_confirm
from pipelines.tuning.stopping import Curve, Judge
from pipelines.tuning.study import Point, Search
from pipelines.tuning.sweep_directory import Trial, begun_trials, read_trials
from ttrnn.model import ModelConfig

__all__ = ["replicate_frontier", "run_search"]

log = logging.getLogger(__name__)


def run_search(
    options: SweepOptions, out: Path, data: ShardDataset, slots: Slots, deadline: float, screen: Screen
) -> int:
    """Runs, resumes or extends the search, and refines what it found; gives the number of trials that crashed."""
    from pipelines.tuning.tune import run_trials

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


def replicate_frontier(out: Path, options: SweepOptions, screen: Screen) -> None:
    """Trains the frontier anew with seeds that it was not chosen by. Runs that fail are told at the end."""
    points = points_to_confirm(read_trials(out))
    seeds = [options.seed + number for number in range(1, options.confirm + 1)]

    def on_start(num_runs: int) -> None:
        screen.stage("confirm", num_runs)

    def on_end(run: Trial) -> None:
        screen.ended(run, joins=False)

    confirm(out, points, seeds, on_start=on_start, on_end=on_end)

"""Replicate the points of the frontier: train them again with new seeds.

    failed = replicate(sweep, points_to_replicate(sweep.finished_trials()), seeds=[1, 2, 3], slots=slots)

The validation metric of the best of many trials is optimistic, because the trial was selected on it. Runs with new
seeds are not selected. Writes SWEEP/confirm/ID-sSEED/ (each a run with a result.json) and confirm/plan.json, from which
replication.py draws the frontier.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune

from pipelines.cluster.slots import Slots
from pipelines.core.errors import UserError
from pipelines.data.dataset import ShardDataset
from pipelines.training.launcher import run_trainings
from pipelines.training.memory import step_bytes
from pipelines.training.options import TrainOptions
from pipelines.training.queue import Queue, Training
from pipelines.training.run_directory import RunDirectory
from pipelines.training.setup import any_model_config
from pipelines.training.single_run import earlier_result
from pipelines.training.teacher import teacher_macs
from pipelines.tuning.frontier import baseline_frontier, dense_baseline, frontier, hypervolume, knee
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.tuning.trial import Trial

__all__ = ["points_to_replicate", "replicate", "within_time"]

log = logging.getLogger(__name__)

Key = tuple[str, int]
"""A trial and a new seed."""


def points_to_replicate(trials: Iterable[Trial]) -> list[Trial]:
    """The frontier, that of the baselines, and the best dense model."""
    trials = list(trials)
    points = [*frontier(trials), *baseline_frontier(trials)]
    dense = dense_baseline(trials)
    return points if dense is None or dense in points else [*points, dense]


def within_time(
    points: Sequence[Trial],
    trials: Sequence[Trial],
    *,
    chance: float,
    num_runs: Callable[[str], int],
    num_slots: int,
    time_s: float,
) -> list[Trial]:
    """The points of a frontier, and of that of the baselines, for whose replication there is time; at least one.

    The knee and the highest point come first, then those between them that add most to the area that the frontier
    dominates, then those below the knee. Every third one is a baseline.

    Args:
        points: What would be replicated with time enough.
        trials: All trials, also the ancestors of refined points, which are trained again with them.
        chance: The metric of guessing, 0 to 1.
        num_runs: Name of a trial -> how many replications are still to be trained.
        num_slots: Trainings at a time.
        time_s: The time that is left.
    """
    by_name, kept, names = {trial.trial: trial for trial in trials}, list[Trial](), set[str]()
    for point in _by_importance(points, chance):
        wanted, name = set(names), point.trial if point.trial not in names else None
        while name is not None:
            wanted.add(name)
            name = by_name[name].parent
        if not kept or sum(num_runs(name) * (by_name[name].train_s or 0.0) for name in wanted) <= time_s * num_slots:
            kept, names = [*kept, point], wanted
    return [point for point in points if point in kept]


def _by_importance(points: Sequence[Trial], chance: float) -> list[Trial]:
    models, baselines = ([point for point in points if point.is_baseline == kind] for kind in (False, True))
    ordered: list[Trial] = []
    if models:
        best = knee(models, chance)
        first = list(dict.fromkeys([best.trial, models[-1].trial]))
        # Those below the knee are worth less than what they save.
        larger = [point for point in models if point.coordinates[0] >= best.coordinates[0]]
        smaller = [point for point in models if point.coordinates[0] < best.coordinates[0]]
        ordered = [*_by_area(larger, first), *reversed(smaller)]
    others = _by_area(baselines, [])
    found = []
    while ordered or others:
        found += [*ordered[:2], *others[:1]]
        ordered, others = ordered[2:], others[1:]
    return found


def _by_area(points: Sequence[Trial], first: Sequence[str]) -> list[Trial]:
    """Those named first, and then each time the point that adds most to the area that those before it dominate."""
    by_name = {point.trial: point for point in points}
    found = [by_name.pop(name) for name in first]
    while by_name:
        before = [point.coordinates for point in found]
        best = max(by_name.values(), key=lambda point: hypervolume([*before, point.coordinates]))
        found.append(by_name.pop(best.trial))
    return found


def replicate(
    sweep: SweepDirectory,
    points: Sequence[Trial],
    seeds: Sequence[int],
    slots: Slots,
    *,
    left_out: Sequence[str] = (),
    on_start: Callable[[Sequence[Training]], object] = lambda trainings: None,
    callbacks: Sequence[tune.Callback] = (),
) -> list[dict[str, Any]]:
    """Trains each point with each seed, as many runs at a time as fit; resumes earlier runs. Ray must be running.

    A model that was taught is taught by the same teacher again. A refined point is replicated with its ancestors: the
    parent is trained with the same seed first, then rounded and fine-tuned. A trial with N workers becomes one process
    with N times the batch size. Each run is tested once.

    Args:
        sweep: The sweep with the trials; the runs are added to it.
        points: Finished trials.
        seeds: Seeds that differ from those of the trials.
        slots: How many runs are trained at a time, with which resources.
        left_out: Names of points of the frontier for which there is no time.
        on_start: Called once with the runs to do.
        callbacks: Callbacks for Tune.

    Returns:
        trial, seed and error of each run that failed.
    """
    sweep = SweepDirectory(sweep.path.absolute())
    document = sweep.read()
    data = ShardDataset.open(document["shards"])
    tested = {point.trial for point in points} if document["num_test_clips"] else set()
    planner = _Planner(sweep, data, slots, tested)
    # Seed by seed, so that after an interruption all points have about equally many runs.
    for seed in seeds:
        for point in points:
            planner.add((point.trial, seed))
    trainings, results = planner.trainings, planner.results
    todo = {training.name: key for key, training in trainings.items() if key not in results}
    log.info("replicating %d points with %d seeds each: %d runs to do", len(points), len(seeds), len(todo))
    on_start([trainings[key] for key in todo.values()])

    def on_end(training: Training, result: dict[str, Any]) -> None:
        results[todo[training.name]] = result
        sweep.write_plan(seeds, _failed(results), left_out)

    sweep.write_plan(seeds, _failed(results), left_out)
    queue = Queue(
        [trainings[key] for key in todo.values()],
        on_end=on_end,
        memory_bytes=slots.memory_bytes,
        parents=planner.parents,
        failed=[trainings[key].name for key, result in results.items() if result["state"] == "failed"],
    )
    if todo:
        run_trainings(queue, slots, state=sweep.tune_state, callbacks=callbacks)
    return _failed(results)


def _failed(results: Mapping[Key, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"trial": trial, "seed": seed, "error": result["error"]}
        for (trial, seed), result in results.items()
        if result["state"] in ("failed", "refused")
    ]


class _Planner:
    """Plans the runs of the replications; those of ancestors come first."""

    def __init__(self, sweep: SweepDirectory, data: ShardDataset, slots: Slots, tested: Collection[str]) -> None:
        self._sweep, self._data, self._tested = sweep, data, tested
        self._device = slots.device_type
        self._longest = int(data.clips().lengths.max())
        self.trainings: dict[Key, Training] = {}
        self.parents: dict[str, str] = {}
        """Name of a training -> name of the training that must end before it."""
        self.results: dict[Key, dict[str, Any]] = {}
        """Results of the runs that earlier commands finished."""

    def add(self, key: Key) -> None:
        """Adds the run of a trial with a seed, after those of its ancestors."""
        if key in self.trainings:
            return
        trial, seed = key
        original, run = self._sweep.run(trial), self._sweep.replication(*key)
        if not original.config_path.exists():
            raise UserError(
                f"trial {trial} cannot be trained again because {original.config_path} is missing; restore it, or "
                f"delete {original}"
            )
        values = original.options()
        if values.get("init") is not None:
            parent = (Path(values["init"]).parent.name, seed)
            self.add(parent)
            self.parents[run.name] = self.trainings[parent].name
            values["init"] = str(self._sweep.replication(*parent).model)
        if values.get("teacher") is not None:
            # The same for all seeds: it is a part of the recipe, like the data.
            values["teacher"] = self._sweep.teacher_paths(values["teacher"])
        num_workers = values.pop("num_workers")
        values |= {"seed": seed, "batch_size": num_workers * values["batch_size"], "shards": str(self._data.place)}
        self.trainings[key] = self._training(run, TrainOptions(**values, out=str(run)), is_tested=trial in self._tested)
        if (result := earlier_result(run)) is not None:
            self.results[key] = result

    def _training(self, run: RunDirectory, options: TrainOptions, *, is_tested: bool) -> Training:
        model = any_model_config(options, self._data)
        return Training(
            name=run.name,
            options=options,
            model=model,
            memory_bytes=step_bytes(model, options.batch_size, self._longest, self._device, self._data.codec),
            teacher_macs=teacher_macs(options.teacher),
            has_result=True,
            has_test_split=is_tested,
        )

"""Whether the frontier was luck: its points trained again with fresh seeds.

    failed = confirm("runs/sweep", points_to_confirm(read_trials("runs/sweep")), seeds=[1, 2, 3])

The best of many trials is partly the luckiest: what it was chosen by flatters it. Fresh seeds were not chosen by
anything. Leaves SWEEP/confirm/ID-sSEED/ (each a run as train leaves it, with its result.json) and confirm/plan.json;
what the frontier is after that, confirmed.py tells.
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.cluster.slots import local_device
from pipelines.core.errors import UserError
from pipelines.core.text import percent
from pipelines.data.dataset import ShardDataset
from pipelines.training.launcher import Run, earlier_result, run_all
from pipelines.training.memory import step_bytes
from pipelines.training.options import TrainOptions
from pipelines.training.run_directory import read_options
from pipelines.training.setup import model_config
from pipelines.tuning.frontier import dense_baseline, frontier
from pipelines.tuning.sweep_directory import Trial, confirmation_dir, read_sweep, read_trial
from ttrnn.files import atomic_write

__all__ = ["confirm", "points_to_confirm"]


log = logging.getLogger(__name__)
Key = tuple[str, int]
"""A trial and the seed that it is trained again with."""


def points_to_confirm(trials: Iterable[Trial]) -> list[Trial]:
    """The frontier, and the best dense model beside it: what they are compared with must not be luck either."""
    trials = list(trials)
    points = frontier(trials)
    baseline = dense_baseline(trials)
    return points if baseline is None or baseline in points else [*points, baseline]


def confirm(
    sweep_dir: str | Path,
    points: Sequence[Trial],
    seeds: Sequence[int],
    *,
    on_start: Callable[[int], None] | None = None,
    on_end: Callable[[Trial], None] | None = None,
) -> list[dict[str, Any]]:
    """Trains each point again with each seed on the Ray that runs, as many at a time as fit; goes on where it was.

    A refined point is trained as a chain anew: its parent's options with the same seed first, then rounded and tuned.
    A trial of N workers becomes one process with N times the batch. The test split is looked at once by each run.

    Args:
        sweep_dir: The sweep.
        points: Finished trials.
        seeds: Not those of the trials themselves.
        on_start: Called once with the number of runs to do.
        on_end: Called with each run that ends, as a trial named ID-sSEED; default: a line of it is logged.

    Returns:
        trial, seed and error of each run that failed; the others go on without it.
    """
    sweep_dir = Path(sweep_dir).absolute()
    sweep = read_sweep(sweep_dir)
    (sweep_dir / "confirm").mkdir(exist_ok=True)
    runs: dict[Key, Run] = {}
    parents: dict[Key, Key] = {}
    tested = {point.trial for point in points} if sweep["num_test_clips"] else set()
    # Seed by seed: one that is stopped early has compared all points.
    for seed in seeds:
        for point in points:
            _plan_chain(sweep_dir, sweep, (point.trial, seed), tested, runs, parents)
    results = {key: found for key, run in runs.items() if (found := earlier_result(run, None))}
    todo = {key: run for key, run in runs.items() if key not in results}
    log.info("confirming %d points with %d seeds each: %d runs to do", len(points), len(seeds), len(todo))
    if on_start is not None:
        on_start(len(todo))
    data = ShardDataset.open(sweep["shards"])
    _write_plan(sweep_dir, seeds, results)
    while todo:
        ready = {run: key for key, run in todo.items() if parents.get(key) not in todo}
        for key in ready.values():
            del todo[key]
        for key in [key for key in ready.values() if _failed(results.get(parents.get(key, key), {}))]:
            results[key] = {"state": "failed", "error": "the model that it starts from has failed"}
            del ready[runs[key]]
        needs = _needs(ready, data)
        for run, result in run_all(list(ready), needs, fresh_processes=False):
            results[ready[run]] = result
            ended = dataclasses.replace(
                read_trial(Path(run.train.out)), state=result["state"], error=result.get("error")
            )
            (on_end or _say)(ended)
            _write_plan(sweep_dir, seeds, results)
    return _write_plan(sweep_dir, seeds, results)


def _plan_chain(
    sweep_dir: Path,
    sweep: Mapping[str, Any],
    key: Key,
    tested: Collection[str],
    runs: dict[Key, Run],
    parents: dict[Key, Key],
) -> None:
    """Adds the run of a trial and a seed, after those of its ancestors."""
    if key in runs:
        return
    trial, seed = key
    path = sweep_dir / "trials" / trial / "config.json"
    if not path.exists():
        raise UserError(
            f"trial {trial} can't be trained again, {path} is missing; put it back, or take {path.parent} away"
        )
    options = read_options(path)
    if options.get("init") is not None:
        parent = parents[key] = (Path(options["init"]).parent.name, seed)
        _plan_chain(sweep_dir, sweep, parent, tested, runs, parents)
        options["init"] = str(confirmation_dir(sweep_dir, *parent) / "model")
    workers = options.pop("num_workers")
    options |= {"seed": seed, "batch_size": workers * options["batch_size"], "shards": sweep["shards"]}
    train = TrainOptions(**options, out=str(confirmation_dir(sweep_dir, *key)))
    runs[key] = Run("confirm", trial, train, is_tested=trial in tested)


def _needs(runs: Iterable[Run], data: ShardDataset) -> dict[Run, int]:
    """Bytes of memory that each takes, about."""
    device, longest = local_device().type, int(data.clips().lengths.max())
    return {run: step_bytes(model_config(run.train, data), run.train.batch_size, longest, device) for run in runs}


def _failed(result: Mapping[str, Any]) -> bool:
    return result.get("state") in ("failed", "refused")


def _say(run: Trial) -> None:
    if run.error is not None:
        log.error("run %s %s: %s", run.trial, run.state, run.error)
        return
    log.info("run %s: validation %s", run.trial, percent(run.val_metric))


def _write_plan(
    sweep_dir: Path, seeds: Sequence[int], results: Mapping[Key, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What was asked for, and what of it will not come, which no result.json tells."""
    failed = [
        {"trial": trial, "seed": seed, "error": result["error"]}
        for (trial, seed), result in results.items()
        if _failed(result)
    ]
    with atomic_write(sweep_dir / "confirm" / "plan.json") as file:
        json.dump({"seeds": list(seeds), "failed": failed}, file, indent=1)
    return failed

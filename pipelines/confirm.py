"""Whether the frontier was luck: its points trained again with fresh seeds, and the frontier redrawn from the means.

    failed = confirm("runs/sweep", points_to_confirm(read_trials("runs/sweep")), seeds=[1, 2, 3])
    drawn = draw("runs/sweep", read_trials("runs/sweep"))

The best of many trials is partly the luckiest: what it was chosen by flatters it. Fresh seeds were not chosen by
anything. Leaves SWEEP/confirm/ID-sSEED/ (each a run as train leaves it, with its result.json) and confirm/plan.json.
"""

import dataclasses
import json
import logging
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cli import UserError, percent
from pipelines.cost import step_bytes
from pipelines.frontier import dense_baseline, frontier
from pipelines.recipe import TrainOptions, local_device, model_config, read_options
from pipelines.runs import Run, earlier_result, run_all
from pipelines.shards import ShardDataset
from pipelines.trials import Confirmed, Trial, read_sweep, read_trial
from ttrnn.files import atomic_write

__all__ = ["METHOD", "Drawn", "confirm", "draw", "mean_interval", "points_to_confirm"]

log = logging.getLogger(__name__)

METHOD = (
    "Confirmed metrics are means over fresh seeds; the training of the sweep, which was chosen by its result, is left "
    "out. Their 95% intervals add two margins in squares: Student's t for the mean of so few seeds, and the mean "
    "margin of the runs' own intervals, a bootstrap of the clips or groups, which all seeds share."
)
# 97.5% points of Student's distribution for 1, 2, ... degrees of freedom; the last one, a bit too wide, for more.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)

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
    num_cpus: int = 1,
    num_gpus: float | None = None,
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
        num_cpus: As `run_all` has it.
        num_gpus: Likewise.
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
    # Seed by seed: one that is stopped early has compared all points.
    for seed in seeds:
        for point in points:
            _plan_chain(sweep_dir, sweep, (point.trial, seed), runs, parents)
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
        for run, result in run_all(list(ready), _needs(ready, data), num_cpus=num_cpus, num_gpus=num_gpus):
            results[ready[run]] = result
            ended = dataclasses.replace(
                read_trial(Path(run.train.out)), state=result["state"], error=result.get("error")
            )
            (on_end or _say)(ended)
            _write_plan(sweep_dir, seeds, results)
    return _write_plan(sweep_dir, seeds, results)


def _plan_chain(
    sweep_dir: Path, sweep: Mapping[str, Any], key: Key, runs: dict[Key, Run], parents: dict[Key, Key]
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
        _plan_chain(sweep_dir, sweep, parent, runs, parents)
        options["init"] = str(_run_dir(sweep_dir, *parent) / "model")
    workers = options.pop("num_workers")
    options |= {"seed": seed, "batch_size": workers * options["batch_size"], "shards": sweep["shards"]}
    train = TrainOptions(**options, out=str(_run_dir(sweep_dir, *key)))
    runs[key] = Run("confirm", trial, train, is_tested=sweep["num_test_clips"] > 0)


def _run_dir(sweep_dir: Path, trial: str, seed: int) -> Path:
    return sweep_dir / "confirm" / f"{trial}-s{seed}"


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A frontier and what is to be said of it."""

    points: list[Trial]
    """the frontier, smallest first"""
    lucky: list[Trial]
    """points that it has lost by the means of fresh seeds"""
    trials: list[Trial]
    """all trials, those with confirmed values included"""
    confirmation: dict[str, Any] | None
    """seeds, method, and the runs that failed; None where the frontier rests on single trainings"""


def draw(sweep_dir: str | Path, trials: Sequence[Trial]) -> Drawn:
    """The frontier by the means of fresh seeds if each of its points was tried with all of them; else by single values.

    The two are never mixed: an unconfirmed value would win by its luck over confirmed ones. A trial that was confirmed
    for an earlier frontier of the same sweep may be on the new one.

    Args:
        sweep_dir: The sweep.
        trials: All of them.
    """
    sweep_dir, points = Path(sweep_dir), frontier(trials)
    by_single = Drawn(points=points, lucky=[], trials=list(trials), confirmation=None)
    plan = _read_plan(sweep_dir)
    if plan is None:
        return by_single
    failed = {(run["trial"], run["seed"]) for run in plan["failed"]}
    results = {trial.trial: _read_results(sweep_dir, trial.trial) for trial in trials if trial.is_finished}
    missing = [
        point.trial
        for point in points
        if any(seed not in results[point.trial] and (point.trial, seed) not in failed for seed in plan["seeds"])
    ]
    if missing:
        log.warning(
            "not all of the frontier is confirmed, %s still to be trained again: it is drawn by single values; "
            "--resume the sweep with --confirm %d",
            ", ".join(missing),
            len(plan["seeds"]),
        )
        return by_single
    known = {name: found for name, runs in results.items() if (found := _confirmed(runs)) is not None}
    confirmed = [dataclasses.replace(trial, confirmed=known[trial.trial]) for trial in trials if trial.trial in known]
    redrawn = frontier(confirmed)
    if not redrawn:
        log.warning("not one point of the frontier could be confirmed: it is drawn by single values")
        return by_single
    lost = {point.trial for point in points} - {point.trial for point in redrawn}
    told = {
        trial.trial: dataclasses.replace(trial, lucky=True) if trial.trial in lost else trial for trial in confirmed
    }
    return Drawn(
        points=redrawn,
        lucky=[trial for trial in told.values() if trial.lucky],
        trials=[told.get(trial.trial, trial) for trial in trials],
        confirmation={"seeds": plan["seeds"], "method": METHOD, "failed": plan["failed"]},
    )


def _read_plan(sweep_dir: Path) -> dict[str, Any] | None:
    path = sweep_dir / "confirm" / "plan.json"
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        return {"seeds": plan["seeds"], "failed": plan["failed"]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be read (%s): the frontier is drawn by single values", path, error)
        return None


def _read_results(sweep_dir: Path, trial: str) -> dict[int, dict[str, Any]]:
    """Of each seed what the run has left, if it has ended."""
    found = {}
    for path in sorted(sweep_dir.glob(f"confirm/{trial}-s*/result.json")):
        try:
            found[int(path.parent.name.rpartition("-s")[2])] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read (%s): the run counts as not done", path, error)
    return dict(sorted(found.items()))


def _confirmed(results: Mapping[int, Mapping[str, Any]]) -> Confirmed | None:
    """The runs that have ended well, together; None if there are none."""
    good = {seed: result for seed, result in results.items() if result["state"] == "complete"}
    if not good:
        return None
    val = [result["val_metric"] for result in good.values()]
    # Without a test split no run has one.
    test = [result["value"] for result in good.values() if result["value"] is not None]
    val_mean, val_interval = mean_interval(val, [result["val_interval"] for result in good.values()])
    test_mean, test_interval = None, None
    if test:
        test_mean, test_interval = mean_interval(test, [result["interval"] for result in good.values()])
    return Confirmed(
        seeds=list(good),
        val=val,
        val_mean=val_mean,
        val_interval=val_interval,
        test=test,
        test_mean=test_mean,
        test_interval=test_interval,
    )


def mean_interval(values: Sequence[float], intervals: Sequence[Sequence[float]]) -> tuple[float, list[float]]:
    """The mean of the runs of several seeds, and its 95% interval, as METHOD says; of one seed, its own interval.

    Args:
        values: Of each run, 0 to 1.
        intervals: [low, high] of each, for the draw of the clips alone.
    """
    mean, num = statistics.fmean(values), len(values)
    by_seed = 0.0
    if num > 1:
        by_seed = _STUDENT[min(num - 1, len(_STUDENT)) - 1] * statistics.stdev(values) / math.sqrt(num)
    below, above = (
        statistics.fmean(abs(value - bounds[side]) for value, bounds in zip(values, intervals, strict=True))
        for side in (0, 1)
    )
    return mean, [max(0.0, mean - math.hypot(by_seed, below)), min(1.0, mean + math.hypot(by_seed, above))]

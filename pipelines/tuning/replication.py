"""Draw the frontier from the means of replications, which are trainings of its points with new seeds.

drawn = draw_frontier(sweep, sweep.finished_trials())
"""

import dataclasses
import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.special import ndtri, stdtrit

from pipelines.tuning.frontier import frontier
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.tuning.trial import Replication, Trial

__all__ = ["METHOD", "DrawnFrontier", "draw_frontier", "mean_interval", "with_test"]

log = logging.getLogger(__name__)

METHOD = (
    "Replicated metrics are means over new seeds, without the training of the sweep, which was selected by its result. "
    "Their 95% intervals add two variances: that of the mean over the seeds, and that of the sample of clips or "
    "groups, which all seeds share, from the intervals of the runs. They use Student's t distribution with the degrees "
    "of freedom of Welch and Satterthwaite."
)
_LEVEL = 0.975


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnFrontier:
    """A frontier, and the replications from which it was drawn."""

    points: list[Trial]
    """the frontier, smallest first"""
    not_replicated: list[Trial]
    """points of the frontier by single values that are not on the one by means"""
    trials: list[Trial]
    """all trials, with their replications"""
    replications: dict[str, Any] | None
    """seeds, method, and failed runs; None if the frontier is drawn from single values"""


def draw_frontier(sweep: SweepDirectory, trials: Sequence[Trial]) -> DrawnFrontier:
    """Draws the frontier from the means of replications if all of its points have them; else from single values.

    The two are never mixed, because single values are optimistic compared with means. A trial that was replicated for
    an earlier frontier of the same sweep may be on the new one.

    Args:
        sweep: The sweep with the replications.
        trials: All of its trials.
    """
    points = frontier(trials)
    by_single = DrawnFrontier(points=points, not_replicated=[], trials=list(trials), replications=None)
    plan = sweep.read_plan()
    if plan is None:
        return by_single
    failed = {(run["trial"], run["seed"]) for run in plan["failed"]}
    results = {
        trial.trial: sweep.replication_results(trial.trial)
        for trial in trials
        if trial.is_finished or trial.is_baseline
    }
    missing = [
        point.trial
        for point in points
        if point.trial not in plan["left_out"]
        and any(seed not in results[point.trial] and (point.trial, seed) not in failed for seed in plan["seeds"])
    ]
    if missing:
        log.warning(
            "replications of %s are missing: the frontier is drawn from single values; resume the sweep with "
            "--confirm %d",
            ", ".join(missing),
            len(plan["seeds"]),
        )
        return by_single
    by_name = {trial.trial: trial for trial in trials}
    replicated = [
        dataclasses.replace(by_name[name], replication=_replication(runs))
        for name, runs in results.items()
        if all(runs.get(seed, {}).get("state") == "complete" for seed in plan["seeds"])
    ]
    redrawn = frontier(replicated)
    if not redrawn:
        log.warning("no point of the frontier could be replicated: it is drawn from single values")
        return by_single
    by_name |= {trial.trial: trial for trial in replicated}
    # Also those with a seed that diverged: the mean of the other seeds would be biased.
    for name in {point.trial for point in points} - {point.trial for point in redrawn}:
        by_name[name] = dataclasses.replace(by_name[name], not_replicated=True)
    return DrawnFrontier(
        points=redrawn,
        not_replicated=[trial for trial in by_name.values() if trial.not_replicated],
        trials=list(by_name.values()),
        replications={"method": METHOD, **plan},
    )


def with_test(sweep: SweepDirectory, point: Trial, evaluate: Callable[[Path], Mapping[str, Any]]) -> Trial:
    """Tests the untested replications of a point that is on the frontier by their mean only; each of them once.

    Args:
        sweep: The sweep with the replications; the test metric is added to their result.json.
        point: A replicated trial.
        evaluate: Returns value, chance, num_clips and interval for a model directory.
    """
    assert point.replication is not None
    results = sweep.replication_results(point.trial)
    for seed in point.replication.seeds:
        if results[seed]["value"] is None:
            run = sweep.replication(point.trial, seed)
            test = evaluate(run.model)
            results[seed] |= {name: test[name] for name in ("value", "chance", "num_clips", "interval")}
            run.write_result(results[seed])
    tested = _replication({seed: results[seed] for seed in point.replication.seeds})
    return dataclasses.replace(point, replication=tested)


def _replication(results: Mapping[int, Mapping[str, Any]]) -> Replication:
    """Aggregates the complete runs of a trial, of which there is at least one."""
    complete = {seed: result for seed, result in results.items() if result["state"] == "complete"}
    val = [result["val_metric"] for result in complete.values()]
    # Runs have no test metric if there is no test split.
    test = [result["value"] for result in complete.values() if result["value"] is not None]
    val_mean, val_interval = mean_interval(val, [result["val_interval"] for result in complete.values()])
    test_mean, test_interval = None, None
    if test:
        test_mean, test_interval = mean_interval(test, [result["interval"] for result in complete.values()])
    return Replication(
        seeds=list(complete),
        val=val,
        val_mean=val_mean,
        val_interval=val_interval,
        test=test,
        test_mean=test_mean,
        test_interval=test_interval,
    )


def mean_interval(values: Sequence[float], intervals: Sequence[Sequence[float]]) -> tuple[float, list[float]]:
    """The mean of runs with several seeds and its 95% interval (see METHOD); for one seed, the interval of the run.

    The interval of a run includes part of the variance between seeds, so that this interval is rather too wide: its
    coverage in simulations was 96 to 99%, and 91 to 95% if the variance between seeds is by far the larger one.

    Args:
        values: Metric of each run, 0 to 1.
        intervals: [low, high] of each run, for the sample of clips only.
    """
    mean, num = statistics.fmean(values), len(values)
    seed_variance = statistics.variance(values) / num if num > 1 else 0.0
    below, above = (
        statistics.fmean(abs(value - bounds[side]) for value, bounds in zip(values, intervals, strict=True))
        for side in (0, 1)
    )
    return mean, [
        max(0.0, mean - _margin(seed_variance, num, below)),
        min(1.0, mean + _margin(seed_variance, num, above)),
    ]


def _margin(seed_variance: float, num_seeds: int, clip_margin: float) -> float:
    """The 95% margin of a mean over seeds, from its variance and the 95% margin for the sample of clips."""
    variance = seed_variance + (clip_margin / ndtri(_LEVEL)) ** 2
    freedom = (num_seeds - 1) * (variance / seed_variance) ** 2 if seed_variance else math.inf
    return float(stdtrit(freedom, _LEVEL)) * math.sqrt(variance)

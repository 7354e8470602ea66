"""The frontier by what its points came to when they were trained again with fresh seeds, as SWEEP/confirm/ tells.

drawn = draw("runs/sweep", read_trials("runs/sweep"))
"""

import dataclasses
import json
import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.tuning.frontier import frontier
from pipelines.tuning.sweep_directory import Confirmed, Trial, confirmation_dir
from ttrnn.files import atomic_write

__all__ = ["METHOD", "Drawn", "draw", "mean_interval", "with_tests"]


log = logging.getLogger(__name__)
METHOD = (
    "Confirmed metrics are means over fresh seeds; the training of the sweep, which was chosen by its result, is left "
    "out. Their 95% intervals add two variances: that of the mean over so few seeds, and that of the draw of the clips "
    "or groups, which all seeds share, from the runs' own intervals; Student's t with the degrees of freedom of Welch "
    "and Satterthwaite."
)
# Degrees of freedom, and the 97.5% point of Student's distribution for them.
_STUDENT = {
    1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 8: 2.306, 10: 2.228, 15: 2.131, 30: 2.042,
    math.inf: 1.960,
}  # fmt: skip


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
    known = {
        name: _confirmed(runs)
        for name, runs in results.items()
        if all(runs.get(seed, {}).get("state") == "complete" for seed in plan["seeds"])
    }
    confirmed = [dataclasses.replace(trial, confirmed=known[trial.trial]) for trial in trials if trial.trial in known]
    redrawn = frontier(confirmed)
    if not redrawn:
        log.warning("not one point of the frontier could be confirmed: it is drawn by single values")
        return by_single
    lost = {point.trial for point in points} - {point.trial for point in redrawn}
    told = {trial.trial: trial for trial in trials} | {trial.trial: trial for trial in confirmed}
    # With seeds that diverge too: what the others come to is no mean of what such a training gives.
    told |= {name: dataclasses.replace(told[name], lucky=True) for name in lost}
    return Drawn(
        points=redrawn,
        lucky=[trial for trial in told.values() if trial.lucky],
        trials=list(told.values()),
        confirmation={"seeds": plan["seeds"], "method": METHOD, "failed": plan["failed"]},
    )


def with_tests(sweep_dir: str | Path, point: Trial, evaluate: Callable[[Path], Mapping[str, Any]]) -> Trial:
    """A point that only its fresh seeds have brought onto the frontier: they too are measured on the test split, once.

    Args:
        sweep_dir: The sweep.
        point: Confirmed.
        evaluate: Gives value, chance, num_clips and interval of a model directory.
    """
    assert point.confirmed is not None
    results = _read_results(Path(sweep_dir), point.trial)
    for seed in point.confirmed.seeds:
        if results[seed]["value"] is None:
            run = confirmation_dir(sweep_dir, point.trial, seed)
            test = evaluate(run / "model")
            results[seed] |= {name: test[name] for name in ("value", "chance", "num_clips", "interval")}
            with atomic_write(run / "result.json") as file:
                json.dump(results[seed], file, indent=1)
    return dataclasses.replace(point, confirmed=_confirmed({seed: results[seed] for seed in point.confirmed.seeds}))


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


def _confirmed(results: Mapping[int, Mapping[str, Any]]) -> Confirmed:
    """The runs that have ended well, together; at least one."""
    good = {seed: result for seed, result in results.items() if result["state"] == "complete"}
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

    A run's own interval holds some of what differs by seed too, so that this is rather too wide: in simulations it held
    the truth in 96 to 99 of 100 cases, in 91 to 95 where seeds differ by far more than a draw of clips.

    Args:
        values: Of each run, 0 to 1.
        intervals: [low, high] of each, for the draw of the clips alone.
    """
    mean, num = statistics.fmean(values), len(values)
    by_seed = statistics.variance(values) / num if num > 1 else 0.0
    below, above = (
        statistics.fmean(abs(value - bounds[side]) for value, bounds in zip(values, intervals, strict=True))
        for side in (0, 1)
    )
    return mean, [max(0.0, mean - _margin(by_seed, num, below)), min(1.0, mean + _margin(by_seed, num, above))]


def _margin(by_seed: float, num_seeds: int, by_clips: float) -> float:
    """Of a mean whose variance is `by_seed`, and that of the draw of the clips what a margin of 95% stands for."""
    variance = by_seed + (by_clips / _STUDENT[math.inf]) ** 2
    freedom = (num_seeds - 1) * (variance / by_seed) ** 2 if by_seed else math.inf
    # Nearly straight in 1 / freedom.
    inverse, points = zip(*sorted((1 / number, point) for number, point in _STUDENT.items()), strict=True)
    return float(np.interp(1 / freedom, inverse, points)) * math.sqrt(variance)

"""Select a trial of a sweep by rule."""

from collections.abc import Sequence
from typing import Any

from scipy.special import ndtri

from pipelines.core.errors import UserError
from pipelines.core.text import percent
from pipelines.evaluation.metrics import standard_error
from pipelines.tuning.frontier import knee
from pipelines.tuning.replication import draw_frontier
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.tuning.trial import Trial, trial_name

__all__ = ["best_point", "chance_warning", "check_rule", "choose", "select_trial"]


def check_rule(select: str, max_params: int | None, tolerance: float | None) -> None:
    """Raises ValueError if the options of `choose` are unknown or exclude each other."""
    names_one = select.startswith("trial:") or select.isdigit()
    if max_params is not None and names_one:
        raise ValueError(f"select {select} names one model; leave max_params out")
    if select not in ("best", "knee", "highest", "smallest") and not names_one:
        raise ValueError(f"select must be best, knee, highest, smallest or trial:ID, got {select!r}")
    if tolerance is not None and (select != "smallest" or not 0 <= tolerance < 1):
        raise ValueError(
            f"tolerance belongs to --select smallest and lies between 0 and 1, got {tolerance:g} with --select {select}"
        )


def select_trial(
    sweep: SweepDirectory, select: str, max_params: int | None = None, tolerance: float | None = None
) -> tuple[Trial, list[dict[str, Any]]]:
    """Draws the frontier of a sweep and selects a trial by `choose`.

    Returns:
        (the trial, rows with trial, num_params and val_metric of the next smaller point of the frontier, the trial, and
        the next larger point).
    """
    frontier = draw_frontier(sweep, sweep.finished_trials())
    document = sweep.read()
    if select == "best" and max_params is None:
        max_params = document["options"].get("max_params")
    trial = choose(
        frontier.points, frontier.trials, select, document["num_val_clips"], max_params, tolerance, document["chance"]
    )
    others = [point for point in frontier.points if point.trial != trial.trial]
    smaller = [point for point in others if point.coordinates[0] <= trial.coordinates[0]][-1:]
    larger = [point for point in others if point.coordinates[0] > trial.coordinates[0]][:1]
    return trial, [
        {"trial": each.trial, "num_params": each.coordinates[0], "val_metric": each.coordinates[1]}
        for each in (*smaller, trial, *larger)
    ]


def choose(
    points: list[Trial],
    trials: list[Trial],
    select: str,
    num_val_clips: int,
    max_params: int | None = None,
    tolerance: float | None = None,
    chance: float = 0.0,
) -> Trial:
    """Chooses one trial by rule.

    Args:
        points: The frontier, smallest first.
        trials: All trials, for trial:ID.
        select: best: see `best_point`. knee: see frontier.knee. highest: highest validation metric, or mean of the
            replications if there are any. smallest: fewest parameters among those whose metric is within one standard
            error of the highest (the one-standard-error rule of Breiman et al., 1984). trial:ID or ID: that one.
        num_val_clips: Number of clips in the validation split.
        max_params: Larger models are excluded.
        tolerance: For smallest, instead of one standard error.
        chance: The metric of guessing, 0 to 1.

    Raises:
        UserError: no model is small enough, or there is no such finished trial.
    """
    if select.startswith("trial:") or select.isdigit():
        return _by_name(trials, select.removeprefix("trial:"))
    fitting = [point for point in points if max_params is None or point.coordinates[0] <= max_params]
    if not fitting:
        raise UserError(
            f"no model of the frontier has at most {max_params:,} parameters; the smallest has {points[0].num_params:,}"
        )
    if select == "best":
        return best_point(fitting, chance, max_params)
    if select == "knee":
        return knee(fitting, chance)
    highest = fitting[-1]
    if select == "highest":
        return highest
    bound = highest.coordinates[1] - (_standard_error(highest, num_val_clips) if tolerance is None else tolerance)
    return next(point for point in fitting if point.coordinates[1] >= bound)


def _by_name(trials: Sequence[Trial], name: str) -> Trial:
    """The finished trial of a name, or of its number without leading zeros."""
    names = {name, trial_name(int(name))} if name.isdigit() else {name}
    found = next((trial for trial in trials if trial.trial in names), None)
    if found is not None and found.is_finished:
        return found
    what = (
        f"there is no trial {name!r}"
        if found is None
        else f"{found.trial} can't be chosen ({found.stopped_by or found.state})"
    )
    raise UserError(f"{what}; there are {', '.join(trial.trial for trial in trials if trial.is_finished)}")


def best_point(points: Sequence[Trial], chance: float, max_params: int | None) -> Trial:
    """The best point of a frontier: the highest metric if the size is limited, else the knee.

    A frontier has no two points of equal metric: the smaller one has been kept.

    Args:
        points: The frontier, smallest first; all of at most `max_params` parameters.
        chance: The metric of guessing, 0 to 1.
        max_params: The limit, if there is one.
    """
    return knee(points, chance) if max_params is None else points[-1]


def chance_warning(trial: Trial, chance: float) -> str | None:
    """A sentence if the 95% interval of a trial's metric, on validation or else on test, contains that of guessing.

    Args:
        trial: With the means of its replications, if it was replicated.
        chance: The metric of guessing, 0 to 1.
    """
    replication = trial.replication
    found = [
        ("validation", trial.val_metric, trial.val_interval),
        ("test", trial.test_metric, trial.test_interval),
    ]
    if replication is not None:
        found = [
            ("validation", replication.val_mean, replication.val_interval),
            ("test", replication.test_mean, replication.test_interval),
        ]
    for split, value, interval in found:
        if value is not None and interval is not None and interval[0] <= chance:
            low, high = (percent(bound) for bound in interval)
            return (
                f"{percent(value)} is hardly better than chance ({percent(chance)}): on {split}, the 95% interval of "
                f"trial {trial.trial} is {low} to {high}"
            )
    return None


def _standard_error(trial: Trial, num_val_clips: int) -> float:
    """That of the validation metric: from the lower half of its 95% interval if known, else that of a share."""
    interval = trial.val_interval if trial.replication is None else trial.replication.val_interval
    if interval is None:
        return standard_error(trial.coordinates[1], num_val_clips)
    return float(max(0.0, trial.coordinates[1] - interval[0]) / ndtri(0.975))

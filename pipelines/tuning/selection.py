"""Choose a trial of a sweep by rule."""

from typing import Any

from pipelines.core.errors import UserError
from pipelines.evaluation.metrics import standard_error
from pipelines.tuning.frontier import knee
from pipelines.tuning.trial import Trial

__all__ = ["between_neighbours", "choose"]


def choose(
    points: list[Trial],
    trials: list[Trial],
    select: str,
    num_val_clips: int,
    max_params: int | None = None,
    tolerance: float | None = None,
) -> Trial:
    """One trial by rule.

    Args:
        points: The frontier, smallest first.
        trials: All trials, for trial:ID.
        select: best: highest validation metric, the mean of fresh seeds where it is confirmed. knee: see frontier.knee.
            smallest: fewest parameters among those whose metric is within one standard error of the best's (the
            one-standard-error rule of Breiman et al., 1984). trial:ID: that one.
        num_val_clips: Clips that the metric was measured on.
        max_params: Leave larger models out first.
        tolerance: Of smallest, instead of one standard error.

    Raises:
        UserError: nothing fits, or there is no such finished trial.
    """
    if select.startswith("trial:"):
        name = select.removeprefix("trial:")
        for trial in trials:
            if trial.trial == name and trial.is_finished:
                return trial
        raise UserError(
            f"there is no finished trial {name!r}; there are {', '.join(t.trial for t in trials if t.is_finished)}"
        )
    fitting = [point for point in points if max_params is None or point.place[0] <= max_params]
    if not fitting:
        raise UserError(
            f"no model of the frontier has at most {max_params:,} parameters; the smallest has {points[0].place[0]:,}"
        )
    if select == "knee":
        return knee(fitting)
    best = fitting[-1]
    if select == "best":
        return best
    bound = best.place[1] - (_standard_error(best, num_val_clips) if tolerance is None else tolerance)
    return next(point for point in fitting if point.place[1] >= bound)


def _standard_error(trial: Trial, num_val_clips: int) -> float:
    """Of its validation metric: from the lower half of the 95% interval where one is known, else that of a share."""
    interval = trial.val_interval if trial.replication is None else trial.replication.val_interval
    if interval is None:
        return standard_error(trial.place[1], num_val_clips)
    return max(0.0, trial.place[1] - interval[0]) / 1.96


def between_neighbours(points: list[Trial], chosen: Trial) -> list[dict[str, Any]]:
    """The chosen trial between the next smaller and the next larger point of the frontier."""
    others = [point for point in points if point.trial != chosen.trial]
    smaller = [point for point in others if point.place[0] <= chosen.place[0]][-1:]
    larger = [point for point in others if point.place[0] > chosen.place[0]][:1]
    return [
        {"trial": trial.trial, "num_params": trial.place[0], "val_metric": trial.place[1]}
        for trial in (*smaller, chosen, *larger)
    ]

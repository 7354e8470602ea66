"""The frontier of parameters against the validation metric: which trials are on it, where it bends, how good it is."""

import math
from collections.abc import Iterable, Sequence

from pipelines.tuning.trial import Trial

__all__ = ["HYPERVOLUME", "IDEAL", "WORST", "dense_baseline", "frontier", "hypervolume", "knee"]


WORST = (10_000_000, 0.0)
"""(num_params, metric) of the corner that hypervolumes are measured from."""
IDEAL = (100, 1.0)
"""The corner opposite to it."""
HYPERVOLUME = (
    f"the share that the frontier dominates of all from {IDEAL[0]:,} to {WORST[0]:,} parameters, on a logarithmic "
    f"scale, and from {WORST[1]:.0%} to {IDEAL[1]:.0%} on validation"
)
"""What `hypervolume` gives by default, in words."""


def frontier(trials: Iterable[Trial]) -> list[Trial]:
    """The finished trials that no other one dominates with fewer parameters, a better validation metric, or both.

    Of an equal metric the trial with fewer parameters stays; of both equal, the first by name.

    Returns:
        By rising num_params and, with them, strictly rising metric: the smallest first, the best last.
    """
    points: list[Trial] = []
    finished = [trial for trial in trials if trial.is_finished]
    for trial in sorted(finished, key=lambda trial: (trial.place[0], -trial.place[1], trial.trial)):
        if not points or trial.place[1] > points[-1].place[1]:
            points.append(trial)
    return points


def knee(points: Sequence[Trial]) -> Trial:
    """Where a frontier bends: the point highest above the chord from its smallest to its best point.

    The distance is taken in (log num_params, val_metric); which point wins does not depend on the scale of either axis.
    Of equal distances (a frontier of two points, a straight one) the better metric wins.

    Args:
        points: A frontier, smallest first; at least one point.
    """
    (low_params, low_metric), (high_params, high_metric) = points[0].place, points[-1].place
    if len(points) == 1:
        return points[0]

    def height(point: Trial) -> float:
        num_params, metric = point.place
        across = math.log(num_params / low_params) / math.log(high_params / low_params)
        return (metric - low_metric) / (high_metric - low_metric) - across

    return max(reversed(points), key=height)


def dense_baseline(trials: Iterable[Trial]) -> Trial | None:
    """The best finished trial with a dense input matrix, the smallest of equal ones."""
    dense = [trial for trial in trials if trial.is_finished and trial.config.get("input") == "dense"]
    return max(dense, key=lambda trial: (trial.place[1], -trial.place[0]), default=None)


def hypervolume(
    places: Iterable[tuple[float, float]],
    *,
    worst: tuple[float, float] = WORST,
    ideal: tuple[float, float] = IDEAL,
) -> float:
    """How much of all there is to win a set of models wins: larger is better, and no dominated model adds to it.

    Args:
        places: (num_params, metric) of each model.
        worst: The reference point: what is no better than it in either counts for nothing.
        ideal: What is better than it counts no more.

    Returns:
        The share, 0 to 1, of the rectangle between `worst` and `ideal` in (log num_params, metric) that lies on the
        larger and worse side of some model.
    """
    left, right = math.log(ideal[0]), math.log(worst[0])
    area, reached = 0.0, worst[1]
    for num_params, metric in sorted(places):
        width, top = right - max(math.log(num_params), left), min(metric, ideal[1])
        if width > 0 and top > reached:
            area, reached = area + width * (top - reached), top
    return area / ((right - left) * (ideal[1] - worst[1]))

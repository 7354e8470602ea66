"""Compute the frontier (Pareto front) of parameters and validation metric, its knee and its hypervolume."""

import math
from collections.abc import Iterable, Sequence

from pipelines.tuning.trial import Trial

__all__ = ["HYPERVOLUME", "IDEAL", "WORST", "baseline_frontier", "dense_baseline", "frontier", "hypervolume", "knee"]


WORST = (10_000_000, 0.0)
"""(num_params, metric) of the reference point of hypervolumes."""
IDEAL = (100, 1.0)
"""The opposite corner."""
# Of ten times the parameters, as a share of the highest point's gain over guessing; see `knee`.
_DECADE_PRICE = 0.25
HYPERVOLUME = (
    f"share dominated by the frontier of the area from {IDEAL[0]:,} to {WORST[0]:,} parameters, on a logarithmic "
    f"scale, and from {WORST[1]:.0%} to {IDEAL[1]:.0%} of the validation metric"
)
"""Definition of the default hypervolume, in words."""


def frontier(trials: Iterable[Trial]) -> list[Trial]:
    """The finished trials that are not dominated in number of parameters and validation metric.

    Of trials with an equal metric, the one with fewer parameters is kept; if both are equal, the first by name.

    Returns:
        In order of strictly increasing num_params and metric: the smallest first, the best last.
    """
    return _front(trial for trial in trials if trial.is_finished)


def baseline_frontier(trials: Iterable[Trial]) -> list[Trial]:
    """The finished baselines that no other baseline dominates, as `frontier` gives the trials."""
    return _front(trial for trial in trials if trial.is_baseline)


def _front(trials: Iterable[Trial]) -> list[Trial]:
    points: list[Trial] = []
    for trial in sorted(trials, key=lambda trial: (trial.coordinates[0], -trial.coordinates[1], trial.trial)):
        if not points or trial.coordinates[1] > points[-1].coordinates[1]:
            points.append(trial)
    return points


def knee(points: Sequence[Trial], chance: float = 0.0) -> Trial:
    """The knee of a frontier: ten times the parameters must be worth a quarter of what the highest point gains over
    guessing.

    At such a fixed price, points of little use at either end do not move the knee, and a point near the highest one is
    not given up for a few hundred parameters. Of equal points, the smaller model is taken.

    Args:
        points: A frontier, smallest first; at least one point.
        chance: The metric of guessing, 0 to 1.
    """
    gain = points[-1].coordinates[1] - chance
    if gain <= 0:
        return points[0]

    def worth(point: Trial) -> float:
        num_params, metric = point.coordinates
        return round((metric - chance) / gain - _DECADE_PRICE * math.log10(num_params), 9)

    return max(points, key=worth)


def dense_baseline(trials: Iterable[Trial]) -> Trial | None:
    """The finished trial with a dense input matrix that has the best metric; of equal ones, the smallest."""
    finished = (trial for trial in trials if trial.is_finished or trial.is_baseline)
    dense = [trial for trial in finished if trial.config.get("input") == "dense"]
    return max(dense, key=lambda trial: (trial.coordinates[1], -trial.coordinates[0]), default=None)


def hypervolume(
    points: Iterable[tuple[float, float]],
    *,
    worst: tuple[float, float] = WORST,
    ideal: tuple[float, float] = IDEAL,
) -> float:
    """The hypervolume of a set of models: larger is better; a dominated model does not change it.

    Args:
        points: (num_params, metric) of each model.
        worst: The reference point; a model that is not better in both does not count.
        ideal: The opposite corner; values beyond it count as equal to it.

    Returns:
        The share, 0 to 1, of the rectangle between `worst` and `ideal` in (log num_params, metric) that lies on the
        larger and worse side of some model.
    """
    left, right = math.log(ideal[0]), math.log(worst[0])
    area, highest = 0.0, worst[1]
    for num_params, metric in sorted(points):
        width, top = right - max(math.log(num_params), left), min(metric, ideal[1])
        if width > 0 and top > highest:
            area, highest = area + width * (top - highest), top
    return area / ((right - left) * (ideal[1] - worst[1]))

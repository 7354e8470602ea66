"""Stop trials early that are significantly dominated at their current epoch.

Early stopping for one objective (successive halving, for example) compares all trials with each other. That is wrong
for a frontier, on which a small model may stay although large ones are better. Here, a trial is only compared with
those that have no more parameters: it is stopped if one of them was significantly better at the same epoch.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from pipelines.core.text import percent
from pipelines.evaluation.metrics import standard_error

__all__ = ["STOPPING", "Curve", "EarlyStopping"]


STOPPING = ("frontier", "asha", "none")
CONFIDENCE = 0.8
"""Confidence level at which a rival must be better at an epoch."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The learning curve of a trial."""

    trial: str
    """name of the trial"""
    num_params: int
    """parameters of the whole model"""
    best: Sequence[float]
    """best validation metric up to each epoch, 0 to 1, from epoch 1 on"""

    @classmethod
    def of(cls, trial: str, num_params: int, values: Iterable[float]) -> "Curve":
        """Builds a curve from the validation metric of each epoch."""
        return cls(trial, num_params, list(itertools.accumulate(values, max)))


class EarlyStopping:
    """Compares the learning curves of all trials of a sweep, and decides which trials to stop.

    Two metrics on n clips differ significantly if their difference exceeds z times sqrt(se_1^2 + se_2^2), where se is
    the standard error of a proportion of n clips and z the quantile of the normal distribution for the confidence.
    Both trials are evaluated on the same clips, so that their errors are correlated and the true standard error is
    smaller: the rule is conservative.

    Args:
        num_clips: Number of clips in the validation split.
        grace: Number of epochs before which no trial is stopped.
        confidence: Confidence level, between 0.5 and 1.
    """

    def __init__(self, num_clips: int, *, grace: int = 1, confidence: float = CONFIDENCE) -> None:
        self._num_clips, self._grace = num_clips, grace
        self._z = NormalDist().inv_cdf(confidence)
        self._curves: dict[str, Curve] = {}

    def add(self, curve: Curve) -> None:
        """Adds the curve of a trial; it replaces a shorter curve of this trial."""
        earlier = self._curves.get(curve.trial)
        if earlier is None or len(curve.best) >= len(earlier.best):
            self._curves[curve.trial] = curve

    def remove(self, trial: str) -> None:
        """Removes a failed trial, so that others are not compared with it."""
        self._curves.pop(trial, None)

    def reason_to_stop(self, curve: Curve, grace: int | None = None) -> str | None:
        """The reason if the trial is significantly dominated at the last epoch of its curve; else None.

        Args:
            curve: Of the trial.
            grace: Its own number of epochs before which it is not stopped.
        """
        self.add(curve)
        epoch = len(curve.best)
        if epoch < (self._grace if grace is None else grace):
            return None
        rivals = [
            other
            for other in self._curves.values()
            if other.trial != curve.trial and other.num_params <= curve.num_params and len(other.best) >= epoch
        ]
        if not rivals:
            return None
        rival = max(rivals, key=lambda other: other.best[epoch - 1])
        theirs, own = rival.best[epoch - 1], curve.best[-1]
        noise = math.hypot(standard_error(theirs, self._num_clips), standard_error(own, self._num_clips))
        if theirs - own <= self._z * noise:
            return None
        return (
            f"dominated at epoch {epoch} by trial {rival.trial}: {percent(theirs)} with {rival.num_params:,} "
            f"parameters against {percent(own)} with {curve.num_params:,}"
        )

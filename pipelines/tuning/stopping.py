"""When a trial is not worth going on with: it is dominated, beyond noise, at the epoch it has come to.

Early stopping for one objective (successive halving, say) compares all trials with each other. For a frontier that is
wrong: a small model is worth its place although large ones are better. Here a trial is compared only with those that
have no more parameters: it ends where one of them was better at the same epoch, by more than chance explains.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from pipelines.core.text import percent
from pipelines.evaluation.metrics import standard_error

__all__ = ["STOPPING", "Curve", "Judge"]


STOPPING = ("frontier", "asha", "none")
CONFIDENCE = 0.8
"""How sure it must be that a rival is better at this epoch."""


@dataclass(frozen=True, slots=True)
class Curve:
    """How a trial has come along."""

    trial: str
    """its name"""
    num_params: int
    """of the whole model"""
    best: Sequence[float]
    """the best validation metric up to each epoch, 0 to 1; epoch 1 first"""

    @classmethod
    def of(cls, trial: str, num_params: int, values: Iterable[float]) -> "Curve":
        """From the validation metric of each epoch."""
        return cls(trial, num_params, list(itertools.accumulate(values, max)))


class Judge:
    """Knows the curves of all trials of a sweep and says which are to end.

    Two metrics on n clips differ beyond noise where their difference exceeds z times sqrt(se_1^2 + se_2^2), with se the
    standard error of a share of n clips and z the point of the normal distribution for the confidence. Both trials are
    measured on the same clips, which go right and wrong together, so that the true noise is less: the rule errs towards
    training on.

    Args:
        num_clips: Of the validation split.
        grace: No trial ends before it has trained so many epochs.
        confidence: How sure it must be that the rival is better, between 0.5 and 1.
    """

    def __init__(self, num_clips: int, *, grace: int = 1, confidence: float = CONFIDENCE) -> None:
        self._num_clips, self._grace = num_clips, grace
        self._z = NormalDist().inv_cdf(confidence)
        self._curves: dict[str, Curve] = {}

    def add(self, curve: Curve) -> None:
        """Takes what is known of a trial; a longer curve replaces the one that was known."""
        known = self._curves.get(curve.trial)
        if known is None or len(curve.best) >= len(known.best):
            self._curves[curve.trial] = curve

    def remove(self, trial: str) -> None:
        """Forgets a trial that failed: it is no rival of others."""
        self._curves.pop(trial, None)

    def reason_to_stop(self, curve: Curve) -> str | None:
        """A sentence if the trial, at the last epoch of its curve, is dominated beyond noise; else None."""
        self.add(curve)
        epoch = len(curve.best)
        if epoch < self._grace:
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

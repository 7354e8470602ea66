"""How good a set of predictions is, how sure that is, and which classes are taken for which.

The metric is accuracy, or mean average precision where clips have several labels.

Legend: B clips, C classes, U units that are drawn (groups, or clips), R resamples.
"""

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "METRICS",
    "Interval",
    "Resamples",
    "accuracy",
    "chance_level",
    "confusion",
    "hits",
    "interval",
    "mean_average_precision",
    "per_class",
    "resampled",
    "score",
    "standard_error",
]

METRICS = {"single_label": "accuracy", "multi_label": "mean_average_precision"}
_NUM_RESAMPLES = 2000
# The worst and the best of fewer groups than these enclose the mean of all in less than 94 cases of 100.
_MIN_GROUPS = 5
# How often each clip was drawn, of so many resamples at once that they stay in the processor's cache.
_BLOCK_VALUES = 1 << 18

Labels = Sequence[tuple[int, ...]]


def accuracy(scores_BC: np.ndarray, labels: Labels) -> float:
    """Share of clips, 0 to 1, whose highest score is their label."""
    return float(np.mean(hits(scores_BC, labels)))


def hits(scores_BC: np.ndarray, labels: Labels) -> np.ndarray:
    """bool [B]: whether the highest score is that of the label; one label a clip."""
    found: np.ndarray = scores_BC.argmax(axis=1) == np.array([label for (label,) in labels])
    return found


def mean_average_precision(scores_BC: np.ndarray, labels: Labels) -> float:
    """Mean over classes of the average precision, 0 to 1: precision at each positive clip, best score first.

    Clips of equal score count as one rank, so that their order does not matter (as scikit-learn has it). Classes
    without a positive clip are left out of the mean.
    """
    return float(np.nanmean(_average_precisions(scores_BC, labels)))


def _average_precisions(scores_BC: np.ndarray, labels: Labels) -> np.ndarray:
    """[C]; NaN for a class without a positive clip."""
    once = np.ones((len(labels), 1), np.int32)
    return np.array([ranking.average_precision(once)[0] for ranking in _rankings(scores_BC, labels)])


class _Ranking(NamedTuple):
    """The clips of a split as one class ranks them, best score first, cut into steps that end with a positive score."""

    order: np.ndarray
    """clips, down to the last score that a positive one has"""
    steps: np.ndarray
    """for each step the place in `order` where it begins"""
    positives: np.ndarray
    """places in `order` of the clips that are of the class"""
    step_positives: np.ndarray
    """for each step the first of `positives` in it"""

    def average_precision(self, counts_BR: np.ndarray) -> np.ndarray:
        """[R] where clip b is there counts_BR[b, r] times; NaN where no positive one is."""
        if not len(self.positives):
            return np.full(counts_BR.shape[1], np.nan)
        ranked = counts_BR[self.order]
        seen = np.add.reduceat(ranked, self.steps).cumsum(axis=0)
        gained = np.add.reduceat(ranked[self.positives], self.step_positives)
        hits = gained.cumsum(axis=0)
        with np.errstate(invalid="ignore"):
            return (gained * hits / np.maximum(seen, 1)).sum(axis=0) / hits[-1]


def _rankings(scores_BC: np.ndarray, labels: Labels) -> Iterator[_Ranking]:
    """Of each class in turn."""
    for number, scores in enumerate(scores_BC.T):
        order = np.argsort(-scores, kind="stable")
        positives = np.flatnonzero(np.array([number in own for own in labels])[order])
        # Clips of equal score are one rank.
        last_of_rank = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
        ends, step_positives = np.unique(last_of_rank[np.searchsorted(last_of_rank, positives)], return_index=True)
        steps = np.append(0, ends + 1)
        yield _Ranking(order[: steps[-1]], steps[:-1], positives, step_positives)


def score(task: str, scores_BC: np.ndarray, labels: Labels) -> float:
    """The metric of a task, single_label or multi_label."""
    return accuracy(scores_BC, labels) if task == "single_label" else mean_average_precision(scores_BC, labels)


def standard_error(value: float, num_clips: int) -> float:
    """Of a share of clips: sqrt(p (1 - p) / n), with p drawn in by one hit and one miss so that 100% has one too."""
    share = (value * num_clips + 1) / (num_clips + 2)
    return math.sqrt(share * (1 - share) / num_clips)


def chance_level(task: str, labels: Labels, num_classes: int) -> float:
    """What guessing reaches: 1 / C for accuracy; the mean share of positives for mean average precision."""
    if task == "single_label":
        return 1 / num_classes
    counts = np.bincount([label for own in labels for label in own], minlength=num_classes)
    return float(np.mean(counts[counts > 0]) / len(labels))


class Interval(NamedTuple):
    """Where a metric lies with a confidence of 95%, the clips having been drawn by chance."""

    low: float
    """0 to 1"""
    high: float
    """0 to 1"""
    by: str
    """what was drawn anew: `group` or `clip`"""
    num_groups: int
    """different groups that are known among the clips"""


def interval(task: str, scores_BC: np.ndarray, labels: Labels, groups: Sequence[str], *, seed: int = 0) -> Interval:
    """The 95% interval of a task's metric: a percentile bootstrap of 2,000 resamples.

    Clips of one group (a speaker, a source video) go right and wrong together, so that whole groups are drawn; a clip
    without a group is one by itself. Fewer than 5 groups don't tell how groups differ: then clips are drawn, and the
    interval is for more clips of the same groups only. Few units vary more than a resample shows: their percentiles
    lie further out, as Student's distribution has it (Hesterberg 2015, the expanded percentile interval). Where all is
    right, which no resample changes, the lower bound is that of so many independent trials without a failure; where
    all is wrong, likewise.

    Cost: O(2,000 B), times C for mean average precision; of 10,000 clips 0.2 s, of 12 classes of them 1 s.

    Args:
        task: single_label or multi_label.
        scores_BC: Of each clip for each class.
        labels: Classes of each clip.
        groups: Of each clip; "" where unknown.
        seed: Of the draws.
    """
    drawn = resampled(task, scores_BC, labels, groups, seed=seed)
    low, high = drawn.bounds()
    value, bound = score(task, scores_BC, labels), 0.025 ** (1 / drawn.num_units)
    return Interval(bound if value == 1 else low, 1 - bound if value == 0 else high, drawn.by, drawn.num_groups)


class Resamples(NamedTuple):
    """A metric of resamples of the clips; those of another model on the same clips, of the same seed, are paired."""

    values: np.ndarray
    """[R]"""
    by: str
    """what was drawn: `group` or `clip`"""
    num_units: int
    num_groups: int
    """different groups that are known among the clips"""

    def bounds(self) -> tuple[float, float]:
        """What encloses 95% of the values, further out where there are few units."""
        tail = _tail(self.num_units)
        low, high = np.nanquantile(self.values, [tail, 1 - tail]).tolist()
        return low, high


def resampled(task: str, scores_BC: np.ndarray, labels: Labels, groups: Sequence[str], *, seed: int = 0) -> Resamples:
    """The metric of each of 2,000 resamples; see `interval`."""
    num_groups = len({name for name in groups if name})
    numbers: dict[str | int, int] = {}
    units = np.array([numbers.setdefault(name or index, len(numbers)) for index, name in enumerate(groups)])
    by = "group" if _MIN_GROUPS <= len(numbers) < len(units) else "clip"
    if by == "clip":
        units = np.arange(len(units))
    num_units = int(units.max()) + 1
    draws = _draws(num_units, max(1, _BLOCK_VALUES // len(units)), np.random.default_rng(seed))
    if task == "single_label":
        hits_sizes = np.stack([np.bincount(units, hits(scores_BC, labels)), np.bincount(units)], axis=1)
        sums = np.concatenate([counts_RU @ hits_sizes for counts_RU in draws])
        values_R = sums[:, 0] / sums[:, 1]
    else:
        rankings = list(_rankings(scores_BC, labels))
        values_R = np.concatenate([_mean_average_precisions(counts_RU.T[units], rankings) for counts_RU in draws])
    return Resamples(values_R, by, num_units, num_groups)


def _draws(num_units: int, block: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Blocks of int32 [R, U]: how often each unit was drawn, with replacement, in as many draws as there are units."""
    for start in range(0, _NUM_RESAMPLES, block):
        rows = min(block, _NUM_RESAMPLES - start)
        drawn = rng.integers(num_units, size=(rows, num_units)) + num_units * np.arange(rows)[:, None]
        counts = np.bincount(drawn.reshape(-1), minlength=rows * num_units)
        yield counts.astype(np.int32).reshape(rows, num_units)


def _mean_average_precisions(counts_BR: np.ndarray, rankings: Sequence[_Ranking]) -> np.ndarray:
    """[R]; classes that a resample misses are left out of its mean, NaN where it misses all."""
    values_CR = np.stack([ranking.average_precision(counts_BR) for ranking in rankings])
    with np.errstate(invalid="ignore"):
        return np.nansum(values_CR, axis=0) / np.isfinite(values_CR).sum(axis=0)


def _tail(num_units: int) -> float:
    """The share to cut off at either end for 95% between: 0.025 with many units, less with few."""
    normal, freedom = NormalDist(), num_units - 1
    if not freedom:
        return 0.0
    z = normal.inv_cdf(0.975)
    # Student's 97.5% point, by the first terms of its expansion (Abramowitz and Stegun 26.7.5).
    student = (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
    return normal.cdf(-student * math.sqrt(num_units / freedom))


def confusion(scores_BC: np.ndarray, labels: Labels) -> np.ndarray:
    """int64 [C, C]: how many clips of the class of the row were taken for that of the column; one label a clip."""
    counts_CC = np.zeros((scores_BC.shape[1],) * 2, np.int64)
    np.add.at(counts_CC, ([label for (label,) in labels], scores_BC.argmax(axis=1)), 1)
    return counts_CC


def per_class(task: str, scores_BC: np.ndarray, labels: Labels, classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each class: `class`, `num_clips` that have it, and how well it is told, 0 to 1; None where unknown.

    With one label a clip `precision` (of the clips taken for it, the share that are it), `recall` (of the clips that
    are it, the share taken for it) and `f1`, their harmonic mean; with several `average_precision`.
    """
    if task == "multi_label":
        counts = np.bincount([label for own in labels for label in own], minlength=len(classes)).tolist()
        values = _average_precisions(scores_BC, labels).tolist()
        return [
            {"class": name, "num_clips": count, "average_precision": value if count else None}
            for name, count, value in zip(classes, counts, values, strict=True)
        ]
    counts_CC = confusion(scores_BC, labels)
    hits, own, taken = (part.tolist() for part in (counts_CC.diagonal(), counts_CC.sum(axis=1), counts_CC.sum(axis=0)))
    return [
        {
            "class": name,
            "num_clips": own[number],
            "precision": _share(hits[number], taken[number]),
            "recall": _share(hits[number], own[number]),
            "f1": _share(2 * hits[number], own[number] + taken[number]),
        }
        for number, name in enumerate(classes)
    ]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None

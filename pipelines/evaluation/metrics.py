"""Accuracy, mean average precision, chance level, confusion matrix and metrics by class.

Legend: B clips, C classes.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "METRICS",
    "Ranking",
    "accuracy",
    "chance_level",
    "class_rankings",
    "confusion",
    "hits",
    "mean_average_precision",
    "per_class",
    "score",
    "standard_error",
]


METRICS = {"single_label": "accuracy", "multi_label": "mean_average_precision"}
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
    return np.array([ranking.average_precision(once)[0] for ranking in class_rankings(scores_BC, labels)])


class Ranking(NamedTuple):
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


def class_rankings(scores_BC: np.ndarray, labels: Labels) -> Iterator[Ranking]:
    """Of each class in turn."""
    for number, scores in enumerate(scores_BC.T):
        order = np.argsort(-scores, kind="stable")
        positives = np.flatnonzero(np.array([number in own for own in labels])[order])
        # Clips of equal score are one rank.
        last_of_rank = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
        ends, step_positives = np.unique(last_of_rank[np.searchsorted(last_of_rank, positives)], return_index=True)
        steps = np.append(0, ends + 1)
        yield Ranking(order[: steps[-1]], steps[:-1], positives, step_positives)


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

"""Compute accuracy, mean average precision, chance level, confusion matrix and metrics by class.

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
    "correct",
    "mean_average_precision",
    "per_class",
    "standard_error",
    "task_metric",
]


METRICS = {"single_label": "accuracy", "multi_label": "mean_average_precision"}
Labels = Sequence[tuple[int, ...]]


def accuracy(scores_BC: np.ndarray, labels: Labels) -> float:
    """Share of clips, 0 to 1, whose highest score is that of their label."""
    return float(np.mean(correct(scores_BC, labels)))


def correct(scores_BC: np.ndarray, labels: Labels) -> np.ndarray:
    """bool [B]: whether the highest score is that of the label; clips have one label."""
    found: np.ndarray = scores_BC.argmax(axis=1) == np.array([label for (label,) in labels])
    return found


def mean_average_precision(scores_BC: np.ndarray, labels: Labels) -> float:
    """Mean over classes of the average precision, 0 to 1: the mean precision at each positive clip, best score first.

    Clips of equal score share a rank, so that their order does not matter (as in scikit-learn). Classes without a
    positive clip are left out of the mean.
    """
    return float(np.nanmean(_average_precisions(scores_BC, labels)))


def _average_precisions(scores_BC: np.ndarray, labels: Labels) -> np.ndarray:
    """[C]; NaN for a class without a positive clip."""
    once = np.ones((len(labels), 1), np.int32)
    return np.array([ranking.average_precision(once)[0] for ranking in class_rankings(scores_BC, labels)])


class Ranking(NamedTuple):
    """The clips by their score for one class, best first, cut into steps that each end with a positive clip's score."""

    order: np.ndarray
    """indices of clips, down to the lowest score of a positive clip"""
    steps: np.ndarray
    """index into `order` at which each step begins"""
    positives: np.ndarray
    """indices into `order` of the positive clips, those that have the class"""
    step_positives: np.ndarray
    """index into `positives` of the first one in each step"""

    def average_precision(self, counts_BR: np.ndarray) -> np.ndarray:
        """[R]: the average precision if clip b occurs counts_BR[b, r] times; NaN if no positive clip does."""
        if not len(self.positives):
            return np.full(counts_BR.shape[1], np.nan)
        ranked = counts_BR[self.order]
        num_predicted = np.add.reduceat(ranked, self.steps).cumsum(axis=0)
        num_gained = np.add.reduceat(ranked[self.positives], self.step_positives)
        num_correct = num_gained.cumsum(axis=0)
        with np.errstate(invalid="ignore"):
            return (num_gained * num_correct / np.maximum(num_predicted, 1)).sum(axis=0) / num_correct[-1]


def class_rankings(scores_BC: np.ndarray, labels: Labels) -> Iterator[Ranking]:
    """The ranking of the clips for each class."""
    for number, scores in enumerate(scores_BC.T):
        order = np.argsort(-scores, kind="stable")
        positives = np.flatnonzero(np.array([number in own for own in labels])[order])
        # Clips of equal score share a rank.
        last_of_rank = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
        ends, step_positives = np.unique(last_of_rank[np.searchsorted(last_of_rank, positives)], return_index=True)
        steps = np.append(0, ends + 1)
        yield Ranking(order[: steps[-1]], steps[:-1], positives, step_positives)


def task_metric(task: str, scores_BC: np.ndarray, labels: Labels) -> float:
    """The metric of a task: accuracy for single_label, mean average precision for multi_label."""
    return accuracy(scores_BC, labels) if task == "single_label" else mean_average_precision(scores_BC, labels)


def standard_error(value: float, num_clips: int) -> float:
    """Standard error of a share of clips: sqrt(p (1 - p) / n), where p counts one more hit and one more miss.

    Without these two, the standard error of 100% would be 0.
    """
    share = (value * num_clips + 1) / (num_clips + 2)
    return math.sqrt(share * (1 - share) / num_clips)


def chance_level(task: str, labels: Labels, num_classes: int) -> float:
    """The metric of guessing: 1 / C for accuracy; the mean share of positive clips for mean average precision."""
    if task == "single_label":
        return 1 / num_classes
    counts = np.bincount([label for own in labels for label in own], minlength=num_classes)
    return float(np.mean(counts[counts > 0]) / len(labels))


def confusion(scores_BC: np.ndarray, labels: Labels) -> np.ndarray:
    """int64 [C, C]: number of clips of the row's class predicted as the column's class; clips have one label."""
    counts_CC = np.zeros((scores_BC.shape[1],) * 2, np.int64)
    np.add.at(counts_CC, ([label for (label,) in labels], scores_BC.argmax(axis=1)), 1)
    return counts_CC


def per_class(task: str, scores_BC: np.ndarray, labels: Labels, classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each class: `class`, `num_clips` that have it, and its metrics, 0 to 1, or None if undefined.

    The metrics are `precision` (share of the clips predicted as the class that have it), `recall` (share of the clips
    that have the class that are predicted as it) and `f1`, their harmonic mean; or, if clips have several labels,
    `average_precision`.
    """
    if task == "multi_label":
        counts = np.bincount([label for own in labels for label in own], minlength=len(classes)).tolist()
        values = _average_precisions(scores_BC, labels).tolist()
        return [
            {"class": name, "num_clips": count, "average_precision": value if count else None}
            for name, count, value in zip(classes, counts, values, strict=True)
        ]
    counts_CC = confusion(scores_BC, labels)
    num_correct, num_clips, num_predicted = (
        counts.tolist() for counts in (counts_CC.diagonal(), counts_CC.sum(axis=1), counts_CC.sum(axis=0))
    )
    return [
        {
            "class": name,
            "num_clips": num_clips[number],
            "precision": _share(num_correct[number], num_predicted[number]),
            "recall": _share(num_correct[number], num_clips[number]),
            "f1": _share(2 * num_correct[number], num_clips[number] + num_predicted[number]),
        }
        for number, name in enumerate(classes)
    ]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None

"""How good a set of predictions is: accuracy, or mean average precision where clips have several labels.

Legend: B clips, C classes.
"""

import math

import numpy as np

__all__ = ["METRICS", "accuracy", "chance_level", "mean_average_precision", "score", "standard_error"]

METRICS = {"single_label": "accuracy", "multi_label": "mean_average_precision"}


def accuracy(scores_BC: np.ndarray, labels: list[tuple[int, ...]]) -> float:
    """Share of clips, 0 to 1, whose highest score is their label."""
    return float(np.mean(scores_BC.argmax(axis=1) == np.array([label for (label,) in labels])))


def mean_average_precision(scores_BC: np.ndarray, labels: list[tuple[int, ...]]) -> float:
    """Mean over classes of the average precision, 0 to 1: precision at each positive clip, best score first.

    Clips of equal score count as one rank, so that their order does not matter (as scikit-learn has it). Classes
    without a positive clip are left out of the mean.
    """
    target_BC = np.zeros(scores_BC.shape, bool)
    for row, own in enumerate(labels):
        target_BC[row, list(own)] = True
    precisions = []
    for scores, target in zip(scores_BC.T, target_BC.T, strict=True):
        if not target.any():
            continue
        order = np.argsort(-scores, kind="stable")
        last_of_rank = np.append(np.diff(scores[order]) != 0, True)
        hits = np.cumsum(target[order])[last_of_rank]
        precision = hits / (np.flatnonzero(last_of_rank) + 1)
        precisions.append(float(np.sum(np.diff(hits, prepend=0) * precision) / hits[-1]))
    return float(np.mean(precisions))


def score(task: str, scores_BC: np.ndarray, labels: list[tuple[int, ...]]) -> float:
    """The metric of a task, single_label or multi_label."""
    return accuracy(scores_BC, labels) if task == "single_label" else mean_average_precision(scores_BC, labels)


def standard_error(value: float, num_clips: int) -> float:
    """Of a share of clips: sqrt(p (1 - p) / n), with p drawn in by one hit and one miss so that 100% has one too."""
    share = (value * num_clips + 1) / (num_clips + 2)
    return math.sqrt(share * (1 - share) / num_clips)


def chance_level(task: str, labels: list[tuple[int, ...]], num_classes: int) -> float:
    """What guessing reaches: 1 / C for accuracy; the mean share of positives for mean average precision."""
    if task == "single_label":
        return 1 / num_classes
    counts = np.bincount([label for own in labels for label in own], minlength=num_classes)
    return float(np.mean(counts[counts > 0]) / len(labels))

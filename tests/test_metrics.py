"""pipelines/metrics.py: accuracy and mean average precision, held against their definitions."""

import numpy as np
import pytest

from pipelines.metrics import METRICS, accuracy, chance_level, mean_average_precision, score, standard_error


def average_precision(scores: list[float], target: list[bool]) -> float:
    """By definition: the sum over thresholds of (gain in recall) * precision."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = [hit for value, hit in zip(scores, target, strict=True) if value >= threshold]
        gained = sum(chosen) / sum(target)
        total += (gained - recall) * sum(chosen) / len(chosen)
        recall = gained
    return total


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([[0.9, 0.1], [0.2, 0.8]], [0, 1], 1.0),
        ([[0.9, 0.1], [0.2, 0.8]], [1, 0], 0.0),
        ([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.3, 0.4, 0.3], [0.6, 0.2, 0.2]], [0, 2, 1, 2], 0.75),
        ([[-5.0, -1.0], [-1.0, -5.0]], [1, 0], 1.0),
    ],
    ids=["all right", "all wrong", "three of four", "logits"],
)
def test_accuracy_is_the_share_of_highest_scores_that_are_the_label(scores, labels, expected):
    assert accuracy(np.array(scores), [(label,) for label in labels]) == expected


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([[0.1], [0.4], [0.35], [0.8]], [(), (), (0,), (0,)], (1 / 1 + 2 / 3) / 2),
        ([[0.9], [0.8], [0.1]], [(0,), (0,), ()], 1.0),
        ([[0.1], [0.8], [0.9]], [(0,), (), ()], 1 / 3),
        ([[0.5], [0.5], [0.5], [0.5]], [(0,), (), (), ()], 1 / 4),
        ([[0.9, 0.3], [0.1, 0.6]], [(0, 1), (1,)], (1 + 1) / 2),
        ([[0.9, 0.3, 0.5], [0.1, 0.6, 0.4]], [(0,), (1,)], 1.0),
    ],
    ids=["textbook", "perfect", "worst", "all equal", "two labels of a clip", "a class without a clip is left out"],
)
def test_mean_average_precision_of_known_rankings(scores, labels, expected):
    assert mean_average_precision(np.array(scores), labels) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [3, 1000], ids=["many ties", "few ties"])
def test_mean_average_precision_is_what_its_definition_gives(seed, levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(levels, size=(40, 5)) / levels
    labels = [tuple(np.flatnonzero(row).tolist()) for row in rng.random((40, 5)) < 0.3]
    target = np.array([[number in own for number in range(5)] for own in labels])
    expected = np.mean([average_precision(s.tolist(), t.tolist()) for s, t in zip(scores.T, target.T, strict=True)])
    assert mean_average_precision(scores, labels) == pytest.approx(expected)


def test_the_order_of_clips_does_not_matter():
    rng = np.random.default_rng(0)
    scores = rng.integers(4, size=(30, 3)) / 4
    labels = [(int(number),) for number in rng.integers(3, size=30)]
    order = rng.permutation(30)
    shuffled = scores[order], [labels[index] for index in order]
    for task in METRICS:
        assert score(task, *shuffled) == pytest.approx(score(task, scores, labels))


def test_each_task_has_the_metric_of_its_name():
    scores, labels = np.array([[0.9, 0.8], [0.2, 0.1], [0.1, 0.3]]), [(0,), (1,), (1,)]
    assert METRICS == {"single_label": "accuracy", "multi_label": "mean_average_precision"}
    assert score("single_label", scores, labels) == accuracy(scores, labels) == pytest.approx(2 / 3)
    assert score("multi_label", scores, labels) == mean_average_precision(scores, labels) != accuracy(scores, labels)


def test_chance_is_what_scores_without_information_reach():
    assert chance_level("single_label", [(0,), (0,), (3,)], 4) == 1 / 4
    labels = [(0, 2), (2,), (), (0, 1), (2,)]
    expected = mean_average_precision(np.zeros((5, 4)), labels)
    assert chance_level("multi_label", labels, 4) == pytest.approx(expected) == pytest.approx((2 + 1 + 3) / 5 / 3)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_standard_error_is_that_of_a_share_and_never_nothing(value):
    assert standard_error(value, 10**6) == pytest.approx((value * (1 - value) / 10**6) ** 0.5, rel=1e-3, abs=1e-5)
    assert 0 < standard_error(value, 400) < standard_error(value, 20) < 0.12
    assert standard_error(value, 20) == pytest.approx(standard_error(1 - value, 20))

"""pipelines/evaluation/metrics.py and bootstrap.py: metrics agree with their definitions, intervals cover the truth."""

import time
from statistics import NormalDist

import numpy as np
import pytest

from pipelines.evaluation.bootstrap import Resamples, interval
from pipelines.evaluation.metrics import (
    METRICS,
    accuracy,
    chance_level,
    confusion,
    mean_average_precision,
    per_class,
    standard_error,
    task_metric,
)


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
def test_accuracy_is_the_share_of_clips_whose_highest_score_is_their_label(scores, labels, expected):
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
def test_mean_average_precision_agrees_with_its_definition(seed, levels):
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
        assert task_metric(task, *shuffled) == pytest.approx(task_metric(task, scores, labels))


def test_each_task_has_its_metric():
    scores, labels = np.array([[0.9, 0.8], [0.2, 0.1], [0.1, 0.3]]), [(0,), (1,), (1,)]
    assert METRICS == {"single_label": "accuracy", "multi_label": "mean_average_precision"}
    assert task_metric("single_label", scores, labels) == accuracy(scores, labels) == pytest.approx(2 / 3)
    assert (
        task_metric("multi_label", scores, labels) == mean_average_precision(scores, labels) != accuracy(scores, labels)
    )


def test_chance_is_the_metric_of_constant_scores():
    assert chance_level("single_label", [(0,), (0,), (3,)], 4) == 1 / 4
    labels = [(0, 2), (2,), (), (0, 1), (2,)]
    expected = mean_average_precision(np.zeros((5, 4)), labels)
    assert chance_level("multi_label", labels, 4) == pytest.approx(expected) == pytest.approx((2 + 1 + 3) / 5 / 3)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_standard_error_is_that_of_a_share_and_never_zero(value):
    assert standard_error(value, 10**6) == pytest.approx((value * (1 - value) / 10**6) ** 0.5, rel=1e-3, abs=1e-5)
    assert 0 < standard_error(value, 400) < standard_error(value, 20) < 0.12
    assert standard_error(value, 20) == pytest.approx(standard_error(1 - value, 20))


def answers(right):
    """(scores, labels) of clips that are predicted correctly where `right` is true."""
    right = np.asarray(right, bool)
    return np.stack([right, ~right], axis=1).astype(float), [(0,)] * len(right)


def several_labels(num_clips, num_classes=4, seed=0):
    """(scores, labels) of clips with several labels; scores are higher for labels that a clip has."""
    rng = np.random.default_rng(seed)
    target = rng.random((num_clips, num_classes)) < 0.3
    return target + rng.normal(size=target.shape), [tuple(np.flatnonzero(row).tolist()) for row in target]


def coverage(num_groups, clips_per_group, spread, truth=0.7, repetitions=250):
    """How often the interval contains the accuracy in the population that the groups are drawn from."""
    rng, covered = np.random.default_rng(0), 0
    groups = [f"group {number // clips_per_group}" for number in range(num_groups * clips_per_group)]
    for _ in range(repetitions):
        own = np.repeat(truth + spread * rng.choice([-1, 1], num_groups), clips_per_group)
        low, high, *_ = interval("single_label", *answers(rng.random(len(own)) < own), groups)
        covered += low <= truth <= high
    return covered / repetitions


@pytest.mark.parametrize(
    ("num_groups", "clips_per_group", "spread"),
    [(100, 1, 0), (6, 20, 0.25), (12, 20, 0.25), (40, 5, 0.25)],
    ids=["100 clips", "6 groups", "12 groups", "40 small groups"],
)
def test_about_95_percent_of_intervals_contain_the_true_value(num_groups, clips_per_group, spread):
    # The standard error of the share of 250 repetitions is 0.014.
    assert 0.91 <= coverage(num_groups, clips_per_group, spread) <= 0.985


@pytest.mark.parametrize(
    ("num_units", "quantile"), [(2, 12.7062), (3, 4.30265), (5, 2.77645), (30, 2.04523), (10**6, 1.95997)]
)
def test_resamples_of_few_units_are_widened_by_the_quantile_of_students_distribution(num_units, quantile):
    # The quantiles, of num_units - 1 degrees of freedom, are those of printed tables.
    low, high = Resamples(np.linspace(0, 1, 100_001), "clip", num_units, 0).bounds()
    tail = NormalDist().cdf(-quantile * (num_units / (num_units - 1)) ** 0.5)
    assert (low, high) == pytest.approx((tail, 1 - tail), abs=1e-6)


def test_the_interval_of_clips_is_that_of_a_binomial_share():
    scores, labels = answers(np.arange(500) < 350)
    low, high, by, num_groups = interval("single_label", scores, labels, [""] * 500)
    half = 1.96 * (0.7 * 0.3 / 500) ** 0.5
    assert (low, high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.006)
    assert (by, num_groups) == ("clip", 0)


@pytest.mark.parametrize("task", METRICS)
def test_the_interval_by_group_is_wider_if_clips_of_a_group_are_alike(task):
    if task == "single_label":
        once, labels = answers(np.arange(20) % 3 > 0)
    else:
        once, labels = several_labels(20)
    scores, labels = np.repeat(once, 9, axis=0), [own for own in labels for _ in range(9)]
    by_group = interval(task, scores, labels, [f"speaker {number // 9}" for number in range(180)])
    by_clip = interval(task, scores, labels, [""] * 180)
    assert (by_group.by, by_group.num_groups, by_clip.by, by_clip.num_groups) == ("group", 20, "clip", 0)
    # Nine copies of a clip hold no more information than one: the width goes with the root of the independent clips.
    assert (by_group.high - by_group.low) / (by_clip.high - by_clip.low) > 2
    assert by_group.low < task_metric(task, scores, labels) < by_group.high


@pytest.mark.parametrize(
    ("groups", "by", "num_groups"),
    [
        ([""] * 12, "clip", 0),
        ([f"{number % 4}" for number in range(12)], "clip", 4),
        ([f"{number % 5}" for number in range(12)], "group", 5),
        ([f"{number}" for number in range(12)], "clip", 12),
        (["a"] * 6 + [""] * 6, "group", 1),
    ],
    ids=["unknown", "too few", "enough", "of one clip each", "a clip without a group"],
)
def test_groups_are_resampled_if_there_are_enough_of_them(groups, by, num_groups):
    found = interval("single_label", *answers(np.arange(12) % 4 > 0), groups)
    assert (found.by, found.num_groups) == (by, num_groups)


@pytest.mark.parametrize("task", METRICS)
@pytest.mark.parametrize("groups", [[""] * 60, [f"{number % 15}" for number in range(60)]], ids=["clips", "groups"])
def test_an_interval_agrees_with_a_plain_bootstrap(task, groups):
    rng = np.random.default_rng(1)
    scores, labels = several_labels(60) if task == "multi_label" else answers(rng.random(60) < 0.7)
    scores = scores.round(1)  # So that there are ties.
    names = [name or f"clip {index}" for index, name in enumerate(groups)]
    members = {name: [index for index, own in enumerate(names) if own == name] for name in names}
    values = []
    for _ in range(500):
        drawn = [index for name in rng.choice(list(members), len(members)) for index in members[name]]
        values.append(task_metric(task, scores[drawn], [labels[index] for index in drawn]))
    low, high, *_ = interval(task, scores, labels, groups)
    assert (low, high) == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist(), abs=0.035)


def test_an_interval_depends_on_the_seed_only():
    scores, labels = several_labels(40)
    first, again, other = (interval("multi_label", scores, labels, [""] * 40, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert first[:2] == pytest.approx(other[:2], abs=0.02)


@pytest.mark.parametrize("task", METRICS)
def test_the_interval_of_a_perfect_metric_has_the_exact_lower_bound(task):
    target = np.arange(20)[:, None] % 2 == [0, 1]
    labels = [(number % 2,) for number in range(20)]
    low, high, *_ = interval(task, target.astype(float), labels, [""] * 20)
    # The exact bound for 20 independent trials without a failure.
    assert (low, high) == pytest.approx((0.025 ** (1 / 20), 1))


def test_the_interval_of_a_metric_of_zero_has_the_exact_upper_bound():
    low, high, *_ = interval("single_label", *answers([False] * 20), [""] * 20)
    assert (low, high) == pytest.approx((0, 1 - 0.025 ** (1 / 20)))


def test_a_class_without_clips_in_a_resample_is_left_out_of_its_mean():
    labels = [(0,), (1,), *[(2,)] * 10]
    scores = np.random.default_rng(0).random((12, 3))
    found = interval("multi_label", scores, labels, [""] * 12)
    assert 0 < found.low < task_metric("multi_label", scores, labels) < found.high <= 1


@pytest.mark.parametrize(("task", "limit_s"), [("single_label", 2), ("multi_label", 12)])
def test_the_interval_of_ten_thousand_clips_is_computed_within_seconds(task, limit_s):
    scores, labels = several_labels(10_000, 6) if task == "multi_label" else answers(np.arange(10_000) % 3 > 0)
    # The limit is ten times the usual time, as other processes may be running.
    start = time.process_time()
    interval(task, scores, labels, [""] * 10_000)
    assert time.process_time() - start < limit_s


def test_a_confusion_matrix_counts_clips_of_the_row_predicted_as_the_column():
    scores = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.1, 0.2, 0.7], [0, 0.6, 0.4], [0.3, 0.3, 0.4]])
    labels = [(0,), (0,), (2,), (2,), (2,)]
    assert confusion(scores, labels).tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 2]]


def test_each_class_has_its_precision_recall_and_f1():
    scores = np.eye(4)[[0, 1, 2, 1, 2]]
    rows = per_class("single_label", scores, [(0,), (0,), (2,), (2,), (2,)], ["a", "b", "c", "d"])
    assert rows == [
        {"class": "a", "num_clips": 2, "precision": 1, "recall": 0.5, "f1": pytest.approx(2 / 3)},
        {"class": "b", "num_clips": 0, "precision": 0, "recall": None, "f1": 0},
        {"class": "c", "num_clips": 3, "precision": 1, "recall": pytest.approx(2 / 3), "f1": 0.8},
        {"class": "d", "num_clips": 0, "precision": None, "recall": None, "f1": None},
    ]


def test_each_of_several_labels_has_its_average_precision():
    scores, labels = np.array([[0.9, 0.8, 0], [0.5, 0.1, 0], [0.1, 0.9, 0]]), [(0, 1), (), (0,)]
    assert per_class("multi_label", scores, labels, ["a", "b", "c"]) == [
        {"class": "a", "num_clips": 2, "average_precision": pytest.approx((1 + 2 / 3) / 2)},
        {"class": "b", "num_clips": 1, "average_precision": 0.5},
        {"class": "c", "num_clips": 0, "average_precision": None},
    ]

"""pipelines/evaluation/compare.py: the paired tests agree with their definitions, and their results are described."""

import itertools
import math

import numpy as np
import pytest

from pipelines.evaluation.bootstrap import resample
from pipelines.evaluation.compare import compare, comparison_text, mcnemar
from pipelines.evaluation.metrics import task_metric


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (0, 6), (3, 3), (4, 10), (10, 4), (2, 9)])
def test_mcnemar_is_the_probability_of_coin_tosses_that_are_as_uneven(first, second):
    total, distance = first + second, abs(first - second)
    uneven = sum(abs(total - 2 * sum(tosses)) >= distance for tosses in itertools.product((0, 1), repeat=total))
    assert mcnemar(first, second) == pytest.approx(uneven / 2**total)


def test_mcnemar_of_many_clips_does_not_overflow():
    assert mcnemar(5000, 5000) == 1
    assert 0 <= mcnemar(4000, 6000) < 1e-80
    assert mcnemar(2000, 2100) == pytest.approx(math.erfc(99 / math.sqrt(2 * 4100)), rel=0.01)


def scores(correct, num_classes=2):
    """(B, C): scores of clips of class 0, predicted correctly where `correct` is true."""
    found = np.zeros((len(correct), num_classes), np.float32)
    found[np.arange(len(correct)), [0 if hit else 1 for hit in correct]] = 1
    return found


def test_two_models_are_compared_clip_by_clip():
    ours = [True] * 10 + [False] * 4 + [True] * 20 + [False] * 6
    theirs = [False] * 10 + [True] * 4 + [True] * 20 + [False] * 6
    found = compare("single_label", scores(ours), scores(theirs), [(0,)] * 40, [""] * 40)
    assert (found["num_only_first"], found["num_only_second"], found["num_differing"]) == (10, 4, 14)
    assert found["difference"] == pytest.approx(6 / 40)
    assert (found["test"], found["is_significant"]) == ("mcnemar", False)
    assert found["p_value"] == pytest.approx(mcnemar(10, 4))
    low, high = found["difference_interval"]
    # By the normal approximation: of 40 differences, 10 of +1 and 4 of -1.
    error = 1.96 * math.sqrt((14 - 36 / 40) / 40 / 40)
    assert (low, high) == (pytest.approx(0.15 - error, abs=0.04), pytest.approx(0.15 + error, abs=0.04))
    assert "(only the first correct: 10, only the other: 4)" in comparison_text(found, 40, 0)
    assert "p = 0.18, not significant at 5%" in comparison_text(found, 40, 0)


def test_a_model_does_not_differ_from_itself():
    ours = scores([True, False] * 10)
    found = compare("single_label", ours, ours, [(0,)] * 20, [""] * 20)
    assert (found["difference"], found["num_differing"], found["p_value"]) == (0, 0, 1)
    assert found["difference_interval"] == [0, 0]
    assert comparison_text(found, 20, 0).splitlines()[-1] == "predictions differ for 0 of 20 clips"


def test_clips_of_a_group_are_not_treated_as_independent():
    # The models differ on one group of 30 clips: significant if clips were independent, but not by groups.
    ours, theirs = [True] * 30 + [True, False] * 15, [False] * 30 + [True, False] * 15
    labels, groups = [(0,)] * 60, ["long"] * 30 + [f"g{index % 6}" for index in range(30)]
    assert compare("single_label", scores(ours), scores(theirs), labels, [""] * 60)["is_significant"]
    found = compare("single_label", scores(ours), scores(theirs), labels, groups)
    assert (found["test"], found["p_value"], found["difference_by"]) == ("bootstrap", None, "group")
    assert not found["is_significant"]
    assert "by 7 groups" in comparison_text(found, 60, 7)


def test_models_of_several_labels_are_compared_by_the_paired_bootstrap():
    rng = np.random.default_rng(0)
    labels = [(index % 3,) if index % 4 else (0, 1) for index in range(120)]
    truth = np.array([[number in own for number in range(3)] for own in labels], np.float32)
    good, bad = (np.clip(truth * gain + rng.random((120, 3)), 0, 1) for gain in (0.8, 0.2))
    found = compare("multi_label", good, bad, labels, [""] * 120)
    assert found["test"] == "bootstrap"
    assert "num_only_first" not in found
    assert found["is_significant"]
    values = [task_metric("multi_label", part, labels) for part in (good, bad)]
    assert found["difference"] == pytest.approx(values[0] - values[1])
    assert found["difference_interval"][0] < found["difference"] < found["difference_interval"][1]
    # Paired resamples give a narrower interval than independent ones would.
    spreads = [np.std(resample("multi_label", part, labels, [""] * 120).values) for part in (good, bad)]
    assert np.diff(found["difference_interval"])[0] < 2.2 * 1.96 * math.hypot(*spreads)

"""Test bakeoff/compare.py: differences to the first contender with their intervals."""

import math

import pytest

from pipelines.bakeoff.compare import differences


def row(data, contender, difference, clip_variance, seed_variance, budget=1000):
    return {
        "budget": budget,
        "data": data,
        "contender": contender,
        "difference": difference,
        "difference_clip_variance": clip_variance,
        "seed_variance": seed_variance,
        "num_seeds": 3,
    }


def test_the_interval_adds_the_variance_of_clips_and_the_pooled_one_of_seeds():
    table = [row("a", "tt+tt", 0.0, 0.0, 0.0002), row("a", "cp+tt", 0.05, 0.0003, 0.0004)]
    found = differences(table)[1000, "cp+tt"]
    margin = 1.959964 * math.sqrt(0.0003 + 2 * 0.0003 / 3)
    assert found.mean == pytest.approx(0.05)
    assert (found.low, found.high) == pytest.approx((0.05 - margin, 0.05 + margin), abs=1e-6)
    assert found.is_significant
    assert set(differences(table)) == {(1000, "cp+tt")}


def test_data_sets_count_alike_and_those_without_a_result_are_left_out():
    table = [row(data, "tt+tt", 0.0, 0.0, 0.0003) for data in "abc"]
    table += [row("a", "ht+tt", 0.04, 0.0002, 0.0003), row("b", "ht+tt", -0.02, 0.0002, 0.0003)]
    table += [row("c", "ht+tt", None, None, None)]
    found = differences(table)[1000, "ht+tt"]
    assert found.by_data == {"a": 0.04, "b": -0.02}
    assert found.mean == pytest.approx(0.01)
    assert found.high - found.mean == pytest.approx(1.959964 * math.sqrt(2 * (0.0002 + 0.0002)) / 2, abs=1e-6)
    assert not found.is_significant


def test_rows_read_from_a_file_give_the_same():
    table = [row("a", "tt+tt", 0.0, 0.0, 0.0002), row("a", "cp+tt", 0.05, 0.0003, 0.0004)]
    table += [row("a", "low-rank+tt", "", "", "")]
    as_text = [{name: str(value) for name, value in one.items()} for one in table]
    assert differences(as_text) == differences(table[:2])

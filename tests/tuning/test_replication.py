"""Test the mean of several seeds and its interval; test_replicate.py tests the frontier drawn from it."""

import json

import pytest

from pipelines.tuning.replication import mean_interval, with_test
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.tuning.trial import Replication, Trial


@pytest.mark.parametrize(
    ("values", "intervals", "expected"),
    [
        # With one seed, the variance between seeds is unknown.
        ([0.7], [[0.6, 0.75]], [0.6, 0.75]),
        # With equal values, the margin is the mean of the margins of the runs.
        ([0.7, 0.7], [[0.6, 0.8], [0.5, 0.8]], [0.55, 0.8]),
        # 4.303 is the quantile of Student's t for 3 runs; the standard deviation is 0.1, divided by the root of 3.
        ([0.4, 0.5, 0.6], [[0.4, 0.4], [0.5, 0.5], [0.6, 0.6]], [0.5 - 0.248414, 0.5 + 0.248414]),
        # Welch and Satterthwaite give 34.0 degrees of freedom below, 6.34 above: the quantiles are 2.032 and 2.415.
        ([0.4, 0.5, 0.6], [[0.2, 0.5], [0.3, 0.6], [0.4, 0.7]], [0.5 - 0.23826, 0.5 + 0.18608]),
        # No metric is above 1.
        ([0.9, 1.0], [[0.8, 1.0], [0.9, 1.0]], [0.95 - 0.19525, 1.0]),
    ],
    ids=["one seed", "equal values", "seeds alone", "both", "bounded by 1"],
)
def test_the_interval_of_a_mean_combines_seeds_and_clips(
    values: list[float], intervals: list[list[float]], expected: list[float]
) -> None:
    mean, bounds = mean_interval(values, intervals)
    assert mean == pytest.approx(sum(values) / len(values))
    assert bounds == pytest.approx(expected, abs=1e-5)


def test_a_point_that_is_on_the_frontier_by_its_mean_only_is_tested_once(tmp_path):
    for seed, value in ((1, None), (2, 0.7)):
        run = tmp_path / "confirm" / f"a-s{seed}"
        run.mkdir(parents=True)
        result = {"state": "complete", "val_metric": 0.8, "val_interval": [0.7, 0.9], "value": value}
        (run / "result.json").write_text(json.dumps({**result, "interval": [0.6, 0.8] if value else None}))
    tested = []

    def evaluate(model):
        tested.append(model.relative_to(tmp_path).as_posix())
        return {"value": 0.5, "chance": 0.1, "num_clips": 20, "interval": [0.4, 0.6], "per_class": []}

    nothing = {"val": [], "val_mean": 0.8, "val_interval": [0.7, 0.9], "test_mean": None, "test_interval": None}
    point = Trial(trial="a", state="complete", replication=Replication(seeds=[1, 2], test=[], **nothing))
    for _ in range(2):
        replication = with_test(SweepDirectory(tmp_path), point, evaluate).replication
        assert (replication.test, replication.test_mean) == ([0.5, 0.7], pytest.approx(0.6))
        assert replication.val == [0.8, 0.8]
    assert tested == ["confirm/a-s1/model"]

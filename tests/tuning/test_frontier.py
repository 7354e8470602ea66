"""Test tuning/frontier.py: the frontier, its knee, the dense baseline and the hypervolume."""

import dataclasses
import math
import random

import pytest

from pipelines.tuning.frontier import IDEAL, WORST, dense_baseline, frontier, hypervolume, knee
from pipelines.tuning.trial import Replication, Trial


def point(trial: str, num_params: int | None, val_metric: float | None, state: str = "complete") -> Trial:
    return Trial(trial=trial, state=state, num_params=num_params, val_metric=val_metric)


def dominates(a: Trial, b: Trial) -> bool:
    """Whether a dominates b or is preferred to it, directly from the definition."""
    if not (a.is_finished and a.coordinates[0] <= b.coordinates[0] and a.coordinates[1] >= b.coordinates[1]):
        return False
    return a.coordinates != b.coordinates or a.trial < b.trial


@pytest.mark.parametrize("seed", range(60))
def test_frontier_is_the_set_that_no_finished_trial_dominates(seed: int) -> None:
    rng = random.Random(seed)
    trials = [
        point(
            f"{i:04}",
            rng.choice([None, *range(1, 9)]),
            rng.choice([None, math.nan, 0, 0.2, 0.4, 0.6, 0.8]),
            rng.choice(["complete", "complete", "complete", "pruned"]),
        )
        for i in range(rng.randrange(30))
    ]
    rng.shuffle(trials)
    expected = [trial for trial in trials if trial.is_finished and not any(dominates(other, trial) for other in trials)]
    assert frontier(trials) == sorted(expected, key=lambda trial: trial.coordinates[0])


@pytest.mark.parametrize(
    ("trials", "names"),
    [
        ([], ""),
        ([("a", 10, 0.5)], "a"),
        ([("a", 10, 0.5), ("b", 9, 0.5)], "b"),
        ([("b", 10, 0.5), ("a", 10, 0.5)], "a"),
        ([("a", 10, 0.5), ("b", 10, 0.6)], "b"),
        ([("a", 10, 0.5), ("b", 20, 0.4), ("c", 30, 0.7)], "a c"),
        ([("a", 10, math.nan), ("b", 20, 0.0)], "b"),
    ],
    ids=[
        "none",
        "one",
        "equal metric: fewer parameters",
        "both equal: first name",
        "equal parameters: better metric",
        "dominated",
        "NaN",
    ],
)
def test_frontier_resolves_ties(trials: list[tuple[str, int, float]], names: str) -> None:
    assert [trial.trial for trial in frontier(point(*trial) for trial in trials)] == names.split()


@pytest.mark.parametrize("state", ["running", "failed", "pruned", "unfinished"])
def test_a_trial_without_its_full_budget_is_not_on_the_frontier(state: str) -> None:
    assert [trial.trial for trial in frontier([point("a", 1, 0.9, state), point("b", 2, 0.1)])] == ["b"]


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([(100, 0.5)], 0),
        ([(1000, 0.12), (3000, 0.9)], 1),
        ([(4842, 0.415), (201_738, 0.57)], 0),
        ([(1000, 0.5), (2000, 0.9), (100_000, 0.95)], 1),
        ([(3000, 0.2), (5000, 0.3), (10_000, 0.95)], 2),
        ([(1000, 0.1), (3234, 0.846), (6458, 0.942), (403_466, 0.98)], 2),
        # Ten times the parameters for a quarter of the gain over guessing.
        ([(1000, 0.7), (10_000, 0.9)], 0),
        ([(336, 0.738), (584, 1.0)], 1),
        ([(50, 0.05), (2000, 0.08)], 0),
    ],
    ids=[
        "one point", "two points: much better", "two points: 42 times larger for 15 points", "early knee",
        "late knee", "best of several", "equal worth: the smaller", "a quarter better for few parameters",
        "none better than chance",
    ],
)  # fmt: skip
def test_knee_weighs_parameters_against_the_gain_over_guessing(places: list[tuple[int, float]], expected: int) -> None:
    points = [point(str(i), *place) for i, place in enumerate(places)]
    assert knee(points, 0.1) is points[expected]
    halved = [point(str(i), num_params, metric / 2) for i, (num_params, metric) in enumerate(places)]
    assert knee(halved, 0.05) is halved[expected]


def test_a_smaller_or_larger_point_of_little_use_does_not_move_the_knee() -> None:
    points = [point("a", 3000, 0.8), point("b", 6000, 0.9), point("c", 40_000, 0.92)]
    assert knee(points, 0.1).trial == "b"
    assert knee([point("d", 600, 0.12), *points, point("e", 4_000_000, 0.925)], 0.1).trial == "b"


def test_a_replicated_trial_has_the_mean_of_its_replications_as_coordinate() -> None:
    values = {"seeds": [1, 2], "val": [0.5, 0.7], "val_mean": 0.6, "val_interval": [0.4, 0.8]}
    replication = Replication(**values, test=[], test_mean=None, test_interval=None)
    not_replicated = dataclasses.replace(point("a", 20, 0.9), replication=replication)
    assert not_replicated.coordinates == (20, 0.6)
    assert [trial.trial for trial in frontier([not_replicated, point("b", 10, 0.65)])] == ["b"]


def test_the_dense_baseline_is_the_best_finished_dense_model() -> None:
    def dense(*values: object) -> Trial:
        return dataclasses.replace(point(*values), config={"input": "dense"})  # type: ignore[arg-type]

    trials = [dense("a", 90, 0.5), dense("b", 80, 0.5), dense("c", 70, 0.9, "failed"), point("d", 9, 0.8)]
    baseline = dense_baseline(trials)
    assert baseline is not None
    assert baseline.trial == "b"
    assert dense_baseline(trials[2:]) is None


def share_by_counting(places: list[tuple[float, float]]) -> float:
    """The dominated share of a fine grid of points between the corners."""
    steps, dominated = 200, 0
    for column in range(steps):
        num_params = IDEAL[0] * (WORST[0] / IDEAL[0]) ** ((column + 0.5) / steps)
        best = max((metric for size, metric in places if size <= num_params), default=0.0)
        dominated += round(steps * min(max(best, 0.0), 1.0))
    return dominated / steps**2


@pytest.mark.parametrize("seed", range(5))
def test_hypervolume_is_the_dominated_share_of_the_rectangle(seed: int) -> None:
    rng = random.Random(seed)
    places = [(10 ** rng.uniform(1, 8), rng.uniform(-0.1, 1.1)) for _ in range(rng.randrange(9))]
    assert hypervolume(places) == pytest.approx(share_by_counting(places), abs=0.01)
    worse = [(2 * num_params, metric - 0.01) for num_params, metric in places]
    assert hypervolume([*places, *worse]) == pytest.approx(hypervolume(places), abs=1e-12)


def test_the_hypervolume_is_bounded_by_its_corners() -> None:
    assert hypervolume([]) == hypervolume([(100, 0.0)]) == hypervolume([(10_000_000, 1.0)]) == 0
    assert hypervolume([(100, 1.0)]) == hypervolume([(1, 1.0)]) == 1
    assert hypervolume([(10, 0.5)], worst=(1000, 0.25), ideal=(1, 0.75)) == pytest.approx((2 / 3) * 0.5)

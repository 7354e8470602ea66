"""Test report/verdict.py: the sentence that holds the frontier against the baselines."""

import pytest

from pipelines.report.verdict import difference, verdict


def trial(name, size, val, margin=0.02, test=None, **more):
    """A trial; a baseline if its name is a kind."""
    is_baseline = not name.isdecimal()
    return {
        "trial": name,
        "state": "baseline" if is_baseline else "complete",
        "num_params": size,
        "val_metric": val,
        "val_interval": [val - margin, val + margin],
        "test_metric": test,
        "test_interval": None if test is None else [test - margin, test + margin],
        "config": {"input": name if is_baseline else "tt"},
        **more,
    }


def contents(points, baselines, best=None, **more):
    return {"frontier": points, "baselines": baselines, "best": best or points[-1]["trial"], **more}


SMALL, LARGE = trial("1", 1_000, 0.5), trial("2", 5_000, 0.8)
CASES = {
    "wins": (
        [SMALL, LARGE],
        [trial("thumbnail", 2_900, 0.45), trial("cnn", 5_600, 0.79)],
        ("wins", "2", "thumbnail"),
        "Tensor trains win: trial 2 with 5,000 parameters has 80.0% on validation, 35.0 points (95% interval 32.2 to "
        "37.8) more than a thumbnail of 2,900 parameters, the best baseline of about its size or less.",
    ),
    "ties, but not at another size": (
        [SMALL, LARGE],
        [trial("thumbnail", 900, 0.45), trial("cnn", 4_900, 0.78, 0.03)],
        ("mixed", "1", "cnn"),
        "a small CNN of 4,900 parameters has 78.0% on validation, 28.0 points (95% interval 24.4 to 31.6) more than "
        "trial 1 with 1,000 parameters, the best tensor train of at most its size. Trial 2 with 5,000 parameters has "
        "80.0%, 2.0 points (95% interval -1.6 to 5.6) more than a small CNN of 4,900 parameters.",
    ),
    "ties": (
        [LARGE],
        [trial("thumbnail", 4_106, 0.79, test=0.81)],
        ("ties", "2", "thumbnail"),
        "A thumbnail of 4,106 parameters does as well here: 79.0% on validation against 80.0% of trial 2",
    ),
    "loses": (
        [SMALL, LARGE],
        [trial("linear", 3_000, 0.9)],
        ("loses", "2", "linear"),
        "Tensor trains do not win here: a linear classifier of 3,000 parameters has 90.0% on validation, 10.0 points "
        "(95% interval 7.2 to 12.8) more than trial 2 with 5,000 parameters.",
    ),
    "wins, but not at another size": (
        [SMALL, LARGE],
        [trial("low-rank", 3_000, 0.6)],
        ("mixed", "1", "low-rank"),
        "Tensor trains do not win at every size: a low-rank model of 3,000 parameters has 60.0% on validation, 10.0 "
        "points (95% interval 7.2 to 12.8) more than trial 1 with 1,000 parameters, the best tensor train of at most "
        "its size. Trial 2 with 5,000 parameters has 80.0%, 20.0 points (95% interval 17.2 to 22.8) more than",
    ),
    "smaller than all": (
        [SMALL],
        [trial("thumbnail", 1_200, 0.5)],
        ("unmatched", "1", "thumbnail"),
        "No baseline is as small as trial 1 with 1,000 parameters (50.0% on validation); a thumbnail of 1,200 "
        "parameters has 50.0%.",
    ),
    "about as small": (
        [SMALL],
        [trial("thumbnail", 1_050, 0.4)],
        ("wins", "1", "thumbnail"),
        "more than a thumbnail of 1,050 parameters, the best baseline of about its size or less.",
    ),
    "a large best point": (
        [trial("1", 3_100, 0.5), trial("9", 200_000, 0.9)],
        [trial("thumbnail", 3_000, 0.4)],
        ("wins", "1", "thumbnail"),
        "the best baseline of about its size or less. The best tensor train, trial 9 with 200,000 parameters, has "
        "90.0%.",
    ),
    "a dense baseline": (
        [trial("1", 3_100, 0.5), trial("9", 200_000, 0.9)],
        [trial("thumbnail", 3_000, 0.4), trial("dense", 9_000_000, 0.7)],
        ("wins", "1", "thumbnail"),
        "more than a thumbnail of 3,000 parameters",
    ),
}


@pytest.mark.parametrize(("points", "baselines", "expected", "text"), CASES.values(), ids=CASES)
def test_the_sentence_says_who_wins(points, baselines, expected, text):
    found = verdict(contents(points, baselines))
    assert (found["outcome"], found["trial"], found["baseline"]) == expected
    assert text in found["sentence"]


@pytest.mark.parametrize("baselines", [None, [], [trial("cnn", 900, 0.9) | {"state": "failed"}]])
def test_without_a_finished_baseline_there_is_no_sentence(baselines):
    assert verdict(contents([SMALL], baselines)) is None


@pytest.mark.parametrize(("test", "outcome"), [(0.7, "wins"), (0.4, "ties")])
def test_a_win_must_be_there_on_test_too(test, outcome):
    found = verdict(contents([trial("2", 5_000, 0.8, test=0.6)], [trial("cnn", 4_000, 0.5, test=1.1 - test)]))
    assert found["outcome"] == outcome
    assert found["test"]["difference"] == pytest.approx(test - 0.5)
    assert ("is not there on test" in found["sentence"]) == (outcome == "ties")
    assert "on test " in found["sentence"]


def test_means_are_held_against_means():
    mean = {"val_mean": 0.7, "val_interval": [0.6, 0.8], "test_mean": None}
    points = [trial("2", 5_000, 0.99) | {"replication": mean}]
    baselines = [
        trial("cnn", 4_000, 0.9) | {"replication": {**mean, "val_mean": 0.68}},
        # A single value is not compared with a mean.
        trial("thumbnail", 3_000, 0.95),
    ]
    found = verdict(contents(points, baselines, replications={"seeds": [1]}))
    assert (found["baseline"], found["outcome"]) == ("cnn", "ties")
    assert found["val"]["difference"] == pytest.approx(0.02)


def test_the_interval_of_a_difference_combines_both():
    one, two = trial("1", 9, 0.8, val_interval=[0.77, 0.84]), trial("2", 9, 0.5, val_interval=[0.47, 0.54])
    value, (low, high) = difference(one, two, "val")
    # The margin is sqrt(.03^2 + .04^2).
    assert (value, low, high) == (pytest.approx(0.3), pytest.approx(0.25), pytest.approx(0.35))
    assert difference(one, two, "test") is None

"""Test tuning/stopping.py: which trials are stopped early."""

import pytest

from pipelines.tuning.stopping import Curve, EarlyStopping

SLOW = (0.1, 0.1, 0.1, 0.1)
FAST = (0.2, 0.5, 0.7, 0.8)


def early_stopping(*others, num_clips=100, **kwargs):
    stopping = EarlyStopping(num_clips, **kwargs)
    for other in others:
        stopping.add(other)
    return stopping


@pytest.mark.parametrize(
    ("other", "own", "stops"),
    [
        (Curve("a", 900, FAST), Curve("b", 1000, SLOW[:3]), True),
        (Curve("a", 1000, FAST), Curve("b", 1000, SLOW[:3]), True),
        (Curve("a", 1001, FAST), Curve("b", 1000, SLOW[:3]), False),
        (Curve("a", 900, FAST[:2]), Curve("b", 1000, SLOW[:3]), False),
        (Curve("a", 900, (0.8, 0.8, 0.8)), Curve("b", 1000, (0.75, 0.75, 0.75)), False),
        (Curve("a", 900, SLOW), Curve("b", 1000, FAST[:3]), False),
        (Curve("b", 900, FAST), Curve("b", 1000, SLOW[:3]), False),
    ],
    ids=["smaller and better", "as large and better", "larger", "not there yet", "within noise", "worse", "itself"],
)
def test_a_trial_is_stopped_only_if_one_that_is_no_larger_was_significantly_better_at_its_epoch(other, own, stops):
    reason = early_stopping(other).reason_to_stop(own)
    assert (reason is not None) == stops


def test_the_reason_has_the_figures_of_both_trials():
    reason = early_stopping(Curve("0003", 3210, FAST)).reason_to_stop(Curve("0007", 40000, SLOW[:3]))
    assert reason == ("dominated at epoch 3 by trial 0003: 70.0% with 3,210 parameters against 10.0% with 40,000")


def test_with_few_clips_the_difference_must_be_larger():
    rival, own = Curve("a", 10, (0.5,)), Curve("b", 10, (0.4,))
    assert early_stopping(rival, num_clips=1000).reason_to_stop(own)
    assert not early_stopping(rival, num_clips=10).reason_to_stop(own)


def test_with_a_higher_confidence_fewer_trials_are_stopped():
    rival, own = Curve("a", 10, (0.56,)), Curve("b", 10, (0.45,))
    assert early_stopping(rival, confidence=0.8).reason_to_stop(own)
    assert not early_stopping(rival, confidence=0.99).reason_to_stop(own)


def test_no_trial_is_stopped_within_its_grace_period():
    stopping = early_stopping(Curve("a", 10, FAST), grace=3)
    assert stopping.reason_to_stop(Curve("b", 10, SLOW[:2])) is None
    assert stopping.reason_to_stop(Curve("b", 10, SLOW[:3]))


def test_trials_that_run_at_the_same_time_are_compared_at_the_last_epoch_of_both():
    stopping = early_stopping()
    assert stopping.reason_to_stop(Curve("a", 10, (0.1,))) is None
    assert stopping.reason_to_stop(Curve("b", 9, (0.9,))) is None
    assert stopping.reason_to_stop(Curve("a", 10, (0.1, 0.1))) is None
    assert stopping.reason_to_stop(Curve("b", 9, (0.9, 0.9))) is None
    assert stopping.reason_to_stop(Curve("a", 10, (0.1, 0.1, 0.1))) is None
    stopping.add(Curve("b", 9, (0.9, 0.9, 0.9)))
    assert stopping.reason_to_stop(Curve("a", 10, (0.1, 0.1, 0.1)))


def test_a_curve_has_the_best_metric_up_to_each_epoch():
    assert Curve.of("a", 7, [0.2, 0.5, 0.4]) == Curve("a", 7, [0.2, 0.5, 0.5])
    assert Curve.of("a", 7, []).best == []


def test_trials_are_not_compared_with_a_failed_one():
    stopping = early_stopping(Curve("a", 900, FAST))
    assert stopping.reason_to_stop(Curve("b", 1000, SLOW[:3]))
    stopping.remove("a")
    assert stopping.reason_to_stop(Curve("b", 1000, SLOW[:3])) is None
    stopping.remove("a")

import pytest

from pipelines.tuning.stopping import Curve, Judge

SLOW = (0.1, 0.1, 0.1, 0.1)
FAST = (0.2, 0.5, 0.7, 0.8)


def judge(*others, num_clips=100, **kwargs):
    made = Judge(num_clips, **kwargs)
    for other in others:
        made.add(other)
    return made


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
def test_a_trial_ends_only_where_no_larger_one_was_better_at_its_epoch_beyond_noise(other, own, stops):
    reason = judge(other).reason_to_stop(own)
    assert (reason is not None) == stops


def test_the_reason_names_both_trials_figures():
    reason = judge(Curve("0003", 3210, FAST)).reason_to_stop(Curve("0007", 40000, SLOW[:3]))
    assert reason == ("dominated at epoch 3 by trial 0003: 70.0% with 3,210 parameters against 10.0% with 40,000")


def test_few_clips_are_more_noise():
    rival, own = Curve("a", 10, (0.5,)), Curve("b", 10, (0.4,))
    assert judge(rival, num_clips=1000).reason_to_stop(own)
    assert not judge(rival, num_clips=10).reason_to_stop(own)


def test_more_confidence_ends_fewer():
    rival, own = Curve("a", 10, (0.56,)), Curve("b", 10, (0.45,))
    assert judge(rival, confidence=0.8).reason_to_stop(own)
    assert not judge(rival, confidence=0.99).reason_to_stop(own)


def test_nothing_ends_within_its_grace():
    made = judge(Curve("a", 10, FAST), grace=3)
    assert made.reason_to_stop(Curve("b", 10, SLOW[:2])) is None
    assert made.reason_to_stop(Curve("b", 10, SLOW[:3]))


def test_trials_that_run_side_by_side_are_compared_at_the_epoch_both_have_come_to():
    made = judge()
    assert made.reason_to_stop(Curve("a", 10, (0.1,))) is None
    assert made.reason_to_stop(Curve("b", 9, (0.9,))) is None
    assert made.reason_to_stop(Curve("a", 10, (0.1, 0.1))) is None
    assert made.reason_to_stop(Curve("b", 9, (0.9, 0.9))) is None
    assert made.reason_to_stop(Curve("a", 10, (0.1, 0.1, 0.1))) is None
    made.add(Curve("b", 9, (0.9, 0.9, 0.9)))
    assert made.reason_to_stop(Curve("a", 10, (0.1, 0.1, 0.1)))


def test_a_curve_is_the_best_so_far():
    assert Curve.of("a", 7, [0.2, 0.5, 0.4]) == Curve("a", 7, [0.2, 0.5, 0.5])
    assert Curve.of("a", 7, []).best == []


def test_a_trial_that_failed_is_no_rival():
    made = judge(Curve("a", 900, FAST))
    assert made.reason_to_stop(Curve("b", 1000, SLOW[:3]))
    made.remove("a")
    assert made.reason_to_stop(Curve("b", 1000, SLOW[:3])) is None
    made.remove("a")

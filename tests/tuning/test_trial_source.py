"""Test tuning/trial_source.py: the search runs first, then rounds of refinements."""

from types import SimpleNamespace

import pytest

from pipelines.training.run_directory import RunDirectory
from pipelines.tuning.stopping import Curve, EarlyStopping
from pipelines.tuning.trial_source import TrialSource


def named(*names):
    return [SimpleNamespace(name=name, is_baseline=False) for name in names]


class FakeSearch:
    """Proposes the given trainings; each of them ends in its state in `states`."""

    num_workers = 1

    def __init__(self, trainings, states=(), questions=()):
        self.questions, self.num_running = list(questions), 0
        self.left, self.states, self.errors = list(trainings), dict(states), {}

    @property
    def is_asking(self):
        return bool(self.questions)

    def next(self):
        """A question of None waits once for the models before it."""
        if self.questions:
            return self.questions.pop(0)
        return self.left.pop(0) if self.left else None

    has_unfinished = False

    def settle(self, name, *, error=None):
        self.errors[name] = error
        return self.states.get(name, "complete")


def make(search, stopping=None, baselines=(), last=(), refinements=list, has_time=lambda: True, for_baselines=True):
    return TrialSource(
        search,
        stopping or EarlyStopping(100),
        baselines=lambda: (list(baselines), list(last)),
        refinements=refinements,
        has_time=has_time,
        has_time_for_baselines=lambda: for_baselines,
    )


def test_refinements_start_when_all_trials_of_the_search_have_ended():
    rounds = [named("r1", "r2"), named("r3"), []]
    trials = make(FakeSearch(named("a", "b")), refinements=lambda: rounds.pop(0))
    assert [trials.next(()).name, trials.next(["a"]).name] == ["a", "b"]
    assert trials.next(["b"]) is None
    assert [trials.next(()).name, trials.next(["r1"]).name] == ["r1", "r2"]
    assert trials.next(["r2"]) is None
    assert trials.next(()).name == "r3"
    assert trials.next(()) is None


def test_baselines_alternate_with_trials_the_dense_one_comes_last_and_the_study_does_not_see_them(tmp_path):
    first, last = ([SimpleNamespace(name=name, is_baseline=True, options=SimpleNamespace(out=str(tmp_path / name)))]
                   for name in ("linear", "dense"))  # fmt: skip
    search, rounds = FakeSearch(named("a", "b")), [named("r1"), []]
    trials = make(search, baselines=first, last=last, refinements=lambda: rounds.pop(0))
    assert [trials.next(("x",)).name for _ in range(4)] == ["a", "linear", "b", "dense"]
    assert trials.next(["dense"]) is None
    trials.ended(first[0], "its process died")
    assert search.errors == {}
    assert RunDirectory(tmp_path / "linear").summary() == {"state": "failed", "error": "its process died"}
    assert trials.next(()).name == "r1"


def test_nothing_else_starts_while_a_question_is_being_answered():
    (linear,) = [SimpleNamespace(name="linear", is_baseline=True)]
    trials = make(FakeSearch(named("a"), questions=[*named("q1", "q2"), None, *named("q3")]), baselines=[linear])
    assert [trials.next(()).name, trials.next(["q1"]).name] == ["q1", "q2"]
    assert trials.next(["q1", "q2"]) is None
    assert [trials.next(()).name for _ in range(3)] == ["q3", "a", "linear"]


def test_after_many_crashes_in_a_row_nothing_else_starts(caplog):
    trials = make(FakeSearch(named(*"abcdefghijklmno")))
    for number in range(11):
        training = trials.next(())
        trials.ended(training, None if number == 0 else "no space left")
    assert trials.next(()) is None
    assert "10 trainings in a row crashed, the last one with: no space left" in caplog.text


def test_unfinished_trials_continue_even_without_time_for_another_one():
    search = FakeSearch(named("a"))
    search.has_unfinished = True
    assert make(search, has_time=lambda: False).next(()).name == "a"


def test_without_time_for_another_trial_the_refinements_follow():
    times, rounds = [True, False, False, False], [named("r1"), []]
    trials = make(FakeSearch(named("a", "b")), refinements=lambda: rounds.pop(0), has_time=lambda: times.pop(0))
    assert trials.next(()).name == "a"
    assert trials.next(["a"]) is None
    assert trials.next(()).name == "r1"


@pytest.mark.parametrize("has_time", [True, False])
def test_baselines_need_less_time_than_another_trial(has_time):
    baselines = [SimpleNamespace(name=name, is_baseline=True) for name in ("thumbnail", "linear")]
    rounds = [named("r1"), []]
    trials = make(
        FakeSearch(named("a")),
        baselines=baselines,
        refinements=lambda: rounds.pop(0),
        has_time=lambda: False,
        for_baselines=has_time,
    )
    found = [trials.next(()).name for _ in range(3 if has_time else 1)]
    assert found == (["thumbnail", "linear", "r1"] if has_time else ["r1"])


def test_other_trials_are_not_compared_with_a_failed_one():
    stopping = EarlyStopping(100)
    trials = make(FakeSearch([], {"a": "failed"}), stopping)
    for curve in (Curve("a", 900, [0.2, 0.8]), Curve("b", 900, [0.1, 0.7])):
        stopping.add(curve)
    trials.ended(*named("a"), "its process died")
    assert "by trial b" in stopping.reason_to_stop(Curve("c", 1000, [0.1, 0.1]))
    trials.ended(*named("b"), None)
    assert "by trial b" in stopping.reason_to_stop(Curve("c", 1000, [0.1, 0.1]))

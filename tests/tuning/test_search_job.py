"""The order of a sweep's trainings: the search first, then refinements, round by round."""

from types import SimpleNamespace

from pipelines.tuning.search_job import _Trials
from pipelines.tuning.stopping import Curve, Judge


def named(*names):
    return [SimpleNamespace(name=name) for name in names]


class FakeSearch:
    """Gives what it was made with; each trial ends in the state that `states` has for it."""

    num_workers = 1

    def __init__(self, trainings, states=()):
        self.left, self.states, self.errors = list(trainings), dict(states), {}

    def next(self):
        return self.left.pop(0) if self.left else None

    def settle(self, name, *, error=None):
        self.errors[name] = error
        return self.states.get(name, "complete")


def test_refinements_begin_when_all_trials_of_the_search_have_ended():
    rounds = [named("r1", "r2"), named("r3"), []]
    trials = _Trials(FakeSearch(named("a", "b")), Judge(100), lambda: rounds.pop(0))
    assert [trials.next(()).name, trials.next(["a"]).name] == ["a", "b"]
    assert trials.next(["b"]) is None
    assert [trials.next(()).name, trials.next(["r1"]).name] == ["r1", "r2"]
    assert trials.next(["r2"]) is None
    assert trials.next(()).name == "r3"
    assert trials.next(()) is None


def test_a_trial_that_fails_is_no_rival_of_the_others():
    judge = Judge(100)
    trials = _Trials(FakeSearch([], {"a": "failed"}), judge, list)
    for curve in (Curve("a", 900, [0.2, 0.8]), Curve("b", 900, [0.1, 0.7])):
        judge.add(curve)
    trials.ended(*named("a"), "its process died")
    assert "by trial b" in judge.reason_to_stop(Curve("c", 1000, [0.1, 0.1]))
    trials.ended(*named("b"), None)
    assert "by trial b" in judge.reason_to_stop(Curve("c", 1000, [0.1, 0.1]))

"""Test tuning/search_job.py: the search runs first, then rounds of refinements."""

from types import SimpleNamespace

from pipelines.training.run_directory import RunDirectory
from pipelines.tuning.search_job import _Trials
from pipelines.tuning.stopping import Curve, EarlyStopping


def named(*names):
    return [SimpleNamespace(name=name, is_baseline=False) for name in names]


class FakeSearch:
    """Proposes the given trainings; each of them ends in its state in `states`."""

    num_workers = 1

    def __init__(self, trainings, states=()):
        self.left, self.states, self.errors = list(trainings), dict(states), {}

    def next(self):
        return self.left.pop(0) if self.left else None

    def settle(self, name, *, error=None):
        self.errors[name] = error
        return self.states.get(name, "complete")


def test_refinements_start_when_all_trials_of_the_search_have_ended():
    rounds = [named("r1", "r2"), named("r3"), []]
    trials = _Trials(FakeSearch(named("a", "b")), EarlyStopping(100), lambda: rounds.pop(0))
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
    trials = _Trials(search, EarlyStopping(100), lambda: rounds.pop(0), first, last)
    assert [trials.next(("x",)).name for _ in range(4)] == ["a", "linear", "b", "dense"]
    assert trials.next(["dense"]) is None
    trials.ended(first[0], "its process died")
    assert search.errors == {}
    assert RunDirectory(tmp_path / "linear").summary() == {"state": "failed", "error": "its process died"}
    assert trials.next(()).name == "r1"


def test_other_trials_are_not_compared_with_a_failed_one():
    stopping = EarlyStopping(100)
    trials = _Trials(FakeSearch([], {"a": "failed"}), stopping, list)
    for curve in (Curve("a", 900, [0.2, 0.8]), Curve("b", 900, [0.1, 0.7])):
        stopping.add(curve)
    trials.ended(*named("a"), "its process died")
    assert "by trial b" in stopping.reason_to_stop(Curve("c", 1000, [0.1, 0.1]))
    trials.ended(*named("b"), None)
    assert "by trial b" in stopping.reason_to_stop(Curve("c", 1000, [0.1, 0.1]))

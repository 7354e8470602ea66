import json
import shutil
import sys

import optuna
import pytest

from pipelines.core.errors import UserError
from pipelines.data.dataset import ShardDataset
from pipelines.tuning.study import Search
from pipelines.tuning.sweep_directory import SweepDirectory
from tests.shards import make_shards

SPACE = f"{__name__}:few"


def few(trial):
    """A space of a few models; ranks that are clipped make twins."""
    return {
        "hidden_modes": trial.suggest_categorical("hidden_modes", ["2x2x2x2", "4x2x2x2"]),
        "ranks": str(trial.suggest_int("ranks", 1, 3)),
        "recurrent_ranks": "1",
    }


def broken(trial):
    return {"in_modes": "7x7x7x7"}


def unknown(trial):
    return {"depth": 3}


def taken(trial):
    return {"epochs": 3}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return ShardDataset.open(make_shards(tmp_path_factory.mktemp("data") / "shards"))


def make(out, data, limits=None, **kwargs):
    def costs(options, model):
        return {"max_params": model.num_params, "memory_bytes": 1e6 * int(options.ranks[0])}

    arguments = {"space": SPACE, "num_trials": 4, "limits": limits or {}, "sampler": "random"} | kwargs
    out.mkdir(exist_ok=True)
    return Search(SweepDirectory(out), data, {"epochs": 2, "seed": 0}, costs=costs, **arguments)


def finish(out, point, val_metric=0.5, state="complete"):
    """What a training leaves."""
    directory = out / "trials" / point.name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "summary.json").write_text(
        json.dumps({"state": state, "val_metric": val_metric, "num_params": point.model.num_params})
    )


def train_all(search, out):
    names = []
    while (point := search.next()) is not None:
        finish(out, point)
        search.settle(point.name)
        names.append(point.name)
    return names


def states(search):
    return [trial.state.name for trial in search.trials()]


def test_as_many_models_are_given_as_were_asked_for_and_no_two_are_the_same(tmp_path, data):
    search = make(tmp_path, data)
    names = train_all(search, tmp_path)
    assert len(names) == 4
    trained = [trial for trial in search.trials() if "rejected" not in trial.user_attrs]
    assert len({json.dumps(trial.user_attrs["values"]) for trial in trained}) == 4
    twins = [trial for trial in search.trials() if trial.user_attrs.get("rejected") == "duplicate"]
    # What the first one has come to is known of its twin too.
    assert all(trial.values == search.trials()[int(trial.user_attrs["twin"])].values for trial in twins)
    assert not any((tmp_path / "trials" / f"{trial.number:04d}").exists() for trial in twins)


def test_a_space_that_has_no_more_models_ends_the_sweep_and_says_why(tmp_path, data):
    search = make(tmp_path, data, num_trials=100)
    assert len(train_all(search, tmp_path)) == 6
    assert "none is new" in search.exhausted
    assert SPACE in search.exhausted


def test_what_is_too_large_is_never_given_and_the_study_knows_by_how_much(tmp_path, data):
    smallest = min(trial.user_attrs["num_params"] for trial in _all_of_the_space(tmp_path / "all", data).trials())
    search = make(tmp_path, data, limits={"max_params": smallest + 100}, num_trials=100)
    train_all(search, tmp_path)
    seen = 0
    for trial in search.trials():
        excess = trial.user_attrs["num_params"] - smallest - 100
        assert trial.constraints["max_params"] == excess
        assert (trial.user_attrs.get("rejected") == "too_large") == (excess > 0)
        if excess > 0:
            seen += 1
            assert trial.state.name == "PRUNED"
            assert not (tmp_path / "trials" / f"{trial.number:04d}").exists()
    assert seen


def _all_of_the_space(out, data):
    search = make(out, data, num_trials=100)
    train_all(search, out)
    return search


def test_a_limit_that_no_model_keeps_to_is_said_with_the_smallest(tmp_path, data):
    search = make(tmp_path, data, limits={"max_params": 10})
    assert search.next() is None
    assert "the smallest with" in search.exhausted


def test_memory_is_a_limit_like_others_and_a_point_knows_what_it_needs(tmp_path, data):
    search = make(tmp_path, data, limits={"memory_bytes": 1.5e6})
    assert search.next().memory_bytes == 1_000_000
    assert all(trial.constraints["memory_bytes"] > 0 for trial in search.trials() if "rejected" in trial.user_attrs)


def test_a_resumed_search_gives_out_first_what_was_begun_and_in_all_as_many(tmp_path, data):
    search = make(tmp_path, data)
    done, begun, also = (search.next() for _ in range(3))
    finish(tmp_path, done)
    search.settle(done.name)
    finish(tmp_path, begun, state="running")
    # The third had ended, and its process was killed before it was told.
    finish(tmp_path, also, 0.75)
    again = make(tmp_path, data)
    assert states(again)[int(also.name)] == "COMPLETE"
    assert again.next() == begun
    assert len(train_all(again, tmp_path)) == 1
    assert "RUNNING" not in [state for number, state in enumerate(states(again)) if number != int(begun.name)]
    again.settle(begun.name)
    assert states(again)[int(begun.name)] == "RUNNING"


def test_a_resumed_search_asks_for_what_an_undisturbed_one_asks_for(tmp_path, data):
    undisturbed = train_all(make(tmp_path / "one", data), tmp_path / "one")
    search, names = make(tmp_path / "two", data), []
    for _ in undisturbed:
        point = search.next()
        finish(tmp_path / "two", point)
        search.settle(point.name)
        names.append(point.name)
        search = make(tmp_path / "two", data)
    assert names == undisturbed
    for name in ("one", "two"):
        assert [t.user_attrs["values"] for t in make(tmp_path / name, data).trials()] == [
            t.user_attrs["values"] for t in search.trials()
        ]


def test_a_search_can_be_extended(tmp_path, data):
    first = train_all(make(tmp_path, data, num_trials=2), tmp_path)
    second = train_all(make(tmp_path, data, num_trials=5), tmp_path)
    assert (len(first), len(second)) == (2, 3)


def test_an_ask_that_was_killed_before_it_was_noted_is_nobodys(tmp_path, data):
    search = make(tmp_path, data)
    search.study.ask()
    again = make(tmp_path, data)
    assert states(again) == ["FAIL"]
    assert len(train_all(again, tmp_path)) == 4


def test_a_half_written_line_of_the_journal_is_cut_off(tmp_path, data):
    train_all(make(tmp_path, data), tmp_path)
    journal = tmp_path / "study.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 6, "wor')
    again = make(tmp_path, data)
    assert journal.read_bytes().startswith(whole)
    assert states(again).count("COMPLETE") >= 4
    assert optuna.load_study(storage=again.study._storage, study_name="sweep").directions == again.study.directions


@pytest.mark.parametrize(
    ("state", "told"), [("complete", "COMPLETE"), ("stopped", "PRUNED"), ("failed", "PRUNED"), ("running", "RUNNING")]
)
def test_the_study_is_told_the_truth_about_a_trial(tmp_path, data, state, told):
    search = make(tmp_path, data)
    point = search.next()
    finish(tmp_path, point, 0.25, state)
    search.settle(point.name)
    trial = search.trials()[int(point.name)]
    assert trial.state.name == told
    assert trial.values == ([0.25, float(point.model.num_params)] if told == "COMPLETE" else None)


def test_a_crash_is_no_result_and_another_is_asked_for_when_the_sweep_is_resumed(tmp_path, data):
    search = make(tmp_path, data, num_trials=1)
    point = search.next()
    search.settle(point.name, error="its process died")
    assert search.next() is None
    assert states(search)[int(point.name)] == "FAIL"
    said = json.loads((tmp_path / "trials" / point.name / "summary.json").read_text())
    assert said == {"state": "failed", "error": "its process died"}
    assert len(train_all(make(tmp_path, data, num_trials=1), tmp_path)) == 1


def test_baselines_come_first_and_the_dense_one_last(tmp_path, data):
    search = make(tmp_path, data, space="ranks", num_trials=5)
    points = [search.next() for _ in range(5)]
    assert search.next() is None
    assert [point.options.recurrent_ranks for point in points[:2]] == ["none", "4"]
    assert [point.options.input for point in points] == ["tt"] * 4 + ["dense"]


def test_a_refined_model_is_a_trial_without_parameters_and_does_not_count(tmp_path, data):
    search = make(tmp_path, data, num_trials=2)
    parent, *_ = train_all(search, tmp_path)
    values = {**search.trials()[int(parent)].user_attrs["values"], "init": parent, "epochs": 1}
    point = search.refine(values, parent)
    assert point.options.init == str(tmp_path / "trials" / parent / "model")
    assert point.options.epochs == 1
    trial = search.trials()[int(point.name)]
    assert (trial.params, trial.user_attrs["parent"]) == ({}, parent)
    assert search.refine(values, parent) is None
    shutil.rmtree(tmp_path / "trials" / point.name, ignore_errors=True)
    again = make(tmp_path, data, num_trials=3)
    assert again.num_left == 1
    assert again.next() == point


@pytest.mark.parametrize(
    ("space", "hint"), [("broken", "7x7x7x7"), ("unknown", "unknown option 'depth'"), ("taken", "epochs is given")]
)
def test_a_space_that_gives_what_cannot_be_trained_is_a_users_mistake(tmp_path, data, space, hint):
    with pytest.raises(UserError, match=hint):
        make(tmp_path, data, space=f"{__name__}:{space}").next()


def test_what_has_crashed_may_be_tried_again(tmp_path, data):
    search = make(tmp_path, data, space="ranks", num_trials=3)
    (dense,) = [point for point in (search.next(), search.next(), search.next()) if point.options.input == "dense"]
    search.settle(dense.name, error="its process died")
    again = make(tmp_path, data, space="ranks", num_trials=3)
    given = [again.next() for _ in range(3)]
    assert [point.options.input for point in given] == ["tt", "tt", "dense"]
    assert again.next() is None


def test_a_trial_that_no_longer_fits_is_refused_with_the_numbers(tmp_path, data):
    begun = make(tmp_path, data).next()
    with pytest.raises(UserError, match=rf"trial {begun.name}.*memory_bytes.*there are 100"):
        make(tmp_path, data, limits={"memory_bytes": 100.0})


@pytest.mark.parametrize(("points", "hint"), [([{"depth": 3}], "depth"), ([{"epochs": 3}], "epochs is given")])
def test_baselines_are_checked_as_the_space_is(tmp_path, data, points, hint, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "baselines", lambda frame: points, raising=False)
    with pytest.raises(UserError, match=hint):
        make(tmp_path, data)

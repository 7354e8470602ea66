"""Test tuning/study.py: which models are proposed, and what the study records about them."""

import json
import shutil
import sys

import optuna
import pytest

from pipelines.core.errors import UserError
from pipelines.data.dataset import ShardDataset
from pipelines.tuning import study
from pipelines.tuning.study import Search
from pipelines.tuning.sweep_directory import SweepDirectory
from tests.shards import make_shards

SPACE = f"{__name__}:few"


def few(trial):
    """A space of a few models; clipped ranks make duplicates."""
    return {
        "hidden_modes": trial.suggest_categorical("hidden_modes", ["2x2x2x2", "4x2x2x2"]),
        "ranks": str(trial.suggest_int("ranks", 1, 3)),
        "recurrent_ranks": "1",
    }


def broken(trial):
    return {"in_modes": "7x7x7x7"}


def unknown(trial):
    return {"depth": 3}


def reserved(trial):
    return {"epochs": 3}


@pytest.fixture(autouse=True)
def few_rejected(monkeypatch):
    """A space is exhausted sooner."""
    monkeypatch.setattr(study, "_MAX_REJECTED", 60)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return ShardDataset.open(make_shards(tmp_path_factory.mktemp("data") / "shards"))


def make(out, data, limits=None, **kwargs):
    def costs(options, model):
        return {"max_params": model.num_params, "memory_bytes": 1e6 * int(options.ranks[0])}

    arguments = {"space": SPACE, "num_trials": 4, "limits": limits or {}, "sampler": "random"} | kwargs
    out.mkdir(exist_ok=True)
    return Search(SweepDirectory(out), data, {"epochs": 2, "seed": 0}, costs=costs, **arguments)


def finish(out, training, val_metric=0.5, state="complete"):
    """Writes the summary of a training."""
    directory = out / "trials" / training.name
    (directory / "checkpoint").mkdir(parents=True, exist_ok=True)
    (directory / "checkpoint" / "state.pt").write_bytes(b"state")
    (directory / "summary.json").write_text(
        json.dumps({"state": state, "val_metric": val_metric, "num_params": training.model.num_params})
    )


def train_all(search, out):
    names = []
    while (training := search.next()) is not None:
        finish(out, training)
        search.settle(training.name)
        names.append(training.name)
    return names


def states(search):
    return [trial.state.name for trial in search.trials()]


def test_a_search_proposes_the_requested_number_of_different_models(tmp_path, data):
    search = make(tmp_path, data)
    names = train_all(search, tmp_path)
    assert len(names) == 4
    trained = [trial for trial in search.trials() if "rejected" not in trial.user_attrs]
    assert len({json.dumps(trial.user_attrs["values"]) for trial in trained}) == 4
    duplicates = [trial for trial in search.trials() if trial.user_attrs.get("rejected") == "duplicate"]
    # A duplicate has the result of the first trial of its model.
    for trial in duplicates:
        assert trial.values == search.trials()[int(trial.user_attrs["duplicate_of"])].values
    assert not any((tmp_path / "trials" / f"{trial.number:04d}").exists() for trial in duplicates)


def test_an_exhausted_space_ends_the_sweep_with_a_reason(tmp_path, data):
    search = make(tmp_path, data, num_trials=100)
    assert len(train_all(search, tmp_path)) == 6
    assert search.exhausted.startswith("none of the last 60 models")
    assert SPACE in search.exhausted


def test_a_model_that_is_too_large_is_never_proposed_and_the_study_records_the_excess(tmp_path, data):
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


def test_if_all_models_are_too_large_the_reason_names_the_smallest(tmp_path, data):
    search = make(tmp_path, data, limits={"max_params": 10})
    assert search.next() is None
    assert "the smallest with" in search.exhausted


def test_memory_is_a_limit_like_others_and_a_training_has_its_memory(tmp_path, data):
    search = make(tmp_path, data, limits={"memory_bytes": 1.5e6})
    assert search.next().memory_bytes == 1_000_000
    assert all(trial.constraints["memory_bytes"] > 0 for trial in search.trials() if "rejected" in trial.user_attrs)


def test_a_resumed_search_proposes_unfinished_trials_first_and_the_same_total(tmp_path, data):
    search = make(tmp_path, data)
    done, begun, also = (search.next() for _ in range(3))
    finish(tmp_path, done)
    search.settle(done.name)
    finish(tmp_path, begun, state="running")
    # The third had ended, and the command was killed before it was recorded.
    finish(tmp_path, also, 0.75)
    again = make(tmp_path, data)
    assert states(again)[int(also.name)] == "COMPLETE"
    assert again.next() == begun
    assert len(train_all(again, tmp_path)) == 1
    assert "RUNNING" not in [state for number, state in enumerate(states(again)) if number != int(begun.name)]
    again.settle(begun.name)
    assert states(again)[int(begun.name)] == "RUNNING"


def test_a_resumed_search_proposes_the_same_models_as_an_uninterrupted_one(tmp_path, data):
    uninterrupted = train_all(make(tmp_path / "one", data), tmp_path / "one")
    search, names = make(tmp_path / "two", data), []
    for _ in uninterrupted:
        training = search.next()
        finish(tmp_path / "two", training)
        search.settle(training.name)
        names.append(training.name)
        search = make(tmp_path / "two", data)
    assert names == uninterrupted
    for name in ("one", "two"):
        assert [t.user_attrs["values"] for t in make(tmp_path / name, data).trials()] == [
            t.user_attrs["values"] for t in search.trials()
        ]


def test_a_search_can_be_extended(tmp_path, data):
    first = train_all(make(tmp_path, data, num_trials=2), tmp_path)
    second = train_all(make(tmp_path, data, num_trials=5), tmp_path)
    assert (len(first), len(second)) == (2, 3)


def test_a_trial_whose_values_were_not_saved_before_a_kill_fails(tmp_path, data):
    search = make(tmp_path, data)
    search.study.ask()
    again = make(tmp_path, data)
    assert states(again) == ["FAIL"]
    assert len(train_all(again, tmp_path)) == 4


@pytest.mark.parametrize("damage", ["half a line", "blank lines"])
def test_lines_of_the_journal_that_optuna_cannot_read_are_removed(tmp_path, data, damage):
    train_all(make(tmp_path, data), tmp_path)
    journal = tmp_path / "study.journal"
    whole = journal.read_bytes()
    if damage == "half a line":
        journal.write_bytes(whole + b'{"op_code": 6, "wor')
    else:
        journal.write_bytes(b"\n" + whole.replace(b"\n", b"\n \n\n", 3) + b"\n")
    again = make(tmp_path, data)
    assert journal.read_bytes().startswith(whole)
    assert states(again).count("COMPLETE") >= 4
    assert optuna.load_study(storage=again.study._storage, study_name="sweep").directions == again.study.directions


@pytest.mark.parametrize(
    ("state", "recorded"),
    [("complete", "COMPLETE"), ("stopped", "PRUNED"), ("failed", "PRUNED"), ("running", "RUNNING")],
)
def test_the_study_records_how_a_trial_ended(tmp_path, data, state, recorded):
    search = make(tmp_path, data)
    training = search.next()
    finish(tmp_path, training, 0.25, state)
    search.settle(training.name)
    trial = search.trials()[int(training.name)]
    assert trial.state.name == recorded
    assert trial.values == ([0.25, float(training.model.num_params)] if recorded == "COMPLETE" else None)
    # Only a trial that is to be continued needs its checkpoint.
    assert (tmp_path / "trials" / training.name / "checkpoint").exists() == (state == "running")


def test_checkpoints_are_deleted_before_the_study_knows_and_those_of_earlier_versions_on_resume(
    tmp_path, data, monkeypatch
):
    search = make(tmp_path, data)
    training, run = search.next(), tmp_path / "trials"
    finish(tmp_path, training)
    monkeypatch.setattr(search.study, "tell", lambda *args, **kwargs: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        search.settle(training.name)
    assert not (run / training.name / "checkpoint").exists()
    again = make(tmp_path, data)
    assert states(again) == ["COMPLETE"], "settled by the next command"
    finish(tmp_path, training)
    assert again.next().name != training.name
    make(tmp_path, data)
    assert not (run / training.name / "checkpoint").exists()


def test_a_crash_is_not_a_result_and_is_replaced_when_the_sweep_is_resumed(tmp_path, data):
    search = make(tmp_path, data, num_trials=1)
    training = search.next()
    finish(tmp_path, training, state="running")
    search.settle(training.name, error="its process died")
    assert not (tmp_path / "trials" / training.name / "checkpoint").exists()
    assert search.next() is None
    assert states(search)[int(training.name)] == "FAIL"
    summary = json.loads((tmp_path / "trials" / training.name / "summary.json").read_text())
    assert (summary["state"], summary["error"]) == ("failed", "its process died")
    assert len(train_all(make(tmp_path, data, num_trials=1), tmp_path)) == 1


def test_baselines_of_the_space_come_first(tmp_path, data):
    search = make(tmp_path, data, space="ranks", num_trials=3)
    trainings = [search.next() for _ in range(3)]
    assert search.next() is None
    assert [training.options.recurrent_ranks for training in trainings[:2]] == ["none", "4"]
    assert [search.trials()[int(training.name)].params == {} for training in trainings] == [True, True, False]


def test_a_refined_model_is_a_trial_without_parameters_and_does_not_count(tmp_path, data):
    search = make(tmp_path, data, num_trials=2)
    parent, *_ = train_all(search, tmp_path)
    values = {**search.trials()[int(parent)].user_attrs["values"], "init": parent, "epochs": 1}
    training = search.refine(values, parent)
    assert training.options.init == str(tmp_path / "trials" / parent / "model")
    assert training.options.epochs == 1
    trial = search.trials()[int(training.name)]
    assert (trial.params, trial.user_attrs["parent"]) == ({}, parent)
    assert search.refine(values, parent) is None
    shutil.rmtree(tmp_path / "trials" / training.name, ignore_errors=True)
    again = make(tmp_path, data, num_trials=3)
    assert again.num_left == 1
    assert again.next() == training


@pytest.mark.parametrize(
    ("space", "hint"),
    [("broken", "7x7x7x7"), ("unknown", "unknown option 'depth'"), ("reserved", "epochs is set by")],
)
def test_invalid_values_of_a_space_are_a_user_error(tmp_path, data, space, hint):
    with pytest.raises(UserError, match=hint):
        make(tmp_path, data, space=f"{__name__}:{space}").next()


def test_a_crashed_baseline_is_proposed_again(tmp_path, data):
    search = make(tmp_path, data, space="ranks", num_trials=2)
    crashed, _ = search.next(), search.next()
    search.settle(crashed.name, error="its process died")
    again = make(tmp_path, data, space="ranks", num_trials=2)
    proposed = [again.next() for _ in range(2)]
    assert [training.options.recurrent_ranks for training in proposed] == ["4", "none"]
    assert again.next() is None


def test_a_trial_that_no_longer_fits_is_refused_with_the_numbers(tmp_path, data):
    unfinished = make(tmp_path, data).next()
    with pytest.raises(UserError, match=rf"trial {unfinished.name}.*memory_bytes.*the limit is 100"):
        make(tmp_path, data, limits={"memory_bytes": 100.0})


@pytest.mark.parametrize(("points", "hint"), [([{"depth": 3}], "depth"), ([{"epochs": 3}], "epochs is set by")])
def test_baselines_are_checked_like_the_space(tmp_path, data, points, hint, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "baselines", lambda frame: points, raising=False)
    with pytest.raises(UserError, match=hint):
        make(tmp_path, data)

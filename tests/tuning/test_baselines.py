"""Test tuning/baselines.py: which baselines a sweep trains."""

import logging

import pytest

from pipelines.baselines.sizes import TARGETS
from pipelines.cluster.slots import Slots
from pipelines.data.dataset import ShardDataset
from pipelines.tuning.baselines import announce, baseline_trainings, targets
from pipelines.tuning.options import SweepOptions
from pipelines.tuning.sweep_directory import SweepDirectory
from tests.shards import make_shards
from tests.sweeps import make_sweep

SLOTS = Slots(2, "CPU", 1.0, 1e12)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return ShardDataset.open(make_shards(tmp_path_factory.mktemp("data") / "shards"))


def plan(data, out, slots=SLOTS, **changes):
    options = SweepOptions(data=str(data.place), out=str(out), **{"num_trials": 16, "epochs": 3, **changes})
    common = {"epochs": options.epochs, "seed": options.seed, "num_workers": options.num_workers}
    return baseline_trainings(options, common, SweepDirectory(out), data, slots)


@pytest.mark.parametrize(("num_trials", "expected"), [(1, (3_000,)), (15, (3_000,)), (16, TARGETS), (200, TARGETS)])
def test_a_small_sweep_has_baselines_of_one_size(num_trials, expected):
    assert targets(num_trials) == expected


def test_baselines_have_the_epochs_and_the_seed_of_the_trials_and_directories_of_their_own(data, tmp_path):
    small, dense = plan(data, tmp_path, seed=7)
    assert len(small) == 10
    assert dense == []
    for training in small:
        assert training.is_baseline
        assert (training.options.epochs, training.options.seed) == (3, 7)
        assert training.options.out == str(tmp_path / "baselines" / training.name)
        assert training.memory_bytes > 1 << 20


def test_none_are_trained_on_request_and_none_above_the_limit_of_the_sweep(data, tmp_path):
    assert plan(data, tmp_path, baselines="none") == ([], [])
    small, _ = plan(data, tmp_path, max_params=3_100)
    assert {training.name.rpartition("-")[2] for training in small} == {"1000", "3000", "linear"}


def test_those_that_have_ended_are_not_trained_again(data, tmp_path):
    sweep = SweepDirectory(tmp_path)
    for name, state in (("linear", "complete"), ("cnn-1000", "failed"), ("cnn-3000", "running")):
        sweep.run(name).add_to_summary(state=state)
    names = {training.name for training in plan(data, tmp_path)[0]}
    assert names & {"linear", "cnn-1000", "cnn-3000"} == {"cnn-3000"}


@pytest.mark.parametrize("num_trials", [1, 16])
def test_the_dense_baseline_is_trained_on_request_and_its_costs_are_logged(data, tmp_path, caplog, num_trials):
    with caplog.at_level(logging.INFO):
        small, (dense,) = plan(data, tmp_path, baselines="dense", num_trials=num_trials)
        announce(dense, data)
    assert small
    assert (dense.name, dense.model.input, dense.is_baseline) == ("dense", "dense", True)
    assert (
        f"the dense baseline is trained after the trials: {dense.model.num_params:,} parameters, about" in caplog.text
    )
    assert "GB of memory and" in caplog.text


def test_a_baseline_that_does_not_fit_the_memory_is_left_out_with_a_word(data, tmp_path, caplog):
    assert plan(data, tmp_path, SLOTS._replace(memory_bytes=1e6), baselines="dense") == ([], [])
    assert "the baseline dense is left out: it needs" in caplog.text


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="baselines must be one of default, dense, none, got 'some'"):
        SweepOptions(baselines="some")


def test_finished_baselines_are_read_with_their_state_and_never_as_trials(tmp_path):
    sweep = SweepDirectory(make_sweep(tmp_path / "sweep"))
    for name, size, state in (
        ("thumbnail-3000", 2_900, "complete"),
        ("linear", 900, "complete"),
        ("cnn", 9, "running"),
    ):
        sweep.run(name).add_to_summary(state=state, num_params=size, val_metric=0.99)
    assert [(trial.trial, trial.state) for trial in sweep.baselines()] == [
        ("cnn", "running"),
        ("linear", "baseline"),
        ("thumbnail-3000", "baseline"),
    ]
    assert [trial.trial for trial in sweep.finished_trials()[-3:]] == ["cnn", "linear", "thumbnail-3000"]
    assert {trial.trial for trial in sweep.trials()}.isdisjoint({"cnn", "linear", "thumbnail-3000"})

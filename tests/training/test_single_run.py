"""Test training/single_run.py: a model is trained, tested once, and its result written."""

import json

import pytest

from pipelines.data.dataset import ShardDataset
from pipelines.evaluation.evaluator import evaluate_model
from pipelines.training.options import TrainOptions
from pipelines.training.run_directory import RunDirectory
from pipelines.training.setup import model_config
from pipelines.training.single_run import earlier_result, train_and_test
from tests.shards import make_shards

SMALL = {"hidden_modes": "2x2x2x2", "ranks": "2", "lr": 0.02, "epochs": 2}
FOLD = {"folds": 3, "fold": 1}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return str(make_shards(tmp_path_factory.mktemp("data") / "shards", num_groups=6))


def options_of(shards, out, **values):
    return TrainOptions(shards=shards, out=str(out), **(SMALL | FOLD | values))


def run(options, **kwargs):
    directory = RunDirectory(options.out)
    directory.claim(options, model_config(options, ShardDataset.open(options.shards)), ignored=("shards", "init"))
    return train_and_test(options, **kwargs)


def test_a_run_is_tested_on_its_own_fold_and_leaves_no_checkpoint(shards, tmp_path):
    result = run(options_of(shards, tmp_path / "run"))
    test = evaluate_model(tmp_path / "run", shards)
    assert (result["state"], result["epochs"]) == ("complete", 2)
    assert {name: result[name] for name in ("value", "num_clips")} == {
        name: test[name] for name in ("value", "num_clips")
    }
    assert result["interval"] == test["interval"]
    assert result["val_interval"] == json.loads((tmp_path / "run" / "summary.json").read_text())["val_interval"]
    assert (tmp_path / "run" / "test" / "predictions.csv").exists()
    assert not (tmp_path / "run" / "checkpoint").exists()
    assert result["peak_bytes"] > 50e6
    found = earlier_result(RunDirectory(tmp_path / "run"))
    assert found == json.loads((tmp_path / "run" / "result.json").read_text()) == result


def test_a_run_without_a_test_split_is_complete_and_has_no_value(shards, tmp_path):
    result = run(options_of(shards, tmp_path / "run", epochs=1), is_tested=False)
    assert (result["state"], result["value"], result["interval"]) == ("complete", None, None)
    assert 0 <= result["val_metric"] <= 1
    assert not (tmp_path / "run" / "test").exists()


def test_a_truncated_result_counts_as_missing(shards, tmp_path, caplog):
    options = options_of(shards, tmp_path / "run", epochs=1)
    first = run(options)
    (tmp_path / "run" / "result.json").write_text('{"state": "compl')
    assert earlier_result(RunDirectory(tmp_path / "run")) is None
    assert "result.json cannot be read" in caplog.text
    again = run(options)
    assert (again["val_metric"], again["value"]) == (first["val_metric"], first["value"])


def test_with_watch_test_the_value_is_that_of_the_last_epoch(shards, tmp_path):
    result = run(options_of(shards, tmp_path / "run", split_by="clip", watch_test=True, keep="last"))
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert result["value"] == pytest.approx(last["val_metric"])
    assert result["best_epoch"] == 2


def test_a_run_that_exceeds_its_time_limit_has_a_value_and_continues_with_more_time(shards, tmp_path):
    options, directory = options_of(shards, tmp_path / "run", epochs=3), RunDirectory(tmp_path / "run")
    result = run(options, time_limit_s=1e-9)
    assert (result["state"], result["epochs"]) == ("stopped", 1)
    assert 0 <= result["value"] <= 1
    assert earlier_result(directory, 1e-9) == result
    assert earlier_result(directory, 3600) is None
    assert earlier_result(directory, None) is None
    result = run(options)
    assert (result["state"], result["epochs"]) == ("complete", 3)
    uninterrupted = run(options_of(shards, tmp_path / "other", epochs=3))
    assert result["value"] == uninterrupted["value"]


@pytest.mark.parametrize("what", ["init", "shards"])
def test_a_run_continues_after_its_data_or_parent_was_moved(shards, tmp_path, what):
    run(options_of(shards, tmp_path / "parent", epochs=1))
    paths = {"init": tmp_path / "parent/model", "shards": tmp_path / "data"}
    paths["shards"].symlink_to(shards)
    values = {name: str(path) for name, path in paths.items()}
    started = TrainOptions(out=str(tmp_path / "run"), **(SMALL | FOLD | values))
    assert run(started, time_limit_s=1e-9)["state"] == "stopped"
    moved = tmp_path / "moved"
    if what == "init":
        (tmp_path / "parent").rename(moved)
        values["init"] = str(moved / "model")
    else:
        paths["shards"].rename(moved)
        values["shards"] = str(moved)
    assert run(TrainOptions(out=str(tmp_path / "run"), **(SMALL | FOLD | values)))["state"] == "complete"


def test_a_run_that_diverges_has_an_error_and_no_value_and_is_not_retried(shards, tmp_path):
    options = options_of(shards, tmp_path / "run", optimizer="adam", schedule="constant", max_grad_norm=None, lr=1e36)
    result = run(options)
    assert (result["state"], result["value"]) == ("failed", None)
    assert "diverged" in result["error"]
    assert not (tmp_path / "run" / "checkpoint").exists()
    assert earlier_result(RunDirectory(tmp_path / "run")) == result

"""pipelines/runs.py: trainings side by side; what one does not survive costs the others nothing."""

import dataclasses
import json

import pytest

from pipelines.cluster.session import start_ray
from pipelines.evaluation.evaluator import evaluate_model
from pipelines.training.launcher import Run, earlier_result, run_all, run_one
from pipelines.training.options import TrainOptions
from tests.shards import make_shards

SMALL = {"hidden_modes": "2x2x2x2", "ranks": "2", "lr": 0.02, "epochs": 2}
FOLD = {"folds": 3, "fold": 1}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return str(make_shards(tmp_path_factory.mktemp("data") / "shards", num_groups=6))


def a_run(shards, out, protocol="ours", **values):
    return Run(protocol, "tt-gru", TrainOptions(shards=shards, out=str(out), **(SMALL | FOLD | values)))


def test_a_run_is_measured_on_its_own_test_fold_and_leaves_no_checkpoint(shards, tmp_path):
    run = a_run(shards, tmp_path / "run")
    result = run_one(run, None)
    test = evaluate_model(tmp_path / "run", shards)
    assert (result["state"], result["epochs"]) == ("complete", 2)
    assert {name: result[name] for name in ("value", "num_clips")} == {
        name: test[name] for name in ("value", "num_clips")
    }
    assert result["interval"] == test["interval"]
    assert result["val_interval"] == json.loads((tmp_path / "run" / "summary.json").read_text())["val_interval"]
    assert (tmp_path / "run" / "test" / "predictions.csv").exists()
    assert not (tmp_path / "run" / "checkpoint").exists()
    assert earlier_result(run, None) == json.loads((tmp_path / "run" / "result.json").read_text()) == result


def test_a_run_without_a_test_split_ends_well_and_has_no_value(shards, tmp_path):
    run = dataclasses.replace(a_run(shards, tmp_path / "run", epochs=1), is_tested=False)
    result = run_one(run, None)
    assert (result["state"], result["value"], result["interval"]) == ("complete", None, None)
    assert 0 <= result["val_metric"] <= 1
    assert not (tmp_path / "run" / "test").exists()


def test_a_result_that_is_cut_off_is_no_result(shards, tmp_path, caplog):
    run = a_run(shards, tmp_path / "run", epochs=1)
    first = run_one(run, None)
    run.result_path.write_text('{"state": "compl')
    assert earlier_result(run, None) is None
    assert "result.json cannot be read" in caplog.text
    again = run_one(run, None)
    assert (again["val_metric"], again["value"]) == (first["val_metric"], first["value"])


def test_the_value_of_a_run_that_watches_the_test_split_is_that_of_its_last_epoch(shards, tmp_path):
    run = a_run(shards, tmp_path / "run", "published", split_by="clip", watch_test=True, keep="last")
    result = run_one(run, None)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert result["value"] == pytest.approx(last["val_metric"])
    assert result["best_epoch"] == 2


def test_a_run_whose_time_is_over_stops_with_a_value_and_goes_on_when_it_has_more(shards, tmp_path):
    run = a_run(shards, tmp_path / "run", epochs=3)
    result = run_one(run, 1e-9)
    assert (result["state"], result["epochs"]) == ("stopped", 1)
    assert 0 <= result["value"] <= 1
    assert earlier_result(run, 1e-9) == result
    assert earlier_result(run, 3600) is None
    assert earlier_result(run, None) is None
    result = run_one(run, None)
    assert (result["state"], result["epochs"]) == ("complete", 3)
    undisturbed = run_one(a_run(shards, tmp_path / "other", epochs=3), None)
    assert result["value"] == undisturbed["value"]


def test_a_run_goes_on_where_the_model_that_it_started_from_has_moved(shards, tmp_path):
    run_one(a_run(shards, tmp_path / "parent", epochs=1), None)
    started = a_run(shards, tmp_path / "run", init=str(tmp_path / "parent/model"))
    assert run_one(started, 1e-9)["state"] == "stopped"
    (tmp_path / "parent").rename(tmp_path / "moved")
    moved = a_run(shards, tmp_path / "run", init=str(tmp_path / "moved/model"))
    assert run_one(moved, None)["state"] == "complete"


def test_a_run_that_diverges_has_no_value_but_a_reason_and_is_not_tried_again(shards, tmp_path):
    run = a_run(shards, tmp_path / "run", optimizer="adam", schedule="constant", max_grad_norm=None, lr=1e36)
    result = run_one(run, None)
    assert (result["state"], result["value"]) == ("failed", None)
    assert "diverged" in result["error"]
    assert earlier_result(run, None) == result


def test_runs_that_fail_or_do_not_fit_do_not_stop_the_others(shards, tmp_path):
    good, large, broken = (a_run(shards, tmp_path / name) for name in ("good", "large", "broken"))
    broken = dataclasses.replace(broken, train=dataclasses.replace(broken.train, shards=f"{tmp_path}/nothing"))
    needs = {good: 1 << 20, large: 1 << 60, broken: 1 << 20}
    with start_ray(num_cpus=2):
        results = dict(run_all([large, broken, good], needs))
    assert results[good]["state"] == "complete"
    assert results[good]["peak_bytes"] > 50e6
    assert results[large]["state"] == "refused"
    assert "1152921504.6 GB of CPU memory" in results[large]["error"]
    assert not (tmp_path / "large").exists()
    assert results[broken]["state"] == "failed"
    assert "nothing is no directory" in results[broken]["error"]
    assert earlier_result(broken, None) is None

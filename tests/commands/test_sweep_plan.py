"""Test the command sweep with a time budget, with questions about the data, and with teachers."""

import csv
import json
import shutil

import pytest

import ttrnn
from pipelines.cluster.session import start_ray
from pipelines.core.errors import UserError
from pipelines.sweep import SweepOptions, sweep
from pipelines.tuning import budget
from tests.shards import make_shards
from tests.sweeps import CLASSES
from ttrnn.model import ModelConfig, VideoClassifier


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module", autouse=True)
def one_ray():
    """Ray for all sweeps of this file, with one process that trains: starting one takes seconds."""
    with start_ray(num_cpus=1):
        yield


def rows(out):
    with (out / "trials.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def streamable(shards, tmp_path_factory):
    """A sweep of 13 trials that asks what suits the data, with limits that its large models exceed."""
    out = tmp_path_factory.mktemp("streamable") / "sweep"
    limits = {"streamable": True, "max_params": 4_000}
    options = SweepOptions(data=str(shards), out=str(out), num_trials=13, epochs=2, baselines="none", **limits)
    return out, sweep(options)


def test_large_models_answer_questions_and_are_not_on_the_frontier(streamable):
    out, result = streamable
    found = {row["trial"]: row for row in rows(out)}
    assert len(found) == 13
    large = [row for row in found.values() if int(row["num_params"]) > 4_000]
    assert {row["state"] for row in large} == {"teacher"}
    # Two to four of them: with and without a stem, with and without mirrored clips.
    assert {row["flip"] for row in large} == {"True", "False"}
    assert {(row["bidirectional"], row["epochs"]) for row in large} == {("True", "1")}
    others = [row for row in found.values() if row["state"] == "complete"]
    assert {row["bidirectional"] for row in others} == {"False"}
    assert {row["trial"] for row in others} >= {point["trial"] for point in result["frontier"]}
    assert [finding["question"].split("?")[0] for finding in result["findings"]] == [
        "do a convolution stem or mirrored clips help",
        "does it help small models to learn from the scores of large ones, in the same time",
    ]
    assert result["findings"] == json.loads((out / "sweep.json").read_text())["findings"]
    taught = {row["teacher"] for row in others if row["teacher"] != "none"}
    assert all(ttrnn.load(path).num_params > 4_000 for paths in taught for path in paths.split(","))


def test_a_moved_sweep_is_extended_with_its_answers_and_replicated(streamable, shards, tmp_path):
    out, result = streamable
    moved = tmp_path / "moved"
    shutil.copytree(out, moved)
    limits = {"streamable": True, "max_params": 4_000, "baselines": "none", "resume": True}
    longer = sweep(SweepOptions(data=str(shards), out=str(moved), num_trials=14, confirm=1, **limits))
    assert longer["findings"] == result["findings"]
    assert len(rows(moved)) == 14
    assert longer["replications"]["failed"] == []
    # The number of epochs need not be given again.
    assert {row["epochs"] for row in rows(moved) if row["state"] == "complete"} <= {"1", "2"}


def test_a_time_budget_is_planned(shards, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    # Time for more than the longest training, also on a slow machine, is not to be used up.
    monkeypatch.setattr(budget, "_MOST_EPOCHS", 12)
    out = tmp_path / "sweep"
    options = {"data": str(shards), "out": str(out), "space": "ranks", "baselines": "none", "num_trials": 3}
    result = sweep(SweepOptions(**options, time_budget=2.0, refine=True, confirm=1))
    planned = json.loads((out / "sweep.json").read_text())
    assert 8 <= planned["options"]["epochs"] <= 12
    assert planned["data_check"]["cost"].startswith("planned for ")
    assert planned["data_check"]["cost"] in caplog.text
    complete = [row for row in rows(out) if row["state"] == "complete"]
    assert str(planned["options"]["epochs"]) in {row["epochs"] for row in complete}
    assert result["frontier"]
    # Another budget goes on with as many epochs.
    again = sweep(SweepOptions(**options, time_budget=2.0, refine=True, confirm=1, resume=True))
    assert json.loads((out / "sweep.json").read_text())["options"]["epochs"] == planned["options"]["epochs"]
    assert len(again["trials"]) >= len(result["trials"])


def test_a_teacher_of_other_data_is_refused_before_anything_is_trained(shards, tmp_path):
    sizes = {"width": 8, "height": 4, "channels": 1, "in_modes": "4x8", "hidden_modes": "2x2", "ranks": "1"}
    ttrnn.save(VideoClassifier(ModelConfig(**sizes, classes=tuple(CLASSES))), tmp_path / "teacher")
    common = {"data": str(shards), "out": str(tmp_path / "sweep"), "num_trials": 1}
    with pytest.raises(
        UserError, match=r"--teacher .*teacher has classes .*give a model that was trained on this data"
    ):
        sweep(SweepOptions(**common, teacher=str(tmp_path / "teacher")))
    assert not (tmp_path / "sweep").exists()
    with pytest.raises(UserError, match=r"teacher: .* is not a model directory"):
        sweep(SweepOptions(**common, teacher=str(shards)))
    with pytest.raises(ValueError, match=r"teacher must be auto, none or model directories, got .*nowhere"):
        SweepOptions(**common, teacher=str(tmp_path / "nowhere"))

"""Test paper/estimate.py: parameters, memory and time of each model, without training."""

import json

import pytest

from pipelines.paper import estimate
from pipelines.paper.estimate import dry_run, dry_run_summary
from pipelines.paper.protocols import ReproduceOptions
from pipelines.reproduce import main
from pipelines.training.memory import StepTime
from search_spaces.paper import EXPERIMENTS, MODELS
from tests.search_spaces.test_paper import COUNTS
from tests.shards import make_shards
from tests.videos import write_class_folders


@pytest.fixture
def quick(monkeypatch):
    """Replaces the measurement of steps; those of dense models take seconds."""
    monkeypatch.setattr(estimate, "measure_step", lambda train, config: StepTime(0.1, 0.001))


@pytest.mark.parametrize("dataset", EXPERIMENTS)
def test_without_data_all_numbers_are_those_of_the_paper(dataset, quick):
    result = dry_run(ReproduceOptions(dataset=dataset, dry_run=True))
    for line in result["models"]:
        assert line["input_params"] == COUNTS[dataset, line["model"]]
        dense = COUNTS[dataset, line["model"].replace("tt-", "dense-")]
        assert line["compression"] == pytest.approx(dense / line["input_params"])
    assert [line["model"] for line in result["models"]] == list(MODELS)
    assert result["whence"] == "from the paper"
    text = dry_run_summary(result)
    assert all(f"{COUNTS[dataset, model]:,}" in text for model in MODELS)
    assert "from the paper" in text


def test_the_total_time_is_that_of_steps_and_frames_times_epochs_and_folds(quick):
    result = dry_run(ReproduceOptions(dataset="ucf11", models=("tt-gru",), protocol="published", dry_run=True))
    (line,) = result["models"]
    assert (result["num_steps"], result["num_train_frames"]) == (80, 1280 * 848)
    epoch_s = 80 * 0.1 + 0.001 * (1280 * 848 + 320 * 848 / 3)
    assert line["epoch_s"] == pytest.approx(epoch_s)
    assert line["run_s"] == pytest.approx(1001 * epoch_s)
    assert line["total_s"] == result["total_s"] == pytest.approx(5 * 1001 * epoch_s)


def test_with_shards_the_numbers_of_frames_and_classes_are_those_of_the_shards(tmp_path, quick):
    shards = make_shards(tmp_path / "shards", num_groups=6)
    options = {"data": str(shards), "out": str(tmp_path / "out"), "dataset": "ucf11", "folds": 3, "dry_run": True}
    result = dry_run(ReproduceOptions(**options, protocol="ours"))
    assert result["whence"] == "of the shards"
    assert 0 < result["num_train_frames"] < 60 * 6
    assert result["models"][0]["in_modes"] == "2x2x2x4"
    assert not (tmp_path / "out").exists()


def test_with_videos_clips_are_counted_and_their_lengths_read_from_headers(tmp_path, quick):
    videos = write_class_folders(tmp_path / "videos", num_clips=10, num_frames=12)
    result = dry_run(ReproduceOptions(data=str(videos), dataset="ucf11", protocol="published", dry_run=True))
    assert (result["num_train_frames"], result["num_steps"]) == (16 * 12, 1)
    assert "headers" in result["whence"]
    assert result["models"][0]["num_params"] == 2_976 + 256 * 256 + 256 + 257 * 2


def test_a_model_that_does_not_fit_is_marked(monkeypatch, quick):
    monkeypatch.setattr(estimate, "free_bytes", lambda device: 10**9)
    result = dry_run(ReproduceOptions(dataset="ucf11", models=("tt-gru", "dense-gru"), max_frames=100, dry_run=True))
    assert [line["fits"] for line in result["models"]] == [True, False]
    assert "does not fit" in dry_run_summary(result).splitlines()[5]


def test_the_command_measures_real_steps_and_prints_json(capsys):
    assert main(["--dataset", "ucf11", "--models", "tt-srnn", "--epochs", "2", "--dry-run", "--json"]) == 0
    (line,) = json.loads(capsys.readouterr().out)["models"]
    assert line["frames_per_s"] > 1
    assert line["epochs"] == 2

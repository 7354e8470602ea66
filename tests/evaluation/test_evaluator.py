"""pipelines/evaluation/evaluator.py: headlines, and errors in models and data."""

import shutil

import pytest

from pipelines.core.errors import UserError
from pipelines.evaluation.evaluator import evaluate_model, headline
from pipelines.train import train
from pipelines.training.options import TrainOptions
from pipelines.video.frame import FrameSize
from tests.shards import make_shards


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    shards = make_shards(root / "shards")
    train(TrainOptions(shards=str(shards), out=str(root / "run"), hidden_modes="2x2x2x2", epochs=1, lr=0.02))
    return root / "run", shards


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({}, "(95% interval 50.0% to 70.0%; chance 10.0%)"),
        ({"num_groups": 12, "interval_by": "group"}, "(95% interval 50.0% to 70.0% by 12 groups; chance 10.0%)"),
        ({"num_groups": 2}, "(95% interval 50.0% to 70.0% for more clips of the same 2 groups; chance 10.0%)"),
        ({"num_groups": 240}, "(95% interval 50.0% to 70.0%; chance 10.0%)"),
    ],
    ids=["no groups", "by group", "too few groups", "a group for each clip"],
)
def test_the_headline_says_what_the_interval_is_based_on(known, words):
    result = {"metric": "accuracy", "value": 0.6, "interval": [0.5, 0.7], "interval_by": "clip", "num_groups": 0}
    result |= {"chance": 0.1, "num_clips": 240, "split": "test", **known}
    assert headline(result) == f"accuracy 60.0% {words} on 240 clips of test"


def test_evaluating_a_run_evaluates_its_best_model(trained):
    run, shards = trained
    assert evaluate_model(run, shards)["value"] == evaluate_model(run / "model", shards)["value"]


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [({"frame": FrameSize(8, 6, 1)}, r"\(8, 4, 1\).*\(8, 6, 1\)"), ({"num_classes": 2}, "has the classes")],
    ids=["frame", "classes"],
)
def test_data_with_other_frames_or_classes_is_refused(trained, tmp_path, kwargs, words):
    other = make_shards(tmp_path / "other", **kwargs)
    with pytest.raises(UserError, match=words):
        evaluate_model(trained[0], other)


def test_an_unknown_split_is_refused_with_the_names_of_all_splits(trained):
    with pytest.raises(UserError, match="train, val, test"):
        evaluate_model(trained[0], trained[1], "dev")


def test_a_model_is_not_evaluated_on_a_validation_split_that_it_was_trained_on(tmp_path):
    shards, run = str(make_shards(tmp_path / "shards")), str(tmp_path / "run")
    train(TrainOptions(shards=shards, out=run, hidden_modes="2x2x2x2", epochs=1, watch_test=True, keep="last"))
    assert evaluate_model(run, shards)["num_clips"] == 12
    with pytest.raises(UserError, match="was trained on the clips of val too"):
        evaluate_model(run, shards, "val")


def test_unfinished_shards_are_reported_as_unfinished_and_not_as_videos(trained, tmp_path):
    shards = shutil.copytree(trained[1], tmp_path / "shards")
    (shards / "dataset.json").unlink()
    with pytest.raises(UserError, match="unfinished"):
        evaluate_model(trained[0], shards)
    with pytest.raises(UserError, match="no directory"):
        evaluate_model(trained[0], tmp_path / "nothing")

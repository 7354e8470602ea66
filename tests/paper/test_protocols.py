"""Test paper/protocols.py: the runs of a reproduction, and their options by protocol."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.paper.protocols import ReproduceOptions, plan_runs
from pipelines.video.frame import FrameSize
from search_spaces.paper import EXPERIMENTS, MODELS


def runs(dataset, frame=None, **values):
    frame = frame or FrameSize(EXPERIMENTS[dataset].width, EXPERIMENTS[dataset].height, 3)
    return plan_runs(
        ReproduceOptions(data="videos", dataset=dataset, **values), "shards", Path("out"), SimpleNamespace(frame=frame)
    )


@pytest.mark.parametrize(
    ("dataset", "published", "ours"),
    [("ucf11", 5, 5), ("hollywood2", 1, 1), ("youtube_celebrities", 5, 3)],
    ids=["ucf11", "hollywood2", "youtube_celebrities"],
)
def test_every_model_has_a_run_for_each_fold_of_each_protocol(dataset, published, ours):
    found = runs(dataset)
    for model in MODELS:
        for protocol, number in (("published", published), ("ours", ours)):
            own = [run.train for run in found if (run.model, run.protocol) == (model, protocol)]
            assert len(own) == number
            assert [train.fold for train in own] == ([None] if number == 1 else list(range(number)))
    assert len({run.train.out for run in found}) == len(found) == 6 * (published + ours)


def test_the_published_protocol_validates_on_clip_folds_and_saves_the_last_epoch_and_ours_does_not():
    for run in runs("ucf11"):
        train, experiment = run.train, EXPERIMENTS["ucf11"]
        if run.protocol == "published":
            assert (train.split_by, train.watch_test, train.keep) == ("clip", True, "last")
        else:
            assert (train.split_by, train.watch_test, train.keep) == ("group", False, "best")
        assert (train.epochs, train.lr) == (experiment.epochs, experiment.lr)


def test_all_models_are_trained_on_a_fold_before_the_next_fold():
    found = runs("ucf11", models=("tt-gru", "dense-gru"), folds=3, seeds=2)
    order = [(run.train.seed, run.train.fold) for run in found]
    assert order == sorted(order)
    assert len(found) == 2 * 2 * 3 * 2


def test_epochs_and_learning_rate_apply_to_all_runs():
    assert {(run.train.epochs, run.train.lr) for run in runs("ucf11", epochs=3, lr=0.01)} == {(3, 0.01)}


def test_modes_are_those_of_the_paper_if_the_frame_has_its_size():
    assert {run.train.in_modes for run in runs("ucf11")} == {"8x20x20x18"}
    assert {run.train.in_modes for run in runs("ucf11", FrameSize(160, 120, 1))} == {"auto"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "ucf12"}, "ucf11, hollywood2, youtube_celebrities, got 'ucf12'"),
        ({"models": ("tt-gru", "tt-mlp")}, "models must be among .*tt-mlp"),
        ({"models": ()}, "models must name at least one"),
        ({"models": ("tt-gru", "tt-gru")}, "each once, got tt-gru, tt-gru"),
        ({"protocol": "theirs"}, "protocol must be among published, ours, both"),
        ({"folds": 1}, "folds must be at least 2"),
        ({"dataset": "hollywood2", "folds": 5}, "official"),
        ({"time_limit_minutes": 0.0}, "time_limit_minutes must be positive"),
        ({"data": ""}, "--dry-run"),
    ],
    ids=[
        "data set",
        "model",
        "no models",
        "a model twice",
        "protocol",
        "one fold",
        "folds of official lists",
        "no time",
        "no data",
    ],
)
def test_invalid_options_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ReproduceOptions(**{"data": "videos", "dataset": "ucf11", **values})

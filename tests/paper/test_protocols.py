"""pipelines/protocols.py: which runs a reproduction consists of, and that each is what its protocol says."""

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


def test_the_published_protocol_watches_clip_folds_and_keeps_the_last_epoch_ours_neither():
    for run in runs("ucf11"):
        train, experiment = run.train, EXPERIMENTS["ucf11"]
        if run.protocol == "published":
            assert (train.split_by, train.watch_test, train.keep) == ("clip", True, "last")
        else:
            assert (train.split_by, train.watch_test, train.keep) == ("group", False, "best")
        assert (train.epochs, train.lr) == (experiment.epochs, experiment.lr)


def test_a_table_grows_evenly_all_models_of_a_fold_before_the_next():
    found = runs("ucf11", models=("tt-gru", "dense-gru"), folds=3, seeds=2)
    order = [(run.train.seed, run.train.fold) for run in found]
    assert order == sorted(order)
    assert len(found) == 2 * 2 * 3 * 2


def test_fewer_epochs_and_another_rate_are_those_of_all_runs():
    assert {(run.train.epochs, run.train.lr) for run in runs("ucf11", epochs=3, lr=0.01)} == {(3, 0.01)}


def test_modes_are_the_papers_where_they_fit_the_frame():
    assert {run.train.in_modes for run in runs("ucf11")} == {"8x20x20x18"}
    assert {run.train.in_modes for run in runs("ucf11", FrameSize(160, 120, 1))} == {"auto"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "ucf12"}, "ucf11, hollywood2, youtube_celebrities, got 'ucf12'"),
        ({"models": ("tt-gru", "tt-mlp")}, "models must be among .*tt-mlp"),
        ({"models": ()}, "models must name one"),
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
def test_options_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ReproduceOptions(**{"data": "videos", "dataset": "ucf11", **values})

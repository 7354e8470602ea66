"""Test training/options.py, setup.py and the folds: invalid options are refused, a run keeps its own."""

import dataclasses
import json

import pytest

from pipelines.core.errors import UserError
from pipelines.data.folds import open_folds
from pipelines.train import train
from pipelines.training import run_directory, setup
from pipelines.training.options import TrainOptions, flat_config
from pipelines.training.setup import model_config
from tests.runs import ALTERED, options
from tests.shards import make_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return str(make_shards(tmp_path_factory.mktemp("data") / "shards", num_clips=60, num_groups=6))


def opened(shards, **values):
    return open_folds(shards, TrainOptions(shards=shards, out="run", **values).folding)


@pytest.mark.parametrize("split_by", ["group", "clip"])
def test_folds_are_the_same_for_all_models_and_seeds_and_cover_all_clips(shards, split_by):
    tested = []
    for fold in range(5):
        views = [opened(shards, folds=5, fold=fold, split_by=split_by, seed=seed, cell=cell)
                 for seed, cell in ((0, "gru"), (1, "lstm"))]  # fmt: skip
        assert views[0].rows == views[1].rows
        tested += views[0].split("test").clip_ids
    assert sorted(tested) == sorted(opened(shards).clips().clip_ids)


def test_with_watch_test_a_run_trains_on_all_other_splits(shards):
    data = opened(shards, folds=5, fold=0, split_by="clip", watch_test=True, keep="last")
    assert data.split("val").clip_ids == data.split("test").clip_ids
    assert len(data.split("train")) + len(data.split("test")) == 100


def test_without_folds_the_splits_are_those_of_the_shards(shards):
    assert opened(shards).rows is None


def test_folds_that_are_impossible_are_refused_with_the_options_of_train(shards, tmp_path):
    rare = str(make_shards(tmp_path / "shards", num_clips=24, num_groups=2))
    with pytest.raises(UserError, match="--split-by clip") as error:
        opened(rare, folds=3, fold=0)
    assert "allow-group-leak" not in str(error.value)


@pytest.mark.parametrize(("split", "watch_test"), [("val", False), ("test", True)], ids=["val", "test"])
def test_a_split_without_clips_is_refused_for_validation(tmp_path, split, watch_test):
    shards, out = make_shards(tmp_path / "shards"), tmp_path / "out"
    document = json.loads((shards / "dataset.json").read_text())
    document["splits"][split] = {"num_clips": 0, "num_frames": 0, "shards": []}
    (shards / "dataset.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=f"no clips in its split '{split}'"):
        train(options(shards, out, watch_test=watch_test, keep="last"))
    assert not out.exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fold": 0}, "need folds"),
        ({"split_by": "clip"}, "need folds"),
        ({"folds": 5}, "fold None"),
        ({"folds": 5, "fold": 5}, "0 <= fold < folds"),
        ({"watch_test": True}, "keep last"),
    ],
    ids=["fold alone", "split_by alone", "folds alone", "fold too high", "best of the test split"],
)
def test_contradictory_options_of_splits_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TrainOptions(shards="s", out="o", **values)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"lr": -1.0},
        {"lr": float("nan")},
        {"num_workers": 0},
        {"patience": 0},
        {"seed": -1},
        {"weight_decay": -0.1},
        {"input_gain": 0.0},
        {"precision": "float16"},
        {"shift": -1},
        {"temporal_crop": 0.0},
        {"speed": 0.5},
        {"brightness": 2.0},
        {"label_smoothing": 1.0},
        {"weight_averaging": -0.1},
        {"max_grad_norm": 0.0},
        {"checkpoint_minutes": 0.0},
        {"optimizer": "sgd"},
        {"schedule": "cosine"},
        {"decayed": "none"},
        {"keep": "first"},
        {"pixels": "raw"},
        {"track": "tensorboard"},
        {"patience": 3, "keep": "last"},
    ],
    ids=str,
)
def test_invalid_values_are_refused_by_name(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        options("shards", "out", **kwargs)


def test_settings_contain_every_option_that_affects_the_result():
    excluded = {"out", "resume", "overwrite", "checkpoint_minutes", "track"}
    names = {field.name for field in dataclasses.fields(TrainOptions)}
    assert set(options("shards", "out").settings()) == names - excluded


def test_a_run_without_augmentation_options_had_no_augmentation(shards, tmp_path):
    train(options(shards, tmp_path / "run", epochs=1))
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    for name in ALTERED:
        del config["options"][name]
    path.write_text(json.dumps(config))
    assert train(options(shards, tmp_path / "run", epochs=1, resume=True))["state"] == "complete"
    with pytest.raises(UserError, match="was started with shift 0, not 1"):
        train(options(shards, tmp_path / "run", epochs=1, resume=True, shift=1))


@pytest.mark.parametrize(
    "earlier", ["bfloat16", "float32", None], ids=["bfloat16", "float32", "run without the option"]
)
def test_a_run_is_resumed_with_the_precision_that_it_was_started_with(shards, tmp_path, monkeypatch, earlier):
    monkeypatch.setattr(setup, "supports_bfloat16", lambda device_type: earlier == "bfloat16")
    train(options(shards, tmp_path / "run", epochs=1))
    path = tmp_path / "run" / "config.json"
    if earlier is None:
        config = json.loads(path.read_text())
        del config["options"]["precision"]
        path.write_text(json.dumps(config))
    monkeypatch.setattr(setup, "supports_bfloat16", lambda device_type: earlier != "bfloat16")
    result = train(options(shards, tmp_path / "run", epochs=1, resume=True))
    assert result["config"]["precision"] == (earlier or "float32")
    other = "float32" if earlier == "bfloat16" else "bfloat16"
    with pytest.raises(UserError, match="was started with precision"):
        train(options(shards, tmp_path / "run", epochs=1, resume=True, precision=other))


def test_resuming_with_another_option_is_refused_by_name(shards, tmp_path):
    train(options(shards, tmp_path / "run", epochs=1))
    with pytest.raises(UserError, match=r"lr 0.02, not 0.5"):
        train(options(shards, tmp_path / "run", epochs=1, lr=0.5, resume=True))


@pytest.mark.parametrize(
    ("pixels", "expected"), [("standardised", None), ("centred", ((128.0,), (1.0,)))], ids=["standardised", "centred"]
)
def test_pixels_are_standardised_by_the_data_or_only_centred(shards, pixels, expected):
    chosen = options(shards, "out", pixels=pixels)
    data = open_folds(shards, chosen.folding)
    config = model_config(chosen, data)
    assert (config.mean, config.std) == (expected or (data.mean, data.std))


def test_a_run_of_an_earlier_version_resumes_with_the_behaviour_of_that_version(shards, tmp_path):
    earlier = {"epochs": 1, "differences": "none", "label_smoothing": 0.0}
    train(options(shards, tmp_path / "run", **earlier))
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    for name in run_directory._ABSENT:
        config["options"].pop(name)
    config["options"]["precision"] = "float32"
    path.write_text(json.dumps(config))
    chosen = options(shards, tmp_path / "run", precision="float32", resume=True, **earlier)
    assert train(chosen)["state"] == "complete"
    with pytest.raises(UserError, match=r"was started with label_smoothing 0.0, not 0.1"):
        train(dataclasses.replace(chosen, label_smoothing=0.1))


def test_the_columns_of_a_sweep_contain_no_data_set_and_no_budget(shards):
    chosen = options(shards, "out", weight_averaging=0.9, ranks="1")
    columns = flat_config(chosen, model_config(chosen, open_folds(shards, chosen.folding)))
    assert (columns["weight_averaging"], columns["ranks"]) == (0.9, "1x1x1")
    assert not {"shards", "out", "folds", "fold", "split_by", "epochs", "track", "checkpoint_minutes"} & columns.keys()

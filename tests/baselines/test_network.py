"""Test baselines/network.py: forward pass, files, training by the trainer, and that no command offers them."""

import shutil

import pytest
import torch

from pipelines.baselines.config import BaselineConfig, any_config
from pipelines.baselines.files import is_baseline
from pipelines.baselines.network import _Average, build, load
from pipelines.baselines.sizes import baseline_options
from pipelines.core.errors import UserError
from pipelines.evaluation.classifier import open_classifier
from pipelines.evaluation.evaluator import evaluate_model
from pipelines.evaluation.torch_classifier import load_model
from pipelines.training.options import TrainOptions
from pipelines.training.trainer import fit
from tests.shards import FRAME, make_shards

NAMES = ("thumbnail-1000", "low-rank-1000", "cnn-1000", "linear")


def config(name, frame=(9, 14, 3), **changes):
    height, width, channels = frame
    options = {**baseline_options(frame, 4)[name], "width": width, "height": height, "channels": channels}
    options |= {"classes": ("a", "b", "c", "d"), "mean": (100.0,), "std": (50.0,), "dropout": 0.5, **changes}
    return BaselineConfig(**options)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


def train_options(shards, out, name, **changes):
    out.mkdir(exist_ok=True)
    values = {"epochs": 25, "lr": 0.02, "batch_size": 8, "precision": "float32", **changes}
    return TrainOptions(shards=str(shards), out=str(out), **baseline_options(FRAME.shape, 3)[name], **values)


@pytest.mark.parametrize(("size", "grid"), [((7, 11), (3, 4)), ((8, 6), (4, 2)), ((5, 5), (5, 5)), ((1, 3), (1, 1))])
def test_averages_are_those_of_torch(size, grid):
    images = torch.rand(3, 2, *size)
    torch.testing.assert_close(_Average(size, grid)(images), torch.nn.functional.adaptive_avg_pool2d(images, grid))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_a_batch_gives_what_its_clips_give_alone(name, task):
    model = build(config(name, task=task)).eval()
    clips = [torch.randint(0, 256, (length, 9, 14, 3), dtype=torch.uint8) for length in (1, 70, 5)]
    together = model(clips)
    torch.testing.assert_close(together, torch.cat([model([clip]) for clip in clips]))
    sums = model.probabilities(together).sum(dim=1)
    assert torch.allclose(sums, torch.ones(3)) == (task == "single_label")


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_survives_json(name):
    assert any_config(config(name).to_dict()) == config(name)


@pytest.mark.parametrize(
    ("changes", "hint"), [({"input": "tiny"}, "one of thumbnail"), ({"in_modes": "4"}, "must be 2 numbers, got 4")]
)
def test_a_wrong_configuration_is_refused(changes, hint):
    with pytest.raises(ValueError, match=hint):
        config("thumbnail-1000", **changes)


@pytest.mark.parametrize("name", NAMES)
def test_each_baseline_learns_and_is_tested(shards, tmp_path, name):
    summary = fit(train_options(shards, tmp_path / "run", name))
    assert summary["state"] == "complete"
    assert summary["val_metric"] > 0.7
    assert summary["config"]["input"] == name.rpartition("-")[0] or name
    test = evaluate_model(tmp_path / "run", shards, "test")
    assert test["value"] > 0.6
    assert test["num_params"] == summary["num_params"]
    assert evaluate_model(tmp_path / "run", shards, "val")["value"] == summary["val_metric"]


def test_a_killed_training_is_resumed_to_the_bit(shards, tmp_path):
    def stop(record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    for averaging in (0.0, 0.9):
        changes = {"epochs": 4, "weight_averaging": averaging, "dropout": 0.3}
        whole, parts = (train_options(shards, tmp_path / f"{k}{averaging}", "cnn-1000", **changes) for k in "ab")
        fit(whole)
        with pytest.raises(KeyboardInterrupt):
            fit(parts, stop)
        fit(parts)
        one, two = (load(tmp_path / f"{k}{averaging}" / "model").state_dict() for k in "ab")
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_no_other_command_takes_a_baseline_and_a_damaged_one_is_refused(shards, tmp_path):
    run = tmp_path / "run"
    fit(train_options(shards, run, "linear", epochs=1))
    assert is_baseline(run / "model")
    for use in (load_model, open_classifier):
        with pytest.raises(UserError, match="is a baseline, which a sweep trains for comparison only"):
            use(run)
    with pytest.raises(UserError, match="evaluates shards only"):
        open_classifier(run, may_be_baseline=True).predict(None)
    shutil.copy(run / "model/config.json", run / "model/model.safetensors")
    with pytest.raises(UserError, match="does not hold a baseline"):
        evaluate_model(run, shards, "test")
    (run / "model/config.json").write_text("{")
    assert not is_baseline(run / "model")

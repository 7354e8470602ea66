"""ttrnn/checkpoint.py: a model comes back as it was, or is refused; nothing in its directory is ever run."""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import re

import pytest
import safetensors.torch
import torch

import ttrnn
from ttrnn import checkpoint
from ttrnn.config_file import config_hash, read_events
from ttrnn.model import ModelConfig, VideoClassifier

SMALL = {"width": 4, "height": 3, "channels": 1, "classes": ("walk", "dive"), "hidden_modes": "2x2", "ranks": "2"}
FILES = ("config.json", "model.safetensors")


def make(**kwargs):
    torch.manual_seed(0)
    return VideoClassifier(ModelConfig(**SMALL | kwargs)).eval()


def frames(model):
    config = model.config
    shape = (2, 3, config.height, config.width, config.channels)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def saved(tmp_path):
    ttrnn.save(make(), tmp_path / "model", {"val_metric": 0.75})
    return tmp_path / "model"


def rewrite(path, change):
    """Changes config.json as somebody would who knows the format: with a hash that fits."""
    config = json.loads((path / "config.json").read_text())
    change(config)
    config["sha256"]["config.json"] = config_hash(config)
    (path / "config.json").write_text(json.dumps(config))


def test_window_and_thresholds_come_back_and_may_be_missing(saved, tmp_path):
    assert read_events(saved) is None
    rule = ttrnn.EventRule(window=8, hop=4, thresholds={"walk": 0.5})
    ttrnn.save(make(), tmp_path / "trigger", events=rule)
    assert read_events(tmp_path / "trigger") == rule
    assert json.loads((tmp_path / "trigger" / "config.json").read_text())["events"] == rule.to_dict()
    assert "window 8 frames, hop 4, thresholds: walk 0.5" in (tmp_path / "trigger" / "README.md").read_text()
    rewrite(tmp_path / "trigger", lambda config: config["events"].update(hop=3))
    with pytest.raises(ValueError, match=r"config\.json: window must be a multiple of hop, got window=8, hop=3"):
        read_events(tmp_path / "trigger")


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"cell": "lstm", "num_layers": 2, "bidirectional": True},
        {"recurrent_ranks": "2", "pooling": "mean"},
        {"input": "dense", "cell": "rnn"},
        {"mean": (100.0,), "std": (40.0,), "task": "multi_label"},
        {
            "channels": 3,
            "mean": (90.0, 100.0, 110.0),
            "std": (1.0, 2.0, 1 / 3),
            "sampling": {"num_frames": 8, "fps": None},
        },
        {"classes": ("läuft", "a|b", 'say "x"')},
        {"stem": "conv", "stem_channels": "2x3", "stem_strides": "2x1", "differences": "extra"},
    ],
    ids=str,
)
def test_a_model_comes_back_with_equal_outputs(tmp_path, kwargs):
    model = make(**kwargs)
    ttrnn.save(model, tmp_path / "model")
    loaded = ttrnn.load(tmp_path / "model")
    assert loaded.config == model.config
    assert not loaded.training
    torch.testing.assert_close(loaded(frames(model)), model(frames(model)), rtol=0, atol=0)


def test_a_directory_says_what_it_holds(saved):
    assert sorted(os.listdir(saved)) == ["README.md", "config.json", "model.safetensors"]
    config, model = checkpoint.read_config(saved), make()
    assert config["results"] == {"val_metric": 0.75}
    assert (config["num_params"], config["input_params"]) == (model.num_params, model.config.input_params)
    card = (saved / "README.md").read_text()
    assert all(
        words in card
        for words in ("walk, dive", "4 x 3 pixels", "3x4 -> 2x2, ranks 2", f"{model.num_params:,} in all", "0.75")
    )


def test_the_card_gives_metrics_with_interval_and_clips(tmp_path):
    results = {"val_metric": 0.75, "val_interval": [0.5, 0.875], "num_val_clips": 1200, "test_metric": 0.5}
    results["test_interval"] = ["?"]
    ttrnn.save(make(), tmp_path / "model", results)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| val metric | 0.750 (95%: 0.500 to 0.875, 1,200 clips) |" in card
    assert "| test metric | 0.500 |" in card
    assert f"{make().config.multiply_adds:,} for a frame" in card


def test_saving_again_replaces_the_model_and_failing_keeps_it(saved):
    other = make(cell="lstm")
    ttrnn.save(other, saved)
    assert ttrnn.load(saved).config == other.config
    with pytest.raises(TypeError):
        ttrnn.save(make(), saved, {"not JSON": object()})
    assert ttrnn.load(saved).config == other.config
    assert os.listdir(saved.parent) == ["model"]


@pytest.mark.parametrize("name", FILES)
def test_any_changed_byte_is_refused(saved, name):
    content = (saved / name).read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        (saved / name).write_bytes(changed)
        with pytest.raises(ValueError, match=re.escape(str(saved))) as error:
            checkpoint.read_config(saved)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_any_file_cut_short_is_refused(saved, name):
    # Without its final newline, config.json still says all.
    content = (saved / name).read_bytes().rstrip(b"\n")
    for length in range(0, len(content), 5):
        (saved / name).write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"damaged|does not match its sha256"):
            checkpoint.read_config(saved)


def test_the_same_configuration_in_another_layout_is_as_good(saved):
    config = checkpoint.read_config(saved)
    (saved / "config.json").write_text(json.dumps(config, indent="\t", sort_keys=True))
    assert checkpoint.read_config(saved) == config
    assert ttrnn.load(saved).config == make().config


def test_the_card_is_for_people_and_may_be_edited(saved):
    (saved / "README.md").write_text("mine")
    assert ttrnn.load(saved).config == make().config


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: (path / "config.json").unlink(), "not a model directory: it has no config.json"),
        (lambda path: (path / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda path: (path / "config.json").write_text("[]"), "does not describe a ttrnn model"),
        (lambda path: (path / "config.json").write_text("[" * 100_000), "is damaged"),
        (lambda path: (path / "config.json").write_bytes(b"\xff\xfe"), "is damaged"),
        (lambda path: rewrite(path, lambda config: config.update(format="other")), "does not describe a ttrnn model"),
        (
            lambda path: rewrite(path, lambda config: config.update(version=5)),
            "has model format version 5, this ttrnn reads 1 to 4; install a newer ttrnn",
        ),
        (lambda path: rewrite(path, lambda config: config.pop("version")), "has model format version None"),
        (lambda path: rewrite(path, lambda config: config.pop("model")), "does not hold a model"),
        (lambda path: rewrite(path, lambda config: config["model"].pop("width")), "missing fields: width"),
        (lambda path: rewrite(path, lambda config: config["model"].update(cell="cnn")), "cell must be one of"),
        (lambda path: rewrite(path, lambda config: config["model"].update(width="4")), "width must be int"),
        (lambda path: rewrite(path, lambda config: config["model"].update(code="import os")), "unknown fields: code"),
        (
            lambda path: rewrite(path, lambda config: config["model"].update(cell="lstm")),
            "stands for .* parameters, model.safetensors has",
        ),
    ],
    ids=[
        "no config.json",
        "no weights",
        "a list",
        "deep nesting",
        "not text",
        "other format",
        "newer",
        "no version",
        "no model",
        "missing field",
        "other cell",
        "mistyped field",
        "unknown field",
        "weights of another model",
    ],
)
def test_what_is_not_a_whole_model_is_refused_in_one_line(saved, damage, words):
    damage(saved)
    with pytest.raises(ValueError, match=words) as error:
        ttrnn.load(saved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["absent", "file"])
def test_what_is_no_directory_is_refused(tmp_path, path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is not a model directory"):
        ttrnn.load(tmp_path / path)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_modes": "4096x4096"},
        {"hidden_modes": "4096x4096", "recurrent_ranks": "64"},
        {"num_layers": 10**6},
        {"classes": [str(number) for number in range(10**5)]},
        {"input": "dense", "hidden_modes": str(10**6)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_configuration_cannot_ask_for_more_than_its_weights_have(saved, monkeypatch, change):
    rewrite(saved, lambda config: config["model"].update(change))
    monkeypatch.setattr(checkpoint, "VideoClassifier", lambda config: pytest.fail("built before it was checked"))
    with pytest.raises(ValueError, match=r"stands for [\d,]+ parameters, model.safetensors has 126"):
        ttrnn.load(saved)


def test_a_large_frame_takes_no_memory_where_its_tensor_train_is_small(tmp_path):
    config = ModelConfig(width=10**4, height=10**4, channels=1, classes=("a", "b"), in_modes="x".join(["10"] * 8),
                         hidden_modes="x".join(["1"] * 8), ranks="2")  # fmt: skip
    ttrnn.save(VideoClassifier(config), tmp_path / "model")
    ttrnn.load(tmp_path / "model")
    buffers = sum(buffer.numel() for buffer in ttrnn.load(tmp_path / "model").buffers())
    assert buffers < 100


@pytest.mark.parametrize("kind", ["file", "folder of somebody's"])
def test_what_is_no_model_directory_is_not_replaced(tmp_path, kind):
    path = tmp_path / "mine"
    if kind == "file":
        path.write_text("x")
    else:
        path.mkdir()
        (path / "thesis.tex").write_text("x")
    config = ModelConfig(width=4, height=4, channels=1, classes=("a", "b"), hidden_modes="2x2x2x2")
    with pytest.raises(ValueError, match="is not replaced"):
        ttrnn.save(VideoClassifier(config), path)
    assert path.exists()


def with_weights(path, content):
    """Other weights, with a hash that fits."""
    (path / "model.safetensors").write_bytes(content)
    rewrite(path, lambda config: config["sha256"].update({"model.safetensors": hashlib.sha256(content).hexdigest()}))


class MakesADirectory:
    """Unpickled, it makes the directory."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("dump", [pickle.dump, torch.save], ids=["pickle", "torch.save"])
def test_weights_that_are_a_pickle_are_refused_and_not_run(saved, tmp_path, dump):
    content = io.BytesIO()
    dump(MakesADirectory(tmp_path / "made"), content)
    with_weights(saved, content.getvalue())
    with pytest.raises(ValueError, match="does not hold a model"):
        ttrnn.load(saved)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {f"x.{name}": tensor for name, tensor in state.items()},
        lambda state: {name: tensor.flatten() for name, tensor in state.items()},
    ],
    ids=["names", "shapes"],
)
def test_weights_with_other_names_or_shapes_are_refused(saved, change):
    with_weights(saved, safetensors.torch.save(change(make().state_dict())))
    with pytest.raises(ValueError, match="does not hold a model that fits"):
        ttrnn.load(saved)


def test_a_model_that_was_rounded_is_saved_with_the_config_of_its_new_ranks_or_not_at_all(tmp_path):
    model = make(hidden_modes="2x2x2", in_modes="2x2x3", ranks="4")
    model.rnn.ih_l0.round_(2)
    with pytest.raises(ValueError, match=r"the model has \d+ parameters, its config stands for \d+: load the weights"):
        ttrnn.save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    twin = VideoClassifier(dataclasses.replace(model.config, ranks="2x2")).eval()
    twin.load_state_dict(model.state_dict())
    ttrnn.save(twin, tmp_path / "model")
    torch.testing.assert_close(ttrnn.load(tmp_path / "model")(frames(model)), model(frames(model)))

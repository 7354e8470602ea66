import json
import os

import numpy as np
import pytest
import torch

import ttrnn
from pipelines import demo, predict
from pipelines.decode import Sampling, decode
from pipelines.shards import Frame
from ttrnn.model import ModelConfig, VideoClassifier


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return demo.render_demo(tmp_path_factory.mktemp("data") / "videos", 16, 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    config = ModelConfig(
        width=demo.WIDTH,
        height=demo.HEIGHT,
        channels=demo.CHANNELS,
        classes=demo.CLASSES,
        hidden_modes="2x2x2x2",
        sampling={"max_frames": 9},
    )
    path = tmp_path_factory.mktemp("model") / "model"
    ttrnn.save(VideoClassifier(config), path, {"metric": "accuracy", "val_metric": 0.5, "num_val_clips": 8})
    return path


def run(capsys, main, *words):
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_prediction_is_the_model_s_own_on_the_sampled_frames(videos, model, capsys):
    paths = sorted(videos.glob("*/*.avi"))[:3]
    code, out, _ = run(capsys, predict.main, model, *paths, "--json")
    assert code == 0
    network = ttrnn.load(model)
    for path, entry in zip(paths, json.loads(out)["videos"], strict=True):
        frames = decode(path, Frame(demo.WIDTH, demo.HEIGHT, demo.CHANNELS), Sampling(max_frames=9)).frames
        expected = network(torch.from_numpy(frames)[None]).softmax(dim=1)[0].tolist()
        assert entry.keys() == {"path", "label", "probabilities", "num_frames"}
        assert (entry["path"], entry["num_frames"]) == (str(path), 9)
        assert list(entry["probabilities"].values()) == pytest.approx(expected, abs=1e-6)
        assert entry["label"] == max(entry["probabilities"], key=entry["probabilities"].get)


def test_a_broken_file_is_one_error_entry_and_the_rest_go_on(videos, model, tmp_path, capsys):
    good, bad = sorted(videos.glob("*/*.avi"))[0], tmp_path / "bad.avi"
    bad.write_bytes(os.urandom(1000))
    code, out, err = run(capsys, predict.main, model, bad, tmp_path / "none.avi", good, "--json")
    assert code == 2
    entries = json.loads(out)["videos"]
    assert ["error" in entry for entry in entries] == [True, True, False]
    assert str(bad) in entries[0]["error"]
    assert "Traceback" not in err


def test_stream_ends_with_the_probabilities_of_the_whole_clip(videos, model, capsys):
    path = sorted(videos.glob("*/*.avi"))[0]
    whole, streamed = (
        json.loads(run(capsys, predict.main, model, path, "--json", *extra)[1])["videos"][0]["probabilities"]
        for extra in ([], ["--stream"])
    )
    assert list(streamed.values()) == pytest.approx(list(whole.values()), abs=1e-5)


def test_table_names_the_label(videos, model, capsys):
    code, out, _ = run(capsys, predict.main, model, sorted(videos.glob("*/*.avi"))[0])
    assert code == 0
    assert any(name in out for name in demo.CLASSES)


def test_stream_is_refused_where_the_whole_clip_is_needed(tmp_path, videos, capsys):
    config = ModelConfig(width=48, height=32, channels=1, classes=("a", "b"), sampling={"num_frames": 4})
    ttrnn.save(VideoClassifier(config), tmp_path / "model")
    code, _, err = run(capsys, predict.main, tmp_path / "model", sorted(videos.glob("*/*.avi"))[0], "--stream")
    assert code == 2
    assert "--stream" in err


def test_several_labels_are_joined_as_in_a_catalogue():
    assert predict._label("multi_label", ("run", "sit", "drive"), np.array([0.9, 0.2, 0.6])) == "run|drive"

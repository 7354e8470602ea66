"""pipelines/export.py and pipelines/predict.py, on a run trained on real video files of the demo."""

import json
import os

import numpy as np
import pytest
import torch

import ttrnn
from pipelines import demo, export, predict
from pipelines.decode import Sampling, decode
from pipelines.pareto import Trial
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


def make_run(model, path):
    path.mkdir()
    os.symlink(model, path / "model")
    return path


def test_export_of_a_run_is_a_model_directory_of_its_own(model, tmp_path, videos, capsys):
    out = tmp_path / "exported"
    code, _, _ = run(capsys, export.main, make_run(model, tmp_path / "run"), out)
    assert code == 0
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    frames = torch.randint(0, 256, (1, 5, 32, 48, 1), dtype=torch.uint8)
    assert torch.equal(ttrnn.load(out)(frames), ttrnn.load(model)(frames))
    assert "val metric" in (out / "README.md").read_text()


def test_existing_out_is_refused_and_foreign_files_are_never_replaced(model, tmp_path, capsys):
    source, out = make_run(model, tmp_path / "run"), tmp_path / "mine"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    assert run(capsys, export.main, source, out)[0] == 2
    assert run(capsys, export.main, source, out, "--overwrite")[0] == 2
    assert (out / "thesis.tex").exists()


def test_source_that_is_nothing_is_refused(tmp_path, capsys):
    code, _, err = run(capsys, export.main, tmp_path, tmp_path / "out")
    assert code == 2
    assert str(tmp_path) in err


def trial(name, num_params, val_metric):
    return Trial(trial=name, state="complete", num_params=num_params, input_params=1, val_metric=val_metric)


POINTS = [
    trial("0001", 1_000, 0.50),
    trial("0002", 3_000, 0.88),
    trial("0003", 20_000, 0.90),
    trial("0004", 200_000, 0.91),
]


@pytest.mark.parametrize(
    ("select", "max_params", "chosen"),
    [
        ("best", None, "0004"),
        ("best", 100_000, "0003"),
        ("knee", None, "0002"),
        # One standard error of .91 on 100 clips is .029: .88 is further away than that, .90 is not.
        ("smallest", None, "0003"),
        ("smallest", 5_000, "0002"),
        ("trial:0001", None, "0001"),
    ],
)
def test_models_are_chosen_by_rule(select, max_params, chosen):
    assert export.choose(POINTS, POINTS, select, 100, max_params).trial == chosen


@pytest.mark.parametrize(("select", "max_params", "words"), [("best", 10, "1,000"), ("trial:9999", None, "0001, 0002")])
def test_what_does_not_fit_is_refused_with_what_would(select, max_params, words):
    with pytest.raises(ValueError, match=words):
        export.choose(POINTS, POINTS, select, 100, max_params)


def test_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="'luckiest'"):
        export.ExportOptions(source="a", out="b", select="luckiest")


def test_several_labels_are_joined_as_in_a_catalogue():
    assert predict._label("multi_label", ("run", "sit", "drive"), np.array([0.9, 0.2, 0.6])) == "run|drive"

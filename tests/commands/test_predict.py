"""Prediction: files, folders, standard input, cameras; whole, by frames, by windows; errors affect one video only."""

import dataclasses
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import ttrnn
from pipelines import predict
from pipelines.core.errors import UserError
from pipelines.data import demo_videos as demo
from pipelines.evaluation.classifier import open_classifier
from pipelines.inference import recognizer
from pipelines.inference.table import _names
from pipelines.video.decode import decode
from pipelines.video.errors import RejectedError
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from pipelines.video.sources import open_camera
from pipelines.video.windows import Length
from pipelines.video.worker import IsolatedDecoder
from tests.videos import patch_decoding_processes
from ttrnn.export import export_onnx_clip, export_onnx_step
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


def test_predictions_are_those_of_the_model_on_the_sampled_frames(videos, model, capsys):
    paths = sorted(videos.glob("*/*.avi"))[:3]
    code, out, _ = run(capsys, predict.main, model, *paths, "--json")
    assert code == 0
    network = ttrnn.load(model)
    for path, entry in zip(paths, json.loads(out)["videos"], strict=True):
        frames = decode(path, FrameSize(demo.WIDTH, demo.HEIGHT, demo.CHANNELS), Sampling(max_frames=9)).frames
        expected = network(torch.from_numpy(frames)[None]).softmax(dim=1)[0].tolist()
        assert entry.keys() == {"path", "label", "probabilities", "num_frames"}
        assert (entry["path"], entry["num_frames"]) == (str(path), 9)
        assert list(entry["probabilities"].values()) == pytest.approx(expected, abs=1e-6)
        assert entry["label"] == max(entry["probabilities"], key=entry["probabilities"].get)


def test_a_damaged_file_gives_an_error_entry_and_does_not_affect_the_others(videos, model, tmp_path, capsys):
    good, bad = sorted(videos.glob("*/*.avi"))[0], tmp_path / "bad.avi"
    bad.write_bytes(os.urandom(1000))
    code, out, err = run(capsys, predict.main, model, bad, tmp_path / "none.avi", good, "--json")
    assert code == 1
    entries = json.loads(out)["videos"]
    assert [entry["path"] for entry in entries] == [str(bad), str(tmp_path / "none.avi"), str(good)]
    assert ["error" in entry for entry in entries] == [True, True, False]
    assert str(bad) in entries[0]["error"]
    assert "Traceback" not in err


def test_a_folder_means_the_videos_in_it_and_lines_are_printed_one_by_one(videos, model, tmp_path, capsys):
    code, out, _ = run(capsys, predict.main, model, videos, "--lines")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert {line["path"] for line in lines} == {str(path) for path in videos.glob("*/*.avi")}
    assert len(lines) == 16
    one = lines[5]
    assert json.loads(run(capsys, predict.main, model, one["path"], "--json")[1])["videos"] == [
        one | {"probabilities": pytest.approx(one["probabilities"], abs=1e-6)}
    ]
    code, out, err = run(capsys, predict.main, model, tmp_path, "--json")
    assert (code, out) == (2, "")
    assert "no videos" in err


def test_a_damaged_file_is_named_once(videos, model, tmp_path, capsys):
    good, bad = sorted(videos.glob("*/*.avi"))[0], tmp_path / "bad.avi"
    bad.write_bytes(b"no video")
    code, out, err = run(capsys, predict.main, model, bad, good)
    assert code == 1
    assert (out + err).count("bad.avi") == err.count(f"error: {bad} unreadable") == 1
    assert good.name in out


def test_a_bug_in_the_program_is_not_an_error_of_the_video(videos, model, capsys, monkeypatch):
    def fail(*_):
        raise ValueError("a bug")

    monkeypatch.setattr(recognizer.Recognizer, "_whole", fail)
    code, out, err = run(capsys, predict.main, model, sorted(videos.glob("*/*.avi"))[0], "--json")
    assert (code, out) == (1, "")
    assert "Traceback" in err
    assert "ValueError: a bug" in err


def windowed(capsys, model, path, *words):
    return json.loads(run(capsys, predict.main, model, path, "--json", *words)[1])["videos"][0]


def test_windows_are_classified_as_clips_and_averaged(videos, model, capsys):
    path = sorted(videos.glob("*/*.avi"))[0]
    entry = windowed(capsys, model, path, "--window", "5", "--hop", "4", "--top-k", "3")
    spans = [(segment["start_frame"], segment["end_frame"]) for segment in entry["segments"]]
    assert (spans, entry["num_frames"]) == ([(0, 5), (4, 9), (8, 12)], 12)
    assert entry["segments"][1]["start_s"] == pytest.approx(4 / 12)
    frames = decode(path, FrameSize(demo.WIDTH, demo.HEIGHT, demo.CHANNELS), Sampling()).frames
    network = ttrnn.load(model)
    expected = [network.predict(frames[start:end]).tolist() for start, end in spans]
    for segment, scores in zip(entry["segments"], expected, strict=True):
        assert list(segment["probabilities"].values()) == pytest.approx(scores, abs=1e-6)
    assert list(entry["probabilities"].values()) == pytest.approx(
        np.average(expected, axis=0, weights=[5, 5, 4]).tolist(), abs=1e-6
    )
    best = sorted(entry["probabilities"].items(), key=lambda item: -item[1])[:3]
    assert [tuple(item.values()) for item in entry["top"]] == best
    assert windowed(capsys, model, path, "--window", "0.5s")["segments"][1]["start_frame"] == 6


def test_a_long_video_is_streamed_with_the_same_result(videos, model, capsys, monkeypatch):
    path = sorted(videos.glob("*/*.avi"))[0]
    whole = [windowed(capsys, model, path, *words) for words in ([], ["--window", "5"])]
    monkeypatch.setattr(recognizer, "_WHOLE_BYTES", 0)
    monkeypatch.setattr(IsolatedDecoder, "decode", lambda *_: pytest.fail("it was decoded as a whole"))
    for words, expected in zip(([], ["--window", "5"]), whole, strict=True):
        found = windowed(capsys, model, path, *words)
        shares = [entry.pop("probabilities") for entry in (found, expected)]
        assert shares[0] == pytest.approx(shares[1], abs=1e-5)
        assert [part["label"] for part in found.pop("segments", [])] == [
            part["label"] for part in expected.pop("segments", [])
        ]
        assert found == expected


def test_the_prediction_of_a_long_video_can_be_cancelled(videos, model):
    path = sorted(videos.glob("*/*.avi"))[0]
    predictor = recognizer.Recognizer(open_classifier(model), Length(5, False), Length(5, False), None, None)
    with IsolatedDecoder(60) as decoder:
        assert predictor.predict(str(path), decoder)["num_frames"] == 12
        predictor.cancel()
        with pytest.raises(InterruptedError):
            predictor.predict(str(path), decoder)


@pytest.fixture
def standard_input():
    """A function that provides bytes on standard input (file descriptor 0)."""
    kept = os.dup(0)

    def put(content):
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.seek(0)
            os.dup2(file.fileno(), 0)

    yield put
    os.dup2(kept, 0)
    os.close(kept)


def test_a_long_video_with_a_wrong_header_is_streamed_too(videos, model, capsys, monkeypatch):
    path = sorted(videos.glob("*/*.avi"))[0]
    expected = windowed(capsys, model, path)

    def decode_too_much(*_):
        raise RejectedError(path, "too_large")

    monkeypatch.setattr(IsolatedDecoder, "decode", decode_too_much)
    found = windowed(capsys, model, path)
    assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)


def test_raw_frames_on_standard_input_are_a_video(videos, model, capsys, standard_input):
    path = sorted(videos.glob("*/*.avi"))[0]
    frames = decode(path, FrameSize(demo.WIDTH, demo.HEIGHT, demo.CHANNELS), Sampling(max_frames=9)).frames
    standard_input(frames.tobytes())
    entry = windowed(capsys, model, "-")
    assert (entry["path"], entry["num_frames"]) == ("-", 9)
    expected = windowed(capsys, model, path)["probabilities"]
    assert entry["probabilities"] == pytest.approx(expected, abs=1e-5)
    standard_input(frames.tobytes())
    code, out, _ = run(capsys, predict.main, model, "-", "--stream", "--lines")
    lines = [json.loads(line) for line in out.splitlines()]
    assert (code, [line.get("frame") for line in lines]) == (0, [*range(1, 10), None])
    assert lines[-2]["probabilities"] == lines[-1]["probabilities"]


@pytest.mark.parametrize(("num_bytes", "words"), [(0, "0 bytes of frame 1"), (5000, "392 bytes of frame 4")])
def test_incomplete_standard_input_gives_an_error_entry(model, capsys, standard_input, num_bytes, words):
    standard_input(bytes(num_bytes))
    code, out, err = run(capsys, predict.main, model, "-", "--json")
    assert code == 1
    assert words in json.loads(out)["videos"][0]["error"]
    assert err.count("\n") == 1


class Camera:
    """A replacement for OpenCV's camera 0, which gives 7 images and then Ctrl-C."""

    def __init__(self, index):
        self.index, self.left = index, 7

    def isOpened(self):  # noqa: N802
        return self.index == 0

    def get(self, _):
        return 10.0

    def grab(self):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return True

    def retrieve(self):
        return True, np.full((60, 80, 3), 20 * self.left, np.uint8)

    def release(self):
        pass


def test_a_camera_is_streamed_until_ctrl_c(model, capsys, monkeypatch):
    monkeypatch.setattr("pipelines.video.sources.cv2.VideoCapture", Camera)
    code, out, _ = run(capsys, predict.main, model, "0", "--stream", "--json")
    assert code == 130
    (entry,) = json.loads(out)["videos"]
    assert (entry["path"], entry["num_frames"]) == ("0", 7)
    code, out, _ = run(capsys, predict.main, model, "0", "--stream", "--window", "3", "--lines")
    assert [line.get("start_frame") for line in map(json.loads, out.splitlines())] == [0, 3, None]
    for words, message in [(["0"], "give --stream"), (["7", "--stream"], "camera 7 does not open")]:
        code, _, err = run(capsys, predict.main, model, *words)
        assert code == 2
        assert message in err


@pytest.mark.skipif(not Path("/dev/video0").exists(), reason="there is no camera")
def test_a_real_camera_gives_frames():
    with open_camera(0, FrameSize(48, 32, 1), Sampling()) as source:
        assert next(source.frames).shape == (32, 48, 1)


def test_annotate_writes_the_label_on_a_copy_of_the_video(videos, model, tmp_path, capsys):
    path, out = sorted(videos.glob("*/*.avi"))[0], tmp_path / "out.mp4"
    assert run(capsys, predict.main, model, path, "--annotate", out)[0] == 0
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]
    before, after = (decode(file, FrameSize(48, 32, 3), Sampling()).frames.astype(int) for file in (path, out))
    assert after.shape == before.shape
    assert np.abs(after[:, :5] - before[:, :5]).mean() < 12
    strip = after[:, -20:]
    assert strip.max() > 180
    assert np.abs(strip - before[:, -20:]).mean() > 40
    code, _, err = run(capsys, predict.main, model, path, "--annotate", out)
    assert code == 2
    assert "--overwrite" in err
    assert run(capsys, predict.main, model, path, "--annotate", out, "--overwrite", "--stream")[0] == 0


def test_an_error_keeps_an_older_annotated_video(model, tmp_path, capsys):
    bad, out = tmp_path / "bad.avi", tmp_path / "out.mp4"
    bad.write_bytes(os.urandom(1000))
    out.write_bytes(b"older")
    assert run(capsys, predict.main, model, bad, "--annotate", out, "--overwrite")[0] == 1
    assert out.read_bytes() == b"older"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_decoder_that_crashes_during_annotation_gives_an_error_entry(videos, model, tmp_path, capsys, monkeypatch):
    path, out = sorted(videos.glob("*/*.avi"))[0], tmp_path / "out.mp4"
    predict_whole = IsolatedDecoder.decode

    def decode_and_damage(*arguments):
        decoded = predict_whole(*arguments)
        patch_decoding_processes(tmp_path, monkeypatch)
        bad.write_text("crash")
        return decoded

    bad = tmp_path / "bad.avi"
    bad.write_bytes(path.read_bytes())
    monkeypatch.setattr(IsolatedDecoder, "decode", decode_and_damage)
    code, text, _ = run(capsys, predict.main, model, bad, "--annotate", out, "--json")
    (entry,) = json.loads(text)["videos"]
    assert (code, entry.keys()) == (1, {"path", "error"})
    assert "crashed" in entry["error"]
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--window", "3x"], "got '3x'"),
        (["--window", "0"], "got '0'"),
        (["--hop", "3"], "give --window"),
        (["--top-k", "0"], "top_k"),
        (["--annotate", "out.avi"], ".mp4"),
        (["other.avi", "--annotate", "out.mp4"], "one video file"),
        (["-", "-"], "once"),
        (["-", "--window", "2s"], "in frames"),
    ],
)
def test_a_mistake_is_refused_in_one_line_before_decoding(model, capsys, words, message):
    code, out, err = run(capsys, predict.main, model, *(["clip.avi"] if words[0] != "-" else []), *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize("form", ["step", "clip"])
def test_an_onnx_file_gives_the_predictions_of_its_model(videos, model, tmp_path, capsys, form):
    file = tmp_path / "model.onnx"
    {"step": export_onnx_step, "clip": export_onnx_clip}[form](ttrnn.load(model), file)
    path = sorted(videos.glob("*/*.avi"))[0]
    mine, theirs = windowed(capsys, file, path), windowed(capsys, model, path)
    assert mine.pop("probabilities") == pytest.approx(theirs.pop("probabilities"), abs=1e-5)
    assert mine == theirs
    code, _, err = run(capsys, predict.main, file, path, "--stream")
    assert (code, "ONNX file for clips" in err) == ((2, True) if form == "clip" else (0, False))


@pytest.mark.parametrize("damage", ["empty", "garbage", "cut", "of another program", "folder", "missing"])
def test_a_damaged_onnx_file_is_refused_in_one_line(model, tmp_path, capsys, damage):
    file = tmp_path / "model.onnx"
    export_onnx_step(ttrnn.load(model), file)
    content = file.read_bytes()
    if damage == "of another program":
        proto = onnx.load(file)
        del proto.metadata_props[:]
        content = proto.SerializeToString()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage != "missing":
        garbage = {"empty": b"", "garbage": os.urandom(3000), "cut": content[: len(content) // 2]}
        file.write_bytes(garbage.get(damage, content))
    code, out, err = run(capsys, predict.main, file, "clip.avi")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(file) in err


@pytest.mark.parametrize("form", ["step", "clip"])
def test_an_onnx_file_with_changed_bytes_runs_or_is_refused_in_one_line(model, tmp_path, form, capfd):
    file, rng = tmp_path / "model.onnx", np.random.default_rng(0)
    {"step": export_onnx_step, "clip": export_onnx_clip}[form](ttrnn.load(model), file)
    content, refused = file.read_bytes(), []
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(len(content), size=rng.integers(1, 5)):
            damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        try:
            classifier = open_classifier(file)
            scores = classifier.predict(np.zeros((3, *classifier.frame.shape), np.uint8))
        except UserError as error:
            refused.append(str(error))
        else:
            assert np.isfinite(scores).all()
    assert 0 < len(refused) < 60
    assert not any("\n" in line for line in refused)
    assert capfd.readouterr().out == ""


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


def test_several_labels_are_joined_as_in_a_catalogue(model):
    several = dataclasses.replace(open_classifier(model), task="multi_label", classes=("run", "sit", "drive"))
    assert several.label(np.array([0.9, 0.2, 0.6])) == "run|drive"


def test_names_are_shortened_as_long_as_they_differ():
    assert _names(["a/b/up/1.avi", "a/b/down/1.avi"]) == ["up/1.avi", "down/1.avi"]
    assert _names(["a/b/up/1.avi", "a/b/up/2.avi", "-"]) == ["1.avi", "2.avi", "-"]
    assert _names(["/a/1.avi", "/a/1.avi"]) == ["1.avi", "1.avi"]


def test_a_bug_is_not_taken_for_a_bad_video(videos, model, capsys, monkeypatch):
    def fail(*_):
        raise ValueError("a bug")

    monkeypatch.setattr(VideoClassifier, "predict", fail)
    code, out, err = run(capsys, predict.main, model, sorted(videos.glob("*/*.avi"))[0], "--json")
    assert (code, out) == (1, "")
    assert "Traceback" in err

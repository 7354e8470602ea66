"""Events: export chooses thresholds, predict finds events in long videos, evaluate compares them with a table."""

import csv
import json
import re

import numpy as np
import pytest
import torch

import ttrnn
from pipelines import evaluate, export, predict
from pipelines.core.errors import UserError
from pipelines.data.dataset import ShardDataset
from pipelines.evaluation.classifier import open_classifier
from pipelines.evaluation.event_files import write_events
from pipelines.evaluation.event_finder import TimedEvent
from pipelines.evaluation.thresholds import choose_rule, default_window
from pipelines.train import train
from pipelines.training.options import TrainOptions
from pipelines.video.decode import decode
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from tests.shards import make_shards
from tests.videos import moving_square, write_video
from ttrnn.config_file import read_events
from ttrnn.export import export_onnx_clip, export_onnx_step
from ttrnn.model import ModelConfig, VideoClassifier

CLASSES = ("background", "left", "right")
FRAME = FrameSize(24, 16, 1)
FPS = 10.0


def run(capsys, main, *words):
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    frames = np.concatenate([moving_square(20, 3), moving_square(15, 1), moving_square(25, 5, level=90)])
    return write_video(tmp_path_factory.mktemp("videos") / "long.avi", frames, fps=FPS)


@pytest.fixture(scope="module")
def model(tmp_path_factory, video):
    """An untrained model whose thresholds are high enough for some events and low enough for several."""
    torch.manual_seed(0)
    config = ModelConfig(
        width=FRAME.width,
        height=FRAME.height,
        channels=1,
        classes=CLASSES,
        hidden_modes="2x2x2x2",
        sampling={"every": 2},
    )
    network, path = VideoClassifier(config).eval(), tmp_path_factory.mktemp("model") / "model"
    scores_TC = scores(network, video, ttrnn.EventRule(window=6, hop=3, thresholds={}))
    thresholds = {name: float(np.quantile(scores_TC[3:, i], 0.7).astype(np.float32)) for i, name in enumerate(CLASSES)}
    del thresholds["background"]
    rule = ttrnn.EventRule(window=6, hop=3, thresholds=thresholds)
    ttrnn.save(network, path, {"metric": "accuracy", "val_metric": 0.5, "num_val_clips": 8}, events=rule)
    return path


def scores(network, video, rule):
    """float32 [T, C], each from the clip that the definition says, by predict."""
    frames = decode(video, FRAME, Sampling(every=2)).frames
    return np.stack([network.predict(frames[rule.first(t) : t + 1]).numpy() for t in range(len(frames))])


def expected(model, video):
    rule, detector = read_events(model), ttrnn.EventDetector(read_events(model), CLASSES)
    rows = scores(ttrnn.load(model), video, rule)
    return [event for row in rows for event in detector.push(row.tolist())] + detector.finish()


def test_predict_finds_the_events_of_the_definition_with_their_times(model, video, capsys):
    code, out, _ = run(capsys, predict.main, model, video, "--events", "--json")
    (entry,) = json.loads(out)["videos"]
    found, events = entry["events"], expected(model, video)
    assert code == 0
    assert len(events) >= 2
    assert [(e["label"], e["start_frame"], e["end_frame"], e["detected_frame"]) for e in found] == [
        (e.label, e.start, e.end, e.detected) for e in events
    ]
    assert [e["score"] for e in found] == pytest.approx([e.score for e in events], abs=1e-5)
    for event in found:
        for name in ("start", "end", "detected"):
            assert event[f"{name}_s"] == pytest.approx(event[f"{name}_frame"] * 2 / FPS)
    assert (entry["num_frames"], sum(entry["probabilities"].values())) == (30, pytest.approx(1))


def test_a_stream_reports_each_event_when_it_is_sure_and_when_it_is_over(model, video, capsys):
    code, out, _ = run(capsys, predict.main, model, video, "--events", "--stream", "--lines")
    *lines, entry = map(json.loads, out.splitlines())
    assert code == 0
    over = [{name: line[name] for name in line if name not in ("path", "is_over")} for line in lines if line["is_over"]]
    started = [line for line in lines if not line["is_over"]]
    assert over == entry["events"]
    assert sorted((e["label"], e["start_s"], e["detected_s"]) for e in started) == sorted(
        (e["label"], e["start_s"], e["detected_s"]) for e in over
    )
    assert [line["detected_frame"] for line in started] == sorted(line["detected_frame"] for line in started)
    assert all(line["end_frame"] == line["detected_frame"] + 1 for line in started)
    _, _, log = run(capsys, predict.main, model, video, "--events", "--stream")
    assert f"{started[0]['detected_s']:.1f} s: {started[0]['label']}" in log


def test_events_are_written_as_lines_csv_and_subtitles(model, video, tmp_path, capsys):
    for suffix in ("jsonl", "csv", "vtt"):
        file = tmp_path / f"events.{suffix}"
        code, out, _ = run(capsys, predict.main, model, video, "--events", "--events-out", file, "--json")
        assert code == 0
    events = json.loads(out)["videos"][0]["events"]
    assert [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()] == [
        {"video": str(video), **event} for event in events
    ]
    rows = list(csv.DictReader((tmp_path / "events.csv").read_text().splitlines()))
    assert list(rows[0])[:5] == ["video", "start_s", "end_s", "label", "detected_s"]
    assert [float(row["score"]) for row in rows] == [event["score"] for event in events]
    cues = (tmp_path / "events.vtt").read_text().split("\n\n")
    assert (cues[0], len(cues)) == ("WEBVTT", len(events) + 1)
    found = re.fullmatch(r"00:00:(\d\d\.\d{3}) --> 00:00:(\d\d\.\d{3})\n(\w+) \d+%\n?", cues[1])
    assert (float(found[1]), float(found[2]), found[3]) == (
        events[0]["start_s"],
        events[0]["end_s"],
        events[0]["label"],
    )
    code, _, err = run(capsys, predict.main, model, video, "--events", "--events-out", file)
    assert (code, "events.vtt exists; --overwrite replaces a file" in err) == (2, True)
    assert run(capsys, predict.main, model, video, "--events", "--events-out", file, "--overwrite")[0] == 0


def test_subtitles_escape_markup_and_pass_an_hour(tmp_path):
    write_events(tmp_path / "a.vtt", {"a.avi": [TimedEvent("a<b & c", 3599.9996, 7325.25, 3600.0, 0.5, 0, 1, 0)]})
    assert (tmp_path / "a.vtt").read_text().splitlines()[2:] == ["01:00:00.000 --> 02:02:05.250", "a&lt;b &amp; c 50%"]
    with pytest.raises(UserError, match=r"a\.avi has no frame rate"):
        write_events(tmp_path / "b.vtt", {"a.avi": [TimedEvent("a", None, None, None, 0.5, 0, 1, 0)]})
    assert not (tmp_path / "b.vtt").exists()


@pytest.mark.parametrize(("words", "message"), [
    (["--events", "--window", "5"], "events excludes window"),
    (["--events-out", "a.csv"], "events_out a.csv needs events; give --events too"),
    (["--events", "--events-out", "a.srt"], "a.srt must end with .jsonl, .csv, .vtt"),
    (["{video}", "--events", "--events-out", "a.vtt"], "a.vtt has the subtitles of one video, got 2"),
    (["-", "--events", "--events-out", "a.vtt"], "one video, got raw frames, which have no times"),
])  # fmt: skip
def test_options_that_do_not_fit_are_refused(model, video, words, message, capsys):
    code, out, err = run(capsys, predict.main, model, video, *(word.format(video=video) for word in words))
    assert (code, out) == (2, "")
    assert message in err


def test_models_without_thresholds_or_that_cannot_stream_are_refused(model, video, tmp_path, capsys):
    network = ttrnn.load(model)
    ttrnn.save(network, tmp_path / "plain")
    code, _, err = run(capsys, predict.main, tmp_path / "plain", video, "--events")
    assert (code, "no thresholds for events; export it with: export" in err) == (2, True)
    export_onnx_clip(network, tmp_path / "plain" / "clip.onnx")
    code, _, err = run(capsys, predict.main, tmp_path / "plain" / "clip.onnx", video, "--events")
    assert (code, "it is an ONNX file for clips" in err) == (2, True)


def test_the_onnx_step_finds_the_same_events(model, video, tmp_path, capsys):
    ttrnn.save(ttrnn.load(model), tmp_path / "model", events=read_events(model))
    export_onnx_step(ttrnn.load(model), tmp_path / "model" / "step.onnx")
    ours, theirs = (
        json.loads(run(capsys, predict.main, path, video, "--events", "--json")[1])["videos"][0]["events"]
        for path in (model, tmp_path / "model" / "step.onnx")
    )
    for one, two in zip(ours, theirs, strict=True):
        assert one | {"score": 0} == two | {"score": 0}
        assert one["score"] == pytest.approx(two["score"], abs=1e-5)


def test_evaluate_counts_hits_false_alarms_and_hours(model, video, tmp_path, capsys):
    events = expected(model, video)
    first = events[0]
    file = tmp_path / "streams.csv"
    start_s = (first.end - 1) * 2 / FPS
    again = f"{video.parent}/../{video.parent.name}/{video.name}"
    row = f"{video},{start_s},{start_s + 60},{first.label}"
    file.write_text(f"video,start_s,end_s,label\n{row}\n{again},,,\n")
    code, out, _ = run(capsys, evaluate.main, model, "--stream", file, "--out", tmp_path / "out", "--json")
    assert code == 0
    result = json.loads(out)
    assert result["hours"] == pytest.approx(2 * 60 / FPS / 3600)
    assert (result["num_videos"], result["num_events"], result["num_hits"]) == (2, 1, 1)
    # The second stream is the same video, in which nothing happens.
    assert result["num_false_alarms"] == 2 * len(events) - 1
    assert result["mean_delay_s"] == pytest.approx(first.detected * 2 / FPS - start_s)
    rows = list(csv.DictReader((tmp_path / "out" / "events.csv").read_text().splitlines()))
    assert len(rows) == 2 * len(events)
    code, out, _ = run(capsys, evaluate.main, model, "--stream", file)
    assert out.startswith("recall 100.0% of 1 events")


@pytest.mark.parametrize(("rows", "message"), [
    ("{video},1,2,jump\n", "has the label 'jump', but the model has left, right"),
    ("none.avi,1,2,left\n", "none.avi"),
])  # fmt: skip
def test_a_table_that_does_not_fit_is_refused(model, video, tmp_path, rows, message, capsys):
    (tmp_path / "streams.csv").write_text("video,start_s,end_s,label\n" + rows.format(video=video))
    code, _, err = run(capsys, evaluate.main, model, "--stream", tmp_path / "streams.csv")
    assert (code, message in err) == (2, True)


def test_evaluate_takes_shards_or_streams(model, capsys):
    code, _, err = run(capsys, evaluate.main, model)
    assert (code, "give SHARDS or --stream CSV" in err) == (2, True)
    code, _, err = run(capsys, evaluate.main, model, "--stream", "a.csv", "--compare", model)
    assert (code, "compare needs SHARDS; leave it out with --stream" in err) == (2, True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    shards = make_shards(root / "shards")
    document = json.loads((shards / "dataset.json").read_text())
    (shards / "dataset.json").write_text(json.dumps(document | {"classes": ["wave", "background", "clap"]}))
    train(TrainOptions(shards=str(shards), out=str(root / "run"), hidden_modes="2x2x2x2", epochs=8, lr=0.02))
    return root / "run", shards


def test_export_chooses_thresholds_on_the_validation_split(trained, tmp_path, capsys):
    source, shards = trained
    words = (source, tmp_path / "trigger", "--false-alarms-per-hour", "2000", "--window", "4")
    code, out, _ = run(capsys, export.main, *words, "--json")
    assert code == 0
    rule, seen = choose_rule(open_classifier(source), ShardDataset.open(shards).split("val"), limit=2000, window=4)
    assert (rule.window, rule.hop, read_events(tmp_path / "trigger")) == (4, 2, rule)
    assert rule.thresholds.keys() == {"wave", "clap"}
    assert json.loads(out)["events"] == {**rule.to_dict(), **seen}
    assert (seen["num_events"], seen["num_pauses"]) == (8, 9)
    assert 0.5 < seen["recall"] <= 1
    assert seen["false_alarms_per_hour"] <= 2000
    # An export of the export keeps them.
    code, out, _ = run(capsys, export.main, tmp_path / "trigger", tmp_path / "copy", "--c")
    assert code == 0
    assert re.search(r"bytes of memory \(ttrnn_watch: [\d,]+\), probabilities", out)
    assert read_events(tmp_path / "copy") == rule
    assert "#define TTRNN_WINDOW 4\n#define TTRNN_HOP 2\n" in (tmp_path / "copy/c/model.h").read_text()
    code, out, _ = run(capsys, export.main, *words[:-2], "--overwrite")
    window = default_window(ShardDataset.open(shards).split("val"), ("wave", "background", "clap"))
    assert f"events: window {window} frames, hop {window // 2}; thresholds for at most 2000 false" in out


def test_export_refuses_thresholds_that_nothing_can_be_chosen_on(trained, tmp_path, capsys):
    source, _ = trained
    code, _, err = run(capsys, export.main, source, tmp_path / "a", "--false-alarms-per-hour", "-1")
    assert (code, "false_alarms_per_hour must be 0 or more, got -1" in err) == (2, True)
    code, _, err = run(capsys, export.main, source, tmp_path / "a", "--window", "8")
    assert (code, "window must be 1 or more, with false_alarms_per_hour, got 8" in err) == (2, True)
    ttrnn.save(ttrnn.load(source / "model"), tmp_path / "bare", {"metric": "accuracy", "val_metric": 0.5})
    code, _, err = run(capsys, export.main, tmp_path / "bare", tmp_path / "a", "--false-alarms-per-hour", "1")
    assert (code, "needs a validation split" in err) == (2, True)
    assert not (tmp_path / "a").exists()

"""pipelines/evaluate.py: metrics with intervals and chance level, on the terminal, as JSON and as files."""

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

import ttrnn
from pipelines.core.errors import UserError
from pipelines.data.catalog import read_catalog
from pipelines.data.folds import open_folds
from pipelines.data.shards import Clip, write_dataset_json, write_shard
from pipelines.evaluate import evaluate, main
from pipelines.evaluation.evaluator import evaluate_model
from pipelines.train import train
from pipelines.training.options import TrainOptions
from pipelines.video.decode import decode
from pipelines.video.sampling import Sampling
from tests.shards import FRAME, make_shards
from tests.videos import write_class_folders
from ttrnn.export import export_onnx_clip, export_onnx_step
from ttrnn.model import VideoClassifier


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    shards = make_shards(root / "shards")
    train(TrainOptions(shards=str(shards), out=str(root / "run"), hidden_modes="2x2x2x2", epochs=8, lr=0.02))
    return root / "run", shards


def test_the_json_has_the_metric_its_chance_level_and_the_size_of_the_model(trained, capsys):
    run, shards = trained
    assert main([str(run / "model"), str(shards), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"metric", "value", "num_clips", "num_params", "input_params", "chance", "split"} <= result.keys()
    assert (result["metric"], result["num_clips"], result["split"]) == ("accuracy", 12, "test")
    assert result["chance"] == pytest.approx(1 / 3)
    assert result["value"] > 0.6


def test_a_metric_has_its_interval_and_a_row_for_each_class(trained, capsys):
    run, shards = trained
    result = evaluate_model(run, shards)
    low, high = result["interval"]
    assert 0 < low < result["value"] <= high <= 1
    assert (result["interval_by"], result["num_groups"]) == ("clip", 0)
    assert [row["class"] for row in result["per_class"]] == ["class 0", "class 1", "class 2"]
    assert sum(row["num_clips"] for row in result["per_class"]) == 12
    hits = sum(row["recall"] * row["num_clips"] for row in result["per_class"])
    assert hits / 12 == pytest.approx(result["value"])
    assert main([str(run), str(shards)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        f"{100 * result['value']:.1f}% (95% interval {100 * low:.1f}% to {100 * high:.1f}%; chance 33.3%)" in lines[0]
    )
    assert lines[1].split() == ["class", "clips", "precision", "recall", "F1"]
    assert [line.split()[:3] for line in lines[3:6]] == [["class", str(number), "4"] for number in range(3)]


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_files_list_each_clip_and_class_and_are_replaced_only_with_overwrite(trained, tmp_path, capsys):
    run, shards = trained
    out = tmp_path / "out"
    assert main([str(run), str(shards), "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    files = ["confusion.csv", "confusion.png", "per_class.csv", "predictions.csv"]
    assert sorted(file.name for file in out.iterdir()) == files
    predictions = read(out / "predictions.csv")
    assert [row["clip_id"] for row in predictions] == [f"test/{index}" for index in range(12)]
    assert sum(row["label"] == row["predicted"] for row in predictions) == pytest.approx(12 * result["value"])
    for row in predictions:
        shares = {name: float(row[f"p({name})"]) for name in ("class 0", "class 1", "class 2")}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
        assert row["predicted"] == max(shares, key=shares.get)
    counts = {(row["class"], name): int(row[name]) for row in read(out / "confusion.csv") for name in list(row)[1:]}
    for (own, taken), count in counts.items():
        assert count == sum(row["label"] == own and row["predicted"] == taken for row in predictions)
    table = read(out / "per_class.csv")
    assert [{name: float(value) for name, value in row.items() if name != "class"} for row in table] == [
        {name: value for name, value in row.items() if name != "class"} for row in result["per_class"]
    ]
    assert imread(out / "confusion.png").ndim == 3
    assert main([str(run), str(shards), "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([str(run), str(shards), "--out", str(out), "--split", "val", "--overwrite"]) == 0
    assert read(out / "predictions.csv")[0]["clip_id"] == "val/0"


def test_a_refused_command_leaves_no_directory(trained, tmp_path):
    run, shards = trained
    with pytest.raises(UserError, match="has no split 'nope'"):
        evaluate(run, shards, split="nope", out=tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_clips_of_several_labels_have_average_precisions_and_no_confusion_matrix(tmp_path, capsys):
    shards, run, out = make_shards(tmp_path / "shards", multi_label=True), tmp_path / "run", tmp_path / "out"
    train(TrainOptions(shards=str(shards), out=str(run), hidden_modes="2x2x2x2", epochs=2, lr=0.02))
    assert main([str(run), str(shards), "--out", str(out)]) == 0
    assert "average precision" in capsys.readouterr().out.splitlines()[1]
    assert sorted(file.name for file in out.iterdir()) == ["per_class.csv", "predictions.csv"]
    row = read(out / "predictions.csv")[1]
    assert row["label"] == "class 1|class 2"
    assert row["predicted"] == "|".join(
        name for name in ("class 0", "class 1", "class 2") if float(row[f"p({name})"]) >= 0.5
    )
    result = evaluate_model(run, shards)
    mean = sum(row["average_precision"] for row in result["per_class"]) / 3
    assert result["value"] == pytest.approx(mean)


@pytest.mark.parametrize("damage", ["flip weights", "flip config", "no weights", "no config"])
def test_a_damaged_model_is_refused_with_exit_code_2_and_one_line(trained, tmp_path, capsys, caplog, damage):
    model = tmp_path / "model"
    shutil.copytree(trained[0] / "model", model)
    what, name = damage.split()
    file = model / {"weights": "model.safetensors", "config": "config.json"}[name]
    if what == "no":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    assert main([str(model), str(trained[1])]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert str(model) in line


def test_a_model_of_a_fold_is_evaluated_on_the_test_split_of_that_fold(tmp_path, capsys, caplog):
    shards, run = make_shards(tmp_path / "shards"), str(tmp_path / "run")
    folds = {"folds": 4, "fold": 1, "split_by": "clip"}
    options = TrainOptions(shards=str(shards), out=run, hidden_modes="2x2x2x2", epochs=1, **folds)
    train(options)
    num_clips = len(open_folds(shards, options.folding).split("test"))
    assert num_clips != 12
    copy = str(shutil.copytree(f"{run}/model", tmp_path / "copy"))
    for model in (run, f"{run}/model", copy):
        result = evaluate_model(model, shards)
        assert {name: result[name] for name in folds} == folds
        assert result["num_clips"] == num_clips
    moved = str(shutil.copytree(shards, tmp_path / "moved"))
    assert "other splits" not in caplog.text
    assert evaluate_model(copy, moved)["num_clips"] == 12
    assert f"{copy} was trained on other splits, of {shards}" in caplog.text
    assert main([copy, moved, "--folds", "4", "--fold", "1", "--split-by", "clip", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == result["value"]
    assert main([copy, str(shards), "--fold", "1"]) == 2
    assert "need folds" in capsys.readouterr().err


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    """A model directory, the folder of videos that it was trained on, and shards of them as preprocess writes them."""
    root = tmp_path_factory.mktemp("filmed")
    videos, shards, frame = write_class_folders(root / "videos", num_clips=16, num_frames=6), root / "shards", FRAME
    catalog, splits = read_catalog(videos), {}
    shards.mkdir()
    for split in ("train", "val", "test"):
        clips = [
            Clip(entry.clip_id, entry.labels, "", 25.0, decode(entry.path, frame, Sampling()).frames)
            for entry in catalog.clips
            if entry.split == split
        ]
        splits[split] = [write_shard(shards / f"{split}-00000.arrow", clips)]
    about = {"classes": catalog.classes, "task": catalog.task, "frame": frame, "mean": (40.0,), "std": (60.0,)}
    write_dataset_json(shards, sampling={}, splits=splits, options={}, **about)
    train(TrainOptions(shards=str(shards), out=str(root / "run"), hidden_modes="2x2x2x2", epochs=4, lr=0.02))
    return root / "run" / "model", videos, shards


def test_videos_are_evaluated_like_the_shards_that_preprocess_makes_of_them(filmed, tmp_path, capsys):
    model, videos, shards = filmed
    results = []
    for place, out in ((videos, tmp_path / "videos"), (shards, tmp_path / "shards")):
        assert main([str(model), str(place), "--out", str(out), "--json"]) == 0
        results.append(json.loads(capsys.readouterr().out))
    for name in ("value", "interval", "num_clips", "per_class"):
        assert results[0][name] == results[1][name]
    rows = [{row["clip_id"]: row for row in read(tmp_path / name / "predictions.csv")} for name in ("videos", "shards")]
    assert rows[0].keys() == rows[1].keys()
    for clip_id, row in rows[0].items():
        other = rows[1][clip_id]
        assert list(row) == list(other)
        for name, value in row.items():
            # A batch sums in another order than a single clip, so the last digits of float32 differ.
            expected = pytest.approx(float(other[name]), abs=1e-5) if name.startswith("p(") else other[name]
            assert (float(value) if name.startswith("p(") else value) == expected, (clip_id, name)
    assert evaluate_model(model, videos, "all")["num_clips"] == evaluate_model(model, shards, "all")["num_clips"] == 32


def test_a_list_of_videos_is_evaluated_and_those_that_cannot_be_decoded_are_named(filmed, tmp_path, capsys):
    model, videos, _ = filmed
    (tmp_path / "bad.avi").write_bytes(b"no video")
    lines = [f"{path},{path.parent.name},," for path in sorted(videos.glob("*/*.avi"))[::4]]
    table = tmp_path / "clips.csv"
    table.write_text("\n".join(["path,label,group,split", *lines, f"{tmp_path / 'bad.avi'},left,,", ""]))
    assert main([str(model), str(table), "--split", "all", "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["num_clips"] == len(lines)
    assert [Path(entry["path"]).name for entry in result["rejected"]] == ["bad.avi"]
    assert "unreadable" in result["rejected"][0]["error"]
    assert main([str(model), str(table), "--split", "all"]) == 0
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count("bad.avi") == 1
    table.write_text(f"path,label,group,split\n{tmp_path / 'bad.avi'},left,,test\n")
    assert main([str(model), str(table)]) == 2
    assert re.search(r"none of the 1 clips of test .*bad.avi unreadable", capsys.readouterr().err)
    table.write_text(f"path,label,group,split\n{tmp_path / 'bad.avi'},elsewhere,,test\n")
    assert main([str(model), str(table)]) == 2
    assert "has others: elsewhere" in capsys.readouterr().err


@pytest.mark.parametrize("stem", ["none", "conv"])
@pytest.mark.parametrize("form", ["step", "clip"])
def test_an_onnx_file_gives_the_predictions_of_its_model(filmed, tmp_path, form, stem):
    model, _, shards = filmed
    if stem == "conv":
        config = dataclasses.replace(ttrnn.load(model).config, stem=stem, in_modes="auto", ranks="2")
        model = tmp_path / "model"
        ttrnn.save(VideoClassifier(config), model)
    file = tmp_path / f"{form}.onnx"
    {"step": export_onnx_step, "clip": export_onnx_clip}[form](ttrnn.load(model), file)
    mine, theirs = (evaluate_model(path, shards, "all", out=tmp_path / path.stem) for path in (file, model))
    assert (mine["value"], mine["interval"]) == (theirs["value"], theirs["interval"])
    tables = [read(tmp_path / path.stem / "predictions.csv") for path in (file, model)]
    for ours, own in zip(*tables, strict=True):
        assert ours["predicted"] == own["predicted"]
        assert float(ours["p(left)"]) == pytest.approx(float(own["p(left)"]), abs=1e-4)
    beside = shutil.copy(file, shutil.copytree(model, tmp_path / "whole"))
    assert evaluate_model(beside, shards)["num_params"] == theirs["num_params"]


def test_two_models_are_compared_on_the_same_clips(filmed, tmp_path, capsys):
    model, videos, shards = filmed
    network, other, out = ttrnn.load(model), tmp_path / "other", tmp_path / "out"
    with torch.no_grad():
        # It predicts `left` for every clip.
        network.head.weight.zero_()
        network.head.bias.copy_(torch.tensor([1.0, 0.0]))
    ttrnn.save(network, other)
    words = [str(model), str(shards), "--split", "all", "--compare", str(other)]
    assert main([*words, "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    found = result["compare"]
    assert (found["model"], found["value"], found["num_params"]) == (str(other), 0.5, result["num_params"])
    assert found["difference"] == pytest.approx(result["value"] - 0.5)
    rows = {row["clip_id"]: row for row in read(out / "predictions.csv")}
    assert found["num_differing"] == sum(row["predicted"] == "right" for row in rows.values())
    differing = read(out / "differing.csv")
    assert len(differing) == found["num_differing"]
    assert all((row["predicted"], row["predicted_by_other"]) == ("right", "left") for row in differing)
    assert found["num_only_first"] - found["num_only_second"] == round(32 * found["difference"])
    assert main(words) == 0
    assert "McNemar" in capsys.readouterr().out
    by_video = evaluate_model(model, videos, "all", other_dir=other)["compare"]
    assert {**by_video, "model": str(other)} == found


def test_models_trained_on_different_splits_are_not_compared(tmp_path, capsys):
    shards = make_shards(tmp_path / "shards")
    runs = [str(tmp_path / f"run{fold}") for fold in range(2)]
    for fold, run in enumerate(runs):
        folds = {"folds": 4, "fold": fold, "split_by": "clip"}
        train(TrainOptions(shards=str(shards), out=run, hidden_modes="2x2x2x2", epochs=1, **folds))
    assert main([runs[0], str(shards), "--compare", runs[1]]) == 2
    assert "different splits" in capsys.readouterr().err
    assert main([runs[0], str(shards), "--compare", runs[0]]) == 0


def test_models_with_different_classes_are_not_compared(filmed, trained, capsys):
    assert main([str(filmed[0]), str(filmed[2]), "--compare", str(trained[0])]) == 2
    assert "different classes" in capsys.readouterr().err

"""pipelines/evaluate.py: a metric with all that it takes to judge it, on the screen, as JSON and as files."""

import csv
import json
import shutil

import pytest
from matplotlib.image import imread

from pipelines.cli import UserError
from pipelines.evaluate import evaluate_model, headline, main
from pipelines.recipe import open_data
from pipelines.shards import Frame
from pipelines.train import TrainOptions, train
from tests.shards import make_shards


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    shards = make_shards(root / "shards")
    train(TrainOptions(shards=str(shards), out=str(root / "run"), hidden_modes="2x2x2x2", epochs=8, lr=0.02))
    return root / "run", shards


def test_metric_comes_with_what_it_takes_to_judge_it(trained, capsys):
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


def test_files_tell_of_each_clip_and_class_and_are_replaced_on_request_only(trained, tmp_path, capsys):
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


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({}, "(95% interval 50.0% to 70.0%; chance 10.0%)"),
        ({"num_groups": 12, "interval_by": "group"}, "(95% interval 50.0% to 70.0% by 12 groups; chance 10.0%)"),
        ({"num_groups": 2}, "(95% interval 50.0% to 70.0% for more clips of the same 2 groups; chance 10.0%)"),
        ({"num_groups": 240}, "(95% interval 50.0% to 70.0%; chance 10.0%)"),
    ],
    ids=["no groups", "by group", "too few groups", "a group for each clip"],
)
def test_it_is_said_what_an_interval_rests_on(known, words):
    result = {"metric": "accuracy", "value": 0.6, "interval": [0.5, 0.7], "interval_by": "clip", "num_groups": 0}
    result |= {"chance": 0.1, "num_clips": 240, "split": "test", **known}
    assert headline(result) == f"accuracy 60.0% {words} on 240 clips of test"


def test_a_run_stands_for_its_best_model(trained):
    run, shards = trained
    assert evaluate_model(run, shards)["value"] == evaluate_model(run / "model", shards)["value"]


@pytest.mark.parametrize("damage", ["flip weights", "flip config", "no weights", "no config"])
def test_damaged_model_is_refused_with_2_and_one_line(trained, tmp_path, capsys, caplog, damage):
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


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [({"frame": Frame(8, 6, 1)}, r"\(8, 4, 1\).*\(8, 6, 1\)"), ({"num_classes": 2}, "knows the classes")],
    ids=["frame", "classes"],
)
def test_data_of_another_kind_is_refused(trained, tmp_path, kwargs, words):
    other = make_shards(tmp_path / "other", **kwargs)
    with pytest.raises(UserError, match=words):
        evaluate_model(trained[0], other)


def test_unknown_split_is_refused_with_those_there_are(trained):
    with pytest.raises(UserError, match="train, val, test"):
        evaluate_model(trained[0], trained[1], "dev")


def test_a_model_of_a_fold_is_measured_on_the_test_split_of_that_fold(tmp_path, capsys, caplog):
    shards, run = make_shards(tmp_path / "shards"), str(tmp_path / "run")
    folds = {"folds": 4, "fold": 1, "split_by": "clip"}
    options = TrainOptions(shards=str(shards), out=run, hidden_modes="2x2x2x2", epochs=1, **folds)
    train(options)
    num_clips = len(open_data(shards, options).split("test"))
    assert num_clips != 12
    copy = str(shutil.copytree(f"{run}/model", tmp_path / "copy"))
    for model in (run, f"{run}/model", copy):
        result = evaluate_model(model, shards)
        assert {name: result[name] for name in folds} == folds
        assert result["num_clips"] == num_clips
    moved = str(shutil.copytree(shards, tmp_path / "moved"))
    assert "other splits" not in caplog.text
    assert evaluate_model(copy, moved)["num_clips"] == 12
    assert f"{copy} learnt from other splits, of {shards}" in caplog.text
    assert main([copy, moved, "--folds", "4", "--fold", "1", "--split-by", "clip", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == result["value"]
    assert main([copy, str(shards), "--fold", "1"]) == 2
    assert "need folds" in capsys.readouterr().err


def test_the_validation_split_of_a_model_that_learnt_from_it_is_refused(tmp_path):
    shards, run = str(make_shards(tmp_path / "shards")), str(tmp_path / "run")
    train(TrainOptions(shards=shards, out=run, hidden_modes="2x2x2x2", epochs=1, watch_test=True, keep="last"))
    assert evaluate_model(run, shards)["num_clips"] == 12
    with pytest.raises(UserError, match="learnt from the clips of val too"):
        evaluate_model(run, shards, "val")

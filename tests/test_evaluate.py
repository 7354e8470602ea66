import json
import shutil

import pytest

from pipelines.cli import UserError
from pipelines.evaluate import evaluate_model, main
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


def test_a_run_on_a_fold_is_measured_on_the_test_split_of_that_fold(tmp_path, capsys):
    shards, run = make_shards(tmp_path / "shards"), str(tmp_path / "run")
    folds = {"folds": 4, "fold": 1, "split_by": "clip"}
    options = TrainOptions(shards=str(shards), out=run, hidden_modes="2x2x2x2", epochs=1, **folds)
    train(options)
    num_clips = len(open_data(shards, options).split("test"))
    assert num_clips != 12
    for model in (run, f"{run}/model"):
        result = evaluate_model(model, shards)
        assert {name: result[name] for name in folds} == folds
        assert result["num_clips"] == num_clips
    copy = str(shutil.copytree(f"{run}/model", tmp_path / "copy"))
    assert evaluate_model(copy, shards)["num_clips"] == 12
    assert main([copy, str(shards), "--folds", "4", "--fold", "1", "--split-by", "clip", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == result["value"]
    assert main([copy, str(shards), "--fold", "1"]) == 2
    assert "need folds" in capsys.readouterr().err

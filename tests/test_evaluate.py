import json
import shutil

import pytest

from pipelines.cli import UserError
from pipelines.evaluate import evaluate_model, main
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

import dataclasses
import os
import shutil

import pytest
import torch

import ttrnn
from pipelines import export
from pipelines.trials import Confirmed, Trial
from tests.test_pareto import confirm_by_hand, make_sweep
from ttrnn.model import ModelConfig, VideoClassifier


@pytest.fixture
def model(tmp_path):
    config = ModelConfig(width=48, height=32, channels=1, classes=("up", "down"), hidden_modes="2x2x2x2")
    path = tmp_path / "model"
    ttrnn.save(VideoClassifier(config), path, {"metric": "accuracy", "val_metric": 0.5, "num_val_clips": 8})
    return path


def run(capsys, main, *words):
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def make_run(model, path):
    path.mkdir()
    os.symlink(model, path / "model")
    return path


def test_export_of_a_run_is_a_model_directory_of_its_own(model, tmp_path, capsys):
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


def confirmed(trial, mean, low):
    values = {"val_mean": mean, "val_interval": [low, 1.0], "test_mean": None, "test_interval": None}
    return dataclasses.replace(trial, confirmed=Confirmed(seeds=[1], val=[mean], test=[], **values))


def test_smallest_takes_the_standard_error_from_the_interval_that_is_known():
    # The half below is 1.96 standard errors.
    wide = [*POINTS[:3], dataclasses.replace(POINTS[3], val_interval=[0.91 - 1.96 * 0.04, 0.95])]
    assert export.choose(wide, wide, "smallest", 100).trial == "0002"
    narrow = [*POINTS[:3], dataclasses.replace(POINTS[3], val_interval=[0.905, 0.95])]
    assert export.choose(narrow, narrow, "smallest", 100).trial == "0004"
    # Of a confirmed one, its mean and that one's interval.
    means = [confirmed(POINTS[0], 0.7, 0.6), confirmed(wide[3], 0.8, 0.8 - 1.96 * 0.11)]
    assert export.choose(means, means, "smallest", 100).trial == "0001"


def test_a_sweep_that_was_confirmed_is_chosen_from_by_its_means(model, tmp_path, capsys):
    names = {"0000": (1_000, 0.5), "0001": (2_000, 0.9)}
    trials = {name: {"num_params": size, "val_metric": value} for name, (size, value) in names.items()}
    sweep = make_sweep(tmp_path / "sweep", trials)
    for name in names:
        shutil.rmtree(sweep / "trials" / name / "model")
        shutil.copytree(model, sweep / "trials" / name / "model")
    confirm_by_hand(sweep, {"0000": [0.6, 0.7], "0001": [0.5, 0.6]})
    code, text, _ = run(capsys, export.main, sweep, tmp_path / "out")
    assert code == 0
    assert "trial 0000" in text
    assert "on average 65.0% when trained again with 2 seeds" in text
    results = ttrnn.checkpoint.read_config(tmp_path / "out")["results"]
    assert results["confirmed"]["val_mean"] == pytest.approx(0.65)

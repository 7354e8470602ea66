"""pipelines/export.py: the right model is selected and packaged in every form."""

import dataclasses
import json
import math
import os
import re
import shutil

import numpy as np
import pytest
import torch

import ttrnn
from pipelines import export
from pipelines.core.errors import UserError
from pipelines.data.dataset import ShardDataset
from pipelines.evaluation.evaluator import evaluate_model
from pipelines.report.frontier_files import write_frontier
from pipelines.training.trainer import fit
from pipelines.tuning.selection import chance_warning, choose, select_trial
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.tuning.trial import Replication, Trial
from tests.runs import options
from tests.shards import make_shards
from tests.sweeps import Evaluate, make_sweep, write_replications
from ttrnn.model import ModelConfig, VideoClassifier
from ttrnn.portable.js import node_scores

NAMES = ("num_params", "val_metric")


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


def test_export_of_a_run_writes_a_model_directory(model, tmp_path, capsys):
    out = tmp_path / "exported"
    code, _, _ = run(capsys, export.main, make_run(model, tmp_path / "run"), out)
    assert code == 0
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    frames = torch.randint(0, 256, (1, 5, 32, 48, 1), dtype=torch.uint8)
    assert torch.equal(ttrnn.load(out)(frames), ttrnn.load(model)(frames))
    assert "val metric" in (out / "README.md").read_text()


def test_an_existing_out_is_refused_and_other_files_are_never_replaced(model, tmp_path, capsys):
    source, out = make_run(model, tmp_path / "run"), tmp_path / "mine"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    assert run(capsys, export.main, source, out)[0] == 2
    assert run(capsys, export.main, source, out, "--overwrite")[0] == 2
    assert (out / "thesis.tex").exists()


def test_a_source_that_is_neither_sweep_nor_run_is_refused(tmp_path, capsys):
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
        ("best", None, "0002"),
        ("highest", None, "0004"),
        ("highest", 5_000, "0002"),
        ("best", 100_000, "0003"),
        ("knee", None, "0002"),
        # One standard error of .91 on 100 clips is .029: .88 is further away than that, .90 is not.
        ("smallest", None, "0003"),
        ("smallest", 5_000, "0002"),
        ("trial:0001", None, "0001"),
    ],
)
def test_models_are_chosen_by_rule(select, max_params, chosen):
    assert choose(POINTS, POINTS, select, 100, max_params, chance=0.1).trial == chosen


@pytest.mark.parametrize(
    ("val", "test", "split"),
    [
        ((0.5, [0.3, 0.6]), (0.5, [0.2, 0.6]), None),
        ((0.2, [0.1, 0.3]), (None, None), "validation"),
        ((0.5, None), (0.11, [0.0, 0.4]), "test"),
    ],
)
def test_a_model_is_hardly_better_than_chance_if_an_interval_contains_it(val, test, split):
    point = dataclasses.replace(
        POINTS[0], val_metric=val[0], val_interval=val[1], test_metric=test[0], test_interval=test[1]
    )
    warning = chance_warning(point, 0.1)
    assert (split is None) == (warning is None)
    if split is not None:
        assert f"is hardly better than chance (10.0%): on {split}," in warning
    # The means of replications replace the values of the trial.
    assert chance_warning(replicated(point, 0.5, 0.3), 0.1) is None
    assert "50.0% is hardly" in chance_warning(replicated(point, 0.5, 0.05), 0.1)


@pytest.mark.parametrize(("select", "max_params", "words"), [("best", 10, "1,000"), ("trial:9999", None, "0001, 0002")])
def test_a_choice_without_a_model_is_refused_with_the_possible_ones(select, max_params, words):
    with pytest.raises(UserError, match=words):
        choose(POINTS, POINTS, select, 100, max_params)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="'luckiest'"):
        export.ExportOptions(source="a", out="b", select="luckiest")


def replicated(trial, mean, low):
    values = {"val_mean": mean, "val_interval": [low, 1.0], "test_mean": None, "test_interval": None}
    return dataclasses.replace(trial, replication=Replication(seeds=[1], val=[mean], test=[], **values))


def test_smallest_takes_the_standard_error_from_the_interval_if_it_is_known():
    # The lower half of an interval is 1.96 standard errors.
    wide = [*POINTS[:3], dataclasses.replace(POINTS[3], val_interval=[0.91 - 1.96 * 0.04, 0.95])]
    assert choose(wide, wide, "smallest", 100).trial == "0002"
    narrow = [*POINTS[:3], dataclasses.replace(POINTS[3], val_interval=[0.905, 0.95])]
    assert choose(narrow, narrow, "smallest", 100).trial == "0004"
    # Replicated trials are compared by their means and the intervals of these.
    means = [replicated(POINTS[0], 0.7, 0.6), replicated(wide[3], 0.8, 0.8 - 1.96 * 0.11)]
    assert choose(means, means, "smallest", 100).trial == "0001"


def test_a_replicated_sweep_is_selected_from_by_the_means(model, tmp_path, capsys):
    names = {"0000": (1_000, 0.5), "0001": (2_000, 0.9)}
    trials = {name: {"num_params": size, "val_metric": value} for name, (size, value) in names.items()}
    sweep = make_sweep(tmp_path / "sweep", trials)
    for name in names:
        shutil.rmtree(sweep / "trials" / name / "model")
        shutil.copytree(model, sweep / "trials" / name / "model")
    write_replications(sweep, {"0000": [0.6, 0.7], "0001": [0.5, 0.6]})
    code, text, _ = run(capsys, export.main, sweep, tmp_path / "out")
    assert code == 0
    assert "trial 0000" in text
    assert "65.0% on average when trained again with 2 new seeds" in text
    results = ttrnn.checkpoint.read_config(tmp_path / "out")["results"]
    assert results["replication"]["val_mean"] == pytest.approx(0.65)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained")
    shards = make_shards(directory / "shards")
    for name, given in {"run": {}, "both-ways": {"bidirectional": True}}.items():
        (directory / name).mkdir()
        fit(options(shards, directory / name, epochs=2, **given))
    return directory


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_the_loss_by_rounding_is_evaluated_on_the_validation_split(trained, tmp_path, capsys, dtype):
    code, out, _ = run(capsys, export.main, trained / "run", tmp_path / "out", "--dtype", dtype, "--json")
    result = json.loads(out)
    assert code == 0
    value = evaluate_model(tmp_path / "out", trained / "shards", "val")["value"]
    assert result["val_metric_rounded"] == pytest.approx(value)
    assert result["val_metric_rounded"] + result["lost_by_rounding"] == pytest.approx(result["val_metric"])
    exact = (trained / "run" / "model" / "model.safetensors").stat().st_size
    assert result["files"]["model.safetensors"] < exact


def test_a_warning_says_that_the_loss_by_rounding_cannot_be_evaluated(model, tmp_path, capsys):
    code, out, err = run(capsys, export.main, make_run(model, tmp_path / "run"), tmp_path / "out", "--dtype", "int8")
    assert code == 0
    assert "the loss by rounding is not evaluated" in err
    assert "points lost" not in out


@pytest.mark.parametrize(("name", "files"), [("run", {"step.onnx", "clip.onnx"}), ("both-ways", {"clip.onnx"})])
def test_onnx_writes_clip_onnx_and_step_onnx_if_the_model_can_stream(trained, tmp_path, capsys, name, files):
    pytest.importorskip("onnxruntime")
    code, _, err = run(capsys, export.main, trained / name, tmp_path / "out", "--onnx")
    assert code == 0
    assert {path.name for path in (tmp_path / "out").glob("*.onnx")} == files
    assert ("can't stream" in err) == (name == "both-ways")


def test_a_program_is_written_if_the_model_can_stream_and_no_directory_if_not(trained, tmp_path, capsys):
    assert run(capsys, export.main, trained / "run", tmp_path / "out", "--program")[0] == 0
    assert (tmp_path / "out" / "step.pt2").exists()
    code, _, err = run(capsys, export.main, trained / "both-ways", tmp_path / "other", "--program")
    assert (code, (tmp_path / "other").exists()) == (2, False)
    assert "bidirectional models can't stream" in err


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_js_writes_a_module_that_is_compared_on_frames_of_the_validation_split(trained, tmp_path, capsys, dtype):
    if shutil.which("node") is None:
        pytest.skip("no node on the PATH: apt-get install nodejs")
    code, _, err = run(capsys, export.main, trained / "run", tmp_path / "out", "--js", "--dtype", dtype)
    assert code == 0
    model, clips = (
        ttrnn.load(tmp_path / "out"),
        [clip.frames for clip in ShardDataset.open(trained / "shards").split("val")],
    )
    found = re.search(r"of the model's on (\d+) frames", err)
    assert found is not None
    assert 8 <= int(found[1]) <= sum(map(len, clips))
    scores = node_scores(tmp_path / "out" / "model.js", clips)
    ends = np.cumsum([len(clip) for clip in clips]) - 1
    torch.testing.assert_close(
        torch.from_numpy(scores[ends]).float(), torch.stack([model.predict(clip) for clip in clips]), atol=1e-5, rtol=0
    )
    assert (tmp_path / "out" / "model.js").read_text() in (tmp_path / "out" / "demo.html").read_text()


def test_js_of_a_model_that_reads_backwards_is_refused_in_one_line(trained, tmp_path, capsys):
    code, _, err = run(capsys, export.main, trained / "both-ways", tmp_path / "out", "--js")
    assert (code, (tmp_path / "out").exists()) == (2, False)
    assert err.splitlines()[-1].startswith("error: --js: bidirectional models can't stream")


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_c_is_compared_on_the_validation_split_and_int8_is_calibrated_on_the_train_split(trained, tmp_path, capsys):
    files = {"Makefile", "main.c", "model.c", "model.h", "sketch.ino"}
    code, out, _ = run(capsys, export.main, trained / "run", tmp_path / "out", "--c", "--dtype", "int8", "--json")
    result = json.loads(out)
    assert code == 0
    assert {path.name for path in (tmp_path / "out" / "c").iterdir()} == files
    assert files == {name.removeprefix("c/") for name in result["files"] if name.startswith("c/")}
    found = result["c"]
    assert (found["dtype"], found["compiled"]) == ("int8", True)
    assert found["num_frames"] > 12
    assert 0 < found["difference"] < 0.05
    code, _, err = run(capsys, export.main, trained / "both-ways", tmp_path / "other", "--c")
    assert (code, (tmp_path / "other").exists()) == (2, False)
    assert "--c: bidirectional models can't stream" in err


def test_c_in_float32_needs_no_data_and_int8_says_that_it_does(model, tmp_path, capsys):
    source = make_run(model, tmp_path / "run")
    code, out, _ = run(capsys, export.main, source, tmp_path / "out", "--c")
    assert code == 0
    assert "C in float32 with 688 bytes of memory, probabilities within " in out
    code, _, err = run(capsys, export.main, source, tmp_path / "other", "--c", "--dtype", "int8")
    assert (code, (tmp_path / "other").exists()) == (2, False)
    assert "--c with --dtype int8 calibrates on the train split, but the shards None are gone" in err


def test_smallest_takes_a_tolerance_and_the_model_is_printed_with_its_neighbours(model, tmp_path, capsys):
    values = {"a": (1_000, 0.5), "b": (2_000, 0.78), "c": (3_000, 0.8), "d": (4_000, 0.9)}
    sweep = make_sweep(tmp_path / "sweep", {name: dict(zip(NAMES, pair, strict=True)) for name, pair in values.items()})
    for name in values:
        shutil.rmtree(sweep / "trials" / name / "model", ignore_errors=True)
        shutil.copytree(model, sweep / "trials" / name / "model")
    words = ("--select", "smallest", "--tolerance", "0.15")
    code, out, _ = run(capsys, export.main, sweep, tmp_path / "out", *words)
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["b", "2,000", "78.0%", "selected:", "smallest"] in lines
    assert [line[0] for line in lines if line and line[0] in values] == ["a", "b", "c"]
    code, _, err = run(capsys, export.main, sweep, tmp_path / "other", "--tolerance", "0.15")
    assert code == 2
    assert "belongs to --select smallest" in err


@pytest.mark.parametrize(("limit", "name"), [(None, "0002"), (50_000, "0003")], ids=["the knee", "within the limit"])
def test_best_is_the_model_in_best_of_the_sweep(tmp_path, limit, name):
    trials = {t.trial: {"num_params": t.num_params, "val_metric": t.val_metric} for t in POINTS}
    trials = {own: values for own, values in trials.items() if values["num_params"] <= (limit or math.inf)}
    sweep = SweepDirectory(make_sweep(tmp_path / "sweep", trials, chance=0.1))
    document = sweep.read()
    sweep.write({**document, "options": {**document["options"], "max_params": limit}})
    assert select_trial(sweep, "best")[0].trial == write_frontier(sweep.path, Evaluate())["best"] == name
    assert (sweep.best / "model.safetensors").read_bytes() == name.encode()
    assert select_trial(sweep, "best", max_params=5_000)[0].trial == "0002", "a limit of the export goes first"

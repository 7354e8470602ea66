"""Test the command sweep: its files, resumption, extension, faults."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import optuna
import pytest
import ray
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import ttrnn
from pipelines import sweep as sweep_command
from pipelines.cluster.session import start_ray
from pipelines.core.errors import UserError
from pipelines.core.options import parse
from pipelines.export import ExportOptions, export
from pipelines.report.frontier_files import COLUMNS
from pipelines.sweep import SweepOptions, sweep
from pipelines.tuning.preparation import claim_sweep, prepare_shards
from pipelines.tuning.sweep_directory import SweepDirectory
from tests.processes import Child
from tests.shards import make_shards

SWEPT = {"space": "shapes", "epochs": 2, "max_params": 150_000, "early_stopping": "none"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module", autouse=True)
def one_ray():
    """The address of a Ray for all sweeps of this file, with one process that trains: starting one takes seconds."""
    with start_ray(num_cpus=1):
        yield ray.get_runtime_context().gcs_address


@pytest.fixture(scope="module")
def swept(shards, tmp_path_factory):
    """A sweep of 6 trials with a limit that excludes its first baseline, that of the paper."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    return out, sweep(SweepOptions(data=str(shards), out=str(out), num_trials=6, **SWEPT))


def study(out):
    storage = JournalStorage(JournalFileBackend(str(out / "study.journal")))
    return optuna.load_study(storage=storage, study_name="sweep")


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_has_the_files_of_the_design(swept):
    out, result = swept
    names = {
        "sweep.json",
        "study.journal",
        "ray.log",
        "trials",
        "baselines",
        "trials.csv",
        "pareto.csv",
        "pareto.json",
        "report.html",
        "pareto.png",
        "best",
    }
    assert names == {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert len(list((out / "trials").iterdir())) == 6
    assert list(table(out / "trials.csv")[0])[: len(COLUMNS)] == list(COLUMNS)
    model = ttrnn.load(out / "best")
    assert str(model.num_params) == table(out / "pareto.csv")[-1]["num_params"]
    assert {path.name for path in (out / "best").iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert not list(out.glob("trials/*/checkpoint"))
    check = json.loads((out / "sweep.json").read_text())["data_check"]
    assert check == result["data_check"]
    assert check["text"][0].startswith("clips per class: train 12 each; val 4 each")
    assert check["cost"].startswith("6 trials of 2 epochs, ")
    assert {point["trial"] for point in result["frontier"]} == {row["trial"] for row in table(out / "pareto.csv")}


def searched(out):
    """The rows of trials.csv without the baselines."""
    return [row for row in table(out / "trials.csv") if row["state"] != "baseline"]


def test_baselines_stand_in_the_table_tested_and_never_on_the_frontier(swept):
    out, result = swept
    rows = [row for row in table(out / "trials.csv") if row["state"] == "baseline"]
    # Fewer than 16 trials: one size of each kind.
    assert {row["trial"] for row in rows} == {"thumbnail-3000", "low-rank-3000", "cnn-3000", "linear"}
    for row in rows:
        assert row["epochs"] == "2"
        assert 0 <= float(row["test_metric"]) <= 1
        assert not (out / "baselines" / row["trial"] / "checkpoint").exists()
    assert {row["state"] for row in table(out / "pareto.csv")} == {"complete"}
    assert result["verdict"]["baseline"] in {row["trial"] for row in rows}
    with pytest.raises(UserError, match=r"linear can't be chosen .baseline."):
        export(ExportOptions(source=str(out), out=str(out / "exported"), select="trial:linear"))


def test_baselines_of_the_space_come_first_and_models_above_the_limit_are_not_trained(swept):
    out, _ = swept
    rows = searched(out)
    compressed = rows[0]
    assert (compressed["cell"], compressed["ranks"], compressed["recurrent_ranks"]) == ("gru", "4x4x4", "4x4x4")
    assert len(rows) == 6
    for row in rows:
        assert int(row["num_params"]) <= 150_000
        assert row["state"] == "complete"
        assert row["epochs"] == "2"
    too_large = [trial for trial in study(out).trials if trial.user_attrs.get("rejected") == "too_large"]
    assert too_large[0].number == 0
    assert not any((out / "trials" / f"{trial.number:04d}").exists() for trial in too_large)


def test_study_opens_in_optuna_with_both_objectives_and_no_trial_left_running(swept):
    out, _ = swept
    rows = {row["trial"]: row for row in searched(out)}
    for trial in study(out).trials:
        if "rejected" in trial.user_attrs:
            assert trial.state.name == "PRUNED"
            assert trial.constraints["max_params"] > 0
            continue
        row = rows.pop(f"{trial.number:04d}")
        assert trial.state.name == "COMPLETE"
        assert trial.values == [float(row["val_metric"]), float(row["num_params"])]
        assert trial.constraints["max_params"] <= 0
    assert not rows


def test_a_sweep_can_be_extended_refined_and_replicated_and_never_shrinks(swept, shards, monkeypatch):
    out, result = swept
    more = {"data": str(shards), "out": str(out), "resume": True, **SWEPT}
    # The paths of OUT and the data may be written differently.
    monkeypatch.chdir(out.parent)
    more |= {"data": f"{shards}/", "out": "./out", "num_trials": 7, "refine": True, "confirm": 1}
    before = {path: path.stat().st_mtime_ns for path in out.glob("baselines/*/summary.json")}
    longer = sweep(SweepOptions(**more))
    assert {path: path.stat().st_mtime_ns for path in out.glob("baselines/*/summary.json")} == before
    assert any(each["replication"] for each in longer["baselines"])
    names = [trial["trial"] for trial in longer["trials"] if trial["parent"] is None]
    assert names[:6] == [trial["trial"] for trial in result["trials"]]
    assert len(names) == 7
    assert json.loads((out / "sweep.json").read_text())["options"]["num_trials"] == 7
    by_name = {trial["trial"]: trial for trial in longer["trials"]}
    refined = [trial for trial in longer["trials"] if trial["parent"] is not None]
    assert refined
    for trial in refined:
        assert (trial["state"], trial["epochs"]) == ("complete", 1)
        assert trial["num_params"] < by_name[trial["parent"]]["num_params"]
    fewer = claim_sweep(SweepDirectory(out), SweepOptions(num_trials=5, **SWEPT, data=str(shards), out=str(out)))
    assert (fewer.num_trials, fewer.refine, fewer.confirm) == (7, True, 1)
    for point in longer["frontier"]:
        assert point["replication"]["seeds"] == [1]
        assert (out / "confirm" / f"{point['trial']}-s1" / "result.json").exists()
    assert not list(out.glob("*/*/checkpoint"))


@pytest.mark.parametrize("name", ["max_macs", "max_flops"])
def test_max_flops_is_an_alias_of_max_macs(tmp_path, name):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({name: 99}))
    for words in (["--" + name.replace("_", "-"), "99"], ["--config", str(config)]):
        options, _ = parse(SweepOptions, words)
        assert options.max_macs == 99


def test_a_sweep_of_an_earlier_version_is_resumed_with_max_flops_as_max_macs(tmp_path):
    numbers = {"num_trials": 16, "epochs": 48}
    sweep_directory, options = SweepDirectory(tmp_path), SweepOptions(max_macs=10_000, out=str(tmp_path), **numbers)
    claim_sweep(sweep_directory, options)
    document = json.loads((tmp_path / "sweep.json").read_text())
    document["options"]["max_flops"] = document["options"].pop("max_macs")
    # Neither had it baselines, which may be added.
    del document["options"]["baselines"]
    (tmp_path / "sweep.json").write_text(json.dumps(document))
    assert claim_sweep(sweep_directory, options) == options
    # Numbers that are not given again are the earlier ones.
    assert claim_sweep(sweep_directory, dataclasses.replace(options, num_trials=None, epochs=None)) == options
    with pytest.raises(UserError, match="max_macs 10000, not 20000"):
        claim_sweep(sweep_directory, dataclasses.replace(options, max_macs=20_000))


def test_an_existing_sweep_is_refused_and_not_resumed_with_other_options(swept, shards):
    out, _ = swept
    with pytest.raises(UserError, match="--resume"):
        sweep(SweepOptions(data=str(shards), out=str(out)))
    with pytest.raises(UserError, match="epochs 2, not 48"):
        sweep(SweepOptions(data=str(shards), out=str(out), resume=True, **SWEPT | {"epochs": 48}))


def test_overwrite_never_deletes_the_data_of_the_sweep(swept):
    out, _ = swept
    (out / "shards").mkdir()
    with pytest.raises(UserError, match="--overwrite deletes"):
        sweep(SweepOptions(data=str(out / "shards"), out=str(out), overwrite=True))
    with pytest.raises(UserError, match="there is no"):
        sweep(SweepOptions(data=str(out / "typo"), out=str(out), overwrite=True))
    (out / "shards").rmdir()
    assert (out / "trials").exists()


def test_demo_videos_are_rendered_again_after_an_interruption(tmp_path, monkeypatch):
    (tmp_path / "videos").mkdir()
    monkeypatch.setattr("pipelines.tuning.preparation.make_shards", lambda options: None)
    monkeypatch.setattr("pipelines.tuning.preparation.NUM_CLIPS", 16)
    assert prepare_shards(SweepOptions(), SweepDirectory(tmp_path)).local == tmp_path / "shards"
    assert len(list((tmp_path / "videos").glob("*/*.avi"))) == 16


def test_unfinished_shards_are_not_taken_for_videos(tmp_path):
    (tmp_path / "preprocess.json").write_text("{}")
    assert prepare_shards(SweepOptions(data=str(tmp_path)), SweepDirectory(tmp_path / "out")).local == tmp_path


def num_ended(out):
    summaries = [json.loads(path.read_text()) for path in out.glob("trials/*/summary.json")]
    return sum(summary["state"] in ("complete", "stopped") for summary in summaries)


@pytest.mark.timeout(600)
def test_a_sweep_that_is_killed_and_interrupted_resumes_with_the_same_number_of_trials(
    one_ray, shards, tmp_path, capfd
):
    out = tmp_path / "out"
    words = ["--data", str(shards), "--out", str(out), "--num-trials", "6", "--epochs", "16", "--max-params", "100000"]
    # The interrupted one has a Ray of its own, which it must shut down.
    for kill, address, more in ((signal.SIGKILL, one_ray, []), (signal.SIGINT, "local", ["--resume"])):
        environment = {**os.environ, "RAY_ADDRESS": address}
        enough = num_ended(out) + 1
        command = [sys.executable, "-m", "pipelines.sweep", *words, *more]
        process = Child(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
        while num_ended(out) < enough:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(kill)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == (130 if kill is signal.SIGINT else -9)
        assert "Traceback" not in stderr
    # Trainings of a killed command may still run for a while; the next command is not affected.
    assert sweep_command.main([*words, "--resume", "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert len(result["trials"]) == num_ended(out) == 6
    assert [each["state"] for each in result["baselines"]] == ["baseline"] * 4
    assert all(trial.state.is_finished() for trial in study(out).trials)
    assert not list(out.rglob("*.tmp"))
    assert not list(out.glob("trials/*/checkpoint"))


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--space", "everything"], "choose small, shapes, ranks"),
        (["--num-trials", "0"], "num_trials"),
        (["--data", "{tmp}/nothing"], "nothing"),
        (["--data", "{tmp}"], "{tmp}"),
        (["--num-workers", "999"], "999"),
        (["--max-params", "many"], "many"),
    ],
    ids=["unknown space", "no trials", "no such data", "folder without videos", "too many workers", "not a number"],
)
def test_user_errors_end_with_2_and_one_line(shards, tmp_path, capsys, words, hint):
    words = [word.format(tmp=tmp_path) for word in words]
    if "--data" not in words:
        words += ["--data", str(shards)]
    assert sweep_command.main(["--out", str(tmp_path / "out"), *words]) == 2
    # The error is the last line: Ray may have started, and the catalogue been read, before.
    stderr = capsys.readouterr().err
    assert "Traceback" not in stderr
    assert stderr.strip().splitlines()[-1].startswith("error: ")
    assert hint.format(tmp=tmp_path) in stderr.strip().splitlines()[-1]
    # The corrected command must not be refused because OUT exists.
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("gpus", [0.0, 2.0])
def test_a_trial_takes_a_gpu_or_a_part_of_one(gpus):
    with pytest.raises(ValueError, match="0 < gpus_per_worker <= 1"):
        SweepOptions(gpus_per_worker=gpus)

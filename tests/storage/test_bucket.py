"""pipelines/storage/bucket.py: commands work in copies of buckets, and read what they need of them."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest
import ray

import ttrnn
from pipelines.cluster.session import start_ray
from pipelines.core.errors import StepError, UserError
from pipelines.evaluation.evaluator import evaluate_model
from pipelines.export import ExportOptions, export
from pipelines.pareto import ParetoOptions, pareto
from pipelines.storage.bucket import working_copy
from pipelines.storage.location import Location
from pipelines.storage.output import undone_if_refused
from pipelines.sweep import SweepOptions, sweep
from pipelines.train import train
from pipelines.training.options import TrainOptions
from pipelines.training.run_directory import RUN_LAYOUT
from pipelines.tuning.importance import read_study
from tests.processes import Child
from tests.runs import FAST, metrics
from tests.s3 import Relay, upload
from tests.shards import make_shards
from tests.storage.sweeps import ask, open_study, read, refuse, sweep_copy, wait_for, write_run
from tests.sweeps import make_sweep
from ttrnn.model import ModelConfig, VideoClassifier


def test_a_directory_of_another_program_is_refused_and_kept(place, use_machine):
    use_machine("a")
    (place / "thesis.tex").write_text("years of work")
    for options, reason in (
        ({}, "exists; --resume"),
        ({"resume": True}, "no sweep.json"),
        ({"overwrite": True}, "not"),
    ):
        with pytest.raises(UserError, match=reason), sweep_copy(place, **options):
            pass
    assert place.files() == ["thesis.tex"]
    with working_copy(place / "run", RUN_LAYOUT) as out:
        (out / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"made by .* wrote config.json"), sweep_copy(place / "run", overwrite=True):
        pass
    assert (place / "run/config.json").exists()


def test_overwrite_empties_the_bucket_and_the_copy(place, use_machine):
    use_machine("a")
    with sweep_copy(place) as out:
        ask(open_study(out))
        write_run(out / "trials/0000", 4, "complete")
    with pytest.raises(UserError, match="--overwrite"), sweep_copy(place):
        pass
    with sweep_copy(place, overwrite=True) as again:
        assert (again, list(again.iterdir())) == (out, [])
        assert place.files() == ["mirror.json"]


def test_a_refused_command_leaves_nothing_behind(place, use_machine):
    def refused():
        with sweep_copy(place) as out, undone_if_refused(out, marker="sweep.json"):
            (out / "sweep.json").touch()
            wait_for(lambda: (place / "sweep.json").exists())
            raise UserError("typo")

    use_machine("a")
    with pytest.raises(UserError, match="typo"):
        refused()
    assert place.is_empty()


def test_two_commands_of_one_machine_cannot_use_a_bucket_at_once(folder, use_machine):
    use_machine("a")
    with (
        sweep_copy(folder),
        pytest.raises(UserError, match="another command is writing"),
        sweep_copy(folder, resume=True),
    ):
        pass


def test_a_directory_that_is_no_sweep_is_not_copied(place, use_machine):
    use_machine("a")
    with pytest.raises(UserError, match=r"has no sweep\.json; give the OUT of sweep"):
        pareto(ParetoOptions(sweep=str(place)))


def test_a_local_directory_is_used_itself(tmp_path, use_machine):
    use_machine("a")
    with sweep_copy(Location.of(tmp_path / "out")) as out:
        assert out == tmp_path / "out"
    with read(Location.of(tmp_path)) as copy:
        assert copy.path == copy.fetch(copy.path) == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_the_default_of_out_lies_in_the_storage_of_the_cluster(monkeypatch, place):
    monkeypatch.delenv("TTRNN_STORAGE", raising=False)
    assert SweepOptions().out == "runs/sweep"
    monkeypatch.setenv("TTRNN_STORAGE", str(place))
    assert SweepOptions().out == str(place / "runs/sweep")
    assert SweepOptions(out="mine").out == "mine"


def test_a_copy_is_deleted_once_the_bucket_holds_everything(folder, use_machine, monkeypatch):
    use_machine("a")
    with sweep_copy(folder) as out:
        ask(open_study(out))
        write_run(out / "trials/0000", 4, "complete")
    assert not out.parent.exists()
    with sweep_copy(folder, resume=True) as again:
        assert (again, (again / "trials/0000/summary.json").exists()) == (out, True)
    with pytest.raises(KeyboardInterrupt), sweep_copy(folder, resume=True):
        raise KeyboardInterrupt
    assert (out / "trials/0000/summary.json").exists()
    monkeypatch.setattr(Location, "upload", refuse)
    with pytest.raises(StepError, match="refused"), sweep_copy(folder, resume=True):
        write_run(out / "trials/0000", 5, "complete")
    assert (out / "trials/0000/summary.json").exists()


@pytest.fixture
def finished(tmp_path, query):
    """A finished sweep of 8 trials in a bucket, and the connection to it."""
    sweep = make_sweep(tmp_path / "sweep", num_test_clips=0)
    config = ModelConfig(width=48, height=32, channels=1, classes=("up", "down"), hidden_modes="2x2x2x2")
    for trial in (sweep / "trials").iterdir():
        results = {"metric": "accuracy", "val_metric": 0.5, "num_val_clips": 8}
        ttrnn.save(VideoClassifier(config), trial / "model", results)
        (trial / "checkpoint").mkdir()
        (trial / "checkpoint" / "state.pt").write_bytes(bytes(1000))
    relay = Relay(query)
    place = upload(sweep, Location.of(f"s3://lab/{tmp_path.name}?{relay.query}"))
    relay.requests.clear()
    return place, relay


def fetched(relay):
    """The objects that were read, as (directory, name)."""
    paths = [request.split("?")[0] for request in relay.requests if request.startswith("GET /lab/")]
    return sorted(tuple(path.split("/")[-3:]) for path in paths if not path.endswith("/lab/"))


def test_export_of_sweep_copy_fetches_its_small_files_and_one_model(finished, tmp_path, use_machine):
    use_machine("a")
    place, relay = finished
    result = export(ExportOptions(source=str(place), out=str(tmp_path / "model"), select="knee"))
    assert result["trial"] == "0001"
    paths = fetched(relay)
    assert [path for path in paths if path[-1] == "model.safetensors"] == [("0001", "model", "model.safetensors")]
    assert not [path for path in paths if path[-1] in ("state.pt", "dataset.json")]
    # sweep.json, 7 summaries, and the three files of the model; a path may be asked for twice.
    assert len(set(paths)) == 1 + 7 + 3


def test_pareto_of_sweep_copy_fetches_the_models_of_the_frontier_only(finished, use_machine):
    use_machine("a")
    place, relay = finished
    result = pareto(ParetoOptions(sweep=str(place)))
    points = [point["trial"] for point in result["frontier"]]
    assert points == ["0003", "0001", "0005"]
    weights = {path[0] for path in fetched(relay) if path[-1] == "model.safetensors"}
    assert weights == set(points)
    assert (place / "best" / "model.safetensors").exists()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


def test_shards_in_a_bucket_train_the_same_model(shards, place, tmp_path, use_machine):
    use_machine("a")
    upload(shards, place)
    of_run = {**FAST, "epochs": 2}
    result = train(TrainOptions(shards=str(place), out=str(tmp_path / "remote"), **of_run))
    assert evaluate_model(result["model"], str(place), "val")["value"] == pytest.approx(result["val_metric"])
    assert result["shards"] == str(place)
    train(TrainOptions(shards=str(shards), out=str(tmp_path / "local"), **of_run))
    assert metrics(tmp_path / "remote") == metrics(tmp_path / "local")


def test_a_run_in_a_bucket_is_resumed_by_another_machine_and_equal_to_the_bit(
    shards, place, tmp_path, use_machine, monkeypatch
):
    use_machine("a")
    train(TrainOptions(shards=str(shards), out=str(tmp_path / "whole"), **FAST))
    of_run = {"shards": str(shards), "out": str(place), **FAST}

    def on_epoch(record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr("pipelines.train.epoch_logger", lambda: on_epoch)
        train(TrainOptions(**of_run))
    assert {"config.json", "running.zip"} <= set(place.files())
    use_machine("b")
    result = train(TrainOptions(**of_run, resume=True))
    assert (result["out"], result["model"]) == (str(place), str(place / "model"))
    assert "running.zip" not in place.files()
    with read(place) as copy:
        assert metrics(copy.path) == metrics(tmp_path / "whole")
    use_machine("c")
    # A run that has ended is not trained again.
    assert train(TrainOptions(**of_run, resume=True))["train_s"] == result["train_s"]


@pytest.mark.timeout(600)
def test_a_killed_sweep_is_resumed_from_its_bucket_on_another_machine(shards, place, tmp_path, use_machine):
    options = {"num_trials": 3, "epochs": 10, "early_stopping": "none", "baselines": "none", "max_params": 100_000}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    with start_ray(num_cpus=1):
        address = ray.get_runtime_context().gcs_address
        killed = Child(
            [sys.executable, "-m", "pipelines.sweep", "--data", shards, "--out", place, *words],
            stderr=subprocess.PIPE,
            env={**os.environ, "TTRNN_CACHE": str(tmp_path / "a"), "RAY_ADDRESS": address},
        )
        wait_for(lambda: (place / "study.journal").exists() and (place / "trials/0001/summary.json").exists())
        killed.kill()
        _, stderr = killed.communicate()
        assert killed.returncode == -signal.SIGKILL, stderr
        (tmp_path / "then").mkdir()
        (place / "study.journal").download(tmp_path / "then" / "study.journal")
        known = read_study(tmp_path / "then" / "study.journal")
        # Trials that ended after the study was last sent are unknown to it, and are trained again.
        ended = [name for name in place.files() if name.endswith("summary.json") and name.split("/")[1] in known]
        before = {name: (place / name).read_text() for name in ended}
        use_machine("b")
        result = sweep(SweepOptions(data=str(shards), out=str(place), resume=True, **options))
    assert [trial["state"] for trial in result["trials"]] == ["complete"] * 3
    # What had ended was not trained again.
    assert {name: (place / name).read_text() for name in ended} == before
    assert not any(name.endswith(".zip") or ".tune" in name for name in place.files())
    use_machine("c")
    result_c = pareto(ParetoOptions(sweep=str(place)))
    assert result_c["sweep"] == str(place)
    assert [point["trial"] for point in result_c["frontier"]] == [point["trial"] for point in result["frontier"]]
    assert all(os.path.exists(path) for path in result_c["files"].values())
    assert json.loads((place / "pareto.json").read_text())["created"] == result_c["created"]
    chosen = export(ExportOptions(source=str(place), out=str(tmp_path / "model"), select="knee"))
    assert chosen["trial"] == result_c["knee"]

"""pipelines/mirror.py: a bucket can be gone on from at any moment, by any machine, and nothing of one is mistaken."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
import zipfile

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from pipelines.core.errors import StepError, UserError
from pipelines.export import ExportOptions, export
from pipelines.pareto import ParetoOptions, pareto
from pipelines.storage import mirror, transfer
from pipelines.storage.bucket import reading_copy, working_copy
from pipelines.storage.filesystem import StorageError
from pipelines.storage.location import Location
from pipelines.storage.output import undone_if_refused
from pipelines.sweep import SweepOptions
from pipelines.train import train
from pipelines.training.options import TrainOptions
from pipelines.training.run_directory import RUN_LAYOUT
from pipelines.tuning.importance import read_study
from pipelines.tuning.sweep_directory import SWEEP_LAYOUT
from tests.runs import FAST, metrics
from tests.s3 import Relay, s3_server
from tests.shards import make_shards

MODEL = ("model/config.json", "model/model.safetensors")
ENDED = {"config.json", "metrics.jsonl", "summary.json", *MODEL}


@pytest.fixture(scope="module")
def query():
    with s3_server() as query:
        yield query


@pytest.fixture
def place(query):
    return Location.of(f"s3://lab/{uuid.uuid4()}?{query}")


@pytest.fixture
def folder(tmp_path):
    """Not an object store, but as remote to us, and quicker."""
    return Location.of(f"fsspec+file://{tmp_path}/remote")


@pytest.fixture
def on(tmp_path, monkeypatch):
    """on("a"): from here on it is machine a that works."""
    monkeypatch.setattr(mirror, "_EVERY_S", 0.05)
    monkeypatch.setattr(mirror, "_RUNNING_EVERY_S", 0.0)
    monkeypatch.setattr(mirror, "_PATIENCE_S", 0.0)
    return lambda machine: monkeypatch.setenv("TTRNN_CACHE", str(tmp_path / machine))


def a_sweep(place, **kwargs):
    return working_copy(place, SWEEP_LAYOUT, **kwargs)


def read(place, **kwargs):
    return reading_copy(place, markers=("sweep.json", "config.json"), **kwargs)


def open_study(out):
    out.joinpath("sweep.json").touch()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(out / "study.journal")))
    return optuna.create_study(storage=storage, study_name="sweep", load_if_exists=True)


def write_run(run, epoch, state="running"):
    """As a training leaves it; everything says of which epoch it is."""
    for name in (*ENDED, "checkpoint/state.pt"):
        run.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        run.joinpath(name).write_text(json.dumps({"state": state, "epoch": epoch}))


def epochs(run):
    return {json.loads((run / name).read_text())["epoch"] for name in Location(str(run)).files()}


def wait_for(what):
    give_up = time.monotonic() + 300
    while not what():
        assert time.monotonic() < give_up
        time.sleep(0.1)


@pytest.mark.parametrize("kind", ["place", "folder"], ids=["object store", "other file system"])
def test_another_machine_goes_on_where_the_bucket_is_and_then_the_first_one_does(kind, request, on):
    place = request.getfixturevalue(kind)
    on("a")
    with a_sweep(place) as out:
        study = open_study(out)
        study.tell(study.ask(), 1.0)
        study.ask()
        write_run(out / "trials/0000", 4, "complete")
        write_run(out / "trials/0001", 2)
        for hidden in (".tune/x", "videos/a.avi", "trials/0000/.summary.json.x.tmp"):
            (out / hidden).parent.mkdir(parents=True, exist_ok=True)
            (out / hidden).touch()
    ended = {f"trials/0000/{name}" for name in ENDED}
    running = "trials/0001/running.zip"
    assert set(place.files()) == {"mirror.json", "sweep.json", "study.journal", running, *ended}
    on("b")
    with a_sweep(place, resume=True) as other:
        assert other != out
        found = set(Location(str(other)).files())
        assert found - {f"trials/0001/{name}" for name in (*ENDED, "checkpoint/state.pt")} == {
            "sweep.json",
            "study.journal",
            *ended,
        }
        assert (epochs(other / "trials/0000"), epochs(other / "trials/0001")) == ({4}, {2})
        assert [trial.state.name for trial in open_study(other).trials] == ["COMPLETE", "RUNNING"]
        write_run(other / "trials/0001", 5, "stopped")
    assert running not in place.files()
    on("a")
    with a_sweep(place, resume=True) as again:
        assert again == out
        assert epochs(again / "trials/0001") == {5}
        assert not (again / "trials/0001/checkpoint").exists()


def test_the_same_machine_goes_on_with_what_the_bucket_has_not_seen(folder, on, monkeypatch):
    on("a")
    with monkeypatch.context() as patch:
        patch.setattr(Location, "upload", refuse)
        with pytest.raises(StepError, match=r"refused; the results of this command lie in .*--resume on this machine"):
            worked(folder)
    assert folder.files() == ["mirror.json"]
    with a_sweep(folder, resume=True) as again:
        assert epochs(again / "trials/0000") == {3}
    assert "trials/0000/running.zip" in folder.files()


def worked(place):
    with a_sweep(place) as out:
        open_study(out).ask()
        write_run(out / "trials/0000", 3)


def refuse(*_):
    raise StorageError("refused")


def test_wherever_a_transfer_breaks_off_the_bucket_can_be_gone_on_from(tmp_path, on, monkeypatch):
    """One trial ends, one goes on, one is new; each write to the bucket in turn is the last one."""
    on("a")
    monkeypatch.setattr(transfer, "_THREADS", 1)
    monkeypatch.setattr(mirror, "repeated", lambda *_: contextlib.nullcontext())
    upload, remove = Location._upload, Location.remove
    num_writes, seen = 0, set()
    while True:
        place = Location.of(f"fsspec+file://{tmp_path}/{num_writes}")
        left = 99

        def counted(write):
            def call(*args):
                nonlocal left
                if left == 0:
                    raise StorageError("killed")
                left -= 1
                write(*args)

            return call

        monkeypatch.setattr(Location, "_upload", counted(upload))
        monkeypatch.setattr(Location, "remove", counted(remove))
        with a_sweep(place) as out:
            study = open_study(out)
            trials = [study.ask(), study.ask()]
            for number in range(2):
                write_run(out / f"trials/000{number}", 1)
        with contextlib.suppress(StepError), a_sweep(place, resume=True) as out:
            study = open_study(out)
            write_run(out / "trials/0000", 3, "complete")
            study.tell(trials[0].number, 1.0)
            write_run(out / "trials/0001", 2)
            study.ask()
            write_run(out / "trials/0002", 1, "complete")
            study.tell(2, 1.0)
            left = num_writes
        is_whole, left = left > 0, 99
        on(f"b{num_writes}")
        with a_sweep(place, resume=True) as copy:
            names = {path.name for path in (copy / "trials").iterdir()}
            study = open_study(copy)
            assert {f"{trial.number:04d}" for trial in study.trials} >= names
            for trial in study.trials:
                run = copy / f"trials/{trial.number:04d}"
                if trial.state is TrialState.COMPLETE:
                    assert json.loads((run / "summary.json").read_text())["state"] == "complete"
                if run.exists():
                    assert len(epochs(run)) == 1, f"after {num_writes} writes"
                    assert set(Location(str(run)).files()) >= ENDED
            seen.add(tuple((name, *epochs(copy / "trials" / name)) for name in sorted(names)))
        assert {"0000", "0001"} <= names
        on("a")
        if is_whole:
            break
        num_writes += 1
    assert num_writes > 10
    assert (("0000", 1), ("0001", 1)) in seen
    assert (("0000", 3), ("0001", 2), ("0002", 1)) in seen


def test_a_run_that_changes_while_it_is_read_is_not_sent_as_a_mixture(folder, on, monkeypatch):
    on("a")
    write, times = zipfile.ZipFile.write, []

    def change(self, path, *args):
        write(self, path, *args)
        if not times:
            times.append(1)
            write_run(out / "trials/0000", 2)

    monkeypatch.setattr(zipfile.ZipFile, "write", change)
    with a_sweep(folder) as out:
        open_study(out).ask()
        write_run(out / "trials/0000", 1)
        wait_for(lambda: "trials/0000/running.zip" in folder.files())
    with read(folder) as copy:
        assert epochs(copy.path / "trials/0000") == {2}


def test_a_bucket_that_is_away_for_a_while_is_told_of_once_and_misses_nothing(query, on, caplog):
    relay = Relay(query)
    place = Location.of(f"s3://lab/{uuid.uuid4()}?{relay.query}")
    caplog.set_level(logging.INFO)
    on("a")
    with a_sweep(place) as out:
        study = open_study(out)
        wait_for(lambda: (place / "study.journal").exists())
        relay.down()
        study.tell(study.ask(), 1.0)
        write_run(out / "trials/0000", 4, "complete")
        wait_for(lambda: "tried again" in caplog.text)
        time.sleep(0.5)
        relay.up()
        wait_for(lambda: "answers again" in caplog.text)
        assert (place / "trials/0000/summary.json").exists()
    assert caplog.text.count("tried again") == 1


def test_what_grows_and_runs_that_are_short_take_few_requests(folder, on, monkeypatch):
    on("a")
    monkeypatch.setattr(mirror, "_RUNNING_EVERY_S", 60.0)
    upload, written = Location._upload, []

    def noted(place, source):
        written.append(place.name)
        upload(place, source)

    monkeypatch.setattr(Location, "_upload", noted)
    with a_sweep(folder) as out:
        open_study(out).ask()
        for number in range(10):
            (out / "events").write_text("x" * number)
            write_run(out / "trials/0000", number)
            time.sleep(0.1)
        write_run(out / "trials/0000", 10, "complete")
    assert (folder / "events").read_text() == "x" * 9
    assert written.count("events") <= 2
    assert "running.zip" not in written
    assert written.count("summary.json") == 1


def test_at_the_end_a_bucket_that_is_away_is_waited_for(folder, on, monkeypatch):
    on("a")
    monkeypatch.setattr(mirror, "_PATIENCE_S", 60.0)
    monkeypatch.setattr(mirror, "repeated", lambda *_: contextlib.nullcontext())
    upload, refused = Location.upload, []

    def refuse_at_first(*args):
        if len(refused) < 3:
            refused.append(1)
            refuse()
        upload(*args)

    monkeypatch.setattr(Location, "upload", refuse_at_first)
    worked(folder)
    assert len(refused) == 3
    assert {"sweep.json", "trials/0000/running.zip"} <= set(folder.files())


def test_a_directory_that_is_not_of_this_command_is_refused_and_kept(place, on):
    on("a")
    (place / "thesis.tex").write_text("years of work")
    for options, reason in (
        ({}, "exists; --resume"),
        ({"resume": True}, "no sweep.json"),
        ({"overwrite": True}, "not"),
    ):
        with pytest.raises(UserError, match=reason), a_sweep(place, **options):
            pass
    assert place.files() == ["thesis.tex"]
    with working_copy(place / "run", RUN_LAYOUT) as out:
        (out / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"made by .* wrote config.json"), a_sweep(place / "run", overwrite=True):
        pass
    assert (place / "run/config.json").exists()


def test_overwrite_begins_anew_in_the_bucket_and_here(place, on):
    on("a")
    with a_sweep(place) as out:
        open_study(out).ask()
        write_run(out / "trials/0000", 4, "complete")
    with pytest.raises(UserError, match="--overwrite"), a_sweep(place):
        pass
    with a_sweep(place, overwrite=True) as again:
        assert (again, list(again.iterdir())) == (out, [])
        assert place.files() == ["mirror.json"]


def test_a_command_that_is_refused_leaves_nothing(place, on):
    def refused():
        with a_sweep(place) as out, undone_if_refused(out, marker="sweep.json"):
            (out / "sweep.json").touch()
            wait_for(lambda: (place / "sweep.json").exists())
            raise UserError("typo")

    on("a")
    with pytest.raises(UserError, match="typo"):
        refused()
    assert place.is_empty()


def test_a_machine_whose_sweep_another_one_has_taken_over_writes_no_more(folder, on, caplog):
    def work():
        with a_sweep(folder) as out:
            open_study(out).ask()
            write_run(out / "trials/0000", 1)
            wait_for(lambda: "trials/0000/running.zip" in folder.files())
            on("b")
            with a_sweep(folder, resume=True) as other:
                write_run(other / "trials/0000", 2, "complete")
            write_run(out / "trials/0000", 3, "complete")
            wait_for(lambda: "was resumed on" in caplog.text)

    on("a")
    with pytest.raises(StepError, match=f"was resumed on {os.uname().nodename}: it ends here; .* lie in") as error:
        work()
    assert "--resume" not in str(error.value)
    assert json.loads((folder / "trials/0000/summary.json").read_text())["epoch"] == 2


def test_two_commands_of_a_machine_do_not_share_a_bucket(folder, on):
    on("a")
    with a_sweep(folder), pytest.raises(UserError, match="another command is writing"), a_sweep(folder, resume=True):
        pass


def test_trials_without_their_study_are_not_thrown_away(folder, on):
    on("a")
    with a_sweep(folder) as out:
        open_study(out).ask()
        write_run(out / "trials/0000", 4, "complete")
    (folder / "study.journal").remove()
    on("b")
    with pytest.raises(UserError, match=r"no study.journal .*; put it back"), a_sweep(folder, resume=True):
        pass
    assert (folder / "trials/0000/summary.json").exists()


def test_what_is_no_sweep_is_not_read(place, on):
    on("a")
    with pytest.raises(UserError, match="has no sweep.json; give the OUT of sweep"):
        pareto(ParetoOptions(sweep=str(place)))


def test_a_path_is_worked_on_as_it_is(tmp_path, on):
    on("a")
    with a_sweep(Location.of(tmp_path / "out")) as out:
        assert out == tmp_path / "out"
    with read(Location.of(tmp_path)) as copy:
        assert copy.path == copy.fetch(copy.path) == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_the_default_of_out_lies_where_the_cluster_stores(monkeypatch, place):
    monkeypatch.delenv("TTRNN_STORAGE", raising=False)
    assert SweepOptions().out == "runs/sweep"
    monkeypatch.setenv("TTRNN_STORAGE", str(place))
    assert SweepOptions().out == str(place / "runs/sweep")
    assert SweepOptions(out="mine").out == "mine"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


def test_a_run_in_a_bucket_is_resumed_by_another_machine_and_equal_to_the_bit(shards, place, tmp_path, on, monkeypatch):
    on("a")
    train(TrainOptions(shards=str(shards), out=str(tmp_path / "whole"), **FAST))
    of_run = {"shards": str(shards), "out": str(place), **FAST}

    def on_epoch(record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr("pipelines.train._on_epoch", lambda _: on_epoch)
        train(TrainOptions(**of_run))
    assert {"config.json", "running.zip"} <= set(place.files())
    on("b")
    result = train(TrainOptions(**of_run, resume=True))
    assert (result["out"], result["model"]) == (str(place), str(place / "model"))
    assert "running.zip" not in place.files()
    with read(place) as copy:
        assert metrics(copy.path) == metrics(tmp_path / "whole")
    on("c")
    # Of a run that is done nothing is trained again.
    assert train(TrainOptions(**of_run, resume=True))["train_s"] == result["train_s"]


@pytest.mark.timeout(600)
def test_a_killed_sweep_goes_on_from_its_bucket_on_another_machine(shards, place, tmp_path, on):
    def command(machine, *words):
        options = ("--data", str(shards), "--num-trials", "3", "--epochs", "10", "--early-stopping", "none")
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.sweep", *options, "--max-params", "100000", "--out", str(place), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TTRNN_CACHE": str(tmp_path / machine)},
        )

    killed = command("a")
    try:
        wait_for(lambda: (place / "study.journal").exists() and (place / "trials/0001/summary.json").exists())
    finally:
        killed.kill()
        _, stderr = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, stderr
    (tmp_path / "then").mkdir()
    (place / "study.journal").download(tmp_path / "then" / "study.journal")
    known = read_study(tmp_path / "then" / "study.journal")
    # What ended after the study was sent the last time is not known, and trained again.
    ended = [name for name in place.files() if name.endswith("summary.json") and name.split("/")[1] in known]
    before = {name: (place / name).read_text() for name in ended}
    resumed = command("b", "--resume", "--json")
    stdout, stderr = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, stderr
    result = json.loads(stdout)
    assert [trial["state"] for trial in result["trials"]] == ["complete"] * 3
    # What had ended was not trained again.
    assert {name: (place / name).read_text() for name in ended} == before
    assert not any(name.endswith(".zip") or ".tune" in name for name in place.files())
    on("c")
    told = pareto(ParetoOptions(sweep=str(place)))
    assert told["sweep"] == str(place)
    assert [point["trial"] for point in told["frontier"]] == [point["trial"] for point in result["frontier"]]
    assert all(os.path.exists(path) for path in told["files"].values())
    assert json.loads((place / "pareto.json").read_text())["created"] == told["created"]
    chosen = export(ExportOptions(source=str(place), out=str(tmp_path / "model"), select="knee"))
    assert chosen["trial"] == told["knee"]

"""pipelines/storage/mirror.py: a bucket can be resumed from at any moment, by any machine, and holds no mixtures."""

import contextlib
import json
import logging
import os
import time
import uuid
import zipfile

import pytest
from optuna.trial import TrialState

from pipelines.core.errors import StepError, UserError
from pipelines.storage import mirror, transfer
from pipelines.storage.filesystem import StorageError
from pipelines.storage.location import Location
from tests.s3 import Relay
from tests.storage.sweeps import ENDED, ask, epochs, open_study, read, refuse, sweep_copy, wait_for, work_on, write_run


@pytest.mark.parametrize("kind", ["place", "folder"], ids=["object store", "other file system"])
def test_another_machine_resumes_from_the_bucket_and_then_the_first_one_again(kind, request, use_machine):
    place = request.getfixturevalue(kind)
    use_machine("a")
    with sweep_copy(place) as out:
        study = open_study(out)
        study.tell(ask(study), 1.0)
        ask(study)
        write_run(out / "trials/0000", 4, "complete")
        write_run(out / "trials/0001", 2)
        # A lock that Optuna holds while files are listed.
        for hidden in (".tune/x", "videos/a.avi", "trials/0000/.summary.json.x.tmp", "study.journal.lock"):
            (out / hidden).parent.mkdir(parents=True, exist_ok=True)
            (out / hidden).touch()
    ended = {f"trials/0000/{name}" for name in ENDED}
    running = "trials/0001/running.zip"
    assert set(place.files()) == {"mirror.json", "sweep.json", "study.journal", running, *ended}
    use_machine("b")
    with sweep_copy(place, resume=True) as other:
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
    use_machine("a")
    with sweep_copy(place, resume=True) as again:
        assert again == out
        assert epochs(again / "trials/0001") == {5}
        assert not (again / "trials/0001/checkpoint").exists()


def test_the_same_machine_resumes_with_results_that_the_bucket_lacks(folder, use_machine, monkeypatch):
    use_machine("a")
    with monkeypatch.context() as patch:
        patch.setattr(Location, "upload", refuse)
        with pytest.raises(StepError, match=r"refused; the results of this command lie in .*--resume on this machine"):
            work_on(folder)
    assert folder.files() == ["mirror.json"]
    with sweep_copy(folder, resume=True) as again:
        assert epochs(again / "trials/0000") == {3}
    assert "trials/0000/running.zip" in folder.files()


def test_wherever_a_transfer_breaks_off_the_bucket_can_be_resumed_from(tmp_path, use_machine, monkeypatch):
    """One trial ends, one continues, one is new; each write to the bucket in turn is the last one."""
    use_machine("a")
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
        with sweep_copy(place) as out:
            study = open_study(out)
            trials = [ask(study), ask(study)]
            for number in range(2):
                write_run(out / f"trials/000{number}", 1)
        with contextlib.suppress(StepError), sweep_copy(place, resume=True) as out:
            study = open_study(out)
            write_run(out / "trials/0000", 3, "complete")
            study.tell(trials[0].number, 1.0)
            write_run(out / "trials/0001", 2)
            ask(study)
            write_run(out / "trials/0002", 1, "complete")
            study.tell(2, 1.0)
            left = num_writes
        is_whole, left = left > 0, 99
        use_machine(f"b{num_writes}")
        with sweep_copy(place, resume=True) as copy:
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
        use_machine("a")
        if is_whole:
            break
        num_writes += 1
    assert num_writes > 10
    assert (("0000", 1), ("0001", 1)) in seen
    assert (("0000", 3), ("0001", 2), ("0002", 1)) in seen


def test_a_run_that_changes_while_it_is_read_is_not_sent_as_a_mixture(folder, use_machine, monkeypatch):
    use_machine("a")
    write, times = zipfile.ZipFile.write, []

    def change(self, path, *args):
        write(self, path, *args)
        if not times:
            times.append(1)
            write_run(out / "trials/0000", 2)

    monkeypatch.setattr(zipfile.ZipFile, "write", change)
    with sweep_copy(folder) as out:
        ask(open_study(out))
        write_run(out / "trials/0000", 1)
        wait_for(lambda: "trials/0000/running.zip" in folder.files())
    with read(folder) as copy:
        assert epochs(copy.path / "trials/0000") == {2}


def test_an_outage_of_the_bucket_is_reported_once_and_loses_nothing(query, use_machine, caplog):
    relay = Relay(query)
    place = Location.of(f"s3://lab/{uuid.uuid4()}?{relay.query}")
    caplog.set_level(logging.INFO)
    use_machine("a")
    with sweep_copy(place) as out:
        study = open_study(out)
        wait_for(lambda: (place / "study.journal").exists())
        relay.down()
        study.tell(ask(study), 1.0)
        write_run(out / "trials/0000", 4, "complete")
        wait_for(lambda: "tried again" in caplog.text)
        time.sleep(0.5)
        relay.up()
        wait_for(lambda: "answers again" in caplog.text)
        assert (place / "trials/0000/summary.json").exists()
    assert caplog.text.count("tried again") == 1


def test_growing_files_and_short_runs_take_few_requests(folder, use_machine, monkeypatch):
    use_machine("a")
    monkeypatch.setattr(mirror, "_RUNNING_EVERY_S", 60.0)
    upload, written = Location._upload, []

    def noted(place, source):
        written.append(place.name)
        upload(place, source)

    monkeypatch.setattr(Location, "_upload", noted)
    with sweep_copy(folder) as out:
        ask(open_study(out))
        for number in range(10):
            (out / "events").write_text("x" * number)
            write_run(out / "trials/0000", number)
            time.sleep(0.1)
        write_run(out / "trials/0000", 10, "complete")
    assert (folder / "events").read_text() == "x" * 9
    assert written.count("events") <= 2
    assert "running.zip" not in written
    assert written.count("summary.json") == 1


def test_the_end_of_a_command_waits_for_a_bucket_that_does_not_answer(folder, use_machine, monkeypatch):
    use_machine("a")
    monkeypatch.setattr(mirror, "_PATIENCE_S", 60.0)
    monkeypatch.setattr(mirror, "repeated", lambda *_: contextlib.nullcontext())
    upload, refused = Location.upload, []

    def refuse_at_first(*args):
        if len(refused) < 3:
            refused.append(1)
            refuse()
        upload(*args)

    monkeypatch.setattr(Location, "upload", refuse_at_first)
    work_on(folder)
    assert len(refused) == 3
    assert {"sweep.json", "trials/0000/running.zip"} <= set(folder.files())


def test_a_machine_stops_writing_once_another_one_has_taken_over(folder, use_machine, caplog):
    def work():
        with sweep_copy(folder) as out:
            ask(open_study(out))
            write_run(out / "trials/0000", 1)
            wait_for(lambda: "trials/0000/running.zip" in folder.files())
            use_machine("b")
            with sweep_copy(folder, resume=True) as other:
                write_run(other / "trials/0000", 2, "complete")
            write_run(out / "trials/0000", 3, "complete")
            wait_for(lambda: "was resumed on" in caplog.text)

    use_machine("a")
    with pytest.raises(StepError, match=f"was resumed on {os.uname().nodename}: it ends here; .* lie in") as error:
        work()
    assert "--resume" not in str(error.value)
    assert json.loads((folder / "trials/0000/summary.json").read_text())["epoch"] == 2


def test_trials_without_their_study_are_not_deleted(folder, use_machine):
    use_machine("a")
    with sweep_copy(folder) as out:
        ask(open_study(out))
        write_run(out / "trials/0000", 4, "complete")
    (folder / "study.journal").remove()
    use_machine("b")
    with pytest.raises(UserError, match=r"no study.journal .*; put it back"), sweep_copy(folder, resume=True):
        pass
    assert (folder / "trials/0000/summary.json").exists()

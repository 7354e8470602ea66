"""pipelines/storage/lock.py: one process of this machine at a time writes to a directory."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.core.errors import UserError
from pipelines.storage.location import Location
from pipelines.storage.lock import only_writer
from tests.processes import Child


def test_one_command_at_a_time_writes_to_a_directory(tmp_path: Path) -> None:
    out, other = Location.of(tmp_path / "new" / "out"), Location.of(tmp_path / "other")
    with only_writer(out):
        with (
            pytest.raises(UserError, match=r"another command is writing to .*out; wait until it is done"),
            only_writer(out),
        ):
            pass
        with only_writer(other):
            (out / "file").write_text("1")
    with only_writer(out):
        assert (out / "file").read_text() == "1"


def test_the_lock_of_another_process_is_waited_for(tmp_path: Path) -> None:
    code = (
        "import fcntl, os, sys, time; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX); print(flush=True)"
    )
    with Child([sys.executable, "-c", f"{code}; time.sleep(0.5)", tmp_path], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with only_writer(Location.of(tmp_path), wait_s=60):
            assert other.wait(timeout=60) == 0


def test_a_new_directory_that_stays_empty_is_removed(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for name in ("new", "old"):
        with pytest.raises(UserError, match="refused"), only_writer(Location.of(tmp_path / name)):
            raise UserError("refused")
    assert os.listdir(tmp_path) == ["old"]


def test_a_directory_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="file is a file; OUT must be a directory"),
        only_writer(Location.of(tmp_path / "file")),
    ):
        pass
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="can't be written to; give another OUT"), only_writer(Location.of(tmp_path)):
        pass


def test_without_locks_on_the_file_system_a_message_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level("INFO"), only_writer(Location.of(tmp_path)):
        pass
    assert "has no locks; make sure that no other command writes there" in caplog.text

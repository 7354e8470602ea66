"""ttrnn/files.py: a file or directory is whole, or it is the one that was there before."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ttrnn.files import atomic_directory, atomic_write, remove_leftovers


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.parametrize(
    ("mode", "content", "stored"),
    [
        ("w", "a\nb\r\n", b"a\nb\r\n"),
        ("w", "ä 日", "ä 日".encode()),
        ("w", "", b""),
        ("wb", b"\x00\xff\n", b"\x00\xff\n"),
    ],
    ids=["line ends", "utf-8", "empty", "bytes"],
)
def test_what_is_written_is_stored(tmp_path: Path, mode: str, content: Any, stored: bytes) -> None:
    with atomic_write(tmp_path / "file", mode) as file:
        file.write(content)
    assert (tmp_path / "file").read_bytes() == stored
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_takes_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_write(path) as file:
        file.write("new" * 100_000)
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new" * 100_000


@pytest.mark.parametrize(
    "error", [ValueError("mine"), KeyboardInterrupt(), OSError(errno.ENOSPC, "disk full")], ids=repr
)
@pytest.mark.parametrize("there_before", [True, False], ids=["replacing", "new"])
def test_a_file_that_fails_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, error: BaseException, there_before: bool
) -> None:
    path = tmp_path / "file"
    if there_before:
        path.write_text("old")

    def write_half() -> None:
        with atomic_write(path) as file:
            file.write("half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert os.listdir(tmp_path) == (["file"] if there_before else [])
    assert not there_before or path.read_text() == "old"


def test_a_disk_that_fills_up_while_flushing_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"), atomic_write(tmp_path / "file") as file:
        file.write("new")
    with pytest.raises(OSError, match="disk full"), atomic_directory(tmp_path / "directory") as directory:
        (directory / "file").write_text("new")
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (steps.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("rename"), replace(*names)))
    with atomic_write(tmp_path / "file") as file:
        file.write("x")
    assert steps == ["fsync", "rename", "fsync"]
    steps.clear()
    with atomic_directory(tmp_path / "directory") as directory:
        (directory / "one").write_text("x")
        (directory / "two").write_text("x")
    assert steps == ["fsync", "fsync", "rename", "fsync"]


def test_results_are_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "file") as file:
        file.write("x")
    with atomic_directory(tmp_path / "directory"):
        pass
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "directory").stat().st_mode & 0o777 == 0o750
    assert os.umask(0o027) == 0o027


def test_a_missing_parent_is_an_error_for_a_file_and_made_for_a_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "no" / "file"):
        pass
    with atomic_directory(tmp_path / "a" / "b") as directory:
        (directory / "file").write_text("x")
    assert (tmp_path / "a" / "b" / "file").read_text() == "x"


def tree(path: Path) -> dict[str, str]:
    return {str(file.relative_to(path)): file.read_text() for file in path.rglob("*") if file.is_file()}


def test_a_directory_takes_the_place_of_the_older_one_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with atomic_directory(path) as directory:
        (directory / "only in the old").write_text("1")
    with atomic_directory(path) as directory:
        (directory / "nested").mkdir()
        (directory / "nested" / "file").write_text("2")
        assert tree(path) == {"only in the old": "1"}
    assert tree(path) == {"nested/file": "2"}
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("there_before", [True, False], ids=["replacing", "new"])
@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()], ids=repr)
def test_a_directory_that_fails_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, error: BaseException, there_before: bool
) -> None:
    if there_before:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "file").write_text("old")

    def write_half() -> None:
        with atomic_directory(tmp_path / "model") as directory:
            (directory / "file").write_text("half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert tree(tmp_path) == ({"model/file": "old"} if there_before else {})
    assert os.listdir(tmp_path) == (["model"] if there_before else [])


@pytest.mark.parametrize(
    ("function", "write"),
    [
        ("atomic_write", "new.write('half')"),
        ("atomic_directory", "(new / 'file').write_text('half')"),
    ],
    ids=["file", "directory"],
)
def test_a_killed_process_leaves_what_was_there(tmp_path: Path, function: str, write: str) -> None:
    path = tmp_path / "result"
    code = f"""
import os, signal, sys
from ttrnn.files import {function}
with {function}(sys.argv[1]) as new:
    {write}
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -signal.SIGKILL
    assert not path.exists()
    # What is left of it hides from `ls` and from patterns such as *.arrow.
    assert all(name.startswith(".result.") and name.endswith(".tmp") for name in os.listdir(tmp_path))


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = {"model", ".hidden", "notes.tmp", ".train-00000.arrow.json"}
    for name in kept | {".summary.json.abc.tmp", ".model.abc.tmp", ".model.abc.old"}:
        if ".model" in name:
            (tmp_path / name / "inner").mkdir(parents=True)
        else:
            (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept

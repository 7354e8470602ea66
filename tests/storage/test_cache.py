"""pipelines/storage/cache.py: each shard is fetched once and checked, and the disk is not filled beyond the limit."""

import hashlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.core.errors import StepError, UserError
from pipelines.storage import cache as module
from pipelines.storage.cache import Remote, open_cached
from pipelines.storage.filesystem import StorageError
from pipelines.storage.location import Location
from tests.processes import Child

KB = 1000


@pytest.fixture
def put(query: str) -> Callable[[str], Remote]:
    """Stores an object of 400 KB, named and filled with a text."""

    def put(text: str) -> Remote:
        location = Location.of(f"s3://lab/{uuid.uuid4()}/{text}?{query}")
        content = (text.encode() * 400 * KB)[: 400 * KB]
        with location.writing() as file:
            file.write(content)
        return Remote(location, hashlib.sha256(content).hexdigest(), len(content))

    return put


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the cache, which may hold 1 MB: two objects."""
    monkeypatch.setenv("TTRNN_CACHE", str(tmp_path / "a" / "cache"))
    monkeypatch.setenv("TTRNN_CACHE_GB", "0.001")
    return tmp_path / "a" / "cache"


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the objects that were read."""
    names: list[str] = []
    chunks = Location.chunks

    def counting(location: Location) -> Iterator[bytes]:
        names.append(location.name)
        return chunks(location)

    monkeypatch.setattr(Location, "chunks", counting)
    return names


def cached(files: Sequence[Remote]) -> list[Path]:
    """The paths of local copies."""
    paths = []
    for file in open_cached(files):
        with file:
            paths.append(Path(file.name))
    return paths


def kept(directory: Path) -> list[str]:
    """First letters of the shards in the cache, and names of all else."""
    return sorted(
        file.read_text()[0] if len(file.stem) == 64 else file.name
        for file in directory.iterdir()
        if file.name != ".lock"
    )


def age(path: Path, days: int) -> None:
    seconds = time.time() - days * 86400
    os.utime(path, (seconds, seconds))


def test_files_are_fetched_once_and_come_in_order(
    put: Callable[[str], Remote], fetched: list[str], directory: Path
) -> None:
    a, b = put("a"), put("b")
    assert [path.read_text()[0] for path in cached([b, a, b])] == ["b", "a", "b"]
    assert sorted(fetched) == ["a", "b"]
    assert cached([a]) == [directory / f"{a.sha256}.arrow"]
    assert cached([]) == []
    assert sorted(fetched) == ["a", "b"]
    assert kept(directory) == ["a", "b"]


def test_the_same_bytes_of_another_place_are_not_fetched(put: Callable[[str], Remote], fetched: list[str]) -> None:
    assert cached([put("a")]) == cached([put("a")])
    assert fetched == ["a"]


def test_a_damaged_object_is_refused_by_name_and_leaves_nothing(put: Callable[[str], Remote], directory: Path) -> None:
    a, b = put("a"), put("b")
    with pytest.raises(
        StepError, match=r"s3://lab/.*/a\?.* is damaged: its SHA-256 is not .*; delete it and run preprocess --resume"
    ):
        cached([a._replace(sha256=b.sha256)])
    assert kept(directory) == []
    assert cached([b])[0].read_text()[0] == "b"


def test_a_missing_object_is_refused_by_name_and_leaves_nothing(put: Callable[[str], Remote], directory: Path) -> None:
    a = put("a")
    with pytest.raises(StepError, match=r"s3://lab/.*/none\?.* is missing; run preprocess again"):
        cached([a._replace(location=put("b").location / "none")])
    assert kept(directory) == []


def test_a_broken_connection_leaves_nothing_and_the_next_call_fetches_again(
    put: Callable[[str], Remote], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking(location: Location) -> Iterator[bytes]:
        yield b"a"
        raise StorageError(f"{location}: connection reset")

    a = put("a")
    with monkeypatch.context() as patch:
        patch.setattr(Location, "chunks", breaking)
        with pytest.raises(StepError, match="connection reset"):
            cached([a])
    assert kept(directory) == []
    assert cached([a])[0].read_text()[0] == "a"


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: os.truncate(path, 5)], ids=["gone", "cut"])
def test_a_file_that_is_not_whole_is_fetched_again(
    put: Callable[[str], Remote], fetched: list[str], change: Callable[[Path], None]
) -> None:
    a, b = put("a"), put("b")
    path, _ = cached([a, b])
    change(path)
    cached([a, b])
    assert path.stat().st_size == 400 * KB
    assert sorted(fetched) == ["a", "a", "b"]


def test_threads_fetch_once(put: Callable[[str], Remote], fetched: list[str]) -> None:
    files = [put("a"), put("b")]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: cached(files), range(8)))
    assert sorted(fetched) == ["a", "b"]
    assert all(result == results[0] for result in results)


CHILD = """
import sys
from pipelines.storage.cache import Remote, open_cached
from pipelines.storage.location import Location
chunks = Location.chunks
def counting(location):
    with open(sys.argv[1], "a") as log:
        log.write(location.name)
    return chunks(location)
Location.chunks = counting
print(open_cached([Remote(Location(sys.argv[2]), sys.argv[3], 400_000)])[0].read(1).decode())
"""


def child(tmp_path: Path, location: Path) -> Child:
    arguments = (str(tmp_path / "log"), str(location), hashlib.sha256(b"a" * 400 * KB).hexdigest())
    return Child([sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE)


def test_processes_fetch_once(tmp_path: Path, directory: Path) -> None:
    (tmp_path / "a.arrow").write_text("a" * 400 * KB)
    children = [child(tmp_path, tmp_path / "a.arrow") for _ in range(3)]
    assert [process.communicate()[0] for process in children] == ["a\n"] * 3
    assert (tmp_path / "log").read_text() == "a.arrow"
    assert kept(directory) == ["a"]


def test_a_process_killed_while_it_fetches_blocks_no_other_and_leaves_nothing(tmp_path: Path, directory: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    process = child(tmp_path, tmp_path / "pipe")
    with (tmp_path / "pipe").open("wb", buffering=0) as pipe:
        pipe.write(b"half of it")
        while not list(directory.glob(".*.tmp")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert list(directory.glob(".*.tmp"))
    (tmp_path / "a.arrow").write_text("a" * 400 * KB)
    file = Remote(Location.of(tmp_path / "a.arrow"), hashlib.sha256(b"a" * 400 * KB).hexdigest(), 400 * KB)
    assert cached([file])[0].read_text()[0] == "a"
    assert kept(directory) == ["a"]


def test_the_least_recently_used_file_is_deleted_first(put: Callable[[str], Remote], directory: Path) -> None:
    a, b = put("a"), put("b")
    for path, days in zip(cached([a, b]), (9, 5), strict=True):
        age(path, days)
    cached([a])
    cached([put("c")])
    assert kept(directory) == ["a", "c"]


def test_files_that_are_requested_now_are_never_deleted(put: Callable[[str], Remote], directory: Path) -> None:
    a, b = put("a"), put("b")
    for path, days in zip(cached([a, b]), (9, 5), strict=True):
        age(path, days)
    with pytest.MonkeyPatch.context() as patch:
        # As if a were not used: it would be deleted first by its age.
        patch.setattr(module.os, "utime", lambda path: None)
        cached([a, put("c")])
    assert kept(directory) == ["a", "c"]


def test_the_limit_holds_when_many_are_fetched_at_once(put: Callable[[str], Remote], directory: Path) -> None:
    cached([put("a"), put("b")])
    cached([put("c"), put("d")])
    assert kept(directory) == ["c", "d"]


def test_a_deleted_file_stays_readable_once_it_is_open(put: Callable[[str], Remote], directory: Path) -> None:
    with open_cached([put("a")])[0] as file:
        cached([put("b"), put("c")])
        assert kept(directory) == ["b", "c"]
        assert file.read() == b"a" * 400 * KB


def test_other_files_in_the_directory_stay(put: Callable[[str], Remote], directory: Path) -> None:
    cached([put("a")])
    for name in ("train-00000.arrow", "notes"):
        (directory / name).write_bytes(bytes(800 * KB))
    cached([put("b"), put("c")])
    assert kept(directory) == ["b", "c", "notes", "train-00000.arrow"]


def test_more_than_the_limit_is_refused_before_anything_is_deleted(
    put: Callable[[str], Remote], fetched: list[str], directory: Path
) -> None:
    files = [put(text) for text in "abcd"]
    cached(files[:1])
    with pytest.raises(
        UserError, match=r"the shards take 0.002 GB, the cache in .*cache may hold 0.001 GB; set"
    ) as error:
        cached([*files])
    assert "\n" not in str(error.value)
    assert (kept(directory), fetched) == (["a"], ["a"])


@pytest.mark.parametrize("text", ["many", "nan", "inf", "-1", "0", "1e-12", "5GB"])
def test_an_invalid_limit_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TTRNN_CACHE_GB", text)
    with pytest.raises(UserError, match=f"TTRNN_CACHE_GB must be a number of GB above 0, got '{text}'"):
        cached([])


def test_the_default_limit_is_half_of_the_disk(
    put: Callable[[str], Remote], monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    monkeypatch.delenv("TTRNN_CACHE_GB")
    usage = module.shutil.disk_usage("/")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(total=1600 * KB))
    cached([put("a"), put("b")])
    cached([put("c")])
    assert len(kept(directory)) == 2
    with pytest.raises(UserError, match=r"take 0.002 GB, .* may hold 0.001 GB"):
        cached([put(text) for text in "abcd"])


def test_the_default_directory_is_in_the_home_directory(
    put: Callable[[str], Remote], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TTRNN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cached([put("a")])[0].parent == tmp_path / "home/.cache/ttrnn"


def test_a_relative_directory_gives_absolute_paths(
    put: Callable[[str], Remote], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TTRNN_CACHE", "here")
    assert cached([put("a")])[0].parent == tmp_path / "here"


def test_a_directory_that_cannot_be_written_is_refused(
    put: Callable[[str], Remote], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TTRNN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"file/cache can't be written \(Not a directory\); set TTRNN_CACHE to another"):
        cached([put("a")])

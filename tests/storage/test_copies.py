"""pipelines/storage/cache.py: copies of sweeps and runs share the limit of the cache, and are locked while in use."""

import hashlib
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest

from pipelines.storage.cache import Remote, locked_copy, make_room, open_cached
from pipelines.storage.location import Location

KB = 1000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the cache, which may hold 1 MB: two shards or copies of 400 KB."""
    monkeypatch.setenv("TTRNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TTRNN_CACHE_GB", "0.001")
    return tmp_path / "cache"


def fetch(tmp_path: Path, text: str) -> None:
    """Fetches a shard of 400 KB."""
    content = text.encode() * 400 * KB
    (tmp_path / text).write_bytes(content)
    shard = Remote(Location(str(tmp_path / text)), hashlib.sha256(content).hexdigest(), len(content))
    for file in open_cached([shard]):
        file.close()


def kept(cache: Path) -> list[str]:
    """First letters of the shards in the cache, and names of all else."""
    return sorted(
        path.read_text()[0] if path.is_file() else path.name for path in cache.iterdir() if path.name != ".lock"
    )


def age(path: Path, days: int) -> None:
    seconds = time.time() - days * 86400
    os.utime(path, (seconds, seconds))


def make_copy(text: str, kind: Literal["read", "work"], days: int) -> Path:
    """A copy of s3://lab/TEXT of 400 KB, last used some days ago."""
    with locked_copy(Location(f"s3://lab/{text}"), kind) as copy:
        (copy / "file").write_text(text * 400 * KB)
    age(copy.parent, days)
    return copy / "file"


def test_copies_to_read_count_and_the_least_recently_used_is_deleted_first(tmp_path: Path, cache: Path) -> None:
    older, newer = make_copy("x", "read", 9), make_copy("y", "read", 5)
    fetch(tmp_path, "a")
    assert (older.exists(), newer.exists()) == (False, True)
    assert not older.parents[1].exists()
    fetch(tmp_path, "b")
    assert (kept(cache), newer.exists()) == (["a", "b", "read"], False)


def test_copies_in_use_and_copies_to_work_on_are_never_deleted(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    work, used = make_copy("x", "work", 9), make_copy("y", "read", 9)
    with locked_copy(Location("s3://lab/y"), "read"):
        age(used.parents[1], 9)
        fetch(tmp_path, "a")
        assert (work.exists(), used.exists(), kept(cache)) == (True, True, ["a", "read", "work"])
        assert "exceeds its limit by 0 MB" in caplog.text
    fetch(tmp_path, "b")
    assert (work.exists(), used.exists(), kept(cache)) == (True, False, ["b", "read", "work"])


def test_reading_a_copy_makes_room(cache: Path) -> None:
    copies = [make_copy(text, "read", days) for text, days in (("x", 9), ("y", 5), ("z", 1))]
    make_room()
    assert [copy.exists() for copy in copies] == [False, True, True]


def test_a_copy_that_is_deleted_while_a_process_waits_for_it_is_made_again(cache: Path) -> None:
    place = Location("s3://lab/x")
    with ThreadPoolExecutor(1) as pool, locked_copy(place, "read") as copy:

        def wait() -> bool:
            with locked_copy(place, "read", wait_s=60) as again:
                return again == copy and not list(again.iterdir()) and copy.exists()

        waiting = pool.submit(wait)
        time.sleep(0.3)
        shutil.rmtree(copy.parent)
    assert waiting.result()

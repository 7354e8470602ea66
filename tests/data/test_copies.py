"""Local copies of remote videos: the right content for as long as it is needed, and several downloads at a time."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.data import copies
from pipelines.data.clip import ClipRecord
from pipelines.data.estimate import expected_frames
from pipelines.data.options import PreprocessOptions
from pipelines.storage.location import Location
from tests.s3 import s3_server
from tests.videos import moving_square, write_bad, write_video


@pytest.fixture(scope="module")
def query() -> Iterator[str]:
    with s3_server() as query:
        yield query


@pytest.fixture
def bucket(query: str, tmp_path: Path) -> Location:
    return Location.of(f"s3://lab/{tmp_path.name}?{query}")


def test_a_copy_lasts_until_the_next_path_but_one_is_requested(bucket: Location, tmp_path: Path) -> None:
    for name in "abcd":
        (bucket / name).write_text(name)
    (tmp_path / "copies").mkdir()
    paths = [str(bucket / name) for name in ("a", "b", "missing", "c", "d")]
    found: list[Path] = []
    for file in copies.local_copies(paths, str(tmp_path / "copies")):
        found.append(file)
        assert [file.exists() for file in found[:-2]] == [False] * len(found[:-2])
        assert all(file.read_text() in "abcd" for file in found[-2:] if file.exists())
    assert [file.exists() for file in found] == [False, False, False, False, True]


def test_a_local_video_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    with copies.local_copy(str(tmp_path / "a")) as file:
        assert file == tmp_path / "a"
    assert file.exists()


def test_frames_are_counted_in_order_for_local_remote_and_bad_videos(bucket: Location, tmp_path: Path) -> None:
    local = write_video(tmp_path / "a.avi", moving_square(7))
    (bucket / "b.avi").upload(write_video(tmp_path / "b.avi", moving_square(9)))
    bad = write_bad(tmp_path, "text")
    paths = [str(local), str(bucket / "b.avi"), str(bucket / "missing.avi"), str(bad)]
    assert copies.count_frames(paths) == [7, 9, 0, 0]


def test_remote_videos_are_downloaded_at_the_same_time_and_few_enough(
    bucket: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = write_video(tmp_path / "a.avi", moving_square(5))
    lock, running, most = threading.Lock(), 0, 0

    def download(_: Location, target: Path) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.2)
        target.write_bytes(video.read_bytes())
        with lock:
            running -= 1

    monkeypatch.setattr(Location, "download", download)
    clips = [
        ClipRecord(clip_id=str(number), path=str(bucket / str(number)), labels=(0,), group="", split="train")
        for number in range(100)
    ]
    options = PreprocessOptions(videos="videos", out="out")
    assert expected_frames(clips, options) == 5
    assert 1 < most <= copies._NUM_DOWNLOADS

"""Local copies of remote videos: the right content for as long as it is needed, and several downloads at a time."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.data import copies
from pipelines.data.clip import ClipRecord
from pipelines.data.estimate import expected_frames
from pipelines.data.options import PreprocessOptions
from pipelines.storage.location import Location
from pipelines.video.decode import decode
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from tests.pictures import write_pictures
from tests.s3 import s3_server
from tests.videos import moving_square, numbered, read_numbers, write_bad, write_video


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


def test_a_folder_of_pictures_is_copied_as_a_folder(bucket: Location, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "clip", numbered(20), "img_{}.png")
    for file in folder.iterdir():
        (bucket / "a" / "clip" / file.name).upload(file)
    (bucket / "a" / "clip" / "notes.txt").write_text("no picture")
    (bucket / "b.avi").upload(write_video(tmp_path / "b.avi", moving_square(5)))
    paths = [str(bucket / name) for name in ("a/clip", "b.avi", "missing", "a/clip")]
    assert copies.count_frames(paths) == [20, 5, 0, 20]
    with copies.local_copy(paths[0]) as copy:
        assert read_numbers(decode(copy, FrameSize(48, 32, 3), Sampling()).frames) == list(range(20))
        assert sorted(os.listdir(copy)) == sorted(os.listdir(folder))
    (tmp_path / "copies").mkdir()
    for number, _ in enumerate(copies.local_copies(paths, str(tmp_path / "copies"))):
        assert len(os.listdir(tmp_path / "copies")) <= 2, number


def test_the_size_of_arrays_is_read_locally_and_remotely(bucket: Location, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 24, 32)))
    np.save(tmp_path / "b.npy", np.zeros((5, 5)))
    (bucket / "a.npy").upload(tmp_path / "a.npy")
    video = write_video(tmp_path / "c.avi", moving_square(5))
    paths = [str(bucket / "a.npy"), *map(str, (tmp_path / "a.npy", tmp_path / "b.npy", tmp_path / "none", video))]
    size = FrameSize(32, 24, 1)
    assert copies.array_sizes(paths) == {paths[0]: size, paths[1]: size, str(video): None}


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

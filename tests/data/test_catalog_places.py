"""Catalogues of real data sets and in buckets."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.core.errors import UserError
from pipelines.data.catalog import read_catalog
from pipelines.data.splits import SplitOptions
from pipelines.storage.location import Location
from tests.data.test_catalog import class_folders, hollywood2, touch, ucf101, write_csv
from tests.s3 import s3_server

DATA = Path(__file__).parents[3] / "shared" / "data"
LEAK = SplitOptions(allow_group_leak=True)


@pytest.fixture(scope="module")
def query() -> Iterator[str]:
    with s3_server() as query:
        yield query


def csv_and_videos(path: Path) -> Path:
    files = [f"sub/{name}{i} é%20.avi" for name in "ab" for i in range(4)]
    return write_csv(touch(path, *files), *(f"{file},{file[4]},," for file in files)).parent


@pytest.mark.parametrize(
    ("make", "videos", "split_list"),
    [
        (lambda path: class_folders(path, 4), "", 1),
        (ucf101, "UCF-101", 2),
        (ucf101, "", 1),
        (hollywood2, "", 1),
        (csv_and_videos, "clips.csv", 1),
    ],
    ids=["folders", "ucf101 and lists beside it", "ucf101", "hollywood2", "csv"],
)
def test_a_bucket_is_read_like_a_folder(
    tmp_path: Path, query: str, make: Callable[[Path], Path], videos: str, split_list: int
) -> None:
    make(tmp_path)
    bucket = Location.of(f"s3://lab/{tmp_path.name}?{query}")
    for file in tmp_path.rglob("*"):
        if file.is_file():
            (bucket / file.relative_to(tmp_path).as_posix()).write_text(file.read_text() or "video")
    local = read_catalog(tmp_path / videos, split_list=split_list)
    remote = read_catalog(str(bucket / videos), split_list=split_list)
    assert [(clip.clip_id, clip.labels, clip.group, clip.split) for clip in remote.clips] == [
        (clip.clip_id, clip.labels, clip.group, clip.split) for clip in local.clips
    ]
    assert remote.classes == local.classes
    assert all(Location.of(clip.path).exists() for clip in remote.clips)


@pytest.mark.skipif(not DATA.exists(), reason=f"no real videos in {DATA}")
@pytest.mark.parametrize(
    ("file", "splits", "sizes"),
    [
        ("avletters.csv", LEAK, {"train": 442, "val": 78, "test": 260}),
        ("miracl_words_speaker.csv", SplitOptions(), {"train": 800, "val": 200, "test": 200}),
        ("ucf101_10.csv", SplitOptions(), {"train": 160, "val": 66, "test": 66}),
    ],
)
def test_real_catalogues_keep_their_splits(file: str, splits: SplitOptions, sizes: dict[str, int]) -> None:
    catalog = read_catalog(DATA / file, splits=splits)
    assert Counter(clip.split for clip in catalog.clips) == sizes
    assert all(Path(clip.path).exists() for clip in catalog.clips)


@pytest.mark.skipif(not DATA.exists(), reason=f"no real videos in {DATA}")
def test_real_folders_are_recognised() -> None:
    with pytest.raises(UserError, match=r"fewer than two classes \(basketball\).*layout ucf11"):
        read_catalog(DATA / "ucf11")
    assert {clip.group[:2] for clip in read_catalog(DATA / "ucf101_10").clips} == {"v_"}

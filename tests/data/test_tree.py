"""Trees of videos, arrays and folders of pictures: which files are clips, and which are told to be passed over."""

import logging
import os
from pathlib import Path

import pytest

from pipelines.core.errors import UserError
from pipelines.data.catalog import read_catalog
from pipelines.data.tree import list_tree
from pipelines.storage.location import Location
from tests.data.test_catalog import ucf101, write_csv
from tests.data.test_id_lists import jester
from tests.trees import described, touch

VIDEOS, ARRAYS, PICTURES = (
    [name.format(label=label, i=i) for label in "ab" for i in range(9)]
    for name in ("{label}/{i}.mp4", "{label}/{i}.npy", "{label}/{i}/0001.jpg")
)


def test_clips_are_of_one_kind(tmp_path: Path) -> None:
    kinds = (PICTURES, ARRAYS, VIDEOS)
    for number, names in enumerate(kinds):
        touch(tmp_path, *names)
        tree, left_out = list_tree(Location.of(tmp_path))
        assert tree.videos == sorted(name.removesuffix("/0001.jpg") for name in names)
        assert len(tree.picture_folders) == 18
        assert len(tree.files) == 18 * (number + 1)
        assert left_out == []


@pytest.mark.parametrize(
    "name", ["{}.NPY", "{}.npz", "{}.arrow", "{}.feather", "{}/img_1.PNG", "{}/1.webp", "{}/1.tif"]
)
def test_arrays_and_folders_of_pictures_are_clips_of_class_folders(tmp_path: Path, name: str) -> None:
    files = [f"{label}/{name.format(i)}" for label in "ab" for i in range(9)]
    catalog = read_catalog(touch(tmp_path, *files))
    wanted = {file.rpartition("/")[0] if file.count("/") > 1 else file: file[0] for file in files}
    assert {clip: label for clip, (label, _) in described(catalog).items()} == wanted
    assert all(os.path.exists(clip.path) for clip in catalog.clips)


def test_splits_and_archives_are_found_around_folders_of_pictures(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        touch(tmp_path, *(f"data/{split}/{label}/{i}/{k:03}.png" for label in "ab" for i in range(3) for k in range(2)))
    found = described(read_catalog(tmp_path))
    assert found["val/b/2"] == ("b", "val")
    assert len(found) == 18


def test_ucf101_may_be_folders_of_pictures(tmp_path: Path) -> None:
    videos = read_catalog(ucf101(tmp_path / "videos"))
    pictures = ucf101(tmp_path / "pictures")
    for file in [*(pictures / "UCF-101").rglob("*.avi")]:
        file.unlink()
        touch(file.with_suffix(""), "img_00001.jpg", "img_00002.jpg")
    assert [(f"{clip.clip_id}.avi", clip.labels, clip.group, clip.split) for clip in read_catalog(pictures).clips] == [
        (clip.clip_id, clip.labels, clip.group, clip.split) for clip in videos.clips
    ]


def test_the_rate_of_jester_is_known_where_it_has_pictures(tmp_path: Path) -> None:
    assert read_catalog(jester(tmp_path / "a")).picture_fps == 12
    assert read_catalog(touch(tmp_path / "b", *PICTURES)).picture_fps is None
    for i in range(22):
        touch(tmp_path / "c", f"{i}.webm")
    for file in jester(tmp_path / "d").glob("*.csv"):
        file.rename(tmp_path / "c" / file.name)
    assert read_catalog(tmp_path / "c").picture_fps is None


def test_a_csv_file_may_name_all_kinds(tmp_path: Path) -> None:
    touch(tmp_path, *VIDEOS, *ARRAYS, *PICTURES)
    names = [*VIDEOS, *ARRAYS, *(name.removesuffix("0001.jpg") for name in PICTURES)]
    catalog = read_catalog(write_csv(tmp_path, *(f"{name},{name[0]},," for name in names)))
    assert set(described(catalog)) == {name.rstrip("/") for name in names}


@pytest.mark.parametrize(
    ("others", "told"),
    [
        (ARRAYS[:5], "5 arrays and 0 folders of pictures are beside other clips"),
        ([*PICTURES[:4], "a/0/0002.jpg", "a/1/0002.jpg"], "0 arrays and 2 folders of pictures are beside other clips"),
    ],
    ids=["arrays", "pictures"],
)
def test_arrays_and_pictures_beside_videos_are_passed_over_with_a_warning(
    tmp_path: Path, others: list[str], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        catalog = read_catalog(touch(tmp_path, *VIDEOS, *others))
    assert told in caplog.text
    assert len(catalog.clips) == 18


def test_previews_of_videos_are_no_reason_for_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read_catalog(touch(tmp_path, *VIDEOS, "a/preview.jpg", "thumbnails/1.jpg"))
    assert "beside other clips" not in caplog.text


@pytest.mark.parametrize("layout", ["auto", "class-folders"])
@pytest.mark.parametrize(
    ("names", "told"),
    [
        (
            ["a/1.jpg", "a/2.jpg", "b/1.jpg"],
            r"a/ directly holds pictures, but in the place of a class; .*a/CLIP/0001.jpg",
        ),
        ([*PICTURES, "c/1.jpg"], "c/ directly holds pictures, but in the place of a class"),
        ([*PICTURES, "a/1.jpg"], "a/ directly holds pictures, but in the place of a class"),
        ([*PICTURES, "a/0/thumbs/1.jpg"], "a/0/ holds pictures, and a/0/thumbs/ too: either may be the clip"),
    ],
    ids=["images", "one class of images", "an image beside clips", "nested"],
)
def test_pictures_that_may_be_no_clip_are_refused(tmp_path: Path, names: list[str], told: str, layout: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        read_catalog(touch(tmp_path, *names), layout)
    assert "\n" not in str(error.value)


def test_images_in_folders_of_splits_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{split}/{label}/{i}.jpg" for split in ("train", "test") for label in "ab" for i in range(3)))
    with pytest.raises(UserError, match="test/a/ directly holds pictures, but in the place of a class"):
        read_catalog(tmp_path)


def test_names_that_are_not_utf8_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, *PICTURES)
    (tmp_path / os.fsdecode(b"a/\xff")).mkdir()
    (tmp_path / os.fsdecode(b"a/\xff/1.jpg")).touch()
    catalog = read_catalog(tmp_path)
    assert catalog.left_out == ("a/\\udcff",)
    assert len(catalog.clips) == 18

"""Class folders: names of splits are splits and never classes, unless that is requested."""

import logging
from pathlib import Path

import pytest

from pipelines.core.errors import UserError
from pipelines.data.catalog import read_catalog
from tests.trees import described, touch


def files(pattern: str, num_clips: int = 2, **names: str) -> list[str]:
    """The pattern with every combination of {split}, {label} and {i}."""
    splits, labels = names.get("split", "train val test").split(), names.get("label", "a b").split()
    return sorted(
        {
            pattern.format(split=split, label=label, i=i)
            for split in splits
            for label in labels
            for i in range(num_clips)
        }
    )


@pytest.mark.parametrize("name", ["dev", "eval", "valid", "validation", "Val", "DEV", "val_set"])
def test_every_name_of_val_is_val(tmp_path: Path, name: str) -> None:
    touch(tmp_path, *files("{split}/{label}/{i}.mp4", split=f"train {name} test"))
    catalog = read_catalog(tmp_path)
    assert catalog.classes == ("a", "b")
    for clip_id, (label, split) in described(catalog).items():
        folder, class_folder, _ = clip_id.split("/")
        assert (class_folder, {name: "val"}.get(folder, folder)) == (label, split)


@pytest.mark.parametrize(
    ("pattern", "root"),
    [("{label}/{split}/{i}.avi", ""), ("x/{label}/{split}/{i}.avi", "x/"), ("x/y/{split}/{label}/sub/{i}.avi", "x/y/")],
    ids=["splits in classes", "in a folder", "in two folders"],
)
def test_split_folders_are_found_inside_class_folders_and_below_other_folders(
    tmp_path: Path, pattern: str, root: str
) -> None:
    touch(tmp_path, *files(pattern, split="train dev test"))
    found = described(read_catalog(tmp_path))
    assert found == {
        pattern.removeprefix(root).format(split=split, label=label, i=i): (label, "val" if split == "dev" else split)
        for split in ("train", "dev", "test")
        for label in "ab"
        for i in range(2)
    }


def test_a_lone_split_folder_gives_the_split_and_is_not_part_of_the_names(tmp_path: Path) -> None:
    touch(tmp_path, *files("test/{label}/{i}.avi"))
    assert described(read_catalog(tmp_path, for_training=False)) == {
        f"{label}/{i}.avi": (label, "test") for label in "ab" for i in range(2)
    }
    with pytest.raises(UserError, match="no clip has split train, only test"):
        read_catalog(tmp_path)


def test_clips_of_the_train_folder_alone_are_split_as_without_it(tmp_path: Path) -> None:
    touch(tmp_path, *files("train/{label}/{i}.avi", 20))
    assert described(read_catalog(tmp_path)) == described(read_catalog(tmp_path / "train"))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (
            files("{label}/{i}.avi", label="car train bus"),
            r"named after splits, train/ \(2 videos\), beside others, bus/ \(2 videos\), car/ \(2 videos\): .* "
            "--layout class-folders",
        ),
        (
            [*files("{split}/{label}/{i}.avi"), "extra/a/1.avi"],
            r"test/ \(4 videos\), train/ \(4 videos\), val/ \(4 videos\), beside others, extra/ \(1 videos\)",
        ),
        (
            files("{split}/{i}.avi", split="train test"),
            "only folders named after splits, test, train, without class folders .* --layout class-folders",
        ),
        (
            files("site1/{split}/{label}/{i}.avi") + files("site2/{split}/{label}/{i}.avi"),
            "the classes are either site1, site2, or a, b in the splits of each",
        ),
    ],
    ids=["a class named train", "another folder beside splits", "splits without classes", "sites"],
)
def test_folders_that_can_be_read_in_two_ways_are_refused_with_both(
    tmp_path: Path, names: list[str], told: str
) -> None:
    with pytest.raises(UserError, match=told) as error:
        read_catalog(touch(tmp_path, *names))
    assert "\n" not in str(error.value)


def test_names_of_splits_are_classes_on_request(tmp_path: Path) -> None:
    touch(tmp_path, *files("{label}/{i}.avi", 9, label="car train bus"))
    catalog = read_catalog(tmp_path, "class-folders")
    assert catalog.classes == ("bus", "car", "train")
    assert all(clip_id.split("/")[0] == label for clip_id, (label, _) in described(catalog).items())


def test_videos_of_a_test_split_without_labels_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, *files("train/{label}/{i}.avi", 9), "test/1.avi", "test/2.avi")
    catalog = read_catalog(tmp_path)
    assert (catalog.classes, catalog.left_out) == (("a", "b"), ("test/1.avi", "test/2.avi"))
    assert "2 videos do not fit layout folders" in caplog.text


@pytest.mark.parametrize(
    ("stray", "told"),
    [
        ([*files("c/{i}.xyz", 12), "c/notes.txt"], "folders beside the classes without a clip: c/ (12 .xyz, 1 .txt)"),
        (["c/d/1.jpg", "e/2.wav"], "folders beside the classes without a clip: c/ (1 .jpg); e/ (1 .wav)"),
        (["c/.hidden.avi"], "without a clip: c/ (empty)"),
    ],
    ids=["one kind", "pictures and sound", "empty"],
)
def test_class_folders_without_a_clip_are_named_with_their_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, stray: list[str], told: str
) -> None:
    read_catalog(touch(tmp_path, *files("{label}/{i}.avi", 9), *stray))
    assert told in caplog.text


def test_class_and_split_folders_without_a_clip_are_named_in_a_tree_of_splits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, *files("{split}/{label}/{i}.avi", 9, split="train test"), "test/c/1.xyz", "val/a/1.xyz")
    read_catalog(tmp_path)
    assert "folders beside the classes without a clip: test/c/ (1 .xyz); val/ (1 .xyz)" in caplog.text


def test_every_kind_of_file_passed_over_is_named_with_its_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, *files("{label}/{i}.avi", 9), "a/1.jpg", "a/2.JPG", "b/1.srt", "LICENSE")
    with caplog.at_level(logging.INFO):
        read_catalog(tmp_path)
    assert "4 files are no videos and are passed over: 2 .jpg, 1 .srt, 1 without extension" in caplog.text


def test_a_folder_without_videos_is_refused_with_the_kinds_of_its_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no videos for layout folders, .*; it has 2 \.xyz, 1 \.txt"):
        read_catalog(touch(tmp_path, "a/1.xyz", "b/2.xyz", "README.txt"))
    with pytest.raises(UserError, match=r"fewer than two classes \(a\).* without a clip: b/ \(1 \.xyz\)"):
        read_catalog(touch(tmp_path, "a/1.avi"))


@pytest.mark.parametrize("suffix", [".MTS", ".m2ts", ".vob", ".gif", ".asf", ".mxf", ".3g2", ".divx", ".ogm"])
def test_videos_of_cameras_and_discs_are_listed(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, *(f"{label}/{i}{suffix}" for label in "ab" for i in range(5)))
    assert len(read_catalog(tmp_path).clips) == 10


def test_a_class_in_folders_of_splits_may_be_named_train(tmp_path: Path) -> None:
    touch(tmp_path, *files("{split}/{label}/{i}.avi", 9, label="bus car train"))
    catalog = read_catalog(tmp_path)
    assert catalog.classes == ("bus", "car", "train")
    assert described(catalog)["test/train/0.avi"] == ("train", "test")

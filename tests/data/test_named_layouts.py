"""UCF11, UCF101 and YouTube Celebrities: read in folders of splits as well, and never against the class folders."""

from pathlib import Path

import pytest

from pipelines.core.errors import UserError
from pipelines.data.catalog import read_catalog
from tests.trees import described, touch, write

GROUPS = {"train": range(1, 6), "val": range(6, 8), "test": range(8, 11)}


def ucf101(pattern: str = "{split}/{label}/v_{label}_g{group:02}_c{clip:02}.avi") -> dict[str, tuple[str, str, str]]:
    """Label, split and group of every clip, by path."""
    return {
        pattern.format(split=split, label=label, group=group, clip=clip): (label, split, f"v_{label}_g{group:02}")
        for split, groups in GROUPS.items()
        for label in ("Archery", "BaseballPitch")
        for group in groups
        for clip in (1, 2)
    }


@pytest.mark.parametrize(
    ("pattern", "root"),
    [
        ("{split}/{label}/v_{label}_g{group:02}_c{clip:02}.avi", ""),
        ("UCF/{split}/{label}/v_{label}_g{group:02}_c{clip:02}.avi", "UCF/"),
        ("{label}/{split}/v_{label}_g{group:02}_c{clip:02}.mp4", ""),
        ("{split}/v_{label}_g{group:02}_c{clip:02}.avi", ""),
    ],
    ids=["split/class", "in a folder", "class/split", "split without class folders"],
)
def test_ucf101_in_folders_of_splits_keeps_splits_and_groups(tmp_path: Path, pattern: str, root: str) -> None:
    expected = ucf101(pattern)
    catalog = read_catalog(touch(tmp_path, *expected))
    found = described(catalog)
    groups = {clip.clip_id: clip.group for clip in catalog.clips}
    assert {root + clip: (*found[clip], groups[clip]) for clip in found} == expected
    assert all(Path(clip.path).exists() for clip in catalog.clips)


@pytest.mark.parametrize("name", ["dev", "valid", "eval"])
def test_ucf101_knows_other_names_of_val(tmp_path: Path, name: str) -> None:
    expected = {path.replace("val/", f"{name}/"): clip for path, clip in ucf101().items()}
    assert described(read_catalog(touch(tmp_path, *expected))) == {path: clip[:2] for path, clip in expected.items()}


def test_ucf101_without_any_folder_has_the_classes_of_its_names(tmp_path: Path) -> None:
    touch(tmp_path, *ucf101("v_{label}_g{group:02}_c{clip:02}.avi"))
    assert read_catalog(tmp_path).classes == ("Archery", "BaseballPitch")


@pytest.mark.parametrize("moved", [0, 1])
def test_lists_of_ucf101_must_agree_with_folders_of_splits(tmp_path: Path, moved: int) -> None:
    clips = ucf101()
    touch(tmp_path / "UCF", *clips)
    names = {split: [path.split("/", 1)[1] for path in clips if path.startswith(split)] for split in GROUPS}
    learned, tested = names["train"] + names["val"], names["test"]
    write(tmp_path / "ucfTrainTestlist/trainlist01.txt", *(f"{name} 1" for name in learned[moved:]))
    write(tmp_path / "ucfTrainTestlist/testlist01.txt", *tested, *learned[:moved])
    if not moved:
        assert described(read_catalog(tmp_path / "UCF")) == {path: clip[:2] for path, clip in clips.items()}
        return
    with pytest.raises(
        UserError, match=r"1 clips lie in the folder of another split .*train/Archery.* the list of test"
    ):
        read_catalog(tmp_path / "UCF")


def test_ucf11_in_folders_of_splits_is_read(tmp_path: Path) -> None:
    expected = {
        f"{split}/{label}/v_{word}_{group:02}/v_{word}_{group:02}_{clip:02}.mpg": (label, split)
        for split, groups in GROUPS.items()
        for label, word in (("basketball", "shooting"), ("walking", "walk_dog"))
        for group in groups
        for clip in (1, 2)
    }
    catalog = read_catalog(touch(tmp_path, *expected))
    assert described(catalog) == expected
    assert {clip.group for clip in catalog.clips} >= {"basketball/v_shooting_01", "walking/v_walk_dog_10"}


@pytest.mark.parametrize(
    "name",
    ["2026_0820_0455{i:02}_{side}.MP4", "20260820_0455{i:02}_{side}.mp4", "2026_0820_0455{i:02}_{side}A.MOV"],
)
def test_recordings_of_dash_cameras_have_the_classes_of_their_folders(tmp_path: Path, name: str) -> None:
    names = [f"{label}/{name.format(i=i, side='FR'[i % 2])}" for label in ("near_miss", "normal") for i in range(20)]
    catalog = read_catalog(touch(tmp_path, *names))
    assert catalog.classes == ("near_miss", "normal")
    assert all(clip_id.startswith(f"{label}/") for clip_id, (label, _) in described(catalog).items())


def test_names_of_celebrities_that_disagree_with_class_folders_are_refused_with_both_readings(tmp_path: Path) -> None:
    names = [f"{label}/2026_{i:02}_001_{'FR'[i % 2]}.mp4" for label in ("near_miss", "normal") for i in range(20)]
    touch(tmp_path, *names)
    with pytest.raises(
        UserError, match=r"the classes F, R, but lie in the folders near_miss, normal; give --layout folders .* or"
    ):
        read_catalog(tmp_path)
    assert read_catalog(tmp_path, "folders").classes == ("near_miss", "normal")
    assert read_catalog(tmp_path, "youtube-celebrities").classes == ("F", "R")


def test_celebrities_in_folders_of_splits_are_read(tmp_path: Path) -> None:
    expected = {
        f"{split}/{person}/{n:04}_{n + k:02}_001_{person}.avi": (person, split)
        for n, split in enumerate(GROUPS, start=1)
        for k, person in enumerate(("adam_sandler", "al_gore"))
    }
    assert described(read_catalog(touch(tmp_path, *expected))) == expected


def test_a_class_that_the_names_of_most_videos_would_lose_is_refused_with_both_readings(tmp_path: Path) -> None:
    touch(tmp_path, *ucf101("{label}/v_{label}_g{group:02}_c{clip:02}.avi"), *(f"mine/{i}.avi" for i in range(9)))
    with pytest.raises(UserError, match=r"most videos are named as in ucf101, but none in mine/ \(9 videos\); give"):
        read_catalog(tmp_path)
    assert read_catalog(tmp_path, "folders").classes == ("Archery", "BaseballPitch", "mine")
    assert read_catalog(tmp_path, "ucf101").classes == ("Archery", "BaseballPitch")


def test_a_folder_named_after_a_split_beside_class_folders_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, *ucf101("{label}/v_{label}_g{group:02}_c{clip:02}.avi"))
    touch(tmp_path, *(f"train/v_Archery_g{i}_c01.avi" for i in range(30, 39)))
    with pytest.raises(UserError, match="has folders named after splits, train, with and without class folders"):
        read_catalog(tmp_path)
    assert read_catalog(tmp_path, "class-folders").classes == ("Archery", "BaseballPitch", "train")

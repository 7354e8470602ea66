"""Catalogues: each layout is read as its authors meant it, local or remote, and stray files do no harm."""

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.data.catalog import Catalog, read_catalog
from pipelines.data.splits import SPLITS, SplitOptions
from tests.trees import touch, write


def write_csv(path: Path, *lines: str, header: str = "path,label,group,split") -> Path:
    return write(path / "clips.csv", header, *lines)


def class_folders(path: Path, num_clips: int = 20, classes: str = "ab") -> Path:
    return touch(path, *(f"{name}/{clip:03}.avi" for name in classes for clip in range(num_clips)))


def ucf11(path: Path) -> Path:
    """The content of UCF11_updated_mpg.rar, with the hidden files that macOS adds."""
    for label, word in (("basketball", "shooting"), ("walking", "walk_dog")):
        for group in range(1, 11):
            folder = f"{label}/v_{word}_{group:02}"
            touch(path, *(f"{folder}/v_{word}_{group:02}_{clip:02}.mpg" for clip in range(1, 5)))
        touch(path, f"{label}/Annotation/v_{word}_01_01.xgtf", f"{label}/v_{word}_01/._v_{word}_01_01.mpg")
    return path


def ucf101(path: Path, lists: str = "ucfTrainTestlist") -> Path:
    """UCF-101/ and its lists; test list N has the groups 5N to 5N + 4. Case and numbers are as in the real lists."""
    clips = [
        f"{label}/v_{name}_g{group:02}_c{clip:02}.avi"
        for label, name in (("Archery", "Archery"), ("HandstandPushups", "HandStandPushups"))
        for group in range(1, 21)
        for clip in (1, 2)
    ]
    touch(path / "UCF-101", *clips)
    for number in (1, 2, 3) if lists else ():
        tested = [clip for clip in clips if int(clip.split("_g")[1][:2]) // 5 == number]
        learned = [f"{clip} {1 + clip.startswith('H')}" for clip in clips if clip not in tested]
        write(path / lists / f"testlist{number:02}.txt", *tested)
        write(path / lists / f"trainlist{number:02}.txt", *learned)
    return path


def hollywood2(path: Path) -> Path:
    labels = {"Run": [1, -1, 1, -1, 1, 1, -1, -1], "Eat": [-1, 1, 1, -1, -1, 1, 1, 1], "actions": [1] * 8}
    for label, signs in labels.items():
        for split, number in (("train", 8), ("test", 4), ("autotrain", 6)):
            lines = [f"actionclip{split}{i:05}  {sign}" for i, sign in enumerate(signs[:number])]
            write(path / "ClipSets" / f"{label}_{split}.txt", *lines)
            touch(path / "AVIClips", *(f"actionclip{split}{i:05}.avi" for i in range(number)))
    write(path / "ClipSetsScenes" / "EXT-house_test.txt", "sceneclipauto00001  1")
    return touch(path, "AVIClipsScenes/sceneclipauto00001.avi", "ShotBounds/actioncliptest00001.sht", "README")


def celebrities(path: Path) -> Path:
    clips = [
        (person, video) for person in ("adam_sandler", "harry_connick_jr") for video in (1, 2, 3) for _ in range(4)
    ]
    return touch(path, *(f"{n:04}_{video:02}_{n % 4:03}_{person}.avi" for n, (person, video) in enumerate(clips, 1)))


def splits_of(catalog: Catalog) -> dict[str, str]:
    return {clip.clip_id: clip.split for clip in catalog.clips}


@pytest.mark.parametrize("above", ["", "unpacked"], ids=["as it is", "in a folder of its own"])
@pytest.mark.parametrize(
    ("make", "layout", "why", "clip_id", "labels", "group", "num_clips"),
    [
        (class_folders, "folders", "neither names nor lists", "a/003.avi", {"a"}, "", 40),
        (
            ucf11,
            "ucf11",
            "80 of 80 videos are named like",
            "walking/v_walk_dog_02/v_walk_dog_02_03.mpg",
            {"walking"},
            "walking/v_walk_dog_02",
            80,
        ),
        (
            ucf101,
            "ucf101",
            "80 of 80 videos are named like",
            "HandstandPushups/v_HandStandPushups_g03_c02.avi",
            {"HandstandPushups"},
            "v_HandStandPushups_g03",
            80,
        ),
        (
            hollywood2,
            "hollywood2",
            "4 lists in ClipSets",
            "AVIClips/actioncliptrain00002.avi",
            {"Eat", "Run"},
            "",
            12,
        ),
        (
            celebrities,
            "youtube-celebrities",
            "24 of 24 videos are named like",
            "0017_02_001_harry_connick_jr.avi",
            {"harry_connick_jr"},
            "harry_connick_jr/02",
            24,
        ),
    ],
    ids=["folders", "ucf11", "ucf101", "hollywood2", "youtube-celebrities"],
)
def test_a_layout_is_recognised_logged_and_read(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[Path], Path],
    layout: str,
    why: str,
    clip_id: str,
    labels: set[str],
    group: str,
    num_clips: int,
    above: str,
) -> None:
    make(tmp_path / above)
    touch(tmp_path, "README.txt")
    with caplog.at_level(logging.INFO):
        catalog = read_catalog(tmp_path)
    assert f"read as layout {layout}, because " in caplog.text
    assert why in caplog.text
    assert "left out" not in caplog.text
    clip = next(clip for clip in catalog.clips if clip.clip_id == clip_id)
    assert {catalog.classes[label] for label in clip.labels} == labels
    assert clip.group == group
    assert all(Path(clip.path).exists() and clip.path.endswith(clip.clip_id) for clip in catalog.clips)
    assert (len(catalog.clips), catalog.left_out) == (num_clips, ())
    assert catalog == read_catalog(str(tmp_path), layout)
    assert catalog.classes == tuple(sorted(catalog.classes))


def test_clip_ids_and_splits_do_not_depend_on_a_folder_around_the_data_set(tmp_path: Path) -> None:
    assert splits_of(read_catalog(ucf101(tmp_path))) == splits_of(read_catalog(tmp_path / "UCF-101"))


@pytest.mark.parametrize(
    ("lists", "videos"),
    [
        ("ucfTrainTestlist", "."),
        ("ucfTrainTestlist", "UCF-101"),
        ("UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist", "UCF-101"),
        ("UCF-101/ucfTrainTestlist", "UCF-101"),
        (".", "UCF-101"),
    ],
    ids=["in the folder above", "beside", "beside, unpacked deeper", "inside", "above"],
)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_ucf101_keeps_its_test_list_and_cuts_val_from_train_by_group(
    tmp_path: Path, lists: str, videos: str, number: int
) -> None:
    catalog = read_catalog(ucf101(tmp_path, lists) / videos, split_list=number)
    tested = {clip.group for clip in catalog.clips if clip.split == "test"}
    assert {group[-2:] for group in tested} == {f"{5 * number + i:02}" for i in range(5)}
    assert len({(clip.group, clip.split) for clip in catalog.clips}) == 40
    assert {clip.split for clip in catalog.clips} == set(SPLITS)


def test_ucf101_without_lists_or_with_folds_is_split_by_group(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare = splits_of(read_catalog(ucf101(tmp_path / "bare", lists="")))
    with caplog.at_level(logging.INFO):
        folded = splits_of(read_catalog(ucf101(tmp_path / "lists"), splits=SplitOptions(folds=4)))
    assert "--folds replaces the splits" in caplog.text
    official = splits_of(read_catalog(tmp_path / "lists"))
    assert bare.keys() == folded.keys() == official.keys()
    assert bare != official != folded


def test_clips_that_are_not_in_the_lists_of_ucf101_are_left_out_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(ucf101(tmp_path), "UCF-101/Archery/v_Archery_g77_c01.avi")
    catalog = read_catalog(tmp_path)
    assert catalog.left_out == ("UCF-101/Archery/v_Archery_g77_c01.avi",)
    assert "1 videos do not fit layout ucf101 and are left out: 'UCF-101/Archery/v_Archery_g77_c01.avi'" in caplog.text
    assert len(catalog.clips) == 80


def test_hollywood2_keeps_its_test_list_and_clips_without_a_label(tmp_path: Path) -> None:
    catalog = read_catalog(hollywood2(tmp_path))
    assert (catalog.task, catalog.classes) == ("multi_label", ("Eat", "Run"))
    splits = splits_of(catalog)
    assert {clip for clip, split in splits.items() if split == "test"} == {
        f"AVIClips/actioncliptest{i:05}.avi" for i in range(4)
    }
    assert {"train", "val"} == {split for clip, split in splits.items() if "cliptrain" in clip}
    assert next(clip for clip in catalog.clips if clip.clip_id.endswith("train00003.avi")).labels == ()


def test_youtube_celebrities_may_be_in_folders_by_person(tmp_path: Path) -> None:
    celebrities(tmp_path / "flat")
    for clip in (tmp_path / "flat").iterdir():
        touch(tmp_path / "sorted", f"{clip.stem[12:]}/{clip.name}")
    flat, by_person = read_catalog(tmp_path / "flat"), read_catalog(tmp_path / "sorted")
    assert [(clip.labels, clip.group, clip.split) for clip in flat.clips] == [
        (clip.labels, clip.group, clip.split) for clip in by_person.clips
    ]
    assert Counter((clip.labels, clip.split) for clip in flat.clips) == {
        ((i,), split): 4 for i in (0, 1) for split in SPLITS
    }


@pytest.mark.parametrize("above", ["", "archive/"])
def test_folders_named_after_splits_give_the_split(tmp_path: Path, above: str) -> None:
    names = [
        f"{split}/{label}/{i}.avi" for split in ("train", "Validation", "test") for label in "ab" for i in range(2)
    ]
    touch(tmp_path, *(above + name for name in names), f"{above}train/loose.avi")
    catalog = read_catalog(tmp_path)
    assert catalog.classes == ("a", "b")
    assert {clip.clip_id: clip.split for clip in catalog.clips} == {
        name: {"V": "val"}.get(name[0], name.split("/")[0]) for name in names
    }
    assert catalog.left_out == (f"{above}train/loose.avi",)


def test_folders_take_videos_at_any_depth_and_nothing_else(tmp_path: Path) -> None:
    before = set(splits_of(read_catalog(class_folders(tmp_path))))
    touch(tmp_path, "a/deep/er/x.MP4", "a/notes.txt", "a/.hidden.avi", ".cache/a/y.avi", "b/folder.avi/z.avi")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "self.avi").symlink_to("self.avi")
    after = set(splits_of(read_catalog(tmp_path)))
    # A link without a target is a clip that cannot be read: decoding rejects it, with the reason.
    assert after - before == {"a/deep/er/x.MP4", "b/folder.avi/z.avi", "a/self.avi"}


@pytest.mark.parametrize(
    ("stray", "told"),
    [
        ("loose.avi", "loose.avi"),
        (b"b/\xff.avi".decode("utf-8", "surrogateescape"), "b/\\udcff.avi"),
    ],
    ids=["in no class folder", "name in another encoding"],
)
def test_a_stray_video_is_left_out_and_logged(
    tmp_path: Path, stray: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = read_catalog(touch(class_folders(tmp_path), stray))
    assert len(catalog.clips) == 40
    assert catalog.left_out == (told,)
    assert f"1 videos do not fit layout folders and are left out: {told!r}" in caplog.text


def test_earlier_classes_keep_their_indices_and_earlier_clips_their_splits(tmp_path: Path) -> None:
    kept = splits_of(read_catalog(class_folders(tmp_path, classes="bd")))
    class_folders(tmp_path, num_clips=25, classes="abcd")
    catalog = read_catalog(tmp_path, kept_splits=kept, kept_classes=["d", "b"])
    assert catalog.classes == ("d", "b", "a", "c")
    assert kept.items() <= splits_of(catalog).items()
    assert {clip.labels for clip in catalog.clips if clip.clip_id.startswith("b/")} == {(1,)}


def test_one_new_class_is_enough_for_a_data_set_that_has_classes(tmp_path: Path) -> None:
    assert read_catalog(class_folders(tmp_path, classes="c"), kept_classes=["a"]).classes == ("a", "c")

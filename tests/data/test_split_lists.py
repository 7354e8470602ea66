"""HMDB51 with its lists: splits, unused clips and groups; UCF101 and Hollywood2 are in test_catalog.py."""

import logging
from pathlib import Path

import pytest

from pipelines.core.errors import UserError
from pipelines.data.catalog import read_catalog
from tests.trees import described, touch, write

CLASSES = ("brush_hair", "cartwheel")


def clip_name(label: str, source: int, number: int) -> str:
    return f"Film_{source}_{label}_u_nm_np1_ba_goo_{number}.avi"


def hmdb51(root: Path, lists: str = "testTrainMulti_7030_splits", *, shared: bool = False) -> Path:
    """Twelve films of two clips; list n tests films 2n and 2n + 1 and does not use film 11."""
    for label in CLASSES:
        clips = [(source, number) for source in range(12) for number in (0, 1)]
        touch(root / "hmdb51_org" / label, *(clip_name(label, *clip) for clip in clips))
        for split_list in (1, 2, 3):
            signs = {
                clip_name(label, source, number): 2
                if source // 2 == split_list or (shared and (source, number) == (0, 0))
                else 0
                if source == 11
                else 1
                for source, number in clips
            }
            lines = [f"{name} {sign} " for name, sign in signs.items()]
            write(root / lists / f"{label}_test_split{split_list}.txt", *lines)
    return root


@pytest.mark.parametrize(
    ("lists", "videos"),
    [
        ("testTrainMulti_7030_splits", "."),
        ("testTrainMulti_7030_splits", "hmdb51_org"),
        ("test_train_splits/testTrainMulti_7030_splits", "hmdb51_org"),
        ("hmdb51_org", "hmdb51_org"),
    ],
    ids=["in the folder above", "beside", "beside, deeper", "inside"],
)
@pytest.mark.parametrize("split_list", [1, 2, 3])
def test_hmdb51_keeps_its_lists_and_cuts_val_by_film(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lists: str, videos: str, split_list: int
) -> None:
    with caplog.at_level(logging.INFO):
        catalog = read_catalog(hmdb51(tmp_path, lists) / videos, split_list=split_list)
    assert "read as layout hmdb51, because there are lists like brush_hair_test_split1.txt" in caplog.text
    assert "left out" not in caplog.text
    found = described(catalog)
    tested = {clip for clip, (_, split) in found.items() if split == "test"}
    assert tested == {
        f"{label}/{clip_name(label, source, number)}"
        for label in CLASSES
        for source in (2 * split_list, 2 * split_list + 1)
        for number in (0, 1)
    }
    assert len(found) == 2 * 11 * 2
    assert all(clip.startswith(f"{label}/") for clip, (label, _) in found.items())
    assert (
        len({(clip.group, clip.split) for clip in catalog.clips}) == len({clip.group for clip in catalog.clips}) == 22
    )
    assert {split for _, split in found.values()} == {"train", "val", "test"}
    assert all(Path(clip.path).exists() for clip in catalog.clips)


def test_films_that_the_lists_of_hmdb51_have_on_both_sides_are_no_groups(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        catalog = read_catalog(hmdb51(tmp_path, shared=True))
    assert "2 groups are in the lists of train and of test" in caplog.text
    assert {clip.group for clip in catalog.clips if "Film_0_" in clip.clip_id} == {""}


def test_clips_that_are_not_in_the_lists_of_hmdb51_are_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(hmdb51(tmp_path), "hmdb51_org/cartwheel/mine.avi")
    assert read_catalog(tmp_path).left_out == ("hmdb51_org/cartwheel/mine.avi",)
    assert "1 videos do not fit layout hmdb51" in caplog.text


def test_damaged_lists_of_hmdb51_are_refused_with_all_lines(tmp_path: Path) -> None:
    lists = hmdb51(tmp_path) / "testTrainMulti_7030_splits"
    write(lists / "brush_hair_test_split1.txt", "a.avi 1", "b.avi 3")
    write(lists / "cartwheel_test_split1.txt", "c.avi", "d.avi 2", "e.avi x")
    with pytest.raises(UserError) as error:
        read_catalog(tmp_path)
    for told in (
        "brush_hair_test_split1.txt, line 2: 'b.avi 3' is not CLIP 0, CLIP 1 or CLIP 2",
        "cartwheel_test_split1.txt, line 1: 'c.avi' is not",
        "cartwheel_test_split1.txt, line 3: 'e.avi x' is not",
    ):
        assert told in str(error.value)


def test_a_list_of_hmdb51_that_is_missing_is_refused(tmp_path: Path) -> None:
    for file in list(hmdb51(tmp_path).rglob("*_test_split3.txt")):
        file.unlink()
    with pytest.raises(UserError, match=r"there is no CLASS_test_split3.txt in .*; put it there"):
        read_catalog(tmp_path, split_list=3)

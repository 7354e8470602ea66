"""Catalogues that cannot be read are refused in one line."""

from pathlib import Path

import pytest

from pipelines.core.errors import UserError
from pipelines.data.catalog import read_catalog
from pipelines.data.splits import SPLITS
from tests.data.test_catalog import hollywood2, touch, ucf101, write_csv

FULL = [f"{label}_{split}.avi,{label},,{split}" for label in "ab" for split in SPLITS]


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        pytest.param([], None, "clips.csv has no videos", id="no lines"),
        pytest.param(["a.avi,x"], "path,class", "lacks the column label; .* got path,class", id="missing column"),
        pytest.param([*FULL, "c.avi,,,train"], None, "line 8: the label is empty", id="empty label"),
        pytest.param([*FULL, "c.avi,a|,,train"], None, "line 8: the label is empty", id="empty second label"),
        pytest.param([*FULL, "c.avi"], None, "line 8: the label is empty", id="short line"),
        pytest.param([*FULL, ",a,,train"], None, "line 8: the path is empty", id="empty path"),
        pytest.param(
            [*FULL, "c.avi,a,,vla"],
            None,
            "line 8: split 'vla' is unknown; the splits are train, val, test",
            id="unknown split",
        ),
        pytest.param([*FULL, "./b_val.avi,a,,train"], None, "line 8: b_val.avi is listed twice", id="same path twice"),
        pytest.param([*FULL, "c.avi,a,,"], None, "c.avi has no split, others have one", id="some without a split"),
        pytest.param(
            [*FULL, "c.avi,lonely,,train"], None, "label 'lonely' has 1 clip in 1 group, and none in val", id="one clip"
        ),
        pytest.param([f"{i}.avi,a,," for i in range(9)], None, r"fewer than two classes \(a\)", id="one class"),
        pytest.param(["a.avi,a,g,val", *FULL, "c.avi,a,g,test"], None, r"several splits: g \(test, val\)", id="leak"),
    ],
)
def test_an_invalid_csv_is_refused_in_one_line(
    tmp_path: Path, lines: list[str], header: str | None, message: str
) -> None:
    file = write_csv(tmp_path, *lines, header=header or "path,label,group,split")
    with pytest.raises(UserError, match=message) as error:
        read_catalog(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("files", "layout", "message"),
    [
        pytest.param([], "auto", "has no videos for layout folders, which reads CLASS", id="empty folder"),
        pytest.param([], "auto", r"; it has no videos \(.*\.avi, .*\) and no pictures", id="empty: suffixes"),
        pytest.param(["a/x.txt"], "auto", r"; it has 1 \.txt, but no videos \(.*\.avi, ", id="no videos: suffixes"),
        pytest.param(["a/1.avi"], "ucf11", r"; it has 1 \.avi$", id="videos of another layout: no suffixes"),
        pytest.param(
            ["1.avi", "2.avi"],
            "auto",
            r"has 2 videos but no class folders, .*/CLASS/1.avi, or write a CSV file .* such as 1.avi,CLASS, and",
            id="no class folders",
        ),
        pytest.param(
            ["walk_1.avi", "wave_1.avi"],
            "auto",
            r"/walk/walk_1.avi, or .* as walk_1.avi,walk, and",
            id="classes in names",
        ),
        pytest.param(
            ["old/a/v_a_01_01.avi", "new/b/v_b_02_01.avi"],
            "auto",
            r"contains 2 data sets \(new/, old/\); give one of them, or a CSV",
            id="two data sets",
        ),
        pytest.param(
            ["a/1.avi"],
            "tapes",
            "layout 'tapes' is unknown; the layouts are auto, csv, .*ucf101, ucf11, youtube-celebrities, .*folders",
            id="unknown layout",
        ),
        pytest.param(["a/1.avi"], "csv", "is a folder; layout csv reads", id="folder as CSV"),
        pytest.param(["a/1.avi"], "ucf11", "has no videos for layout ucf11", id="not UCF11"),
        pytest.param(["a/1.avi"], "hollywood2", "has no videos for layout hollywood2", id="not Hollywood2"),
        pytest.param(["a/1.avi"], "youtube-celebrities", "has no videos for layout youtube", id="not celebrities"),
    ],
)
def test_an_unsuitable_folder_is_refused_in_one_line(
    tmp_path: Path, files: list[str], layout: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_catalog(touch(tmp_path, *files), layout)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("ClipSets/Run_train.txt", "clip 2", "Run_train.txt, line 1: 'clip 2' is not CLIP 1 or CLIP -1"),
        ("ClipSets/Run_train.txt", "actioncliptest00001 1", "actioncliptest00001 is in the lists of train and of test"),
        ("ClipSets/Run_train.txt", "\xff", "cannot be read .*; unpack the data set's lists again"),
    ],
    ids=["no sign", "in two lists", "no text"],
)
def test_a_damaged_list_is_refused_in_one_line(tmp_path: Path, file: str, text: str, message: str) -> None:
    (hollywood2(tmp_path) / file).write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=message) as error:
        read_catalog(tmp_path)
    assert "\n" not in str(error.value)


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no trainlist03.txt in .*; put it there"):
        read_catalog(ucf101(tmp_path / "bare", lists=""), split_list=3)
    (ucf101(tmp_path / "half") / "ucfTrainTestlist" / "testlist01.txt").unlink()
    with pytest.raises(UserError, match=r"testlist01.txt cannot be read"):
        read_catalog(tmp_path / "half")
    with pytest.raises(UserError, match=r"split_list must be 1, 2 or 3, .* got 4"):
        read_catalog(tmp_path / "half", split_list=4)


def test_a_missing_path_and_a_file_that_is_not_csv_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist; give a folder"):
        read_catalog(tmp_path / "nowhere")
    (tmp_path / "clip").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match=r"clip is not a CSV file"):
        read_catalog(tmp_path / "clip")
    with pytest.raises(UserError, match=r"clip.avi is a clip; give the folder"):
        read_catalog(touch(tmp_path, "clip.avi") / "clip.avi")
    with pytest.raises(UserError, match=r"clip is a file; layout folders reads"):
        read_catalog(tmp_path / "clip", "folders")

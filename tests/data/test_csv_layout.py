"""CSV catalogues as spreadsheets write them are read; all problems of one are named at once."""

import logging
import unicodedata
from pathlib import Path

import pytest

from pipelines.core.errors import UserError
from pipelines.data.catalog import read_catalog
from tests.trees import described, touch, write

CLIPS = [f"{label}/{i}.avi" for label in ("café", "run") for i in range(6)]
EXPECTED = {clip: clip.split("/")[0] for clip in CLIPS}


def table(separator: str = ",", line_end: str = "\n", *, header: str = "path,label,group,split") -> str:
    lines = [header, *(f"{clip},{label},," for clip, label in EXPECTED.items())]
    return line_end.join(line.replace(",", separator) for line in lines) + line_end


def labels_of(file: Path) -> dict[str, str]:
    catalog = read_catalog(file)
    assert all(Path(clip.path).exists() for clip in catalog.clips)
    return {clip: label for clip, (label, _) in described(catalog).items()}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(table().encode("utf-8-sig"), id="UTF-8 with a mark"),
        pytest.param(table("\t", "\r\n").encode("utf-16"), id="Unicode text of Excel"),
        pytest.param(table(";").encode("utf-16-be"), id="UTF-16 without a mark, big-endian"),
        pytest.param(table(";").encode("utf-16-le"), id="UTF-16 without a mark, little-endian"),
        pytest.param(table().encode("utf-32"), id="UTF-32"),
        pytest.param(table(";", "\r\n").encode("cp1252"), id="cp1252 and semicolons"),
        pytest.param(table("\t").encode(), id="tabs"),
        pytest.param(table(line_end="\r").encode(), id="line ends of old Macs"),
        pytest.param(("sep=;\r\n" + table(";", "\r\n")).encode(), id="a line that names the separator"),
        pytest.param(("sep=|\n" + table("|")).encode(), id="a line that names an unusual separator"),
        pytest.param(table(header="Path, LABEL ,group,Split").encode(), id="capitals and blanks in the header"),
        pytest.param((table() + ",,,\n ,,,\n").encode(), id="empty rows at the end"),
        pytest.param(table().replace(",,", "").replace(",group,split", "").encode(), id="two columns"),
        pytest.param(table().replace("/", "\\").encode(), id="backslashes"),
        pytest.param(table().replace(".avi", ".avi ").encode(), id="a blank behind the path"),
        pytest.param(table().replace(".avi", ".avi\xa0").encode(), id="a no-break space behind the path"),
        pytest.param(table().replace("\nrun/", "\n .\\run\\").encode(), id="a blank before, and backslashes"),
    ],
)
def test_a_csv_of_a_spreadsheet_is_read(tmp_path: Path, content: bytes) -> None:
    (touch(tmp_path, *CLIPS) / "clips.csv").write_bytes(content)
    assert labels_of(tmp_path / "clips.csv") == EXPECTED


def test_accents_are_found_in_either_form(tmp_path: Path) -> None:
    decomposed = {unicodedata.normalize("NFD", clip): label for clip, label in EXPECTED.items()}
    (touch(tmp_path, *decomposed) / "clips.csv").write_text(table(), encoding="utf-8")
    assert labels_of(tmp_path / "clips.csv") == decomposed


def test_names_with_backslashes_and_blanks_are_kept_if_the_files_exist(tmp_path: Path) -> None:
    names = {"a\\1.avi": "a", "b/ 2.avi ": "b", " 3.avi": "a", "c\\4.avi": "b"}
    touch(tmp_path, *names)
    lines = [f"{name},{label},,{split}" for name, label in names.items() for split in ["train"]]
    file = write(tmp_path / "clips.csv", "path,label,group,split", *lines)
    catalog = read_catalog(file, for_training=False, kept_classes=["a", "b"])
    assert {clip.clip_id for clip in catalog.clips} == names.keys()


def test_another_encoding_than_utf_8_is_told_with_an_example(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (touch(tmp_path, *CLIPS) / "clips.csv").write_bytes(table().encode("cp1252"))
    read_catalog(tmp_path / "clips.csv")
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "clips.csv is not UTF-8 and is read as cp1252 (Windows, Western Europe): 'café/0.avi,café,,'" in warning


@pytest.mark.parametrize(
    ("written", "split"),
    [
        ("Train", "train"),
        ("dev", "val"),
        ("VALID", "val"),
        ("validation", "val"),
        ("eval", "val"),
        ("testing ", "test"),
    ],
)
def test_splits_have_their_usual_names(tmp_path: Path, written: str, split: str) -> None:
    lines = [f"{label}{i}.avi,{label},,{name}" for label in "ab" for i, name in enumerate(("train", "val", "test"))]
    file = write(tmp_path / "clips.csv", "path,label,group,split", *lines, f"x.avi,a,,{written}")
    assert described(read_catalog(file))["x.avi"] == ("a", split)


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    good = [f"{label}{i}.avi,{label},,{split}" for label in "ab" for i, split in enumerate(("train", "val", "test"))]
    bad = [
        "c.avi,,,train",
        "d.avi,a,,vla",
        ",a,,train",
        "e.avi,,,test",
        r"C:\videos\f.avi,a,,train",
        r"\\server\g.avi,a,,train",
        "a0.avi,b,,train",
        "h.avi,a,speaker,train",
        "i.avi,a,speaker,test",
        "j.avi,lonely,,train",
        "k.avi,other,,test",
    ]
    file = write(tmp_path / "clips.csv", "path,label,group,split", *good, *bad)
    with pytest.raises(UserError) as error:
        read_catalog(file)
    message = str(error.value)
    assert message.startswith("8 problems: (1) ")
    assert "\n" not in message
    for told in (
        "lines 8, 11: the label is empty",
        "line 9: split 'vla' is unknown; the splits are train, val, test",
        "line 10: the path is empty",
        r"line 12: C:\videos\f.avi is a path of a Windows machine; give paths relative to the CSV file",
        r"line 13: \\server\g.avi is a path of a Windows machine",
        "line 14: a0.avi is listed twice",
        "groups are in several splits: speaker (test, train)",
        "label 'lonely' has 1 clip in 1 group, and none in val, test; label 'other' has 1 clip in 1 group, and none in "
        "train, val",
    ):
        assert told in message


def test_a_label_of_a_line_that_cannot_be_read_is_not_said_to_be_missing(tmp_path: Path) -> None:
    good = [f"{label}{i}.avi,{label},,{split}" for label in "ab" for i, split in enumerate(("train", "val", "test"))]
    file = write(tmp_path / "clips.csv", "path,label,group,split", *good[:-1], "b2.avi,b,,tset")
    with pytest.raises(UserError, match=r"^\S+clips.csv, line 7: split 'tset' is unknown; [^;]*$"):
        read_catalog(file)


def test_very_many_problems_are_counted(tmp_path: Path) -> None:
    same = [f"{i}.avi,,," for i in range(1000)]
    file = write(tmp_path / "clips.csv", "path,label,group,split", *same)
    with pytest.raises(UserError, match=r"lines 2, 3, 4, .*, 11, \.\.\. \(1,000 lines\): the label is empty$"):
        read_catalog(file)
    different = [f"{i}.avi,a,,split{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(100)]
    file = write(tmp_path / "clips.csv", "path,label,group,split", *different)
    with pytest.raises(UserError, match=r"^21 problems: .* \(21\) and 80 more lines of \S+clips.csv$"):
        read_catalog(file)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "clips.csv is not a CSV file"),
        (b"PK\x03\x04\x14\0\x06\0", "is not a CSV file .it is a workbook or an archive: save the sheet as CSV UTF-8"),
        (b"path,label\n\x81\x8d,a\n", "is not a CSV file .it is neither UTF-8 nor cp1252"),
        (b"", "lacks the column path, label; .* got nothing"),
        (b"file;class\n1;2\n", "lacks the column path, label; .* got file,class"),
    ],
    ids=["picture", "Excel workbook", "another encoding", "empty", "other columns"],
)
def test_what_is_no_catalogue_is_explained_in_one_line(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "clips.csv").write_bytes(content)
    with pytest.raises(UserError, match=told) as error:
        read_catalog(tmp_path / "clips.csv")
    assert "\n" not in str(error.value)

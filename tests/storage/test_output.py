"""pipelines/storage/output.py: no directory is written to, or deleted, that another program made."""

import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.errors import UserError
from pipelines.storage.location import Location
from pipelines.storage.output import no_empty_directory, prepare_out


@pytest.mark.parametrize(
    ("there", "given", "left"),
    [
        pytest.param([], {}, [], id="none"),
        pytest.param([], {"resume": True}, [], id="none, resume"),
        pytest.param([], {"overwrite": True}, [], id="none, overwrite"),
        pytest.param([".m.abc.tmp"], {}, [], id="killed while it wrote the first file"),
        pytest.param(["m", "a/b"], {"resume": True}, ["a/b", "m"], id="resume"),
        pytest.param(["m", "a/b", ".a"], {"overwrite": True}, [], id="overwrite"),
    ],
)
def test_out_is_made_kept_or_emptied(
    directory: Location, there: list[str], given: dict[str, Any], left: list[str]
) -> None:
    out = directory / "new" / "out"
    for name in there:
        (out / os.path.dirname(name)).mkdir()
        (out / name).write_text("1")
    assert prepare_out(out, marker="m", **given) == out
    assert out.files() == left
    assert out.is_empty() == (not left)
    (out / "file").write_text("1")


@pytest.mark.parametrize(
    ("there", "given", "message"),
    [
        pytest.param("m", {}, "out.* exists; --overwrite deletes it first$", id="no resume in this command"),
        pytest.param("m", {"resume": False}, "out.* exists; --resume continues it, --overwrite deletes", id="exists"),
        pytest.param(".hidden", {}, "out.* exists; --overwrite deletes it", id="hidden files count"),
        pytest.param("a", {"resume": True}, "out.* has no m: nothing to resume there", id="resume other content"),
        pytest.param(
            "a", {"overwrite": True}, "has no m: it was not made by this command", id="overwrite other content"
        ),
        pytest.param("", {"overwrite": True}, "out.* is a file; OUT must be a directory", id="file"),
    ],
)
def test_an_out_with_other_content_is_refused_and_kept(
    directory: Location, there: str, given: dict[str, Any], message: str
) -> None:
    out = directory / "out"
    if there:
        out.mkdir()
    file = out / there if there else out
    file.write_text("precious")
    with pytest.raises(UserError, match=message):
        prepare_out(out, marker="m", **given)
    assert file.read_text() == "precious"


def test_a_command_killed_while_it_empties_out_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "m", "z"):
        (tmp_path / name).touch()
    left = []

    def unlink(entry: Any) -> None:
        left.append(sorted(os.listdir(tmp_path)))
        os.remove(entry)

    monkeypatch.setattr(os, "unlink", unlink)
    prepare_out(tmp_path, marker="m", overwrite=True)
    assert len(left) == 3
    assert all("m" in names for names in left)
    assert os.listdir(tmp_path) == []


def test_an_out_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="out cannot be made: Not a directory"):
        prepare_out(tmp_path / "file" / "out", marker="m")


@pytest.mark.parametrize(
    ("made", "kept"),
    [([], ["old"]), (["old/new/out"], ["old"]), (["old/new/out/file"], ["old", "old/new", "old/new/out"])],
    ids=["nothing", "empty", "a file"],
)
def test_directories_that_a_command_made_and_left_empty_are_deleted(
    tmp_path: Path, made: list[str], kept: list[str]
) -> None:
    (tmp_path / "old").mkdir()
    with no_empty_directory(Location.of(tmp_path / "old" / "new" / "out")):
        for name in made:
            (tmp_path / name).mkdir(parents=True)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.name != "file") == kept

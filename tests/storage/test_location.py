"""pipelines/storage/location.py: files are used alike wherever they lie, and none is seen half-written."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from pipelines.core.errors import UserError
from pipelines.storage import location as module
from pipelines.storage.location import Location

NAMES = {
    "plain": "clip_01.avi",
    "space": " a  b ",
    "percent": "100% %20",
    "letters": "ü 日本 ß",
    "question": "what?query=1&b",
    "hash": "a#b",
    "others": "a+b=c;'\"\\:@!",
    "tab": "a\tb",
    "line end": "a\nb",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_any_file_name_is_kept(directory: Location, name: str) -> None:
    file = directory / name
    if "\n" not in name or file.is_local:  # moto does not accept such keys
        file.write_text("content")
        assert directory.files() == [name]
        assert file.read_text() == "content"
    assert file.name == (directory / "sub" / name).name == name
    assert Location.of(str(file)) == Location.of(file) == pickle.loads(pickle.dumps(file)) == file


def test_existence_size_and_content(directory: Location) -> None:
    (directory / "sub").mkdir()
    (directory / "sub" / "file").write_text("12345")
    (directory / "empty").write_text("")
    places = {"sub": (True, True), "sub/file": (True, False), "empty": (True, False), "none": (False, False)}
    assert {name: ((directory / name).exists(), (directory / name).is_dir()) for name in places} == places
    assert ((directory / "sub/file").size(), (directory / "empty").size()) == (5, 0)
    assert ((directory / "sub/file").read_bytes(), (directory / "empty").read_bytes()) == (b"12345", b"")
    assert not directory.is_empty()


def test_upload_replaces_a_file_and_remove_deletes_it(directory: Location, tmp_path: Path) -> None:
    source, target = tmp_path / "source", directory / "copy"
    directory.mkdir()
    for content in (b"older and longer", b"", b"new"):
        source.write_bytes(content)
        target.upload(source)
        assert target.read_bytes() == content
    target.remove()
    assert not target.exists()
    target.remove()
    with pytest.raises(FileNotFoundError):
        target.upload(tmp_path / "none")
    assert not target.exists()


def test_a_missing_file_raises_file_not_found_error(
    directory: Location, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = tmp_path_factory.mktemp("copies") / "copy"
    reads: list[Callable[[Location], Any]] = [
        Location.read_text,
        Location.size,
        Location.open,
        lambda file: list(file.chunks()),
        lambda file: file.download(copy),
    ]
    for read in reads:
        with pytest.raises(FileNotFoundError):
            read(directory / "none")
    assert not copy.exists()


def test_large_files_are_read_in_pieces(directory: Location, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = os.urandom(9_000_001)
    with (directory / "large").writing() as file:
        file.write(content)
    copy = tmp_path_factory.mktemp("copies") / "copy"
    (directory / "large").download(copy)
    assert copy.read_bytes() == (directory / "large").read_bytes() == content
    assert max(len(chunk) for chunk in (directory / "large").chunks()) < 5_000_000


def test_text_is_utf8(directory: Location) -> None:
    (directory / "text").write_text("ü\r\n日")
    assert (directory / "text").read_bytes() == "ü\r\n日".encode()
    with (directory / "latin-1").writing() as file:
        file.write("ü".encode("latin-1"))
    with pytest.raises(UnicodeDecodeError):
        (directory / "latin-1").read_text()


@pytest.mark.parametrize("there_before", [True, False], ids=["replacing", "new"])
@pytest.mark.parametrize("error", [None, OSError("disk full"), KeyboardInterrupt()], ids=repr)
def test_a_file_is_written_whole_or_not_at_all(
    directory: Location, there_before: bool, error: BaseException | None
) -> None:
    file, old = directory / "file", ["file"] if there_before else []
    if there_before:
        file.write_text("old")

    def write() -> None:
        with file.writing() as opened:
            opened.write(b"new" * 100_000)
            opened.flush()
            assert directory.files() == old
            assert not there_before or file.read_text() == "old"
            if error:
                raise error

    if error is None:
        write()
        assert file.read_text() == "new" * 100_000
        return
    with pytest.raises(type(error)):
        write()
    assert directory.files() == old
    assert directory.is_empty() is not there_before
    assert not there_before or file.read_text() == "old"


def test_directories_are_made_and_emptied(directory: Location) -> None:
    deep = directory / "a" / "b"
    deep.mkdir()
    deep.mkdir()
    assert deep.is_dir() or "s3://" in str(deep)  # where directories are prefixes of keys
    assert deep.is_empty()
    (deep / "file").write_text("1")
    (deep / ".hidden").write_text("1")
    (directory / "other").write_text("1")
    assert not deep.is_empty()
    (directory / "a").clear()
    assert (directory / "a").is_empty()
    assert directory.files() == ["other"]
    directory.clear()
    assert directory.is_empty()


def test_files_are_listed_in_order_without_hidden_ones(directory: Location) -> None:
    for name in ("b/x.avi", "b/a/x.avi", "b.avi", ".hidden", ".folder/x.avi", "B/.x.avi", "a.avi/x.avi"):
        (directory / os.path.dirname(name)).mkdir()
        (directory / name).write_text("")
    assert directory.files() == ["a.avi/x.avi", "b.avi", "b/a/x.avi", "b/x.avi"]
    assert (directory / "b").files() == ["a/x.avi", "x.avi"]
    assert (directory / "none").files() == []


def test_clearing_a_link_keeps_it_and_follows_no_links_inside(tmp_path: Path) -> None:
    for name in ("data/sub", "precious"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").touch()
    (tmp_path / "data/link").symlink_to(tmp_path / "precious")
    (tmp_path / "out").symlink_to(tmp_path / "data")
    Location.of(tmp_path / "out").clear()
    assert (tmp_path / "out").is_symlink()
    assert list((tmp_path / "data").iterdir()) == []
    assert (tmp_path / "precious/file").exists()


@pytest.mark.parametrize(
    ("given", "text", "name"),
    [
        ("videos/", "videos/", "videos"),
        ("a#b%20", "a#b%20", "a#b%20"),
        ("file:///a%20b/%C3%BC", "/a b/ü", "ü"),
        ("FILE://localhost/a", "/a", "a"),
        ("mock:///", "mock://", ""),
        ("mock:///a b/c/", "mock:///a b/c", "c"),
        ("mock:///a#b\nc", "mock:///a%23b%0Ac", "a#b\nc"),
    ],
)
def test_paths_and_uris_are_normalised(given: str, text: str, name: str) -> None:
    place = Location.of(given)
    assert (str(place), place.name, Location.of(place.text)) == (text, name, place)


@pytest.mark.parametrize(
    ("given", "joined"),
    [
        ("hdfs:///", "hdfs:///a/b"),
        ("hdfs://node:9000/x?user=me", "hdfs://node:9000/x/a/b?user=me"),
        ("gs://x", "gs://x/a/b"),
    ],
)
def test_joining_changes_the_path_only(monkeypatch: pytest.MonkeyPatch, given: str, joined: str) -> None:
    monkeypatch.setattr(module, "open_filesystem", lambda *_: (fs.LocalFileSystem(), "/"))
    assert str(Location.of(given) / "a" / "b") == joined
    assert not (Location.of(given) / "a").is_local


def test_absolute_does_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Location.of("x/../y").absolute() == Location.of(tmp_path / "y")
    assert Location.of("y").local == Path("y")
    remote = Location.of("mock:///y")
    assert remote.absolute() == remote
    with pytest.raises(UserError, match="mock:///y is not on this machine; give a local or mounted path"):
        _ = remote.local


def test_a_directory_may_be_a_whole_bucket(query: str) -> None:
    filesystem, _ = fs.FileSystem.from_uri(f"s3://lab/?{query}")
    filesystem.create_dir("other")
    bucket = Location.of(f"s3://other?{query}")
    (bucket / "a/b").write_text("1")
    assert bucket.files() == ["a/b"]
    bucket.clear()
    assert bucket.is_empty()
    assert bucket.is_dir()


@pytest.mark.parametrize(
    ("inner", "outer", "lies_in"),
    [
        pytest.param("{}/a/b", "{}/a", True, id="below"),
        pytest.param("{}/a/", "{}/a", True, id="the same"),
        pytest.param("{}/ab", "{}/a", False, id="like names"),
        pytest.param("{}/a", "{}/a/b", False, id="above"),
        pytest.param("{}/link/b", "{}/a", True, id="by way of a link"),
        pytest.param("{}/a/../c", "{}/a", False, id="out again"),
        pytest.param("mock://lab/a/b", "mock://lab/a?x=1", True, id="remote"),
        pytest.param("mock://lab/ab", "mock://lab/a", False, id="remote, like names"),
        pytest.param("mock://other/a/b", "mock://lab/a", False, id="another bucket"),
        pytest.param("mock://lab/a", "{}/a", False, id="remote and local"),
    ],
)
def test_lies_in(tmp_path: Path, inner: str, outer: str, lies_in: bool) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    assert Location(inner.format(tmp_path)).lies_in(Location(outer.format(tmp_path))) is lies_in


def test_the_parent_of_a_link_is_that_of_its_target(tmp_path: Path) -> None:
    (tmp_path / "far" / "folder").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/folder")
    assert str(Location(f"{tmp_path}/link/../x").absolute()) == f"{tmp_path}/far/x"
    assert str(Location(f"{tmp_path}/link/x").absolute()) == f"{tmp_path}/link/x"


def test_a_password_in_a_uri_is_refused_without_repeating_it() -> None:
    with pytest.raises(UserError, match=r"holds a password, .* give it by environment") as error:
        Location.of("s3://key:hush@bucket/shards")
    assert "hush" not in str(error.value)

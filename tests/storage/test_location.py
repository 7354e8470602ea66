"""pipelines/storage.py: every place behaves like a local directory, and nothing is ever seen half-written."""

import errno
import fcntl
import os
import pickle
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from pyarrow import fs

from pipelines.core.errors import UserError
from pipelines.storage import filesystem
from pipelines.storage import location as module
from pipelines.storage.filesystem import StorageError
from pipelines.storage.location import Location
from pipelines.storage.lock import only_writer
from pipelines.storage.output import prepare_out

KINDS = ("path", "file URI", "object store", "other file system")


@pytest.fixture(params=KINDS, ids=lambda kind: kind.replace(" ", "-"))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty directory."""
    if request.param == "object store":
        return Location.of(f"s3://lab/{uuid.uuid4()}?{request.getfixturevalue('query')}")
    scheme = {"path": "", "file URI": "file://", "other file system": "fsspec+file://"}[request.param]
    return Location.of(f"{scheme}{tmp_path}")


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
def test_any_name_is_kept(folder: Location, name: str) -> None:
    file = folder / name
    if "\n" not in name or file.is_local:  # moto does not route such keys
        file.write_text("content")
        assert folder.files() == [name]
        assert file.read_text() == "content"
    assert file.name == (folder / "sub" / name).name == name
    assert Location.of(str(file)) == Location.of(file) == pickle.loads(pickle.dumps(file)) == file


def test_what_there_is(folder: Location) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_text("12345")
    (folder / "empty").write_text("")
    places = {"sub": (True, True), "sub/file": (True, False), "empty": (True, False), "none": (False, False)}
    assert {name: ((folder / name).exists(), (folder / name).is_dir()) for name in places} == places
    assert ((folder / "sub/file").size(), (folder / "empty").size()) == (5, 0)
    assert ((folder / "sub/file").read_bytes(), (folder / "empty").read_bytes()) == (b"12345", b"")
    assert not folder.is_empty()


def test_a_file_of_this_machine_is_put_there_over_an_older_one_and_taken_away(folder: Location, tmp_path: Path) -> None:
    source, target = tmp_path / "source", folder / "copy"
    folder.mkdir()
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


def test_what_is_missing_is_told_as_python_does(folder: Location, tmp_path_factory: pytest.TempPathFactory) -> None:
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
            read(folder / "none")
    assert not copy.exists()


def test_large_files_come_piece_by_piece(folder: Location, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = os.urandom(9_000_001)
    with (folder / "large").writing() as file:
        file.write(content)
    copy = tmp_path_factory.mktemp("copies") / "copy"
    (folder / "large").download(copy)
    assert copy.read_bytes() == (folder / "large").read_bytes() == content
    assert max(len(chunk) for chunk in (folder / "large").chunks()) < 5_000_000


def test_text_is_utf8(folder: Location) -> None:
    (folder / "text").write_text("ü\r\n日")
    assert (folder / "text").read_bytes() == "ü\r\n日".encode()
    with (folder / "latin-1").writing() as file:
        file.write("ü".encode("latin-1"))
    with pytest.raises(UnicodeDecodeError):
        (folder / "latin-1").read_text()


@pytest.mark.parametrize("there_before", [True, False], ids=["replacing", "new"])
@pytest.mark.parametrize("error", [None, OSError("disk full"), KeyboardInterrupt()], ids=repr)
def test_a_file_is_written_whole_or_not_at_all(
    folder: Location, there_before: bool, error: BaseException | None
) -> None:
    file, old = folder / "file", ["file"] if there_before else []
    if there_before:
        file.write_text("old")

    def write() -> None:
        with file.writing() as opened:
            opened.write(b"new" * 100_000)
            opened.flush()
            assert folder.files() == old
            assert not there_before or file.read_text() == "old"
            if error:
                raise error

    if error is None:
        write()
        assert file.read_text() == "new" * 100_000
        return
    with pytest.raises(type(error)):
        write()
    assert folder.files() == old
    assert folder.is_empty() is not there_before
    assert not there_before or file.read_text() == "old"


def test_directories_are_made_and_emptied(folder: Location) -> None:
    deep = folder / "a" / "b"
    deep.mkdir()
    deep.mkdir()
    assert deep.is_dir() or "s3://" in str(deep)  # where directories are prefixes of keys
    assert deep.is_empty()
    (deep / "file").write_text("1")
    (deep / ".hidden").write_text("1")
    (folder / "other").write_text("1")
    assert not deep.is_empty()
    (folder / "a").clear()
    assert (folder / "a").is_empty()
    assert folder.files() == ["other"]
    folder.clear()
    assert folder.is_empty()


def test_files_are_listed_in_order_without_hidden_ones(folder: Location) -> None:
    for name in ("b/x.avi", "b/a/x.avi", "b.avi", ".hidden", ".folder/x.avi", "B/.x.avi", "a.avi/x.avi"):
        (folder / os.path.dirname(name)).mkdir()
        (folder / name).write_text("")
    assert folder.files() == ["a.avi/x.avi", "b.avi", "b/a/x.avi", "b/x.avi"]
    assert (folder / "b").files() == ["a/x.avi", "x.avi"]
    assert (folder / "none").files() == []


def test_links_are_followed_but_no_directory_is_entered_twice(tmp_path: Path) -> None:
    (tmp_path / "videos/sub").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("videos/sub/x.avi", "elsewhere/y.avi"):
        (tmp_path / name).touch()
    for link, target in {
        "videos/loop": "videos",
        "videos/sub/up": "videos/sub",
        "videos/other": "elsewhere",
        "videos/second": "elsewhere",
        "videos/z.avi": "videos/sub/x.avi",
    }.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    assert Location.of(tmp_path / "videos").files() == ["other/y.avi", "sub/x.avi", "z.avi"]


def test_a_folder_that_cannot_be_read_is_told_of_and_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("closed", "open"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.avi").touch()
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    messages: list[str] = []
    monkeypatch.setattr(os, "scandir", refusing)
    # Not caplog: in the one process of all tests something silences this logger.
    monkeypatch.setattr(filesystem.log, "warning", lambda text, *values: messages.append(text % values))
    assert Location.of(tmp_path).files() == ["open/x.avi"]
    assert messages == [f"{tmp_path}/closed can't be read (Permission denied) and is left out"]


def test_emptying_a_link_keeps_it_and_follows_none_inside(tmp_path: Path) -> None:
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
def test_what_a_user_types_is_understood(given: str, text: str, name: str) -> None:
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
def test_joining_touches_the_path_only(monkeypatch: pytest.MonkeyPatch, given: str, joined: str) -> None:
    monkeypatch.setattr(module, "open_filesystem", lambda *_: (fs.LocalFileSystem(), "/"))
    assert str(Location.of(given) / "a" / "b") == joined
    assert not (Location.of(given) / "a").is_local


def test_a_path_is_local_whatever_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Location.of("x/../y").absolute() == Location.of(tmp_path / "y")
    assert Location.of("y").local == Path("y")
    remote = Location.of("mock:///y")
    assert remote.absolute() == remote
    with pytest.raises(UserError, match="mock:///y is not on this machine; give a local or mounted path"):
        _ = remote.local


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("foo://x/y", r"foo://x can't be opened \(Unrecognized filesystem type.*give a path, or a URI"),
        ("https://lab/x", r"https://lab can't be opened"),
        ("s3://", r"s3:// can't be opened \(Missing bucket name"),
        ("s3://a bucket/x", r"s3://a bucket can't be opened \(Cannot parse URI"),
        ("s3://lab/x?colour=red", r"s3://lab can't be opened \(Unexpected query parameter in S3 URI: 'colour'"),
        ("fsspec+foo://x", r"fsspec\+foo://x can't be opened"),
        ("file://videos/x", r"file://videos/x names a machine, videos; give file:///DIRECTORY"),
    ],
)
def test_a_uri_that_leads_nowhere_is_refused_in_one_line(uri: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Location.of(uri)
    assert "\n" not in str(error.value)


USES: dict[str, Callable[[Location], Any]] = {
    "exists": Location.exists,
    "size": Location.size,
    "read": Location.read_bytes,
    "write": lambda place: place.write_text("1"),
    "is_empty": Location.is_empty,
    "files": Location.files,
    "clear": Location.clear,
    "prepare_out": lambda place: prepare_out(place, marker="m"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_server_that_does_not_answer_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, use: Callable[[Location], Any]
) -> None:
    # Port 9 is that of the discard service, which nobody runs. Retries take their time.
    once = fs.S3FileSystem(
        access_key="a",
        secret_key="b",
        endpoint_override="127.0.0.1:9",
        scheme="http",
        region="us-east-1",
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
    )
    monkeypatch.setattr(module, "open_filesystem", lambda *_: (once, "lab"))
    with pytest.raises(StorageError, match=r"^s3://lab/x: .*connect") as error:
        use(Location.of("s3://lab/x"))
    assert "\n" not in str(error.value)


def test_a_bucket_that_there_is_not(query: str) -> None:
    place = Location.of(f"s3://none/x?{query}")
    assert not place.exists()
    assert place.files() == []
    with pytest.raises(FileNotFoundError):
        place.read_text()
    with pytest.raises(StorageError, match=r"s3://none/x?.*NO_SUCH_BUCKET"):
        place.write_text("1")


class _RefusesTheLast(BaseHTTPRequestHandler):
    """An S3 that takes the parts of a file, and not the request that makes a file of them."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        is_first = self.path.endswith("?uploads")
        result = b"<InitiateMultipartUploadResult><UploadId>x</UploadId></InitiateMultipartUploadResult>"
        self._answer(200, result) if is_first else self._answer(403)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200 if "partNumber" in self.path else 403)

    def _answer(self, code: int, body: bytes = b"") -> None:
        self.send_response(code)
        self.send_header("ETag", '"x"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.mark.parametrize("num_bytes", [0, 1, 20_000_000], ids=["empty", "one request", "parts"])
def test_a_file_that_the_store_refuses_at_the_last_is_not_taken_for_written(
    query: str, tmp_path: Path, num_bytes: int
) -> None:
    (tmp_path / "file").write_bytes(bytes(num_bytes))
    with ThreadingHTTPServer(("127.0.0.1", 0), _RefusesTheLast) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = f"endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=us-east-1"
        with pytest.raises(StorageError, match=r"ACCESS_DENIED|403"):
            Location.of(f"s3://lab/x?{options}").upload(tmp_path / "file")
        server.shutdown()


def test_a_name_that_a_store_does_not_take_is_told_in_one_line(query: str) -> None:
    for use in (Location.exists, Location.read_text, lambda place: place.write_text("1")):
        with pytest.raises(StorageError, match=r"s3://lab/a//b.*Empty path component"):
            use(Location.of(f"s3://lab/a//b?{query}"))


def test_a_whole_bucket_may_be_the_directory(query: str) -> None:
    filesystem, _ = fs.FileSystem.from_uri(f"s3://lab/?{query}")
    filesystem.create_dir("other")
    bucket = Location.of(f"s3://other?{query}")
    (bucket / "a/b").write_text("1")
    assert bucket.files() == ["a/b"]
    bucket.clear()
    assert bucket.is_empty()
    assert bucket.is_dir()


class _Broken:
    """A file whose connection is lost after the first piece."""

    def __init__(self) -> None:
        self.pieces = iter([b"first"])

    def __enter__(self) -> "_Broken":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, _: int) -> bytes:
        for piece in self.pieces:
            return piece
        raise OSError("connection\nreset")


def test_a_download_that_breaks_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Location, "open", lambda _: _Broken())
    with pytest.raises(StorageError, match=r"^mock:///x: connection reset$"):
        Location.of("mock:///x").download(tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_trouble_of_the_own_disk_is_not_that_of_the_store(
    query: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Location.of(f"s3://lab/{uuid.uuid4()}?{query}")
    file.write_text("content")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        file.download(tmp_path / "file" / "copy")
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError):
        file.write_text("new")
    assert file.read_text() == "content"


class _Unmovable(LocalFileSystem):
    def mv(self, *_: Any, **__: Any) -> None:
        raise OSError("no quota")


def test_an_upload_that_fails_keeps_the_old_file_and_shows_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Location.of(f"fsspec+file://{tmp_path}") / "file"
    file.write_text("old")
    failing = fs.PyFileSystem(fs.FSSpecHandler(_Unmovable(skip_instance_cache=True)))
    monkeypatch.setattr(module, "open_filesystem", lambda *_: (failing, "/"))
    with pytest.raises(StorageError, match="file: no quota"):
        file.write_text("new")
    monkeypatch.undo()
    assert file.read_text() == "old"
    assert Location.of(f"fsspec+file://{tmp_path}").files() == ["file"]
    file.write_text("new")
    assert os.listdir(tmp_path) == ["file"]
    assert file.read_text() == "new"


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
def test_out_is_made_or_taken_over(folder: Location, there: list[str], given: dict[str, Any], left: list[str]) -> None:
    out = folder / "new" / "out"
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
        pytest.param("a", {"resume": True}, "out.* has no m: nothing to resume there", id="resume what is not ours"),
        pytest.param("a", {"overwrite": True}, "has no m: it was not made by this command", id="overwrite likewise"),
        pytest.param("", {"overwrite": True}, "out.* is a file; OUT must be a directory", id="file"),
    ],
)
def test_an_out_that_is_not_to_be_touched_is_refused(
    folder: Location, there: str, given: dict[str, Any], message: str
) -> None:
    out = folder / "out"
    if there:
        out.mkdir()
    file = out / there if there else out
    file.write_text("precious")
    with pytest.raises(UserError, match=message):
        prepare_out(out, marker="m", **given)
    assert file.read_text() == "precious"


def test_who_is_killed_while_emptying_out_can_do_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_one_command_at_a_time_writes_to_a_directory(tmp_path: Path) -> None:
    out, other = Location.of(tmp_path / "new" / "out"), Location.of(tmp_path / "other")
    with only_writer(out):
        with (
            pytest.raises(UserError, match=r"another command is writing to .*out; wait until it is done"),
            only_writer(out),
        ):
            pass
        with only_writer(other):
            (out / "file").write_text("1")
    with only_writer(out):
        assert (out / "file").read_text() == "1"


def test_a_writer_that_is_about_to_end_is_waited_for(tmp_path: Path) -> None:
    code = (
        "import fcntl, os, sys, time; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX); print(flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}; time.sleep(0.5)", tmp_path], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with only_writer(Location.of(tmp_path), wait_s=60):
            assert other.wait(timeout=60) == 0


def test_a_directory_that_stays_empty_was_made_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for name in ("new", "old"):
        with pytest.raises(UserError, match="trouble"), only_writer(Location.of(tmp_path / name)):
            raise UserError("trouble")
    assert os.listdir(tmp_path) == ["old"]


def test_who_writes_alone_is_told_where_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="file is a file; OUT must be a directory"),
        only_writer(Location.of(tmp_path / "file")),
    ):
        pass
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="can't be written to; give another OUT"), only_writer(Location.of(tmp_path)):
        pass


def test_without_locks_on_the_file_system_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level("INFO"), only_writer(Location.of(tmp_path)):
        pass
    assert "has no locks; make sure that no other command writes there" in caplog.text


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
def test_what_lies_in_what(tmp_path: Path, inner: str, outer: str, lies_in: bool) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    assert Location(inner.format(tmp_path)).lies_in(Location(outer.format(tmp_path))) is lies_in


def test_above_a_link_is_not_where_the_link_lies(tmp_path: Path) -> None:
    (tmp_path / "far" / "folder").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/folder")
    assert str(Location(f"{tmp_path}/link/../x").absolute()) == f"{tmp_path}/far/x"
    assert str(Location(f"{tmp_path}/link/x").absolute()) == f"{tmp_path}/link/x"


def test_an_out_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="out cannot be made: Not a directory"):
        prepare_out(tmp_path / "file" / "out", marker="m")


def test_a_password_in_a_uri_is_refused_without_repeating_it() -> None:
    with pytest.raises(UserError, match=r"holds a password, .* give it by environment") as error:
        Location.of("s3://key:hush@bucket/shards")
    assert "hush" not in str(error.value)

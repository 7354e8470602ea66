"""pipelines/storage/filesystem.py: errors of remote file systems are one line, and leave no half-written files."""

import os
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
from pipelines.storage.output import prepare_out


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


def test_a_directory_that_cannot_be_read_is_skipped_with_a_warning(
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
    # Not caplog: in a process that has run other tests, this logger may be silenced.
    monkeypatch.setattr(filesystem.log, "warning", lambda text, *values: messages.append(text % values))
    assert Location.of(tmp_path).files() == ["open/x.avi"]
    assert messages == [f"{tmp_path}/closed can't be read (Permission denied) and is left out"]


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
def test_an_invalid_uri_is_refused_in_one_line(uri: str, message: str) -> None:
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
def test_a_server_that_does_not_answer_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, use: Callable[[Location], Any]
) -> None:
    # Port 9 belongs to the discard service, which nobody runs. Retries would take long.
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


def test_a_bucket_that_does_not_exist(query: str) -> None:
    place = Location.of(f"s3://none/x?{query}")
    assert not place.exists()
    assert place.files() == []
    with pytest.raises(FileNotFoundError):
        place.read_text()
    with pytest.raises(StorageError, match=r"s3://none/x?.*NO_SUCH_BUCKET"):
        place.write_text("1")


class _RefusesLastRequest(BaseHTTPRequestHandler):
    """An S3 server that accepts the parts of a file, but not the request that joins them."""

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
def test_an_upload_whose_last_request_is_refused_fails(query: str, tmp_path: Path, num_bytes: int) -> None:
    (tmp_path / "file").write_bytes(bytes(num_bytes))
    with ThreadingHTTPServer(("127.0.0.1", 0), _RefusesLastRequest) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = f"endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=us-east-1"
        with pytest.raises(StorageError, match=r"ACCESS_DENIED|403"):
            Location.of(f"s3://lab/x?{options}").upload(tmp_path / "file")
        server.shutdown()


def test_an_invalid_object_name_is_reported_in_one_line(query: str) -> None:
    for use in (Location.exists, Location.read_text, lambda place: place.write_text("1")):
        with pytest.raises(StorageError, match=r"s3://lab/a//b.*Empty path component"):
            use(Location.of(f"s3://lab/a//b?{query}"))


class _Broken:
    """A file whose connection breaks after the first piece."""

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


def test_an_interrupted_download_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Location, "open", lambda _: _Broken())
    with pytest.raises(StorageError, match=r"^mock:///x: connection reset$"):
        Location.of("mock:///x").download(tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_local_disk_are_not_those_of_the_store(
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


class _CannotMove(LocalFileSystem):
    def mv(self, *_: Any, **__: Any) -> None:
        raise OSError("no quota")


def test_a_failed_upload_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Location.of(f"fsspec+file://{tmp_path}") / "file"
    file.write_text("old")
    failing = fs.PyFileSystem(fs.FSSpecHandler(_CannotMove(skip_instance_cache=True)))
    monkeypatch.setattr(module, "open_filesystem", lambda *_: (failing, "/"))
    with pytest.raises(StorageError, match="file: no quota"):
        file.write_text("new")
    monkeypatch.undo()
    assert file.read_text() == "old"
    assert Location.of(f"fsspec+file://{tmp_path}").files() == ["file"]
    file.write_text("new")
    assert os.listdir(tmp_path) == ["file"]
    assert file.read_text() == "new"

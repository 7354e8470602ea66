"""Files and directories by path or URI: on this machine, or on any file system that pyarrow opens (s3, gs, hdfs, abfs).

What is written becomes visible whole or not at all: locally by fsync and rename, in an object store by an upload that
counts only when it is complete, elsewhere by a temporary name.
"""

import contextlib
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import quote, unquote, urlsplit

from pipelines.core.errors import UserError
from pipelines.storage.filesystem import NOT_IN_URLS, StorageError, join_url, local_files, open_filesystem
from ttrnn.files import atomic_write

__all__ = ["Location"]


# An object appears when its upload is complete, so it needs no temporary name (and a rename would copy it).
_OBJECT_STORES = ("s3", "gcs", "abfs")
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class Location:
    """A file or directory, local or remote. As text it is what a user types: a path, or a URI.

    Credentials and regions are found as Arrow does: environment, the provider's configuration files, the machine's
    role. Options go into the URI: s3://bucket/shards?endpoint_override=http://127.0.0.1:9000&region=eu-west-1.

    Example:
        shards = Location.of("s3://bucket/shards")
        (shards / "dataset.json").read_text()
    """

    text: str

    @classmethod
    def of(cls, place: "str | Path | Location") -> "Location":
        """From what a user gave.

        Raises:
            UserError: a scheme that no file system has, or a URI that it does not understand.
        """
        if isinstance(place, Location):
            return place
        text = os.fspath(place)
        if "://" not in text:
            return cls(text)
        url = urlsplit(text.translate(NOT_IN_URLS))
        if url.password:
            raise UserError(
                f"{url.scheme}://...@{url.hostname} holds a password, which would stand in every file that "
                "names it; give it by environment or configuration file (AWS_SECRET_ACCESS_KEY, ~/.aws/credentials)"
            )
        if url.scheme == "file":
            if url.netloc not in ("", "localhost"):
                raise UserError(f"{text} names a machine, {url.netloc}; give file:///DIRECTORY, or a path")
            return cls(unquote(url.path))
        open_filesystem(url.scheme, url.netloc, url.query)
        return cls(join_url(url.scheme, url.netloc, url.path.rstrip("/"), url.query))

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> "Location":
        if self.is_local:
            return Location(os.path.join(self.text, name))
        url = urlsplit(self.text)
        return Location(join_url(url.scheme, url.netloc, f"{url.path.rstrip('/')}/{quote(name)}", url.query))

    @property
    def name(self) -> str:
        """The last part."""
        path = self.text if self.is_local else unquote(urlsplit(self.text).path)
        return posixpath.basename(path.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine (a mounted network file system counts)."""
        return "://" not in self.text

    @property
    def local(self) -> Path:
        """As a path.

        Raises:
            UserError: it is remote.
        """
        if not self.is_local:
            raise UserError(f"{self} is not on this machine; give a local or mounted path")
        return Path(self.text)

    def absolute(self) -> "Location":
        """The same, whatever the working directory."""
        if not self.is_local:
            return self
        # `link/..` is not where the link lies.
        follow = os.path.realpath if ".." in self.text.split("/") else os.path.abspath
        return Location(follow(self.text))

    def lies_in(self, outer: "Location") -> bool:
        """Whether it is this directory, or below it."""
        if self.is_local and outer.is_local:
            return self.local.resolve().is_relative_to(outer.local.resolve())
        url, above = urlsplit(self.text), urlsplit(outer.text)
        return url[:2] == above[:2] and PurePosixPath(url.path).is_relative_to(above.path)

    def _remote(self) -> tuple[Any, str]:
        """(pyarrow file system, path in it)."""
        url = urlsplit(self.text)
        filesystem, root = open_filesystem(url.scheme, url.netloc, url.query)
        return filesystem, f"{root.rstrip('/')}/{unquote(url.path).lstrip('/')}".rstrip("/") or "/"

    def _info(self) -> Any:
        filesystem, path = self._remote()
        with _one_line(self):
            return filesystem.get_file_info(path)

    def exists(self) -> bool:
        """Whether there is such a file or directory."""
        return os.path.exists(self.text) if self.is_local else bool(self._info().type.value)

    def is_dir(self) -> bool:
        """Whether it is a directory; in an object store, whether something lies below."""
        return os.path.isdir(self.text) if self.is_local else self._info().type.name == "Directory"

    def size(self) -> int:
        """Of a file, bytes. Raises FileNotFoundError."""
        if self.is_local:
            return os.path.getsize(self.text)
        info = self._info()
        if not info.is_file:
            raise FileNotFoundError(f"there is no {self}")
        size: int = info.size
        return size

    def open(self) -> IO[bytes]:
        """For reading from front to back. Raises FileNotFoundError."""
        if self.is_local:
            return open(self.text, "rb")
        filesystem, path = self._remote()
        with _one_line(self):
            return filesystem.open_input_file(path)

    def read_bytes(self) -> bytes:
        """All of it. Raises FileNotFoundError."""
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[bytes]:
        """All of it, piece by piece. Raises FileNotFoundError."""
        with self.open() as file, _one_line(self):
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk

    def read_text(self) -> str:
        """All of it, as UTF-8. Raises FileNotFoundError, UnicodeDecodeError."""
        return self.read_bytes().decode("utf-8")

    def download(self, target: Path) -> None:
        """Copies this file to a path, or leaves nothing there. Raises FileNotFoundError."""
        try:
            with target.open("wb") as copy:
                copy.writelines(self.chunks())
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    @contextlib.contextmanager
    def writing(self) -> Iterator[IO[bytes]]:
        """A binary file that becomes this one, whole, when the block ends well; its directory must exist."""
        if self.is_local:
            with atomic_write(self.text, "wb") as file:
                yield file
            return
        with tempfile.NamedTemporaryFile(prefix="ttrnn-") as file:
            yield file
            file.flush()
            self._upload(file.name)

    def upload(self, source: Path) -> None:
        """Copies a file of this machine here, whole or not at all; its directory must exist."""
        if not self.is_local:
            self._upload(str(source))
            return
        with self.writing() as file, source.open("rb") as content:
            shutil.copyfileobj(content, file)

    def remove(self) -> None:
        """Deletes this file, if it is there."""
        if self.is_local:
            self.local.unlink(missing_ok=True)
            return
        filesystem, path = self._remote()
        with contextlib.suppress(FileNotFoundError), _one_line(self):
            filesystem.delete_file(path)

    def write_text(self, text: str) -> None:
        """Writes a UTF-8 file, whole or not at all."""
        with self.writing() as file:
            file.write(text.encode())

    def _upload(self, source: str) -> None:
        import pyarrow

        filesystem, path = self._remote()
        folder, name = posixpath.split(path)
        target = path if filesystem.type_name in _OBJECT_STORES else f"{folder}/.{name}.tmp"
        # Not by pyarrow's copy_files, which does not tell when the last request fails, of a small file the only one.
        # And in one piece: a stream that is closed on the way, by Ctrl-C say, makes a file of the half that it has.
        with _one_line(self), pyarrow.memory_map(source) as content:
            with filesystem.open_output_stream(target) as stream:
                stream.write(content.read_buffer())
            if target != path:
                filesystem.move(target, path)

    def mkdir(self) -> None:
        """Makes it a directory, and those above it. An object store needs none."""
        if self.is_local:
            os.makedirs(self.text, exist_ok=True)
            return
        filesystem, path = self._remote()
        if filesystem.type_name not in _OBJECT_STORES:
            with _one_line(self):
                filesystem.create_dir(path)

    def is_empty(self) -> bool:
        """Whether nothing lies in this directory, but what a writer that was killed has left."""
        if self.is_local:
            names = os.listdir(self.text)
        else:
            from pyarrow import fs

            filesystem, path = self._remote()
            with _one_line(self):
                names = [
                    info.base_name for info in filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
                ]
        return all(name.startswith(".") and name.endswith(".tmp") for name in names)

    def clear(self, last: str = "") -> None:
        """Deletes what lies in this directory, which may be a link, a mount or a bucket and stays.

        Locally the file `last` goes last: whoever is killed on the way leaves it there.
        """
        if self.is_local:
            for entry in sorted(os.scandir(self.text), key=lambda entry: entry.name == last):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry)
                else:
                    os.unlink(entry)
            return
        filesystem, path = self._remote()
        with _one_line(self):
            filesystem.delete_dir_contents(path)

    def files(self) -> list[str]:
        """All files below, by relative name with "/", sorted; nothing hidden.

        Follows links, but enters no directory twice; one that can't be read is told of and passed over.
        """
        return sorted(local_files(self.text) if self.is_local else self._remote_files())

    def _remote_files(self) -> list[str]:
        from pyarrow import fs

        filesystem, path = self._remote()
        with _one_line(self):
            found = filesystem.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        names = [info.path[len(path) :].lstrip("/") for info in found if info.is_file]
        return [name for name in names if not any(part.startswith(".") for part in name.split("/"))]


@contextlib.contextmanager
def _one_line(location: Location) -> Iterator[None]:
    """Tells the trouble of a remote file system as one line."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError, NotImplementedError) as error:
        if location.is_local:
            raise
        raise StorageError(f"{location}: {' '.join(str(error).split())}") from error

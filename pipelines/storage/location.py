"""Name files and directories by path or URI: on this machine, or on any file system that pyarrow opens (s3, gs, hdfs).

A file becomes visible whole or not at all: locally by fsync and rename, in an object store because an object appears
when its upload is complete, elsewhere by a temporary name.
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
from pipelines.storage.filesystem import NOT_IN_URLS, join_url, list_local_files, one_line_errors, open_filesystem
from ttrnn.files import atomic_write

__all__ = ["Location"]

# These need no temporary name, and a rename would copy the object.
_OBJECT_STORES = ("s3", "gcs", "abfs")
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class Location:
    """A file or directory, local or remote. Its text is what a user types: a path, or a URI.

    Arrow finds credentials and regions in the environment, the provider's configuration files or the machine's role.
    Options go into the URI: s3://bucket/shards?endpoint_override=http://127.0.0.1:9000&region=eu-west-1.

    Example:
        shards = Location.of("s3://bucket/shards")
        (shards / "dataset.json").read_text()
    """

    text: str

    @classmethod
    def of(cls, place: "str | Path | Location") -> "Location":
        """The location that a user typed.

        Raises:
            UserError: pyarrow does not know the scheme or understand the URI, or the URI holds a password.
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
        """The last part of the path."""
        path = self.text if self.is_local else unquote(urlsplit(self.text).path)
        return posixpath.basename(path.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine (a mounted network file system counts)."""
        return "://" not in self.text

    @property
    def local(self) -> Path:
        """The path. Raises UserError if the location is remote."""
        if not self.is_local:
            raise UserError(f"{self} is not on this machine; give a local or mounted path")
        return Path(self.text)

    def absolute(self) -> "Location":
        """The same location, independent of the working directory."""
        if not self.is_local:
            return self
        # `link/..` is the directory above the link's target.
        follow = os.path.realpath if ".." in self.text.split("/") else os.path.abspath
        return Location(follow(self.text))

    def lies_in(self, outer: "Location") -> bool:
        """Whether it is `outer`, or lies below it."""
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
        with one_line_errors(self.text):
            return filesystem.get_file_info(path)

    def exists(self) -> bool:
        """Whether the file or directory exists."""
        return os.path.exists(self.text) if self.is_local else bool(self._info().type.value)

    def is_dir(self) -> bool:
        """Whether it is a directory; in an object store, whether an object lies below it."""
        return os.path.isdir(self.text) if self.is_local else self._info().type.name == "Directory"

    def size(self) -> int:
        """The size of the file, bytes. Raises FileNotFoundError."""
        if self.is_local:
            return os.path.getsize(self.text)
        info = self._info()
        if not info.is_file:
            raise FileNotFoundError(f"there is no {self}")
        size: int = info.size
        return size

    def open(self) -> IO[bytes]:
        """Opens the file for reading from front to back. Raises FileNotFoundError."""
        if self.is_local:
            return open(self.text, "rb")
        filesystem, path = self._remote()
        with one_line_errors(self.text):
            return filesystem.open_input_file(path)

    def read_bytes(self) -> bytes:
        """The content of the file. Raises FileNotFoundError."""
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[bytes]:
        """The content of the file, in pieces of 4 MiB. Raises FileNotFoundError."""
        with self.open() as file, contextlib.nullcontext() if self.is_local else one_line_errors(self.text):
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk

    def read_text(self) -> str:
        """The content of the file as UTF-8. Raises FileNotFoundError, UnicodeDecodeError."""
        return self.read_bytes().decode("utf-8")

    def download(self, target: Path) -> None:
        """Copies the file to a path; where that fails, no file is left there. Raises FileNotFoundError."""
        try:
            with target.open("wb") as copy:
                copy.writelines(self.chunks())
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    @contextlib.contextmanager
    def writing(self) -> Iterator[IO[bytes]]:
        """Yields a binary file that replaces this one, whole, when the block ends without an error.

        The directory must exist.
        """
        if self.is_local:
            with atomic_write(self.text, "wb") as file:
                yield file
            return
        with tempfile.NamedTemporaryFile(prefix="ttrnn-") as file:
            yield file
            file.flush()
            self._upload(file.name)

    def upload(self, source: Path) -> None:
        """Copies a local file to this location, whole or not at all; the directory must exist."""
        if not self.is_local:
            self._upload(str(source))
            return
        with self.writing() as file, source.open("rb") as content:
            shutil.copyfileobj(content, file)

    def remove(self) -> None:
        """Deletes the file if it exists."""
        if self.is_local:
            self.local.unlink(missing_ok=True)
            return
        filesystem, path = self._remote()
        with contextlib.suppress(FileNotFoundError), one_line_errors(self.text):
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
        # Not pyarrow's copy_files, which ignores an error of the last request, of a small file the only one. And in one
        # piece: a stream that is closed early, by Ctrl-C say, would leave the first half as a complete file.
        with one_line_errors(self.text), pyarrow.memory_map(source) as content:
            with filesystem.open_output_stream(target) as stream:
                stream.write(content.read_buffer())
            if target != path:
                filesystem.move(target, path)

    def mkdir(self) -> None:
        """Makes the directory and its parents. In an object store it does nothing."""
        if self.is_local:
            os.makedirs(self.text, exist_ok=True)
            return
        filesystem, path = self._remote()
        if filesystem.type_name not in _OBJECT_STORES:
            with one_line_errors(self.text):
                filesystem.create_dir(path)

    def is_empty(self) -> bool:
        """Whether the directory holds nothing, except temporary files of writers that were killed."""
        if self.is_local:
            names = os.listdir(self.text)
        else:
            from pyarrow import fs

            filesystem, path = self._remote()
            with one_line_errors(self.text):
                names = [
                    info.base_name for info in filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
                ]
        return all(name.startswith(".") and name.endswith(".tmp") for name in names)

    def clear(self, last: str = "") -> None:
        """Deletes the content of the directory, but not the directory, which may be a link, a mount or a bucket.

        A local file `last` is deleted last: if the process is killed before, the file is still there.
        """
        if self.is_local:
            for entry in sorted(os.scandir(self.text), key=lambda entry: entry.name == last):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry)
                else:
                    os.unlink(entry)
            return
        filesystem, path = self._remote()
        with one_line_errors(self.text):
            filesystem.delete_dir_contents(path)

    def files(self) -> list[str]:
        """All files below, by relative name with "/", sorted; nothing hidden.

        Follows links but enters no directory twice. A directory that can't be read is skipped with a warning.
        """
        return sorted(list_local_files(self.text) if self.is_local else self._remote_files())

    def _remote_files(self) -> list[str]:
        from pyarrow import fs

        filesystem, path = self._remote()
        with one_line_errors(self.text):
            found = filesystem.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        names = [info.path[len(path) :].lstrip("/") for info in found if info.is_file]
        return [name for name in names if not any(part.startswith(".") for part in name.split("/"))]

"""Files and directories by path or URI: on this machine, or on any file system that pyarrow opens (s3, gs, hdfs, abfs).

What is written becomes visible whole or not at all: locally by fsync and rename, in an object store by an upload that
counts only when it is complete, elsewhere by a temporary name.
"""

import contextlib
import fcntl
import functools
import logging
import os
import posixpath
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import quote, unquote, urlsplit

from pipelines.cli import StepError, UserError
from ttrnn.files import atomic_write

__all__ = ["Location", "StorageError", "only_writer", "prepare_out", "refuse_other_options", "undone_if_refused"]

log = logging.getLogger(__name__)

# An object appears when its upload is complete, so it needs no temporary name (and a rename would copy it).
_OBJECT_STORES = ("s3", "gcs", "abfs")
_CHUNK_BYTES = 1 << 22
# No key of an object store is cut off at a #, but urlsplit does, and drops the others.
_NOT_IN_URLS = str.maketrans({char: quote(char) for char in "#\t\n\r"})


class StorageError(StepError):
    """A remote file system refuses or does not answer; told in one line."""


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
        url = urlsplit(text.translate(_NOT_IN_URLS))
        if url.password:
            raise UserError(
                f"{url.scheme}://...@{url.hostname} holds a password, which would stand in every file that "
                "names it; give it by environment or configuration file (AWS_SECRET_ACCESS_KEY, ~/.aws/credentials)"
            )
        if url.scheme == "file":
            if url.netloc not in ("", "localhost"):
                raise UserError(f"{text} names a machine, {url.netloc}; give file:///DIRECTORY, or a path")
            return cls(unquote(url.path))
        _filesystem(url.scheme, url.netloc, url.query)
        return cls(_join_url(url.scheme, url.netloc, url.path.rstrip("/"), url.query))

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> "Location":
        if self.is_local:
            return Location(os.path.join(self.text, name))
        url = urlsplit(self.text)
        return Location(_join_url(url.scheme, url.netloc, f"{url.path.rstrip('/')}/{quote(name)}", url.query))

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
        filesystem, root = _filesystem(url.scheme, url.netloc, url.query)
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
        return sorted(_local_files(self.text) if self.is_local else self._remote_files())

    def _remote_files(self) -> list[str]:
        from pyarrow import fs

        filesystem, path = self._remote()
        with _one_line(self):
            found = filesystem.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        names = [info.path[len(path) :].lstrip("/") for info in found if info.is_file]
        return [name for name in names if not any(part.startswith(".") for part in name.split("/"))]


def _local_files(top: str) -> list[str]:
    names: list[str] = []
    seen: set[tuple[int, int]] = set()

    def tell(error: OSError) -> None:
        log.warning("%s can't be read (%s) and is left out", error.filename, error.strerror)

    for folder, folders, files in os.walk(top, onerror=tell, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # In order, so that of two ways to a directory it is always the same one that counts.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        start = "" if folder == top else f"{os.path.relpath(folder, top)}/"
        names += [start + name for name in files if not name.startswith(".")]
    return names


def _join_url(scheme: str, netloc: str, path: str, query: str) -> str:
    # Not by urlunsplit, which makes hdfs:/shards of hdfs:///shards.
    return f"{scheme}://{netloc}{path}" + (f"?{query}" if query else "")


@functools.cache
def _filesystem(scheme: str, netloc: str, query: str) -> tuple[Any, str]:
    """A pyarrow file system, and the path of its root (in an object store: the bucket)."""
    from pyarrow import fs

    if scheme == "s3" and "allow_delayed_open" not in query:
        # A small file is one request then, not three.
        query = "&".join(filter(None, (query, "allow_delayed_open=true")))
    try:
        filesystem, root = fs.FileSystem.from_uri(_join_url(scheme, netloc, "/", query))
    except (OSError, ValueError, ImportError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"{scheme}://{netloc} can't be opened ({reason}); give a path, or a URI that pyarrow knows (s3, gs, hdfs)"
        ) from error
    return filesystem, root


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


def prepare_out(
    out: "str | Path | Location", *, marker: str, overwrite: bool = False, resume: bool | None = None
) -> Location:
    """Makes the directory OUT, or refuses one that exists.

    Args:
        out: The directory, or its URI.
        marker: A file that only this command writes there; --overwrite deletes nothing that lacks it.
        overwrite: Delete what is there and start anew.
        resume: Keep what is there; None for a command that has no --resume.

    Raises:
        UserError: OUT exists and neither is given, or it is not ours to delete.
    """
    place = Location.of(out)
    if place.is_dir() and not place.is_empty():
        ours = (place / marker).exists()
        if resume:
            if not ours:
                raise UserError(f"{out} has no {marker}: nothing to resume there; give another OUT")
        elif overwrite:
            if not ours:
                raise UserError(
                    f"{out} has no {marker}: it was not made by this command and is not deleted; "
                    "give another OUT, or remove it yourself"
                )
            place.clear(last=marker)
        else:
            way_out = "" if resume is None else "--resume continues it, "
            raise UserError(f"{out} exists; {way_out}--overwrite deletes it first")
    _make(place)
    return place


def refuse_other_options(
    out: Path, earlier: Mapping[str, Any], settings: Mapping[str, Any], *, name_of_out: str = "OUT"
) -> None:
    """Raises UserError if what is in OUT was started with other options than `settings`."""
    for name, value in settings.items():
        if earlier.get(name) != value:
            raise UserError(
                f"{out} was started with {name} {earlier.get(name)!r}, not {value!r}; resume it with the same "
                f"options, or give another {name_of_out}"
            )


@contextlib.contextmanager
def undone_if_refused(out: Path, *, marker: str) -> Iterator[None]:
    """Removes OUT, if it has only its marker yet, where the block raises a UserError: the corrected command must not be
    told that OUT exists."""
    try:
        yield
    except UserError:
        if [path.name for path in out.iterdir()] == [marker]:
            shutil.rmtree(out)
        raise


def _make(place: Location) -> None:
    if place.exists() and not place.is_dir():
        raise UserError(f"{place} is a file; OUT must be a directory")
    try:
        place.mkdir()
    except OSError as error:
        raise UserError(f"{place} cannot be made: {error.strerror}") from error


@contextlib.contextmanager
def only_writer(place: Location, *, wait_s: float = 0.0) -> Iterator[None]:
    """Keeps other processes of this machine, which ask too, out of a directory while the block runs.

    A local directory is made for it, and removed if nothing comes to lie there. Remote ones are not guarded.

    Args:
        place: The directory.
        wait_s: How long to wait for another process, in seconds.

    Raises:
        UserError: another process is in it still, or it can't be made, or not be written to.
    """
    if not place.is_local:
        yield
        return
    is_new = not place.exists()
    _make(place)
    if not os.access(place.local, os.W_OK | os.X_OK):
        raise UserError(f"{place} can't be written to; give another OUT")
    # The directory, not a file in it: nothing is left behind, and --overwrite deletes no lock.
    descriptor = os.open(place.text, os.O_RDONLY)
    try:
        _lock(descriptor, place, wait_s)
        try:
            yield
        finally:
            if is_new:
                with contextlib.suppress(OSError):
                    os.rmdir(place.text)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, place: Location, wait_s: float) -> None:
    give_up = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= give_up:
                raise UserError(
                    f"another command is writing to {place}; wait until it is done, or give another OUT"
                ) from error
            time.sleep(0.1)
        except OSError:
            log.info("%s: its file system has no locks; see to it that no other command writes there", place)
            return
        else:
            return

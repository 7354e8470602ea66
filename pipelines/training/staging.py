"""Stage a run on the node that trains it, without a file system that the nodes share.

The directory of a run lies on the head node, the one of the command. Another node trains at the same path of its own
disk. It first downloads what it needs: shards, the model to start from, the checkpoint to continue from. It uploads
what it writes after each epoch, before that epoch is reported. Where a node sees the very directory, by NFS say,
nothing is copied.
"""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.core.errors import StepError, UserError
from pipelines.data.dataset import ShardDataset
from pipelines.data.shards import DATASET_JSON
from pipelines.storage.location import Location
from pipelines.storage.lock import only_writer
from pipelines.training.head_node import CHUNK_BYTES, MARKER, SupersededError, digests, files_below
from pipelines.training.options import TrainOptions
from pipelines.training.run_directory import RunDirectory
from ttrnn.files import atomic_write, sha256

__all__ = ["DISK_ERRORS", "StagedRun", "UnfitNodeError", "staged_run"]

# Another process of the node downloads the same shards.
_WAIT_S = 3600.0
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""Error numbers of a disk that is full or broken."""


class UnfitNodeError(StepError):
    """This node cannot keep the files of a run: no room, a broken disk, no rights. Another node may."""

    node: str
    """its id in Ray"""

    @classmethod
    def this_node(cls, path: Path, error: OSError, way_out: str) -> "UnfitNodeError":
        """The error of the node of this process."""
        import ray

        unfit = cls(f"node {os.uname().nodename} can't keep {path} ({error.strerror}); {way_out}")
        unfit.node = ray.get_runtime_context().get_node_id()
        return unfit


class StagedRun:
    """A run on this node, and the way of its files to the head node.

    Args:
        server: As `serve_files` gives it; None: the directory of the run is on this node, and nothing is copied.
        out: The directory of the run on the head node, absolute.
        root: Where paths of the head node begin on this node.
        is_writer: Whether this process writes the run; others only read what it continues from.
    """

    def __init__(self, server: str | None, out: Path, *, root: Path = Path("/"), is_writer: bool = True) -> None:
        self._server, self._source, self._root = None, str(out), root
        self.out = self.local_path(str(out))
        self._uploaded: dict[str, Any] = {}
        self._lease, self._is_created = 0, False
        if server is None:
            return
        import ray

        node, name = server.split("/")
        is_head = ray.get_runtime_context().get_node_id() == node and root == Path("/")
        self._server = ray.get_actor(name)
        if is_writer:
            token, self._lease = self._call("claim", self._source)
        elif not is_head:
            token = self._call("mark", self._source)
        if is_head or self._sees(token):
            self._server = None
            return
        with self._writing(self.out):
            try:
                self.out.parent.mkdir(parents=True, exist_ok=True)
                # The server has made it by now: a directory that can be made here is another one, and may be removed.
                self.out.mkdir()
                self._is_created = is_writer
            except FileExistsError:
                pass
            self._download(self._source)
        self._uploaded = _entries(self.out)

    @property
    def is_remote(self) -> bool:
        """Whether the run lies on a disk of this node, and a copy on the head node."""
        return self._server is not None

    def local_path(self, path: str) -> Path:
        """The path on this node of a path of the head node."""
        return self._root / Path(path).relative_to("/")

    def localized(self, options: TrainOptions) -> TrainOptions:
        """The options with paths of this node; what they name is downloaded."""
        init = None if options.init is None else self.download(options.init)
        teacher = ",".join(map(self.download, options.teacher_paths)) or None
        shards = self.download_shards(options.shards)
        return dataclasses.replace(options, out=str(self.out), shards=shards, init=init, teacher=teacher)

    def download(self, path: str) -> str:
        """Downloads a directory of the head node; gives its path here. A URI is left as it is."""
        if self._server is None or not Location.of(path).is_local:
            return path
        with self._writing(self.local_path(path)):
            self._download(path)
        return str(self.local_path(path))

    def download_shards(self, path: str) -> str:
        """Downloads the shards that dataset.json names; gives their path here. A URI is left as it is."""
        if self._server is None or not Location.of(path).is_local:
            return path
        target, document = self.local_path(path), b"".join(self._chunks(f"{path}/{DATASET_JSON}"))
        if not _has_shards(target, document):
            with self._writing(target), only_writer(Location.of(target), wait_s=_WAIT_S):
                if not _has_shards(target, document):
                    self._download_shards(path, target, document)
        return str(target)

    def _download_shards(self, path: str, target: Path, document: bytes) -> None:
        (target / DATASET_JSON).unlink(missing_ok=True)
        for split in json.loads(document)["splits"].values():
            for shard in split["shards"]:
                file = target / shard["file"]
                if file.exists() and sha256(file) == shard["sha256"]:
                    continue
                self._download_file(f"{path}/{shard['file']}", file)
                if sha256(file) != shard["sha256"]:
                    raise StepError(f"{path}/{shard['file']} is damaged; delete it and run preprocess --resume")
        with atomic_write(target / DATASET_JSON, "wb") as copy:
            copy.write(document)

    def upload(self) -> None:
        """Uploads what has changed, each file and directory of the run whole.

        Raises:
            SupersededError: the run was handed to another process.
            StepError: the directory of the run is gone from this node; the copy on the head node stays.
        """
        if self._server is None:
            return
        entries = _entries(self.out)
        if not self.out.is_dir():
            raise StepError(
                f"{self.out} is gone from node {os.uname().nodename}; the run continues from its copy on the head node"
            )
        # A file that says that the run has ended comes after all that it left.
        last = {name: number for number, name in enumerate(RunDirectory.LAST, start=1)}
        for entry in sorted(entries, key=lambda name: last.get(name, 0)):
            if self._uploaded.get(entry) != entries[entry]:
                self._upload(entry)
                self._uploaded[entry] = entries[entry]
        for entry in self._uploaded.keys() - entries.keys():
            self._call("remove", self._source, self._lease, entry)
            del self._uploaded[entry]

    def _upload(self, entry: str) -> None:
        path = self.out / entry
        for name, part in (files_below(path) if path.is_dir() else {"": path}).items():
            offset = 0
            with part.open("rb") as file:
                while (chunk := file.read(CHUNK_BYTES)) or offset == 0:
                    self._call("upload", self._source, self._lease, entry, name, offset, chunk)
                    offset += len(chunk)
                    if not chunk:
                        break
        self._call("commit", self._source, self._lease, entry)

    def close(self) -> None:
        """Removes the copy on this node."""
        if self._is_created:
            shutil.rmtree(self.out, ignore_errors=True)

    def _sees(self, token: str) -> bool:
        try:
            return (self.out / MARKER).read_text(encoding="utf-8") == token
        except OSError:
            return False

    def _call(self, method: str, *args: Any) -> Any:
        import ray

        try:
            return ray.get(getattr(self._server, method).remote(*args))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SupersededError):
                raise error.cause from None
            if isinstance(error.cause, OSError):
                # Of the head node: an OSError would be taken for one of this node.
                raise StepError(f"{args[0]}, on the node of the command: {error.cause.strerror}") from error
            raise

    def _chunks(self, path: str) -> Iterator[bytes]:
        offset = 0
        while chunk := self._call("read", path, offset):
            yield chunk
            offset += len(chunk)

    def _download_file(self, path: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target, "wb") as file:
            file.writelines(self._chunks(path))

    def _download(self, path: str) -> None:
        """Makes a directory here the same as on the head node."""
        target = self.local_path(path)
        wanted, found = self._call("digests", path), digests(target)
        for name in wanted:
            if wanted[name] != found.get(name):
                self._download_file(f"{path}/{name}", target / name)
        for name in found.keys() - wanted.keys():
            (target / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            way_out = "give paths that all nodes can write to, below the home directory say, or shards on s3://"
            raise UnfitNodeError.this_node(path, error, way_out) from error


@contextlib.contextmanager
def staged_run(server: str | None, out: str, *, root: Path = Path("/"), is_writer: bool = True) -> Iterator[StagedRun]:
    """Stages a run on this node; what it wrote is uploaded at the end, also when the block fails.

    Raises:
        UnfitNodeError: this is not the head node, and its disk cannot take what the block writes.
    """
    run = StagedRun(server, Path(out), root=root, is_writer=is_writer)
    try:
        yield run
    except OSError as error:
        if not run.is_remote or error.errno not in DISK_ERRORS:
            raise
        raise UnfitNodeError.this_node(run.out, error, "make room there") from error
    finally:
        if is_writer:
            with contextlib.suppress(SupersededError):
                run.upload()
        run.close()


def _has_shards(directory: Path, document: bytes) -> bool:
    """Whether the shards that dataset.json describes are here."""
    try:
        if (directory / DATASET_JSON).read_bytes() != document:
            return False
        ShardDataset.open(directory)
    except (OSError, StepError, UserError):
        return False
    return True


def _entries(directory: Path) -> dict[str, Any]:
    """The files and directories in a directory, each with what changes when it is written."""
    found: dict[str, Any] = {}
    for name, path in files_below(directory).items():
        status = path.stat()
        found.setdefault(name.split("/")[0], {})[name] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return found

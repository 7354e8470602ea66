"""Trainings on all nodes of a cluster, without a file system that the nodes share.

The directory of a run lies on the node of the command: home. A training on another node works at the same path of its
own disk. What it needs is brought there first: shards, the model it starts from, the checkpoint it goes on from. What
it writes is sent home after each epoch, before that epoch is reported. Where a node sees the very directory, by NFS
say, nothing is copied.
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
from pipelines.training.head_node import MARKER, SupersededError, digests, files_below
from pipelines.training.options import TrainOptions
from pipelines.training.run_directory import RunDirectory
from ttrnn.files import atomic_write, sha256

__all__ = ["OF_THE_DISK", "UnfitNodeError", "Visit", "visiting"]


# Another process of the node fetches the same shards.
_WAIT_S = 3600.0
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""Error numbers of a disk that is full or broken."""


class UnfitNodeError(StepError):
    """This node can't keep the files of a run: no room, a broken disk, no rights. On another node it may go on."""

    node: str
    """its id, to Ray"""

    @classmethod
    def here(cls, place: Path, error: OSError, way_out: str) -> "UnfitNodeError":
        """What this node says of itself."""
        import ray

        unfit = cls(f"node {os.uname().nodename} can't keep {place} ({error.strerror}); {way_out}")
        unfit.node = ray.get_runtime_context().get_node_id()
        return unfit


class Visit:
    """A run on this node, and its way home.

    Args:
        home: As `kept_home` gives it; None: the run's directory is here, there is nothing to do.
        out: Of the run, absolute.
        root: Where paths of home begin on this node.
        is_writer: Whether this process writes the run; others only read what it goes on from.
    """

    def __init__(self, home: str | None, out: Path, *, root: Path = Path("/"), is_writer: bool = True) -> None:
        self._home, self._at_home, self._root = None, str(out), root
        self.out = self.here(str(out))
        self._sent: dict[str, Any] = {}
        self._visit, self._created = 0, False
        if home is None:
            return
        import ray

        node, name = home.split("/")
        is_home = ray.get_runtime_context().get_node_id() == node and root == Path("/")
        self._home = ray.get_actor(name)
        if is_writer:
            token, self._visit = self._ask("claim", self._at_home)
        elif not is_home:
            token = self._ask("mark", self._at_home)
        if is_home or self._sees(token):
            self._home = None
            return
        with self._writable(self.out):
            try:
                self.out.parent.mkdir(parents=True, exist_ok=True)
                # Home has made it by now: what can be made here is not what home sees, and may be removed.
                self.out.mkdir()
                self._created = is_writer
            except FileExistsError:
                pass
            self._bring(self._at_home)
        self._sent = _entries(self.out)

    @property
    def is_away(self) -> bool:
        """Whether the run lies on a disk of this node, and a copy at home."""
        return self._home is not None

    def here(self, path: str) -> Path:
        """A path of home on this node."""
        return self._root / Path(path).relative_to("/")

    def brought(self, options: TrainOptions) -> TrainOptions:
        """The options of a run at home, with paths of this node, where what they need has been brought."""
        init = None if options.init is None else self.bring(options.init)
        return dataclasses.replace(options, out=str(self.out), shards=self.bring_shards(options.shards), init=init)

    def bring(self, path: str) -> str:
        """Makes a directory of home be here; gives its path here. A URI stays what it is."""
        if self._home is None or not Location.of(path).is_local:
            return path
        with self._writable(self.here(path)):
            self._bring(path)
        return str(self.here(path))

    def bring_shards(self, path: str) -> str:
        """Likewise the shards that dataset.json names there."""
        if self._home is None or not Location.of(path).is_local:
            return path
        place, document = self.here(path), self._read(f"{path}/{DATASET_JSON}")
        if not _has(place, document):
            with self._writable(place), only_writer(Location.of(place), wait_s=_WAIT_S):
                if not _has(place, document):
                    self._fetch_shards(path, place, document)
        return str(place)

    def _fetch_shards(self, path: str, place: Path, document: bytes) -> None:
        (place / DATASET_JSON).unlink(missing_ok=True)
        splits = json.loads(document)["splits"].values()
        for shard in (shard for split in splits for shard in split["shards"]):
            target = place / shard["file"]
            if target.exists() and sha256(target) == shard["sha256"]:
                continue
            self._fetch(f"{path}/{shard['file']}", target)
            if sha256(target) != shard["sha256"]:
                raise StepError(f"{path}/{shard['file']} is damaged; delete it and run preprocess --resume")
        with atomic_write(place / DATASET_JSON, "wb") as file:
            file.write(document)

    def send(self) -> None:
        """Sends home what has changed, each file and directory of the run whole.

        Raises:
            SupersededError: the run is another process's by now.
            StepError: the run's directory is gone from this node; what lies at home stays.
        """
        if self._home is None:
            return
        entries = _entries(self.out)
        if not self.out.is_dir():
            raise StepError(f"{self.out} is gone from node {os.uname().nodename}; the run goes on from what is at home")
        for entry in sorted(
            entries,
            key=lambda name: (
                name in RunDirectory.LAST,
                RunDirectory.LAST.index(name) if name in RunDirectory.LAST else 0,
            ),
        ):
            if self._sent.get(entry) == entries[entry]:
                continue
            path = self.out / entry
            files = files_below(path) if path.is_dir() else {"": path}
            contents = {name: file.read_bytes() for name, file in files.items()}
            self._ask("keep", self._at_home, self._visit, entry, contents)
            self._sent[entry] = entries[entry]
        for entry in self._sent.keys() - entries.keys():
            self._ask("drop", self._at_home, self._visit, entry)
            del self._sent[entry]

    def close(self) -> None:
        """Removes the copy of what lies at home."""
        if self._created:
            shutil.rmtree(self.out, ignore_errors=True)

    def _sees(self, token: str) -> bool:
        try:
            return (self.out / MARKER).read_text(encoding="utf-8") == token
        except OSError:
            return False

    def _ask(self, method: str, *args: Any) -> Any:
        import ray

        try:
            return ray.get(getattr(self._home, method).remote(*args))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SupersededError):
                raise error.cause from None
            if isinstance(error.cause, OSError):
                # Not of this node, which is told by it otherwise.
                raise StepError(f"{args[0]}, on the node of the command: {error.cause.strerror}") from error
            raise

    def _read(self, path: str) -> bytes:
        return b"".join(self._chunks(path))

    def _chunks(self, path: str) -> Iterator[bytes]:
        offset = 0
        while chunk := self._ask("read", path, offset):
            yield chunk
            offset += len(chunk)

    def _fetch(self, path: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target, "wb") as file:
            file.writelines(self._chunks(path))

    def _bring(self, path: str) -> None:
        """What lies here becomes what lies at home."""
        place = self.here(path)
        theirs, ours = self._ask("digests", path), digests(place)
        for name in theirs:
            if theirs[name] != ours.get(name):
                self._fetch(f"{path}/{name}", place / name)
        for name in ours.keys() - theirs.keys():
            (place / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writable(self, place: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            way_out = "give paths that all nodes can write to, below the home directory say, or shards on s3://"
            raise UnfitNodeError.here(place, error, way_out) from error


@contextlib.contextmanager
def visiting(home: str | None, out: str, *, root: Path = Path("/"), is_writer: bool = True) -> Iterator[Visit]:
    """A run in `out` in this process; what it has left is sent home at the end, also when it fails.

    Raises:
        UnfitNodeError: this node is not home, and its disk can't take what the block writes.
    """
    visit = Visit(home, Path(out), root=root, is_writer=is_writer)
    try:
        yield visit
    except OSError as error:
        if not visit.is_away or error.errno not in OF_THE_DISK:
            raise
        raise UnfitNodeError.here(visit.out, error, "make room there") from error
    finally:
        if is_writer:
            with contextlib.suppress(SupersededError):
                visit.send()
        visit.close()


def _has(place: Path, document: bytes) -> bool:
    """Whether these very shards are here."""
    try:
        if (place / DATASET_JSON).read_bytes() != document:
            return False
        ShardDataset.open(place)
    except (OSError, StepError, UserError):
        return False
    return True


def _entries(directory: Path) -> dict[str, Any]:
    """What lies in a directory, and what tells whether it has changed."""
    found: dict[str, Any] = {}
    for name, path in files_below(directory).items():
        status = path.stat()
        found.setdefault(name.split("/")[0], {})[name] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return found

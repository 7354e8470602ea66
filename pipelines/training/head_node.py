"""Serve the files of the node of the command to other nodes: an actor that reads and writes them.

staging.py is the other side. The process of the actor imports this module alone, so it imports little.
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipelines.cluster.ray_internals import has_started_ray
from pipelines.core.errors import StepError
from pipelines.storage.location import Location
from ttrnn.files import atomic_directory, atomic_write, fsync_path, sha256

__all__ = ["CHUNK_BYTES", "MARKER", "SupersededError", "digests", "files_below", "serve_files"]

MARKER = ".home"
"""A file in a directory of the head node that names the server: a node that reads the same name there sees the very
directory, by NFS say."""
CHUNK_BYTES = 1 << 23
"""Largest piece of a file that is sent at a time: no file passes through memory as a whole."""


class SupersededError(StepError):
    """The run was handed to another process, since this one was taken for dead: it must not write any more."""


class _FileServer:
    """The actor on the head node.

    What a node uploads lies in a hidden directory until `commit` puts it in place. After a restart of the actor a call
    may be made twice, so each call may be.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self._leases: dict[str, int] = {}

    def claim(self, directory: str) -> tuple[str, int]:
        """Makes the caller the writer of a directory; gives the content of its marker and the number of its lease."""
        self._leases[directory] = self._leases.get(directory, 0) + 1
        return self.mark(directory), self._leases[directory]

    def mark(self, directory: str) -> str:
        """Writes the marker of a directory; gives its content."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        with atomic_write(Path(directory, MARKER)) as file:
            file.write(self._token)
        return self._token

    def digests(self, directory: str) -> dict[str, str]:
        """SHA-256 of all files below, by relative name."""
        return digests(Path(directory))

    def read(self, path: str, offset: int) -> bytes:
        """The next bytes of a file; none at its end."""
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(CHUNK_BYTES)

    def upload(self, directory: str, lease: int, entry: str, name: str, offset: int, chunk: bytes) -> None:
        """Takes a piece of a file: of `entry` itself where `name` is "", else of a file in the directory `entry`."""
        part = self._part(directory, lease, entry) / "content" / name
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb" if offset == 0 else "r+b") as file:
            file.seek(offset)
            file.write(chunk)

    def commit(self, directory: str, lease: int, entry: str) -> None:
        """Puts an uploaded file or directory in place of the older one, whole."""
        part, target = self._part(directory, lease, entry), Path(directory, entry)
        content = part / "content"
        if content.is_dir():
            with atomic_directory(target) as temporary:
                for path in content.iterdir():
                    os.replace(path, temporary / path.name)
        elif content.exists():
            fsync_path(content)
            os.replace(content, target)
        shutil.rmtree(part, ignore_errors=True)

    def remove(self, directory: str, lease: int, entry: str) -> None:
        """Removes a file or directory, if it is there."""
        self._check(directory, lease)
        target = Path(directory, entry)
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    def _part(self, directory: str, lease: int, entry: str) -> Path:
        """Where an upload lies until it is whole."""
        self._check(directory, lease)
        return Path(directory, f".{entry}.{lease}.tmp")

    def _check(self, directory: str, lease: int) -> None:
        # After a restart of the actor the first process to write is taken for the right one.
        if self._leases.setdefault(directory, lease) != lease:
            raise SupersededError(f"{directory} was handed to another process")


@contextlib.contextmanager
def serve_files() -> Iterator[str | None]:
    """Serves the files of this node to the other nodes while the block runs; Ray must be up.

    Yields:
        The address of the server, for `staged_run`; None where no other node can join.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if has_started_ray():
        yield None
        return
    name = f"files-{uuid.uuid4().hex}"
    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = (
        ray.remote(_FileServer)
        .options(name=name, num_cpus=0, memory=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=this_node)
        .remote(name)
    )
    try:
        yield f"{ray.get_runtime_context().get_node_id()}/{name}"
    finally:
        ray.kill(actor)  # type: ignore[arg-type]


def files_below(directory: Path) -> dict[str, Path]:
    """All files below a directory by relative name, but hidden ones."""
    return {name: directory / name for name in Location(str(directory)).files()}


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of all files below, by relative name."""
    return {name: sha256(path) for name, path in files_below(directory).items()}

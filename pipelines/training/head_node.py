"""The node of the command, and what other nodes may ask of it: an actor that reads and writes files there.

The other side is visit.py. Light: this module is all that the actor's process imports.
"""

import contextlib
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipelines.core.errors import StepError
from pipelines.storage.location import Location
from ttrnn.files import atomic_directory, atomic_write, sha256

__all__ = ["MARKER", "SupersededError", "digests", "files_below", "kept_home"]


MARKER = ".home"
"""In a directory of home, a file that says whose home it is: who sees the same words sees the same directory."""
_CHUNK_BYTES = 1 << 23


class SupersededError(StepError):
    """Another process has been given this run: this one was taken for dead, and must not write any more."""


class _Home:
    """The actor on the node of the command."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._visits: dict[str, int] = {}

    def claim(self, directory: str) -> tuple[str, int]:
        """Makes the caller the one that writes there: (what the marker says at home, number of its visit)."""
        self._visits[directory] = self._visits.get(directory, 0) + 1
        return self.mark(directory), self._visits[directory]

    def mark(self, directory: str) -> str:
        """What the marker there says from now on."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        with atomic_write(Path(directory, MARKER)) as file:
            file.write(self._token)
        return self._token

    def digests(self, directory: str) -> dict[str, str]:
        """SHA-256 of all that lies there, by relative name."""
        return digests(Path(directory))

    def read(self, path: str, offset: int) -> bytes:
        """The next bytes of a file; none at its end."""
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(_CHUNK_BYTES)

    def keep(self, directory: str, visit: int, entry: str, files: Mapping[str, bytes]) -> None:
        """Writes a file ({"": content}) or a directory of files, whole; it may be told so twice."""
        self._check(directory, visit)
        target = Path(directory, entry)
        if "" in files:
            with atomic_write(target, "wb") as file:
                file.write(files[""])
            return
        with atomic_directory(target) as temporary:
            for name, content in files.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                (temporary / name).write_bytes(content)

    def drop(self, directory: str, visit: int, entry: str) -> None:
        """Removes a file or directory, if it is there still."""
        self._check(directory, visit)
        target = Path(directory, entry)
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    def _check(self, directory: str, visit: int) -> None:
        # After a restart of this process the first one to write is taken for the right one.
        if self._visits.setdefault(directory, visit) != visit:
            raise SupersededError(f"{directory} is another process's by now")


@contextlib.contextmanager
def kept_home() -> Iterator[str | None]:
    """Keeps the files of this node in reach of the others while the block runs; Ray must be up.

    Yields:
        What `visiting` wants to know, by which processes of this job find home; None where no other node can come.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if _is_alone():
        yield None
        return
    name = f"home-{uuid.uuid4().hex}"
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = (
        ray.remote(_Home)
        .options(name=name, num_cpus=0, memory=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)
        .remote(name)
    )
    try:
        yield f"{ray.get_runtime_context().get_node_id()}/{name}"
    finally:
        ray.kill(actor)  # type: ignore[arg-type]


def _is_alone() -> bool:
    """Whether this process has started the Ray that it uses, for itself."""
    from ray._private import worker

    node = worker._global_node
    return node is not None and node.is_head()


def files_below(directory: Path) -> dict[str, Path]:
    """All files below by relative name, nothing hidden."""
    return {name: directory / name for name in Location(str(directory)).files()}


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of all files below, by relative name."""
    return {name: sha256(path) for name, path in files_below(directory).items()}

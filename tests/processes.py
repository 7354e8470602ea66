"""Start child processes for tests and kill them, with all their descendants, when the test ends (see conftest.py).

A child is the leader of its own session, and is killed when the process that started it dies. Its descendants are
recognised by an environment variable, which they inherit into whatever session or process group they move.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

SESSION = "TTRNN_TEST_SESSION"
"""The environment variable that all processes of a test session inherit."""
_CHILD = "TTRNN_TEST_CHILD"
_PR_SET_PDEATHSIG = 1


class Child(subprocess.Popen[str]):
    """A process that is killed at the end of its test, or of its `with` block, with all its descendants."""

    of_test: ClassVar[set["Child"]] = set()
    """Those to end with the test that is running."""

    def __init__(self, words: list[Any], env: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        self._mark = uuid.uuid4().hex
        self.of_test.add(self)
        super().__init__(
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), *map(str, words)],
            env={**(os.environ if env is None else env), _CHILD: self._mark},
            text=True,
            start_new_session=True,
            **kwargs,
        )

    def end(self) -> None:
        """Kills it and all its descendants."""
        kill_all(_CHILD, self._mark)
        self.wait()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.of_test.discard(self)

    def __enter__(self) -> "Child":
        self.of_test.discard(self)
        return self

    def __exit__(self, *error: Any) -> None:
        self.end()


def run(words: list[Any], *, check: bool = True, timeout_s: float = 200, **kwargs: Any) -> Any:
    """subprocess.run with captured output; what the child has started is killed when it ends."""
    with Child(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs) as child:
        stdout, stderr = child.communicate(timeout=timeout_s)
    assert child.returncode == 0 or not check, stderr
    return subprocess.CompletedProcess(child.args, child.returncode, stdout, stderr)


def kill_all(name: str, value: str) -> None:
    """Kills the processes whose environment holds name=value, and those that they start meanwhile."""
    while found := marked(name, value):
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.01)


def marked(name: str, value: str) -> list[int]:
    """Ids of the other running processes whose environment holds name=value."""
    line, found = f"{name}={value}".encode(), []
    for directory in Path("/proc").glob("[0-9]*"):
        # It may end meanwhile, or be another user's. The environment of a zombie is empty.
        with contextlib.suppress(OSError):
            if int(directory.name) != os.getpid() and line in (directory / "environ").read_bytes().split(b"\0"):
                found.append(int(directory.name))
    return found


def _become(parent: int, words: list[str]) -> None:
    """Replaces this process by a command that is killed when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:
        os.execvp(words[0], words)


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])

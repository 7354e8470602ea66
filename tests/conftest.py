"""Run the longest tests first, and fail a session that leaves processes behind."""

import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import processes
from tests.processes import Child

# In the order in which they start, so that no core waits for them at the end: those that start Ray.
_LONGEST = (
    "test_sweep.py",
    "test_train.py",
    "test_sweep_plan.py",
    "test_bucket.py",
    "test_launcher_nodes.py",
    "test_preprocessing_nodes.py",
    "test_preprocess.py",
    "test_interrupts.py",
    "test_reproduce.py",
    "test_preprocess_codecs.py",
    "test_staging.py",
    "test_trainer.py",
)
_HELPERS = ("resource_tracker", "forkserver")
# Ray's processes notice within seconds that their driver has ended.
_WAIT_S = 15


def pytest_configure() -> None:
    # A shell that starts the tests in the background lets them ignore Ctrl-C. Tests, and their children, must not.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault(processes.SESSION, uuid.uuid4().hex)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts them; within a file the order stays."""
    rank = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(autouse=True)
def _children_end_with_their_test() -> Iterator[None]:
    yield
    for child in tuple(Child.of_test):
        child.end()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Kills the processes that are left behind and fails the session, after the workers of pytest-xdist have ended."""
    if hasattr(session.config, "workerinput"):
        return
    end = time.monotonic() + _WAIT_S
    while (left := _left_behind()) and time.monotonic() < end:
        time.sleep(0.1)
    for process, command in left.items():
        session.config.get_terminal_writer().line(f"\nleft behind by the tests: {process} {command}", red=True)
        os.kill(process, signal.SIGKILL)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _left_behind() -> dict[int, str]:
    """Ids and command lines of the session's processes, but for helpers of multiprocessing that end with pytest."""
    found = {}
    for process in processes.marked(processes.SESSION, os.environ[processes.SESSION]):
        try:
            command = Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8").replace("\0", " ")
        except OSError:
            continue
        if not any(f"from multiprocessing.{name} import main" in command for name in _HELPERS):
            found[process] = command
    return found

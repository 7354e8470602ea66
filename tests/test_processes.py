"""Processes of tests end with them, wherever they have moved."""

import subprocess
import sys
import time
from pathlib import Path

from tests.processes import Child, run


def is_running(process: int) -> bool:
    """Whether there is such a process that is no zombie, whose command line is empty."""
    path = Path(f"/proc/{process}/cmdline")
    return path.exists() and path.read_bytes() != b""


def test_descendants_in_other_sessions_end_with_the_block() -> None:
    with Child(["sh", "-c", "setsid sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        other = int(child.stdout.readline())
        # While a process replaces itself by a command, its command line is empty for a moment.
        deadline = time.monotonic() + 30
        while not is_running(other):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not is_running(other)
    assert child.returncode == -9


def test_a_child_dies_with_the_process_that_started_it() -> None:
    code = "import os\nfrom tests.processes import Child\nprint(Child(['sleep', '1000']).pid, flush=True)\nos._exit(0)"
    with Child([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        deadline = time.monotonic() + 30
        while is_running(child):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_what_a_child_leaves_running_does_not_outlive_it() -> None:
    done = run(["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"])
    assert not is_running(int(done.stdout))

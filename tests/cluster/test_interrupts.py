"""pipelines/cluster/interrupts.py: Ctrl-C and SIGTERM stay with the command."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipelines.cluster.interrupts import delayed_interrupts, kept_signals, run_in_thread
from tests.processes import Child, marked
from tests.shards import make_shards

ROOT = Path(__file__).resolve().parents[2]
_MARK = "TTRNN_TEST_INTERRUPTS"
SIGNALS = [signal.SIGINT, signal.SIGTERM]


def interrupt(number: int, _: object) -> None:
    raise InterruptedError(number)


@pytest.fixture(autouse=True)
def handlers() -> object:
    """The handlers of a command, and afterwards those of the tests again."""
    before = [signal.signal(number, interrupt) for number in SIGNALS]
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_are_delayed_until_the_block_has_ended(number: int) -> None:
    done = []

    def work() -> None:
        with delayed_interrupts():
            # As Ray does when it starts.
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
            signal.raise_signal(number)
            done.append("block")
        done.append("never")

    with pytest.raises(InterruptedError, match=str(int(number))):
        work()
    assert done == ["block"]
    assert [signal.getsignal(number) for number in SIGNALS] == [interrupt, interrupt]


def test_handlers_that_the_block_installs_are_removed_and_ignored_signals_stay_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with delayed_interrupts():
        signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert [signal.getsignal(number) for number in SIGNALS] == [signal.SIG_IGN, interrupt]
    with kept_signals():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_pass_through() -> None:
    done = []

    def work() -> None:
        with delayed_interrupts(), kept_signals():
            done.append("block")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["block"]


def test_an_error_in_the_thread_is_raised() -> None:
    with pytest.raises(KeyError, match="name"):
        run_in_thread(lambda: {}["name"])


@pytest.mark.timeout(600)
def test_a_sweep_whose_ctrl_c_is_ignored_ends_at_sigterm_with_all_its_processes(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards")
    options = ["--data", str(shards), "--out", str(tmp_path / "sweep"), "--num-trials", "2", "--epochs", "3000"]
    line = 'trap "" INT; exec "$@"'
    mark = f"{os.getpid()}-{time.time()}"
    with Child(
        [
            "sh",
            "-c",
            line,
            "sh",
            sys.executable,
            "-m",
            "pipelines.sweep",
            *options,
            "--early-stopping",
            "none",
            "--baselines",
            "none",
        ],
        stderr=subprocess.PIPE,
        env={**os.environ, "RAY_ADDRESS": "local", _MARK: mark},
        cwd=ROOT,
    ) as command:
        deadline = time.monotonic() + 300
        while not list(tmp_path.glob("sweep/trials/*/metrics.jsonl")):
            assert command.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        command.send_signal(signal.SIGINT)
        time.sleep(1)
        assert command.poll() is None
        command.send_signal(signal.SIGTERM)
        _, stderr = command.communicate(timeout=200)
        assert command.returncode == 130, stderr
        assert "Ctrl-C is ignored here, as the shell that started this command asked; SIGTERM ends it" in stderr
        assert "Traceback" not in stderr
        deadline = time.monotonic() + 60
        while processes := marked(_MARK, mark):
            assert time.monotonic() < deadline, processes
            time.sleep(0.1)

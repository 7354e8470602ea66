"""pipelines/core/command.py: exit codes, one JSON object on standard output, all else on standard error."""

import dataclasses
import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from pipelines.core import command
from pipelines.core.errors import StepError, UserError
from pipelines.core.options import positional
from tests.processes import Child


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Do something."""

    out: str = positional()
    """directory to write"""
    shuffle: bool = True
    """draw an order"""


def run(argv: list[str], step: Callable[[Options], dict[str, Any]] = dataclasses.asdict) -> int:
    return command.run(Options, step, str, argv)


def raising(error: BaseException) -> Callable[[Options], dict[str, Any]]:
    def step(options: Options) -> dict[str, Any]:
        raise error

    return step


@pytest.mark.parametrize(
    ("error", "code", "words", "traceback"),
    [
        (UserError("rank 9 is too large;\ntry 4"), 2, "error: rank 9 is too large; try 4\n", False),
        (StepError("no worker is left"), 1, "error: no worker is left\n", False),
        (KeyboardInterrupt(), 130, "interrupted\n", False),
        (OSError(errno.ENOSPC, "No space left"), 1, "--resume", False),
        (OSError(errno.EIO, "Input/output error"), 1, "Input/output error", True),
        (ValueError("a bug"), 1, "ValueError: a bug", True),
        (AssertionError(), 1, "AssertionError", True),
    ],
    ids=["mistake", "step", "Ctrl-C", "disk full", "disk broken", "bug", "broken invariant"],
)
def test_exit_codes(error: BaseException, code: int, words: str, traceback: bool, capsys: Any) -> None:
    assert run(["o"], raising(error)) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err
    assert ("Traceback" in printed.err) == traceback


def test_a_result_may_set_the_exit_code(capsys: Any) -> None:
    assert run(["o", "--json"], lambda options: {"exit_code": 2, "videos": []}) == 2
    assert capsys.readouterr().out == '{"videos": []}\n'


def test_without_json_the_summary_is_printed(capsys: Any) -> None:
    assert command.run(Options, lambda options: {"value": 0.5}, lambda result: f"{result['value']:.0%}", ["o"]) == 0
    assert capsys.readouterr().out == "50%\n"


def noisy(options: Options) -> dict[str, Any]:
    print("by print")  # noqa: T201 - what others do
    os.write(1, b"by descriptor\n")
    subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
    logging.getLogger("library").info("by logging")
    return {"text": "ä\n", "value": 0.5}


@pytest.mark.parametrize("flag", ["--json", "--no-shuffle"])
def test_with_json_one_object_is_on_standard_output_and_all_else_on_standard_error(flag: str) -> None:
    code = f"import sys\nfrom tests.core.test_command import noisy, run\nsys.exit(run(['o', '{flag}'], noisy))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    if flag == "--json":
        assert json.loads(result.stdout) == {"text": "ä\n", "value": 0.5}
        assert result.stdout.count("\n") == 1
    assert "by logging" in result.stderr
    for words in ("by print", "by descriptor", "by a child"):
        assert words in (result.stderr if flag == "--json" else result.stdout)


@pytest.mark.parametrize(
    "step", [raising(UserError("no")), lambda options: {"loss": float("nan")}], ids=["error", "NaN"]
)
def test_with_json_standard_output_is_empty_after_an_error(step: Any, capfd: Any) -> None:
    assert run(["o", "--json"], step) != 0
    assert capfd.readouterr().out == ""
    assert run(["o"], lambda options: {"after": 1}) == 0
    assert capfd.readouterr().out == "{'after': 1}\n"


def test_no_error_is_printed_if_the_reader_of_standard_output_leaves_early() -> None:
    step = "lambda options: {'long': 'x' * 10**6}"
    code = f"import sys\nfrom tests.core.test_command import run\nsys.exit(run(['o'], {step}))"
    with Child(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        process.wait()
    assert process.returncode == 1


def waiting(options: Options) -> dict[str, Any]:
    try:
        print("ready", flush=True)  # noqa: T201
        time.sleep(100)
    finally:
        print("tidied up", flush=True)  # noqa: T201
    return {}


@pytest.mark.parametrize("ignored", [True, False], ids=["Ctrl-C ignored", "Ctrl-C"])
def test_sigterm_ends_a_command_as_ctrl_c_does(ignored: bool) -> None:
    trap = "trap '' INT; " if ignored else ""
    code = "import sys\nfrom tests.core.test_command import run, waiting\nsys.exit(run(['o'], waiting))"
    with Child(
        ["sh", "-c", f'{trap}exec "$@"', "sh", sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if ignored:
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "tidied up\n")
    notice = "Ctrl-C is ignored here, as the shell that started this command asked; SIGTERM ends it\n"
    assert stderr == (notice if ignored else "") + "interrupted\n"


def test_the_handler_of_sigterm_is_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert run(["o"], lambda options: {"handler": signal.getsignal(signal.SIGTERM) is before}) == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_table_that_is_piped_is_not_wrapped(capsys: Any) -> None:
    table = Table("name", "reason")
    table.add_row("a" + " a" * 99, "b" + " b" * 99)
    assert command.run(Options, dataclasses.asdict, lambda result: table, ["o"]) == 0
    assert f"{'a ' * 100}│ {'b ' * 100}│\n" in capsys.readouterr().out

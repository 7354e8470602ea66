"""pipelines/cli.py: options from a dataclass, exit codes, one JSON object, OUT directories, progress."""

import dataclasses
import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.core import command
from pipelines.core.errors import UserError, user_errors
from pipelines.core.options import check_values, parse, positional
from pipelines.core.progress import progress
from pipelines.core.text import duration, python


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """What both have."""

    seed: int = 0
    """of everything, 100% reproducible"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Base):
    """Do something to videos."""

    out: str = positional()
    """directory to write"""
    video: tuple[str, ...] = positional(default=())
    """video files"""
    lr: float = 3e-3
    """learning rate,
    per step"""
    max_frames: int | None = None
    """frames per video"""
    limit: float | None = 1.0
    """of the norm; none: no limit"""
    sizes: tuple[int, ...] = (4, 2)
    """sizes in pixels"""
    resume: bool = False
    """continue"""
    shuffle: bool = True
    """draw an order"""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")


DEFAULTS = {
    "seed": 0,
    "out": "o",
    "video": (),
    "lr": 3e-3,
    "max_frames": None,
    "limit": 1.0,
    "sizes": (4, 2),
    "resume": False,
    "shuffle": True,
}


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """`run` takes the root logger over, as a command may; here it is given back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level


def run(argv: list[str], step: Callable[[Options], dict[str, Any]] = dataclasses.asdict) -> int:
    return command.run(Options, step, str, argv)


def parsed(argv: list[str]) -> dict[str, Any]:
    return dataclasses.asdict(parse(Options, argv)[0])


@pytest.mark.parametrize(
    ("argv", "changes"),
    [
        ("o", {}),
        ("o a.avi b.avi", {"video": ("a.avi", "b.avi")}),
        ("--lr 1e-2 o --seed 7", {"lr": 0.01, "seed": 7}),
        ("o --max-frames 12 --sizes 1 2 3", {"max_frames": 12, "sizes": (1, 2, 3)}),
        ("o --limit 2 --resume --no-shuffle", {"limit": 2.0, "resume": True, "shuffle": False}),
        ("o --limit none", {"limit": None}),
    ],
)
def test_options_are_the_fields_of_the_dataclass(argv: str, changes: dict[str, Any]) -> None:
    assert parsed(argv.split()) == DEFAULTS | changes


@pytest.mark.parametrize(
    ("config", "argv", "changes"),
    [
        ({"out": "o", "lr": 1, "video": ["a.avi"]}, "", {"lr": 1, "video": ("a.avi",)}),
        ({"max_frames": None, "sizes": [], "shuffle": False}, "o", {"sizes": (), "shuffle": False}),
        (
            {"out": "other", "lr": 0.5, "seed": 1, "video": ["a"]},
            "o b c --seed 2",
            {"lr": 0.5, "seed": 2, "video": ("b", "c")},
        ),
    ],
    ids=["all from the file", "null and false", "the command line wins"],
)
def test_a_config_file_holds_the_same_names(tmp_path: Path, config: Any, argv: str, changes: dict[str, Any]) -> None:
    (tmp_path / "options.json").write_text(json.dumps(config))
    assert parsed([*argv.split(), "--config", str(tmp_path / "options.json")]) == DEFAULTS | changes


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("", "OUT is missing"),
        ("o --seed x", "--seed: invalid int value: 'x'"),
        ("o --limit much", "--limit: invalid float value: 'much'"),
        ("o --max-frames none", "--max-frames: invalid int value: 'none'"),
        ("o --lr", "--lr: expected one argument"),
        ("o --unknown 1", "unrecognized arguments: --unknown"),
        ("o --res", "unrecognized arguments: --res"),
        ("o --lr -1", "lr must be positive, got -1.0"),
    ],
)
def test_a_mistake_on_the_command_line_is_said_in_one_line(argv: str, words: str, capsys: Any) -> None:
    assert run(argv.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert words in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"rank": 4}', "unknown option 'rank'; the options are limit, lr, max_frames, out"),
        ('{"seed": "4"}', 'seed must be int, got "4"'),
        ('{"seed": 4.0}', "seed must be int, got 4.0"),
        ('{"seed": true}', "seed must be int, got true"),
        ('{"seed": null}', "seed must be int, got null"),
        ('{"resume": 1}', "resume must be bool, got 1"),
        ('{"out": ["a"]}', 'out must be str, got ["a"]'),
        ('{"sizes": [1, "2"]}', 'sizes must be int, got "2"'),
        ('{"out": "o", "lr": 0}', "lr must be positive, got 0"),
        ('{"video": "a.avi"}', 'video must be a list, got "a.avi"'),
        ("[]", "must hold one JSON object, got list"),
        ("{", "cannot be read as JSON"),
        (None, "cannot be read as JSON"),
    ],
)
def test_a_mistake_in_the_config_file_is_said_in_one_line(
    tmp_path: Path, content: str | None, words: str, capsys: Any
) -> None:
    if content is not None:
        (tmp_path / "options.json").write_text(content)
    assert run(["--config", str(tmp_path / "options.json")]) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rank": 4}, "space: unknown option 'rank'; the options are limit, lr, "),
        ({"lr": "1e-3"}, 'space: lr must be float, got "1e-3"'),
        ({"resume": {1}}, 'space: resume must be bool, got "{1}"'),
        ({3: 4}, "space: unknown option 3"),
        (None, "space: must be options by their names, got None"),
    ],
    ids=str,
)
def test_values_that_come_from_code_are_checked_like_those_of_a_file(values: Any, words: str) -> None:
    check_values(Options, {"lr": 1, "sizes": [1, 2], "max_frames": None}, "space")
    with pytest.raises(UserError) as refused:
        check_values(Options, values, "space")
    assert words in str(refused.value)


def test_help_tells_every_option_with_its_default(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        run(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for words in (
        "Do something to videos.",
        "OUT directory to write",
        "--seed INT of everything, 100% reproducible [default: 0]",
        "--lr FLOAT learning rate, per step [default: 0.003]",
        "--max-frames INT frames per video",
        "--shuffle, --no-shuffle draw an order",
        "--config FILE.json",
        "--json",
    ):
        assert words in " ".join(text.split())


def raising(error: BaseException) -> Callable[[Options], dict[str, Any]]:
    def step(options: Options) -> dict[str, Any]:
        raise error

    return step


@pytest.mark.parametrize(
    ("error", "code", "words", "traceback"),
    [
        (UserError("rank 9 is too large;\ntry 4"), 2, "error: rank 9 is too large; try 4\n", False),
        (KeyboardInterrupt(), 130, "interrupted\n", False),
        (OSError(errno.ENOSPC, "No space left"), 1, "--resume", False),
        (OSError(errno.EIO, "Input/output error"), 1, "Input/output error", True),
        (ValueError("a bug"), 1, "ValueError: a bug", True),
        (AssertionError(), 1, "AssertionError", True),
    ],
    ids=["mistake", "Ctrl-C", "disk full", "disk broken", "bug", "broken invariant"],
)
def test_exit_codes(error: BaseException, code: int, words: str, traceback: bool, capsys: Any) -> None:
    assert run(["o"], raising(error)) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err
    assert ("Traceback" in printed.err) == traceback


def test_a_result_may_carry_its_own_exit_code(capsys: Any) -> None:
    assert run(["o", "--json"], lambda options: {"exit_code": 2, "videos": []}) == 2
    assert capsys.readouterr().out == '{"videos": []}\n'


def test_a_person_reads_the_summary(capsys: Any) -> None:
    assert command.run(Options, lambda options: {"value": 0.5}, lambda result: f"{result['value']:.0%}", ["o"]) == 0
    assert capsys.readouterr().out == "50%\n"


def noisy(options: Options) -> dict[str, Any]:
    print("by print")  # noqa: T201 - what others do
    os.write(1, b"by descriptor\n")
    subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
    logging.getLogger("somebody").info("by logging")
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
def test_what_cannot_be_told_in_json_leaves_standard_output_empty(step: Any, capfd: Any) -> None:
    assert run(["o", "--json"], step) != 0
    assert capfd.readouterr().out == ""
    assert run(["o"], lambda options: {"after": 1}) == 0
    assert capfd.readouterr().out == "{'after': 1}\n"


def test_a_reader_that_leaves_early_is_no_error_worth_telling() -> None:
    step = "lambda options: {'long': 'x' * 10**6}"
    code = f"import sys\nfrom tests.core.test_command import run\nsys.exit(run(['o'], {step}))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_errors_of_the_library_become_mistakes_of_the_user_s() -> None:
    with pytest.raises(UserError, match=r"^in_modes: bad$"), user_errors("in_modes"):
        raise ValueError("bad")
    with pytest.raises(UserError, match=r"^bad$"), user_errors():
        raise ValueError("bad")
    with pytest.raises(UserError, match=r"^mine$"), user_errors("prefix"):
        raise UserError("mine")
    with pytest.raises(KeyError), user_errors("prefix"):
        raise KeyError("a bug stays one")


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "log"])
def test_progress_passes_everything_on_as_it_comes(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    taken = []

    def items() -> Iterator[int]:
        for number in range(3):
            assert taken == list(range(number))
            yield number

    for item in progress(items(), 3, "clips"):
        taken.append(item)
    assert taken == [0, 1, 2]


def test_progress_says_a_line_every_5_seconds_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr("pipelines.core.progress.time.monotonic", lambda: now)
    caplog.set_level(logging.INFO)
    for _ in progress(range(12), 12, "clips"):
        now += 1
    assert caplog.messages == ["clips: 6 of 12", "clips: 12 of 12"]


@pytest.mark.parametrize("active", [True, False], ids=["active", "not active"])
def test_next_commands_name_the_python_that_has_us(active: bool, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    monkeypatch.setattr("shutil.which", lambda name: sys.executable if active else "/usr/bin/python")
    assert python() == ("python" if active else ".venv/bin/python")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (187, "3 min 07 s"),
        (3599.7, "1 h 00 min"),
        (3900, "1 h 05 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_a_duration_is_told_in_the_units_that_a_person_would_use(seconds: float, text: str) -> None:
    assert duration(seconds) == text

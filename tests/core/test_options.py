"""pipelines/core/options.py: options come from a dataclass; wrong ones are reported in one line."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.core import command
from pipelines.core.errors import UserError
from pipelines.core.options import check_values, parse, positional, takes_options


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """Common options."""

    seed: int = 0
    """of everything, 100% reproducible"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Named(Base):
    """Do something to data."""

    data: str | None = None
    """what to read"""


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
def test_a_config_file_names_the_options(tmp_path: Path, config: Any, argv: str, changes: dict[str, Any]) -> None:
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
        ("o --unknown 1", "unknown: --unknown"),
        ("o --res", "unknown: --res; did you mean --resume"),
        ("o --widht 1 --json", "unknown: --widht"),
        ("o --lr -1", "lr must be positive, got -1.0"),
    ],
)
def test_a_mistake_on_the_command_line_is_reported_in_one_line(argv: str, words: str, capsys: Any) -> None:
    assert run(argv.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert words in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"siizes": 4}', "unknown option 'siizes'; did you mean sizes?; the options are"),
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
def test_a_mistake_in_the_config_file_is_reported_in_one_line(
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
def test_values_from_code_are_checked_like_those_of_a_config_file(values: Any, words: str) -> None:
    check_values(Options, {"lr": 1, "sizes": [1, 2], "max_frames": None}, "space")
    with pytest.raises(UserError) as refused:
        check_values(Options, values, "space")
    assert words in str(refused.value)


def test_help_shows_every_option_with_its_default(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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


@takes_options(Options)
def given(options: Options) -> dict[str, Any]:
    return dataclasses.asdict(options)


def test_a_function_of_options_also_takes_them_as_python_functions_do(tmp_path: Path) -> None:
    assert given(Options(out="o")) == given("o") == given(out="o") == DEFAULTS
    assert given(tmp_path, "a", "b", lr=0.5, sizes=[1]) == DEFAULTS | {
        "out": str(tmp_path), "video": ("a", "b"), "lr": 0.5, "sizes": (1,)
    }  # fmt: skip
    assert given("o", ["a", tmp_path])["video"] == ("a", str(tmp_path))
    with pytest.raises(ValueError, match="lr must be positive"):
        given("o", lr=0)
    with pytest.raises(TypeError, match="widht"):
        given("o", widht=1)


@takes_options(Base)
def nothing(options: Base) -> int:
    return options.seed


def test_values_too_many_are_an_error() -> None:
    assert nothing(seed=3) == 3
    with pytest.raises(TypeError, match="1 values too many by position: 5"):
        nothing(5)


def test_values_by_position_are_shown_by_name_where_a_command_takes_none() -> None:
    with pytest.raises(UserError, match=r"unknown: my shards; values are given by name: --seed my --.* shards"):
        parse(Named, ["my", "shards"])

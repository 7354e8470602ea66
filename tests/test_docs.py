"""README.md and docs/: snippets and commands run, documented options exist, tables are those of docs/results."""

import contextlib
import functools
import io
import json
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipelines.sweep
import ttrnn
from pipelines.__main__ import COMMANDS, option_classes
from pipelines.__main__ import main as ttrnn_command
from pipelines.core.options import build_parser
from pipelines.data.dataset import ShardDataset
from pipelines.pareto import pareto
from pipelines.tuning.options import SweepOptions
from pipelines.video.errors import REASONS
from tests.benchmarks import tables
from tests.shards import FRAME, make_shards
from tests.sweeps import config, make_sweep
from tests.videos import moving_square, write_video

REPO = Path(__file__).parents[1]
PAGES = [*tables.PAGES, REPO / "CONTRIBUTING.md"]
# Options of other programs, and of the modules of tests.benchmarks.
OTHERS = {
    "--address", "--assume-role-policy-document", "--chown", "--editable", "--epochs", "--first", "--generate",
    "--help", "--index-url", "--input-dim", "--instance-profile-name", "--model", "--nodes", "--out",
    "--policy-document", "--policy-name", "--role-name", "--runtime-env-json", "--sections", "--test", "--tmux",
    "--variants", "--version", "--working-dir",
}  # fmt: skip
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@every_page
def test_tables_are_those_of_the_files(page: Path) -> None:
    text = text_of(page)
    assert text.count("<!-- table ") == text.count("<!-- end -->")
    assert tables.filled(text) == text, "python -m tests.benchmarks.tables writes the tables anew"


def test_every_file_of_results_is_in_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    read, opened = tables.read, {"codecs.csv"}
    monkeypatch.setattr(tables, "read", lambda name: opened.add(name) or read(name))
    for page in tables.PAGES:
        tables.filled(text_of(page))
    assert opened == {path.name for path in tables.RESULTS.iterdir()}


def test_every_reason_to_reject_a_clip_is_explained() -> None:
    explained = re.findall(r"^  \| ([a-z_]+) \| ", text_of(REPO / "docs/data.md"), re.MULTILINE)
    assert sorted(explained) == sorted(["reason", *REASONS, "misplaced"])


# Commands and options


def code_of(text: str) -> Iterator[str]:
    """Each line of an indented or fenced block, with its continuations, and each piece of code within a line."""
    text = re.sub(r"\\\n\s*", "", text)
    text = re.sub(r"^```(\w*)\n(.*?)^```$", lambda m: re.sub("^", "    ", m[2], flags=re.M), text, flags=re.M | re.S)
    blocks = re.compile(r"^    .*$", re.MULTILINE)
    yield from (line.strip() for line in blocks.findall(text))
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", blocks.sub("", text)))


def calls_of(code: str) -> Iterator[tuple[str, list[str]]]:
    """The name and the arguments of each command of this project in a line."""
    code = code.split("  #")[0].replace("…", "").replace("...", "")
    for part in re.findall(r"(?:^|[|'] ?|: |-- )(?:ttrnn |python -m pipelines[. ])([a-z]+)((?: [^|]*)?)", code):
        yield part[0], shlex.split(part[1].rstrip("'"))
    if found := re.search(r"ray submit cluster.yaml pipelines/(\w+)\.py(?: -- (.*))?", code):
        yield found[1], shlex.split(found[2] or "")


def all_calls() -> list[Any]:
    return [
        pytest.param(name, words, id=f"{page.name}: {name} {' '.join(words)}")
        for page in PAGES
        for code in code_of(text_of(page))
        for name, words in calls_of(code)
    ]


def options_class(command: str, words: list[str]) -> Any:
    return option_classes(command)[command == "reproduce" and "--bakeoff" in words]


@functools.cache
def parser_of(options: type) -> Any:
    return build_parser(options)


@pytest.mark.parametrize(("name", "words"), all_calls())
def test_the_command_takes_what_a_page_gives_it(name: str, words: list[str]) -> None:
    parser = parser_of(options_class(name, words))
    given, unknown = parser.parse_known_args(words)
    assert not unknown
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in vars(given).items()}
    values = {key: value for key, value in values.items() if value != () and key != "json"}
    if ":" in values.get("space", ""):
        # A module of the reader's own.
        del values["space"]
    if not {"inspect", "verify"} & values.keys():
        # A line of prose may leave out what stands by position.
        places = [action for action in parser._actions if not action.option_strings]
        # A table of streams stands in place of shards.
        places = [action for action in places if "stream" not in values or action.dest != "shards"]
        values = {action.dest: ("X",) if action.nargs == "*" else "X" for action in places} | values
    options_class(name, words)(**values)


@every_page
def test_every_option_in_a_page_exists(page: Path) -> None:
    classes = [own for name in COMMANDS for own in option_classes(name)]
    known = {flag for own in classes for flag in parser_of(own)._option_string_actions}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text_of(page)))
    assert named - known <= OTHERS


def test_commands_are_found_in_the_pages() -> None:
    assert {call.values[0] for call in all_calls()} == {*COMMANDS} - {"pareto"}


@every_page
def test_commands_have_one_form(page: Path) -> None:
    assert set(re.findall(r"python (?:-m )?pipelines[./]\w+", text_of(page))) <= {"python -m pipelines.COMMAND"}


# Python


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep of two untrained models, runs/mine, one of them as `model`, a video, and shards."""
    folder = tmp_path_factory.mktemp("example")
    (folder / "runs").mkdir()
    trials = {
        name: {"num_params": 1, "val_metric": value, "config": config()}
        for name, value in (("0000", 0.5), ("0001", 0.7))
    }
    sweep = make_sweep(folder / "runs/mine", trials)
    shutil.rmtree(sweep / "shards")
    make_shards(sweep / "shards", num_clips=6)
    make_shards(folder / "shards", num_clips=6)
    for number, name in enumerate(trials, start=1):
        model = ttrnn.VideoClassifier(
            ttrnn.ModelConfig(
                width=FRAME.width, height=FRAME.height, channels=1, classes=("class 0", "class 1", "class 2"),
                hidden_modes=f"2x{number}", ranks="1",
            )
        )  # fmt: skip
        shutil.rmtree(sweep / "trials" / name / "model")
        ttrnn.save(model, sweep / "trials" / name / "model")
        summary = sweep / "trials" / name / "summary.json"
        summary.write_text(json.dumps({**json.loads(summary.read_text()), "num_params": model.config.num_params}))
    pareto(str(sweep))
    shutil.copytree(sweep / "best", folder / "model")
    rule = ttrnn.EventRule(window=4, hop=2, thresholds={"class 0": 0.5})
    ttrnn.save(ttrnn.load(folder / "model"), folder / "trigger", events=rule)
    write_video(folder / "new.mp4", moving_square(), codec="mp4v")
    return folder


# The snippets of shards.md take shards of one codec each: tests/data/test_encoded_shards.py runs them.
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if "```python" in text_of(page) and page.name != "shards.md"],
    ids=lambda page: page.name,
)
def test_snippets_run(page: Path, example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sweep(**options: Any) -> dict[str, Any]:
        """Instead of a search for many minutes: its options are checked, and its result is there."""
        SweepOptions(**options)
        return json.loads((example / options["out"] / "pareto.json").read_text())

    monkeypatch.chdir(example)
    monkeypatch.setattr(pipelines.sweep, "sweep", sweep)
    frames = np.zeros((5, *FRAME.shape), np.uint8)
    names: dict[str, Any] = {"ttrnn": ttrnn, "frames": frames, "frame": frames[0], "camera": frames}
    for snippet in re.findall(r"^```python\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(snippet, page.name, "exec"), names)


# The example of docs/data.md


@pytest.fixture(scope="module")
def sensor(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder in which the lines of the page have run, and the output of each command with --json."""
    folder, printed = tmp_path_factory.mktemp("docs"), {}
    (folder / "docs").symlink_to(REPO / "docs")
    section = (
        text_of(REPO / "docs/data.md").split("\n## From arrays to a model: a sensor of 8 x 8\n")[1].split("\n## ")[0]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in re.findall(r"^    ((?:python|ttrnn) .*)$", section, re.MULTILINE):
            program, *words = shlex.split(line)
            with contextlib.redirect_stdout(io.StringIO()) as output:
                if program == "python":
                    patch.setattr(sys, "argv", words)
                    runpy.run_path(words[0])
                else:
                    assert ttrnn_command([*words, "--json"]) == 0
            printed[words[0]] = output.getvalue()
    return folder, printed


def test_arrays_become_a_model_that_classifies_them(sensor: tuple[Path, dict[str, str]]) -> None:
    folder, printed = sensor
    rows = [line.split(",") for line in (folder / "sensor" / "labels.csv").read_text().splitlines()[1:]]
    labels = {f"sensor/{path}": label for path, label in rows}
    found = {video["path"]: video["label"] for video in json.loads(printed["predict"])["videos"]}
    assert found.keys() == labels.keys()
    assert np.mean([found[path] == label for path, label in labels.items()]) > 0.9


def test_the_frames_keep_their_size_and_take_the_stated_range(sensor: tuple[Path, dict[str, str]]) -> None:
    folder, _ = sensor
    data = ShardDataset.open(folder / "sensor" / "shards")
    assert (data.frame.width, data.frame.height, data.frame.channels) == (8, 8, 1)
    clip = data.clips()[0]
    values = np.load(folder / "sensor" / clip.clip_id)
    wanted = np.rint(np.clip((values.astype(np.float64) - 20) * 255 / 16, 0, 255)).astype(np.uint8)
    np.testing.assert_array_equal(clip.frames[..., 0], wanted)
    settings = json.loads((folder / "sensor" / "run" / "model" / "config.json").read_text())
    assert '"value_range": "20:36"' in json.dumps(settings)

"""The commands of docs/data.md run as they are written, and do what the page says."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.core.options import parse
from pipelines.data.dataset import ShardDataset
from pipelines.video.errors import REASONS

REPO = Path(__file__).parents[1]


def commands(page: str, section: str) -> list[list[str]]:
    """The words of each line of a section that is indented and begins with `python`."""
    text = (REPO / "docs" / page).read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [shlex.split(line) for line in text.splitlines() if line.startswith("    python ")]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder in which all commands have run, and what they printed."""
    folder, printed = tmp_path_factory.mktemp("docs"), []
    (folder / "docs").symlink_to(REPO / "docs")
    for words in commands("data.md", "From arrays to a model: a sensor of 8 x 8"):
        as_json = ["--json"] if words[1] == "-m" else []
        result = subprocess.run(
            [sys.executable, *words[1:], *as_json],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(REPO)},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert result.returncode == 0, (words, result.stderr)
        printed.append(result.stdout)
    return folder, printed


def test_every_reason_to_reject_a_clip_is_explained() -> None:
    page = (REPO / "docs" / "data.md").read_text(encoding="utf-8")
    explained = re.findall(r"^  \| ([a-z_]+) \| ", page, re.MULTILINE)
    assert sorted(explained) == sorted(["reason", *REASONS, "misplaced"])


def test_arrays_become_a_model_that_classifies_them(outputs: tuple[Path, list[str]]) -> None:
    folder, (_, _, _, predicted) = outputs
    rows = [line.split(",") for line in (folder / "sensor" / "labels.csv").read_text().splitlines()[1:]]
    labels = {f"sensor/{path}": label for path, label in rows}
    found = {video["path"]: video["label"] for video in json.loads(predicted)["videos"]}
    assert found.keys() == labels.keys()
    assert np.mean([found[path] == label for path, label in labels.items()]) > 0.9


def test_the_frames_keep_their_size_and_take_the_stated_range(outputs: tuple[Path, list[str]]) -> None:
    folder, _ = outputs
    data = ShardDataset.open(folder / "sensor" / "shards")
    assert (data.frame.width, data.frame.height, data.frame.channels) == (8, 8, 1)
    clip = data.clips()[0]
    values = np.load(folder / "sensor" / clip.clip_id)
    wanted = np.rint(np.clip((values.astype(np.float64) - 20) * 255 / 16, 0, 255)).astype(np.uint8)
    np.testing.assert_array_equal(clip.frames[..., 0], wanted)
    config = json.loads((folder / "sensor" / "run" / "model" / "config.json").read_text())
    assert '"value_range": "20:36"' in json.dumps(config)


def test_the_commands_of_the_page_on_streams_have_the_options_that_it_gives_them() -> None:
    page = (REPO / "docs" / "streams.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    python -m pipelines\.(\w+) (.*)$", page, re.MULTILINE)
    assert len(lines) == 8
    for name, words in lines:
        command = getattr(importlib.import_module(f"pipelines.{name}"), name)
        parse(command.options_class, shlex.split(words))


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_the_table_of_sweeps_is_the_one_that_the_benchmark_wrote(page: str) -> None:
    root = Path(__file__).resolve().parent.parent
    table = (root / "docs" / "results" / "sweeps.md").read_text(encoding="utf-8")
    assert table.strip() in (root / page).read_text(encoding="utf-8")

"""The wheel, in a fresh environment, from a directory that has modules of its own by the names of ours and others'."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([*map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the programs of an environment that contains the wheel, and nothing that it needs."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--quiet")
    # A copy: building leaves files beside the sources.
    files = run("git", "ls-files", "ttrnn", "pipelines", "search_spaces", "pyproject.toml", "README.md", cwd=ROOT)
    for name in files.stdout.splitlines():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    built = run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, folder / "source", cwd=folder)
    assert built.returncode == 0, built.stderr
    venv.create(folder / "env")
    (wheel,) = folder.glob("*.whl")
    put = run(*pip, "--python", folder / "env", "install", "--no-deps", wheel, cwd=folder)
    assert put.returncode == 0, put.stderr
    return folder / "env" / "bin"


def test_without_its_packages_a_command_says_what_to_install(installed: Path, tmp_path: Path) -> None:
    result = run(installed / "ttrnn", "sweep", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert "pip install 'ttrnn[pipelines]'" in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_wheel_contains_the_files_that_are_no_modules(installed: Path) -> None:
    (packages,) = installed.parent.glob("lib/python*/site-packages")
    for package in ("ttrnn", "pipelines", "search_spaces"):
        files = run("git", "ls-files", package, cwd=ROOT).stdout.splitlines()
        assert [name for name in files if not (packages / name).exists()] == []


def test_commands_are_those_of_the_wheel_wherever_they_are_started(installed: Path, tmp_path: Path) -> None:
    (packages,) = installed.parent.glob("lib/python*/site-packages")
    # What it needs, but not the checkout: a path file is not read in the directories that another one names.
    (packages / "needed.pth").write_text(f"{Path(np.__file__).parents[1]}\n")
    (tmp_path / "pipelines").mkdir()
    for name in ("pipelines/__init__.py", "pipelines/sweep.py", "click.py", "ttrnn.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong module')\n")
    for words in (
        ["demo", "demo", "--num-clips", "48"],
        ["preprocess", "demo", "shards", "--width", "16", "--height", "12"],
        ["train", "shards", "run", "--epochs", "1", "--hidden-modes", "2x2", "--in-modes", "16x36"],
    ):
        result = run(installed / "ttrnn", *words, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()

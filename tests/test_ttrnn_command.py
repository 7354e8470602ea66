"""The command `ttrnn`: one door to all commands, and a line where their packages are missing."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import __main__ as door

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]], ids=str)
def test_it_lists_the_commands_in_the_order_of_the_data(words, capsys):
    assert door.main(words) == 0
    text = capsys.readouterr().out
    places = [text.index(f"\n  {name} ") for name in door.COMMANDS]
    assert places == sorted(places)


def test_it_tells_its_version(capsys):
    assert door.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ttrnn 0.")


@pytest.mark.parametrize(
    ("word", "said"),
    [("swep", "did you mean sweep?"), ("x", "the commands are demo, preprocess"), ("--widht", "--widht")],
)
def test_another_word_is_a_mistake(word, said, capsys):
    assert door.main([word, "--data", "x"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_command_gets_the_other_words(monkeypatch):
    seen = []
    monkeypatch.setattr(importlib.import_module("pipelines.pareto"), "main", lambda argv: (seen.append(argv), 5)[1])
    assert door.main(["pareto", "runs/mine", "--json"]) == 5
    assert seen == [["runs/mine", "--json"]]


def test_without_their_packages_commands_say_what_to_install():
    # -S: no installed packages.
    result = subprocess.run(
        [sys.executable, "-S", "-m", "pipelines.sweep"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "pip install 'ttrnn[pipelines]'" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "found"),
    [(["sw"], ["sweep"]), (["sweep", "--time"], ["--time-budget"]), (["preprocess", "--wid"], ["--width"])],
    ids=str,
)
def test_bash_completes_commands_and_options(words, found, capsys):
    assert door.main(["--completion"]) == 0
    script = capsys.readouterr().out
    line = f"COMP_WORDS=(ttrnn {' '.join(words)}); COMP_CWORD={len(words)}; _ttrnn; echo ${{COMPREPLY[@]}}"
    result = subprocess.run(["bash", "-c", script + line], capture_output=True, text=True, check=True)
    assert result.stdout.split() == found

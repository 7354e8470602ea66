"""pipelines/core/text.py: durations and command lines as people write them."""

import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.text import duration, percent, program, python, size


@pytest.mark.parametrize("active", [True, False], ids=["active", "not active"])
def test_python_is_named_by_its_path_unless_it_is_active(active: bool, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    monkeypatch.setattr("shutil.which", lambda name: sys.executable if active else "/usr/bin/python")
    assert python() == ("python" if active else ".venv/bin/python")


@pytest.mark.parametrize("on_the_path", [True, False])
def test_commands_are_named_as_they_were_started(on_the_path: bool, monkeypatch: Any, tmp_path: Path) -> None:
    script, other = tmp_path / "ttrnn", tmp_path / "other"
    for path in (script, other):
        path.touch()
    monkeypatch.setattr("shutil.which", lambda name: str(script if on_the_path else other))
    monkeypatch.setattr(sys, "argv", [str(script), "sweep"])
    assert program("export") == ("ttrnn export" if on_the_path else f"{python()} -m pipelines.export")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "sweep.py")])
    assert program("export") == f"{python()} -m pipelines.export"


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
def test_a_duration_is_written_in_hours_minutes_and_seconds(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (165_888, "166 kB"),
        (999_600, "1 MB"),
        (62_040_000_000, "62 GB"),
        (4.147e12, "4.15 TB"),
        (2.3e15, "2,300 TB"),
    ],
)
def test_a_size_has_three_digits_and_a_unit(num_bytes: float, text: str) -> None:
    assert size(num_bytes) == text


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.0, "0.0%"), (0.9375, "93.8%"), (1.0, "100.0%")])
def test_a_share_is_written_in_percent(value: float | None, text: str) -> None:
    assert percent(value) == text

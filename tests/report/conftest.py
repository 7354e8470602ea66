"""Fixtures for the tests of reports."""

import itertools

import pytest

from pipelines.report import frontier_files


@pytest.fixture
def without_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes text, another at each call, as pareto.png: drawing takes longer than all else of a small frontier."""
    numbers = itertools.count()
    monkeypatch.setattr(frontier_files, "write_figure", lambda path, data: path.write_text(f"figure {next(numbers)}"))

"""pipelines/core/progress.py: items are passed on one by one, and counted for people."""

import logging
import sys
from collections.abc import Iterator

import pytest

from pipelines.core.progress import progress


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "log"])
def test_progress_passes_each_item_on_at_once(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    taken = []

    def items() -> Iterator[int]:
        for number in range(3):
            assert taken == list(range(number))
            yield number

    for item in progress(items(), 3, "clips"):
        taken.append(item)
    assert taken == [0, 1, 2]


def test_without_a_terminal_progress_logs_a_line_every_5_seconds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr("pipelines.core.progress.time.monotonic", lambda: now)
    caplog.set_level(logging.INFO)
    for _ in progress(range(12), 12, "clips"):
        now += 1
    assert caplog.messages == ["clips: 6 of 12", "clips: 12 of 12"]

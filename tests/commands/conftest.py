"""Fixtures for the tests of commands."""

import os

import pytest


@pytest.fixture(autouse=True)
def one_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decodes videos in one process: to start a second one takes longer than to decode these."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)

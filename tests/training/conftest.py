"""Fixtures for the tests of training."""

import logging

import pytest


@pytest.fixture(autouse=True)
def restored_log_level():
    """`launcher._train` raises the level of the library's logger, here in the process of the tests."""
    logger = logging.getLogger("ttrnn")
    level = logger.level
    yield
    logger.setLevel(level)

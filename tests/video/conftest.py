"""Fixtures for the tests of decoding."""

from collections.abc import Iterator

import pytest

from pipelines.video.worker import IsolatedDecoder


@pytest.fixture(scope="module")
def decoder() -> Iterator[IsolatedDecoder]:
    """For all tests of a file that leave its child as it is, which takes a fifth of a second to start."""
    with IsolatedDecoder(60) as decoder:
        yield decoder

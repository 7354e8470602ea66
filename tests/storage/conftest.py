"""Buckets and machines for tests of storage."""

import uuid
from pathlib import Path

import pytest

from pipelines.storage import mirror
from pipelines.storage.location import Location
from tests.s3 import s3_server


@pytest.fixture(scope="session")
def query():
    with s3_server() as query:
        yield query


@pytest.fixture
def place(query):
    return Location.of(f"s3://lab/{uuid.uuid4()}?{query}")


@pytest.fixture
def folder(tmp_path):
    """A remote directory that is no object store, and faster."""
    return Location.of(f"fsspec+file://{tmp_path}/remote")


@pytest.fixture
def use_machine(tmp_path, monkeypatch):
    """use_machine("a") makes this process machine a: one with its own cache."""
    monkeypatch.setattr(mirror, "_EVERY_S", 0.05)
    monkeypatch.setattr(mirror, "_RUNNING_EVERY_S", 0.0)
    monkeypatch.setattr(mirror, "_PATIENCE_S", 0.0)
    return lambda machine: monkeypatch.setenv("TTRNN_CACHE", str(tmp_path / machine))


@pytest.fixture(
    params=("path", "file URI", "object store", "other file system"), ids=lambda kind: kind.replace(" ", "-")
)
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty directory, local or remote."""
    if request.param == "object store":
        return Location.of(f"s3://lab/{uuid.uuid4()}?{request.getfixturevalue('query')}")
    scheme = {"path": "", "file URI": "file://", "other file system": "fsspec+file://"}[request.param]
    return Location.of(f"{scheme}{tmp_path}")

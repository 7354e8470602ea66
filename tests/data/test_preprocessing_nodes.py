"""Preprocessing on several nodes: those that see the videos and OUT do the work, and any of them may die.

The nodes are simulated by Ray on one machine. Paths below /proc/self/cwd stand for a disk of each node: they lead to
the directory in which its processes were started.
"""

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster.nodes import nodes_with_files
from pipelines.cluster.session import start_ray
from pipelines.core.errors import UserError
from pipelines.data import shard_jobs
from pipelines.data.options import PreprocessOptions
from pipelines.preprocess import preprocess
from tests.commands.test_preprocess import SMALL, digests, rejected
from tests.videos import write_class_folders

CWD = "/proc/self/cwd"


class Nodes:
    """A cluster of simulated nodes, each with a disk of its own; the first node is the driver's."""

    def __init__(self, patch: pytest.MonkeyPatch, directory: Path) -> None:
        from ray.cluster_utils import Cluster

        self.patch, self.directory, self.cluster = patch, directory, Cluster()

    def add(self, disk: str, **kwargs: Any) -> Any:
        place = self.directory / disk
        place.mkdir(exist_ok=True)
        self.patch.chdir(place)
        node = self.cluster.add_node(include_dashboard=False, object_store_memory=80 << 20, **kwargs)
        self.patch.setenv("RAY_ADDRESS", self.cluster.address)
        return node


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Three nodes, with the disks own, another and third. All tests share them: a node takes seconds to start."""
    # Short, because socket names are limited; and separate, so that no other test joins the cluster.
    directory = tempfile.mkdtemp(prefix="ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", directory)
        nodes = Nodes(patch, tmp_path_factory.mktemp("disks"))
        for disk in ("own", "another", "third"):
            nodes.add(disk, num_cpus=1)
        with start_ray():
            yield nodes
        nodes.cluster.shutdown()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def own(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The disk of the driver's node, which is the working directory."""
    monkeypatch.chdir(nodes.directory / "own")
    return nodes.directory / "own"


def options(videos: str | Path, out: str | Path) -> PreprocessOptions:
    return PreprocessOptions(videos=str(videos), out=str(out), **SMALL)


def test_only_nodes_that_see_videos_and_out_decode(own: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_class_folders(own / "videos", num_clips=20)
    with caplog.at_level(logging.WARNING):
        result = preprocess(options(f"{CWD}/videos", f"{CWD}/out"))
    assert rejected(own / "out") == {}
    assert result["num_clips"] == 40
    assert "2 of 3 nodes do not see" in caplog.text
    assert "only this node decodes" in caplog.text


def test_a_node_with_a_different_file_of_the_same_name_does_not_see_it(nodes: Nodes, own: Path) -> None:
    for disk, content in (("own", "abc"), ("third", "xyz"), ("another", "abcd")):
        (nodes.directory / disk / "clip").write_text(content)
    seeing, blind = nodes_with_files({f"{CWD}/clip": 3})
    assert (len(seeing), len(blind)) == (2, 1)


def test_an_error_says_that_no_node_with_a_cpu_sees_the_videos(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_cpus(files: Mapping[str, int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        seeing, blind = nodes_with_files(files)
        return [node | {"Resources": {}} for node in seeing], blind

    write_class_folders(own / "few", num_clips=6)
    monkeypatch.setattr(shard_jobs, "nodes_with_files", without_cpus)
    with pytest.raises(UserError, match=r"no node with a CPU, of 3 nodes, sees .*/few .*s3://"):
        preprocess(options(f"{CWD}/few", f"{CWD}/nothing"))


def test_no_clip_is_lost_if_a_node_dies(nodes: Nodes, tmp_path: Path) -> None:
    videos = write_class_folders(tmp_path / "videos", num_clips=40, num_frames=60)
    preprocess(options(videos, tmp_path / "undisturbed"))
    dying = nodes.add("own", num_cpus=3)
    out, left = tmp_path / "out", []

    def kill() -> None:
        while len(list(out.glob(".*.arrow.json"))) < 4:
            time.sleep(0.01)
        left.append(32 - len(list(out.glob(".*.arrow.json"))))
        nodes.cluster.remove_node(dying, allow_graceful=False)

    thread = threading.Thread(target=kill)
    thread.start()
    preprocess(options(videos, out))
    thread.join()
    assert left[0] > 8, "the node died too late for this test"
    assert digests(out) == digests(tmp_path / "undisturbed")

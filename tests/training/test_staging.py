"""Test training/staging.py and head_node.py: the files of a run on another node arrive on the head node.

The other node is simulated by a root directory: paths of the head node are below it.
"""

import contextlib
import dataclasses
import functools
import os
import shutil

import pytest
import torch

from pipelines.cluster.session import start_ray
from pipelines.core.errors import StepError
from pipelines.data.dataset import ShardDataset
from pipelines.training import head_node, launcher, staging
from pipelines.training.head_node import SupersededError, serve_files
from pipelines.training.run_directory import RunDirectory
from pipelines.training.setup import resolve_precision
from pipelines.training.staging import StagedRun, staged_run
from pipelines.training.trainer import fit
from tests.runs import assert_equal_to_the_bit, options
from tests.shards import make_shards
from tests.training.test_launcher import training


class LostError(Exception):
    """The node goes down."""


@pytest.fixture(scope="module")
def server():
    with start_ray(num_cpus=1), contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(head_node, "has_started_ray", lambda: False)
            name = stack.enter_context(serve_files())
        yield name


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture
def node(tmp_path):
    return tmp_path / "node"


def train(server, root, chosen, lost_after=None):
    with staged_run(server, chosen.out, root=root) as staged:

        def on_epoch(record):
            staged.upload()
            if record["epoch"] == lost_after:
                raise LostError

        return fit(staged.localized(chosen), on_epoch)


def test_without_other_nodes_there_is_no_server(server):
    with serve_files() as name:
        assert name is None


def test_a_run_on_another_node_has_the_same_files_as_a_local_one(server, shards, tmp_path, node):
    remote, local = tmp_path / "remote", tmp_path / "local"
    local.mkdir()
    assert train(server, node, options(shards, remote))["state"] == "complete"
    fit(options(shards, local))
    assert_equal_to_the_bit(remote, local)
    assert {path.name for path in local.iterdir()} | {".home"} == {path.name for path in remote.iterdir()}
    left = [path for path in node.rglob("*") if path.is_file() and not path.is_relative_to(node / str(shards)[1:])]
    assert left == [], "the copy of the run is deleted, that of the shards is kept for the next run"


def test_a_run_continues_from_its_last_epoch_on_a_third_node(server, shards, tmp_path, node):
    out, uninterrupted = tmp_path / "run", tmp_path / "uninterrupted"
    uninterrupted.mkdir()
    with pytest.raises(LostError):
        train(server, node, options(shards, out), lost_after=2)
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    train(server, tmp_path / "third", options(shards, out))
    fit(options(shards, uninterrupted))
    assert_equal_to_the_bit(out, uninterrupted)


def test_a_checkpoint_in_the_middle_of_an_epoch_is_uploaded(server, shards, tmp_path, node):
    out, uninterrupted = tmp_path / "run", tmp_path / "uninterrupted"
    uninterrupted.mkdir()
    chosen, sent = options(shards, out, epochs=2, checkpoint_minutes=1e-9), []

    def lost():
        staged.upload()
        sent.append(1)
        if len(sent) == 3:
            raise LostError

    with pytest.raises(LostError), staged_run(server, chosen.out, root=node) as staged:
        fit(staged.localized(chosen), None, lost)
    assert torch.load(out / "checkpoint" / "state.pt", weights_only=True)["step"] == 3
    train(server, tmp_path / "third", chosen)
    fit(options(shards, uninterrupted, epochs=2))
    assert_equal_to_the_bit(out, uninterrupted)


def test_precision_auto_is_that_of_the_run_when_it_is_resumed_on_another_node(
    server, shards, tmp_path, node, monkeypatch
):
    """config.json lies on the head node until the run is staged."""
    out, reports = tmp_path / "run", []
    one = training(shards, out, precision="auto")
    started = {"float32": "bfloat16", "bfloat16": "float32"}[resolve_precision(one.options).precision]
    RunDirectory(out).claim(dataclasses.replace(one.options, precision=started), one.model)
    monkeypatch.setattr(launcher, "staged_run", functools.partial(staged_run, root=node))
    monkeypatch.setattr(launcher.tune, "report", reports.append)
    launcher._train({"training": one, "server": server})
    assert [report["epoch"] for report in reports if launcher.is_progress(report)] == [1, 2]
    assert not launcher.is_progress(reports[-1])
    assert RunDirectory(out).result()["state"] == "complete"


def test_the_model_to_start_from_is_downloaded(server, shards, tmp_path, node):
    parent = tmp_path / "parent"
    train(server, node, options(shards, parent, epochs=1))
    child = options(shards, tmp_path / "child", epochs=1, init=str(parent / "model"), ranks="1")
    assert train(server, node, child)["state"] == "complete"


def test_teachers_are_downloaded(server, shards, tmp_path, node):
    parents = [tmp_path / name for name in ("one", "other")]
    for parent in parents:
        train(server, node, options(shards, parent, epochs=1))
    teacher = ",".join(str(parent / "model") for parent in parents)
    child = options(shards, tmp_path / "child", epochs=1, teacher=teacher)
    with staged_run(server, child.out, root=node) as staged:
        paths = staged.localized(child).teacher_paths
    assert paths == [str(node / (parent / "model").relative_to("/")) for parent in parents]
    assert train(server, node, child)["state"] == "complete"


def test_a_process_that_was_replaced_cannot_write(server, shards, tmp_path, node):
    out = tmp_path / "run"
    old = StagedRun(server, out, root=node)
    (old.out / "summary.json").write_text("old")
    old.upload()
    new = StagedRun(server, out, root=tmp_path / "third")
    (new.out / "summary.json").write_text("new")
    new.upload()
    (old.out / "summary.json").write_text("old again")
    with pytest.raises(SupersededError, match="another process"):
        old.upload()
    assert (out / "summary.json").read_text() == "new"


def test_files_that_a_run_deletes_are_deleted_on_the_head_node(server, tmp_path, node):
    staged = StagedRun(server, tmp_path / "run", root=node)
    (staged.out / "checkpoint").mkdir()
    (staged.out / "checkpoint" / "state.pt").write_bytes(b"1")
    staged.upload()
    assert (tmp_path / "run" / "checkpoint" / "state.pt").read_bytes() == b"1"
    shutil.rmtree(staged.out / "checkpoint")
    staged.upload()
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_files_are_uploaded_in_chunks(server, tmp_path, node, monkeypatch):
    monkeypatch.setattr(staging, "CHUNK_BYTES", 1000)
    run, sizes = StagedRun(server, tmp_path / "run", root=node), []
    call = run._call

    def noted(method, *args):
        sizes.extend(len(arg) for arg in args if isinstance(arg, bytes))
        return call(method, *args)

    monkeypatch.setattr(run, "_call", noted)
    contents = {"state.pt": os.urandom(2500), "empty": b"", "exact": os.urandom(2000)}
    (run.out / "checkpoint" / "inner").mkdir(parents=True)
    for name, content in contents.items():
        (run.out / name).write_bytes(content)
        (run.out / "checkpoint" / "inner" / name).write_bytes(content)
    run.upload()
    for name, content in contents.items():
        assert (tmp_path / "run" / name).read_bytes() == content
        assert (tmp_path / "run" / "checkpoint" / "inner" / name).read_bytes() == content
    assert max(sizes) == 1000


def test_an_interrupted_upload_does_not_change_the_older_file(server, tmp_path, node):
    run = StagedRun(server, tmp_path / "run", root=node)
    (run.out / "summary.json").write_text("old")
    run.upload()
    run._call("upload", str(tmp_path / "run"), run._lease, "summary.json", "", 0, b"ne")
    assert (tmp_path / "run" / "summary.json").read_text() == "old"
    # After a restart of the server, a call may be repeated.
    for _ in range(2):
        run._call("upload", str(tmp_path / "run"), run._lease, "summary.json", "", 0, b"new")
    for _ in range(2):
        run._call("commit", str(tmp_path / "run"), run._lease, "summary.json")
    assert (tmp_path / "run" / "summary.json").read_text() == "new"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".home", "summary.json"]


def test_a_run_whose_directory_disappears_from_its_node_keeps_its_uploaded_files(server, tmp_path, node):
    staged = StagedRun(server, tmp_path / "run", root=node)
    (staged.out / "summary.json").write_text("{}")
    staged.upload()
    shutil.rmtree(staged.out)
    with pytest.raises(StepError, match="is gone from node"):
        staged.upload()
    assert (tmp_path / "run" / "summary.json").read_text() == "{}"


def test_a_shared_directory_is_neither_copied_nor_deleted(server, shards, tmp_path, node):
    out = tmp_path / "run"
    node.symlink_to("/")
    with staged_run(server, str(out), root=node) as staged:
        (staged.out / "summary.json").write_text("{}")
        inode = os.stat(out / "summary.json").st_ino
    assert os.stat(out / "summary.json").st_ino == inode


def test_older_shards_of_the_same_name_are_replaced(server, tmp_path, node):
    shards = make_shards(tmp_path / "shards", num_groups=4)
    staged = StagedRun(server, tmp_path / "run", root=node)
    make_shards(staged.local_path(str(shards)), num_groups=2)
    downloaded = ShardDataset.open(staged.download_shards(str(shards)))
    downloaded.verify()
    assert downloaded.splits == ShardDataset.open(shards).splits


def test_damaged_shards_are_refused(server, tmp_path, node):
    shards = make_shards(tmp_path / "shards")
    victim = sorted(shards.glob("train-*.arrow"))[0]
    content = bytearray(victim.read_bytes())
    content[-100] ^= 1
    victim.write_bytes(content)
    staged = StagedRun(server, tmp_path / "run", root=node)
    with pytest.raises(StepError, match=f"{victim.name} is damaged"):
        staged.download_shards(str(shards))
    assert not (staged.local_path(str(shards)) / "dataset.json").exists()


def test_a_node_that_cannot_store_a_run_fails_with_one_line(server, tmp_path, node):
    node.write_text("no directory")
    with pytest.raises(StepError, match=r"can't keep .*run \(Not a directory\); give paths") as error:
        StagedRun(server, tmp_path / "run", root=node)
    assert "\n" not in str(error.value)


def test_shards_in_a_bucket_are_not_downloaded(server, tmp_path, node):
    staged = StagedRun(server, tmp_path / "run", root=node)
    assert staged.download_shards("s3://lab/shards?region=eu-west-1") == "s3://lab/shards?region=eu-west-1"

"""Runs on other nodes leave on the head node what they would have left there, and nothing on the way.

The other node is another root directory here: paths of the head node begin there.
"""

import contextlib
import os
import shutil

import pytest
import torch

from pipelines.cluster.session import start_ray
from pipelines.core.errors import StepError
from pipelines.data.dataset import ShardDataset
from pipelines.training import head_node, staging
from pipelines.training.head_node import SupersededError, serve_files
from pipelines.training.staging import StagedRun, staged_run
from pipelines.training.trainer import fit
from tests.runs import assert_equal_to_the_bit, options
from tests.shards import make_shards


class LostError(Exception):
    """The node goes down."""


@pytest.fixture(scope="module")
def home():
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


def train(home, root, given, lost_after=None):
    with staged_run(home, given.out, root=root) as staged:

        def on_epoch(record):
            staged.upload()
            if record["epoch"] == lost_after:
                raise LostError

        return fit(staged.localized(given), on_epoch)


def test_ray_that_was_started_for_this_command_alone_has_no_other_nodes(home):
    with serve_files() as name:
        assert name is None


def test_a_run_on_another_node_leaves_at_home_what_it_leaves_here(home, shards, tmp_path, node):
    there, here = tmp_path / "there", tmp_path / "here"
    here.mkdir()
    assert train(home, node, options(shards, there))["state"] == "complete"
    fit(options(shards, here))
    assert_equal_to_the_bit(there, here)
    assert {path.name for path in here.iterdir()} | {".home"} == {path.name for path in there.iterdir()}
    left = [path for path in node.rglob("*") if path.is_file() and not path.is_relative_to(node / str(shards)[1:])]
    assert left == [], "the copy of the run is gone, that of the shards stays for the next one"


def test_a_run_goes_on_from_its_last_epoch_on_a_third_node(home, shards, tmp_path, node):
    out, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    undisturbed.mkdir()
    with pytest.raises(LostError):
        train(home, node, options(shards, out), lost_after=2)
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    train(home, tmp_path / "third", options(shards, out))
    fit(options(shards, undisturbed))
    assert_equal_to_the_bit(out, undisturbed)


def test_a_checkpoint_in_the_middle_of_an_epoch_is_sent_home_too(home, shards, tmp_path, node):
    out, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    undisturbed.mkdir()
    given, sent = options(shards, out, epochs=2, checkpoint_minutes=1e-9), []

    def lost():
        staged.upload()
        sent.append(1)
        if len(sent) == 3:
            raise LostError

    with pytest.raises(LostError), staged_run(home, given.out, root=node) as staged:
        fit(staged.localized(given), None, lost)
    assert torch.load(out / "checkpoint" / "state.pt", weights_only=True)["step"] == 3
    train(home, tmp_path / "third", given)
    fit(options(shards, undisturbed, epochs=2))
    assert_equal_to_the_bit(out, undisturbed)


def test_a_model_to_start_from_is_brought_along(home, shards, tmp_path, node):
    parent = tmp_path / "parent"
    train(home, node, options(shards, parent, epochs=1))
    child = options(shards, tmp_path / "child", epochs=1, init=str(parent / "model"), ranks="1")
    assert train(home, node, child)["state"] == "complete"


def test_who_was_taken_for_dead_writes_no_more(home, shards, tmp_path, node):
    out = tmp_path / "run"
    old = StagedRun(home, out, root=node)
    (old.out / "summary.json").write_text("old")
    old.upload()
    new = StagedRun(home, out, root=tmp_path / "third")
    (new.out / "summary.json").write_text("new")
    new.upload()
    (old.out / "summary.json").write_text("old again")
    with pytest.raises(SupersededError, match="another process"):
        old.upload()
    assert (out / "summary.json").read_text() == "new"


def test_what_a_run_removes_is_removed_at_home(home, tmp_path, node):
    staged = StagedRun(home, tmp_path / "run", root=node)
    (staged.out / "checkpoint").mkdir()
    (staged.out / "checkpoint" / "state.pt").write_bytes(b"1")
    staged.upload()
    assert (tmp_path / "run" / "checkpoint" / "state.pt").read_bytes() == b"1"
    shutil.rmtree(staged.out / "checkpoint")
    staged.upload()
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_no_file_passes_through_memory_as_a_whole(home, tmp_path, node, monkeypatch):
    monkeypatch.setattr(staging, "CHUNK_BYTES", 1000)
    run, sizes = StagedRun(home, tmp_path / "run", root=node), []
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


def test_an_upload_that_breaks_off_leaves_the_older_file_whole(home, tmp_path, node):
    run = StagedRun(home, tmp_path / "run", root=node)
    (run.out / "summary.json").write_text("old")
    run.upload()
    run._call("upload", str(tmp_path / "run"), run._lease, "summary.json", "", 0, b"ne")
    assert (tmp_path / "run" / "summary.json").read_text() == "old"
    # As after a restart of the server, which may be asked twice.
    for _ in range(2):
        run._call("upload", str(tmp_path / "run"), run._lease, "summary.json", "", 0, b"new")
    for _ in range(2):
        run._call("commit", str(tmp_path / "run"), run._lease, "summary.json")
    assert (tmp_path / "run" / "summary.json").read_text() == "new"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".home", "summary.json"]


def test_a_run_whose_directory_vanishes_from_its_node_keeps_what_is_at_home(home, tmp_path, node):
    staged = StagedRun(home, tmp_path / "run", root=node)
    (staged.out / "summary.json").write_text("{}")
    staged.upload()
    shutil.rmtree(staged.out)
    with pytest.raises(StepError, match="is gone from node"):
        staged.upload()
    assert (tmp_path / "run" / "summary.json").read_text() == "{}"


def test_a_directory_that_both_nodes_see_is_neither_copied_nor_removed(home, shards, tmp_path, node):
    out = tmp_path / "run"
    node.symlink_to("/")
    with staged_run(home, str(out), root=node) as staged:
        (staged.out / "summary.json").write_text("{}")
        inode = os.stat(out / "summary.json").st_ino
    assert os.stat(out / "summary.json").st_ino == inode


def test_older_shards_of_the_same_name_are_replaced(home, tmp_path, node):
    shards = make_shards(tmp_path / "shards", num_groups=4)
    staged = StagedRun(home, tmp_path / "run", root=node)
    make_shards(staged.local_path(str(shards)), num_groups=2)
    brought = ShardDataset.open(staged.download_shards(str(shards)))
    brought.verify()
    assert brought.splits == ShardDataset.open(shards).splits


def test_damaged_shards_are_not_trained_on(home, tmp_path, node):
    shards = make_shards(tmp_path / "shards")
    victim = sorted(shards.glob("train-*.arrow"))[0]
    content = bytearray(victim.read_bytes())
    content[-100] ^= 1
    victim.write_bytes(content)
    staged = StagedRun(home, tmp_path / "run", root=node)
    with pytest.raises(StepError, match=f"{victim.name} is damaged"):
        staged.download_shards(str(shards))
    assert not (staged.local_path(str(shards)) / "dataset.json").exists()


def test_a_node_that_can_t_keep_a_run_says_so_in_a_line(home, tmp_path, node):
    node.write_text("no directory")
    with pytest.raises(StepError, match=r"can't keep .*run \(Not a directory\); give paths") as error:
        StagedRun(home, tmp_path / "run", root=node)
    assert "\n" not in str(error.value)


def test_shards_in_a_bucket_are_left_to_the_cache(home, tmp_path, node):
    staged = StagedRun(home, tmp_path / "run", root=node)
    assert staged.download_shards("s3://lab/shards?region=eu-west-1") == "s3://lab/shards?region=eu-west-1"

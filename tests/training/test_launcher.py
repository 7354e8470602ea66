"""Test training/queue.py and launcher.py: the order of trainings, and failures that do not affect others."""

import dataclasses
import errno
from pathlib import Path

import pytest

from pipelines.data.dataset import ShardDataset
from pipelines.training import launcher
from pipelines.training.options import TrainOptions
from pipelines.training.queue import Queue, Training
from pipelines.training.run_directory import RunDirectory
from pipelines.training.setup import model_config
from tests.shards import make_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


def training(shards, out, memory_bytes=1 << 20, **values):
    options = TrainOptions(
        shards=str(shards), out=str(out), hidden_modes="2x2x2x2", ranks="2", epochs=2, lr=0.02, **values
    )
    model = model_config(options, ShardDataset.open(shards))
    return Training(name=Path(out).name, options=options, model=model, memory_bytes=memory_bytes, has_result=True)


def drained(queue, outcomes):
    """The order in which two slots train what the queue gives; `outcomes` are errors by name, else a result is left."""
    order, running = [], []
    while True:
        while len(running) < 2 and (found := queue.next([other.name for other in running])) is not None:
            running.append(found)
            order.append(found.name)
        if not running:
            return order
        ended = running.pop(0)
        error = outcomes.get(ended.name)
        if error is None:
            Path(ended.options.out).mkdir(parents=True)
            RunDirectory(ended.options.out).write_result({"state": "complete"})
        queue.ended(ended, error)


def test_children_wait_for_their_parents_and_others_do_not(shards, tmp_path):
    results = {}
    queue = Queue(
        [training(shards, tmp_path / name) for name in ("child", "other", "parent")],
        on_end=lambda one, result: results.update({one.name: result["state"]}),
        memory_bytes=1e9,
        parents={"child": "parent"},
    )
    assert drained(queue, {}) == ["other", "parent", "child"]
    assert results == dict.fromkeys(("other", "parent", "child"), "complete")


@pytest.mark.parametrize(("outcomes", "failed"), [({"parent": "died"}, ()), ({}, ("parent",))], ids=["now", "before"])
def test_children_of_a_parent_that_failed_fail_too(shards, tmp_path, outcomes, failed):
    results = {}
    names = ["parent", "child", "grandchild", "other"][len(failed) :]
    queue = Queue(
        [training(shards, tmp_path / name) for name in names],
        on_end=lambda one, result: results.update({one.name: (result["state"], result.get("error"))}),
        memory_bytes=1e9,
        parents={"child": "parent", "grandchild": "child"},
        failed=failed,
    )
    assert drained(queue, outcomes) == [name for name in names if "child" not in name]
    assert results["child"] == results["grandchild"] == ("failed", "the model that it starts from has failed")
    assert results["other"] == ("complete", None)


def test_a_training_that_no_node_can_hold_is_refused(shards, tmp_path):
    results = {}
    queue = Queue(
        [training(shards, tmp_path / "large", memory_bytes=2 * 10**9), training(shards, tmp_path / "small")],
        on_end=lambda one, result: results.update({one.name: result}),
        memory_bytes=1e9,
    )
    assert drained(queue, {}) == ["small"]
    assert results["large"] == {"state": "refused", "error": "needs 2.0 GB, the largest node has 1.0 GB"}


def test_a_child_of_a_refused_parent_fails_wherever_it_stands(shards, tmp_path):
    results = {}
    queue = Queue(
        [training(shards, tmp_path / "child"), training(shards, tmp_path / "parent", memory_bytes=2 * 10**9)],
        on_end=lambda one, result: results.update({one.name: result["state"]}),
        memory_bytes=1e9,
        parents={"child": "parent"},
    )
    assert drained(queue, {}) == []
    assert results == {"parent": "refused", "child": "failed"}


def test_the_report_of_a_failure_is_not_progress(shards, tmp_path, monkeypatch):
    reports = []
    monkeypatch.setattr(launcher.tune, "report", reports.append)
    broken = dataclasses.replace(
        training(shards, tmp_path / "run"), options=TrainOptions(shards="none", out=str(tmp_path / "run"))
    )
    launcher._train({"training": broken, "server": None})
    assert [launcher.is_progress(report) for report in reports] == [False]
    assert reports[0]["problem"].startswith("UserError: none is no directory")
    assert reports[0]["failed"]


def test_an_error_that_may_pass_is_raised_so_that_tune_tries_again(shards, tmp_path, monkeypatch):
    reports = []
    monkeypatch.setattr(launcher.tune, "report", reports.append)

    def fails(*args, **kwargs):
        raise OSError(errno.ECONNRESET, "Connection reset by peer")

    monkeypatch.setattr(launcher, "train_and_test", fails)
    with pytest.raises(OSError, match="reset by peer"):
        launcher._train({"training": training(shards, tmp_path / "run"), "server": None})
    assert "reset by peer" in reports[0]["problem"]
    assert "failed" not in reports[0]

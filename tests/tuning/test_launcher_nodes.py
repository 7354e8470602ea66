"""Test sweeps and other trainings on several nodes, one of which cannot store their files.

The nodes are raylets on one machine. Paths below /proc/self/cwd simulate a disk for each node: they lead to the
directory in which its processes were started.
"""

import errno
import json
import shutil
import signal
import tempfile

import pytest
from ray import tune
from ray.cluster_utils import Cluster

from pipelines.cluster.session import start_ray
from pipelines.cluster.slots import Slots
from pipelines.data.dataset import ShardDataset
from pipelines.sweep import SweepOptions, sweep
from pipelines.training.launcher import run_trainings
from pipelines.training.options import TrainOptions
from pipelines.training.queue import Queue, Training
from pipelines.training.run_directory import RunDirectory
from pipelines.training.setup import model_config, resolve_precision
from pipelines.training.trainer import fit
from pipelines.tuning.sweep_directory import SweepDirectory
from tests.shards import make_shards

HERE = "/proc/self/cwd"


@pytest.fixture(scope="module")
def disks(tmp_path_factory):
    """A directory with the disks of two nodes of a running cluster: own, with shards, and another."""
    disks = tmp_path_factory.mktemp("disks")
    make_shards(disks / "own" / "shards")
    (disks / "another").mkdir()
    # A short path, because of the sockets in it; and a new one, so that no other process joins the cluster.
    directory = tempfile.mkdtemp(prefix="ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", directory)
        # By default, Tune changes the working directory.
        patch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "0")
        cluster = Cluster()
        for disk in ("own", "another"):
            patch.chdir(disks / disk)
            cluster.add_node(include_dashboard=False, object_store_memory=80 << 20, num_cpus=1)
        patch.setenv("RAY_ADDRESS", cluster.address)
        patch.chdir(disks / "own")
        with start_ray():
            yield disks
        cluster.shutdown()
    shutil.rmtree(directory, ignore_errors=True)


def test_a_full_disk_is_reported_as_such_although_tune_wraps_the_error(disks, monkeypatch, tmp_path):
    def fail(tuner):
        # Tune does this and does not restore the handler.
        signal.signal(signal.SIGINT, lambda *_: None)
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise tune.TuneError("Traceback (most recent call last):") from error

    monkeypatch.setattr(tune.Tuner, "fit", fail)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(OSError, match="No space left on device"):
        sweep(SweepOptions(data=f"{HERE}/shards", out=str(tmp_path / "sweep"), num_trials=1, baselines="none"))
    assert signal.getsignal(signal.SIGINT) is before, "the handler of Ctrl-C is restored"


def test_no_trial_is_lost_on_a_node_that_cannot_store_files(disks, caplog):
    (disks / "another" / "sweep").write_text("no directory")
    options = SweepOptions(
        data=f"{HERE}/shards", out=f"{HERE}/sweep", space="ranks", num_trials=4, epochs=2, baselines="none"
    )
    with caplog.at_level("WARNING"):
        result = sweep(options)
    assert "exit_code" not in result
    assert "can't keep /proc/self/cwd/sweep" in caplog.text
    assert "continues on another node" in caplog.text
    assert [trial.state for trial in SweepDirectory(disks / "own" / "sweep").trials()] == ["complete"] * 4


def test_no_training_of_a_queue_is_lost_by_one_that_fails_or_by_a_node_that_cannot_store_files(disks, caplog):
    (disks / "another" / "runs").write_text("no directory")
    small = {"hidden_modes": "2x2x2x4", "ranks": "2", "epochs": 1}
    model = model_config(
        TrainOptions(shards=f"{HERE}/shards", out="out", **small), ShardDataset.open(disks / "own" / "shards")
    )

    def training(name, shards="shards"):
        options = TrainOptions(shards=f"{HERE}/{shards}", out=f"{HERE}/runs/ours/{name}", **small)
        return Training(name=name, options=options, model=model, memory_bytes=1 << 20, has_result=True)

    broken, good, done = training("broken", "nothing"), training("good"), training("done")
    # As after a kill between the last epoch and result.json: no epoch is left that could be reported.
    RunDirectory(done.options.out).claim(resolve_precision(done.options), model)
    trained = fit(resolve_precision(done.options))
    results = {}
    queue = Queue(
        [broken, good, done], on_end=lambda one, result: results.update({one.name: result}), memory_bytes=1e12
    )
    state = disks / "own" / ".tune"
    with caplog.at_level("WARNING"):
        # A process that is reused on the own node could run them all before one has started on the other.
        assert run_trainings(queue, Slots.of_cluster(1, 1.0), state=state, new_processes=True) == 1
    assert "can't keep /proc/self/cwd/runs" in caplog.text
    assert {name: result["state"] for name, result in results.items()} == {
        "broken": "failed",
        "good": "complete",
        "done": "complete",
    }
    assert "nothing is no directory" in results["broken"]["error"]
    assert (results["done"]["epochs"], results["done"]["train_s"]) == (1, trained["train_s"])
    assert results["done"]["value"] is not None
    runs = disks / "own" / "runs" / "ours"
    assert json.loads((runs / "good" / "result.json").read_text())["state"] == "complete"
    assert not (runs / "broken" / "result.json").exists()
    assert not state.exists()

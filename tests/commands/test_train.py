"""Test the command train: its files, its messages, its faults, several workers, also of a trial of a sweep."""

import contextlib
import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import ttrnn
from pipelines import train as training
from pipelines.cluster.session import start_ray
from pipelines.core.errors import StepError, UserError
from pipelines.data.folds import open_folds
from pipelines.evaluation.evaluator import evaluate_model
from pipelines.sweep import SweepOptions, sweep
from pipelines.train import train
from pipelines.training import distributed
from pipelines.training.console import epoch_logger, run_summary
from pipelines.training.distributed import following
from pipelines.training.options import TrainOptions
from pipelines.training.run_directory import RunDirectory
from pipelines.training.setup import model_config
from tests.commands.test_demo import files_limited_to
from tests.processes import Child
from tests.runs import ALTERED, assert_nearly_equal, metrics, options
from tests.shards import make_shards
from ttrnn.model import VideoClassifier


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def ray_of_two_cpus():
    """The address of a Ray for all tests of several workers: each of them would start its own."""
    import ray

    with start_ray(num_cpus=2):
        yield ray.get_runtime_context().gcs_address


def test_a_training_that_ray_refuses_leaves_no_directory(shards, tmp_path, monkeypatch):
    def refuse():
        raise UserError("no Ray cluster answers")

    monkeypatch.setattr(training, "start_ray", refuse)
    with pytest.raises(UserError, match="no Ray cluster"):
        train(options(shards, tmp_path / "runs" / "run", num_workers=2))
    assert list(tmp_path.iterdir()) == []


def test_modes_are_printed_as_they_were_given(shards, tmp_path, caplog):
    caplog.set_level("INFO")
    train(options(shards, tmp_path / "run", in_modes="4x8", hidden_modes="4x4", epochs=1))
    assert "input-to-hidden (modes 4x8 -> 4x4, ranks 2)" in caplog.text


def test_a_model_that_can_not_be_rounded_to_the_options_is_refused_before_anything_is_written(
    shards, tmp_path, monkeypatch
):
    config = model_config(options(shards, "out"), open_folds(shards, options(shards, "out").folding))
    ttrnn.save(VideoClassifier(config), tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    for values, message in (
        ({"cell": "lstm"}, "does not fit the options: the model has cell gru, not lstm; only its ranks"),
        ({"hidden_modes": "4x2x2x1"}, "hidden_modes 2x2x2x2, not 4x2x2x1"),
        ({"init": "nowhere"}, "nowhere is not a model directory"),
    ):
        with pytest.raises(UserError, match=message):
            train(options(shards, "run", **{"init": "model"} | values))
        assert not Path("run").exists()
    result = train(options(shards, "run", init="model", ranks="1", epochs=1))
    assert result["config"]["init"] == str(tmp_path / "model")


def test_teachers_are_checked_before_anything_is_written_and_named_by_the_model(shards, tmp_path, monkeypatch):
    config = model_config(options(shards, "out"), open_folds(shards, options(shards, "out").folding))
    ttrnn.save(VideoClassifier(config), tmp_path / "one")
    ttrnn.save(VideoClassifier(dataclasses.replace(config, classes=("a", "b"))), tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    for teacher, message in (("nowhere", "nowhere is not a model directory"), ("one,other", "other has classes ")):
        with pytest.raises(UserError, match=message):
            train(options(shards, "run", teacher=teacher))
        assert not Path("run").exists()
    result = train(options(shards, "run", teacher="one,one", epochs=1))
    assert result["config"]["teacher"] == f"{tmp_path / 'one'},{tmp_path / 'one'}"
    assert (
        json.loads((tmp_path / "run/model/config.json").read_text())["results"]["teacher"]
        == f"{tmp_path}/one,{tmp_path}/one"
    )


def test_a_run_has_the_files_of_the_design(shards, tmp_path):
    result = train(options(shards, tmp_path / "run"))
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "checkpoint",
        "model",
        "learning-curve.png",
        "tensorboard",
        "val",
    }
    assert [line["epoch"] for line in metrics(run)] == [1, 2, 3, 4]
    summary = json.loads((run / "summary.json").read_text())
    assert summary == {
        name: value for name, value in result.items() if name not in ("out", "model", "shards", "measured")
    }
    assert summary["state"] == "complete"
    assert summary["config"]["ranks"] == "2x2x2"
    best = max(metrics(run), key=lambda line: (line["val_metric"], -line["val_loss"]))
    assert (summary["best_epoch"], summary["val_metric"]) == (best["epoch"], best["val_metric"])


def test_a_run_reports_the_interval_of_its_metric_and_writes_the_evaluation_on_val(shards, tmp_path, capsys):
    run = tmp_path / "run"
    assert training.main([str(shards), str(run), "--hidden-modes", "2x2x2x2", "--epochs", "2"]) == 0
    captured, summary = capsys.readouterr(), json.loads((run / "summary.json").read_text())
    measured = evaluate_model(run, shards, "val")
    assert summary["val_interval"] == pytest.approx(measured["interval"])
    assert (summary["val_interval_by"], summary["chance"]) == ("clip", pytest.approx(1 / 3))
    low, high = (f"{100 * bound:.1f}%" for bound in measured["interval"])
    value = f"{100 * measured['value']:.1f}%"
    first = captured.out.splitlines()[0]
    assert first == f"accuracy {value} (95% interval {low} to {high}; chance 33.3%) on 12 clips of val"
    files = {"confusion.png", "confusion.csv", "per_class.csv", "predictions.csv"}
    assert {path.name for path in (run / "val").iterdir()} == files
    assert len((run / "val" / "predictions.csv").read_text().splitlines()) == 1 + 12


def test_a_run_with_watch_test_reports_the_metric_on_the_test_split(shards, tmp_path):
    result = train(options(shards, tmp_path / "run", epochs=1, watch_test=True, keep="last"))
    assert result["measured"]["value"] == pytest.approx(result["val_metric"])
    assert "of test" in run_summary(result).splitlines()[0]
    predictions = (tmp_path / "run" / "test" / "predictions.csv").read_text().splitlines()
    assert predictions[1].startswith("test/0,")


def test_each_epoch_is_logged_in_one_line_with_the_time_left(caplog):
    log_epoch = epoch_logger()
    record = {"train_loss": 1.25, "val_loss": 1.5, "metric": "accuracy", "frames_per_s": 12345.6}
    # The line has the metric of this epoch, not the best one.
    record |= {"best_val_metric": 0.75, "val_metric": 0.5}
    with caplog.at_level("INFO"):
        for epoch, time_s in ((98, 100), (99, 30), (100, 1)):
            log_epoch({**record, "epoch": epoch, "epochs_planned": 100, "time_s": time_s})
    losses = "train loss 1.250  val loss 1.500  val accuracy  50.0%  12,346 frames/s"
    assert caplog.messages == [
        f"epoch  98/100  {losses}  3 min 20 s left",
        f"epoch  99/100  {losses}  1 min 05 s left",
        f"epoch 100/100  {losses}  done",
    ]


def test_epochs_of_workers_are_reported_once_also_after_a_resume(tmp_path):
    metrics, records = tmp_path / "metrics.jsonl", []
    first, second = ('{"epoch": 1, "val_metric": 0.5}\n', '{"epoch": 2, "val_metric": 0.25}\n')
    metrics.write_text(first)
    with following(RunDirectory(tmp_path), {"metric": "accuracy"}, records.append):
        metrics.write_text(first + second + '{"epo')
    assert records == [{"epoch": 2, "metric": "accuracy", "val_metric": 0.25}]


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert training.main([str(shards), str(tmp_path / "run"), "--track", "mlflow"]) == 2
    assert "pip install 'ttrnn[mlflow]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_refused_unless_overwritten(shards, tmp_path):
    train(options(shards, tmp_path / "run", epochs=1))
    with pytest.raises(UserError, match="--resume"):
        train(options(shards, tmp_path / "run", epochs=1))
    assert train(options(shards, tmp_path / "run", epochs=2, overwrite=True))["epochs"] == 2


def test_an_existing_run_is_refused_before_the_shards_are_read(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    with pytest.raises(UserError, match="run exists; --resume continues it"):
        train(options(tmp_path / "no-shards", tmp_path / "run"))


def test_overwrite_deletes_no_other_directories(shards, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"format": "ttrnn-model"}')
    for kwargs in ({"overwrite": True}, {"resume": True}, {}):
        with pytest.raises(UserError, match="does not describe a run"):
            train(options(shards, other, **kwargs))
    assert (other / "config.json").exists()


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"in_modes": "2x2x2x2"}, "the frame has 32 values; try"),
        ({"in_modes": "2x16"}, "must have equal length"),
        ({"ranks": "2x2"}, "4 modes take"),
        ({"cell": "cnn"}, "rnn, gru, lstm"),
        ({"input": "dense", "recurrent_ranks": "2"}, "recurrent_ranks"),
        ({"hidden_modes": "4*4"}, "'4\\*4'"),
        ({"stem": "conv", "input": "dense"}, "stem conv needs input tt, got input dense"),
        ({"stem_channels": "8x8"}, "stem_channels 8x8 needs stem conv, got stem none"),
        (
            {"stem": "conv", "stem_channels": "six"},
            "and stem_strides must be positive.*, got 'six'",
        ),
        ({"stem": "conv", "stem_strides": "4"}, "stem_strides 4x4 are too large for frames of 8x4 pixels"),
        ({"shift": 4}, "shift 4 is too large for frames of 8x4 pixels; give less than 4"),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit_are_refused_before_anything_is_written(shards, tmp_path, kwargs, words):
    with pytest.raises(UserError, match=words):
        train(options(shards, tmp_path / "run", **kwargs))
    assert not (tmp_path / "run").exists()


def command(*words):
    return [*map(str, words), "--hidden-modes", "2x2x2x2", "--batch-size", "4"]


def test_a_rank_that_is_too_large_is_clipped_with_a_log_line(shards, tmp_path, caplog):
    words = command(shards, tmp_path / "run", "--epochs", 1, "--ranks", "99")
    assert training.main(words) == 0
    assert "clipped" in caplog.text
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["config"]["ranks"] == "24x32x8"


@pytest.mark.parametrize("num_workers", [1, 2])
def test_ctrl_c_ends_with_130(shards, tmp_path, monkeypatch, request, num_workers):
    if num_workers > 1:
        monkeypatch.setenv("RAY_ADDRESS", request.getfixturevalue("ray_of_two_cpus"))
    run = tmp_path / "run"
    words = command(shards, run, "--epochs", 3000, "--num-workers", num_workers)
    with Child(
        [sys.executable, "-m", "pipelines.train", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while not (run / "checkpoint" / "state.pt").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1].startswith("interrupted; resume with: ")
    assert stderr.endswith(f"-m pipelines.train {shlex.join([*words, '--resume'])}\n")
    # Ray's workers are killed, possibly while they write.
    assert num_workers > 1 or not list(run.rglob("*.tmp"))


def test_full_disk_ends_with_1_and_one_line(shards, tmp_path, capsys):
    run = tmp_path / "run"
    words = [str(shards), str(run), "--hidden-modes", "4x4x4x4", "--epochs", "2"]
    # The checkpoint is larger.
    with files_limited_to(20_000):
        assert training.main(words) == 1
    stderr = capsys.readouterr().err
    assert "Traceback" not in stderr
    assert "--resume" in stderr.strip().splitlines()[-1]
    assert not list(run.rglob("*.tmp"))
    resumed = train(TrainOptions(shards=str(shards), out=str(run), hidden_modes="4x4x4x4", epochs=2, resume=True))
    assert resumed["state"] == "complete"


def test_json_prints_one_object_and_nothing_else(shards, tmp_path, capfd):
    assert training.main([*command(shards, tmp_path / "run", "--epochs", 1), "--json"]) == 0
    stdout, stderr = capfd.readouterr()
    assert json.loads(stdout)["epochs"] == 1
    assert stdout.count("\n") == 1
    assert "epoch 1/1" in stderr


def test_divergence_ends_with_1_and_one_line(shards, tmp_path, capsys, caplog):
    words = [str(shards), str(tmp_path / "run"), "--hidden-modes", "2x2x2x2", "--lr", "1e30", "--cell", "rnn"]
    assert training.main([*words, "--max-grad-norm", "none"]) == 1
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert re.match(r"error: diverged in epoch 1, step \d of 3: loss \S+, gradient norm \S+, learning rate \S+; ", line)
    assert "Traceback" not in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["state"] == "failed"


def test_shards_cut_in_half_are_refused_with_2(shards, tmp_path, capsys):
    broken = make_shards(tmp_path / "broken")
    file = broken / "train-00000.arrow"
    os.truncate(file, file.stat().st_size // 2)
    assert training.main(command(broken, tmp_path / "run")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "train-00000.arrow" in line


@pytest.mark.usefixtures("ray_of_two_cpus")
def test_two_ray_workers_one_of_which_is_killed_train_like_one_with_twice_the_batch(shards, tmp_path):
    exact = {"dropout": 0.0, "epochs": 8, "precision": "float32", **ALTERED}
    train(options(shards, tmp_path / "one", batch_size=10, **exact))
    exact["checkpoint_minutes"] = 1e-6
    two, killed = options(shards, tmp_path / "two", batch_size=5, num_workers=2, **exact), []

    def kill_a_worker_in_the_third_epoch():
        metrics_file = tmp_path / "two" / "metrics.jsonl"
        while not metrics_file.exists() or len(metrics_file.read_text().splitlines()) < 2:
            time.sleep(0.01)
        killed.append(train_workers(os.getpid())[-1])
        os.kill(killed[0], signal.SIGKILL)

    threading.Thread(target=kill_a_worker_in_the_third_epoch, daemon=True).start()
    result = train(two)
    assert killed
    assert result["state"] == "complete"
    assert_nearly_equal(tmp_path / "two", tmp_path / "one")
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}


def train_workers(process):
    """Process ids of Ray Train's workers among the children of a process, and their children."""
    children = [
        int(child) for path in Path(f"/proc/{process}/task").glob("*/children") for child in path.read_text().split()
    ]
    own = [child for child in children if b"RayTrainWorker" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return own + [worker for child in children for worker in train_workers(child)]


def test_divergence_of_workers_is_reported_and_not_retried(shards, tmp_path, monkeypatch, capsys):
    """Ray Train retries what raises an error."""
    import ray.train

    reports = []

    class Trainer:
        """Replaces that of Ray: one worker, in this process."""

        def __init__(self, function, *, train_loop_config, **kwargs):
            self.fit = lambda: function(train_loop_config)

    monkeypatch.setattr(training, "start_ray", contextlib.nullcontext)
    monkeypatch.setattr(training, "serve_files", contextlib.nullcontext)
    monkeypatch.setattr(distributed, "count_groups", lambda num_workers: ("CPU", 1))
    monkeypatch.setattr(distributed, "torch_trainer", lambda: Trainer)
    monkeypatch.setattr(ray.train, "get_context", lambda: SimpleNamespace(get_world_rank=lambda: 0))
    monkeypatch.setattr(ray.train, "report", reports.append)
    # The learning rate is so large that weights overflow.
    words = [str(shards), str(tmp_path / "run"), "--lr", "1e30", "--num-workers", "2", "--hidden-modes", "2x2x2x2"]
    assert training.main([*words, "--cell", "rnn", "--epochs", "3"]) == 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["state"] == reports[-1]["state"] == "failed"
    stderr = capsys.readouterr().err
    assert "Traceback" not in stderr
    assert "error: diverged in epoch" in stderr


@pytest.mark.usefixtures("ray_of_two_cpus")
def test_a_trial_of_two_workers_trains_on_ray(shards, tmp_path):
    common = {"data": str(shards), "space": "ranks", "num_trials": 1, "epochs": 2, "baselines": "none"}
    result = sweep(SweepOptions(**common, out=str(tmp_path / "out"), num_workers=2))
    assert [trial["state"] for trial in result["trials"]] == ["complete"]


@pytest.mark.usefixtures("ray_of_two_cpus")
def test_more_workers_than_processors_are_refused(shards, tmp_path, capsys):
    words = [str(shards), str(tmp_path / "run"), "--num-workers", "999", "--hidden-modes", "2x2x2x2"]
    assert training.main(words) == 2
    assert "999" in capsys.readouterr().err


@pytest.mark.usefixtures("ray_of_two_cpus")
def test_workers_that_find_no_room_end_in_one_line(shards, tmp_path, monkeypatch):
    import ray

    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1")
    # An actor of another command: its CPU is counted, but never free.
    other = ray.remote(num_cpus=1)(list).remote()
    ray.get(other.__ray_ready__.remote())
    (tmp_path / "run").mkdir()
    with pytest.raises(StepError, match=r"2 workers could not be started.* timed out .* --resume"):
        training.fit_on_ray(options(shards, tmp_path / "run", num_workers=2), None)
    ray.kill(other)

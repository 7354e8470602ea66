"""Test training/tracking.py: each epoch is logged once, and a tracker that fails does not end a training."""

import json
import logging
import struct
import sys
import types

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from pipelines.core.errors import UserError
from pipelines.evaluation.plots import confusion_matrix
from pipelines.training import tracking
from pipelines.training.run_directory import RunDirectory
from pipelines.training.tracking import Tracking, check_tracker

CURVE = "learning-curve.png"
SETTINGS = {"cell": "gru", "lr": 0.003, "fold": None}
SUMMARY = {
    "metric": "accuracy",
    "val_metric": 0.5,
    "chance": 0.1,
    "best_epoch": 2,
    "epochs": 3,
    "num_params": 5900,
    "input_params": 4000,
    "num_val_clips": 66,
    "train_s": 1.5,
}


def record(epoch):
    return {
        "epoch": epoch,
        "train_loss": 2 / epoch,
        "val_loss": 1 + 1 / epoch,
        "val_metric": 0.25 * epoch,
        "lr": 1e-3,
        "frames_per_s": 1000.0,
        "time_s": 0.5,
        "epochs_planned": 3,
    }


class Killed(BaseException):
    """Simulates the end of a process."""


def follow(out, epochs, track="none", *, is_killed=False):
    """Tracks these epochs of a run, up to its end or, with is_killed, up to a kill of its process."""
    out.mkdir(exist_ok=True)
    with Tracking(RunDirectory(out), SETTINGS, "accuracy", track) as following:
        for epoch in epochs:
            # Like fit: a repeated epoch is not there twice.
            (out / "metrics.jsonl").write_text(
                "".join(json.dumps(record(number + 1)) + "\n" for number in range(epoch))
            )
            following.update()
        if is_killed:
            raise Killed
        confusion_matrix(np.eye(2, dtype=int), ["a", "b"], out / "confusion.png")
        following.finish(SUMMARY, [out / "confusion.png", out / CURVE])


def events(out):
    """What TensorBoard shows: (tag, step, value) of all events, without those that a later start purges."""
    found = []
    for file in sorted((out / "tensorboard").iterdir()):
        content, place = file.read_bytes(), 0
        while place < len(content):
            (size,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + size])
            place += 16 + size
            if event.session_log.status == SessionLog.START:
                found = [old for old in found if old[1] < event.step]
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return found


@pytest.fixture
def services(monkeypatch):
    """Replaces mlflow and wandb; the list of their calls, as (name, *arguments)."""
    calls = []

    def noted(name, result=None):
        def call(*args, **kwargs):
            calls.append((name, *args, *kwargs.items()))
            return result

        return call

    info = types.SimpleNamespace(run_id="run 7")
    mlflow = types.ModuleType("mlflow")
    mlflow.start_run = noted("start_run", types.SimpleNamespace(info=info))
    for name in ("log_params", "log_metrics", "log_artifact", "end_run"):
        setattr(mlflow, name, noted(name))
    run = types.SimpleNamespace(id="run 7", log=noted("log"), finish=noted("finish"))
    run.summary = types.SimpleNamespace(update=noted("update"))
    wandb = types.ModuleType("wandb")
    wandb.init, wandb.Settings, wandb.Image = noted("init", run), dict, lambda path: f"image of {path}"
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return calls


@pytest.mark.parametrize(
    "epochs",
    [range(1, 4), range(2, 4), range(3, 4), range(4, 4)],
    ids=["all repeated", "one repeated", "none repeated", "killed after the last line"],
)
def test_tensorboard_has_each_epoch_once_after_a_kill(tmp_path, epochs):
    with pytest.raises(Killed):
        follow(tmp_path / "run", [1, 2], is_killed=True)
    if not epochs:
        with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(record(3)) + "\n")
    follow(tmp_path / "run", epochs)
    found = events(tmp_path / "run")
    for name in ("train_loss", "val_loss", "val_metric", "lr", "frames_per_s", "time_s"):
        own = [(step, value) for tag, step, value in found if tag == name]
        assert own == [(epoch, pytest.approx(record(epoch)[name])) for epoch in (1, 2, 3)]
    assert [(tag, step) for tag, step, _ in found if tag in ("confusion", CURVE[:-4])] == [
        ("confusion", 3),
        (CURVE[:-4], 3),
    ]
    assert [step for tag, step, _ in found if tag.startswith("settings")] == [0]


def test_mlflow_gets_settings_epochs_and_results(tmp_path, services):
    follow(tmp_path / "run", [1, 2, 3], "mlflow")
    names = [call[0] for call in services]
    assert names == ["start_run", "log_params", *["log_metrics"] * 4, *["log_artifact"] * 2, "end_run"]
    assert services[0] == ("start_run", ("run_id", None), ("run_name", "run"))
    assert services[1] == ("log_params", SETTINGS)
    sent = {name: value for name, value in record(2).items() if name != "epochs_planned"}
    assert services[3] == ("log_metrics", sent, ("step", 2), ("run_id", "run 7"))
    assert services[5][1] == {"best_val_metric": 0.5} | {name: SUMMARY[name] for name in tracking._RESULTS}
    assert services[-2] == ("log_artifact", str(tmp_path / "run" / CURVE), ("run_id", "run 7"))
    assert services[-1] == ("end_run", "FINISHED")


def test_wandb_gets_settings_epochs_and_results(tmp_path, services):
    follow(tmp_path / "run", [1, 2, 3], "wandb")
    assert [call[0] for call in services] == ["init", *["log"] * 4, "update", "finish"]
    begun = dict(services[0][1:])
    assert (begun["config"], begun["name"], begun["id"], begun["dir"]) == (SETTINGS, "run", None, f"{tmp_path}/run")
    assert services[2] == ("log", {name: record(2)[name] for name in tracking._SCALARS}, ("step", 2))
    assert services[4][1]["confusion"] == f"image of {tmp_path}/run/confusion.png"
    assert services[-2][1]["best_val_metric"] == 0.5
    assert services[-1] == ("finish", ("exit_code", 0))


@pytest.mark.parametrize(("track", "send", "begin"), [("mlflow", "log_metrics", "start_run"), ("wandb", "log", "init")])
def test_a_resumed_run_continues_in_its_tracker_with_each_epoch_once(tmp_path, services, track, send, begin):
    with pytest.raises(Killed):
        follow(tmp_path / "run", [1, 2], track, is_killed=True)
    assert services[-1] in (("end_run", "FAILED"), ("finish", ("exit_code", 1)))
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(record(1)) + "\n")
    follow(tmp_path / "run", [2, 3], track)
    logged = [call[1]["epoch"] for call in services if call[0] == send and "epoch" in call[1]]
    assert logged == [1, 2, 3]
    begun = [dict(call[1:]) for call in services if call[0] == begin]
    assert [values.get("run_id", values.get("id")) for values in begun] == [None, "run 7"]
    assert sum(call[0] == "log_params" for call in services) == (track == "mlflow")


@pytest.mark.parametrize("what", ["start", "epoch", "finish", "close"])
def test_a_tracker_that_fails_is_logged_once_and_the_training_continues(tmp_path, services, monkeypatch, caplog, what):
    def fails(*args):
        raise ConnectionError("no server\nat all")

    monkeypatch.setattr(tracking._MLflow, what, fails)
    with caplog.at_level(logging.WARNING):
        follow(tmp_path / "run", [1, 2, 3], "mlflow")
    assert caplog.messages == ["mlflow fails (no server at all); the training continues without it"]
    assert sum(tag == "val_loss" for tag, *_ in events(tmp_path / "run")) == 3
    assert (tmp_path / "run" / CURVE).exists()


@pytest.mark.parametrize("track", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_a_user_error(monkeypatch, track):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"track {track} needs .* pip install 'ttrnn\[{track}\]'"):
        check_tracker(track)
    check_tracker("none")


def test_drawing_the_curve_takes_a_few_percent_of_the_time(tmp_path, monkeypatch):
    now, drawn = [0.0], []
    monkeypatch.setattr(tracking.time, "monotonic", lambda: now[0])

    def draws(records, path, **kwargs):
        drawn.append(len(records))
        now[0] += 0.4

    monkeypatch.setattr(tracking, "learning_curve", draws)
    with Tracking(RunDirectory(tmp_path), SETTINGS, "accuracy") as following:
        for epoch in range(1, 501):
            now[0] += 1
            with (tmp_path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(record(epoch)) + "\n")
            following.update()
        following.finish({**SUMMARY, "epochs": 500}, [])
    assert drawn[-1] == 500, "at the end, with all epochs"
    assert 10 < len(drawn) < 0.03 * now[0] / 0.4


def test_half_a_line_is_not_logged_before_it_is_complete(tmp_path):
    line = json.dumps(record(1)) + "\n"
    with Tracking(RunDirectory(tmp_path), SETTINGS, "accuracy") as following:
        for part in (line[:20], line):
            (tmp_path / "metrics.jsonl").write_text(part)
            following.update()
    assert [step for tag, step, _ in events(tmp_path) if tag == "val_loss"] == [1]


def test_a_run_that_fails_has_its_learning_curve(tmp_path):
    with pytest.raises(Killed):
        follow(tmp_path / "run", [1, 2], is_killed=True)
    assert (tmp_path / "run" / CURVE).exists()


def test_the_real_mlflow_accepts_all_calls(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Killed):
        follow(tmp_path / "run", [1, 2], "mlflow", is_killed=True)
    follow(tmp_path / "run", [2, 3], "mlflow")
    client, run_id = mlflow.MlflowClient(), json.loads((tmp_path / "run" / "tracking.json").read_text())["id"]
    assert [point.step for point in client.get_metric_history(run_id, "val_loss")] == [1, 2, 3]
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {name: str(value) for name, value in SETTINGS.items()}
    assert {file.path for file in client.list_artifacts(run_id)} == {"confusion.png", CURVE}


def test_the_real_wandb_accepts_all_calls(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    follow(tmp_path / "run", [1, 2, 3], "wandb")
    # Its own process needs a moment to write.
    wandb.teardown()
    assert json.loads((tmp_path / "run" / "tracking.json").read_text())["epoch"] == 3
    (log,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"best_val_metric" in log.read_bytes()


def test_the_curve_names_the_split_that_the_run_is_validated_on(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(tracking, "learning_curve", lambda *args, val_split, **kwargs: drawn.append(val_split))
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record(1)) + "\n")
    for watch_test in (False, True):
        with Tracking(RunDirectory(tmp_path), {**SETTINGS, "watch_test": watch_test}, "accuracy") as following:
            following.finish(SUMMARY, [])
    assert drawn == ["val", "test"]

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import ttrnn
from pipelines import fit as fitting
from pipelines import recipe
from pipelines import train as training
from pipelines.cli import UserError
from pipelines.evaluate import evaluate_model
from pipelines.storage import Location
from pipelines.train import DivergedError, TrainOptions, fit, train
from tests.s3 import s3_server, upload
from tests.shards import make_shards

FAST = {"hidden_modes": "2x2x2x2", "ranks": "2", "epochs": 4, "batch_size": 8, "lr": 0.02}
ALTERED = {"flip": True, "shift": 1, "temporal_crop": 0.7, "speed": 1.5, "brightness": 0.2}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


def options(shards, out, **kwargs):
    return TrainOptions(shards=str(shards), out=str(out), **(FAST | kwargs))


def metrics(run):
    return [
        {name: value for name, value in json.loads(line).items() if name not in ("time_s", "frames_per_s")}
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]


def weights(run):
    return ttrnn.load(run / "model").state_dict()


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"cell": "lstm"},
        {"cell": "rnn"},
        {"input": "dense"},
        {"recurrent_ranks": "2"},
        {"bidirectional": True, "num_layers": 2},
        {"pooling": "mean"},
    ],
    ids=str,
)
def test_every_kind_of_model_learns(shards, tmp_path, kwargs):
    result = train(options(shards, tmp_path / "run", epochs=12, **kwargs))
    assert result["val_metric"] > 0.75
    assert result["num_params"] == ttrnn.load(result["model"]).num_params
    assert evaluate_model(result["model"], shards, "val")["value"] == pytest.approx(result["val_metric"])


@pytest.mark.parametrize(
    ("precision", "supported", "used"),
    [
        ("bfloat16", False, torch.bfloat16),
        ("float32", True, None),
        ("auto", True, torch.bfloat16),
        ("auto", False, None),
    ],
)
def test_training_is_as_precise_as_asked_and_metrics_are_always_in_full(
    shards, tmp_path, monkeypatch, precision, supported, used
):
    monkeypatch.setattr(recipe, "supports_bfloat16", lambda device_type: supported)
    seen = []
    forward = fitting.VideoClassifier.forward

    def noted(model, *args, **kwargs):
        seen.append((model.training, model.rnn.compute_dtype))
        return forward(model, *args, **kwargs)

    monkeypatch.setattr(fitting.VideoClassifier, "forward", noted)
    result = train(options(shards, tmp_path / "run", epochs=2, precision=precision))
    assert set(seen) == {(True, used), (False, None)}
    assert result["config"]["precision"] == ("float32" if used is None else "bfloat16")


@pytest.mark.parametrize(
    "earlier", ["bfloat16", "float32", None], ids=["bfloat16", "float32", "from before the option"]
)
def test_a_run_is_resumed_with_the_precision_that_it_was_started_with(shards, tmp_path, monkeypatch, earlier):
    monkeypatch.setattr(recipe, "supports_bfloat16", lambda device_type: earlier == "bfloat16")
    train(options(shards, tmp_path / "run", epochs=1))
    path = tmp_path / "run" / "config.json"
    if earlier is None:
        config = json.loads(path.read_text())
        del config["options"]["precision"]
        path.write_text(json.dumps(config))
    monkeypatch.setattr(recipe, "supports_bfloat16", lambda device_type: earlier != "bfloat16")
    result = train(options(shards, tmp_path / "run", epochs=1, resume=True))
    assert result["config"]["precision"] == (earlier or "float32")
    other = "float32" if earlier == "bfloat16" else "bfloat16"
    with pytest.raises(UserError, match="was started with precision"):
        train(options(shards, tmp_path / "run", epochs=1, resume=True, precision=other))


def test_shards_in_a_bucket_train_the_same_model(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("TTRNN_CACHE", str(tmp_path / "cache"))
    with s3_server() as query:
        place = upload(shards, Location.of(f"s3://lab/shards?{query}"))
        result = train(options(place, tmp_path / "remote", epochs=2))
        assert evaluate_model(result["model"], str(place), "val")["value"] == pytest.approx(result["val_metric"])
        assert result["shards"] == str(place)
    train(options(shards, tmp_path / "local", epochs=2))
    assert metrics(tmp_path / "remote") == metrics(tmp_path / "local")


@pytest.mark.parametrize("kwargs", [{name: value} for name, value in ALTERED.items()], ids=str)
def test_clips_are_altered_in_training_only_and_the_run_says_so(shards, tmp_path, monkeypatch, kwargs):
    seen = []
    forward = fitting.VideoClassifier.forward

    def noted(model, frames, *args):
        seen.append((model.training, [clip.tolist() for clip in frames]))
        return forward(model, frames, *args)

    monkeypatch.setattr(fitting.VideoClassifier, "forward", noted)
    clips = {}
    for name, chosen in (("plain", {}), ("altered", kwargs)):
        seen.clear()
        result = train(options(shards, tmp_path / name, epochs=2, **chosen))
        clips[name] = {
            learning: [clip for at, batch in seen if at == learning for clip in batch] for learning in (0, 1)
        }
    assert clips["altered"][False] == clips["plain"][False]
    changed = [clip not in clips["plain"][True] for clip in clips["altered"][True]]
    # Of 2 epochs of 36 clips; half of them at least, but for those that are drawn as they are.
    assert sum(changed) > 20
    ((name, value),) = kwargs.items()
    assert json.loads((tmp_path / "altered" / "config.json").read_text())["options"][name] == value
    assert result["config"][name] == value


def test_a_run_from_before_the_options_was_not_altered(shards, tmp_path):
    train(options(shards, tmp_path / "run", epochs=1))
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    for name in ALTERED:
        del config["options"][name]
    path.write_text(json.dumps(config))
    assert train(options(shards, tmp_path / "run", epochs=1, resume=True))["state"] == "complete"
    with pytest.raises(UserError, match="was started with shift 0, not 1"):
        train(options(shards, tmp_path / "run", epochs=1, resume=True, shift=1))


def test_what_a_killed_run_left_half_written_is_gone_after_resuming(shards, tmp_path):
    train(options(shards, tmp_path / "run", epochs=1))
    expected = set((tmp_path / "run").iterdir())
    (tmp_path / "run" / ".model.abc.tmp").mkdir()
    (tmp_path / "run" / ".summary.json.abc.tmp").write_text("{")
    train(options(shards, tmp_path / "run", epochs=1, resume=True))
    assert set((tmp_path / "run").iterdir()) == expected


def test_several_labels_are_learnt_and_measured_by_average_precision(tmp_path):
    shards = make_shards(tmp_path / "shards", multi_label=True)
    result = train(options(shards, tmp_path / "run", epochs=15))
    assert result["metric"] == "mean_average_precision"
    assert result["val_metric"] > 0.8


def test_run_leaves_what_the_design_says(shards, tmp_path):
    result = train(options(shards, tmp_path / "run"))
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "checkpoint",
        "model",
    }
    assert [line["epoch"] for line in metrics(run)] == [1, 2, 3, 4]
    summary = json.loads((run / "summary.json").read_text())
    assert summary == {name: value for name, value in result.items() if name not in ("out", "model", "shards")}
    assert summary["state"] == "complete"
    assert summary["config"]["ranks"] == "2x2x2"
    best = max(metrics(run), key=lambda line: (line["val_metric"], -line["val_loss"]))
    assert (summary["best_epoch"], summary["val_metric"]) == (best["epoch"], best["val_metric"])


def test_same_seed_same_run_and_another_seed_another(shards, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(options(shards, tmp_path / name, seed=seed))
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    assert metrics(tmp_path / "a") != metrics(tmp_path / "c")


class StopError(Exception):
    pass


@pytest.mark.parametrize(
    ("killed_in", "kwargs"),
    [("run_epoch", {}), ("save", {}), ("_publish", {}), ("write_summary", {}), ("run_epoch", ALTERED)],
    ids=["run_epoch", "save", "publish", "write_summary", "run_epoch, altered clips"],
)
def test_resumed_run_equals_an_undisturbed_one_to_the_bit(shards, tmp_path, monkeypatch, killed_in, kwargs):
    train(options(shards, tmp_path / "whole", **kwargs))
    method, calls = getattr(fitting._Run, killed_in), []

    def dies_in_epoch_3(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise StopError
        return method(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(fitting._Run, killed_in, dies_in_epoch_3)
        with pytest.raises(StopError):
            train(options(shards, tmp_path / "cut", **kwargs))
    result = train(options(shards, tmp_path / "cut", resume=True, **kwargs))
    assert result["state"] == "complete"
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    one, other = weights(tmp_path / "cut"), weights(tmp_path / "whole")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_resuming_with_other_options_is_refused_by_name(shards, tmp_path):
    train(options(shards, tmp_path / "run", epochs=1))
    with pytest.raises(UserError, match=r"lr 0.02, not 0.5"):
        train(options(shards, tmp_path / "run", epochs=1, lr=0.5, resume=True))


def test_run_that_exists_is_refused_unless_overwritten(shards, tmp_path):
    train(options(shards, tmp_path / "run", epochs=1))
    with pytest.raises(UserError, match="--resume"):
        train(options(shards, tmp_path / "run", epochs=1))
    assert train(options(shards, tmp_path / "run", epochs=2, overwrite=True))["epochs"] == 2


def test_overwrite_deletes_runs_only(shards, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"format": "ttrnn-model"}')
    for kwargs in ({"overwrite": True}, {"resume": True}, {}):
        with pytest.raises(UserError, match="does not describe a run"):
            train(options(shards, other, **kwargs))
    assert (other / "config.json").exists()


def test_patience_stops_early(shards, tmp_path):
    result = train(options(shards, tmp_path / "run", epochs=200, lr=1e-9, patience=3))
    assert result["epochs"] < 20
    assert result["epochs"] - result["best_epoch"] == 3


def test_divergence_stops_the_run_with_its_numbers_and_keeps_the_best_model(shards, tmp_path, monkeypatch):
    run, losses, calls = tmp_path / "run", fitting.losses, []
    run.mkdir()

    def breaks(*args):
        calls.append(1)
        # Of 5 steps an epoch.
        return losses(*args) * (float("nan") if len(calls) == 7 else 1.0)

    monkeypatch.setattr(fitting, "losses", breaks)
    with pytest.raises(DivergedError, match=r"epoch 2, step 2 of 5: loss nan, gradient norm nan, learning rate 0\.\d+; "):
        fit(options(shards, run))
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["state"], summary["epochs"]) == ("failed", 1)
    assert ttrnn.load(run / "model").config.cell == "gru"


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"in_modes": "2x2x2x2"}, "the frame has 32 values; try"),
        ({"in_modes": "2x16"}, "as many"),
        ({"ranks": "2x2"}, "4 modes take"),
        ({"cell": "cnn"}, "rnn, gru, lstm"),
        ({"input": "dense", "recurrent_ranks": "2"}, "recurrent_ranks"),
        ({"hidden_modes": "4*4"}, "'4\\*4'"),
        ({"shift": 4}, "shift 4 moves frames of 8x4 pixels out of sight; give less than 4"),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit_are_refused_before_anything_is_made(shards, tmp_path, kwargs, words):
    with pytest.raises(UserError, match=words):
        train(options(shards, tmp_path / "run", **kwargs))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "kwargs",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"lr": -1.0},
        {"lr": float("nan")},
        {"num_workers": 0},
        {"patience": 0},
        {"seed": -1},
        {"weight_decay": -0.1},
        {"input_gain": 0.0},
        {"precision": "float16"},
        {"shift": -1},
        {"temporal_crop": 0.0},
        {"speed": 0.5},
        {"brightness": 2.0},
    ],
    ids=str,
)
def test_impossible_numbers_are_refused_by_name(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        options("shards", "out", **kwargs)


def command(*words):
    return [sys.executable, "-m", "pipelines.train", *map(str, words), "--hidden-modes", "2x2x2x2", "--batch-size", "4"]


def test_rank_above_the_modes_is_clipped_and_said(shards, tmp_path):
    words = command(shards, tmp_path / "run", "--epochs", 1, "--ranks", "99")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "clipped" in done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["config"]["ranks"] == "12x32x8"


def test_ctrl_c_ends_with_130_and_the_run_resumes(shards, tmp_path):
    run = tmp_path / "run"
    process = subprocess.Popen(command(shards, run, "--epochs", 3000), stderr=subprocess.PIPE, text=True)
    while not (run / "checkpoint" / "state.pt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert not list(run.rglob("*.tmp"))
    before = len(metrics(run))
    process = subprocess.Popen(command(shards, run, "--epochs", 3000, "--resume"), stderr=subprocess.DEVNULL)
    while len((run / "metrics.jsonl").read_text().splitlines()) <= before + 1:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert [line["epoch"] for line in metrics(run)][: before + 2] == list(range(1, before + 3))


def test_full_disk_ends_with_1_and_one_line(shards, tmp_path):
    run = tmp_path / "run"
    # Files may not grow beyond 20 kB: the checkpoint is larger.
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000));"
        "from pipelines.train import main; sys.exit(main(sys.argv[1:]))"
    )
    words = [str(shards), str(run), "--hidden-modes", "4x4x4x4", "--epochs", "2"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "--resume" in done.stderr.strip().splitlines()[-1]
    assert not list(run.rglob("*.tmp"))
    resumed = train(TrainOptions(shards=str(shards), out=str(run), hidden_modes="4x4x4x4", epochs=2, resume=True))
    assert resumed["state"] == "complete"


def test_json_prints_one_object_and_nothing_else(shards, tmp_path):
    done = subprocess.run(
        [*command(shards, tmp_path / "run", "--epochs", 1), "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["epochs"] == 1
    assert done.stdout.count("\n") == 1
    assert "epoch 1/1" in done.stderr


def test_shards_cut_in_half_are_refused_with_2(shards, tmp_path):
    broken = make_shards(tmp_path / "broken")
    file = broken / "train-00000.arrow"
    os.truncate(file, file.stat().st_size // 2)
    done = subprocess.run(command(broken, tmp_path / "run"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "train-00000.arrow" in done.stderr


def test_two_workers_train_as_one_with_twice_the_batch(shards, tmp_path):
    """Ray Train with two gloo workers; ragged clips, a last batch of fewer clips, no dropout."""
    exact = {"dropout": 0.0, "recurrent_dropout": 0.0, "epochs": 2, "precision": "float32", **ALTERED}
    train(options(shards, tmp_path / "one", batch_size=10, **exact))
    result = train(options(shards, tmp_path / "two", batch_size=5, num_workers=2, **exact))
    assert result["state"] == "complete"
    for one, two in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        for name in one:
            assert two[name] == pytest.approx(one[name], rel=1e-5, abs=1e-6), name
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}


def test_divergence_of_two_workers_is_told_once_and_not_tried_again(shards, tmp_path, capsys, caplog):
    # So large a rate that weights overflow.
    words = [str(shards), str(tmp_path / "run"), "--lr", "1e30", "--num-workers", "2", "--hidden-modes", "2x2x2x2"]
    assert training.main([*words, "--cell", "rnn", "--epochs", "3"]) == 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["state"] == "failed"
    assert "Traceback" not in capsys.readouterr().err


def test_more_workers_than_processors_are_refused(shards, tmp_path, capsys):
    words = [str(shards), str(tmp_path / "run"), "--num-workers", "999", "--hidden-modes", "2x2x2x2"]
    assert training.main(words) == 2
    assert "999" in capsys.readouterr().err


def test_settings_name_every_option_that_decides_the_result():
    left_out = {"out", "resume", "overwrite", "checkpoint_minutes", "track"}
    names = {field.name for field in dataclasses.fields(TrainOptions)}
    assert set(options("shards", "out").settings()) == names - left_out

"""Test training/trainer.py and checkpoint.py: models learn, killed runs resume to the bit, workers train as one."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import ttrnn
from pipelines.core.errors import UserError
from pipelines.evaluation.evaluator import evaluate_model
from pipelines.storage.location import Location
from pipelines.storage.lock import only_writer
from pipelines.training import setup, trainer
from pipelines.training.trainer import DivergedError, fit
from tests.processes import Child
from tests.runs import (
    ALTERED,
    FAST,
    assert_equal_to_the_bit,
    assert_nearly_equal,
    fit_together,
    metrics,
    options,
    weights,
)
from tests.shards import make_shards
from ttrnn.rounding import rounded


def trained(chosen):
    Path(chosen.out).mkdir(exist_ok=True)
    return fit(setup.resolve_precision(chosen))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


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
        {"stem": "conv", "stem_strides": "1x2"},
    ],
    ids=str,
)
def test_every_kind_of_model_learns(shards, tmp_path, kwargs):
    result = trained(options(shards, tmp_path / "run", epochs=12, **kwargs))
    assert result["val_metric"] > 0.75
    assert result["num_params"] == ttrnn.load(tmp_path / "run" / "model").num_params
    assert evaluate_model(tmp_path / "run" / "model", shards, "val")["value"] == pytest.approx(result["val_metric"])


@pytest.mark.parametrize(
    ("precision", "supported", "used"),
    [
        ("bfloat16", False, torch.bfloat16),
        ("float32", True, None),
        ("auto", True, torch.bfloat16),
        ("auto", False, None),
    ],
)
def test_training_uses_the_requested_precision_and_validation_uses_float32(
    shards, tmp_path, monkeypatch, precision, supported, used
):
    monkeypatch.setattr(setup, "supports_bfloat16", lambda device_type: supported)
    seen = []
    forward = trainer.VideoClassifier.forward

    def noted(model, *args, **kwargs):
        seen.append((model.training, model.rnn.compute_dtype))
        return forward(model, *args, **kwargs)

    monkeypatch.setattr(trainer.VideoClassifier, "forward", noted)
    result = trained(options(shards, tmp_path / "run", epochs=2, precision=precision))
    assert set(seen) == {(True, used), (False, None)}
    assert result["config"]["precision"] == ("float32" if used is None else "bfloat16")


@pytest.mark.parametrize("kwargs", [{name: value} for name, value in ALTERED.items()], ids=str)
def test_clips_are_augmented_in_training_only_and_the_run_records_it(shards, tmp_path, monkeypatch, kwargs):
    seen = []
    forward = trainer.VideoClassifier.forward

    def noted(model, frames, *args):
        seen.append((model.training, [clip.tolist() for clip in frames]))
        return forward(model, frames, *args)

    monkeypatch.setattr(trainer.VideoClassifier, "forward", noted)
    clips = {}
    for name, chosen in (("plain", {}), ("altered", kwargs)):
        seen.clear()
        result = trained(options(shards, tmp_path / name, epochs=2, **chosen))
        clips[name] = {
            training: [clip for at, batch in seen if at == training for clip in batch] for training in (0, 1)
        }
    assert clips["altered"][False] == clips["plain"][False]
    changed = [clip not in clips["plain"][True] for clip in clips["altered"][True]]
    # Of 2 epochs of 36 clips: at least half, except for those whose random change is none.
    assert sum(changed) > 20
    ((name, value),) = kwargs.items()
    assert result["config"][name] == value


@pytest.mark.parametrize("kwargs", [{}, {"stem": "conv", "stem_strides": "1x2"}], ids=["plain", "stem"])
def test_a_run_with_init_rounds_that_model_and_does_not_need_it_after_its_first_checkpoint(shards, tmp_path, kwargs):
    trained(options(shards, tmp_path / "parent", ranks="3", **kwargs))
    parent = ttrnn.load(tmp_path / "parent" / "model")
    chosen = options(
        shards,
        tmp_path / "run",
        init=str(tmp_path / "parent" / "model"),
        recurrent_ranks="2",
        dropout=0.1,
        weight_averaging=0.9,
        lr=1e-12,
        epochs=2,
        precision="float32",
        **kwargs,
    )

    def killed(record):
        raise KeyboardInterrupt

    (tmp_path / "run").mkdir()
    with pytest.raises(KeyboardInterrupt):
        fit(chosen, killed)
    shutil.rmtree(tmp_path / "parent")
    summary = fit(chosen)
    assert (summary["epochs"], summary["config"]["init"]) == (2, chosen.init)
    assert [line["epoch"] for line in metrics(tmp_path / "run")] == [1, 2]
    model = ttrnn.load(tmp_path / "run" / "model")
    expected, _ = rounded(parent, model.config)
    for name, weight in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=1e-6, atol=1e-9)


def test_a_multi_label_model_learns_and_is_evaluated_by_mean_average_precision(tmp_path):
    shards = make_shards(tmp_path / "shards", multi_label=True)
    result = trained(options(shards, tmp_path / "run", epochs=15))
    assert result["metric"] == "mean_average_precision"
    assert result["val_metric"] > 0.8


def test_the_same_seed_gives_the_same_run_and_another_seed_a_different_one(shards, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trained(options(shards, tmp_path / name, seed=seed))
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    assert metrics(tmp_path / "a") != metrics(tmp_path / "c")


class Killed(BaseException):
    pass


def die_at(patch, where, number, *, before):
    """Simulates a kill at the `number`-th call of a function, given as (owner, name): before or after it."""
    owner, name = where
    function, calls = getattr(owner, name), []

    def dies(*args, **kwargs):
        calls.append(1)
        # Later calls, by code that cleans up after an exception, fail too: a kill leaves no time for them.
        if len(calls) > number or (before and len(calls) == number):
            raise Killed
        result = function(*args, **kwargs)
        if len(calls) == number:
            raise Killed
        return result

    patch.setattr(owner, name, dies)


# Many things that have state or randomness: dropout, EMA, schedule, augmentation.
FULL = {"dropout": 0.3, "recurrent_dropout": 0.2, "weight_averaging": 0.9, "label_smoothing": 0.1, **ALTERED}


@pytest.fixture(scope="module")
def uninterrupted(shards, tmp_path_factory):
    """The run of some options that nothing has interrupted, trained once."""
    runs = {}

    def run(**kwargs):
        key = repr(sorted(kwargs.items()))
        if key not in runs:
            runs[key] = tmp_path_factory.mktemp("uninterrupted") / "run"
            trained(options(shards, runs[key], **kwargs))
        return runs[key]

    return run


@pytest.mark.parametrize(
    "kwargs", [FULL, {"keep": "last"}, {**FULL, "stem": "conv", "stem_strides": "1x2"}], ids=["full", "last", "stem"]
)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("number", [5, 8])
def test_a_run_that_is_killed_repeatedly_at_any_write_equals_an_uninterrupted_one_to_the_bit(
    shards, uninterrupted, tmp_path, monkeypatch, kwargs, before, number
):
    whole = uninterrupted(epochs=3, **kwargs)
    # A checkpoint after each step.
    cut, lives = options(shards, tmp_path / "cut", epochs=3, checkpoint_minutes=1e-9, **kwargs), 0
    while True:
        try:
            with monkeypatch.context() as patch:
                # Alternating numbers, or it could be killed at the same call forever.
                die_at(patch, (os, "replace"), number + lives % 2, before=before)
                result = trained(cut)
            break
        except Killed:
            lives += 1
            assert lives < 50
    # 15 checkpoints at least.
    assert lives > 15 / number
    assert result["state"] == "complete"
    assert_equal_to_the_bit(tmp_path / "cut", whole)
    assert_same_files(tmp_path / "cut", whole)


def assert_same_files(run, other):
    assert {path.name for path in run.rglob("*")} == {path.name for path in other.rglob("*")}


@pytest.mark.parametrize("step", [1, 3, 5, 6, 14])
def test_a_run_that_is_killed_between_checkpoints_repeats_the_steps_after_the_last(
    shards, uninterrupted, tmp_path, monkeypatch, step
):
    whole = uninterrupted(epochs=3, **FULL)
    with monkeypatch.context() as patch:
        die_at(patch, (trainer._Trainer, "_step"), step, before=False)
        with pytest.raises(Killed):
            trained(options(shards, tmp_path / "cut", epochs=3, **FULL))
    trained(options(shards, tmp_path / "cut", epochs=3, **FULL))
    assert_equal_to_the_bit(tmp_path / "cut", whole)


def test_a_kill_right_after_a_checkpoint_loses_neither_the_metrics_nor_the_model_of_the_epoch(shards, tmp_path):
    trained(options(shards, tmp_path / "whole", epochs=2, keep="last"))
    trained(options(shards, tmp_path / "cut", epochs=2, keep="last"))
    file = tmp_path / "cut" / "metrics.jsonl"
    os.truncate(file, file.stat().st_size - 20)
    shutil.rmtree(tmp_path / "cut" / "model")
    trained(options(shards, tmp_path / "cut", epochs=2, keep="last"))
    assert_equal_to_the_bit(tmp_path / "cut", tmp_path / "whole")


def test_a_checkpoint_of_an_earlier_version_is_resumed(shards, tmp_path):
    trained(options(shards, tmp_path / "run", epochs=2, schedule="constant"))
    path, before = tmp_path / "run" / "checkpoint" / "state.pt", metrics(tmp_path / "run")
    names = ("model", "optimizer", "schedule", "epoch", "train_s", "best")
    state = torch.load(path, weights_only=True)
    torch.save({name: state[name] for name in names}, path)
    trained(options(shards, tmp_path / "run", epochs=3, schedule="constant"))
    trained(options(shards, tmp_path / "whole", epochs=3, schedule="constant"))
    assert metrics(tmp_path / "run")[:2] == before
    assert_equal_to_the_bit(tmp_path / "run", tmp_path / "whole")


def test_checkpoints_are_saved_as_often_as_requested(shards, tmp_path, monkeypatch):
    clock, saved = [0.0], []
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    step, save = trainer._Trainer._step, trainer._Trainer.save

    def minute(run, batch):
        step(run, batch)
        clock[0] += 60

    def noted(run):
        saved.append((run.progress.epoch, run.progress.step))
        save(run)

    monkeypatch.setattr(trainer._Trainer, "_step", minute)
    monkeypatch.setattr(trainer._Trainer, "save", noted)
    trained(options(shards, tmp_path / "run", epochs=2, checkpoint_minutes=1.5))
    # Of 5 steps an epoch.
    assert saved == [(0, 2), (0, 4), (1, 0), (1, 2), (1, 4), (2, 0)]


def test_a_killed_process_resumes_where_it_was(shards, tmp_path):
    """SIGKILL at a random time."""
    kwargs, run = {**FAST, **FULL, "epochs": 12}, tmp_path / "run"
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**kwargs, "precision": "float32", "checkpoint_minutes": 1e-6}))
    words = [sys.executable, "-m", "pipelines.train", str(shards), str(run), "--config", str(config)]
    with Child(words, stderr=subprocess.DEVNULL) as process:
        while num_lines(run) < 3:
            assert process.poll() is None
            time.sleep(0.01)
    result = trained(options(shards, run, precision="float32", **kwargs))
    assert result["state"] == "complete"
    trained(options(shards, tmp_path / "whole", precision="float32", **kwargs))
    assert_equal_to_the_bit(run, tmp_path / "whole")


def test_a_run_has_one_process_at_a_time(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "_WAIT_S", 0.2)
    (tmp_path / "run").mkdir()
    with only_writer(Location.of(tmp_path / "run")):
        with pytest.raises(UserError, match=r"another command is writing to .*run"):
            fit(options(shards, tmp_path / "run"))
        assert not list((tmp_path / "run").iterdir())


def num_lines(run):
    path = run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_keep_selects_the_epoch_whose_model_is_saved(shards, tmp_path):
    for keep in ("best", "last"):
        result = trained(options(shards, tmp_path / keep, epochs=8, keep=keep))
        lines = metrics(tmp_path / keep)
        best = max(lines, key=lambda line: (line["val_metric"], -line["val_loss"]))
        line = best if keep == "best" else lines[-1]
        assert (result["best_epoch"], result["val_metric"]) == (line["epoch"], line["val_metric"])
        saved = evaluate_model(tmp_path / keep / "model", shards, "val")
        assert saved["value"] == pytest.approx(line["val_metric"])
        if keep == "last":
            state = torch.load(tmp_path / keep / "checkpoint" / "state.pt", weights_only=True)["model"]
            assert all(torch.equal(weight, state[name]) for name, weight in weights(tmp_path / keep).items())


def test_the_ema_of_the_weights_is_evaluated_and_saved(shards, tmp_path):
    result = trained(options(shards, tmp_path / "run", keep="last", weight_averaging=0.95))
    state = torch.load(tmp_path / "run" / "checkpoint" / "state.pt", weights_only=True)
    for name, weight in weights(tmp_path / "run").items():
        assert torch.equal(weight, state["average"]["module." + name])
        assert not torch.equal(weight, state["model"][name])
    assert evaluate_model(tmp_path / "run" / "model", shards, "val")["value"] == pytest.approx(result["val_metric"])


@pytest.mark.parametrize("limit", [None, 1e-3, 1e9], ids=str)
def test_gradients_are_clipped_to_max_grad_norm(shards, tmp_path, monkeypatch, limit):
    norms, update = [], torch.optim.AdamW.step

    def noted(optimizer, *args, **kwargs):
        gradients = [parameter.grad for group in optimizer.param_groups for parameter in group["params"]]
        norms.append(float(torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in gradients]))))
        return update(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    trained(options(shards, tmp_path / "run", epochs=1, max_grad_norm=limit))
    assert len(norms) == 5
    if limit == 1e-3:
        assert norms == pytest.approx([limit] * 5, rel=1e-2)
    else:
        assert min(norms) > 1e-3


def test_patience_stops_early(shards, tmp_path):
    result = trained(options(shards, tmp_path / "run", epochs=200, lr=1e-9, patience=3))
    assert result["epochs"] < 20
    assert result["epochs"] - result["best_epoch"] == 3


def test_divergence_stops_the_run_reports_its_numbers_and_leaves_the_best_model(shards, tmp_path, monkeypatch):
    run, losses, calls = tmp_path / "run", trainer.losses, []
    run.mkdir()

    def breaks(*args):
        calls.append(1)
        # Of 5 steps an epoch.
        return losses(*args) * (float("nan") if len(calls) == 7 else 1.0)

    monkeypatch.setattr(trainer, "losses", breaks)
    words = r"epoch 2, step 2 of 5: loss nan, gradient norm nan, learning rate 0\.\d+; the last good model stays"
    with pytest.raises(DivergedError, match=words):
        fit(options(shards, run))
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["state"], summary["epochs"]) == ("failed", 1)
    assert ttrnn.load(run / "model").config.cell == "gru"


def test_resuming_removes_the_half_written_files_of_a_killed_run(shards, tmp_path):
    trained(options(shards, tmp_path / "run", epochs=1))
    expected = set((tmp_path / "run").rglob("*"))
    (tmp_path / "run" / ".model.abc.tmp").mkdir()
    (tmp_path / "run" / ".summary.json.abc.tmp").write_text("{")
    (tmp_path / "run" / "checkpoint" / ".state.pt.abc.tmp").write_text("{")
    trained(options(shards, tmp_path / "run", epochs=1))
    assert set((tmp_path / "run").rglob("*")) == expected


@pytest.mark.parametrize("minutes", [1e-9, 10.0], ids=["checkpoint after each step", "checkpoint after each epoch"])
def test_weights_that_are_not_finite_are_never_saved(shards, tmp_path, monkeypatch, minutes):
    run, update, calls = tmp_path / "run", torch.optim.AdamW.step, []
    run.mkdir()

    def overflows(optimizer, *args, **kwargs):
        update(optimizer, *args, **kwargs)
        calls.append(1)
        if len(calls) == 10:
            # The last step of the second epoch: no later gradient shows it.
            optimizer.param_groups[0]["params"][0].data.mul_(float("inf"))

    monkeypatch.setattr(torch.optim.AdamW, "step", overflows)
    with pytest.raises(DivergedError, match="epoch 2, step 5 of 5"):
        fit(options(shards, run, checkpoint_minutes=minutes))
    state = torch.load(run / "checkpoint" / "state.pt", weights_only=True)
    assert (state["epoch"], state["step"]) == ((1, 4) if minutes < 1 else (1, 0))
    assert all(torch.isfinite(tensor).all() for tensor in state["model"].values())
    assert len(metrics(run)) == 1


# 31 clips in steps of 10 or 15: the last step has one clip, fewer than there are workers.
TOGETHER = {
    "plain": {},
    "full": {**FULL, "dropout": 0.0, "recurrent_dropout": 0.0, "bidirectional": True, "pooling": "mean"},
    "as the paper": {
        "cell": "lstm",
        "optimizer": "adam",
        "schedule": "constant",
        "decayed": "head",
        "max_grad_norm": None,
        "keep": "last",
        "pixels": "centred",
    },
    "stem": {"stem": "conv", "stem_strides": "1x2", "stem_channels": "3x4"},
    "three workers": {"weight_averaging": 0.8, "recurrent_ranks": "2"},
    "several labels": {"label_smoothing": 0.2},
}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """By name: the run of several workers and what `fit` returned or raised on each; NAME alone is the same on one."""
    directory = tmp_path_factory.mktemp("together")
    places = {
        labels: str(make_shards(directory / f"shards{labels}", num_clips=31, multi_label=labels)) for labels in (0, 1)
    }
    done, jobs = {}, {2: {}, 3: {}}
    for name, kwargs in TOGETHER.items():
        world_size = 3 if name == "three workers" else 2
        job = {"shards": places[name == "several labels"], "epochs": 3, "lr": 0.005, "precision": "float32",
               "dropout": 0.0, **kwargs}  # fmt: skip
        (directory / f"{name} alone").mkdir()
        fit(options(**{**job, "out": directory / f"{name} alone", "batch_size": 5 * world_size}))
        jobs[world_size][name] = {**job, "out": str(directory / name), "batch_size": 5, "num_workers": world_size}
    jobs[2]["nan"] = {**jobs[2]["plain"], "out": str(directory / "nan"), "nan_at": 7}
    # Stopped in the middle of an epoch, and resumed.
    stopped = {**jobs[2]["plain"], "out": str(directory / "resumed"), "checkpoint_minutes": 1e-9}
    jobs[2] |= {"stopped": {**stopped, "nan_at": 7}, "resumed": stopped}
    for world_size, named in jobs.items():
        results = fit_together(directory / str(world_size), list(named.values()), world_size)
        done |= {name: (directory / name, result) for name, result in zip(named, results, strict=True)}
    return done


@pytest.mark.parametrize("name", TOGETHER)
def test_n_workers_train_like_one_with_n_times_the_batch(together, name):
    run, (first, *others) = together[name]
    assert first["state"] == "complete"
    assert all({**other, "train_s": first["train_s"]} == first for other in others)
    assert_nearly_equal(run, run.parent / f"{name} alone")


def test_workers_resume_in_the_middle_of_an_epoch(together):
    run, _ = together["resumed"]
    assert all("epoch 2, step 3 of 4" in error for error in together["stopped"][1])
    assert_nearly_equal(run, run.parent / "plain alone")


def test_all_workers_stop_when_the_loss_of_one_is_nan(together):
    run, (first, *others) = together["nan"]
    # Of 4 steps an epoch.
    assert "diverged in epoch 2, step 3 of 4: loss nan, gradient norm nan" in first
    assert others == [first]
    assert json.loads((run / "summary.json").read_text())["error"] == first
    assert torch.load(run / "checkpoint" / "state.pt", weights_only=True)["epoch"] == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_killed_run_resumes_on_a_gpu(shards, tmp_path, monkeypatch):
    kwargs = {**FULL, "epochs": 3, "precision": "bfloat16"}
    trained(options(shards, tmp_path / "whole", **kwargs))
    with monkeypatch.context() as patch:
        die_at(patch, (trainer._Trainer, "_step"), 8, before=False)
        with pytest.raises(Killed):
            trained(options(shards, tmp_path / "cut", checkpoint_minutes=1e-9, **kwargs))
    trained(options(shards, tmp_path / "cut", **kwargs))
    # The order of sums on a GPU is not fixed.
    for one, two in zip(metrics(tmp_path / "cut"), metrics(tmp_path / "whole"), strict=True):
        assert one["train_loss"] == pytest.approx(two["train_loss"], rel=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_two_gpus_train_like_one_with_twice_the_batch(shards, tmp_path):
    """With NCCL, one process per GPU, in Ray Train."""
    exact = {"dropout": 0.0, "epochs": 2, "precision": "float32", "lr": 0.005}
    trained(options(shards, tmp_path / "one", batch_size=10, **exact))
    trained(options(shards, tmp_path / "two", batch_size=5, num_workers=2, **exact))
    for one, two in zip(metrics(tmp_path / "two"), metrics(tmp_path / "one"), strict=True):
        assert one["train_loss"] == pytest.approx(two["train_loss"], rel=1e-3)

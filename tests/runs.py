"""Run short trainings in tests, read and compare their files, and train with a gloo group without Ray."""

import contextlib
import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import ttrnn
from pipelines.cluster.slots import Slots
from pipelines.training import trainer
from pipelines.training.options import TrainOptions
from pipelines.training.run_directory import RunDirectory
from pipelines.training.setup import resolve_precision
from pipelines.training.single_run import train_and_test

FAST = {"hidden_modes": "2x2x2x2", "ranks": "2", "epochs": 4, "batch_size": 8, "lr": 0.02}
ALTERED = {"flip": True, "shift": 1, "temporal_crop": 0.7, "speed": 1.5, "brightness": 0.2}


def options(shards, out, **kwargs):
    return TrainOptions(shards=str(shards), out=str(out), **(FAST | kwargs))


def metrics(run):
    """The lines of metrics.jsonl without their times."""
    return [
        {name: value for name, value in json.loads(line).items() if name not in ("time_s", "frames_per_s")}
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]


def weights(run):
    return ttrnn.load(run / "model").state_dict()


def assert_equal_to_the_bit(run, other):
    assert metrics(run) == metrics(other)
    one, two = weights(run), weights(other)
    assert all(torch.equal(one[name], two[name]) for name in one)


def assert_nearly_equal(run, other):
    for one, two in zip(metrics(run), metrics(other), strict=True):
        for name in two:
            assert one[name] == pytest.approx(two[name], rel=1e-5, abs=1e-6), name
    one, two = weights(run), weights(other)
    for name in two:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-5)


def fit_together(directory, jobs, world_size):
    """Fits each of `jobs` by `world_size` processes; a job is what `options` takes, and "nan_at": N makes the last
    worker's loss NaN in its N-th step. Returns for each job, for each worker, the summary or the error."""
    directory.mkdir()
    # A process that is started anew would spend seconds on imports.
    multiprocessing.set_forkserver_preload([trainer.__name__])
    torch.multiprocessing.start_processes(
        _work, (directory, jobs, world_size), nprocs=world_size, start_method="forkserver"
    )
    return [
        [json.loads((directory / f"{number}.{rank}.json").read_text()) for rank in range(world_size)]
        for number in range(len(jobs))
    ]


def _work(rank, directory, jobs, world_size):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=world_size)
    losses = trainer.losses
    for number, job in enumerate(jobs):
        calls, nan_at = [], job.get("nan_at") if rank == world_size - 1 else None

        def noted(*args, calls=calls, nan_at=nan_at):
            calls.append(1)
            return losses(*args) * (float("nan") if len(calls) == nan_at else 1.0)

        trainer.losses = noted
        chosen = options(**{name: value for name, value in job.items() if name != "nan_at"})
        Path(chosen.out).mkdir(exist_ok=True)
        try:
            result = trainer.fit(chosen)
        except trainer.DivergedError as error:
            result = str(error)
        (directory / f"{number}.{rank}.json").write_text(json.dumps(result))
    # Threads of gloo may still release tensors, for which they need Python: a thread that asks for it while Python
    # ends aborts the process ("terminate called without an active exception").
    os._exit(0)


def train_queues_here(monkeypatch, module, of_training=lambda training: training):
    """Makes a module train its queues in this process, without Ray; returns a list that gets of_training(training)."""
    done = []

    def run_trainings(queue, slots, **kwargs):
        while (training := queue.next([])) is not None:
            options = resolve_precision(training.options)
            RunDirectory(options.out).claim(options, training.model)
            done.append(of_training(training))
            train_and_test(options, is_tested=training.has_test_split, time_limit_s=training.time_limit_s)
            queue.ended(training, None)
        return 0

    monkeypatch.setattr(module, "run_trainings", run_trainings)
    monkeypatch.setattr(module.Slots, "of_cluster", lambda *args, **kwargs: Slots(1, "CPU", 1.0, 1e12))
    monkeypatch.setattr(module, "start_ray", contextlib.nullcontext)
    return done

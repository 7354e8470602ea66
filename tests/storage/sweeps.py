"""Sweeps in buckets for tests, without training."""

import json
import time

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from pipelines.storage.bucket import reading_copy, working_copy
from pipelines.storage.filesystem import StorageError
from pipelines.storage.location import Location
from pipelines.tuning.sweep_directory import SWEEP_LAYOUT

MODEL = ("model/config.json", "model/model.safetensors")
ENDED = {"config.json", "metrics.jsonl", "summary.json", *MODEL}


def sweep_copy(place, **kwargs):
    return working_copy(place, SWEEP_LAYOUT, **kwargs)


def read(place, **kwargs):
    return reading_copy(place, markers=("sweep.json", "config.json"), wanted=lambda name: True, **kwargs)


def ask(study):
    """A new trial of a study that has its values, as the search records them."""
    trial = study.ask()
    trial.set_user_attr("values", {})
    return trial


def open_study(out):
    out.joinpath("sweep.json").touch()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(out / "study.journal")))
    return optuna.create_study(storage=storage, study_name="sweep", load_if_exists=True)


def write_run(run, epoch, state="running"):
    """A run as a training leaves it, whose files all name their epoch."""
    for name in (*ENDED, "checkpoint/state.pt"):
        run.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        run.joinpath(name).write_text(json.dumps({"state": state, "epoch": epoch}))


def epochs(run):
    return {json.loads((run / name).read_text())["epoch"] for name in Location(str(run)).files()}


def wait_for(what):
    give_up = time.monotonic() + 300
    while not what():
        assert time.monotonic() < give_up
        time.sleep(0.1)


def work_on(place):
    with sweep_copy(place) as out:
        open_study(out).ask()
        write_run(out / "trials/0000", 3)


def refuse(*_):
    raise StorageError("refused")

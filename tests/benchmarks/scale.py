"""Measure the load of the command's machine in a sweep of very many trials on very many nodes.

    python -m tests.benchmarks.scale SHARDS --num-trials 1000
    python -m tests.benchmarks.scale --model                    time and cost of a large sweep, from measured parameters

The nodes are raylets on this machine, each with a directory as its disk: /proc/self/cwd is a different one on each
node, so that all files are sent to the head node as on a cluster without a shared file system. The search, the command
and the files of a trial are real; only the passes over the data are replaced by sleeping.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.core import command
from pipelines.core.options import positional
from pipelines.tuning.importance import read_study
from pipelines.tuning.sweep_directory import SweepDirectory
from tests.benchmarks import scale_model

_ROOT = Path(__file__).resolve().parents[2]
_HERE = "/proc/self/cwd"
_EVERY_S = 5.0
_EPOCH_S = "SCALE_EPOCH_S"
_TIMES = "times.jsonl"
# By the start of their command lines.
_ROLES = {"_FileServer": "file server", "gcs_server": "gcs", "/raylet": "raylets", "Agent": "others", "ray::": "trials"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleOptions:
    """Simulate a sweep of many trials on many nodes, or compute what a real one would take."""

    shards: str = positional(default="")
    """directory of shards, written by preprocess"""
    num_trials: int = 100
    """trials of the sweep"""
    epochs: int = 6
    """epochs of a trial"""
    epoch_s: float = 2.0
    """duration of an epoch, s"""
    nodes: int = 16
    """number of nodes beside that of the command"""
    slots: int = 2
    """number of trials at a time on a node"""
    model: bool = False
    """compute the model of a large sweep in scale_model.py instead"""


def scale(options: ScaleOptions) -> dict[str, Any]:
    """Starts the nodes, runs the command, and measures the processes."""
    if options.model:
        return {"table": scale_model.table()}
    directory = Path(tempfile.mkdtemp(prefix="ray"))
    try:
        disk = directory / "head"
        shutil.copytree(options.shards, disk / "shards")
        os.environ |= {
            "RAY_TMPDIR": str(directory),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_prestart_worker_first_driver": "0",
            # Otherwise the working directory, and with it the disk, would change while a process runs a trial.
            "RAY_CHDIR_TO_TRIAL_DIR": "0",
            "PYTHONPATH": str(_ROOT),
            _EPOCH_S: str(options.epoch_s),
        }
        with _cluster(directory, options) as address:
            words = ["--data", f"{_HERE}/shards", "--out", f"{_HERE}/sweep"]
            words += ["--num-trials", str(options.num_trials), "--epochs", str(options.epochs), "--baselines", "none"]
            start = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, "-c", "from tests.benchmarks.scale import drive; drive()", *words],
                cwd=disk,
                env={**os.environ, "RAY_ADDRESS": address},
                stdout=subprocess.DEVNULL,
            )
            samples = list(_samples(process, disk))
            wall_s = time.monotonic() - start
        if process.returncode:
            raise SystemExit(process.returncode)
        return _result(options, disk, samples, wall_s)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _cluster(directory: Path, options: ScaleOptions) -> Iterator[str]:
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        for number in range(options.nodes + 1):
            place = directory / (f"node{number}" if number else "head")
            place.mkdir(exist_ok=True)
            with contextlib.chdir(place):
                cluster.add_node(
                    num_cpus=options.slots if number else 0,
                    memory=256 << 30,
                    object_store_memory=80 << 20,
                    include_dashboard=False,
                )
        yield cluster.address
    finally:
        cluster.shutdown()


def drive() -> None:
    """Runs the command with simulated trials, and measures the time of its asks and tells."""
    from pipelines import sweep
    from pipelines.training import launcher
    from pipelines.tuning.study import Search

    with Path(_TIMES).open("w", buffering=1) as file:
        Search.next = _timed("ask", Search.next, file)  # type: ignore[method-assign]
        Search.settle = _timed("tell", Search.settle, file)  # type: ignore[method-assign]
        launcher._train = simulated_trial
        sys.exit(sweep.main(sys.argv[1:]))


def _timed(what: str, function: Callable[..., Any], file: Any) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.thread_time()
        result = function(*args, **kwargs)
        if result is not None or what == "tell":
            spent = time.thread_time() - start
            known = {"what": what, "s": spent, "at": time.monotonic(), "command_s": time.process_time()}
            file.write(json.dumps(known) + "\n")
        return result

    return timed


def simulated_trial(config: dict[str, Any]) -> None:
    """Runs a trial like the launcher, but sleeps instead of training."""
    from pipelines.training import launcher, trainer

    trainer._Trainer.run_epoch = _simulated_epoch  # type: ignore[method-assign]
    launcher._train(config)


def _simulated_epoch(run: Any) -> dict[str, Any]:
    """An epoch without passes over the data: larger models reach higher metrics, some of them faster."""
    torch.set_num_threads(1)
    progress = run.progress
    if progress.epoch == 0:
        # Makes the checkpoint as large as that of a real training.
        for parameter in run.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        run.optimizer.step()
    chance = int.from_bytes(hashlib.sha256(run.options.out.encode()).digest()[:4]) / 2**32
    progress.epoch_s = float(os.environ[_EPOCH_S]) * (0.8 + 0.4 * chance)
    time.sleep(progress.epoch_s)
    progress.num_clips, progress.loss_sum = 1, 1.0
    capacity = math.log10(run.model.config.num_params) / 7
    progress_share = 1 - math.exp(-(progress.epoch + 1) / (2 + 2 * chance))
    num_clips, num_classes = len(run.val), len(run.model.config.classes)
    metric = round(min(capacity * progress_share * (0.7 + 0.6 * chance), 1.0) * num_clips) / num_clips
    record: dict[str, Any] = run._finish_epoch(metric, 1.0, np.zeros((num_clips, num_classes), np.float32), 0.0)
    return record


def _samples(process: "subprocess.Popen[bytes]", disk: Path) -> Iterator[dict[str, float]]:
    """Samples the CPU time (s since their start) and memory (MB) of the processes every few seconds."""
    start = time.monotonic()
    while process.poll() is None:
        used: dict[str, float] = {"wall_s": time.monotonic() - start}
        for name, cpu_s, size in _processes(process.pid):
            used[f"{name} CPU s"] = used.get(f"{name} CPU s", 0) + cpu_s
            used[f"{name} MB"] = used.get(f"{name} MB", 0) + size / 1e6
        journal = disk / "sweep/study.journal"
        used["journal MB"] = journal.stat().st_size / 1e6 if journal.exists() else 0
        used["trials"] = sum(record["what"] == "tell" for record in _times(disk))
        yield used
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_EVERY_S)


def _processes(command: int) -> Iterator[tuple[str, float, int]]:
    """(role, CPU s, resident bytes) of this process's descendants."""
    parents, found = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
            pid = int(path.name)
            parents[pid] = int(fields[1])
            cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            found[pid] = (words[0], cpu_s, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))
    for pid, (word, cpu_s, size) in found.items():
        ancestor = pid
        while ancestor in parents and ancestor != os.getpid():
            ancestor = parents[ancestor]
        if ancestor == os.getpid() != pid:
            roles = (role for name, role in _ROLES.items() if name in word)
            yield "command" if pid == command else next(roles, "others"), cpu_s, size


def _times(disk: Path) -> list[dict[str, Any]]:
    path = disk / _TIMES
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def _result(options: ScaleOptions, disk: Path, samples: list[dict[str, float]], wall_s: float) -> dict[str, Any]:
    trials, records = SweepDirectory(disk / "sweep").trials(), _times(disk)
    num_slots = options.nodes * options.slots
    train_s = statistics.mean(trial.train_s or 0.0 for trial in trials)
    # While all slots are busy: without the start of their processes and the end.
    ends = sorted(record["at"] for record in records if record["what"] == "tell")[num_slots:-num_slots]
    trials_per_s = (len(ends) - 1) / (ends[-1] - ends[0])
    return {
        "trials": len(trials),
        "stopped early": sum(trial.state == "stopped" for trial in trials),
        "failed": sum(trial.state not in ("stopped", "complete") for trial in trials),
        "epochs": sum(trial.epochs or 0 for trial in trials),
        "proposed, including rejected ones": len(read_study(SweepDirectory(disk / "sweep").journal)),
        "files MB": round(sum(path.stat().st_size for path in disk.glob("sweep/trials/**/*")) / 1e6, 1),
        "slots": num_slots,
        "wall_s": round(wall_s, 1),
        "train_s of a trial": round(train_s, 2),
        "trials per hour": round(3600 * trials_per_s),
        "share of the maximum rate": round(trials_per_s * train_s / num_slots, 3),
        "by trials": _by_trials(options, samples, records),
    }


def _by_trials(
    options: ScaleOptions, samples: list[dict[str, float]], records: list[dict[str, Any]]
) -> list[dict[str, float]]:
    """For each tenth of the sweep: cost of a trial to the command, and CPU time and memory at its end."""
    rows = []
    asks = [record for record in records if record["what"] == "ask"]
    tells = [record for record in records if record["what"] == "tell"]
    size = max(options.num_trials // 10, 1)
    for end in range(size, len(tells) + 1, size):
        sample = next((sample for sample in samples if sample["trials"] >= end), samples[-1])
        rows.append(
            {
                "trials": end,
                "command ms/trial": 1e3
                * (tells[end - 1]["command_s"] - tells[max(end - size - 1, 0)]["command_s"])
                / size,
                "ask ms": 1e3 * statistics.median(record["s"] for record in asks[end - size : end]),
                "tell ms": 1e3 * statistics.median(record["s"] for record in tells[end - size : end]),
                **{name: value for name, value in sample.items() if name != "trials"},
            }
        )
    return [{name: round(value, 1) for name, value in row.items()} for row in rows]


def summary(result: dict[str, Any]) -> Any:
    """The table of the model, or the figures of the simulation."""
    return result["table"] if "table" in result else json.dumps(result, indent=1)


def main(argv: list[str] | None = None) -> int:
    """The command; see the docstring of this module."""
    return command.run(ScaleOptions, scale, summary, argv)


if __name__ == "__main__":
    from tests.benchmarks.scale import main as importable_main

    sys.exit(importable_main())

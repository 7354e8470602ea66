"""Inject faults into a real cluster of two nodes, and check that the commands survive them.

    python -m tests.benchmarks.faults                                 all of them, about half an hour on 2 cores
    python -m tests.benchmarks.faults sweep-kill-worker --keep DIR    one of them; logs and results are kept in DIR

The nodes are those of tests/two_nodes.py, which requires root. After each fault the command must end with exit code 0,
by itself or with --resume; each epoch that was finished before the fault must be unchanged; the metrics of each trial
must equal those of the same training without a fault; no trial may be running in the study, no file half written, and
no actor or process left in Ray or on the nodes.
"""

import contextlib
import hashlib
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ttrnn
from pipelines.core import command
from pipelines.core.errors import StepError
from pipelines.core.options import positional
from pipelines.core.periodic import repeated
from pipelines.training.options import TrainOptions
from pipelines.training.trainer import fit
from pipelines.tuning.importance import read_study
from pipelines.tuning.sweep_directory import SweepDirectory
from tests import two_nodes
from tests.machines import HOME, NODES, Machine
from tests.runs import metrics
from tests.shards import make_shards
from tests.two_nodes import TwoNodes
from tests.videos import write_class_folders

log = logging.getLogger("tests.benchmarks.faults")

YAML = f"{HOME}/cluster.yaml"
_CUT_S = 30
_SOON_S = 3
_LONGEST_S = 400
# Processes and actors of the cluster itself, which run until its end.
_OF_RAY = ("_AutoscalingCoordinatorActor", "_StatsActor")
_PROJECT = ("pipelines", "ttrnn", "search_spaces")

# Prints what is left of a job in Ray's control store.
_LEFT = """
import json, logging, ray
ray.init(log_to_driver=False, logging_level=logging.ERROR)
from ray._private.state import actors
from ray.util import placement_group_table
live = [a["ActorClassName"] for a in actors().values() if a["State"] != "DEAD"]
groups = [g["name"] or "unnamed" for g in placement_group_table().values() if g["state"] != "REMOVED"]
print(json.dumps({"actors": live, "placement groups": groups, "nodes": sum(n["Alive"] for n in ray.nodes())}))
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultsOptions:
    """Inject faults into a cluster of two nodes; print a line for each, and fail if a check fails."""

    names: tuple[str, ...] = positional(default=())
    """faults to inject; default: all"""
    keep: str = ""
    """directory for logs and results; default: they are deleted"""

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in FAULTS:
                raise ValueError(f"unknown fault {name!r}; choose {', '.join(FAULTS)}")


class Cluster:
    """The two nodes after `ray up`, with small shards in HOME of the head, and the commands on them.

    Args:
        nodes: The nodes and the laptop.
        logs: Directory for the output of commands.
        shared: Directory that all nodes share.
    """

    def __init__(self, nodes: TwoNodes, logs: Path, shared: Path) -> None:
        self.nodes, self.logs, self.shared = nodes, logs, shared
        nodes["laptop"].run("ray", "up", "--yes", YAML)
        self.wait_for_nodes(2)
        make_shards(self.head.path("~/shards"))

    @property
    def head(self) -> Machine:
        return self.nodes["head"]

    @property
    def worker(self) -> Machine:
        return self.nodes["worker"]

    def state(self) -> dict[str, Any]:
        """Actors, placement groups and nodes of Ray."""
        found: dict[str, Any] = json.loads(self.head.run("bash", "--login", "-c", f"python -c '{_LEFT}'").stdout)
        return found

    def wait_for_nodes(self, number: int, within_s: float = 180) -> None:
        deadline = time.monotonic() + within_s
        while self.state()["nodes"] != number:
            assert time.monotonic() < deadline, f"fewer than {number} nodes after {within_s} s"
            time.sleep(1)

    def start(self, name: str, line: str) -> subprocess.Popen[bytes]:
        """Starts a command on the head in a login shell, like `ray submit`; its output is a log."""
        with (self.logs / f"{name}.log").open("ab") as file:
            command = self.head.command("bash", "--login", "-c", f"exec {line}")
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def new_worker(self) -> None:
        """Adds a machine that replaces the dead one, with the project on its disk; the autoscaler starts Ray there."""
        self.nodes.start("worker")
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = f"~/.venv/lib/{version}/site-packages"
        for source in self.head.path(packages).glob("*"):
            if source.name in _PROJECT or source.name.startswith("ttrnn-"):
                shutil.copytree(source, self.worker.path(f"{packages}/{source.name}"))
        for file in ("~/.ray/auth_token", "/etc/profile.d/ttrnn.sh"):
            self.worker.write(file, self.head.path(file).read_text())
        self.worker.path("~/.ray/auth_token").chmod(0o600)


def _until(condition: Callable[[], object], within_s: float, what: str, process: Any = None) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        assert process is None or process.poll() is None, f"the command has ended before: {what}"
        time.sleep(0.1)


# --- jobs ---


@dataclass(kw_only=True)
class Job:
    """A command on the cluster into which a fault is injected."""

    cluster: Cluster
    name: str
    line: str
    process: subprocess.Popen[bytes]
    before: dict[str, bytes] = field(default_factory=dict)
    """metrics.jsonl of all runs at the time of the fault"""

    @property
    def out(self) -> Path:
        shared = self.cluster.shared / self.name
        return shared if shared.exists() else self.cluster.head.path(f"~/{self.name}")

    def curves(self) -> dict[str, bytes]:
        """metrics.jsonl of each run."""
        found = {}
        for path in [*self.out.glob("metrics.jsonl"), *self.out.glob("trials/*/metrics.jsonl")]:
            content = path.read_bytes()
            # The last line may be half written.
            found[str(path.parent.relative_to(self.out))] = content[: content.rfind(b"\n") + 1]
        return found

    def on_the_worker(self) -> list[str]:
        """Runs with files on the disk of the worker."""
        return [path.parent.name for path in self.cluster.worker.path(f"~/{self.name}").glob("trials/*/metrics.jsonl")]

    def again(self) -> None:
        """The same command with --resume."""
        self.process = self.cluster.start(self.name, f"{self.line} --resume")


def _begin(cluster: Cluster, name: str, line: str) -> Job:
    return Job(cluster=cluster, name=name, line=line, process=cluster.start(name, line))


NUM_TRIALS, EPOCHS = 6, 60


def begin_sweep(cluster: Cluster, name: str) -> Job:
    """A sweep with trials on both nodes, some epochs old."""
    line = f"python -m pipelines.sweep --data shards --out {name} --space ranks --early-stopping none"
    job = _begin(cluster, name, f"{line} --num-trials {NUM_TRIALS} --epochs {EPOCHS}")
    _until(job.on_the_worker, 120, "a trial on the worker", job.process)
    time.sleep(2)
    return job


def begin_sweep_on_a_small_disk(cluster: Cluster, name: str) -> Job:
    """The same, where the trials on the worker write to a disk of their own."""
    cluster.worker.run("mkdir", "-p", f"{HOME}/{name}")
    cluster.worker.run("mount", "-t", "tmpfs", "-o", "size=1g", "disk", f"{HOME}/{name}")
    return begin_sweep(cluster, name)


def begin_training(cluster: Cluster, name: str) -> Job:
    """A training of two workers, one on each node, some epochs old."""
    line = f"python -m pipelines.train shards {name} --num-workers 2 --epochs 150 --batch-size 4"
    job = _begin(cluster, name, line)
    _until(lambda: len(job.curves().get(".", b"").splitlines()) >= 5, 120, "5 epochs", job.process)
    return job


def begin_preprocess(cluster: Cluster, name: str, videos: Path, out: str) -> Job:
    """A quarter of 80 clips decoded."""
    write_class_folders(videos, num_clips=40, num_frames=60)
    seen = str(videos) if out.startswith("/") else "videos"
    line = f"python -m pipelines.preprocess {seen} {out} --width 24 --height 16 --shard-mb 0.05"
    job = _begin(cluster, name, line)
    there = cluster.head.path(out if out.startswith("/") else f"~/{out}")
    _until(lambda: len(list(there.glob(".*.arrow.json"))) >= 6, 120, "6 shards", job.process)
    return job


def begin_own_videos(cluster: Cluster, name: str) -> Job:
    """Preprocessing of videos on the disk of the head."""
    return begin_preprocess(cluster, name, cluster.head.path("~/videos"), name)


def begin_shared_videos(cluster: Cluster, name: str) -> Job:
    """Preprocessing of videos on a shared disk, to a directory on that disk."""
    return begin_preprocess(cluster, name, cluster.shared / "videos", str(cluster.shared / name))


# --- checks ---


def problems(job: Job) -> list[str]:
    """Checks a command that has ended."""
    found = [f"exit code {job.process.returncode}"] if job.process.returncode else []
    for name, curve in job.before.items():
        now = job.curves().get(name, b"")
        if not now.startswith(curve):
            found.append(f"{name}: epochs from before the fault were trained again")
    found += [f"left over: {path}" for path in job.out.rglob("*") if path.suffix in (".tmp", ".old")]
    found += _study_problems(job) if (job.out / "study.journal").exists() else []
    if "pipelines.preprocess" in job.line:
        found += _shards_problems(job)
    for run in [*job.out.glob("trials/*"), *([job.out] if (job.out / "config.json").exists() else [])]:
        found += _run_problems(job, run)
    return found + _left_over(job.cluster)


def _study_problems(job: Job) -> list[str]:
    found = [
        f"trial {n} is {t.state.name} in the study"
        for n, t in read_study(SweepDirectory(job.out).journal).items()
        if t.state.name != "COMPLETE"
    ]
    states = {trial.trial: trial.state for trial in SweepDirectory(job.out).trials()}
    if sum(state == "complete" for state in states.values()) != NUM_TRIALS:
        found.append(f"trials: {states}")
    return found


def _shards_problems(job: Job) -> list[str]:
    """Compares shards with those of the same videos without a fault."""
    again = job.cluster.start(job.name, job.line.replace(f"{job.name} ", f"{job.name}-again "))
    assert again.wait() == 0, "preprocessing does not end without a fault"
    other = job.out.with_name(f"{job.name}-again")
    return [] if digests(job.out) == digests(other) else ["shards differ from those of the same videos without a fault"]


def digests(out: Path) -> dict[str, str]:
    """Digests of the files that a reader of shards uses."""
    files = [path for path in out.iterdir() if not path.name.startswith(".")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# Options of a run -> its metrics without a fault.
_undisturbed: dict[str, Any] = {}


def _run_problems(job: Job, run: Path) -> list[str]:
    """Compares a run with the same training without a fault."""
    config = json.loads((run / "config.json").read_text())["options"]
    if config["num_workers"] > 1:
        epochs = [line["epoch"] for line in metrics(run)]
        ttrnn.load(run / "model")
        return [] if epochs == list(range(1, config["epochs"] + 1)) else [f"{run.name}: epochs {epochs}"]
    key = json.dumps({name: value for name, value in config.items() if name not in ("shards", "out")}, sort_keys=True)
    if key not in _undisturbed:
        with tempfile.TemporaryDirectory() as directory:
            here = {"shards": str(job.cluster.head.path("~/shards")), "out": directory}
            fit(TrainOptions(**{**config, **here}))
            _undisturbed[key] = metrics(Path(directory)), ttrnn.load(Path(directory, "model")).state_dict()
    lines, weights = _undisturbed[key]
    own = ttrnn.load(run / "model").state_dict()
    equal = metrics(run) == lines and all(own[name].equal(weights[name]) for name in weights)
    return [] if equal else [f"{run.name} differs from the same training without a fault"]


def _left_over(cluster: Cluster) -> list[str]:
    """What is left of a job some time after its end."""
    found: list[str] = []
    for _ in range(20):
        state = cluster.state()
        state["actors"] = [name for name in state["actors"] if name not in _OF_RAY]
        found = [f"{kind} left: {state[kind]}" for kind in ("actors", "placement groups") if state[kind]]
        for name in NODES:
            lines = (
                cluster.nodes[name].run("ps", "-eo", "args=").stdout.splitlines()
                if name in cluster.nodes.machines
                else []
            )
            found += [f"process left on the {name}: {line[:80]}" for line in lines if _is_of_a_job(line)]
        if not found:
            return []
        time.sleep(1)
    return found


def _is_of_a_job(line: str) -> bool:
    words = line.split()
    idle = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", *(f"ray::{name}" for name in _OF_RAY))
    return bool(words) and ((words[0].startswith("ray::") and words[0] not in idle) or "pipelines." in line)


# --- faults ---


def kill_worker(job: Job) -> None:
    """Simulates a power failure; the machine is not restarted."""
    job.cluster.nodes.kill("worker")


def replace_worker(job: Job) -> None:
    """Simulates a power failure; another machine replaces it."""
    job.cluster.nodes.kill("worker")
    time.sleep(5)
    job.cluster.new_worker()


def lose_worker(job: Job) -> None:
    """Simulates a power failure; it is not replaced before the command gives up."""
    job.cluster.nodes.kill("worker")
    _until(lambda: job.process.poll() is not None, _LONGEST_S, "the command gives up")
    job.cluster.new_worker()
    job.cluster.wait_for_nodes(2)
    job.again()


def cut_network(job: Job) -> None:
    """Disconnects the worker for a while."""
    job.cluster.worker.run("ip", "link", "set", "eth0", "down")
    time.sleep(_CUT_S)
    job.cluster.worker.run("ip", "link", "set", "eth0", "up")


def _fill(machine: Machine, disk: str = "/run") -> None:
    used_kb = int(machine.run("df", "--output=used", disk).stdout.split()[1])
    machine.run("mount", "-o", f"remount,size={used_kb}k", disk)


def fill_worker(job: Job) -> None:
    """Fills the disk of the worker permanently."""
    _fill(job.cluster.worker)


def fill_small_disk(job: Job) -> None:
    """Fills the disk to which the trials on the worker write, permanently, but not that of Ray."""
    _fill(job.cluster.worker, f"{HOME}/{job.name}")


def fill_head(job: Job) -> None:
    """Fills the disk of the head until the command gives up."""
    _fill(job.cluster.head)
    _until(lambda: job.process.poll() is not None, _LONGEST_S, "the command gives up")
    job.cluster.head.run("mount", "-o", "remount,size=4g", "/run")
    job.again()


def _pids(machine: Machine, what: str) -> list[str]:
    lines = machine.run("ps", "-eo", "pid=,args=").stdout.splitlines()
    return [line.split()[0] for line in lines if what in line and "ps -eo" not in line]


def kill_driver(job: Job) -> None:
    """Kills the process of the command."""
    job.cluster.head.run("kill", "-KILL", *_pids(job.cluster.head, "python -m pipelines."))
    job.process.wait()
    job.again()


def spot_notice(job: Job) -> None:
    """Stops the raylet of the worker by SIGTERM, and some seconds later the machine."""
    job.cluster.worker.run("kill", "-TERM", *_pids(job.cluster.worker, "raylet/raylet ")[:1])
    time.sleep(5)
    job.cluster.nodes.kill("worker")


FAULTS: dict[str, tuple[Callable[[Cluster, str], Job], Callable[[Job], None]]] = {
    "sweep-kill-worker": (begin_sweep, kill_worker),
    "sweep-replace-worker": (begin_sweep, replace_worker),
    "sweep-cut": (begin_sweep, cut_network),
    "sweep-worker-disk": (begin_sweep, fill_worker),
    "sweep-worker-small-disk": (begin_sweep_on_a_small_disk, fill_small_disk),
    "sweep-head-disk": (begin_sweep, fill_head),
    "sweep-kill-driver": (begin_sweep, kill_driver),
    "sweep-spot": (begin_sweep, spot_notice),
    "preprocess-own-kill-worker": (begin_own_videos, kill_worker),
    "preprocess-shared-kill-worker": (begin_shared_videos, kill_worker),
    "train-replace-worker": (begin_training, replace_worker),
    "train-lose-worker": (begin_training, lose_worker),
    "train-cut": (begin_training, cut_network),
    "train-kill-driver": (begin_training, kill_driver),
}


def faults(options: FaultsOptions) -> dict[str, Any]:
    """A row for each fault."""
    if reason := two_nodes.missing():
        raise StepError(reason)
    rows = []
    with contextlib.ExitStack() as stack:
        keep = Path(options.keep or stack.enter_context(tempfile.TemporaryDirectory()))
        for name in options.names or FAULTS:
            rows.append(_bring(name, keep / name))
            log.info("%s", rows[-1])
    return {"rows": rows, "exit_code": 0 if all(not row["problems"] for row in rows) else 1}


def _bring(name: str, logs: Path) -> dict[str, Any]:
    logs.mkdir(parents=True, exist_ok=True)
    begin, fault = FAULTS[name]
    row: dict[str, Any] = {"fault": name}
    # Not below /tmp, which each node has for itself.
    with two_nodes.two_nodes(("laptop", *NODES)) as nodes, tempfile.TemporaryDirectory(dir="/var/tmp") as shared:
        try:
            job = begin(Cluster(nodes, logs, Path(shared)), name)
            row |= _suffer(job, fault)
            row["problems"] = problems(job)
        except AssertionError as error:
            row["problems"] = [str(error)]
        finally:
            _keep(nodes, name, logs)
    return row


def _suffer(job: Job, fault: Callable[[Job], None]) -> dict[str, Any]:
    """Injects the fault, and waits for the end of the command."""
    job.before = job.curves()
    came = time.monotonic()
    went_on: list[float] = []
    soon_after: dict[str, bytes] = {}

    def look() -> None:
        nonlocal soon_after
        now = job.curves()
        if time.monotonic() - came < _SOON_S:
            # Files that were being sent at the time of the fault have arrived.
            soon_after = now
        elif not went_on and all(_is_over(job, name) or len(now[name]) > len(soon_after[name]) for name in soon_after):
            went_on.append(round(time.monotonic() - came, 1))

    with repeated(look, 0.2):
        fault(job)
        while job.process.poll() is None and time.monotonic() - came < 2 * _LONGEST_S:
            time.sleep(0.2)
    assert job.process.poll() is not None, f"the command is still running after {2 * _LONGEST_S} s"
    return {
        "epochs_before": sum(len(curve.splitlines()) for curve in job.before.values()),
        "all_went_on_after_s": went_on[0] if went_on and job.before else None,
        "ended_after_s": round(time.monotonic() - came, 1),
    }


def _is_over(job: Job, run: str) -> bool:
    summary = job.out / run / "summary.json"
    return summary.exists() and json.loads(summary.read_text())["state"] == "complete"


def _keep(nodes: TwoNodes, name: str, logs: Path) -> None:
    """Keeps Ray's logs and the results."""
    no_sockets = shutil.ignore_patterns("sockets")
    for machine in nodes.machines.values():
        with contextlib.suppress(OSError):
            shutil.copytree(machine.path("/tmp/ray"), logs / machine.name, symlinks=True, ignore=no_sockets)
    with contextlib.suppress(OSError):
        shutil.copytree(nodes["head"].path(f"~/{name}"), logs / "out")


def summary(result: dict[str, Any]) -> str:
    """A line for each fault."""
    return "\n".join(json.dumps(row) for row in result["rows"])


def main(argv: list[str] | None = None) -> int:
    """The command; see the docstring of this module."""
    return command.run(FaultsOptions, faults, summary, argv)


if __name__ == "__main__":
    from tests.benchmarks.faults import main as importable_main

    sys.exit(importable_main())

"""cluster.yaml on two nodes: ray up, submit, rsync-down, down; and their ports refuse strangers."""

import contextlib
import csv
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import two_nodes
from tests.knock import UNAUTHENTICATED, UNIMPLEMENTED
from tests.machines import ADDRESSES, HOME, NODES, ROOT, Machine
from tests.shards import make_shards
from tests.two_nodes import TwoNodes

MISSING = two_nodes.missing()
pytestmark = [pytest.mark.cluster, pytest.mark.skipif(MISSING is not None, reason=MISSING or "")]

YAML = "~/cluster.yaml".replace("~", HOME)
WRONG = "0" * 64

# Runs an actor on each node, prints what each sees, and ends when its standard input closes.
DRIVER = """
import json, logging, os, sys
import ray, ttrnn
from pathlib import Path
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(log_to_driver=False, logging_level=logging.ERROR)

class Here:
    def look(self):
        from ray._common.usage.usage_lib import usage_stats_enabled
        return {"pipelines": __import__("pipelines").__file__, "host": os.uname().nodename,
                "token": os.environ.get("RAY_AUTH_MODE"), "statistics": usage_stats_enabled(),
                "mode": oct((Path.home() / ".ray" / "auth_token").stat().st_mode & 0o777)}

nodes = ray.nodes()
actors = [ray.remote(Here).options(num_cpus=0, scheduling_strategy=On(n["NodeID"], soft=False)).remote() for n in nodes]
print(json.dumps({n["NodeManagerAddress"]: ray.get(a.look.remote()) for n, a in zip(nodes, actors)}), flush=True)
sys.stdin.read()
"""


def up(nodes: TwoNodes) -> None:
    """Runs `ray up` and waits until both nodes are in the cluster."""
    nodes["laptop"].run("ray", "up", "--yes", YAML)
    deadline = time.monotonic() + 120
    while " 2 local.cluster.node" not in nodes["head"].login("ray status").stdout:
        assert time.monotonic() < deadline, nodes["head"].login("cat /tmp/ray/session_latest/logs/monitor.out").stdout
        time.sleep(0.5)


@contextlib.contextmanager
def actors(nodes: TwoNodes) -> Iterator[dict[str, Any]]:
    """What an actor sees on each node, by address; the actors run while the block runs."""
    command = nodes["head"].command("bash", "--login", "-c", f"python -c {shlex.quote(DRIVER)}")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        yield json.loads(driver.stdout.readline())
        driver.communicate()


def token(nodes: TwoNodes) -> str:
    return nodes["laptop"].path("~/.ray/auth_token").read_text()


def listening(machine: Machine) -> dict[int, str]:
    """The process that listens on each TCP port that other machines can reach."""
    lines = [line.split() for line in machine.run("ss", "-Hltnp").stdout.splitlines()]
    found = {}
    for _, _, _, address, _, users in lines:
        host, _, port = address.rpartition(":")
        if not host.startswith("127.") and host != "[::1]":
            found[int(port)] = re.findall(r'\(\("([^"]+)"', users)[0]
    return found


def methods() -> list[str]:
    """All gRPC methods of Ray's servers."""
    import ray.core.generated as generated

    names = ["/ray.rpc.ObjectManagerService/Pull", "/ray.rpc.ObjectManagerService/Push"]
    for file in sorted(Path(generated.__path__[0]).glob("*_pb2.py")):
        descriptor = importlib.import_module(f"ray.core.generated.{file.stem}").DESCRIPTOR
        for service in descriptor.services_by_name.values():
            names += [f"/{service.full_name}/{method.name}" for method in service.methods]
    return names


def knock(nodes: TwoNodes, requests: list[tuple[str, int, str, str | None]]) -> list[int | str]:
    """The answers that the stranger receives."""
    command = nodes["stranger"].command(sys.executable, str(ROOT / "tests" / "knock.py"))
    result = subprocess.run(command, input=json.dumps(requests), capture_output=True, text=True, check=True)
    answers: list[int | str] = json.loads(result.stdout)
    return answers


def the_project_is_installed_on_both_nodes_with_token_and_without_statistics(
    nodes: TwoNodes, seen: dict[str, Any]
) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    assert seen == {
        ADDRESSES[name]: {
            "pipelines": f"{HOME}/.venv/lib/{version}/site-packages/pipelines/__init__.py",
            "host": name,
            "token": "token",
            "statistics": False,
            "mode": "0o600",
        }
        for name in NODES
    }


def ray_submit_trains_on_both_nodes_and_rsync_down_brings_the_best_model(nodes: TwoNodes) -> None:
    laptop = nodes["laptop"]
    make_shards(laptop.path("~/shards"))
    laptop.run("ray", "rsync-up", YAML, f"{HOME}/shards/", "~/shards/")
    options = ["--data", "shards", "--out", "runs/sweep", "--num-trials", "4", "--epochs", "1", "--seed", "1"]
    laptop.run("ray", "submit", YAML, "pipelines/sweep.py", "--", *options, timeout=200)
    # Each node has one CPU, hence one trial at a time; Ray has sent the shards to the other node.
    assert (nodes["worker"].path("~/shards") / "dataset.json").exists()
    laptop.run("ray", "rsync-down", YAML, "~/runs/", f"{HOME}/runs/")
    with (laptop.path("~/runs/sweep") / "trials.csv").open(encoding="utf-8", newline="") as file:
        states = [row["state"] for row in csv.DictReader(file)]
    assert len(states) >= 4
    assert set(states) <= {"complete", "stopped"}
    result = laptop.run("python", "-m", "pipelines.evaluate", f"{HOME}/runs/sweep/best", f"{HOME}/shards", "--json")
    assert 0 <= json.loads(result.stdout)["value"] <= 1


def a_training_of_two_workers_spans_both_nodes(nodes: TwoNodes) -> None:
    # Each node has one CPU.
    command = "python -m pipelines.train shards runs/two --num-workers 2 --epochs 2 --batch-size 6"
    nodes["laptop"].run("ray", "exec", YAML, command, timeout=200)
    lines = (nodes["head"].path("~/runs/two") / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def every_port_of_ray_refuses_a_stranger(nodes: TwoNodes, seen: dict[str, Any]) -> None:
    known = methods()
    for name in NODES:
        ports = listening(nodes[name])
        assert ports.pop(22) == "sshd"
        # Object manager, raylet, runtime environments, and the worker in which the actor lives.
        assert len(ports) >= 4, ports
        for port, process in ports.items():
            for given in (None, WRONG):
                answers = knock(nodes, [(ADDRESSES[name], port, method, given) for method in known])
                refused = {"http 401", "http 403"} if "http" in str(answers[0]) else {UNAUTHENTICATED}
                assert refused & set(answers), (name, port, process, set(answers))
                assert set(answers) <= {*refused, UNIMPLEMENTED}, (name, port, process, set(answers))
    method = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
    assert knock(nodes, [(ADDRESSES["head"], 6379, method, token(nodes))]) == [0], "the right token is accepted"


def the_client_of_ray_is_refused_too(nodes: TwoNodes, seen: dict[str, Any]) -> None:
    program = f"import ray; ray.init('{ADDRESSES['head']}:6379'); print('in')"
    running = []
    for environment in (["RAY_AUTH_MODE=disabled"], ["RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN={WRONG}"]):
        command = nodes["stranger"].command("env", *environment, "python", "-c", program)
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    for process in running:
        output, _ = process.communicate(timeout=100)
        assert process.returncode != 0
        assert "AuthenticationError" in output
        assert "in" not in output.split("\n")


def the_token_is_in_its_own_file_only(nodes: TwoNodes) -> None:
    for name in ("laptop", *NODES):
        machine = nodes[name]
        found = machine.run("grep", "-rlaF", token(nodes), "/run", "/tmp", "/dev/shm", check=False).stdout.split()
        assert found == [f"{HOME}/.ray/auth_token"], name


def ray_down_ends_ray_on_the_head(nodes: TwoNodes) -> None:
    nodes["laptop"].run("ray", "down", "--yes", YAML)
    assert not {"gcs_server", "raylet"} & set(listening(nodes["head"]).values())


@pytest.mark.timeout(600)
def test_cluster_yaml_serves_two_nodes_and_refuses_strangers(subtests: pytest.Subtests) -> None:
    """One cluster for all checks, since it takes half a minute to start."""
    with two_nodes.two_nodes() as nodes:
        up(nodes)
        with actors(nodes) as seen:
            for promise in (
                the_project_is_installed_on_both_nodes_with_token_and_without_statistics,
                every_port_of_ray_refuses_a_stranger,
                the_client_of_ray_is_refused_too,
            ):
                with subtests.test(promise.__name__):
                    promise(nodes, seen)
        for step in (
            ray_submit_trains_on_both_nodes_and_rsync_down_brings_the_best_model,
            a_training_of_two_workers_spans_both_nodes,
            the_token_is_in_its_own_file_only,
            ray_down_ends_ray_on_the_head,
        ):
            with subtests.test(step.__name__):
                step(nodes)


def test_machines_end_when_the_process_that_runs_them_is_killed() -> None:
    program = (
        "import sys\nfrom tests.two_nodes import two_nodes\nwith two_nodes() as nodes:\n"
        "    print(*[m.pid for m in nodes.machines.values()], flush=True)\n    sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert holder.stdout is not None
    pids = [int(pid) for pid in holder.stdout.readline().split()]
    assert len(pids) == len(ADDRESSES)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    deadline = time.monotonic() + 10
    while alive := [pid for pid in pids if os.path.exists(f"/proc/{pid}")]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)

"""cluster.yaml and pipelines/cluster.py: what Ray takes, the token everywhere, nothing told to others."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import cluster
from pipelines.cli import UserError

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
CONFIG = yaml.safe_load(TEXT)
TOKEN = "~/.ray/auth_token"
STARTS = {name: CONFIG[f"{name}_start_ray_commands"] for name in ("head", "worker")}


@pytest.fixture(scope="module")
def prepared() -> dict[str, Any]:
    """The file as `ray up` sees it before it talks to AWS: with Ray's defaults, setup commands joined."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config: dict[str, Any] = prepare_config(yaml.safe_load(TEXT))
    validate_config(config)
    return config


def ray_start(name: str) -> tuple[dict[str, str], list[str]]:
    """Environment and arguments of the `ray start` of head or workers."""
    (command,) = [command for command in STARTS[name] if "ray start" in command]
    before, _, after = command.rpartition(";")[2].partition(" ray start ")
    return dict(word.split("=") for word in before.split()), shlex.split(after)


def test_ray_s_own_schema_takes_it(prepared: dict[str, Any]) -> None:
    assert prepared["provider"]["type"] == "aws"
    assert prepared["head_node_type"] == "head"


def test_workers_have_gpus_start_from_zero_and_are_as_many_as_the_cluster_allows(prepared: dict[str, Any]) -> None:
    head, worker = prepared["available_node_types"]["head"], prepared["available_node_types"]["worker"]
    assert (head["min_workers"], head["max_workers"]) == (0, 0)
    assert worker["min_workers"] == 0
    assert worker["max_workers"] == prepared["max_workers"] > 0
    # Without one, Ray takes an image whose C library is too old for torch.
    assert head["node_config"]["ImageId"] == worker["node_config"]["ImageId"] != ""


@pytest.mark.parametrize("name", STARTS)
def test_ray_starts_with_the_token_and_without_usage_statistics(name: str) -> None:
    from ray.scripts.scripts import start

    environment, arguments = ray_start(name)
    assert environment == {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    # Raises for an option that this release of Ray lacks.
    options = start.make_context("ray start", arguments).params
    assert options["disable_usage_stats"]
    assert options["head"] == (name == "head")
    assert (options["autoscaling_config"] if name == "head" else options["address"]) in (
        "~/ray_bootstrap_config.yaml",
        "$RAY_HEAD_IP:6379",
    )


def test_the_token_is_shipped_and_readable_by_its_owner_only(prepared: dict[str, Any]) -> None:
    assert CONFIG["file_mounts"][TOKEN] == TOKEN
    for node in ("head", "worker"):
        assert any(f"chmod 600 {TOKEN}" in command for command in prepared[f"{node}_setup_commands"])


def test_no_secret_stands_in_the_file() -> None:
    for secret in (r"[0-9a-f]{32}", r"AKIA\w{16}", "PRIVATE KEY", r"RAY_AUTH_TOKEN\b", "aws_secret", r"\d{12}"):
        assert not re.search(secret, TEXT), secret


def test_nothing_is_opened_to_the_world_beyond_ray_s_own_rule_for_ssh() -> None:
    assert set(CONFIG["provider"]) == {"type", "region", "cache_stopped_nodes"}
    assert not any(word in TEXT for word in ("0.0.0.0", "--dashboard-host", "IpPermissions", "CidrIp"))


def test_all_that_is_mounted_is_there_and_suffices_to_install_the_project() -> None:
    mounts = {remote: local for remote, local in CONFIG["file_mounts"].items() if local != TOKEN}
    for remote, local in mounts.items():
        assert (ROOT / local).exists(), local
        assert remote == f"~/ttrnn-checkout/{local}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["setuptools"]["packages"]
    assert set(mounts.values()) == {"pyproject.toml", project["project"]["readme"], *packages}


def test_the_project_is_installed_on_head_and_workers(prepared: dict[str, Any]) -> None:
    for node in ("head", "worker"):
        assert any(
            command.endswith("pip install --quiet ~/ttrnn-checkout") for command in prepared[f"{node}_setup_commands"]
        )


def test_every_command_is_one_that_bash_can_read(prepared: dict[str, Any]) -> None:
    for name in ("initialization", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray"):
        for command in prepared[f"{name}_commands"]:
            subprocess.run(["bash", "-n", "-c", command], check=True)


def test_login_shells_find_the_project_and_use_the_token(tmp_path: Path) -> None:
    (command,) = [command for command in CONFIG["setup_commands"] if "/etc/profile.d/" in command]
    # Stands in for `sudo tee FILE`: what would be written comes out.
    (tmp_path / "sudo").write_text("#!/bin/sh\ncat\n")
    (tmp_path / "sudo").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    bash = ["env", "-i", f"PATH={path}", "HOME=/home/ubuntu", "bash", "-c"]
    profile = subprocess.run([*bash, command], capture_output=True, text=True, check=True).stdout
    shell = subprocess.run([*bash, f"{profile}\nenv"], capture_output=True, text=True, check=True).stdout
    values = dict(line.split("=", 1) for line in shell.splitlines())
    assert values["PATH"] == f"/home/ubuntu/.venv/bin:{path}"
    assert (values["RAY_AUTH_MODE"], values["RAY_USAGE_STATS_ENABLED"]) == ("token", "0")


def test_the_lines_to_edit_are_marked_as_the_head_of_the_file_says() -> None:
    head, body = TEXT.split("\ncluster_name:")
    told = set(re.findall(r"^#   (\d)\. ", head, re.MULTILINE))
    assert told == set(re.findall(r"EDIT (\d)", body)) == {"1", "2", "3", "4", "5"}


PROBE = """
import json, os, stat
from pathlib import Path
from pipelines.cluster import start_ray
import ray
with start_ray(num_cpus=1):
    from ray._private.authentication.authentication_utils import is_token_auth_enabled
    from ray._common.usage.usage_lib import usage_stats_enabled
    with start_ray():
        cpus = ray.cluster_resources()["CPU"]
    seen = {"cpus": cpus, "token": is_token_auth_enabled(), "statistics": usage_stats_enabled(),
            "mode": stat.S_IMODE((Path.home() / ".ray" / "auth_token").stat().st_mode), "inside": ray.is_initialized()}
print(json.dumps({**seen, "after": ray.is_initialized()}))
"""


def test_a_local_cluster_is_quiet_tells_nobody_and_needs_the_token(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "RAY_ADDRESS": "local"}
    result = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, env=environment, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {
        "cpus": 1.0,
        "token": True,
        "statistics": False,
        "mode": 0o600,
        "inside": True,
        "after": False,
    }


@pytest.mark.parametrize("content", [None, "an older token"], ids=["new", "older"])
def test_the_token_file_is_its_owner_s_and_an_older_token_stays(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / ".ray" / "auth_token"
    if content is not None:
        path.parent.mkdir()
        path.write_text(content)
        path.chmod(0o644)
    cluster._write_token_file()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == content or (content is None and re.fullmatch(r"[0-9a-f]{64}", path.read_text()))


def test_a_cluster_that_does_not_answer_is_the_user_s_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        # First set, so that what start_ray sets is taken back in the end.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"no Ray cluster answers at \S+:1 .*set RAY_ADDRESS"), cluster.start_ray():
        pass
    # Ray's own commands and workers read it.
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.parametrize(
    ("resources", "num_workers", "gpus_per_worker", "expected"),
    [
        ({"CPU": 8.0}, 1, 1.0, ("CPU", 8)),
        ({"CPU": 8.0}, 3, 1.0, ("CPU", 2)),
        ({"CPU": 8.0}, 1, 0.25, ("CPU", 8)),
        ({"CPU": 64.0, "GPU": 4.0}, 1, 1.0, ("GPU", 4)),
        ({"CPU": 64.0, "GPU": 4.0}, 2, 1.0, ("GPU", 2)),
        # Two of 0.4 fit on each.
        ({"CPU": 64.0, "GPU": 4.0}, 1, 0.4, ("GPU", 8)),
        ({"CPU": 2.0}, 3, 1.0, "num_workers 3 needs as many CPUs, the cluster has 2"),
        ({"CPU": 2.0, "GPU": 1.0}, 2, 1.0, "num_workers 2 needs as many GPUs, the cluster has 1"),
        ({"CPU": 2.0, "GPU": 1.0}, 2, 0.5, "need a whole GPU each; give --num-workers 1"),
    ],
    ids=str,
)
def test_as_many_groups_of_workers_run_as_fit(
    resources: dict[str, float], num_workers: int, gpus_per_worker: float, expected: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: resources)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            cluster.devices(num_workers, gpus_per_worker)
    else:
        assert cluster.devices(num_workers, gpus_per_worker) == expected


def test_ctrl_c_waits_until_ray_is_up_or_down() -> None:
    done = []

    def interrupted() -> None:
        with cluster._interrupts_later():
            signal.raise_signal(signal.SIGINT)
            done.append("block")
        done.append("never")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == ["block"]
    assert signal.getsignal(signal.SIGINT) is before


def test_ray_starts_in_a_thread_too() -> None:
    done = []

    def work() -> None:
        with cluster._interrupts_later():
            done.append("block")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["block"]

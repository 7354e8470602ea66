"""cluster.yaml: Ray accepts it for AWS and for own machines; the token is always used, no port is open to all."""

import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.machines import local_yaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
CONFIG = yaml.safe_load(TEXT)
TOKEN = "~/.ray/auth_token"
STARTS = {name: CONFIG[f"{name}_start_ray_commands"] for name in ("head", "worker")}


TEXTS = {"AWS": TEXT, "own machines": local_yaml(TEXT)}


@pytest.fixture(scope="module", params=TEXTS)
def prepared(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The file as `ray up` completes it, with Ray's defaults and joined setup commands, checked by Ray's schema."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config: dict[str, Any] = prepare_config(yaml.safe_load(TEXTS[request.param]))
    validate_config(config)
    return config


def ray_start(name: str) -> tuple[dict[str, str], list[str]]:
    """Environment and arguments of the `ray start` of head or workers."""
    (command,) = [command for command in STARTS[name] if "ray start" in command]
    before, _, after = command.rpartition(";")[2].partition(" ray start ")
    return dict(word.split("=") for word in before.split()), shlex.split(after)


def test_the_schema_of_ray_accepts_it(prepared: dict[str, Any]) -> None:
    assert prepared["provider"]["type"] in ("external", "local")
    assert prepared["head_node_type"] in prepared["available_node_types"]


def test_workers_start_from_zero_at_spot_prices_and_the_head_on_demand() -> None:
    types = CONFIG["available_node_types"]
    assert set(types) == {"head", "gpu", "cpu"}
    assert types["head"]["max_workers"] == 0
    for name in ("gpu", "cpu"):
        assert types[name]["min_workers"] == 0
        assert 0 < types[name]["max_workers"] <= CONFIG["max_workers"]
    markets = {name: kind["node_config"].get("InstanceMarketOptions") for name, kind in types.items()}
    assert markets == {"head": None, "gpu": {"MarketType": "spot"}, "cpu": {"MarketType": "spot"}}
    # The default image has a C library too old for torch, and the default group opens SSH to everyone.
    for kind in types.values():
        assert kind["node_config"]["ImageId"]
        assert kind["node_config"]["SecurityGroupIds"]


@pytest.fixture(scope="module")
def bootstrapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The file, edited as its comments say, as Ray's launcher completes it with answers of a simulated AWS."""
    moto = pytest.importorskip("moto", reason="needs moto, AWS for tests")
    boto3 = pytest.importorskip("boto3")
    from ray.autoscaler._private.util import prepare_config

    from pipelines.cluster.aws import SpotFirst

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        # Ray waits here until AWS has distributed new roles.
        patch.setattr("ray.autoscaler._private.aws.config.time.sleep", lambda seconds: None)
        with moto.mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
            region = CONFIG["provider"]["region"]
            client = boto3.client("ec2", region)
            image = client.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
            group = client.create_security_group(GroupName="ttrnn", Description="ttrnn")["GroupId"]
            boto3.client("iam").create_instance_profile(InstanceProfileName="ttrnn-worker")
            edited = TEXT.replace("ami-EDIT", image).replace("sg-EDIT", group)
            config = prepare_config(yaml.safe_load(edited.replace("# IamInstanceProfile", "IamInstanceProfile")))
            (Path.home() / ".ssh").mkdir()
            yield SpotFirst.bootstrap_config(SpotFirst.fillout_available_node_types_resources(config))


def launched(config: dict[str, Any], name: str, refused: tuple[str, ...] = ()) -> list[str]:
    """The markets of the instances launched for a node of that type, if AWS refuses some."""
    import botocore.exceptions

    from pipelines.cluster.aws import SpotFirst

    provider = SpotFirst(config["provider"], "ttrnn")
    create = provider.ec2_fail_fast.create_instances
    made: list[str] = []

    def create_instances(**requested: Any) -> Any:
        market = requested.get("InstanceMarketOptions", {}).get("MarketType", "on demand")
        if market in refused:
            error = {"Error": {"Code": "InsufficientInstanceCapacity", "Message": "none is left"}}
            raise botocore.exceptions.ClientError(error, "RunInstances")
        made.append(market)
        return create(**requested)

    provider.ec2_fail_fast = type("Scarce", (), {"create_instances": staticmethod(create_instances)})()
    tags = {"ray-node-type": "worker", "ray-user-node-type": name, "ray-node-name": name}
    provider.create_node(dict(config["available_node_types"][name]["node_config"]), tags, 1)
    return made


def test_resources_come_from_aws_and_ray_adds_no_security_group(bootstrapped: dict[str, Any]) -> None:
    import boto3

    types = bootstrapped["available_node_types"]
    assert [types[name]["resources"].get("GPU", 0) for name in ("head", "gpu", "cpu")] == [1, 1, 0]
    assert types["cpu"]["resources"]["CPU"] == 16
    client = boto3.client("ec2", bootstrapped["provider"]["region"])
    rules = [rule for group in client.describe_security_groups()["SecurityGroups"] for rule in group["IpPermissions"]]
    assert rules == []
    # The head node has Ray's role, to start the others; the workers have the user's.
    assert "ray-autoscaler" in bootstrapped["head_node"]["IamInstanceProfile"]["Arn"]
    assert types["gpu"]["node_config"]["IamInstanceProfile"] == {"Name": "ttrnn-worker"}


def test_instances_are_launched_on_demand_if_there_are_none_at_spot_prices(bootstrapped: dict[str, Any]) -> None:
    assert launched(bootstrapped, "gpu") == ["spot"]
    assert launched(bootstrapped, "gpu", refused=("spot",)) == ["on demand"]


def test_an_error_is_raised_if_aws_has_no_instances_at_all(bootstrapped: dict[str, Any]) -> None:
    from ray.autoscaler.node_launch_exception import NodeLaunchException

    for name, refused in (("gpu", ("spot", "on demand")), ("head", ("on demand",))):
        with pytest.raises(NodeLaunchException, match="none is left"):
            launched(bootstrapped, name, refused)


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


def test_the_file_holds_no_secret() -> None:
    for secret in (r"[0-9a-f]{32}", r"AKIA\w{16}", "PRIVATE KEY", r"RAY_AUTH_TOKEN\b", "aws_secret", r"\d{12}"):
        assert not re.search(secret, TEXT), secret


def test_no_port_is_opened_to_the_world() -> None:
    assert set(CONFIG["provider"]) == {"type", "module", "region", "cache_stopped_nodes"}
    assert not any(word in TEXT for word in ("0.0.0.0", "--dashboard-host", "IpPermissions", "CidrIp"))


def test_the_torch_without_cuda_is_a_version_that_the_project_accepts() -> None:
    (command,) = [command for command in CONFIG["setup_commands"] if "/whl/cpu" in command]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert shlex.split(command)[-1] in project["project"]["dependencies"]


def test_mounted_files_exist_and_suffice_to_install_the_project() -> None:
    mounts = {remote: local for remote, local in CONFIG["file_mounts"].items() if local != TOKEN}
    for remote, local in mounts.items():
        assert (ROOT / local).exists(), local
        assert remote == f"~/ttrnn-checkout/{local}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    folders = {package.rstrip("*") for package in packages}
    assert set(mounts.values()) == {"pyproject.toml", project["project"]["readme"], *folders}


def test_the_project_is_installed_on_head_and_workers(prepared: dict[str, Any]) -> None:
    for node in ("head", "worker"):
        assert any(
            command.endswith("pip install --quiet '~/ttrnn-checkout[pipelines]'")
            for command in prepared[f"{node}_setup_commands"]
        )


def test_bash_can_parse_every_command(prepared: dict[str, Any]) -> None:
    for name in ("initialization", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray"):
        for command in prepared[f"{name}_commands"]:
            subprocess.run(["bash", "-n", "-c", command], check=True)


def test_login_shells_find_the_project_and_use_the_token(tmp_path: Path) -> None:
    (command,) = [command for command in CONFIG["setup_commands"] if "/etc/profile.d/" in command]
    # Replaces `sudo tee FILE`: prints what would be written.
    (tmp_path / "sudo").write_text("#!/bin/sh\ncat\n")
    (tmp_path / "sudo").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    bash = ["env", "-i", f"PATH={path}", "HOME=/home/ubuntu", "bash", "-c"]
    profile = subprocess.run([*bash, command], capture_output=True, text=True, check=True).stdout
    shell = subprocess.run([*bash, f"{profile}\nenv"], capture_output=True, text=True, check=True).stdout
    values = dict(line.split("=", 1) for line in shell.splitlines())
    assert values["PATH"] == f"/home/ubuntu/.venv/bin:{path}"
    assert (values["RAY_AUTH_MODE"], values["RAY_USAGE_STATS_ENABLED"]) == ("token", "0")


def test_the_lines_to_edit_are_marked_as_the_first_comment_says() -> None:
    head, body = TEXT.split("\ncluster_name:")
    numbers = set(re.findall(r"^#   (\d)\. ", head, re.MULTILINE))
    assert numbers == set(re.findall(r"EDIT (\d)", body)) == {"1", "2", "3", "4", "5"}

"""pipelines/cluster/session.py: Ray is quiet, sends no usage statistics, needs the token, and imports our modules."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cluster import session
from pipelines.core.errors import UserError

ROOT = Path(session.__file__).resolve().parents[2]
PROBE = """
import json, os, stat
from pathlib import Path
from pipelines.cluster.session import start_ray
import ray

def imported():
    import click
    import pipelines
    return [click.__file__, pipelines.__file__]

with start_ray(num_cpus=1):
    here, modules = os.getcwd(), ray.get(ray.remote(imported).remote(), timeout=60)
    from ray._private.authentication.authentication_utils import is_token_auth_enabled
    from ray._common.usage.usage_lib import usage_stats_enabled
    with start_ray():
        cpus = ray.cluster_resources()["CPU"]
    seen = {"cpus": cpus, "token": is_token_auth_enabled(), "statistics": usage_stats_enabled(),
            "mode": stat.S_IMODE((Path.home() / ".ray" / "auth_token").stat().st_mode), "inside": ray.is_initialized(),
            "own": [name for name in modules if name.startswith(here)]}
print(json.dumps({**seen, "after": ray.is_initialized()}))
"""


def test_a_local_cluster_is_quiet_and_private_and_imports_nothing_from_the_working_directory(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "RAY_ADDRESS": "local"}
    for name in ("pipelines/__init__.py", "click.py", "ttrnn.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('the wrong module')\n")
    # As a console script is: without the working directory in the path of the driver.
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-P", "-c", PROBE]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {
        "cpus": 1.0,
        "token": True,
        "statistics": False,
        "mode": 0o600,
        "inside": True,
        "own": [],
        "after": False,
    }


@pytest.mark.parametrize("content", [None, "an older token"], ids=["new", "older"])
def test_only_its_owner_can_read_the_token_and_an_older_token_stays(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / ".ray" / "auth_token"
    if content is not None:
        path.parent.mkdir()
        path.write_text(content)
        path.chmod(0o644)
    session._write_token_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == content or (content is None and re.fullmatch(r"[0-9a-f]{64}", path.read_text()))


def test_without_a_home_directory_the_token_is_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", os.devnull)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    session._provide_token()
    assert re.fullmatch(r"[0-9a-f]{64}", os.environ["RAY_AUTH_TOKEN"])


def test_a_cluster_that_does_not_answer_is_a_mistake_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        # Set first, so that the test's end undoes what start_ray sets.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"no Ray cluster answers at \S+:1 .*set RAY_ADDRESS"), session.start_ray():
        pass
    # Ray's own commands and workers read it.
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"

"""pipelines/cluster.py: Ray is quiet, tells nobody, and needs the token."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster import session
from pipelines.cluster.interrupts import delayed_interrupts
from pipelines.cluster.slots import devices
from pipelines.core.errors import UserError

PROBE = """
import json, os, stat
from pathlib import Path
from pipelines.cluster.session import start_ray
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
    session._write_token_file()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == content or (content is None and re.fullmatch(r"[0-9a-f]{64}", path.read_text()))


def test_a_cluster_that_does_not_answer_is_the_user_s_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        # First set, so that what start_ray sets is taken back in the end.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"no Ray cluster answers at \S+:1 .*set RAY_ADDRESS"), session.start_ray():
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
            devices(num_workers, gpus_per_worker)
    else:
        assert devices(num_workers, gpus_per_worker) == expected


@pytest.mark.usefixtures("interrupts")
def test_ctrl_c_waits_until_ray_is_up_or_down() -> None:
    done = []

    def interrupted() -> None:
        with delayed_interrupts():
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
        with delayed_interrupts():
            done.append("block")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["block"]

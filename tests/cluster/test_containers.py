"""Machines like a container: no home directory, a user without a name, no room for temporary files."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shards import make_shards

ROOT = Path(__file__).parents[2]
NAMELESS = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "--"]
TRAIN = ["-m", "pipelines.train", "shards", "out", "--epochs", "1", "--hidden-modes", "2x2", "--ranks", "2"]


def run(
    words: list[str], cwd: Path, prefix: list[str], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "HOME" and not name.startswith("RAY_")}
    return subprocess.run(
        [*prefix, sys.executable, *words],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with shards in it that everybody may enter and write in; pytest's own are private."""
    if os.geteuid() != 0 or not shutil.which("setpriv") or not shutil.which("unshare"):
        pytest.skip("needs root, setpriv and unshare")
    # Names of sockets are short.
    with tempfile.TemporaryDirectory(prefix="ttrnn") as name:
        path = Path(name)
        path.chmod(0o777)
        make_shards(path / "shards")
        yield path


@pytest.mark.parametrize("home", [None, "/"], ids=["no home", "HOME=/"])
def test_a_user_without_a_name_or_a_home_trains_with_ray(folder: Path, home: str | None) -> None:
    start = "import subprocess, sys, pipelines; subprocess.run([sys.executable, '-c', ''], check=True)"
    if run(["-c", start], folder, NAMELESS, {}).returncode:
        pytest.skip("another user can't read this checkout or its Python")
    environment = {} if home is None else {"HOME": home}
    # Another user's Ray may own its usual directory.
    (folder / "ray").mkdir()
    (folder / "ray").chmod(0o777)
    result = run([*TRAIN, "--num-workers", "2"], folder, NAMELESS, {**environment, "RAY_TMPDIR": str(folder / "ray")})
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert (folder / "out" / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("option", ["size=64k", "ro"], ids=["full", "read-only"])
def test_a_temporary_directory_that_cannot_be_used_is_told_in_a_line(folder: Path, option: str) -> None:
    script = f'mount -t tmpfs -o {option} none {folder}/small && RAY_TMPDIR={folder}/small exec "$@"'
    (folder / "small").mkdir()
    result = run([*TRAIN, "--num-workers", "2"], folder, ["unshare", "-m", "sh", "-c", script, "sh"], {"HOME": "/root"})
    assert result.returncode == 2, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "set RAY_TMPDIR to another" in errors[0]
    assert "Traceback" not in result.stderr

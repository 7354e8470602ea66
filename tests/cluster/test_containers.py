"""Machines like a container: no home directory, a user without a name, no room for temporary files."""

import os
import shutil
import subprocess
import sys
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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards in it that everybody may enter and write in."""
    if os.geteuid() != 0 or not shutil.which("setpriv") or not shutil.which("unshare"):
        pytest.skip("needs root, setpriv and unshare")
    path = tmp_path_factory.mktemp("container")
    make_shards(path / "shards")
    for parent in [path, *path.parents][:3]:
        parent.chmod(0o777)
    if run(["-c", "import pipelines"], path, NAMELESS, {}).returncode:
        pytest.skip("another user can't read this checkout or its Python")
    return path


@pytest.mark.parametrize("home", [None, "/", "/nonexistent"], ids=["no home", "HOME=/", "home that does not exist"])
def test_a_user_without_a_name_or_a_home_trains_with_ray(folder: Path, home: str | None) -> None:
    environment = {} if home is None else {"HOME": home}
    result = run([*TRAIN, "--num-workers", "2"], folder, NAMELESS, environment)
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

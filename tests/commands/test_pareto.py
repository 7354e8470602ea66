"""pipelines/pareto.py: JSON output, and errors."""

import json
import shutil
from pathlib import Path

import pytest

from pipelines.pareto import main
from tests.sweeps import make_sweep


def test_command_prints_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = make_sweep(tmp_path / "sweep")
    shutil.rmtree(sweep / "shards")
    assert main([str(sweep), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["best"] == "0001"


def test_command_refuses_a_directory_that_is_no_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "is not a sweep" in capsys.readouterr().err

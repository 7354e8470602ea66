"""pipelines/report/view.py: the axes of parallel coordinates."""

import copy
from typing import Any

import pytest

from pipelines.report.frontier_files import write_frontier
from pipelines.report.view import dimensions
from tests.sweeps import Evaluate, make_sweep


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The contents of pareto.json for the sweep of tests/sweeps.py."""
    return write_frontier(make_sweep(tmp_path_factory.mktemp("report") / "sweep"), Evaluate())


def test_axes_of_parallel_coordinates_are_varying_options_then_parameters_and_metric(data: dict[str, Any]) -> None:
    data = copy.deepcopy(data)
    point = data["frontier"][-1]
    point["config"]["ranks"] = "2x12x12"
    axes = {axis["title"]: axis for axis in dimensions(data)}
    assert list(axes)[-2:] == ["parameters", "validation accuracy, %"]
    assert axes["largest of ranks"]["names"] == ["3", "4", "12", "none"]
    values = {"0000": "none", "0001": "3", "0002": "4", "0003": "4", "0004": "4", "0005": "12"}
    assert axes["largest of ranks"]["values"] == values
    assert axes["cell"]["names"] == ["gru", "rnn"]
    assert "lr" not in axes
    assert axes["validation accuracy, %"]["values"]["0001"] == pytest.approx(80.0)


def test_numbers_with_many_different_values_have_a_scale(data: dict[str, Any]) -> None:
    one = data["trials"][1]
    trials = [{**one, "trial": str(n), "config": {"lr": 10 ** (-n / 8), "shift": n}} for n in range(20)]
    kinds = {axis["title"]: axis["kind"] for axis in dimensions({**data, "trials": trials, "frontier": trials[:1]})}
    assert (kinds["lr"], kinds["shift"]) == ("log", "linear")

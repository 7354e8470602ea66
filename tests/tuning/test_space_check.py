"""A space is called before Ray starts; limits that none of its models can meet are refused with the smallest number."""

from pathlib import Path
from typing import Any

import pytest

from pipelines import sweep as sweeping
from pipelines.core.errors import UserError
from pipelines.data.dataset import ShardDataset
from pipelines.sweep import sweep
from pipelines.tuning.build import Builder
from pipelines.tuning.space_check import check_space, size_costs
from pipelines.tuning.sweep_directory import SweepDirectory
from tests.shards import make_shards


def failing(trial: Any) -> dict[str, Any]:
    return {"ranks": str(trial.suggest_int("rank", 2, 4) // 0)}


def uneven(trial: Any) -> dict[str, Any]:
    """The smallest model has neither the first choice nor the lowest number, nor always both directions."""
    is_wide = trial.suggest_categorical("kind", ["wide", "narrow"]) == "wide"
    rank = 9 - trial.suggest_int("quality", 1, 8)
    both = trial.suggest_categorical("bidirectional", [True, False])
    return {"hidden_modes": "4x4" if is_wide else "2x2", "in_modes": "4x8", "ranks": str(rank), "bidirectional": both}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


def check(shards: Path, space: str, streamable: bool = False, **limits: float) -> None:
    data = ShardDataset.open(shards)
    builder = Builder(SweepDirectory("sweep"), data, {"epochs": 1}, space)

    def costs(options: Any, model: Any) -> dict[str, float]:
        return {**size_costs(options, model), "memory_bytes": 1e6 * model.num_params}

    check_space(space, builder, data, limits, costs, streamable=streamable)


def smallest(shards: Path, **values: Any) -> int:
    """The number of parameters of the smallest model of `uneven`."""
    data = ShardDataset.open(shards)
    builder = Builder(SweepDirectory("sweep"), data, {"epochs": 1}, "uneven")
    values = {"hidden_modes": "2x2", "in_modes": "4x8", "ranks": "1", "bidirectional": False, **values}
    return builder.build("", values)[1].num_params


def test_the_smallest_number_that_a_space_reaches_is_the_way_out(shards: Path) -> None:
    least, space = smallest(shards), f"{__name__}:uneven"
    check(shards, space, max_params=least)
    with pytest.raises(UserError, match=f"max_params {least - 1} excludes all .* has {least} parameters; give --max-p"):
        check(shards, space, max_params=least - 1)
    with pytest.raises(UserError, match=r"max_macs 5 excludes all models .* MACs for a frame; give --max-macs \d+ or"):
        check(shards, space, max_params=least, max_macs=5)
    with pytest.raises(UserError, match=r"no model .* memory of a node or GPU, 1 MB: the smallest takes [\d.]+ MB"):
        check(shards, space, memory_bytes=1e6)


@pytest.mark.parametrize("space", ["small", "shapes", "ranks"])
def test_the_number_for_the_spaces_of_this_project_can_be_given(shards: Path, space: str) -> None:
    with pytest.raises(UserError, match=r"max_params 10 excludes .*give --max-params \d+ or more") as refused:
        check(shards, space, max_params=10)
    check(shards, space, max_params=int(str(refused.value).split()[-3]))


def test_models_in_both_directions_do_not_count_for_streams(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    least = smallest(shards)
    check(shards, f"{__name__}:uneven", streamable=True, max_params=least)
    monkeypatch.setitem(globals(), "both", lambda trial: {**uneven(trial), "bidirectional": True})
    with pytest.raises(UserError, match=r"no model in one direction; leave out --streamable"):
        check(shards, f"{__name__}:both", streamable=True, max_params=100_000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": f"{__name__}:failing"}, r"fails in \S+test_space_check.py, line 19: ZeroDivisionError: integer"),
        ({"max_params": 10}, r"max_params 10 excludes all models of the space small"),
        ({"max_macs": 10, "data": None}, r"max_macs 10 excludes all models of the space small"),
    ],
    ids=["failing", "parameters", "the demo"],
)
def test_a_sweep_is_refused_before_ray_starts_and_leaves_nothing(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(sweeping, "start_ray", lambda: pytest.fail("Ray was started"))
    with pytest.raises(UserError, match=message):
        sweep(**{"data": shards, "out": tmp_path / "runs" / "sweep", **options})
    assert list(tmp_path.iterdir()) == []

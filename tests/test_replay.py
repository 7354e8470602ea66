"""tests.benchmarks.trainings and replay: what is collected, and that a replay follows the curves it is given."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.training.options import TrainOptions
from pipelines.training.run_directory import RunDirectory
from pipelines.tuning.frontier import hypervolume
from tests.benchmarks.replay import run, spaces
from tests.benchmarks.replay_rules import ORDERS, STOPPING, Configuration, MoAsha, StoppingRule, ranking
from tests.benchmarks.trainings import TrainingsOptions, collect, read_trainings
from ttrnn import ModelConfig

CURVE = [0.1, 0.25, 0.5, 0.4]


def make_run(path: Path, state: str = "complete", train_s: float = 2.0, **changes: Any) -> Path:
    """A run as train leaves it, written without training."""
    shards = str(path.parent.parent / "shards" / "words")
    options = TrainOptions(shards=shards, out=str(path), **{"epochs": len(CURVE), **changes})
    model = ModelConfig(width=16, height=16, channels=1, classes=("a", "b"), hidden_modes="4x4x4x4")
    run = RunDirectory(path)
    run.claim(options, model)
    for epoch, value in enumerate(CURVE, start=1):
        run.append_metrics({"epoch": epoch, "val_metric": value})
    summary = {"state": state, "num_params": model.num_params, "val_metric": max(CURVE), "num_val_clips": 40}
    run.write_summary({**summary, "train_s": train_s, "config": {"ranks": "4x4x4"}})
    return path


def configuration(num_params: int, *curve: float, **coordinates: float | str) -> Configuration:
    return Configuration(
        num_params=num_params, curve=curve, val_metric=max(curve), epoch_s=1.0, coordinates=coordinates or {"lr": 0.01}
    )


def random_space(size: int) -> list[Configuration]:
    generator = np.random.default_rng(0)
    return [
        configuration(
            int(generator.integers(1_000, 100_000)),
            *np.maximum.accumulate(generator.random(9)).tolist(),
            lr=float(generator.uniform(1e-3, 1e-2)),
            rank=int(generator.integers(2, 8)),
            stem=str(generator.choice(["none", "8x16"])),
        )
        for _ in range(size)
    ]


def test_a_training_is_collected_once_and_without_paths(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "trainings.csv"
    make_run(runs / "a", train_s=1.0)
    make_run(runs / "b", train_s=2.0, seed=1)
    make_run(runs / "running", state="unfinished")
    options = TrainingsOptions(places=(str(runs),), out=str(out))
    assert collect(options) == {"out": str(out), "num_trainings": 2, "num_added": 2}
    first = out.read_text()
    assert collect(options)["num_added"] == 0
    assert out.read_text() == first
    assert str(tmp_path) not in first
    row = read_trainings(out)[0]
    assert (row["data"], row["seed"], row["ranks"], row["epochs"]) == ("words", "0", "4x4x4", "4")
    assert row["curve"] == "0.1000;0.2500;0.5000;0.4000"


def test_a_space_has_complete_trainings_from_random_weights_of_equal_epochs(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "trainings.csv"
    make_run(runs / "a", train_s=1.0)
    make_run(runs / "a again", train_s=2.0, seed=1)
    make_run(runs / "other rate", train_s=3.0, lr=0.01)
    make_run(runs / "stopped", train_s=4.0, state="stopped", lr=0.02)
    make_run(runs / "started from a", train_s=5.0, lr=0.03, init="sweep/trials/0000/model")
    make_run(runs / "longer", train_s=6.0, epochs=80)
    collect(TrainingsOptions(places=(str(runs),), out=str(out)))
    (space,) = spaces(read_trainings(out), least=2)
    assert (space.data, space.epochs, space.num_clips) == ("words", 4, 40)
    assert sorted(map(len, space.trainings)) == [1, 2]


@pytest.mark.parametrize("order", ORDERS)
def test_without_stopping_every_configuration_is_trained_once(order: str) -> None:
    space = random_space(25)
    trace, num_complete = run(space, ORDERS[order](space, 3), STOPPING["none"](9, 100), 2)
    assert num_complete == 25
    assert trace.epochs[-1] == 25 * 9
    assert trace.at(trace.epochs[-1]) == hypervolume([(each.num_params, each.val_metric) for each in space])


@pytest.mark.parametrize(
    ("stopping", "stopped_after"),
    [("none", None), ("frontier", 2), ("asha", 1), ("mo-asha", 1)],
)
def test_a_larger_and_worse_model_is_stopped_at_the_first_epoch_of_the_rule(
    stopping: str, stopped_after: int | None
) -> None:
    rule = STOPPING[stopping](9, 100)
    good, bad = configuration(1_000, *[0.9] * 9), configuration(9_000, *[0.1] * 9)
    for epoch in range(1, 9):
        assert not rule(0, good, epoch)
    stopped = next((epoch for epoch in range(1, 9) if rule(1, bad, epoch)), None)
    assert stopped == stopped_after


def test_mo_asha_keeps_a_small_model_that_asha_stops() -> None:
    others = [configuration(50_000 + index, *[0.9 - index / 100] * 9) for index in range(5)]
    small = configuration(500, *[0.4] * 9)
    rules: dict[str, StoppingRule] = {"asha": STOPPING["asha"](9, 100), "mo-asha": MoAsha(9)}
    for rule in rules.values():
        for index, each in enumerate(others):
            rule(index, each, 1)
    assert {name: rule(9, small, 1) for name, rule in rules.items()} == {"asha": True, "mo-asha": False}


def test_ranking_sorts_by_fronts_and_spreads_within_a_front() -> None:
    points = [(0.5, 0.9), (0.0, 1.0), (0.9, 0.95), (1.0, 0.0), (0.9, 0.1), (0.5, 0.5), (0.5, 0.5)]
    # The best metric, the farthest from it, the one between them and its equal, one near the best; then what they
    # dominate, (0.9, 0.95) last.
    assert ranking(np.array(points)) == [3, 1, 5, 4, 6, 0, 2]

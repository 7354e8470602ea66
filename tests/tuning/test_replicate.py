"""Test tuning/replicate.py and the frontier that replication.py draws from its runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster.slots import Slots
from pipelines.core.errors import UserError
from pipelines.data.dataset import ShardDataset
from pipelines.training.options import TrainOptions
from pipelines.training.queue import Queue
from pipelines.training.run_directory import RunDirectory
from pipelines.training.setup import model_config
from pipelines.tuning.frontier import frontier
from pipelines.tuning.replicate import points_to_replicate, replicate
from pipelines.tuning.replication import DrawnFrontier, draw_frontier
from pipelines.tuning.sweep_directory import SweepDirectory
from tests.shards import make_shards
from tests.sweeps import make_sweep

SMALL = {"hidden_modes": "2x2x2x2", "ranks": "2", "epochs": 2, "precision": "float32"}
# On the frontier by single values: a, b, c.
TRIALS: dict[str, dict[str, Any] | None] = {
    "a": {"num_params": 1_000, "val_metric": 0.6},
    "b": {"num_params": 2_000, "val_metric": 0.9},
    "c": {"num_params": 3_000, "val_metric": 0.95},
    "d": {"num_params": 4_000, "val_metric": 0.8},
}
Values = dict[tuple[str, int], float]


class FakeRuns:
    """Replaces run_trainings: writes results without training; None as a value is a failure."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, int], float | None] = {}
        self.calls: list[list[str]] = []
        self.seen: dict[str, TrainOptions] = {}
        self.tested: dict[str, bool] = {}
        self.memory_bytes: dict[str, int] = {}
        self.stop_after = 10**9

    def __call__(self, queue: Queue, slots: Slots, **kwargs: Any) -> int:
        self.calls.append([])
        while (training := queue.next([])) is not None:
            assert training.memory_bytes > 1 << 20
            if len(self.seen) == self.stop_after:
                raise KeyboardInterrupt
            self.calls[-1].append(training.name)
            self.memory_bytes[training.name] = training.memory_bytes
            self.seen[training.name], self.tested[training.name] = training.options, training.has_test_split
            trial = training.name.rpartition("-s")[0]
            value = self.values.get((trial, training.options.seed), 0.5)
            if value is not None:
                self.write(RunDirectory(training.options.out), value)
            queue.ended(training, "worker died" if value is None else None)
        return 0

    def write(self, run: RunDirectory, value: float) -> None:
        run.path.mkdir(parents=True, exist_ok=True)
        run.write_result(
            {
                "state": "complete",
                "val_metric": value,
                "val_interval": [value - 0.1, value + 0.1],
                "value": value - 0.05,
                "interval": [value - 0.15, value + 0.05],
                "error": None,
            }
        )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRuns:
    runs = FakeRuns()
    monkeypatch.setattr("pipelines.tuning.replicate.run_trainings", runs)
    return runs


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


def sweep_of(path: Path, shards: Path, **options: dict[str, Any]) -> Path:
    """A sweep of TRIALS, with `options` of train by trial."""
    sweep = make_sweep(path / "sweep", TRIALS, shards=str(shards))
    for name in TRIALS:
        train = TrainOptions(shards=str(shards), out="x", **(SMALL | options.get(name, {})))
        RunDirectory(sweep / "trials" / name).claim(train, model_config(train, ShardDataset.open(shards)))
    return sweep


def points(sweep: Path) -> list[Any]:
    return frontier(SweepDirectory(sweep).finished_trials())


def redrawn(sweep: Path) -> DrawnFrontier:
    return draw_frontier(SweepDirectory(sweep), SweepDirectory(sweep).finished_trials())


def again(sweep: Path, chosen: list[Any], seeds: list[int], device: str = "CPU", **kwargs: Any) -> list[dict[str, Any]]:
    return replicate(SweepDirectory(sweep), chosen, seeds, Slots(2, device, 1.0, 1e12), **kwargs)


def drawn(sweep: Path) -> tuple[list[str], list[str]]:
    found = redrawn(sweep)
    return [point.trial for point in found.points], [point.trial for point in found.not_replicated]


def test_each_point_is_trained_with_its_options_and_each_seed(tmp_path: Path, shards: Path, fake: FakeRuns) -> None:
    sweep = sweep_of(tmp_path, shards, b={"ranks": "3", "num_workers": 2, "batch_size": 4})
    assert again(sweep, points(sweep), [1, 2]) == []
    assert fake.calls == [["a-s1", "b-s1", "c-s1", "a-s2", "b-s2", "c-s2"]]
    train = fake.seen["b-s2"]
    assert (train.seed, train.ranks, train.epochs, train.precision) == (2, "3", 2, "float32")
    # One process with the batch of two workers.
    assert (train.num_workers, train.batch_size) == (1, 8)
    assert train.out == str(sweep / "confirm/b-s2")


def test_finished_runs_are_not_run_again(tmp_path: Path, shards: Path, fake: FakeRuns) -> None:
    sweep = sweep_of(tmp_path, shards)
    fake.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        again(sweep, points(sweep), [1, 2])
    assert redrawn(sweep).replications is None
    fake.stop_after = 10**9
    again(sweep, points(sweep), [1, 2])
    assert fake.calls[1] == ["b-s2", "c-s2"]
    again(sweep, points(sweep), [1, 2, 3])
    assert fake.calls[2:] == [["a-s3", "b-s3", "c-s3"]]
    replication = redrawn(sweep).points[0].replication
    assert replication is not None
    assert replication.seeds == [1, 2, 3]


def test_a_half_written_result_is_run_again(
    tmp_path: Path, shards: Path, fake: FakeRuns, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = sweep_of(tmp_path, shards)
    again(sweep, points(sweep), [1])
    (sweep / "confirm/b-s1/result.json").write_text('{"state": "comp')
    assert drawn(sweep) == (["a", "b", "c"], [])
    assert "replications of b are missing" in caplog.text
    again(sweep, points(sweep), [1])
    assert fake.calls[1:] == [["b-s1"]]
    assert redrawn(sweep).replications is not None


def test_the_frontier_is_redrawn_from_the_means_and_points_that_left_it_are_marked(
    tmp_path: Path, shards: Path, fake: FakeRuns
) -> None:
    sweep = sweep_of(tmp_path, shards)
    fake.values = {("a", 1): 0.5, ("a", 2): 0.6, ("b", 1): 0.7, ("b", 2): 0.8, ("c", 1): 0.75, ("c", 2): 0.73}
    again(sweep, points(sweep), [1, 2])
    found = redrawn(sweep)
    assert drawn(sweep) == (["a", "b"], ["c"])
    assert [point.val_metric for point in found.points] == [0.6, 0.9]
    replication = found.points[1].replication
    assert replication is not None
    assert (replication.seeds, replication.val, replication.val_mean) == ([1, 2], [0.7, 0.8], pytest.approx(0.75))
    assert (replication.test, replication.test_mean) == ([pytest.approx(0.65), pytest.approx(0.75)], pytest.approx(0.7))
    assert found.not_replicated[0].not_replicated
    assert found.replications is not None
    assert (found.replications["seeds"], found.replications["failed"]) == ([1, 2], [])
    # d, which was never on the frontier, was not replicated.
    assert next(trial for trial in found.trials if trial.trial == "d").replication is None


def test_a_failed_run_is_returned_and_its_point_has_no_mean_of_the_other_seeds(
    tmp_path: Path, shards: Path, fake: FakeRuns
) -> None:
    sweep = sweep_of(tmp_path, shards)
    fake.values = {("a", 1): None, ("a", 2): 0.4, ("b", 1): None, ("b", 2): None, ("c", 1): 0.8, ("c", 2): 0.8}
    failed = again(sweep, points(sweep), [1, 2])
    assert [(run["trial"], run["seed"], run["error"]) for run in failed] == [
        ("a", 1, "worker died"),
        ("b", 1, "worker died"),
        ("b", 2, "worker died"),
    ]
    found = redrawn(sweep)
    points_left, not_replicated = drawn(sweep)
    assert (points_left, sorted(not_replicated)) == (["c"], ["a", "b"])
    assert found.replications is not None
    assert found.replications["failed"] == failed
    assert all(point.replication is None for point in found.not_replicated)
    fake.values = {}
    assert again(sweep, points(sweep), [1, 2]) == []
    assert fake.calls[1] == ["a-s1", "b-s1", "b-s2"]


def test_if_no_point_could_be_replicated_the_frontier_is_drawn_from_single_values(
    tmp_path: Path, shards: Path, fake: FakeRuns, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = sweep_of(tmp_path, shards)
    fake.values = {(name, 1): None for name in TRIALS}
    assert len(again(sweep, points(sweep), [1])) == 3
    assert drawn(sweep) == (["a", "b", "c"], [])
    assert "no point of the frontier could be replicated" in caplog.text


def test_a_refined_point_is_replicated_with_its_ancestors(tmp_path: Path, shards: Path, fake: FakeRuns) -> None:
    chain = {"a": {"init": "/old/trials/b/model", "ranks": "1"}, "b": {"init": "/old/trials/d/model"}}
    sweep = sweep_of(tmp_path, shards, **chain)
    again(sweep, points(sweep)[:1], [1, 2])
    assert fake.calls == [["d-s1", "b-s1", "a-s1", "d-s2", "b-s2", "a-s2"]]
    # Only the point is tested.
    assert [name for name in fake.tested if fake.tested[name]] == ["a-s1", "a-s2"]
    assert fake.seen["d-s2"].init is None
    assert fake.seen["b-s1"].init == str(sweep / "confirm/d-s1/model")
    assert fake.seen["a-s2"].init == str(sweep / "confirm/b-s2/model")


def test_descendants_of_a_failed_run_fail(tmp_path: Path, shards: Path, fake: FakeRuns) -> None:
    sweep = sweep_of(tmp_path, shards, a={"init": "/old/trials/b/model"})
    fake.values = {("b", 1): None}
    failed = again(sweep, points(sweep), [1, 2])
    assert [(run["trial"], run["seed"]) for run in failed] == [("b", 1), ("a", 1)]
    assert failed[1]["error"] == "the model that it starts from has failed"
    assert fake.calls == [["b-s1", "c-s1", "b-s2", "a-s2", "c-s2"]]


def test_memory_is_estimated_for_the_devices_of_the_cluster(tmp_path: Path, shards: Path, fake: FakeRuns) -> None:
    sweep = sweep_of(tmp_path, shards)
    again(sweep, points(sweep)[:1], [1])
    again(sweep, points(sweep)[:1], [2], device="GPU")
    # On a GPU the frames count too, even if the node of the command has none.
    assert fake.memory_bytes["a-s2"] > fake.memory_bytes["a-s1"]


def test_on_start_gets_the_runs_to_do(tmp_path: Path, shards: Path, fake: FakeRuns) -> None:
    sweep, runs_to_do = sweep_of(tmp_path, shards), []
    fake.values = {("b", 1): None}
    for _ in range(3):
        again(sweep, points(sweep), [1], on_start=lambda runs: runs_to_do.append([run.name for run in runs]))
    assert runs_to_do == [["a-s1", "b-s1", "c-s1"], ["b-s1"], ["b-s1"]]


def test_points_of_an_extended_sweep_are_not_mixed_with_replicated_ones(
    tmp_path: Path, shards: Path, fake: FakeRuns, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = sweep_of(tmp_path, shards)
    again(sweep, points(sweep), [1])
    summary = sweep / "trials/d/summary.json"
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "val_metric": 0.99}))
    assert drawn(sweep) == (["a", "b", "c", "d"], [])
    assert "replications of d are missing" in caplog.text
    fake.values = {("d", 1): 0.4}
    again(sweep, points(sweep), [1])
    assert drawn(sweep) == (["a"], ["b", "c", "d"])


def test_the_baselines_that_no_other_one_dominates_are_replicated_too(tmp_path: Path) -> None:
    sweep = SweepDirectory(make_sweep(tmp_path, TRIALS))
    for name, size, value in (("linear", 900, 0.3), ("cnn-1000", 1_000, 0.2), ("thumbnail-3000", 2_900, 0.4)):
        sweep.run(name).add_to_summary(state="complete", num_params=size, val_metric=value)
    names = [point.trial for point in points_to_replicate(sweep.finished_trials())]
    assert names == ["a", "b", "c", "linear", "thumbnail-3000"]


def test_the_dense_baseline_is_replicated_too(tmp_path: Path) -> None:
    dense = {"num_params": 9_000, "val_metric": 0.1, "config": {"input": "dense"}}
    trials = SweepDirectory(make_sweep(tmp_path, {**TRIALS, "e": dense})).finished_trials()
    assert [trial.trial for trial in points_to_replicate(trials)] == ["a", "b", "c", "e"]
    assert [trial.trial for trial in points_to_replicate(trials[:4])] == ["a", "b", "c"]


def test_a_point_without_its_options_is_refused(tmp_path: Path, shards: Path, fake: FakeRuns) -> None:
    sweep = sweep_of(tmp_path, shards)
    (sweep / "trials/b/config.json").unlink()
    with pytest.raises(UserError, match=r"trial b cannot be trained again .*config.json is missing; restore it"):
        again(sweep, points(sweep), [1])
    assert fake.calls == []


def test_with_a_damaged_plan_the_frontier_is_drawn_from_single_values(
    tmp_path: Path, shards: Path, fake: FakeRuns, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = sweep_of(tmp_path, shards)
    again(sweep, points(sweep), [1])
    (sweep / "confirm/plan.json").write_text('{"see')
    assert redrawn(sweep).replications is None
    assert "plan.json cannot be read" in caplog.text

"""Test tuning/budget.py: a plan fills the time, and the points that matter most are replicated."""

import dataclasses

import pytest

from pipelines.cluster.slots import Slots
from pipelines.data.dataset import ShardDataset
from pipelines.tuning.budget import EpochCosts, Planner
from pipelines.tuning.data_check import forecast_of
from pipelines.tuning.options import SweepOptions
from pipelines.tuning.replicate import within_time
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.tuning.trial import Trial
from tests.shards import make_shards

COSTS = EpochCosts(
    questions_s=4.0, trial_s=1.0, baselines_s=3.0, num_baselines=9, num_seeds=3, refines=True, num_slots=2
)  # fmt: skip


def needed_s(costs, epochs, num_trials):
    """The time of a whole sweep, from its definition."""
    refinements = 2 if costs.refines else 0
    replicated = costs.num_seeds * (4 * costs.trial_s + 3 * costs.baselines_s / costs.num_baselines)
    trials = costs.questions_s + costs.baselines_s + (num_trials + refinements) * costs.trial_s
    return epochs * (trials + replicated) / costs.num_slots


@pytest.mark.parametrize("time_s", [300.0, 600.0, 1100.0])
@pytest.mark.parametrize("num_slots", [1, 2])
@pytest.mark.parametrize("num_seeds", [0, 3])
def test_the_epochs_are_the_most_with_which_eight_trials_fit(time_s, num_slots, num_seeds):
    costs = dataclasses.replace(COSTS, num_slots=num_slots, num_seeds=num_seeds)
    epochs = costs.epochs(time_s)
    if epochs == 80:
        assert needed_s(costs, epochs, 8) <= time_s
    else:
        assert needed_s(costs, epochs, 8) <= 0.9 * time_s < needed_s(costs, epochs + 1, 8)


def test_the_epochs_have_limits_and_more_time_gives_more_trials():
    assert COSTS.epochs(1.0) == 8
    assert COSTS.epochs(1e9) == 80
    counts = [COSTS.num_trials(80, time_s) for time_s in (1.0, 2e3, 4e3, 1e4)]
    assert counts[0] == 1
    assert counts == sorted(set(counts))


def trial(name, num_params, val_metric, train_s=10.0, state="complete", parent=None):
    return Trial(
        trial=name, state=state, num_params=num_params, val_metric=val_metric, train_s=train_s, parent=parent
    )  # fmt: skip


# The parent of tiny, which is trained again with it, is not a point itself.
POINTS = [
    trial("tiny", 1_000, 0.5, 3.0, parent="wide"),
    trial("small", 3_000, 0.8),
    trial("hardly", 3_300, 0.805),
    trial("large", 400_000, 0.85, 100.0),
    trial("cnn", 3_000, 0.6, state="baseline"),
]
TRIALS = [*POINTS, trial("wide", 5_000, 0.7, 7.0)]


@pytest.mark.parametrize(
    ("time_s", "kept"),
    [
        # 3 seeds: small 30, large 300, cnn 30, tiny 30 with its parent, hardly 30; two at a time.
        (210.0, ["tiny", "small", "hardly", "large", "cnn"]),
        (195.0, ["small", "hardly", "large", "cnn"]),
        (180.0, ["small", "large", "cnn"]),
        (60.0, ["tiny", "small", "hardly", "cnn"]),
        (30.0, ["small", "cnn"]),
        (0.0, ["small"]),
    ],
)
def test_the_knee_the_highest_point_a_baseline_and_then_what_is_between_are_replicated_first(time_s, kept):
    found = within_time(POINTS, TRIALS, chance=0.1, num_runs=lambda trial: 3, num_slots=2, time_s=time_s)
    assert [point.trial for point in found] == kept


def test_replications_that_are_done_take_no_time():
    runs = {"large": 0, "wide": 1, "tiny": 2, "small": 3, "hardly": 3, "cnn": 0}
    found = within_time(POINTS, TRIALS, chance=0.1, num_runs=runs.__getitem__, num_slots=1, time_s=43.0)
    assert [point.trial for point in found] == ["tiny", "small", "large", "cnn"]


@pytest.mark.parametrize("space", ["small", "ranks"])
@pytest.mark.parametrize("epochs", [None, 5])
def test_a_plan_measures_the_models_of_the_space(tmp_path, space, epochs):
    data = ShardDataset.open(make_shards(tmp_path / "shards"))
    options = SweepOptions(
        data=str(data.place), out=str(tmp_path), space=space, time_budget=1.0, confirm=2, refine=True, epochs=epochs
    )
    slots = Slots(2, "CPU", 1.0, 1e12)
    planner = Planner(options, SweepDirectory(tmp_path), data, slots)
    forecast = forecast_of(data, options, slots.num_slots)
    measured = planner.measured(forecast, asks=True)
    assert all(seconds > 0 for seconds in measured.values())
    found = planner.plan(forecast.expecting(measured), 60.0)
    assert found.epochs == epochs or (epochs is None and 8 <= found.epochs <= 80)
    assert found.num_trials > (6 if space == "small" else 0)
    assert found.text.startswith(
        f"planned for 1 min 00 s: about {found.num_trials} trials of {found.epochs} epochs, 2 "
    )
    # On a slower cluster there is time for fewer epochs; answered questions leave time for more.
    slower = planner.plan(forecast.expecting({key: 500 * seconds for key, seconds in measured.items()}), 60.0)
    assert epochs or slower.epochs < found.epochs
    rest = planner.plan(forecast.expecting({key: 500 * seconds for key, seconds in measured.items()}), 600.0, ["kind"])
    assert rest.epochs >= slower.epochs


def test_a_model_above_the_limits_of_its_sweep_is_a_teacher(tmp_path):
    sweep = SweepDirectory(tmp_path)
    sweep.write({"options": {"max_params": 1_000, "streamable": True}})
    for name, num_params, both in (("0000", 900, False), ("0001", 2_000, False), ("0002", 900, True)):
        run = sweep.run(name)
        run.path.mkdir(parents=True)
        config = {"bidirectional": both}
        run.write_summary({"state": "complete", "num_params": num_params, "val_metric": 0.5, "config": config})
    assert [trial.state for trial in sweep.trials()] == ["complete", "teacher", "teacher"]
    assert [trial.is_finished for trial in sweep.trials()] == [True, False, False]


def test_a_teacher_is_found_where_the_sweep_is_now(tmp_path):
    sweep = SweepDirectory(tmp_path / "moved")
    (sweep.run("0002").model).mkdir(parents=True)
    own = str(sweep.run("0002").model)
    assert sweep.teacher_paths("0002,/other/model") == f"{own},/other/model"
    assert sweep.teacher_paths("/old/place/trials/0002/model") == own
    assert sweep.teacher_paths("/old/place/trials/0003/model") == "/old/place/trials/0003/model"
    # A trial of another sweep, which exists, stays one.
    other = tmp_path / "other" / "trials" / "0002" / "model"
    other.mkdir(parents=True)
    assert sweep.teacher_paths(str(other)) == str(other)


def test_a_directory_with_a_comma_cannot_hold_teachers(tmp_path):
    with pytest.raises(ValueError, match=r"out must not have a comma, got .*a,b; give another directory"):
        SweepOptions(out=f"{tmp_path}/a,b")
    assert SweepOptions(out=f"{tmp_path}/a,b", teacher="none").teacher_paths == []

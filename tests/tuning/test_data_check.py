"""Test tuning/data_check.py: what is said about the data before a sweep."""

import pytest

from pipelines.data.dataset import ShardDataset
from pipelines.data.folds import Folding, open_folds
from pipelines.data.rejected import REJECTED_CSV
from pipelines.evaluation.compare import mcnemar, smallest_difference
from pipelines.tuning.data_check import check_data, cost_text
from pipelines.tuning.options import SweepOptions
from pipelines.tuning.time_left import Forecast
from tests.shards import make_shards
from tests.tuning.test_study import make as make_search


def check(path, **kwargs):
    return check_data(ShardDataset.open(make_shards(path / "shards", **kwargs)))


def test_eight_clips_show_35_points():
    assert smallest_difference(8) == pytest.approx(0.35, abs=0.005)
    assert smallest_difference(0) == 1


@pytest.mark.parametrize("num_clips", range(1, 38))
def test_of_few_clips_a_smaller_difference_is_never_significant(num_clips):
    num_better = int(smallest_difference(num_clips) * num_clips)
    assert mcnemar(num_better, 0) >= 0.05


@pytest.mark.parametrize("num_clips", [200, 1000, 5000])
def test_of_many_clips_it_is_the_limit_of_significance_if_a_quarter_differs(num_clips):
    differing, half = num_clips // 4, smallest_difference(num_clips) * num_clips / 2
    for factor, is_significant in ((0.8, False), (1.25, True)):
        num_first = round(differing / 2 + factor * half)
        assert (mcnemar(num_first, differing - num_first) < 0.05) == is_significant


def test_the_check_counts_clips_per_class_and_says_which_differences_may_be_chance(tmp_path):
    found = check(tmp_path, num_clips=25)
    assert found["clips_per_class"]["train"] == {"class 0": 9, "class 1": 8, "class 2": 8}
    assert (found["val_unit"], found["num_val_units"], found["classes_without_val"]) == ("clip", 8, [])
    assert found["text"][:2] == [
        "clips per class: train 8 (class 1) to 9 (class 0); val 2 (class 2) to 3 (class 0); test 2 (class 2) to 3 "
        "(class 0)",
        "8 validation clips: a difference of less than 35 points between two models may be chance",
    ]


def test_clips_of_groups_count_as_one(tmp_path):
    found = check(tmp_path, num_clips=180, num_groups=4)
    assert (found["val_unit"], found["num_val_units"]) == ("group", 12)
    assert "60 validation clips of 12 groups: a difference of less than 28 points" in found["text"][1]


def test_classes_without_validation_clips_and_rejected_clips_are_named(tmp_path):
    shards = make_shards(tmp_path / "shards", num_clips=25)
    (shards / REJECTED_CSV).write_text("path,reason\na.avi,truncated\nb.avi,unreadable\nc.avi,truncated\n")
    data = ShardDataset.open(shards)
    view = open_folds(shards, Folding(folds=5, fold=0))
    rows = tuple(row for row in view.rows["val"] if view.clips().labels[row] != (1,))
    found = check_data(type(data)(**{**vars(view), "rows": {**view.rows, "val": rows}}))
    assert found["rejected"] == {"truncated": 2, "unreadable": 1}
    assert "3 clips rejected: 2 truncated, 1 unreadable" in found["text"]
    assert found["classes_without_val"] == ["class 1"]
    assert "without validation clips: class 1" in found["text"]


def test_for_few_clips_folds_are_recommended_that_the_data_can_be_split_into(tmp_path):
    found = check(tmp_path, num_clips=9)
    assert "which test all 15 clips (25 points): for fold in 0 1 2 3 4; do" in found["text"][-1]
    for fold in range(5):
        assert len(open_folds(tmp_path / "shards", Folding(folds=5, fold=fold)).split("test"))
    for command in ("train", "evaluate"):
        assert f"-m pipelines.{command} " in found["folds"]
    assert "--folds 5 --fold $fold" in found["folds"]


def test_for_many_clips_or_none_to_split_there_is_no_recommendation(tmp_path):
    assert check(tmp_path / "many", num_clips=330)["folds"] is None
    # Two groups cannot be in three splits.
    assert check(tmp_path / "groups", num_clips=60, num_groups=2)["folds"] is None


def test_clips_of_several_labels_have_no_smallest_difference(tmp_path):
    found = check(tmp_path, multi_label=True)
    assert (found["smallest_difference"], found["folds"]) == (None, None)
    assert len(found["text"]) == 1


def test_the_expected_cost_names_what_it_is_computed_from(tmp_path):
    data = ShardDataset.open(make_shards(tmp_path / "shards"))
    first = make_search(tmp_path / "sweep", data).next()
    forecast = Forecast(num_slots=2, num_seeds=3, refines=True)
    planned = forecast.stage("search", 8)
    options = SweepOptions(num_trials=8, epochs=2, refine=True, confirm=3)
    text = cost_text(options, data, first, planned)
    assert text.startswith("8 trials of 2 epochs, refinements, 3 replications of each point, 2 at a time: about ")
    assert f"as one of {first.model.num_params:,} parameters, of which a few steps were measured" in text

"""Folds of decoded data: every clip is tested once, groups stay whole, statistics are correct."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.core.errors import UserError
from pipelines.data.dataset import ShardDataset
from pipelines.data.folds import resplit, without_val
from pipelines.data.splits import SPLITS, SplitOptions
from pipelines.video.frame import FrameSize
from tests.shards import make_shards


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    path = tmp_path_factory.mktemp("data") / "shards"
    return ShardDataset.open(make_shards(path, num_clips=60, num_groups=6, frame=FrameSize(8, 4, 3)))


def ids(data: ShardDataset) -> dict[str, list[str]]:
    return {name: data.split(name).clip_ids for name in SPLITS}


@pytest.mark.parametrize("leak", [False, True], ids=["by group", "by clip"])
def test_every_clip_is_tested_in_one_fold_and_in_one_split_of_each(data: ShardDataset, leak: bool) -> None:
    everything, tested = data.clips().clip_ids, []
    for fold in range(5):
        view = ids(resplit(data, SplitOptions(folds=5, fold=fold, allow_group_leak=leak)))
        assert sorted(clip_id for own in view.values() for clip_id in own) == sorted(everything)
        # In the order of the shards, regardless of their split.
        assert all(own == [clip_id for clip_id in everything if clip_id in own] for own in view.values())
        tested += view["test"]
    assert sorted(tested) == sorted(everything)


@pytest.mark.parametrize("leak", [False, True], ids=["by group", "by clip"])
def test_groups_stay_whole_unless_clips_are_split_one_by_one(data: ShardDataset, leak: bool) -> None:
    view = resplit(data, SplitOptions(folds=5, fold=1, allow_group_leak=leak))
    groups = [set(view.split(name).groups) for name in SPLITS]
    shared = (groups[0] & groups[1]) | (groups[0] & groups[2]) | (groups[1] & groups[2])
    assert bool(shared) == leak


def test_clips_of_a_view_are_those_of_the_files(data: ShardDataset) -> None:
    frames = {clip.clip_id: clip.frames for clip in data.clips()}
    for clip in resplit(data, SplitOptions(folds=3, fold=0)).split("train"):
        np.testing.assert_array_equal(clip.frames, frames[clip.clip_id])


def test_statistics_are_those_of_the_new_train_split(data: ShardDataset) -> None:
    view = resplit(data, SplitOptions(folds=5, fold=2))
    pixels = np.concatenate([clip.frames.reshape(-1, 3) for clip in view.split("train")])
    np.testing.assert_allclose(view.mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(view.std, pixels.std(axis=0), rtol=1e-9)
    assert view.mean != data.mean


def test_without_val_its_clips_go_to_train_and_the_test_split_replaces_it(data: ShardDataset) -> None:
    for made in (data, resplit(data, SplitOptions(folds=5, fold=2))):
        before, after = ids(made), ids(without_val(made))
        assert sorted(after["train"]) == sorted(before["train"] + before["val"])
        assert after["val"] == after["test"] == before["test"]


def test_three_groups_per_class_make_three_folds(tmp_path: Path) -> None:
    data = ShardDataset.open(make_shards(tmp_path / "shards", num_clips=36, num_classes=4, num_groups=3))
    for fold in range(3):
        view = resplit(data, SplitOptions(folds=3, fold=fold))
        assert [len(set(view.split(name).groups)) for name in SPLITS] == [4, 4, 4]


def test_folds_that_leave_a_class_out_are_refused(data: ShardDataset) -> None:
    with pytest.raises(UserError, match=r"in 6 groups, and none in .*use fewer --folds"):
        resplit(data, SplitOptions(folds=7, fold=0))

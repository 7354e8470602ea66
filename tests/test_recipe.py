"""pipelines/recipe.py: the data that a run learns from is dealt out as its options say."""

import pytest

from pipelines.cli import UserError
from pipelines.recipe import TrainOptions, open_data
from tests.shards import make_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return str(make_shards(tmp_path_factory.mktemp("data") / "shards", num_clips=60, num_groups=6))


def opened(shards, **values):
    return open_data(shards, TrainOptions(shards=shards, out="run", **values))


@pytest.mark.parametrize("split_by", ["group", "clip"])
def test_folds_are_the_same_for_all_models_and_seeds_and_cover_all_clips(shards, split_by):
    tested = []
    for fold in range(5):
        views = [opened(shards, folds=5, fold=fold, split_by=split_by, seed=seed, cell=cell)
                 for seed, cell in ((0, "gru"), (1, "lstm"))]  # fmt: skip
        assert views[0].dealt == views[1].dealt
        tested += views[0].split("test").clip_ids
    assert sorted(tested) == sorted(opened(shards).clips().clip_ids)


def test_a_run_that_watches_the_test_split_learns_from_all_others(shards):
    data = opened(shards, folds=5, fold=0, split_by="clip", watch_test=True, keep="last")
    assert data.split("val").clip_ids == data.split("test").clip_ids
    assert len(data.split("train")) + len(data.split("test")) == 100


def test_splits_are_those_of_the_shards_where_no_folds_are_asked_for(shards):
    assert opened(shards).dealt is None


def test_what_no_fold_can_give_is_refused_in_the_words_of_train(shards, tmp_path):
    rare = str(make_shards(tmp_path / "shards", num_clips=24, num_groups=2))
    with pytest.raises(UserError, match="--split-by clip") as error:
        opened(rare, folds=3, fold=0)
    assert "allow-group-leak" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fold": 0}, "need folds"),
        ({"split_by": "clip"}, "need folds"),
        ({"folds": 5}, "fold None"),
        ({"folds": 5, "fold": 5}, "0 <= fold < folds"),
        ({"watch_test": True}, "keep last"),
    ],
    ids=["fold alone", "split_by alone", "folds alone", "fold too high", "best of the test split"],
)
def test_options_of_splits_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TrainOptions(shards="s", out="o", **values)

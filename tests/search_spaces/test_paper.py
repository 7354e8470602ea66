"""Test search_spaces/paper.py: parameter counts equal those of the paper, and train accepts its options."""

import csv
import dataclasses
from pathlib import Path

import pytest

import search_spaces
from pipelines.training.options import TrainOptions
from search_spaces import paper
from ttrnn.model import ModelConfig

COUNTS = {
    ("ucf11", "tt-srnn"): 2_976,
    ("ucf11", "tt-gru"): 3_232,
    ("ucf11", "tt-lstm"): 3_360,
    ("ucf11", "dense-srnn"): 14_745_600,
    ("ucf11", "dense-gru"): 44_236_800,
    ("ucf11", "dense-lstm"): 58_982_400,
    ("hollywood2", "tt-srnn"): 2_624,
    ("hollywood2", "tt-gru"): 2_944,
    ("hollywood2", "tt-lstm"): 3_104,
    ("hollywood2", "dense-srnn"): 17_971_200,
    ("hollywood2", "dense-gru"): 53_913_600,
    ("hollywood2", "dense-lstm"): 71_884_800,
    ("youtube_celebrities", "tt-srnn"): 3_200,
    ("youtube_celebrities", "tt-gru"): 3_328,
    ("youtube_celebrities", "tt-lstm"): 3_392,
    ("youtube_celebrities", "dense-srnn"): 14_745_600,
    ("youtube_celebrities", "dense-gru"): 44_236_800,
    ("youtube_celebrities", "dense-lstm"): 58_982_400,
}


def model_config(dataset, model, **changes):
    experiment = paper.EXPERIMENTS[dataset]
    values = {**paper.train_options(dataset, model), **changes}
    names = {field.name for field in dataclasses.fields(ModelConfig)} & values.keys()
    return ModelConfig(
        width=experiment.width,
        height=experiment.height,
        classes=tuple(f"class {number}" for number in range(experiment.num_classes)),
        task="multi_label" if experiment.metric == "mean_average_precision" else "single_label",
        **{name: values[name] for name in names},
    )


def test_there_are_counts_for_all_experiments_and_models():
    assert COUNTS.keys() == {(dataset, model) for dataset in paper.EXPERIMENTS for model in paper.MODELS}


@pytest.mark.parametrize(("dataset", "model"), COUNTS, ids=" ".join)
def test_input_parameters_are_those_of_the_paper(dataset, model):
    assert model_config(dataset, model).input_params == COUNTS[dataset, model]


def test_all_options_that_affect_a_result_are_set():
    unset = {"shards", "out", "seed", "num_workers", "resume", "overwrite", "checkpoint_minutes", "track", "precision"}
    # Without a teacher they have no effect.
    unset |= {"teacher_weight", "teacher_temperature"}
    splits = {"folds", "fold", "split_by", "watch_test", "keep"}
    names = {field.name for field in dataclasses.fields(TrainOptions)}
    assert names - paper.train_options("ucf11", "tt-gru").keys() == unset | splits


@pytest.mark.parametrize(
    ("cell", "ranks", "count"),
    [
        ("tt-srnn", 3, 1_752),
        ("tt-srnn", 4, 2_976),
        ("tt-srnn", 5, 4_520),
        ("tt-gru", 3, 1_944),
        ("tt-gru", 4, 3_232),
        ("tt-gru", 5, 4_840),
        ("tt-lstm", 3, 2_040),
        ("tt-lstm", 4, 3_360),
        ("tt-lstm", 5, 5_000),
    ],
)
def test_input_parameters_by_rank_are_those_of_the_paper(cell, ranks, count):
    assert model_config("ucf11", cell, ranks=str(ranks)).input_params == count


def test_the_number_of_parameters_of_the_tt_lstm_cell():
    config = model_config("ucf11", "tt-lstm")
    assert config.num_params - (256 + 1) * 11 == 266_528


@pytest.mark.parametrize(("dataset", "model"), COUNTS, ids=" ".join)
def test_train_accepts_the_options(dataset, model):
    options = TrainOptions(shards="shards", out="run", **paper.train_options(dataset, model))
    experiment = paper.EXPERIMENTS[dataset]
    assert (options.epochs, options.lr, options.batch_size) == (
        experiment.epochs,
        experiment.lr,
        experiment.batch_size,
    )
    assert (options.optimizer, options.schedule, options.decayed) == ("adam", "constant", "head")


def test_published_figures_are_fractions_of_known_experiments():
    with Path(paper.__file__).with_name("published.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert row["metric"] == paper.EXPERIMENTS[row["dataset"]].metric
        assert 0 < float(row["value"]) < 1
        assert paper.published(row["dataset"], row["model"]) == float(row["value"])
        assert row["source"]
    assert len({(row["dataset"], row["model"]) for row in rows}) == len(rows)
    assert paper.published("ucf11", "tt-gru") == 0.813
    assert paper.published("ucf11", "dense-gru") is None


def test_paper_is_not_a_search_space():
    with pytest.raises(ValueError, match="there is no search space 'paper'"):
        search_spaces.load("paper")

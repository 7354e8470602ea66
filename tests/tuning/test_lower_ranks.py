"""Test tuning/lower_ranks.py: ranks that lose least, within the parameters asked for."""

import dataclasses

import pytest

from pipelines.tuning.lower_ranks import lower_ranks
from tests.ttrnn.test_model import CONFIGS, make
from ttrnn.rounding import rounded


@pytest.mark.parametrize("name", [name for name in CONFIGS if "one mode" not in name])
def test_lower_ranks_are_lower_and_keep_to_the_parameters_asked_for(name):
    model = make(**CONFIGS[name])
    if model.config.input == "dense":
        assert lower_ranks(model, 10**9) is None
        return
    assert rounded(model, lower_ranks(model, model.num_params))[0].num_params <= model.num_params
    smallest = dataclasses.replace(model.config, ranks="1", recurrent_ranks="1")
    half = (model.num_params + smallest.num_params) // 2
    assert smallest.num_params <= lower_ranks(model, half).num_params <= half
    assert lower_ranks(model, smallest.num_params) == smallest
    assert lower_ranks(model, smallest.num_params - 1) is None


@pytest.mark.parametrize(("ranks", "recurrent_ranks"), [("1x3x2", "none"), ("4x4x4", "1x2x2")], ids=["input", "hidden"])
def test_what_carries_nothing_is_lost_first_and_a_dense_recurrent_matrix_only_then(ranks, recurrent_ranks):
    true = make(ranks=ranks, recurrent_ranks=recurrent_ranks)
    large, _ = rounded(true, dataclasses.replace(true.config, ranks="4", recurrent_ranks="none"))
    assert lower_ranks(large, true.num_params) == true.config


@pytest.mark.parametrize("options", [
    {"format": "cp"}, {"recurrent_format": "block-diagonal", "recurrent_ranks": "2"},
], ids=str)  # fmt: skip
def test_other_formats_are_not_lowered(options):
    assert lower_ranks(make(**options), 10**9) is None

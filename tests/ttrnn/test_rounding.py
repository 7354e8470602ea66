"""ttrnn/rounding.py: another configuration's model, as near to the old one as its ranks allow."""

import dataclasses

import pytest
import torch

from tests.ttrnn.test_model import CONFIGS, clips, make
from ttrnn.decompose import tt_svd
from ttrnn.rounding import rounded

FULL = "10000"


def changed(model, **values):
    return rounded(model, dataclasses.replace(model.config, **values))


def matrices(model):
    """The dense input and recurrent matrix of every layer and direction, by the names of `errors`."""
    suffixes = [name.removeprefix("ih_") for name, _ in model.rnn.named_children() if name.startswith("ih_")]
    return {f"ih_{suffix}": getattr(model.rnn, f"ih_{suffix}").weight for suffix in suffixes} | {
        f"hh_{suffix}": model.rnn.weight_hh(suffix) for suffix in suffixes
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_ranks_that_are_high_enough_keep_the_function_and_lead_back(name):
    model = make(**CONFIGS[name])
    x, expected = clips(), model(clips())
    kwargs = {} if model.config.input == "dense" else {"ranks": FULL, "recurrent_ranks": FULL}
    for config in (model.config, dataclasses.replace(model.config, **kwargs)):
        twin, errors = rounded(model, config)
        assert (twin.config, twin.num_params, twin.training) == (config, config.num_params, False)
        assert max(errors.values()) < 1e-12
        torch.testing.assert_close(twin(x), expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(rounded(twin, model.config)[0](x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in CONFIGS if "dense" not in name and "one mode" not in name])
def test_every_matrix_is_the_old_one_truncated_and_the_error_is_their_distance(name):
    model = make(**CONFIGS[name])
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    twin, errors = changed(model, ranks="1", recurrent_ranks="2")
    old, new = matrices(model), matrices(twin)
    assert errors.keys() == old.keys()
    for key, weight in old.items():
        shape = getattr(twin.rnn, key).shape
        near = tt_svd(weight, shape.in_modes, shape.out_modes, shape.ranks)
        assert errors[key] == pytest.approx(near.relative_error, abs=1e-9)
        distance = torch.dist(weight, new[key]) / weight.norm()
        assert distance.item() == pytest.approx(near.relative_error, abs=1e-9)
    assert twin.config.num_params == twin.num_params <= model.num_params or model.config.recurrent_ranks != "none"
    kept = {key for key in before if ".cores." not in key and "weight_hh" not in key}
    assert kept
    assert all(torch.equal(before[key], twin.state_dict()[key]) for key in kept)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("kwargs", [{}, {"cell": "lstm", "bidirectional": True}, {"differences": "extra"}], ids=str)
def test_a_dense_model_becomes_a_tensor_train_and_a_tensor_train_a_dense_model(kwargs):
    dense = make(input="dense", **kwargs)
    train, errors = changed(
        dense, input="tt", in_modes="auto", hidden_modes="2x2x2x2", ranks=FULL, recurrent_ranks=FULL
    )
    assert max(errors.values()) < 1e-12
    assert train.config.recurrent_matrix is not None
    torch.testing.assert_close(train(clips()), dense(clips()), rtol=1e-10, atol=1e-10)
    back, errors = rounded(train, dense.config)
    assert max(errors.values()) < 1e-12
    torch.testing.assert_close(back(clips()), dense(clips()), rtol=1e-10, atol=1e-10)


def test_float32_models_stay_float32_and_keep_their_outputs():
    model = make(recurrent_ranks="2").float().train()
    twin, _ = changed(model, ranks="4", recurrent_ranks="none")
    assert (twin.head.weight.dtype, twin.training) == (torch.float32, True)
    torch.testing.assert_close(twin.eval()(clips()), model.eval()(clips()), rtol=1e-5, atol=1e-5)


def test_ranks_beyond_those_of_the_model_can_be_learnt():
    twin, _ = changed(make(ranks="2", recurrent_ranks="2"), ranks="3", recurrent_ranks="3")
    twin(clips()).square().sum().backward()
    for layer in (twin.rnn.ih_l0, twin.rnn.hh_l0):
        for left, right in zip(layer.cores, list(layer.cores)[1:], strict=False):
            assert not right[2:].any()
            assert left[..., 2:].any()
            assert right.grad[2:].any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cell": "lstm"}, "cell gru, not lstm"),
        ({"in_modes": "2x2x6x3"}, "in_modes 2x2x2x9, not 2x2x6x3"),
        ({"hidden_modes": "2x4x2x1"}, "hidden_modes 2x2x2x2, not 2x4x2x1"),
        ({"classes": ("walk", "dive")}, r"classes .*'swing'\), not \('walk', 'dive'\)"),
        ({"width": 3, "height": 8, "in_modes": "2x2x2x9"}, "width 6, not 3, height 4, not 8"),
        ({"num_layers": 2, "pooling": "mean"}, "num_layers 1, not 2, pooling last, not mean"),
        ({"input": "dense", "hidden_modes": "8"}, "hidden_size 16, not 8"),
    ],
    ids=str,
)
def test_what_ranks_can_not_bridge_is_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        changed(make(), **values)

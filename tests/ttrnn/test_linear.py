import copy
import pickle

import pytest
import torch

from ttrnn.linear import TTLinear
from ttrnn.recurrent import TTGRU
from ttrnn.reference import dense_matrix


def make(**kwargs):
    torch.manual_seed(0)
    layer = TTLinear((4, 3, 6), (2, 3, 2), 3, dtype=torch.float64, **kwargs)
    if layer.bias is not None:
        torch.nn.init.normal_(layer.bias)
    return layer


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(
    "normalisation",
    [{}, {"scale": 0.1}, {"mean": 100.0, "scale": 0.02}, {"mean": [90.0, 120.0, 100.0], "scale": 0.02}],
    ids=["none", "scale", "mean", "channel means"],
)
def test_to_dense_gives_equal_outputs_and_gradients(bias, normalisation):
    layer = make(bias=bias, **normalisation)
    dense = layer.to_dense()
    x = torch.rand(5, 72, dtype=torch.float64) * 200
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-10, atol=1e-10)
    one, other = (x.clone().requires_grad_() for _ in range(2))
    layer(one).sin().sum().backward()
    dense(other).sin().sum().backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-10)
    if bias:
        torch.testing.assert_close(layer.bias.grad, dense.bias.grad, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("leading", [(), (5,), (2, 3), (2, 1, 3)], ids=str)
def test_any_number_of_leading_axes(leading):
    layer = make()
    assert layer(torch.zeros(*leading, 72, dtype=torch.float64)).shape == (*leading, 12)


def test_several_inputs_give_the_rows_of_all_one_after_the_other():
    layer = make(mean=100.0, scale=0.02)
    inputs = [torch.randint(0, 256, (*leading, 72), dtype=torch.uint8) for leading in ((3,), (2, 2), (1,))]
    expected = torch.cat([layer(part).view(-1, 12) for part in inputs])
    torch.testing.assert_close(layer(inputs), expected)
    with pytest.raises(ValueError, match=r"got shape \(5, 71\)"):
        layer([inputs[0], torch.zeros(5, 71, dtype=torch.uint8)])


def test_uint8_frames_are_normalised_by_the_layer():
    layer = make(mean=[90.0, 120.0, 100.0], scale=1 / 55)
    frames = torch.randint(0, 256, (7, 72), dtype=torch.uint8)
    by_hand = (frames.double().view(7, 24, 3) - torch.tensor([90.0, 120.0, 100.0])) / 55
    torch.testing.assert_close(layer(frames), by_hand.view(7, 72) @ layer.weight.t() + layer.bias)


def test_outputs_start_with_unit_variance_for_the_data_s_mean_and_scale():
    torch.manual_seed(0)
    layer = TTLinear((8, 8, 8, 8), (4, 4, 4, 4), 4, mean=110.0, scale=1 / 60)
    frames = (110 + 60 * torch.randn(200, 4096)).clamp(0, 255).round().to(torch.uint8)
    assert 0.8 < layer(frames).std().item() < 1.2


def test_wrong_input_size_is_refused_with_the_values():
    with pytest.raises(ValueError, match=r"72 .*4x3x6.* got shape \(5, 71\)"):
        make()(torch.zeros(5, 71))


def test_channels_that_do_not_divide_the_frame_are_refused():
    with pytest.raises(ValueError, match="5 channels"):
        make(mean=[1.0] * 5)


def test_lives_as_a_module_does():
    layer = make(mean=100.0)
    x = torch.rand(3, 72, dtype=torch.float64)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(twin(x), layer(x), rtol=0, atol=0)
    other = TTLinear((4, 3, 6), (2, 3, 2), 3, mean=100.0)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other.double()(x), layer(x), rtol=1e-5, atol=1e-5)
    assert sorted(layer.state_dict()) == ["bias", "cores.0", "cores.1", "cores.2"]
    assert layer.float()(x.float()).dtype == torch.float32


def test_parameters_are_counted():
    layer = make()
    assert layer.num_params == sum(p.numel() for p in layer.parameters()) == layer.shape.num_params + 12
    assert "fewer" in repr(layer)


def make_dense(bias=True, dtype=torch.float64):
    torch.manual_seed(1)
    return torch.nn.Linear(72, 12, bias=bias, dtype=dtype)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_from_dense_gives_the_dense_layer_s_outputs(dtype, bias):
    dense = make_dense(bias, dtype)
    layer = TTLinear.from_dense(dense, (4, 3, 6), (2, 3, 2), relative_error=1e-7)
    assert {parameter.dtype for parameter in layer.parameters()} == {dtype}
    assert (layer.bias is None) == (not bias)
    x = torch.randn(5, 72, dtype=dtype)
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-5, atol=1e-5)
    before = layer(x)
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.zero_()
    assert torch.equal(layer(x), before)


def test_from_dense_keeps_the_error_asked_for_with_fewer_weights():
    dense = make_dense()
    layer = TTLinear.from_dense(dense, (4, 3, 6), (2, 3, 2), relative_error=0.5)
    assert torch.dist(layer.weight, dense.weight) <= 0.5 * dense.weight.norm()
    assert layer.shape.num_params < dense.weight.numel()
    assert TTLinear.from_dense(dense, (4, 3, 6), (2, 3, 2), 2).shape.ranks == (2, 2)


def test_from_dense_puts_normalisation_before_a_layer_trained_on_normalised_frames():
    dense = make_dense()
    layer = TTLinear.from_dense(dense, (4, 3, 6), (2, 3, 2), relative_error=0, mean=[90.0, 120.0, 100.0], scale=1 / 55)
    frames = torch.randint(0, 256, (7, 72), dtype=torch.uint8)
    by_hand = (frames.double().view(7, 24, 3) - torch.tensor([90.0, 120.0, 100.0])) / 55
    torch.testing.assert_close(layer(frames), dense(by_hand.view(7, 72)))


def test_from_dense_undoes_to_dense():
    layer = make(mean=100.0, scale=0.02)
    back = TTLinear.from_dense(layer.to_dense(), (4, 3, 6), (2, 3, 2), 3)
    x = torch.rand(5, 72, dtype=torch.float64) * 200
    torch.testing.assert_close(back(x), layer(x), rtol=1e-9, atol=1e-9)


def test_from_dense_refuses_modes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"prod\(in_modes\)=70 .* but a row of the weight has 72 values; try"):
        TTLinear.from_dense(make_dense(), (7, 10), (4, 3), 2)


def test_a_rounded_layer_is_the_rounded_matrix_in_outputs_and_gradients():
    layer = make(mean=100.0, scale=0.02)
    before, bias = layer.weight.detach(), layer.bias
    error = layer.round_(2)
    assert layer.shape.ranks == (2, 2)
    assert torch.dist(layer.weight, before).item() == pytest.approx(error * before.norm().item(), rel=1e-9)
    assert layer.bias is bias
    assert layer.num_params == sum(p.numel() for p in layer.parameters()) < make().num_params
    x = torch.rand(5, 72, dtype=torch.float64) * 200
    twins = [core.detach().clone().requires_grad_() for core in layer.cores]
    expected = (x - 100) * 0.02 @ dense_matrix(twins).t() + bias.detach()
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)
    layer(x).sin().sum().backward()
    expected.sin().sum().backward()
    for core, twin in zip(layer.cores, twins, strict=True):
        torch.testing.assert_close(core.grad, twin.grad, rtol=1e-9, atol=1e-10)


def test_rounding_keeps_the_error_asked_for_and_tells_it():
    layer = make()
    before = layer.weight.detach()
    assert layer.round_(relative_error=0) < 1e-12
    assert layer.shape.ranks == (3, 3)
    error = layer.round_(relative_error=0.6)
    assert layer.shape.ranks < (3, 3)
    assert torch.dist(layer.weight, before).item() == pytest.approx(error * before.norm().item(), rel=1e-9)
    assert 0 < error <= 0.6


def test_a_rounded_layer_lives_as_a_module_does():
    layer = make(mean=100.0)
    layer.cores[1].requires_grad_(False)
    names = list(layer.state_dict())
    layer.float().round_(2)
    assert [core.requires_grad for core in layer.cores] == [True, False, True]
    assert {core.dtype for core in layer.cores} == {torch.float32}
    assert list(layer.state_dict()) == names
    assert "ranks 2x2" in repr(layer)
    other = TTLinear((4, 3, 6), (2, 3, 2), 2, mean=100.0)
    other.load_state_dict(layer.state_dict())
    x = torch.rand(3, 72)
    for twin in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))


def test_a_recurrent_layer_stays_whole_when_its_input_matrix_is_rounded():
    torch.manual_seed(0)
    gru = TTGRU((4, 3, 6), (2, 3, 2), ranks=4, batch_first=True, mean=3.0, scale=0.5, dtype=torch.float64)
    assert 0 < gru.ih_l0.round_(2) < 1
    other = TTGRU((4, 3, 6), (2, 3, 2), ranks=2, batch_first=True, mean=3.0, scale=0.5, dtype=torch.float64)
    other.load_state_dict(gru.state_dict())
    assert (gru.input_params, gru.num_params) == (other.input_params, other.num_params)
    x = torch.randn(2, 5, 72, dtype=torch.float64)
    output, h_n = gru(x)
    for twin in (other, gru.to_dense()):
        theirs, last = twin(x)
        torch.testing.assert_close(output, theirs, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(h_n, last, rtol=1e-10, atol=1e-12)
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in gru.parameters())


def test_compute_dtype_reaches_the_products_and_nothing_else():
    layer = make(mean=100.0, scale=1 / 50).float()
    frames = torch.randint(0, 256, (50, 72), dtype=torch.uint8)
    expected = layer(frames)
    layer.compute_dtype = torch.bfloat16
    y = layer(frames)
    assert y.dtype == torch.float32
    assert 0 < (y - expected).norm() / expected.norm() < 0.05
    y.sum().backward()
    assert {parameter.grad.dtype for parameter in layer.parameters()} == {torch.float32}
    assert torch.equal(copy.deepcopy(layer)(frames), y)


def test_plan_is_shown_and_follows_what_is_asked():
    layer = TTLinear((8, 20, 20, 18), (16, 4, 4, 4), 4, compute_dtype=torch.bfloat16)
    assert "merged to (8 -> 16) (20 -> 4) (20x18 -> 4x4), 3,883,008 MACs a row" in repr(layer)
    assert len(layer.plan(num_rows=1).groups) == 4
    assert layer.plan(input_gradient=True).cost > layer.plan().cost


@pytest.mark.parametrize("compute_dtype", ["bfloat16", torch.int8, torch.float8_e4m3fn], ids=str)
def test_a_compute_dtype_that_cannot_be_is_refused(compute_dtype):
    with pytest.raises(ValueError, match="compute_dtype must be None or a floating dtype of 2 bytes or more, got"):
        make(compute_dtype=compute_dtype)

import copy
import pickle

import pytest
import torch

from ttrnn.linear import TTLinear


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


def test_uint8_frames_are_normalised_by_the_layer():
    layer = make(mean=[90.0, 120.0, 100.0], scale=1 / 55)
    frames = torch.randint(0, 256, (7, 72), dtype=torch.uint8)
    by_hand = (frames.double().view(7, 24, 3) - torch.tensor([90.0, 120.0, 100.0])) / 55
    torch.testing.assert_close(layer(frames), by_hand.view(7, 72) @ layer.weight().t() + layer.bias)


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

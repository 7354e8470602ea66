"""Every precision gives what float64 gives, as near as its bits allow: outputs and the gradient of every parameter."""

import contextlib

import pytest
import torch

from ttrnn.contract import tt_product
from ttrnn.linear import TTLinear
from ttrnn.recurrent import TTGRU, TTLSTM, TTRNN
from ttrnn.scan import scan
from ttrnn.shapes import NUM_GATES, TTShape

CELLS = {"rnn": TTRNN, "gru": TTGRU, "lstm": TTLSTM}
# Relative errors: 24, 8 and 11 bits, and what a few layers of rounding make of them.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.04, torch.float16: 0.01}
LOW = [torch.bfloat16, torch.float16]
WAYS = [("parameters", dtype) for dtype in TOLERANCES] + [
    (way, dtype) for way in ("autocast", "compute") for dtype in LOW
]


def relative(actual, expected):
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


def make(cell, **kwargs):
    torch.manual_seed(0)
    return CELLS[cell]((8, 6, 8), (2, 4, 2), 3, batch_first=True, mean=110.0, scale=1 / 60, **kwargs)


@pytest.mark.parametrize("recurrent_ranks", [None, 2], ids=["dense", "tt recurrent"])
@pytest.mark.parametrize(("way", "dtype"), WAYS, ids=[f"{way} {str(dtype)[6:]}" for way, dtype in WAYS])
@pytest.mark.parametrize("cell", CELLS)
def test_outputs_and_every_gradient_are_those_of_float64(cell, way, dtype, recurrent_ranks):
    layer = make(cell, recurrent_ranks=recurrent_ranks)
    frames = torch.randint(0, 256, (5, 7, 384), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    if way == "parameters":
        layer = layer.to(dtype)
    exact = make(cell, recurrent_ranks=recurrent_ranks).double()
    exact.load_state_dict(layer.state_dict())
    layer.compute_dtype = dtype if way == "compute" else None
    context = torch.autocast("cpu", dtype) if way == "autocast" else contextlib.nullcontext()
    results = []
    for network, around in ((layer, context), (exact, contextlib.nullcontext())):
        with around:
            output, _ = network(frames, lengths=[7, 3, 5, 7, 1])
        # float16 must keep what is far below its smallest number of full precision: no loss scaling is in play.
        weights = torch.linspace(-1e-4, 1e-4, output.numel()).view(output.shape).to(output.dtype)
        (output * weights).sum().backward()
        results.append({"output": output} | {name: p.grad for name, p in network.named_parameters()})
    for name, expected in results[1].items():
        assert relative(results[0][name], expected) < TOLERANCES[dtype], name


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_parameters_in_half_precision_get_sums_over_blocks_in_float32(dtype, monkeypatch):
    """Of 100,000 ones bfloat16 makes 16,384 where it sums them one by one."""
    monkeypatch.setattr("ttrnn.planner._BLOCK_BYTES", {"cpu": 128, "cuda": 128})
    shape = TTShape((4,), (2,), ())
    core = torch.zeros(shape.core_shapes[0], dtype=dtype, requires_grad=True)
    tt_product(torch.ones(20_000, 4, dtype=dtype), [core], shape).sum().backward()
    torch.testing.assert_close(core.grad.float(), torch.full_like(core, 20_000.0).float(), rtol=0.01, atol=0)


@pytest.fixture(scope="module")
def bytes_and_products():
    """Weights; random frames, and frames that are nearly alike, in bytes; the products of both in float64."""
    torch.manual_seed(0)
    layer = TTLinear((8, 20, 20, 18), (16, 4, 4, 4), 4, mean=110.0, scale=1 / 60)
    frames = (110 + 60 * torch.randn(32, 57_600)).clamp(0, 255).round().to(torch.uint8)
    still = frames[:1].expand(8, -1).clone()
    still[1:, :2000] = 0
    with torch.no_grad():
        dense = layer.to_dense().double()
        return dict(layer.state_dict()), frames, dense(frames.double()), still, dense(still[:2].double())


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_bytes_lose_no_more_than_the_same_pixels_around_zero(dtype, bytes_and_products):
    """Bytes multiplied as they are, their mean subtracted afterwards, would cost half of the precision."""
    weights, frames, exact, still, exact_still = bytes_and_products
    layer = TTLinear((8, 20, 20, 18), (16, 4, 4, 4), 4, mean=110.0, scale=1 / 60, compute_dtype=dtype)
    centred = TTLinear((8, 20, 20, 18), (16, 4, 4, 4), 4, mean=-18.0, scale=1 / 60, compute_dtype=dtype)
    for one in (layer, centred):
        one.load_state_dict(weights)
    errors = [relative(layer(frames), exact), relative(centred(frames.float() - 128), exact)]
    assert errors[0] < 1.1 * errors[1]
    products = layer(still)
    moved = products[1:] - products[:1]
    # Between frames that are nearly alike the roundings of what they share must not drown the difference.
    assert relative(moved, exact_still.diff(dim=0).expand(7, -1)) < 0.04


@pytest.mark.parametrize("num_steps", [40, 500])
@pytest.mark.parametrize("cell", NUM_GATES)
def test_gradients_that_fade_over_time_leave_no_denormal_numbers(cell, num_steps):
    torch.manual_seed(0)
    size, tiny = 16, torch.finfo(torch.float32).tiny
    gates = torch.randn(num_steps * 4, NUM_GATES[cell] * size, requires_grad=True)
    weight = (0.2 * torch.randn(NUM_GATES[cell] * size, size)).requires_grad_()
    state = tuple(torch.zeros(4, size) for _ in range(2 if cell == "lstm" else 1))
    _, final = scan(cell, gates, weight, state, [4] * num_steps)
    (gradient,) = torch.autograd.grad(final[0].sum(), gates)
    assert gradient[-4:].abs().min() > 0
    denormal = (gradient != 0) & (gradient.abs() < tiny)
    assert denormal.sum() <= 1e-3 * gradient.numel()
    assert not gradient[: 4 * (num_steps - 400)].any() or num_steps < 400


@pytest.mark.parametrize("cell", NUM_GATES)
def test_a_late_loss_is_carried_back_only_as_far_as_it_reaches_and_an_early_one_is_not_forgotten(cell):
    """Spans in which nothing flows are skipped, and those before them are not, if a loss looks at them."""
    torch.manual_seed(0)
    size, num_steps = 8, 300
    gates = torch.randn(num_steps * 3, NUM_GATES[cell] * size, dtype=torch.float64, requires_grad=True)
    weight = (0.05 * torch.randn(NUM_GATES[cell] * size, size, dtype=torch.float64)).requires_grad_()
    state = tuple(torch.zeros(3, size, dtype=torch.float64) for _ in range(2 if cell == "lstm" else 1))
    early = torch.zeros(num_steps * 3, size, dtype=torch.float64)
    early[20:23] = 1.0
    states, final = scan(cell, gates, weight, state, [3] * num_steps)
    both = torch.autograd.grad((states * early).sum() + final[0].sum(), (gates, weight), retain_graph=True)
    alone = torch.autograd.grad((states * early).sum(), (gates, weight), retain_graph=True)
    late = torch.autograd.grad(final[0].sum(), (gates, weight))
    for whole, one, other in zip(both, alone, late, strict=True):
        torch.testing.assert_close(whole, one + other, rtol=1e-9, atol=1e-12)
    assert alone[0][:23].abs().sum() > 0
    assert not alone[0][60:].any()


def test_blocks_without_gradient_are_skipped(monkeypatch):
    monkeypatch.setattr("ttrnn.planner._BLOCK_BYTES", {"cpu": 4000, "cuda": 4000})
    shape = TTShape((4, 5), (2, 3), 2)
    cores = [torch.randn(size, requires_grad=True) for size in shape.core_shapes]
    y = tt_product(torch.randn(400, 20), cores, shape)
    grad = torch.zeros_like(y)
    grad[350:] = 1.0
    multiplied, addmm_ = [], torch.Tensor.addmm_
    monkeypatch.setattr("torch.Tensor.addmm_", lambda *args: multiplied.append(len(args[2])) or addmm_(*args))
    some = torch.autograd.grad(y, cores, grad, retain_graph=True)
    num_some = len(multiplied)
    torch.autograd.grad(y, cores, torch.ones_like(y))
    assert 0 < num_some < (len(multiplied) - num_some) / 2
    expected = torch.autograd.grad((tt_product(torch.randn(1, 20), cores, shape)).sum(), cores)
    assert all(gradient.shape == other.shape and gradient.any() for gradient, other in zip(some, expected, strict=True))


BAD_INPUT = {
    "int64": (torch.zeros(2, 3, 384, dtype=torch.int64), "torch.int64"),
    "int8": (torch.zeros(2, 3, 384, dtype=torch.int8), "torch.int8"),
    "bool": (torch.zeros(2, 3, 384, dtype=torch.bool), "torch.bool"),
    "complex64": (torch.zeros(2, 3, 384, dtype=torch.complex64), "torch.complex64"),
    "float64": (torch.zeros(2, 3, 384, dtype=torch.float64), "torch.float64.*torch.float32"),
}


@pytest.mark.parametrize(("frames", "words"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_types_that_are_no_frames_are_refused_by_name(frames, words):
    with pytest.raises(ValueError, match=words):
        make("gru")(frames)
    with pytest.raises(ValueError, match=words):
        TTLinear((8, 6, 8), (2, 4, 2), 3)(frames)


def test_an_empty_list_and_an_order_for_several_tensors_are_refused():
    shape = TTShape((4,), (2,), ())
    core = torch.zeros(shape.core_shapes[0])
    with pytest.raises(ValueError, match="empty list"):
        tt_product([], [core], shape)
    with pytest.raises(ValueError, match="empty list"):
        TTLinear((8, 6, 8), (2, 4, 2), 3)([])
    with pytest.raises(ValueError, match="got 2 tensors"):
        tt_product([torch.zeros(1, 4)] * 2, [core], shape, order=torch.tensor([0]))

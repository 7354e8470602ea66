import pytest
import torch

from ttrnn.contract import dense_weight, tt_product
from ttrnn.planner import Plan, groupings
from ttrnn.reference import dense_matrix
from ttrnn.shapes import TTShape

# in_modes, out_modes, ranks
SHAPES = {
    "paper-like": ((2, 4, 3, 3), (6, 2, 2, 1), 3),
    "primes": ((7, 5), (3, 5), 2),
    "modes of 1": ((1, 6, 1, 4), (3, 1, 1, 2), 2),
    "ranks of 1": ((3, 4, 5), (2, 2, 2), 1),
    "uneven ranks": ((3, 4, 3), (2, 2, 2), (5, 2)),
    "rank above the limit": ((2, 3), (2, 2), 50),
    "one mode": ((7,), (5,), ()),
    "eight modes": ((2, 1, 2, 2, 1, 2, 2, 2), (2, 1, 1, 1, 2, 1, 2, 1), 2),
    "wide output": ((2, 2), (9, 8), 3),
    "everything 1": ((1, 1), (1, 1), 1),
}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


def make(name, dtype=torch.float64, rows=6):
    generator = torch.Generator().manual_seed(0)
    shape = TTShape(*SHAPES[name])
    cores = [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shape.core_shapes]
    x = torch.randn(rows, shape.in_features, generator=generator, dtype=dtype)
    return shape, cores, x


def assert_close(actual, expected, dtype, what):
    error = (actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
    assert error < TOLERANCE[dtype], f"{what}: relative error {error:.3g}"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    # Several blocks and a smaller last one, even for a handful of rows.
    monkeypatch.setattr("ttrnn.planner._BLOCK_BYTES", {"cpu": 1500, "cuda": 1500})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("rows", [1, 6, 50], ids="{} rows".format)
@pytest.mark.parametrize("name", SHAPES)
def test_product_and_every_gradient_equal_the_dense_matrix(name, rows, dtype):
    shape, cores, x = make(name, dtype, rows)
    x.requires_grad_()
    twins = [core.detach().clone().requires_grad_() for core in cores]
    x_twin = x.detach().clone().requires_grad_()
    weights = torch.randn(rows, shape.out_features, dtype=dtype, generator=torch.Generator().manual_seed(1))

    y = tt_product(x, cores, shape)
    expected = x_twin @ dense_matrix(twins).t()
    assert_close(y, expected, dtype, "output")
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    assert_close(x.grad, x_twin.grad, dtype, "gradient of the input")
    for number, (core, twin) in enumerate(zip(cores, twins, strict=True)):
        assert_close(core.grad, twin.grad, dtype, f"gradient of core {number}")


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "computed again"])
@pytest.mark.parametrize("name", ["paper-like", "modes of 1", "eight modes"])
def test_every_grouping_gives_the_same_product_and_gradients(name, keep, monkeypatch):
    shape, cores, x = make(name)
    x.requires_grad_()
    expected = x @ dense_matrix(cores).t()
    expected_gradients = torch.autograd.grad(expected.square().sum(), (x, *cores))
    seen = 0
    for groups in groupings(shape):
        monkeypatch.setattr("ttrnn.contract.plan", lambda *_, groups=groups, **__: Plan(groups, keep, 0))
        y = tt_product(x, cores, shape)
        what = f"cores {[group.cores for group in groups]}"
        assert_close(y, expected, torch.float64, what)
        gradients = torch.autograd.grad(y.square().sum(), (x, *cores))
        for gradient, twin in zip(gradients, expected_gradients, strict=True):
            assert_close(gradient, twin, torch.float64, what)
        seen += 1
    assert seen == 2 ** (shape.num_cores - 1)


def test_uint8_rows_give_what_their_float_copy_gives():
    shape, cores, _ = make("paper-like")
    frames = torch.randint(
        0, 256, (40, shape.in_features), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    outputs = []
    for x in (frames, frames.double()):
        y = tt_product(x, cores, shape)
        outputs.append([y, *torch.autograd.grad(y.square().sum(), cores)])
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_rows_need_not_be_contiguous():
    shape, cores, x = make("primes", rows=8)
    expected = x[::2] @ dense_matrix(cores).t()
    assert_close(tt_product(x[::2], cores, shape), expected, torch.float64, "every second row")
    transposed = x.t().contiguous().t()
    assert_close(tt_product(transposed, cores, shape)[::2], expected, torch.float64, "columns first")


@pytest.mark.parametrize("name", ["paper-like", "one mode", "modes of 1"])
def test_gradcheck(name):
    shape, cores, x = make(name, rows=2)
    assert torch.autograd.gradcheck(lambda x, *cores: tt_product(x, cores, shape), (x.requires_grad_(), *cores))


def test_double_backward_is_refused():
    shape, cores, x = make("primes")
    (gradient,) = torch.autograd.grad(tt_product(x, cores, shape).square().sum(), cores[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_gradient_of_the_input_is_not_computed_unasked():
    shape, cores, x = make("primes")
    tt_product(x, cores, shape).sum().backward()
    assert x.grad is None


def test_autocast_gives_half_precision_near_the_full_one():
    shape, cores, x = make("paper-like", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = tt_product(x, cores, shape)
    assert y.dtype == torch.bfloat16
    expected = tt_product(x, cores, shape)
    assert (y.float() - expected).norm() < 0.02 * expected.norm()
    y.float().sum().backward()
    assert all(core.grad.dtype == torch.float32 for core in cores)


@pytest.mark.parametrize("name", SHAPES)
def test_dense_weight_is_the_reference_matrix(name):
    shape, cores, _ = make(name)
    weight = dense_weight(cores)
    assert weight.shape == (shape.out_features, shape.in_features)
    assert_close(weight, dense_matrix(cores), torch.float64, "weight")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", SHAPES)
def test_product_on_cuda_equals_the_cpu(name):
    shape, cores, x = make(name, rows=20)
    y = tt_product(x.cuda(), [core.cuda() for core in cores], shape)
    assert_close(y.cpu(), tt_product(x, cores, shape), torch.float64, "output")

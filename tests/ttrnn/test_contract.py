from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ttrnn import contract
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
@pytest.mark.parametrize("rows", [1, 50], ids="{} rows".format)
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
    seen = set()
    for groups in groupings(shape):
        monkeypatch.setattr("ttrnn.contract.plan", lambda *_, groups=groups, **__: Plan(groups, keep, 0))
        y = tt_product(x, cores, shape)
        what = f"cores {[group.cores for group in groups]}"
        assert_close(y, expected, torch.float64, what)
        gradients = torch.autograd.grad(y.square().sum(), (x, *cores))
        for gradient, twin in zip(gradients, expected_gradients, strict=True):
            assert_close(gradient, twin, torch.float64, what)
        seen.add(len(groups))
    assert seen == {1, 2, 3, 4, shape.num_cores}


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8], ids=str)
def test_rows_are_taken_in_any_order_and_those_left_out_get_no_gradient(dtype):
    shape, cores, x = make("paper-like", rows=40)
    x = (x * 50).to(dtype)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))[:25]
    if dtype.is_floating_point:
        x.requires_grad_()
    inputs = [part for part in (x, *cores) if part.requires_grad]
    y, expected = tt_product(x, cores, shape, order=order), tt_product(x[order], cores, shape)
    assert torch.equal(y, expected)
    gradients = torch.autograd.grad(y.square().sum(), inputs)
    for gradient, twin in zip(gradients, torch.autograd.grad(expected.square().sum(), inputs), strict=True):
        assert_close(gradient, twin, torch.float64, "gradient")


@pytest.mark.parametrize("counts", [[40], [1, 39], [13, 0, 20, 7], [0, 40, 0], [1] * 40], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8], ids=str)
def test_rows_in_several_tensors_give_what_they_give_in_one(dtype, counts):
    shape, cores, x = make("paper-like", rows=40)
    x = (x * 50).to(dtype)
    if dtype.is_floating_point:
        x.requires_grad_()
    inputs = [part for part in (x, *cores) if part.requires_grad]
    y, expected = tt_product(x.split(counts), cores, shape), tt_product(x, cores, shape)
    assert torch.equal(y, expected)
    gradients = torch.autograd.grad(y.square().sum(), inputs)
    for gradient, twin in zip(gradients, torch.autograd.grad(expected.square().sum(), inputs), strict=True):
        assert torch.equal(gradient, twin)


def test_only_the_parts_that_want_a_gradient_get_one():
    shape, cores, x = make("paper-like", rows=40)
    first, second = x[:15].clone(), x[15:].clone().requires_grad_()
    tt_product([first, second], cores, shape).square().sum().backward()
    twin = x.clone().requires_grad_()
    tt_product(twin, cores, shape).square().sum().backward()
    assert first.grad is None
    assert_close(second.grad, twin.grad[15:], torch.float64, "gradient")


@pytest.mark.parametrize("name", ["paper-like", "one mode", "modes of 1"])
def test_gradcheck(name):
    shape, cores, x = make(name, rows=2)
    assert torch.autograd.gradcheck(lambda x, *cores: tt_product(x, cores, shape), (x.requires_grad_(), *cores))


def test_double_backward_is_refused():
    shape, cores, x = make("primes")
    (gradient,) = torch.autograd.grad(tt_product(x, cores, shape).square().sum(), cores[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_only_the_gradients_that_are_wanted_are_computed(monkeypatch):
    shape, cores, x = make("paper-like", rows=40)
    (groups,) = [groups for groups in groupings(shape) if len(groups) == 4]
    monkeypatch.setattr("ttrnn.contract.plan", lambda *_, **__: Plan(groups, True, 0))
    multiplied = []
    mm, addmm_ = torch.mm, torch.Tensor.addmm_
    monkeypatch.setattr("torch.mm", lambda *args, **kwargs: multiplied.append("mm") or mm(*args, **kwargs))
    monkeypatch.setattr("torch.Tensor.addmm_", lambda *args: multiplied.append("addmm") or addmm_(*args))
    bias = torch.zeros(shape.out_features, dtype=torch.float64, requires_grad=True)
    frozen = [core.detach() for core in cores]
    counts = {}
    for name, at in (("bias", []), ("first core", [0]), ("last core", [3]), ("all", [0, 1, 2, 3])):
        chosen = [core if number in at else frozen[number] for number, core in enumerate(cores)]
        y = tt_product(x, chosen, shape, bias)
        multiplied.clear()
        y.sum().backward()
        counts[name] = multiplied.count("mm"), multiplied.count("addmm")
    num_blocks = counts["all"][1] // 4
    # Gradients of G, four a block; those of what lies between, three: never that of the rows themselves.
    assert counts["all"] == (3 * num_blocks, 4 * num_blocks)
    assert counts["first core"] == (0, num_blocks)
    assert counts["last core"] == (3 * num_blocks, num_blocks)
    assert counts["bias"] == (0, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_that_have_vanished_are_dropped_and_others_are_not(dtype):
    shape, cores, x = make("paper-like", dtype, rows=3)
    tiny = torch.finfo(dtype).tiny
    y = tt_product(x, cores, shape)
    for scale, alive in ((tiny, False), (1e12 * tiny, True)):
        gradients = torch.autograd.grad(y, cores, torch.full_like(y, scale), retain_graph=True)
        assert [bool(gradient.any()) for gradient in gradients] == [alive] * 4
    (gradient,) = torch.autograd.grad(y, cores[:1], torch.full_like(y, float("nan")))
    assert gradient.isnan().all()


def test_no_rows_at_all():
    shape, cores, x = make("paper-like", rows=0)
    y = tt_product(x, cores, shape)
    assert y.shape == (0, shape.out_features)
    assert not any(gradient.any() for gradient in torch.autograd.grad(y.sum(), cores))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_mean_is_subtracted_by_the_matrix_that_multiplies_the_rows(dtype):
    """Rows that are the mean give the bias, however the matrix was rounded."""
    shape, cores, _ = make("paper-like")
    mean = torch.full((shape.in_features,), 112.0, dtype=torch.float64)
    bias = torch.randn(shape.out_features, dtype=torch.float64, requires_grad=True)
    frames = torch.randint(0, 256, (30, shape.in_features), dtype=torch.uint8)
    if dtype == torch.float64:
        y, expected = tt_product(frames, cores, shape, bias, mean=mean), tt_product(frames - mean, cores, shape, bias)
        assert_close(y, expected, dtype, "output")
        gradients = torch.autograd.grad(y.square().sum(), (*cores, bias))
        twins = torch.autograd.grad(expected.square().sum(), (*cores, bias))
        for gradient, twin in zip(gradients, twins, strict=True):
            assert_close(gradient, twin, dtype, "gradient")
    else:
        full = tt_product(mean.unsqueeze(0), cores, shape)
        y = tt_product(mean.unsqueeze(0), cores, shape, bias, mean=mean, dtype=dtype)
        assert (y - bias).norm() < 0.01 * full.norm()


def test_bfloat16_products_give_full_precision_results_near_the_full_ones():
    shape, cores, _ = make("paper-like", torch.float32)
    frames = torch.randint(0, 256, (50, shape.in_features), dtype=torch.uint8)
    bias = torch.randn(shape.out_features, requires_grad=True)
    expected = tt_product(frames, cores, shape, bias)
    weights = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), (*cores, bias))
    y = tt_product(frames, cores, shape, bias, dtype=torch.bfloat16)
    assert y.dtype == torch.float32
    error = (y - expected).norm() / expected.norm()
    # 8 bits: some error, but not more than the roundings of the cores, of what lies between and of the sums.
    assert 0 < error < 0.02
    for gradient, twin in zip(
        torch.autograd.grad((y * weights).sum(), (*cores, bias)), expected_gradients, strict=True
    ):
        assert gradient.dtype == torch.float32
        assert (gradient - twin).norm() < 0.02 * twin.norm()


@pytest.fixture
def poisoned():
    """Memory that nobody has written to is NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("counts", [[1], [15], [16], [17], [9, 24], [70, 30]], ids=str)
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "computed again"])
def test_rows_that_do_not_fill_a_tile_of_half_precision_leave_no_trace(counts, keep, monkeypatch, poisoned):
    shape, cores, x = make("paper-like", torch.float32, sum(counts))
    (groups,) = [groups for groups in groupings(shape) if len(groups) == 4]
    monkeypatch.setattr("ttrnn.contract.plan", lambda *_, **__: Plan(groups, keep, 0))
    parts = [part.requires_grad_() for part in x.split(counts)]
    weights = torch.randn(sum(counts), shape.out_features)
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        y = tt_product(parts, cores, shape, dtype=dtype)
        assert y.shape == weights.shape
        results.append([y, *torch.autograd.grad((y * weights).sum(), [*parts, *cores])])
    for one, other in zip(*results, strict=True):
        assert (one - other).norm() < 0.03 * other.norm()


def test_half_precision_meets_few_numbers_of_rows(monkeypatch):
    """Kernels are compiled for each: clips of unequal length would pay for that in every step."""
    shape, cores, x = make("paper-like", torch.float32, rows=200)
    monkeypatch.setattr("ttrnn.planner._BLOCK_BYTES", {"cpu": 1 << 20, "cuda": 1 << 20})
    (groups,) = [groups for groups in groupings(shape) if len(groups) == 2 and len(groups[0].cores) == 2]
    monkeypatch.setattr("ttrnn.contract.plan", lambda *_, **__: Plan(groups, True, 0))
    sizes, mm = set(), torch.mm
    monkeypatch.setattr("torch.mm", lambda a, b, **out: sizes.add((*a.shape, *b.shape)) or mm(a, b, **out))
    counts = {}
    for rows in range(1, 201):
        tt_product(x[:rows], cores, shape, dtype=torch.bfloat16).sum().backward()
        counts[rows] = len(sizes)
    assert counts[200] == 13 * counts[16]
    assert counts[16] == counts[1]


def test_autocast_gives_half_precision_near_the_full_one():
    shape, cores, x = make("paper-like", torch.float32, rows=200)
    expected = tt_product(x, cores, shape)
    expected_gradients = torch.autograd.grad(expected.sum(), cores)
    with torch.autocast("cpu", torch.bfloat16):
        y = tt_product(x, cores, shape)
        gradients = torch.autograd.grad(y.float().sum(), cores)
    assert y.dtype == torch.bfloat16
    assert (y.float() - expected).norm() < 0.02 * expected.norm()
    for gradient, twin in zip(gradients, expected_gradients, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - twin).norm() < 0.02 * twin.norm()


def test_gradients_are_summed_in_full_precision_however_many_blocks():
    """In bfloat16 a sum of many equal blocks would stop growing at 256 of them."""
    shape = TTShape((4,), (2,), ())
    core = torch.zeros(shape.core_shapes[0], requires_grad=True)
    ones = torch.ones(400_000, 4)
    y = tt_product(ones, [core], shape, dtype=torch.bfloat16)
    y.sum().backward()
    torch.testing.assert_close(core.grad, torch.full_like(core, 400_000.0), rtol=0.01, atol=0)


@pytest.mark.parametrize("supported", [True, False], ids=["in hardware", "emulated"])
def test_emulated_bfloat16_is_never_silent(supported, monkeypatch, caplog):
    shape, cores, x = make("primes", torch.float32)
    monkeypatch.setattr("ttrnn.contract.supports_bfloat16", lambda device_type: supported)
    contract._warn_of_emulation.cache_clear()
    with caplog.at_level("WARNING", logger="ttrnn.contract"):
        tt_product(x, cores, shape)
        assert not caplog.records
        for _ in range(3):
            tt_product(x, cores, shape, dtype=torch.bfloat16)
    assert ["bfloat16 is emulated on this cpu" in record.message for record in caplog.records] == [True] * (
        not supported
    )


def test_threads_at_the_same_time_get_what_one_gets_alone():
    shape, cores, x = make("paper-like", rows=60)

    def work(scale):
        y = tt_product(x * scale, cores, shape)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), cores)]

    alone = [work(scale) for scale in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(work, range(1, 9)))
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_gradients_on_cuda_equal_the_cpu(dtype):
    shape, cores, _ = make("paper-like", rows=1)
    frames = torch.randint(0, 256, (50, shape.in_features), dtype=torch.uint8)
    there = [core.detach().cuda().requires_grad_() for core in cores]
    y = tt_product(frames.cuda(), there, shape, dtype=dtype)
    twin = tt_product(frames, cores, shape)
    tolerance = 1e-10 if dtype == torch.float64 else 0.02
    gradients = torch.autograd.grad(y.square().sum(), there)
    for gradient, expected in zip(gradients, torch.autograd.grad(twin.square().sum(), cores), strict=True):
        assert (gradient.cpu() - expected).norm() < tolerance * expected.norm()

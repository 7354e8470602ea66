import itertools

import numpy as np
import pytest
import torch
from tensorly.decomposition import tensor_train_matrix
from tensorly.tt_matrix import tt_matrix_to_matrix

from tests.ttrnn.test_contract import SHAPES
from ttrnn.contract import dense_weight
from ttrnn.decompose import balanced, tt_round, tt_svd
from ttrnn.init import orthogonal_cores_
from ttrnn.shapes import TTShape

MATRICES = ("noise", "decaying", "tensor train and noise", "one entry")


def random(*size, seed=0):
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def train(shape, seed=0):
    """Random cores of these modes and ranks."""
    return [random(*size, seed=seed + k) for k, size in enumerate(shape.core_shapes)]


def matrix(kind, shape):
    n, m = shape.out_features, shape.in_features
    if kind == "noise":
        return 100 * random(n, m)
    if kind == "decaying":
        return 1 / (1 + torch.arange(n, dtype=torch.float64)[:, None] ** 2 + torch.arange(m, dtype=torch.float64))
    if kind == "tensor train and noise":
        weight = dense_weight(train(shape))
        return weight + 1e-3 * weight.std(correction=0) * random(n, m)
    assert kind == "one entry"
    weight = torch.zeros(n, m, dtype=torch.float64)
    weight[n // 2, m // 2] = 3
    return weight


def unfoldings(weight, shape):
    """For each bond the matrix with the modes left of it as rows, written out index by index."""
    d = shape.num_cores
    w = weight.numpy().reshape(shape.out_modes + shape.in_modes)
    for bond in range(1, d):
        left = [axis for k in range(bond) for axis in (k, d + k)]
        right = [axis for k in range(bond, d) for axis in (k, d + k)]
        rows = np.prod([w.shape[axis] for axis in left])
        yield w.transpose(left + right).reshape(rows, -1)


def tails(unfolding):
    """tails[r]: distance to the nearest matrix of rank r."""
    values = np.linalg.svd(unfolding, compute_uv=False)
    return np.append(np.sqrt(np.cumsum(values[::-1] ** 2)[::-1]), 0.0)


def distance(weight, cores):
    return (weight - dense_weight(cores)).norm().item()


def tensorly_cores(weight, shape):
    """tensorly's TT-SVD, which has the input modes first as we have."""
    tensor = weight.t().reshape(shape.in_modes + shape.out_modes).numpy()
    return [torch.tensor(core) for core in tensor_train_matrix(tensor, shape.bonds).factors]


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("name", SHAPES)
def test_the_error_is_the_one_stated_and_within_the_bounds_of_the_unfoldings(name, kind):
    shape = TTShape(*SHAPES[name])
    weight = matrix(kind, shape)
    near = tt_svd(weight, *SHAPES[name])
    error, rounding = distance(weight, near.cores), 1e-13 * weight.norm().item()
    assert near.norm == pytest.approx(weight.norm().item(), rel=1e-12)
    assert near.relative_error * near.norm == pytest.approx(error, rel=1e-9, abs=rounding)
    assert near.shape == TTShape(shape.in_modes, shape.out_modes, near.shape.ranks)
    best = [tails(one)[rank] for one, rank in zip(unfoldings(weight, shape), near.shape.ranks, strict=True)]
    for mine, least in zip(near.bond_errors, best, strict=True):
        assert mine <= least * (1 + 1e-9) + rounding
    # No tensor train of these ranks can be nearer than the worst unfolding allows.
    assert max(best, default=0.0) * (1 - 1e-9) - rounding <= error <= np.sqrt(np.sum(np.square(best))) + rounding


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("name", SHAPES)
def test_given_ranks_are_the_same_tensor_train_as_tensorly_s(name, kind):
    shape = TTShape(*SHAPES[name])
    weight = matrix(kind, shape)
    near, theirs = tt_svd(weight, *SHAPES[name]), tensorly_cores(weight, shape)
    assert [core.shape for core in near.cores] == [core.shape for core in theirs]
    product = torch.tensor(tt_matrix_to_matrix([core.numpy() for core in near.cores])).t()
    torch.testing.assert_close(product, dense_weight(theirs), rtol=0, atol=1e-9 * weight.norm().item())


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("name", SHAPES)
def test_relative_error_is_kept_by_ranks_no_higher_than_an_equal_share_for_each_bond(name, kind):
    shape = TTShape(*SHAPES[name])
    weight = matrix(kind, shape)
    norm, ends = weight.norm().item(), [tails(unfolding) for unfolding in unfoldings(weight, shape)]
    for relative_error in (0.7, 0.1, 1e-2, 1e-6, 0.0):
        near = tt_svd(weight, *SHAPES[name][:2], relative_error=relative_error)
        assert distance(weight, near.cores) <= max(relative_error, 1e-12) * norm
        assert near.relative_error <= max(relative_error, 1e-13)
        share = max(relative_error, 1e-13) * norm / max(1, shape.num_cores - 1) ** 0.5
        for rank, end in zip(near.shape.ranks, ends, strict=True):
            assert rank <= max(1, np.sum(end > share)), f"relative error {relative_error}"


@pytest.mark.parametrize("asked", ["ranks", "relative_error"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_tensor_train_comes_back_exactly_with_its_own_ranks(name, asked):
    shape = TTShape(*SHAPES[name])
    weight = dense_weight(train(shape))
    near = tt_svd(weight, *SHAPES[name][:2], **{asked: shape.ranks if asked == "ranks" else 0.0})
    assert distance(weight, near.cores) < 1e-12 * weight.norm()
    ranks = tuple(np.linalg.matrix_rank(unfolding) for unfolding in unfoldings(weight, shape))
    assert near.shape.ranks == ranks == shape.ranks


def test_the_paper_s_matrix_comes_back_from_float32():
    shape = TTShape((8, 20, 20, 18), (4, 4, 4, 4), 4)
    torch.manual_seed(0)
    cores = [torch.empty(size) for size in shape.core_shapes]
    orthogonal_cores_(cores)
    weight = dense_weight(cores)
    near = tt_svd(weight, shape.in_modes, shape.out_modes, relative_error=1e-5)
    assert near.shape == shape
    assert distance(weight, near.cores) < 1e-6 * weight.norm()


@pytest.mark.parametrize("ranks", [1, 2, 3, 99], ids="ranks {}".format)
@pytest.mark.parametrize("name", SHAPES)
def test_rounding_is_tt_svd_of_the_matrix_multiplied_out(name, ranks):
    shape = TTShape(*SHAPES[name])
    cores = train(shape, seed=5)
    weight = dense_weight(cores)
    lower = TTShape(shape.in_modes, shape.out_modes, [min(ranks, rank) for rank in shape.ranks])
    rounded, svd = tt_round(cores, ranks), tt_svd(weight, lower.in_modes, lower.out_modes, lower.ranks)
    assert rounded.shape == svd.shape
    tiny = 1e-12 * weight.norm().item()
    assert rounded.norm == pytest.approx(weight.norm().item(), rel=1e-12)
    assert rounded.relative_error == pytest.approx(svd.relative_error, rel=1e-9, abs=1e-12)
    assert distance(weight, rounded.cores) == pytest.approx(rounded.relative_error * rounded.norm, rel=1e-9, abs=tiny)
    for other in (svd.cores, tensorly_cores(weight, lower)):
        torch.testing.assert_close(dense_weight(rounded.cores), dense_weight(other), rtol=0, atol=1e3 * tiny)


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("name", SHAPES)
def test_rounding_keeps_relative_error_with_the_ranks_that_tt_svd_takes(name, kind):
    shape = TTShape(*SHAPES[name])
    weight = matrix(kind, shape)
    full = tt_svd(weight, shape.in_modes, shape.out_modes, relative_error=0)
    for relative_error in (0.7, 0.1, 1e-2, 1e-6):
        rounded = tt_round(full.cores, relative_error=relative_error)
        assert distance(dense_weight(full.cores), rounded.cores) <= relative_error * weight.norm() * (1 + 1e-9)
        expected = tt_svd(weight, shape.in_modes, shape.out_modes, relative_error=relative_error).shape
        assert rounded.shape == expected, f"relative error {relative_error}"


def summed(cores, others):
    """Cores of the sum of two tensor trains: ranks add up."""
    total = []
    for k, (one, other) in enumerate(zip(cores, others, strict=True)):
        top = torch.cat([one, torch.zeros(*one.shape[:3], other.shape[3])], dim=3)
        bottom = torch.cat([torch.zeros(*other.shape[:3], one.shape[3]), other], dim=3)
        core = torch.cat([top, bottom])
        core = core.sum(0, keepdim=True) if k == 0 else core
        total.append(core.sum(3, keepdim=True) if k == len(cores) - 1 else core)
    return total


def test_ranks_that_carry_nothing_fall_of_themselves_in_trains_too_large_to_multiply_out():
    # 8^20 x 8^20.
    shape = TTShape((8,) * 20, (8,) * 20, 3)
    torch.manual_seed(0)
    cores = [torch.empty(size, dtype=torch.float64) for size in shape.core_shapes]
    orthogonal_cores_(cores)
    twice = summed(cores, cores)
    assert {core.shape[0] for core in twice[1:]} == {6}
    rounded = tt_round(twice, relative_error=0)
    assert rounded.shape == shape
    assert rounded.relative_error < 1e-12
    # Some entries, by the paper's equation 3.
    for i, j in itertools.product(range(3), range(3)):
        one, other = torch.ones(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
        for core, mine in zip(cores, rounded.cores, strict=True):
            one, other = one @ core[:, i, j], other @ mine[:, i, j]
        torch.testing.assert_close(other, 2 * one, rtol=1e-9, atol=0)


@pytest.mark.parametrize("function", ["tt_svd", "tt_round"])
def test_all_cores_but_the_last_are_orthonormal(function):
    shape = TTShape((4, 3, 6), (2, 3, 2), 5)
    cores = train(shape)
    near = tt_round(cores, 3) if function == "tt_round" else tt_svd(dense_weight(cores), (4, 3, 6), (2, 3, 2), 3)
    for core in near.cores[:-1]:
        q = core.flatten(0, 2)
        torch.testing.assert_close(q.t() @ q, torch.eye(q.shape[1], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes_lose_no_more_than_their_own_rounding(dtype):
    cores = [core.to(dtype) for core in train(TTShape((4, 3, 6), (2, 3, 2), 5))]
    exact = [core.double() for core in cores]
    weight = dense_weight(exact)
    rounded, expected = tt_round(cores, 3), tt_round(exact, 3)
    stored = tt_svd(weight.to(dtype), (4, 3, 6), (2, 3, 2), 3)
    for near in (rounded, stored):
        assert {core.dtype for core in near.cores} == {dtype}
        error = distance(weight, [core.double() for core in near.cores]) / weight.norm().item()
        assert abs(error - expected.relative_error) < 4 * torch.finfo(dtype).eps
    assert rounded.relative_error == pytest.approx(expected.relative_error, rel=1e-12)


@pytest.mark.parametrize("asked", [{"ranks": 2}, {"relative_error": 0.1}, {"relative_error": 0.0}], ids=str)
def test_a_matrix_of_zeros_stays_one(asked):
    near = tt_svd(torch.zeros(12, 72), (4, 3, 6), (2, 3, 2), **asked)
    again = tt_round(near.cores, **asked)
    for one in (near, again):
        assert one.relative_error == 0
        assert one.shape.ranks == (asked.get("ranks", 1),) * 2
        assert not dense_weight(one.cores).any()


@pytest.mark.parametrize("modes", [((72,), (12,)), ((72, 1), (12, 1)), ((4, 3, 6), (2, 3, 2))], ids=str)
def test_results_share_no_memory_with_what_they_come_from(modes):
    weight = random(12, 72)
    near = tt_svd(weight, *modes, relative_error=0)
    rounded = tt_round(near.cores, relative_error=0)
    kept = weight.clone()
    for core in (*near.cores, *rounded.cores):
        assert core.untyped_storage().nbytes() == core.numel() * core.element_size()
        assert core.is_contiguous()
    for core in near.cores:
        core.zero_()
    assert torch.equal(weight, kept)
    assert dense_weight(rounded.cores).any()


def test_the_weight_need_not_be_contiguous():
    weight = random(72, 12).t()
    near, expected = (tt_svd(one, (4, 3, 6), (2, 3, 2), 3) for one in (weight, weight.contiguous()))
    for one, other in zip(near.cores, expected.cores, strict=True):
        assert torch.equal(one, other)


def test_a_rank_that_is_lower_already_stays():
    cores = train(TTShape((4, 3, 6), (2, 3, 2), (2, 5)))
    assert tt_round(cores, 4).shape.ranks == (2, 4)
    assert tt_round(cores, (1, 9)).shape.ranks == (1, 5)


GOOD = {"weight": torch.ones(12, 72), "in_modes": (4, 3, 6), "out_modes": (2, 3, 2), "ranks": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relative_error": 0.1}, "either ranks or relative_error, got ranks=2 and relative_error=0.1"),
        ({"ranks": None}, "either ranks or relative_error, got ranks=None and relative_error=None"),
        ({"ranks": None, "relative_error": -0.1}, r"0 <= relative_error < 1 .*got -0.1"),
        ({"ranks": None, "relative_error": 5}, r"five percent.*got 5"),
        ({"ranks": None, "relative_error": float("nan")}, "got nan"),
        ({"ranks": 0}, "ranks must be positive, got 0x0"),
        ({"ranks": (2, 2, 2)}, "3 modes take one rank or 2 inner ranks, got 2x2x2"),
        ({"weight": torch.ones(72)}, r"must be a matrix \(N, M\).*got shape \(72,\)"),
        ({"weight": torch.ones(72, 12)}, r"prod\(in_modes\)=72 .* but a row of the weight has 12 values; try"),
        ({"out_modes": (2, 3, 3)}, r"prod\(out_modes\)=18 .* but a column of the weight has 12 values; try"),
        ({"weight": torch.ones(12, 72, dtype=torch.int64)}, r"the weight must be floating point, got torch.int64"),
        ({"weight": torch.full((12, 72), torch.inf)}, "864 of the 864 values of the weight are not finite"),
        ({"weight": torch.ones(12, 72).index_fill(1, torch.tensor([3]), torch.nan)}, "12 of the 864 values"),
    ],
    ids=lambda value: None if isinstance(value, str) else ", ".join(value),
)
def test_what_tt_svd_refuses_is_told_in_a_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        tt_svd(**(GOOD | change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([(1, 4, 2, 3), (2, 3, 3, 1)], r"equal rank where they meet.*got \[\(1, 4, 2, 3\), \(2, 3, 3, 1\)\]"),
        ([(1, 4, 2, 3), (3, 3, 3, 2)], "1 at both ends"),
        ([(2, 4, 2, 3), (3, 3, 3, 1)], "1 at both ends"),
        ([(1, 4, 3), (3, 3, 1)], "cores must be"),
        ([], "at least one"),
    ],
    ids=["inner", "right end", "left end", "three axes", "no cores"],
)
def test_cores_that_do_not_fit_each_other_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        tt_round([torch.ones(size) for size in sizes], 1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [({}, "either ranks or"), ({"ranks": 0}, "positive, got 0x0"), ({"relative_error": 1}, "got 1"), (None, "core 1")],
    ids=["nothing", "ranks 0", "relative_error 1", "not finite"],
)
def test_rounding_refuses_what_tt_svd_does(asked, message):
    cores = [torch.ones(size) for size in TTShape((4, 3, 6), (2, 3, 2), 2).core_shapes]
    if asked is None:
        cores[1][0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=message):
        tt_round(cores, **(asked if asked is not None else {"ranks": 1}))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cores_stay_on_cuda_and_equal_the_cpu_s():
    weight = random(12, 72)
    near, expected = (tt_svd(one, (4, 3, 6), (2, 3, 2), 3) for one in (weight.cuda(), weight))
    rounded, lower = tt_round(near.cores, 2), tt_round(expected.cores, 2)
    for one, other in zip((*near.cores, *rounded.cores), (*expected.cores, *lower.cores), strict=True):
        assert one.is_cuda
        assert torch.equal(one.cpu(), other)


@pytest.mark.parametrize("kind", MATRICES)
def test_singular_values_are_those_of_the_unfoldings(kind):
    shape = TTShape((2, 3, 4), (3, 2, 2), 2)
    weight = matrix(kind, shape)
    svd = tt_svd(weight, shape.in_modes, shape.out_modes, relative_error=0.0)
    for whole in (svd, tt_round(svd.cores, relative_error=0.0)):
        for found, unfolding in zip(whole.singular_values, unfoldings(weight, shape), strict=True):
            expected = torch.linalg.svdvals(torch.as_tensor(unfolding))
            torch.testing.assert_close(found, expected[: len(found)], rtol=1e-9, atol=1e-9 * weight.norm().item())
            assert not len(found) < len(expected) or expected[len(found)] < 1e-9 * weight.norm()


def test_balanced_cores_are_the_same_matrix_of_even_entries():
    shape = TTShape((2, 3, 4), (3, 2, 2), 3)
    cores = [core * 10.0**k for k, core in enumerate(train(shape))]
    even = balanced(cores)
    torch.testing.assert_close(dense_weight(even), dense_weight(cores))
    sizes = [core.square().mean().sqrt().item() for core in even]
    assert sizes == pytest.approx([sizes[0]] * 3)
    nothing = balanced([cores[0], torch.zeros_like(cores[1]), cores[2]])
    assert not dense_weight(nothing).any()
    assert all(core.isfinite().all() for core in nothing)

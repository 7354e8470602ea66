"""ttrnn/formats.py, network.py, fit.py: formats are the matrices of their formulas, with their counts and variances."""

import copy
import io
import math

import pytest
import tensorly
import torch
from tensorly.decomposition import parafac, tensor_ring, tucker
from tensorly.tr_tensor import tr_to_tensor

from ttrnn import TTGRU, ModelConfig, TTLinear, VideoClassifier, load, save
from ttrnn.formats import FORMATS, make_format
from ttrnn.rounding import rounded

NETWORKS = ("cp", "tucker", "ht", "tr", "bt")
# Six modes, of which the first d are taken.
IN_MODES, OUT_MODES = (2, 3, 2, 1, 2, 3), (3, 2, 1, 2, 2, 1)
TINY = {
    **dict.fromkeys(FORMATS, ((2, 1, 2), (1, 2, 2), 2)),
    "ht": ((2, 1, 2, 1), (1, 2, 1, 2), 2),
    "block-diagonal": ((2, 2), (4, 2), 2),
}
UCF11 = (8, 20, 20, 18), (16, 4, 4, 4)


@pytest.fixture(autouse=True)
def with_torch():
    with tensorly.backend_context("pytorch"):
        yield


def layer_of(name, in_modes, out_modes, ranks=2, **options):
    """A float64 layer with values that no symmetry makes equal."""
    layer = TTLinear(in_modes, out_modes, ranks, factorization=name, dtype=torch.float64, **options)
    with torch.no_grad():
        for factor in layer.factors:
            factor.copy_(torch.randn_like(factor))
    return layer


def whole(name, ranks, factors, in_modes, out_modes):
    """The matrix (N, M) by the formula of the format, by tensorly where it has it; written without sites and cores."""
    d = len(in_modes)
    sizes = [m * n for m, n in zip(in_modes, out_modes, strict=True)]
    if name == "low-rank":
        return factors[0][0, 0] @ factors[1][:, :, 0, 0]
    if name == "block-diagonal":
        return torch.cat([torch.block_diag(*gate) for gate in factors[0]])
    if name == "tt" or d == 1:
        tensor = tensorly.tt_to_tensor([core.flatten(1, 2) for core in factors])
    elif name == "cp":
        tensor = tensorly.cp_to_tensor((None, [factor.flatten(0, 1) for factor in factors]))
    elif name == "tucker":
        tensor = tensorly.tucker_to_tensor((factors[d], [factor.flatten(0, 1) for factor in factors[:d]]))
    elif name == "tr":
        tensor = tr_to_tensor([core.flatten(1, 2) for core in factors])
    elif name == "bt":
        blocks = [[factor[..., p] for factor in factors] for p in range(ranks[0])]
        tensor = sum(whole("tucker", None, block, in_modes, out_modes) for block in blocks)
        return tensor
    else:
        inner = iter(factors[d:])
        bases = {(k, k + 1): factor.flatten(0, 1) for k, factor in enumerate(factors[:d])}
        for first, middle, stop in sorted(subtrees(0, d, False), key=lambda tree: (tree[2] - tree[0], tree[0])):
            node = next(inner)
            left, right = bases[first, middle], bases[middle, stop]
            node = node.unsqueeze(2) if node.dim() == 2 else node
            bases[first, stop] = torch.einsum("ar,bs,rst->abt", left, right, node).flatten(0, 1)
        tensor = bases[0, d]
    # (s_1, .., s_d) -> (N_1, .., N_d, M_1, .., M_d)
    pairs = tensor.reshape([mode for pair in zip(in_modes, out_modes, strict=True) for mode in pair])
    axes = [*range(1, 2 * d, 2), *range(0, 2 * d, 2)]
    return pairs.permute(axes).reshape(math.prod(out_modes), math.prod(sizes) // math.prod(out_modes))


def subtrees(first, stop, is_right):
    """(first, middle, stop) of the nodes of a balanced tree; of three, the left half of a right child has one."""
    if stop - first < 2:
        return []
    middle = (first + stop) // 2 if is_right else -(-(first + stop) // 2)
    return [*subtrees(first, middle, False), *subtrees(middle, stop, True), (first, middle, stop)]


@pytest.mark.parametrize("d", range(1, 7))
@pytest.mark.parametrize("name", FORMATS)
def test_the_cores_of_a_format_are_the_matrix_of_its_formula(name, d):
    in_modes, out_modes = ((IN_MODES[:d],) * 2) if name == "block-diagonal" else (IN_MODES[:d], OUT_MODES[:d])
    layer = layer_of(name, in_modes, out_modes, bias=False)
    expected = whole(name, layer.format.ranks, list(layer.factors), in_modes, out_modes)
    torch.testing.assert_close(layer.weight, expected, rtol=1e-10, atol=1e-10)
    x = torch.randn(5, layer.in_features, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ expected.t(), rtol=1e-10, atol=1e-10)
    assert tuple(tuple(core.shape) for core in layer.cores) == layer.shape.core_shapes
    assert layer.num_params == sum(parameter.numel() for parameter in layer.parameters())


@pytest.mark.parametrize(("name", "ranks"), [
    ("tucker", (2, 3, 1, 2, 2)), ("ht", (2, 3, 2, 1, 2, 4, 2, 3)), ("tr", (3, 1, 2, 4, 2)), ("bt", (3, 2, 1, 2, 2, 3)),
])  # fmt: skip
def test_each_rank_belongs_to_its_index(name, ranks):
    layer = layer_of(name, (3, 2, 2, 2, 3), (2, 2, 2, 1, 1), ranks)
    assert layer.format.ranks == ranks
    expected = whole(name, ranks, list(layer.factors), (3, 2, 2, 2, 3), (2, 2, 2, 1, 1))
    torch.testing.assert_close(layer.weight, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", FORMATS)
def test_gradients_of_factors_and_input_are_right(name):
    layer = layer_of(name, *TINY[name], mean=0.3, scale=0.7)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    x = torch.randn(3, layer.in_features, dtype=torch.float64, requires_grad=True)

    def product(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(product, (x, *parameters))


@pytest.mark.parametrize(("name", "modes", "ranks", "num_params", "bonds"), [
    # Yang et al. 2017, table 1 (LSTM: four gates).
    ("tt", UCF11, 4, 3360, (4, 4, 4)),
    # Ye et al. 2018: 17,388 times fewer than 57,600 x 1,024, with two blocks of ranks 4; their table says 3,387.
    ("bt", UCF11, (2, 4), 3392, (8, 32, 8)),
    # Pan et al. 2019: 1,725, with input and output modes apart; 10 is the rank that closes the ring.
    ("tr", ((4, 2, 5, 8, 6, 5, 3, 2, 1, 1, 1, 1, 1), (1,) * 8 + (16, 4, 2, 4, 2)), (10,) + (5,) * 12, 1725, (50,) * 12),
    # Yin et al. 2020: 1,245, with ranks 4 of the factors and 5 of the tree.
    ("ht", ((8, 10, 10, 9, 8), (16, 4, 2, 4, 2)), (4,) * 5 + (5,) * 3, 1245, (4, 5, 5, 4)),
    # By the formulas: R sum s_k; R sum s_k + R^d.
    ("cp", UCF11, 10, 3600, (10, 10, 10)),
    ("tucker", UCF11, 4, 1696, (4, 16, 4)),
    ("low-rank", UCF11, 3, 3 * (57600 + 1024), (3,)),
    ("block-diagonal", ((4, 4, 4, 4), (12, 4, 4, 4)), 8, 3 * 256 * 8, ()),
])  # fmt: skip
def test_formats_have_the_numbers_of_parameters_of_the_papers(name, modes, ranks, num_params, bonds):
    form = make_format(name, *modes, ranks)
    assert (form.num_params, form.shape.ranks) == (num_params, bonds)
    layer = TTLinear(*modes, ranks, bias=False, factorization=name, device="meta")
    assert layer.num_params == sum(parameter.numel() for parameter in layer.parameters()) == num_params
    assert f"{num_params:,} weights" in repr(layer)


@pytest.mark.parametrize("gain", [1.0, 0.3])
@pytest.mark.parametrize("name", FORMATS)
def test_rows_start_with_the_mean_squared_norm_that_is_wanted(name, gain):
    modes = ((4, 6, 3, 2), (3, 2, 2, 2)) if name != "block-diagonal" else ((4, 3), (8, 3))
    layer = TTLinear(*modes, 3, factorization=name, dtype=torch.float64)
    draws = []
    for _ in range(150):
        layer.reset_parameters(gain)
        draws.append(layer.weight.detach().square().sum(1).mean() / gain**2)
    found = torch.stack(draws)
    # Four standard errors, of draws that are far from normal.
    assert abs(found.mean() - 1) < 4 * found.std() / 150**0.5 + 1e-6
    assert found.std() < 0.8


def test_clipped_ranks_are_those_that_the_modes_allow():
    assert make_format("tucker", (2, 3, 5), (1, 1, 2), 99).ranks == (2, 3, 6)
    assert make_format("ht", (2, 3, 5, 2), (1, 1, 2, 1), 99).ranks == (2, 3, 10, 2, 6, 6)
    assert make_format("bt", (2, 3, 5), (1, 1, 2), (3, 99)).ranks == (3, 2, 3, 6)


@pytest.mark.parametrize(("name", "ranks", "said"), [
    ("cpd", 2, "must be one of tt, cp, tucker, ht, tr, bt, low-rank, block-diagonal, got 'cpd'"),
    ("cp", (2, 3), "cp takes one rank; got 2x3"),
    ("ht", (2, 3), "ht takes one rank, or 4 with 3 modes; got 2x3"),
    ("bt", (2, 3, 3), "bt takes one rank, or 4 with 3 modes; got 2x3x3"),
    ("bt", (), "bt takes one rank, or 4 with 3 modes; got none"),
    ("tr", 0, "ranks must be positive, got 0"),
    ("tucker", 0.1, r"ranks 0\.1, a share of the dense parameters, needs format tt"),
    ("block-diagonal", 5, "blocks that divide 12 inputs, and a multiple of as many outputs; got blocks of 5 and 12"),
    ("cp", 100_000, "cp of ranks 100000 has cores of 60,001,000,000 numbers, and 268,435,456 are the most"),
])  # fmt: skip
def test_what_a_format_cannot_be_is_refused(name, ranks, said):
    with pytest.raises(ValueError, match=said):
        make_format(name, (2, 3, 2), (3, 2, 2), ranks)


def distance(layer, weight):
    return (torch.dist(layer.weight, weight) / weight.norm()).item()


@pytest.mark.parametrize("d", [2, 3, 4, 5])
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "bt"])
def test_a_matrix_of_the_format_is_found_again(name, d):
    in_modes, out_modes = ((IN_MODES[:d],) * 2) if name == "block-diagonal" else (IN_MODES[:d], OUT_MODES[:d])
    weight = layer_of(name, in_modes, out_modes, bias=False).weight.detach()
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    linear.weight.data = weight
    # Not every tensor ring is found by SVD: its first rank may take both of another ring's, and cut the next ones.
    ranks = (1,) + (12,) * (d - 1) if name == "tr" else 2
    near = TTLinear.from_dense(linear, in_modes, out_modes, ranks, factorization=name)
    assert distance(near, weight) < (1e-3 if name == "cp" else 1e-10)
    assert torch.equal(near.bias, linear.bias)
    dense = near.to_dense()
    x = torch.randn(3, weight.shape[1], dtype=torch.float64)
    torch.testing.assert_close(dense(x), near(x), rtol=1e-10, atol=1e-10)


def test_errors_are_those_of_tensorly():
    in_modes, out_modes = (3, 4, 3), (2, 2, 3)
    weight = torch.randn(12, 36, dtype=torch.float64)
    tensor = weight.reshape(2, 2, 3, 3, 4, 3).permute(3, 0, 4, 1, 5, 2).reshape(6, 8, 9)

    def missed(near):
        return (torch.dist(tensor, near) / tensor.norm()).item()

    errors = {}
    for name, ranks in (("cp", 4), ("tucker", 4), ("tr", (2, 3, 4))):
        layer = TTLinear(in_modes, out_modes, ranks, factorization=name, dtype=torch.float64)
        errors[name] = layer.approximate_(weight)
        assert errors[name] == pytest.approx(distance(layer, weight))
        sizes = [factor.square().mean() for factor in layer.factors]
        assert max(sizes) < 1.001 * min(sizes)
    # The signs of the first singular vectors are free, and change what the next ones cut off.
    assert errors["tr"] == pytest.approx(missed(tr_to_tensor(tensor_ring(tensor, (2, 3, 4, 2)))), rel=0.02)
    open_ring = TTLinear(in_modes, out_modes, (1, 3, 4), factorization="tr", dtype=torch.float64)
    theirs = missed(tr_to_tensor(tensor_ring(tensor, (1, 3, 4, 1))))
    assert open_ring.approximate_(weight) == pytest.approx(theirs, rel=1e-9)
    # HOOI starts from HOSVD and is at most a little better.
    best = missed(tensorly.tucker_to_tensor(tucker(tensor, (4, 4, 4), n_iter_max=100, tol=1e-8)))
    assert best <= errors["tucker"] * (1 + 1e-9) <= 1.05 * best
    theirs = missed(tensorly.cp_to_tensor(parafac(tensor, 4, n_iter_max=300, init="svd", tol=1e-9)))
    assert errors["cp"] == pytest.approx(theirs, rel=0.03)


def test_hierarchical_tucker_is_within_the_bound_of_the_best():
    weight = torch.randn(16, 81, dtype=torch.float64)
    tensor = weight.reshape(2, 2, 2, 2, 3, 3, 3, 3).permute(4, 0, 5, 1, 6, 2, 7, 3).reshape(6, 6, 6, 6)
    layer = TTLinear((3,) * 4, (2,) * 4, (3, 3, 3, 3, 5, 5), factorization="ht", dtype=torch.float64)
    error = layer.approximate_(weight)
    tails = []
    for axes, rank in (((0,), 3), ((1,), 3), ((2,), 3), ((3,), 3), ((0, 1), 5)):
        matrix = tensor.movedim(axes, tuple(range(len(axes)))).flatten(len(axes)).flatten(0, len(axes) - 1)
        tails.append((torch.linalg.svdvals(matrix)[rank:].norm() / tensor.norm()).item())
    # Of the two nodes below the root, both cut the same bond.
    assert max(tails) <= error <= math.hypot(*tails, tails[-1])


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("tt", "bt")])
def test_rounding_keeps_the_format_at_other_ranks(name):
    modes = ((4, 3), (8, 3)) if name == "block-diagonal" else ((3, 2, 4), (2, 3, 2))
    layer = layer_of(name, *modes, 4, mean=0.5)
    layer.factors[0].requires_grad_(False)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    error = layer.round_(2)
    expected = make_format(name, *modes, 2)
    assert layer.format == expected
    assert [tuple(factor.shape) for factor in layer.factors] == list(expected.parameter_shapes)
    assert error == pytest.approx(distance(layer, weight), rel=1e-6)
    assert 0 < error < 1
    assert not layer.factors[0].requires_grad
    assert torch.equal(layer.bias, bias)
    if name != "low-rank":
        with pytest.raises(ValueError, match=f"format {name} is rounded to ranks"):
            layer.round_(relative_error=0.1)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "bt"])
def test_a_matrix_of_zeros_is_approximated_and_one_that_is_not_finite_refused(name):
    layer = layer_of(name, *TINY[name])
    assert layer.approximate_(torch.zeros(layer.out_features, layer.in_features)) == 0
    assert not layer.weight.any()
    with pytest.raises(ValueError, match="of the weight are not finite"):
        layer.approximate_(torch.full((layer.out_features, layer.in_features), math.nan))


def test_as_many_modes_as_a_configuration_allows_work():
    for name in NETWORKS:
        layer = layer_of(name, (2, *[1] * 30, 2), (1,) * 32, 1)
        x = torch.eye(4, dtype=torch.float64)
        torch.testing.assert_close(layer(x), x @ layer.weight.t() + layer.bias)


def test_a_sum_of_blocks_is_not_fitted():
    with pytest.raises(ValueError, match="no method approximates a matrix in format bt; give tt, cp, tucker, ht or tr"):
        layer_of("bt", (2, 3), (3, 2)).approximate_(torch.ones(6, 6))
    with pytest.raises(ValueError, match="format cp needs ranks"):
        TTLinear.from_dense(torch.nn.Linear(16, 16), relative_error=0.1, factorization="cp")


def test_a_tensor_train_keeps_its_names_and_its_cores_are_its_parameters():
    layer = TTLinear((2, 3), (3, 2), 2)
    assert [name for name, _ in layer.named_parameters()] == ["bias", "cores.0", "cores.1"]
    assert layer.cores is layer.factors is layer.get_submodule("cores")
    other = TTLinear((2, 3), (3, 2), 2, factorization="tucker")
    assert [name for name, _ in other.named_parameters()] == ["bias", "factors.0", "factors.1", "factors.2"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_autocast_and_compute_dtype_stay_near(name, dtype):
    layer = TTLinear((4, 3), (8, 3), 3, factorization=name)
    x = torch.randint(0, 256, (7, 12), dtype=torch.uint8)
    expected = layer(x)
    scale = expected.abs().max().item()
    torch.testing.assert_close(copy.deepcopy(layer).to(dtype)(x).float(), expected, rtol=0.1, atol=0.05 * scale)
    layer.compute_dtype = torch.bfloat16
    torch.testing.assert_close(layer(x), expected, rtol=0.05, atol=0.03 * scale)
    with torch.autocast("cpu", torch.bfloat16):
        # The map to cores is not rounded.
        assert all(core.dtype == torch.float32 for core in layer.cores)
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize("name", FORMATS)
def test_layers_are_copied_pickled_and_transformed(name):
    layer = layer_of(name, *TINY[name])
    x = torch.randn(4, layer.in_features, dtype=torch.float64)
    expected = layer(x)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(layer), torch.load(buffer, weights_only=False)):
        assert twin.format == layer.format
        assert torch.equal(twin(x), expected)
    parameters = dict(layer.named_parameters())
    each = torch.func.vmap(lambda row: torch.func.functional_call(layer, parameters, (row,)))(x)
    torch.testing.assert_close(each, expected, rtol=1e-10, atol=1e-10)
    meta = TTLinear(*TINY[name], factorization=name, device="meta")
    assert meta(torch.empty(4, layer.in_features, device="meta")).shape == expected.shape


def config_of(**options):
    given = {"in_modes": "4x6x6", "hidden_modes": "2x3x2", "ranks": "3"} | options
    return ModelConfig(width=6, height=8, classes=("a", "b"), **given)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kwargs", [{}, {"num_layers": 2, "bidirectional": True, "cell": "lstm"}], ids=["gru", "deep"])
def test_models_count_save_and_load_in_every_format(name, kwargs, tmp_path):
    own = "tt" if name == "block-diagonal" else name
    config = config_of(format=own, recurrent_format=name, recurrent_ranks="2", **kwargs)
    model = VideoClassifier(config).eval()
    assert config.num_params == model.num_params == sum(parameter.numel() for parameter in model.parameters())
    assert config.input_params == model.rnn.input_params
    assert ModelConfig.from_dict(config.to_dict()) == config
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.config == config
    clips = torch.randint(0, 256, (2, 3, 8, 6, 3), dtype=torch.uint8)
    torch.testing.assert_close(again(clips), model(clips), rtol=0, atol=0)
    save(model, tmp_path / "model", dtype="int8")
    assert load(tmp_path / "model")(clips).shape == (2, 2)
    # Every parameter learns.
    model.train()(clips).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.rnn.parameters())


@pytest.mark.parametrize("name", FORMATS)
def test_a_stream_gives_what_the_clip_gives(name):
    options = {"format": "tt" if name == "block-diagonal" else name, "recurrent_format": name, "recurrent_ranks": "2"}
    model = VideoClassifier(config_of(**options, differences="extra", pooling="max")).eval()
    clip, stream = torch.randint(0, 256, (4, 8, 6, 3), dtype=torch.uint8), model.stream()
    for number, frame in enumerate(clip, start=1):
        torch.testing.assert_close(stream.push(frame), model.predict(clip[:number]), rtol=1e-4, atol=1e-5)


def test_configurations_without_formats_are_of_tensor_trains(tmp_path):
    values = config_of().to_dict()
    del values["format"], values["recurrent_format"]
    assert ModelConfig.from_dict(values) == config_of()
    # Earlier versions of the library read the directory.
    save(VideoClassifier(config_of()), tmp_path / "model")
    assert '"version": 2' in (tmp_path / "model" / "config.json").read_text()
    assert "recurrent_format" not in (tmp_path / "model" / "config.json").read_text()


@pytest.mark.parametrize(("options", "said"), [
    ({"recurrent_format": "cp"}, "recurrent_format cp needs recurrent_ranks, such as 4, got none"),
    ({"input": "dense", "format": "cp"}, "format cp needs input tt"),
    ({"format": "block-diagonal"}, "format must be one of tt, cp, tucker, ht, tr, bt, low-rank, got"),
    ({"recurrent_format": "block-diagonal", "recurrent_ranks": "5"}, "blocks that divide 12 inputs"),
    ({"format": "cp", "ranks": "none"}, "format cp takes one rank; got none"),
])  # fmt: skip
def test_configurations_that_do_not_fit_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        config_of(**options)


def test_texts_of_ranks_are_written_out():
    config = config_of(format="ht", recurrent_format="bt", recurrent_ranks="2")
    assert (config.ranks, config.recurrent_ranks) == ("3x3x3x3", "2x2x2x2")
    single = config_of(in_modes="144", hidden_modes="12", format="cp", recurrent_ranks="3", recurrent_format="low-rank")
    assert (single.format, single.ranks, single.recurrent_format, single.recurrent_ranks) == (
        "tt",
        "none",
        "low-rank",
        "3",
    )


def test_a_model_is_rounded_into_another_format_and_back():
    model = VideoClassifier(config_of(recurrent_ranks="2")).double().eval()
    clips = torch.randint(0, 256, (2, 3, 8, 6, 3), dtype=torch.uint8)
    full = config_of(format="tucker", ranks="999", recurrent_format="ht", recurrent_ranks="999")
    twin, errors = rounded(model, full)
    assert max(errors.values()) < 1e-10
    torch.testing.assert_close(twin(clips), model(clips), rtol=1e-10, atol=1e-10)
    back, _ = rounded(twin, model.config)
    torch.testing.assert_close(back(clips), model(clips), rtol=1e-10, atol=1e-10)


def test_recurrent_layers_come_from_dense_ones_in_a_format():
    dense = torch.nn.GRU(36, 16, dtype=torch.float64)
    formats = {"factorization": "ht", "recurrent_factorization": "low-rank"}
    layer = TTGRU.from_dense(dense, (6, 6), (4, 4), 99, recurrent_ranks=99, **formats)
    x = torch.randn(5, 2, 36, dtype=torch.float64)
    torch.testing.assert_close(layer(x)[0], dense(x)[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer.to_dense()(x)[0], dense(x)[0], rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="recurrent_factorization 'cp' needs recurrent_ranks"):
        TTGRU((6, 6), (4, 4), 2, recurrent_factorization="cp")

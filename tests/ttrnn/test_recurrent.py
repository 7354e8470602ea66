import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence, pad_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from ttrnn import reference
from ttrnn.recurrent import TTGRU, TTLSTM, TTRNN

CELLS = {"rnn": TTRNN, "gru": TTGRU, "lstm": TTLSTM}
MODES = ((3, 4), (2, 3))
VARIANTS = {
    "plain": {},
    "two layers": {"num_layers": 2},
    "bidirectional": {"bidirectional": True},
    "two layers, bidirectional": {"num_layers": 2, "bidirectional": True},
    "tt recurrent": {"recurrent_ranks": 2},
    "no bias": {"bias": False},
    "normalised": {"mean": [0.3, -0.2], "scale": 1.7},
    "dense": {"in_modes": (12,), "hidden_modes": (6,), "ranks": ()},
}


def make(cell, seed=0, **kwargs):
    torch.manual_seed(seed)
    args = {"in_modes": MODES[0], "hidden_modes": MODES[1], "ranks": 2, "dtype": torch.float64} | kwargs
    layer = CELLS[cell](**args)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def clips(batch=4, times=5, size=12, dtype=torch.float64):
    return torch.randn(batch, times, size, dtype=dtype, generator=torch.Generator().manual_seed(7))


def parts(state):
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize("cell", CELLS)
def test_states_are_those_of_the_book(cell):
    layer, x = make(cell, batch_first=True), clips()
    weight_ih, weight_hh = reference.dense_matrix(list(layer.ih_l0.cores)), layer.weight_hh()
    bias, zero = layer.ih_l0.bias, torch.zeros(6, dtype=torch.float64)
    output, h_n = layer(x)
    for number, clip in enumerate(x):
        if cell == "rnn":
            states, *final = reference.rnn(clip, weight_ih, weight_hh, bias, zero)
        elif cell == "gru":
            states, *final = reference.gru(clip, weight_ih, weight_hh, bias, layer.bias_hn_l0, zero)
        else:
            states, *final = reference.lstm(clip, weight_ih, weight_hh, bias, zero, zero)
        torch.testing.assert_close(output[number], states, rtol=1e-10, atol=1e-12)
        for mine, book in zip(parts(h_n), final, strict=True):
            torch.testing.assert_close(mine[0, number], book, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("lengths", [None, [5, 2, 4, 1]], ids=["full", "ragged"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cell", CELLS)
def test_to_dense_gives_torch_s_layer_with_equal_output_state_and_gradients(cell, variant, lengths):
    layer = make(cell, batch_first=True, **VARIANTS[variant])
    dense = layer.to_dense()
    assert type(dense) is {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[cell]
    shape = (layer.num_layers * layer.num_directions, 4, 6)
    hx = tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2 if cell == "lstm" else 1))
    state = hx if cell == "lstm" else hx[0]
    results = []
    for network in (layer, dense):
        x = clips().requires_grad_()
        if network is layer or lengths is None:
            output, h_n = network(x, state, lengths=lengths) if network is layer else network(x, state)
        else:
            packed, h_n = network(
                pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False), state
            )
            output, _ = pad_packed_sequence(packed, batch_first=True)
        loss = output.sin().sum() + sum(part.cos().sum() for part in parts(h_n))
        results.append(
            {
                "output": output,
                **{f"state {i}": part for i, part in enumerate(parts(h_n))},
                **dict(
                    zip(
                        ["input", *(f"hx {i}" for i in range(len(hx)))],
                        torch.autograd.grad(loss, [x, *hx], retain_graph=True),
                        strict=True,
                    )
                ),
            }
        )
        loss.backward(inputs=list(network.parameters()))
    for name in results[0]:
        torch.testing.assert_close(
            results[0][name], results[1][name], rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}"
        )
    for suffix in [suffix for _, suffix in layer._directions()]:
        ours, theirs = layer._ih(suffix), f"weight_ih_{suffix}"
        # The gradient of a core is that of the dense weight, carried through the multiplying out.
        carried = torch.autograd.grad(
            ours.weight * ours.scale,
            list(ours.cores),
            getattr(dense, theirs).grad
            - (torch.outer(getattr(dense, f"bias_ih_{suffix}").grad, ours.mean) if ours.centred else 0),
        )
        for number, (core, gradient) in enumerate(zip(ours.cores, carried, strict=True)):
            torch.testing.assert_close(
                core.grad, gradient, rtol=1e-9, atol=1e-11, msg=lambda m, n=number: f"core {n}: {m}"
            )
        if layer.recurrent_ranks is None:
            torch.testing.assert_close(
                getattr(layer, f"weight_hh_{suffix}").grad, getattr(dense, f"weight_hh_{suffix}").grad
            )
        if layer.bias:
            torch.testing.assert_close(ours.bias.grad, getattr(dense, f"bias_ih_{suffix}").grad)
        if layer.bias and cell == "gru":
            torch.testing.assert_close(
                getattr(layer, f"bias_hn_{suffix}").grad, getattr(dense, f"bias_hh_{suffix}").grad[12:]
            )


@pytest.mark.parametrize("cell", CELLS)
def test_layouts_agree(cell):
    lengths = [3, 5, 1, 5]
    layer, x = make(cell, bidirectional=True), clips().transpose(0, 1)
    output, h_n = layer(x, lengths=lengths)
    packed, h_packed = layer(pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False))
    assert isinstance(packed, PackedSequence)
    torch.testing.assert_close(pad_packed_sequence(packed)[0], output)
    layer.batch_first = True
    first, h_first = layer(x.transpose(0, 1), lengths=torch.tensor(lengths))
    torch.testing.assert_close(first.transpose(0, 1), output)
    for one, two, three in zip(parts(h_n), parts(h_packed), parts(h_first), strict=True):
        torch.testing.assert_close(one, two)
        torch.testing.assert_close(one, three)
    for number, length in enumerate(lengths):
        alone, h_alone = layer(x[:length, number])
        torch.testing.assert_close(alone, output[:length, number])
        assert not output[length:, number].any()
        for one, two in zip(parts(h_n), parts(h_alone), strict=True):
            torch.testing.assert_close(one[:, number], two)


@pytest.mark.parametrize(
    ("lengths", "dtype"),
    [
        ([3, 5, 1, 5], torch.float64),
        ([3, 5, 1, 5], torch.uint8),
        ([2, 2, 2], torch.float64),
        ([1, 1], torch.uint8),
        ([4], torch.uint8),
        ([1], torch.float64),
    ],
    ids=str,
)
@pytest.mark.parametrize("variant", ["plain", "two layers, bidirectional", "normalised"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_list_of_clips_gives_what_the_same_clips_give_packed_and_padded(cell, variant, lengths, dtype):
    layer = make(cell, batch_first=True, **VARIANTS[variant])
    generator = torch.Generator().manual_seed(5)
    whole = [(50 * torch.rand(length, 3, 4, generator=generator)).to(dtype) for length in lengths]
    leaves = [clip.requires_grad_() for clip in whole if dtype.is_floating_point]
    states = 2 if cell == "lstm" else 1
    shape = (layer.num_layers * layer.num_directions, len(lengths), 6)
    hx = tuple(torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(states))
    results = {}
    for form in ("list", "packed", "padded"):
        frames = {
            "list": whole,
            "packed": pack_sequence(whole, enforce_sorted=False),
            "padded": pad_sequence(whole, batch_first=True),
        }
        output, h_n = layer(frames[form], hx if states == 2 else hx[0], lengths=lengths if form == "padded" else None)
        assert isinstance(output, PackedSequence) == (form != "padded")
        if isinstance(output, PackedSequence):
            output, counts = pad_packed_sequence(output, batch_first=True)
            assert counts.tolist() == lengths
        loss = output.sin().sum() + sum(part.cos().sum() for part in parts(h_n))
        named = {**dict(layer.named_parameters()), "hx": hx[0]}
        gradients = torch.autograd.grad(loss, [*named.values(), *leaves])
        names = ["output", "h_n", *(f"gradient of {name}" for name in [*named, *map(str, range(len(leaves)))])]
        results[form] = dict(zip(names, [output, parts(h_n)[0], *gradients], strict=True))
    for form in ("packed", "padded"):
        for name, expected in results[form].items():
            torch.testing.assert_close(
                results["list"][name], expected, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
            )


class LargestNewTensor(TorchDispatchMode):
    """Notes the bytes of the largest storage that comes to be."""

    def __init__(self, known):
        super().__init__()
        self.known, self.num_bytes = {tensor.untyped_storage().data_ptr() for tensor in known}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (list, tuple)) else [made]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.num_bytes = max(self.num_bytes, tensor.untyped_storage().nbytes())
        return made


@pytest.mark.parametrize("form", ["list", "packed while watched"])
def test_frames_of_a_list_are_never_copied_together(form, monkeypatch):
    monkeypatch.setattr("ttrnn.planner._BLOCK_BYTES", {"cpu": 1 << 15, "cuda": 1 << 15})
    layer = make("gru", in_modes=(64, 64), hidden_modes=(2, 2), dtype=torch.float32)
    whole = [torch.randint(0, 256, (length, 4096), dtype=torch.uint8) for length in (300, 500, 200)]
    frames_bytes = 1000 * 4096
    monkeypatch.setattr("ttrnn.rows._scratch", SimpleNamespace(by_name={}))
    with LargestNewTensor(whole) as watched:
        output, _ = layer(whole if form == "list" else pack_sequence(whole, enforce_sorted=False))
        output.data.sum().backward()
    if form == "list":
        # A block of converted frames, or the gates of all; the largest clip alone would be half of the frames.
        assert 0 < watched.num_bytes < frames_bytes / 4
    else:
        assert watched.num_bytes >= frames_bytes


@pytest.mark.parametrize(
    ("frames", "lengths", "words"),
    [
        ([], None, "at least one clip"),
        ([torch.zeros(2, 12), torch.zeros(0, 12)], None, r"\(0, 12\)"),
        ([torch.zeros(12)], None, r"\(12,\)"),
        ([torch.zeros(2, 12), torch.zeros(2, 11)], None, "12 values, got frames of 11"),
        ([torch.zeros(2, 12), torch.zeros(2, 12, dtype=torch.uint8)], None, "float32 on cpu, torch.uint8 on cpu"),
        ([torch.zeros(2, 12)], [2], "lengths must be None"),
    ],
    ids=["no clip", "no frame", "no time", "frame size", "unlike clips", "lengths"],
)
def test_lists_that_do_not_fit_are_refused_with_their_values(frames, lengths, words):
    with pytest.raises(ValueError, match=words):
        make("gru", dtype=torch.float32)(frames, lengths=lengths)


def test_padding_is_never_computed():
    layer, x = make("gru", batch_first=True), clips()
    x[1, 2:] = float("nan")
    output, h_n = layer(x, lengths=[5, 2, 5, 5])
    assert output.isfinite().all()
    (output.sum() + h_n.sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_uint8_frames_with_their_axes():
    layer = make("gru", batch_first=True, mean=100.0, scale=0.02)
    frames = torch.randint(0, 256, (2, 5, 2, 3, 2), dtype=torch.uint8)
    torch.testing.assert_close(layer(frames)[0], layer(frames.flatten(2).double())[0])


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((torch.zeros(4, 5, 11),), {}, "12 values, got frames of 11"),
        ((torch.zeros(4, 5, 12),), {"lengths": [5, 5, 0, 5]}, "from 1 to 5"),
        ((torch.zeros(4, 5, 12),), {"lengths": [5, 5, 6, 5]}, "from 1 to 5"),
        ((torch.zeros(4, 5, 12),), {"lengths": [5, 5]}, "4 numbers"),
        ((torch.zeros(4, 5, 12), torch.zeros(1, 3, 6)), {}, r"\(1, 4, 6\)"),
        ((torch.zeros(5),), {}, "got shape"),
        ((torch.zeros(4, 0, 12),), {}, "at least one frame"),
    ],
    ids=["frame size", "length 0", "length above T", "too few lengths", "state", "no time", "no frames"],
)
def test_inputs_that_do_not_fit_are_refused_with_their_values(args, kwargs, words):
    with pytest.raises(ValueError, match=words):
        make("gru", batch_first=True, dtype=torch.float32)(*args, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"dropout": 1.0}, "dropout"),
        ({"recurrent_dropout": -0.1}, "recurrent_dropout"),
        ({"input_dropout": 1.5}, "input_dropout"),
        ({"num_layers": 0}, "num_layers"),
    ],
    ids=str,
)
def test_impossible_arguments_are_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        make("gru", **kwargs)


def test_recurrent_dropout_acts_in_training_only_with_one_mask_per_clip():
    layer, x = make("rnn", batch_first=True, recurrent_dropout=0.5), clips()
    layer.eval()
    torch.testing.assert_close(layer(x)[0], layer(x)[0], rtol=0, atol=0)
    layer.train()
    assert not torch.equal(layer(x)[0], layer(x)[0])
    assert torch.equal(layer(x)[0][:, 0], layer.eval()(x)[0][:, 0])


@pytest.mark.parametrize("form", ["padded", "list", "packed"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forwards", "both directions"])
@pytest.mark.parametrize("differences", ["extra", "only"])
@pytest.mark.parametrize("cell", CELLS)
def test_differences_are_those_of_frames_though_products_are_subtracted(cell, differences, bidirectional, form):
    """Against torch's own layer on frames and their differences side by side, outputs and every gradient by name."""
    layer = make(cell, batch_first=True, mean=0.4, scale=2.0, differences=differences, bidirectional=bidirectional)
    lengths = [5, 2, 4, 1]
    results = {}
    for name in ("ours", "torch"):
        x = clips().requires_grad_()
        if name == "ours":
            given = [clip[:length] for clip, length in zip(x, lengths, strict=True)]
            if form == "padded":
                output, _ = layer(x, lengths=lengths)
            elif form == "list":
                output, _ = layer(given)
            else:
                output, _ = layer(pack_sequence(given, enforce_sorted=False))
            if form != "padded":
                output, _ = pad_packed_sequence(output, batch_first=True)
        else:
            output = torch_on_differences(layer, differences, x, lengths)
        layer.zero_grad()
        (output * torch.arange(1, output.shape[2] + 1)).sum().backward()
        learnt = {key: parameter.grad.clone() for key, parameter in layer.named_parameters()}
        results[name] = {"output": output.detach(), "input": x.grad, **learnt}
    for key, expected in results["torch"].items():
        torch.testing.assert_close(
            results["ours"][key], expected, rtol=1e-9, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}"
        )


def torch_on_differences(layer, differences, x_BTD, lengths):
    """torch.nn's layer, its weights made of the cores, fed with (frame - mean) * scale and differences."""
    frames = (x_BTD - 0.4) * 2.0
    moved = torch.cat([torch.zeros_like(frames[:, :1]), frames[:, 1:] - frames[:, :-1]], dim=1)
    seen = moved if differences == "only" else torch.cat([frames, moved], dim=2)
    dense = (
        type(layer)
        .dense_class(seen.shape[2], layer.hidden_size, batch_first=True, bidirectional=layer.bidirectional)
        .double()
    )
    weights = {}
    for suffix in ("l0", "l0_reverse")[: layer.num_directions]:
        weight = getattr(layer, f"ih_{suffix}").weight
        if differences == "extra":
            weight = torch.cat(weight.chunk(2), dim=1)
        weights[f"weight_ih_{suffix}"], weights[f"weight_hh_{suffix}"] = weight, layer.weight_hh(suffix)
        weights[f"bias_ih_{suffix}"] = getattr(layer, f"bias_ih_{suffix}")
        bias_hh = torch.zeros_like(weights[f"bias_ih_{suffix}"])
        if layer.cell == "gru":
            bias_hh = torch.cat([bias_hh[: 2 * layer.hidden_size], getattr(layer, f"bias_hn_{suffix}")])
        weights[f"bias_hh_{suffix}"] = bias_hh
    packed = pack_sequence([clip[:length] for clip, length in zip(seen, lengths, strict=True)], enforce_sorted=False)
    output, _ = torch.func.functional_call(dense, weights, (packed,))
    return pad_packed_sequence(output, batch_first=True)[0]


@pytest.mark.parametrize("cell", CELLS)
def test_streams_of_differences_give_what_the_clips_give(cell):
    layer, x = make(cell, num_layers=2, batch_first=True, differences="extra").eval(), clips()
    state = None
    for number in range(x.shape[1]):
        h, state = layer.step(x[:, number], state)
        torch.testing.assert_close(h, layer(x)[0][:, number])


def test_still_frames_differ_in_nothing():
    layer, x = make("gru", batch_first=True, differences="only"), clips()
    still = x[:, :1].expand_as(x)
    torch.testing.assert_close(layer(still)[0], layer(torch.zeros_like(x))[0])
    with pytest.raises(ValueError, match="differences 'only' have no dense counterpart"):
        layer.to_dense()
    with pytest.raises(ValueError, match="none, extra, only, got 'all'"):
        make("gru", differences="all")


def test_input_dropout_drops_whole_gates_of_a_clip_in_training_only():
    layer, x = make("rnn", batch_first=True, input_dropout=0.5, bias=False), clips(8)
    with torch.no_grad():
        layer.weight_hh_l0.zero_()
    plain = layer.eval()(x)[0]
    dropped = layer.train()(x)[0]
    # Without recurrence a state is tanh of its gate: that of twice the input where it was kept.
    expected = torch.tanh(2 * torch.atanh(plain))
    kept = torch.isclose(dropped, expected)
    assert torch.equal(kept, kept[:, :1].expand_as(kept))
    assert (dropped[~kept] == 0).all()
    assert 0.2 < kept[:, 0].double().mean() < 0.8


@pytest.mark.parametrize(("cell", "count"), [("rnn", 2976), ("gru", 3232), ("lstm", 3360)])
def test_layers_have_the_paper_s_input_parameters(cell, count):
    layer = CELLS[cell]((8, 20, 20, 18), (4, 4, 4, 4), 4)
    assert layer.input_params == count
    assert layer.num_params == sum(p.numel() for p in layer.parameters())


def test_the_paper_s_lstm_cell_has_266528_parameters():
    assert TTLSTM((8, 20, 20, 18), (4, 4, 4, 4), 4).num_params == 266_528


def test_relu_rnn():
    layer = make("rnn", batch_first=True, nonlinearity="relu")
    torch.testing.assert_close(layer(clips())[0], layer.to_dense()(clips())[0])
    with pytest.raises(ValueError, match="sigmoid"):
        make("rnn", nonlinearity="sigmoid")


@pytest.mark.parametrize("cell", CELLS)
def test_lives_as_a_module_does(cell):
    layer, x = make(cell, num_layers=2, recurrent_ranks=2), clips()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(twin(x)[0], layer(x)[0], rtol=0, atol=0)
    other = make(cell, seed=1, num_layers=2, recurrent_ranks=2)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x)[0], layer(x)[0], rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = layer.float()(x.float())
    assert (output.double() - other(x)[0]).abs().max() < 0.05


@pytest.mark.parametrize("cell", CELLS)
def test_gradcheck(cell):
    layer = make(cell, batch_first=True, bidirectional=True)

    def run(x):
        output, h_n = layer(x, lengths=[3, 1])
        return (output, *parts(h_n))

    assert torch.autograd.gradcheck(run, (clips(2, 3).requires_grad_(),))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("cell", CELLS)
def test_cuda_gives_what_the_cpu_gives(cell):
    layer, frames = (
        make(cell, batch_first=True, mean=[100.0, 90.0], scale=0.02),
        torch.randint(0, 256, (4, 5, 12), dtype=torch.uint8),
    )
    expected, _ = layer(frames, lengths=[5, 2, 4, 1])
    output, _ = layer.cuda()(frames.cuda(), lengths=[5, 2, 4, 1])
    torch.testing.assert_close(output.cpu(), expected)
    packed, _ = layer([clip[:length].cuda() for clip, length in zip(frames, [5, 2, 4, 1], strict=True)])
    torch.testing.assert_close(pad_packed_sequence(packed, batch_first=True)[0].cpu(), expected)


@pytest.mark.parametrize("input_gain", [1.0, 0.3])
def test_gates_start_with_the_standard_deviation_that_is_asked_for(input_gain):
    torch.manual_seed(0)
    layer = TTGRU((8, 8, 8, 8), (4, 4, 4, 4), 4, mean=110.0, scale=1 / 60)
    layer.reset_parameters(input_gain)
    frames = (110 + 60 * torch.randn(200, 4096)).clamp(0, 255).round().to(torch.uint8)
    assert layer.ih_l0(frames).std().item() == pytest.approx(input_gain, rel=0.2)


@pytest.mark.parametrize("shape", [(0, 12), (0, 2, 12), (3, 0, 12)], ids=str)
def test_no_frames_or_no_clips_are_refused(shape):
    with pytest.raises(ValueError, match="there must be at least one frame"):
        TTGRU(*MODES, 2)(torch.zeros(shape))


def test_compute_dtype_is_that_of_the_first_layer():
    layer = TTGRU(*MODES, 2, num_layers=2, bidirectional=True, compute_dtype=torch.bfloat16)
    used = {name: module.compute_dtype for name, module in layer.named_children() if name.startswith("ih_")}
    assert used == {
        "ih_l0": torch.bfloat16,
        "ih_l0_reverse": torch.bfloat16,
        "ih_l1": None,
        "ih_l1_reverse": None,
    }
    frames = torch.randint(0, 256, (5, 2, 12), dtype=torch.uint8)
    near, _ = layer(frames)
    layer.compute_dtype = None
    exact, _ = layer(frames)
    assert 0 < (near - exact).norm() < 0.05 * exact.norm()

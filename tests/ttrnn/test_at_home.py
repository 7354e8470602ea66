"""The layers do what PyTorch's own tools expect of a module: compile, functional transforms, wrappers, devices."""

import copy
import os
import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

import ttrnn
from ttrnn import TTGRU, TTLSTM, TTRNN, TTLinear, TTShape, tensorize
from ttrnn.pooling import Pooling

CELLS = {"rnn": TTRNN, "gru": TTGRU, "lstm": TTLSTM}
MODES = ((3, 4), (2, 3))


def make(cell, **kwargs):
    torch.manual_seed(0)
    return CELLS[cell](*MODES, 2, **{"batch_first": True, "mean": [0.3, -0.2], "scale": 1.7} | kwargs)


class WithStem(nn.Module):
    """A linear layer before, and a little arithmetic behind."""

    def __init__(self, layer):
        super().__init__()
        self.linear, self.layer = nn.Linear(12, 12), layer

    def forward(self, x):
        x = torch.relu(self.linear(x)) + 1
        output, _ = self.layer(x)
        return output * 2


def clips(batch=4, times=5, dtype=torch.float32):
    return torch.randn(batch, times, 12, dtype=dtype, generator=torch.Generator().manual_seed(7))


def last(layer, x, **kwargs):
    h_n = layer(x, **kwargs)[1]
    return h_n[0] if isinstance(h_n, tuple) else h_n


# Of torch's own: where a graph breaks, its compiler looks at the gradients of what is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("recurrent_ranks", [None, 2], ids=["dense", "tt recurrent"])
@pytest.mark.parametrize("cell", CELLS)
def test_torch_compile_gives_the_same_and_traces_no_step(cell, recurrent_ranks):
    torch.compiler.reset()
    layer, x = make(cell, recurrent_ranks=recurrent_ranks), clips(times=60)
    model, seen = WithStem(layer), []

    def backend(graph, inputs):
        seen.append(len(graph.graph.nodes))
        return graph

    compiled = torch.compile(model, backend=backend)
    expected, result = model(x), compiled(x)
    assert torch.equal(result, expected)
    named = dict(model.named_parameters())
    for one, other in zip(*(torch.autograd.grad(y.sum(), named.values()) for y in (result, expected)), strict=True):
        assert torch.equal(one, other)
    # What stands around the layer, and none of its 60 steps.
    assert seen
    assert sum(seen) < 20


@pytest.mark.parametrize("recurrent_ranks", [None, 2], ids=["dense", "tt recurrent"])
@pytest.mark.parametrize("cell", CELLS)
def test_per_sample_gradients_are_those_of_each_clip_alone(cell, recurrent_ranks):
    layer, x = (
        make(cell, recurrent_ranks=recurrent_ranks, bidirectional=True, dtype=torch.float64),
        clips(dtype=torch.float64),
    )
    parameters = dict(layer.named_parameters())

    def loss(values, clip):
        return torch.func.functional_call(layer, values, (clip.unsqueeze(0),))[0].square().sum()

    together = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for number, clip in enumerate(x):
        alone = torch.autograd.grad(layer(clip.unsqueeze(0))[0].square().sum(), parameters.values())
        for name, expected in zip(parameters, alone, strict=True):
            torch.testing.assert_close(together[name][number], expected, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_forward_mode_derivatives_are_those_of_the_dense_layer():
    layer, x = make("gru", dtype=torch.float64), clips(2, 3, torch.float64)
    dense = layer.to_dense()
    tangent = torch.randn_like(x)
    ours, theirs = (torch.func.jvp(lambda x, net=net: net(x)[0], (x,), (tangent,)) for net in (layer, Plain(dense)))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


class Plain(nn.Module):
    """A dense GRU by its formulas, which every transform of torch.func takes."""

    def __init__(self, gru):
        super().__init__()
        self.gru = gru

    def forward(self, x):
        h, states = x.new_zeros(len(x), self.gru.hidden_size), []
        for frame in x.unbind(1):
            w = nn.functional.linear(frame, self.gru.weight_ih_l0, self.gru.bias_ih_l0).chunk(3, 1)
            u = nn.functional.linear(h, self.gru.weight_hh_l0, self.gru.bias_hh_l0).chunk(3, 1)
            r, z = torch.sigmoid(w[0] + u[0]), torch.sigmoid(w[1] + u[1])
            n = torch.tanh(w[2] + r * u[2])
            h = (1 - z) * n + z * h
            states.append(h)
        return torch.stack(states, 1), h


@pytest.mark.parametrize("recurrent_ranks", [None, 2], ids=["dense", "tt recurrent"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_from_the_meta_device_is_one_from_the_cpu(cell, recurrent_ranks):
    with torch.device("meta"):
        layer = make(cell, recurrent_ranks=recurrent_ranks, bidirectional=True)
    assert {tensor.device.type for tensor in (*layer.parameters(), *layer.buffers())} == {"meta"}
    layer = layer.to_empty(device="cpu")
    torch.manual_seed(3)
    layer.reset_parameters()
    expected = make(cell, recurrent_ranks=recurrent_ranks, bidirectional=True)
    torch.manual_seed(3)
    expected.reset_parameters()
    assert torch.equal(layer(clips())[0], expected(clips())[0])


@pytest.fixture
def process_group():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    dist.init_process_group("gloo", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("wrapper", ["DDP", "FSDP2 whole", "FSDP2 every part"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.filterwarnings("ignore")
def test_wrappers_for_many_devices_train_it(cell, wrapper, process_group):
    layer, plain = (make(cell, recurrent_ranks=2, num_layers=2) for _ in range(2))
    if wrapper == "DDP":
        layer = nn.parallel.DistributedDataParallel(layer)
    else:
        mesh = dist.init_device_mesh("cpu", (1,))
        for part in layer.children() if wrapper == "FSDP2 every part" else ():
            dist.fsdp.fully_shard(part, mesh=mesh)
        dist.fsdp.fully_shard(layer, mesh=mesh)
    for network in (layer, plain):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            last(network, clips()).square().sum().backward()
            optimizer.step()
    assert torch.allclose(last(layer, clips()), last(plain, clips()), atol=1e-6)


def test_names_that_torch_s_layers_have_are_there():
    layer = make("gru")
    layer.flatten_parameters()
    linear = TTLinear(*MODES, 2)
    assert linear.weight.shape == (6, 12)
    assert linear.weight.requires_grad
    with pytest.raises(TypeError):
        TTGRU(*MODES, 2, 3)
    assert set(ttrnn.__all__) <= set(dir(ttrnn))
    assert {"tt_svd", "tt_round", "export_onnx_step", "tensorize"} <= set(dir(ttrnn))
    assert all(getattr(ttrnn, name) is not None for name in dir(ttrnn))


def test_sizes_may_be_numbers_of_numpy():
    shape = TTShape(np.array([3, 4]), np.array([2, 3]), np.int64(2))
    assert shape == TTShape((3, 4), (2, 3), 2)
    assert {type(number) for number in (*shape.in_modes, *shape.out_modes, *shape.ranks)} == {int}
    with pytest.raises(TypeError):
        TTShape((3.5, 4), (2, 3), 2)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, np.float64(0.9)])
def test_ranks_as_a_share_are_the_highest_that_keep_to_it(share):
    modes = (8, 20, 20, 18), (16, 4, 4, 4)
    shape = TTShape(*modes, share)
    most = share * shape.num_dense_params
    assert shape.num_params <= most
    assert TTShape(*modes, max(shape.ranks) + 1).num_params > most


@pytest.mark.parametrize("share", [0.0, 1e-9, 1.5])
def test_shares_that_no_ranks_keep_to_are_refused(share):
    with pytest.raises(ValueError, match="dense parameters"):
        TTShape((8, 20), (16, 4), share)


@pytest.mark.parametrize("recurrent_ranks", [None, 50], ids=["dense", "tt recurrent"])
@pytest.mark.parametrize("cell", CELLS)
def test_from_dense_at_full_rank_gives_the_outputs_of_torch_s_layer(cell, recurrent_ranks):
    torch.manual_seed(0)
    options = {"num_layers": 2, "bidirectional": True, "batch_first": True, "dtype": torch.float64}
    dense = CELLS[cell].dense_class(12, 6, **options)
    layer = CELLS[cell].from_dense(dense, *MODES, 50, recurrent_ranks=recurrent_ranks)
    x = clips(dtype=torch.float64)
    torch.testing.assert_close(layer(x)[0], dense(x)[0], rtol=1e-9, atol=1e-11)
    assert layer.num_params > 0
    even = CELLS[cell].from_dense(dense, ranks=50, num_modes=3)
    assert len(even.ih_l0.shape.in_modes) == 3
    torch.testing.assert_close(even(x)[0], dense(x)[0], rtol=1e-9, atol=1e-11)
    with pytest.raises(ValueError, match="without projections"):
        CELLS[cell].from_dense(nn.Linear(12, 6))
    with pytest.raises(ValueError, match="12 and 6, got 15 and 6"):
        CELLS[cell].from_dense(dense, (3, 5), (2, 3), 50)


def test_tensorize_replaces_large_layers_and_nothing_else():
    torch.manual_seed(0)
    tied = nn.Linear(300, 300)
    model = nn.ModuleDict(
        {
            "stem": nn.Sequential(nn.Linear(512, 256), nn.ReLU()),
            "rnn": nn.GRU(256, 128, batch_first=True),
            "attention": nn.MultiheadAttention(256, 4),
            "tied": tied,
            "tied too": nn.Linear(300, 300),
            "head": nn.Linear(128, 10),
        }
    ).eval()
    model["tied too"].weight = tied.weight
    before = copy.deepcopy(model)
    num_before = sum(parameter.numel() for parameter in model.parameters())
    assert tensorize(model, ranks=0.3) is model
    assert type(model["stem"][0]) is TTLinear
    assert type(model["rnn"]) is TTGRU
    assert not model["rnn"].training
    assert [type(model[name]) for name in ("attention", "tied", "tied too", "head")] == [
        type(before[name]) for name in ("attention", "tied", "tied too", "head")
    ]
    assert sum(parameter.numel() for parameter in model.parameters()) < num_before
    x = torch.randn(2, 3, 512)
    assert model["rnn"](model["stem"](x))[0].shape == before["rnn"](before["stem"](x))[0].shape
    only_head = copy.deepcopy(before)
    tensorize(only_head, ranks=2, num_modes=2, filter=lambda name, layer: name == "head")
    assert {name for name, part in only_head.named_modules() if isinstance(part, TTLinear)} == {"head"}
    assert isinstance(tensorize(nn.Linear(512, 512)), TTLinear)


def test_a_state_of_a_layer_with_another_normalisation_is_refused_with_the_values():
    layer, other = make("gru"), make("gru", mean=0.5)
    with pytest.raises(RuntimeError, match=r"mean \[0.3, -0.2\] and scale 1.7, and has mean \[0.5\]"):
        other.load_state_dict(layer.state_dict())
    other.load_state_dict(dict(layer.state_dict()))
    again = make("gru")
    again.load_state_dict(copy.deepcopy(layer.half().state_dict()))


@pytest.mark.parametrize("cell", CELLS)
def test_a_stream_in_training_mode_keeps_its_masks(cell):
    layer = make(cell, recurrent_dropout=0.5, input_dropout=0.3, num_layers=2)
    x, seen, scan_masks = clips(3), [], []
    original = ttrnn.base.scan

    def watched(*args, **kwargs):
        scan_masks.append(kwargs["mask_BH"])
        return original(*args, **kwargs)

    state = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ttrnn.base.scan", watched)
        for frame in x.unbind(1):
            output, state = layer.step(frame, state)
            seen.append(output)
    assert len(seen) == 5
    for layer_number in range(2):
        masks = scan_masks[layer_number::2]
        assert all(torch.equal(mask, masks[0]) for mask in masks)
        assert 0 < (masks[0] == 0).float().mean() < 1
    assert len(layer.eval().step(x[:, 0])[1]) == 2


def test_streams_of_bidirectional_layers_are_refused():
    with pytest.raises(ValueError, match="bidirectional"):
        make("gru", bidirectional=True).step(torch.zeros(2, 12))


def test_numbers_go_to_float64_on_the_cpu_alone():
    """MPS has no float64: decompositions move first and convert then."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    from ttrnn import decompose

    made = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func is torch.ops.aten._to_copy.default:
                made.append((args[0].device.type, (kwargs or {}).get("dtype"), result.dtype))
            return result

    with FakeTensorMode(), Watch(), pytest.raises(Exception, match=r"data-dependent|_local_scalar_dense"):
        decompose.balanced([torch.empty(2, 3, device="cuda")])
    assert ("cuda", torch.float64, torch.float64) not in made
    assert any(dtype == torch.float64 for _, _, dtype in made)


@pytest.mark.parametrize("form", ["padded", "ragged", "list"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_training_step_asks_its_device_for_no_value(cell, form):
    """A GPU would have to finish for one. Tensors on the meta device have none: nonzero, item and tolist fail there."""
    layer = make(cell, device="meta", recurrent_ranks=2, bidirectional=True, recurrent_dropout=0.2, num_layers=2)
    frames = torch.zeros(3, 20, 12, dtype=torch.uint8, device="meta")
    lengths = [20, 3, 10] if form == "ragged" else None
    given = [frames[0], frames[1, :7], frames[2, :15]] if form == "list" else frames
    output, h_n = layer(given, lengths=lengths)
    if form == "list":
        output = Pooling("mean", 12)(output.data, output.batch_sizes.tolist())
    (output.square().sum() + sum(part.sum() for part in (h_n if isinstance(h_n, tuple) else (h_n,)))).backward()
    assert {parameter.grad.shape == parameter.shape for parameter in layer.parameters()} == {True}

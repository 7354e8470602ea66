"""ttrnn/stem.py: the convolutions of a stem, block by block, give what their formulas give, and so do the gradients."""

import copy

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

import ttrnn.convolve
import ttrnn.stem
from ttrnn import reference
from ttrnn.model import ModelConfig, VideoClassifier
from ttrnn.stem import Stem
from ttrnn.stem_shape import StemShape

LENGTHS = (5, 1, 7, 2)
STEMS = {
    "two layers": {},
    "one layer, stride 3": {"out_channels": (4,), "strides": (3,)},
    "three layers": {"out_channels": (2, 4, 3), "strides": (2, 1, 2)},
    "grey, one mean": {"channels": 1, "mean": (120.0,)},
    "no mean": {"mean": (0.0,)},
    "one channel each": {"out_channels": (1, 1)},
}
# In bfloat16 a few values near zero pass their ReLU that should not, or the other way: of sums of so few, some percent.
DTYPES = {torch.float64: 1e-10, torch.float32: 2e-4, torch.bfloat16: 0.15}


def make(differences="extra", mean=(90.0, 110.0, 130.0), dtype=torch.float64, **sizes):
    torch.manual_seed(0)
    defaults = {"height": 9, "width": 12, "channels": 3, "out_channels": (3, 4), "strides": (2, 2)}
    return Stem(StemShape(**defaults | sizes, differences=differences), mean, 1 / 60).to(dtype)


def clips(channels=3, lengths=LENGTHS):
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, 256, (t, 9, 12, channels), dtype=torch.uint8, generator=generator) for t in lengths]


def expected(stem, frames):
    """By the formulas, in float64, for the weights of a stem, which get the gradients."""
    weights = [
        (conv.weight.double(), None if conv.bias is None else conv.bias.double(), conv.stride[0]) for conv in stem.convs
    ]
    mean = torch.tensor(stem.mean, dtype=torch.float64).expand(stem.shape.channels)
    return torch.cat([reference.stem(clip, weights, stem.shape.differences, mean, stem.scale) for clip in frames])


@pytest.fixture(params=["kept", "computed again"])
def small_blocks(request, monkeypatch):
    """Blocks of 4 frames, which end within clips and reach over several."""
    monkeypatch.setattr(ttrnn.convolve, "_BLOCK_BYTES", {"cpu": 1, "cuda": 1})
    if request.param == "computed again":
        monkeypatch.setattr(ttrnn.stem, "KEPT_BYTES", 0)


def compare(stem, frames, dtype=None, tolerance=1e-10):
    rows = stem(frames, dtype).rows
    mine = dict(stem.named_parameters())
    grad = torch.randn(rows.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(rows, list(mine.values()), grad.to(rows.dtype))
    reference_rows = expected(stem, frames)
    wanted = torch.autograd.grad(reference_rows, list(mine.values()), grad)
    torch.testing.assert_close(rows.double(), reference_rows, rtol=tolerance, atol=tolerance)
    for name, one, other in zip(mine, found, wanted, strict=True):
        scale = other.abs().max().item()
        torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=tolerance * scale, msg=name)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("differences", ["none", "extra", "only"])
@pytest.mark.parametrize("name", STEMS)
def test_outputs_and_every_gradient_are_those_of_the_formulas(name, differences):
    stem = make(differences, **STEMS[name])
    compare(stem, clips(stem.shape.channels))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("differences", ["none", "extra", "only"])
def test_every_dtype_is_as_exact_as_it_can_be(dtype, differences):
    weights = torch.float32 if dtype == torch.bfloat16 else dtype
    compare(make(differences, dtype=weights), clips(), dtype, DTYPES[dtype])


def test_in_bfloat16_small_differences_of_bright_frames_are_not_rounded_away():
    stem, frames = make("only", dtype=torch.float32), torch.full((6, 9, 12, 3), 250, dtype=torch.uint8)
    frames += torch.randint(0, 2, frames.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    exact, rounded = (stem([frames], dtype).rows.float() for dtype in (None, torch.bfloat16))
    # The first frame moves nowhere.
    torch.testing.assert_close(rounded[1:], exact[1:], rtol=0.05, atol=0.05)


def test_autocast_asks_for_its_dtype():
    stem, frames = make(dtype=torch.float32), clips()
    with torch.autocast("cpu", torch.bfloat16):
        rows = stem(frames).rows
    torch.testing.assert_close(rows, stem(frames, torch.bfloat16).rows, rtol=0, atol=0)


def test_kept_or_computed_again_the_gradients_are_equal_to_the_bit(monkeypatch):
    stem, frames, gradients = make(dtype=torch.float32), clips(), []
    for kept in (1 << 20, 0):
        monkeypatch.setattr(ttrnn.stem, "KEPT_BYTES", kept)
        rows = stem(frames).rows
        gradients.append(torch.autograd.grad(rows, list(stem.parameters()), rows.detach()))
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("differences", ["none", "extra", "only"])
def test_frame_by_frame_streams_get_what_their_clips_get(differences):
    stem, (one, other) = make(differences), clips(lengths=(5, 5))
    state, rows = tuple(stem.state(2).values()), []
    assert [part.dtype for part in state] == ([] if differences == "none" else [torch.uint8, torch.float64])
    for pair in zip(one, other, strict=True):
        row, *state = stem.step(torch.stack(pair), *state)
        rows.append(row)
    torch.testing.assert_close(torch.stack(rows, 1).flatten(0, 1), stem([one, other]).rows)


def test_the_frame_before_is_kept_though_its_memory_is_used_again():
    model = classifier().eval()
    (frames,) = clips(lengths=(4,))
    stream, state, buffer = model.stream(), None, torch.empty_like(frames[0])
    for frame in frames:
        buffer.copy_(frame)
        scores = stream.push(buffer)
        with torch.no_grad():
            logits, state = model.step(buffer, state)
    torch.testing.assert_close(scores, model.predict(frames))
    torch.testing.assert_close(model.probabilities(logits), model.predict(frames))


def classifier(**values):
    torch.manual_seed(0)
    defaults = {"width": 12, "height": 9, "classes": ("a", "b", "c"), "stem": "conv", "stem_channels": "3x4",
                "differences": "extra", "hidden_modes": "2x2x2"}  # fmt: skip
    return VideoClassifier(ModelConfig(**defaults | values))


def test_padding_is_never_computed(monkeypatch):
    sizes = []
    original = ttrnn.convolve._Layers.converted
    monkeypatch.setattr(ttrnn.convolve._Layers, "converted", lambda layers, block: count(original(layers, block)))

    def count(x):
        sizes.append(len(x))
        return x

    model, padded = classifier(differences="none"), torch.zeros(4, 50, 9, 12, 3, dtype=torch.uint8)
    model(padded, lengths=[3, 1, 2, 1])
    assert sum(sizes) == 7
    sizes.clear()
    model(pack_sequence([clip[:2] for clip in padded]))
    assert sum(sizes) == 8


def test_gradients_of_single_clips_by_vmap_are_those_of_each_clip_alone():
    model, frames = classifier().double(), torch.stack(clips(lengths=(4, 4, 4)))
    labels = torch.tensor([0, 1, 2])

    def loss(parameters, clip, label):
        logits = torch.func.functional_call(model, parameters, (clip.unsqueeze(0),))
        return torch.nn.functional.cross_entropy(logits, label.unsqueeze(0))

    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, frames, labels)
    for number in range(3):
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(frames[number : number + 1]), labels[number : number + 1]).backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name][number], parameter.grad, msg=name)


def test_frames_in_floating_point_get_their_gradient():
    stem, frames = make(), [clip.double().requires_grad_() for clip in clips()]
    grad = torch.randn(15, 36, dtype=torch.float64)
    found = torch.autograd.grad(stem(frames).rows, frames, grad)
    wanted = torch.autograd.grad(expected(stem, frames), frames, grad)
    torch.testing.assert_close(found, wanted)


# Of torch's own: where a graph breaks, its compiler looks at the gradients of what is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_compiled_the_model_gives_what_it_gives():
    model, frames = classifier().eval(), torch.stack(clips(lengths=(4, 4)))
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(frames), model(frames))


def test_the_meta_device_takes_a_model_and_its_clips():
    with torch.device("meta"):
        model = classifier()
    logits = model([torch.empty(times, 9, 12, 3, dtype=torch.uint8, device="meta") for times in (3, 5)])
    assert logits.shape == (2, 3)
    logits.sum().backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in model.parameters())
    assert model.num_params == model.config.num_params


def test_a_frozen_stem_gets_no_gradient_and_a_copy_is_a_model_of_its_own():
    model, frames = classifier(), clips()
    model.stem.requires_grad_(False)
    model(frames).sum().backward()
    assert all(parameter.grad is None for parameter in model.stem.parameters())
    assert all(parameter.grad is not None for parameter in model.rnn.parameters())
    twin = copy.deepcopy(model)
    torch.nn.init.zeros_(twin.stem.convs[0].weight)
    assert not torch.equal(twin(frames), model(frames))


def test_of_frames_no_float_copy_is_held_and_large_batches_keep_nothing_but_the_output(monkeypatch):
    monkeypatch.setattr(ttrnn.stem, "KEPT_BYTES", 0)
    monkeypatch.setattr(ttrnn.convolve, "_BLOCK_BYTES", {"cpu": 1 << 14, "cuda": 1})
    stem, frames = make(dtype=torch.float32), clips(lengths=(400, 200))
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        """Records the most bytes of floats that a result takes, but for the output of the stem and its gradient."""

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **kwargs or {})
            for tensor in result if isinstance(result, tuple | list) else [result]:
                if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.shape[:1] != (600,):
                    largest = max(largest, tensor.numel() * tensor.itemsize)
            return result

    kept = []
    with Watch(), torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        rows = stem(frames).rows
        rows.sum().backward()
    assert len(rows) == 600
    # The frames as they came, and weights.
    assert sum(x.numel() * x.itemsize for x in kept if x.dtype == torch.uint8) == 600 * 9 * 12 * 3
    assert sum(x.numel() * x.itemsize for x in kept if x.dtype != torch.uint8) < 20_000
    assert 0 < largest < 600 * 9 * 12 * 3 / 4


def test_the_model_says_what_its_stem_is():
    text = str(classifier())
    assert "9x12x3 -> 5x6x3 -> 3x3x4, differences=extra, num_params=256" in text
    assert "Conv2d(6, 3, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))" in text

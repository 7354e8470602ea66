"""ttrnn/model.py: the configuration says what the model will be, and a clip gets the same logits however it comes."""

import copy
import dataclasses
import json
import math
import pickle

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from ttrnn.model import ModelConfig, VideoClassifier
from ttrnn.pooling import POOLINGS

SMALL = {"width": 6, "height": 4, "channels": 3, "classes": ("walk", "dive", "swing"), "hidden_modes": "2x2x2x2"}
PAPER = {"width": 160, "height": 120, "classes": tuple(map(str, range(11))), "in_modes": "8x20x20x18"}
CONFIGS = {
    "defaults": {},
    "rnn": {"cell": "rnn"},
    "lstm": {"cell": "lstm"},
    "ranks per bond": {"ranks": "1x3x2"},
    "clipped ranks": {"ranks": "50"},
    "three modes": {"hidden_modes": "2x3x2"},
    "one mode": {"hidden_modes": "8"},
    "tt recurrent": {"recurrent_ranks": "2x1x2"},
    "tt recurrent lstm": {"cell": "lstm", "recurrent_ranks": "3"},
    "two layers": {"num_layers": 2},
    "three layers, tt recurrent": {"num_layers": 3, "recurrent_ranks": "2", "hidden_modes": "2x2x3x1"},
    "bidirectional": {"bidirectional": True, "cell": "lstm"},
    "two layers, bidirectional": {"num_layers": 2, "bidirectional": True},
    "one mode, two layers, bidirectional": {"hidden_modes": "8", "num_layers": 2, "bidirectional": True},
    "dense": {"input": "dense"},
    "dense rnn, two layers, bidirectional": {"input": "dense", "cell": "rnn", "num_layers": 2, "bidirectional": True},
    "dense lstm": {"input": "dense", "cell": "lstm"},
    "one class, mean": {"classes": ("walk",), "pooling": "mean"},
    "differences": {"differences": "extra"},
    "differences only, dense lstm": {"differences": "only", "input": "dense", "cell": "lstm"},
    "differences, two layers, bidirectional": {"differences": "extra", "num_layers": 2, "bidirectional": True},
    "bidirectional, attention": {"bidirectional": True, "pooling": "attention"},
    "stem": {"stem": "conv", "stem_channels": "3x4", "stem_strides": "2x1", "differences": "extra"},
    "stem, frames alone, lstm": {"stem": "conv", "stem_channels": "2x3x4", "stem_strides": "2x1x1", "cell": "lstm"},
    "stem, differences only, two layers, bidirectional": {
        "stem": "conv", "stem_channels": "4", "stem_strides": "1", "differences": "only", "num_layers": 2,
        "bidirectional": True},
}  # fmt: skip


def make(seed=0, **kwargs):
    torch.manual_seed(seed)
    model = VideoClassifier(ModelConfig(**SMALL | kwargs)).double().eval()
    if model.pooling.query is not None:
        # At start all frames weigh the same.
        torch.nn.init.normal_(model.pooling.query)
    return model


def clips(batch=4, times=5):
    return torch.randint(0, 256, (batch, times, 4, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_configuration_counts_the_parameters_that_the_model_has(name):
    config = ModelConfig(**SMALL | CONFIGS[name])
    model = VideoClassifier(config)
    assert config.num_params == model.num_params == sum(parameter.numel() for parameter in model.parameters())
    first = [name for name, _ in model.named_parameters() if name.startswith("rnn.ih_l0") and ".cores." in name]
    assert config.input_params == model.rnn.input_params == sum(model.get_parameter(name).numel() for name in first)


@pytest.mark.parametrize(
    ("kwargs", "input_params", "num_params"),
    [
        ({}, 3232, 3232 + 3 * 256 * 256 + 4 * 256 + 257 * 11),
        ({"cell": "lstm"}, 3360, 266_528 + 257 * 11),
        ({"recurrent_ranks": "4"}, 3232, 3232 + (12 * 4 * 4 + 2 * 16 * 16 + 16 * 4) + 4 * 256 + 257 * 11),
        ({"input": "dense"}, 57_600 * 768, 57_600 * 768 + 3 * 256 * 256 + 4 * 256 + 257 * 11),
        ({"input": "dense", "cell": "lstm"}, 58_982_400, 58_982_400 + 4 * 256 * 256 + 4 * 256 + 257 * 11),
    ],
    ids=["gru", "lstm", "gru, tt recurrent", "dense gru", "dense lstm"],
)
def test_the_paper_s_models_and_their_dense_twins_are_counted_without_building_them(kwargs, input_params, num_params):
    config = ModelConfig(**PAPER | kwargs)
    assert (config.input_params, config.num_params) == (input_params, num_params)


# By hand, for modes 8x9 -> 2x2 and rank 1: the last core costs 8 * 9 * 2, the first 8 * (gates * 2) * 2.
CHAIN = 8 * 9 * 2


@pytest.mark.parametrize(
    ("kwargs", "multiply_adds"),
    [
        ({}, CHAIN + 8 * 2 * 2 + 4 * 4),
        ({"cell": "gru"}, CHAIN + 8 * 6 * 2 + 12 * 4),
        ({"cell": "lstm"}, CHAIN + 8 * 8 * 2 + 16 * 4),
        # The chain would take 8 * 9 * 2 * 4 + 8 * 4 * 2 * 2 = 704: the merged matrix, 72 * 4, is cheaper.
        ({"ranks": "4"}, 72 * 4 + 4 * 4),
        # Dense it would take 12 * 4 = 48; last core 2 * 2 * 2, first 2 * 6 * 2.
        ({"cell": "gru", "recurrent_ranks": "1"}, CHAIN + 8 * 6 * 2 + 8 + 24),
        ({"bidirectional": True}, 2 * (CHAIN + 8 * 2 * 2 + 4 * 4)),
        ({"differences": "extra"}, CHAIN + 8 * 4 * 2 + 4 * 4),
        ({"differences": "only", "pooling": "attention", "classes": ("a",)}, CHAIN + 8 * 2 * 2 + 4 * 4),
        # The second layer's matrix, 2x2 -> 2x2, takes 16 merged or as a chain.
        ({"num_layers": 2}, CHAIN + 8 * 2 * 2 + 16 + 2 * 16),
        # Two more: 4x2 -> 2x2 takes 4 * 2 * 4 merged or as a chain.
        ({"num_layers": 3, "bidirectional": True}, 2 * (CHAIN + 8 * 2 * 2 + 2 * 32 + 3 * 16)),
        ({"input": "dense", "in_modes": "auto", "cell": "gru"}, 72 * 12 + 12 * 4),
        # 3 x 9 weights at 2 x 3 places of 2 channels; at 1 x 2 places, 25 for each of 2 and 2 for each of 4 channels;
        # then 2x4 -> 2x2 as a chain.
        (
            {"stem": "conv", "stem_channels": "2x4", "in_modes": "2x4"},
            27 * 12 + (25 * 2 + 2 * 4) * 2 + 2 * 4 * 2 + 2 * 2 * 2 + 4 * 4,
        ),
        (
            {"stem": "conv", "stem_channels": "2", "in_modes": "3x4", "differences": "extra"},
            54 * 12 + 3 * 4 * 2 + 3 * 2 * 2 + 4 * 4,
        ),
    ],
    ids=str,
)
def test_multiply_adds_of_a_frame_are_those_counted_by_hand(kwargs, multiply_adds):
    tiny = {"cell": "rnn", "in_modes": "8x9", "hidden_modes": "2x2", "ranks": "1"}
    assert ModelConfig(**SMALL | tiny | kwargs).multiply_adds == multiply_adds


def test_multiply_adds_of_the_paper_s_gru_and_its_dense_twin():
    recurrent = 3 * 256 * 256
    # Last core first: what is left of the frame, times S * N * R, times the outputs so far.
    chain = 57_600 * 4 * 4 + 3_200 * 4 * 4 * 4 * 4 + 160 * 4 * 4 * 4 * 16 + 8 * 4 * 12 * 64
    assert ModelConfig(**PAPER).multiply_adds == chain + recurrent
    assert ModelConfig(**PAPER | {"input": "dense"}).multiply_adds == 57_600 * 768 + recurrent


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"in_modes": "2x2x2x9", "hidden_modes": "2x2x2x2", "ranks": "4x4x4", "recurrent_ranks": "none"}),
        ({"ranks": "50", "recurrent_ranks": "50"}, {"ranks": "12x48x18", "recurrent_ranks": "12x16x4"}),
        ({"ranks": "3x2x1"}, {"ranks": "3x2x1"}),
        ({"hidden_modes": "2x3x2"}, {"in_modes": "3x4x6", "ranks": "4x4"}),
        ({"hidden_modes": "8"}, {"in_modes": "72", "ranks": "none"}),
        ({"input": "dense"}, {"in_modes": "72", "hidden_modes": "16", "ranks": "none", "recurrent_ranks": "none"}),
        (
            {"stem": "conv", "stem_channels": "08x16"},
            {"stem_channels": "8x16", "stem_strides": "2x2", "in_modes": "1x1x2x16"},
        ),
        ({"stem": "conv", "stem_strides": "1x2"}, {"stem_strides": "1x2", "in_modes": "1x2x3x16"}),
    ],
    ids=["defaults", "clipped", "ranks per bond", "three modes", "one mode", "dense", "stem", "strides"],
)
def test_text_forms_come_to_one_spelling(given, expected):
    config = ModelConfig(**SMALL | given)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_comes_back_from_json(name):
    config = ModelConfig(
        **SMALL | CONFIGS[name], mean=(1, 2.5, 3), std=(4, 5, 6), sampling={"fps": None, "num_frames": 8}
    )
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert dataclasses.replace(config) == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": 1}, "unknown fields: colour"),
        ({"width": None}, "width must be int, got None"),
        ({"width": "160"}, "width must be int, got '160'"),
        ({"width": 6.0}, "width must be int, got 6.0"),
        ({"num_layers": True}, "num_layers must be int, got True"),
        ({"bidirectional": 1}, "bidirectional must be bool, got 1"),
        ({"classes": "walk"}, "classes must be a list, got 'walk'"),
        ({"classes": ["walk", 3]}, "classes must be str, got 3"),
        ({"mean": 127.5}, "mean must be a list"),
        ({"std": ["1"]}, "std must be float, got '1'"),
        ({"dropout": False}, "dropout must be float, got False"),
        ({"ranks": 4}, "ranks must be str, got 4"),
        ({"sampling": []}, r"sampling must be dict, got \[\]"),
    ],
    ids=str,
)
def test_values_of_another_type_are_refused_by_field(change, words):
    with pytest.raises(ValueError, match=words):
        ModelConfig.from_dict(ModelConfig(**SMALL).to_dict() | change)


def test_a_configuration_that_is_no_object_is_refused():
    with pytest.raises(ValueError, match="JSON object, got list"):
        ModelConfig.from_dict([])


@pytest.mark.parametrize("name", ["width", "height", "classes"])
def test_a_missing_field_is_named(name):
    values = ModelConfig(**SMALL).to_dict()
    del values[name]
    with pytest.raises(ValueError, match=f"missing fields: {name}"):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cell": "lsmt"}, "cell must be one of rnn, gru, lstm, got 'lsmt'"),
        ({"input": "sparse"}, "input must be one of tt, dense"),
        ({"pooling": "middle"}, "pooling must be one of last, mean, max, attention"),
        ({"task": "regression"}, "task must be one of single_label, multi_label"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"dropout": 1.0}, "0 <= dropout < 1 must hold, got 1.0"),
        ({"recurrent_dropout": math.nan}, "0 <= recurrent_dropout < 1 must hold, got nan"),
        ({"classes": ()}, r"classes must be different names, at least one, got \[\]"),
        ({"classes": ("a", "b", "a")}, "classes must be different names"),
        ({"mean": (1.0, 2.0)}, r"mean must be 1 or 3 finite numbers, got \[1.0, 2.0\]"),
        ({"mean": (math.inf,)}, "mean must be 1 or 3 finite numbers"),
        ({"std": (0.0, 0.0, 0.0)}, "std must be positive"),
        ({"std": (-1.0,)}, "std must be positive"),
        ({"in_modes": "2x2x2x8"}, r"prod\(in_modes\)=64 \(2x2x2x8\) but the frame has 72 values; try 2x3x3x4"),
        ({"in_modes": "8x9"}, "in_modes and out_modes must have equal length"),
        ({"in_modes": "8x3x3x-1"}, "positive whole numbers joined by x.*got '8x3x3x-1'"),
        ({"hidden_modes": ""}, "positive whole numbers joined by x"),
        ({"ranks": "4x4"}, "4 modes take one rank or 3 inner ranks, got 4x4"),
        ({"differences": "some"}, "differences must be one of none, extra, only, got 'some'"),
        ({"input_dropout": 1.0}, "0 <= input_dropout < 1 must hold"),
        ({"recurrent_ranks": "0"}, "positive whole numbers joined by x"),
        ({"input": "dense", "recurrent_ranks": "4"}, "recurrent_ranks 4 needs input tt"),
        ({"stem": "pool"}, "stem must be one of none, conv, got 'pool'"),
        ({"stem": "conv", "input": "dense"}, "stem conv needs input tt, got input dense"),
        ({"stem_channels": "8x8"}, "stem_channels 8x8 needs stem conv, got stem none"),
        ({"stem_strides": "1"}, "stem_strides 1 needs stem conv, got stem none"),
        (
            {"stem": "conv", "stem_channels": "6,8"},
            "and stem_strides must be positive.*, got '6,8'",
        ),
        (
            {"stem": "conv", "stem_channels": "6x0"},
            "and stem_strides must be positive.*, got '6x0'",
        ),
        ({"stem": "conv", "stem_channels": "2x2x2x2"}, "stem_channels must be 1 to 3 numbers up to 1,024, got 2x2x2x2"),
        ({"stem": "conv", "stem_channels": "2x9999"}, "stem_channels must be 1 to 3 numbers up to 1,024, got 2x9999"),
        ({"stem": "conv", "stem_strides": "2x2x2"}, "one for each of stem_channels 8x16, got 2x2x2"),
        ({"stem": "conv", "stem_strides": "4x2"}, "stem_strides 4x2 are too large for frames of 6x4 pixels"),
        ({"stem": "conv", "in_modes": "2x2x2x9"}, r"=72 \(2x2x2x9\) but the stem's output, 1x2x16, has 32 values"),
    ],
    ids=str,
)
def test_impossible_models_are_refused_with_their_values(change, words):
    with pytest.raises(ValueError, match=words) as error:
        ModelConfig(**SMALL | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(
    "name",
    [
        "defaults",
        "lstm",
        "bidirectional",
        "dense",
        "differences only, dense lstm",
        "differences, two layers, bidirectional",
        "stem",
        "stem, frames alone, lstm",
        "stem, differences only, two layers, bidirectional",
    ],
)
def test_clips_get_the_same_logits_padded_packed_listed_and_alone(name, pooling):
    model, frames, lengths = make(**CONFIGS[name], pooling=pooling), clips(), [3, 5, 1, 5]
    logits = model(frames, lengths=lengths)
    assert logits.shape == (4, 3)
    torch.testing.assert_close(model(frames, lengths=torch.tensor(lengths)), logits)
    packed = pack_padded_sequence(frames, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    torch.testing.assert_close(model(packed), logits)
    listed = [clip[:length] for clip, length in zip(frames, lengths, strict=True)]
    torch.testing.assert_close(model(listed), logits)
    alone = torch.cat([model(frames[number : number + 1, :length]) for number, length in enumerate(lengths)])
    torch.testing.assert_close(alone, logits)
    flat = model(frames.flatten(2).double(), lengths=lengths)
    torch.testing.assert_close(flat, logits)


def test_what_lies_behind_the_end_of_a_clip_does_not_matter():
    for pooling in POOLINGS:
        model, frames = make(pooling=pooling), clips()
        other = frames.clone()
        other[1, 2:] = 255
        torch.testing.assert_close(
            model(other, lengths=[5, 2, 5, 5]), model(frames, lengths=[5, 2, 5, 5]), rtol=0, atol=0
        )


def test_pooling_is_over_the_states_of_the_recurrent_layers():
    model, frames = make(), clips()
    output, h_n = model.rnn(frames)
    torch.testing.assert_close(model(frames), model.head(h_n[0]))
    torch.testing.assert_close(model(frames), model.head(output[:, -1]))
    for kind, pooled in (("mean", output.mean(dim=1)), ("max", output.amax(dim=1))):
        torch.testing.assert_close(make(pooling=kind)(frames), model.head(pooled))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(
    "name",
    [
        "rnn",
        "defaults",
        "lstm",
        "two layers",
        "tt recurrent",
        "dense",
        "differences",
        "differences only, dense lstm",
        "stem",
        "stem, frames alone, lstm",
    ],
)
def test_a_stream_of_frames_gets_the_logits_of_the_clip_so_far(name, pooling):
    model, (frames,) = make(**CONFIGS[name], pooling=pooling), clips(1)
    state = None
    for number, frame in enumerate(frames, start=1):
        logits, state = model.step(frame, state)
        torch.testing.assert_close(logits, model(frames[:number].unsqueeze(0))[0])


def test_probabilities_are_of_one_class_or_of_each():
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    single, several = make(), make(task="multi_label")
    assert single.probabilities(logits).sum().item() == pytest.approx(1)
    torch.testing.assert_close(several.probabilities(logits), 1 / (1 + torch.exp(-logits)))


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize(
    ("mean", "std"), [((128.0,), (30.0,)), ((90.0, 130.0, 160.0), (20.0, 28.0, 35.0))], ids=["grey", "channels"]
)
def test_gates_start_with_unit_variance_and_no_bias_for_the_data_s_own_mean_and_std(cell, mean, std):
    torch.manual_seed(0)
    model = VideoClassifier(ModelConfig(width=32, height=32, classes=("a", "b"), cell=cell, mean=mean, std=std))
    pixels = torch.randn(300, 32, 32, 3) * torch.tensor(std) + torch.tensor(mean)
    layer = model.rnn.ih_l0
    gates = layer(pixels.round().clamp(0, 255).to(torch.uint8).flatten(1)) - layer.bias
    assert 0.8 < gates.var(dim=0).mean().item() < 1.25
    assert gates.mean(dim=0).abs().max() < 0.3


def test_dropout_acts_before_the_classifier_in_training_only():
    model, frames = make(dropout=0.5), clips()
    torch.testing.assert_close(model(frames), model(frames), rtol=0, atol=0)
    model.train()
    assert not torch.equal(model(frames), model(frames))


def test_learns_to_tell_two_clips_apart():
    model, frames, labels = make(hidden_modes="2x2x2x1").train(), clips(2), torch.tensor([0, 2])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(frames), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize("name", ["defaults", "stem"])
def test_lives_as_a_module_does(name):
    settings = CONFIGS[name] | {"num_layers": 2, "recurrent_ranks": "2", "mean": (100.0, 90.0, 80.0)}
    model, frames = make(**settings), clips()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin(frames), model(frames), rtol=0, atol=0)
    other = make(seed=1, **settings)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(frames), model(frames), rtol=0, atol=0)


def test_configurations_are_hashable_and_equal_ones_have_one_hash():
    config = ModelConfig(width=8, height=8, classes=["a", "b"], mean=[1.0], sampling={"fps": 3.0})
    again = ModelConfig.from_dict(config.to_dict())
    other = dataclasses.replace(config, ranks="1")
    assert len({config, again}) == 1
    assert len({config, other}) == 2
    with pytest.raises(ValueError, match="'walking'"):
        ModelConfig(width=8, height=8, classes="walking")

"""ttrnn/quantise.py: fewer bits on disk, float32 when loaded, and what it costs is said."""

import json

import pytest
import torch

import ttrnn
from tests.ttrnn.test_export_onnx import CASES, PAPER, clips, make
from ttrnn.quantise import DTYPES, difference, pack, rounded, unpack


@pytest.mark.parametrize(("dtype", "share"), [("bfloat16", 0.5), ("int8", 0.25)])
def test_cores_take_half_or_a_quarter_of_the_bytes(dtype, share, tmp_path):
    model = make(**PAPER, hidden_modes="4x4x4x4", ranks="4")
    ttrnn.save(model, tmp_path / "model", dtype=dtype)
    size = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert size < 4 * share * model.num_params + 8 * 1024


@pytest.mark.parametrize("kwargs", [{"cell": "lstm", "recurrent_ranks": "2", "pooling": "attention"}, CASES["stem"]])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_loaded_is_what_rounded_gives(dtype, kwargs, tmp_path):
    model = make(**kwargs)
    ttrnn.save(model, tmp_path / "model", dtype=dtype)
    loaded = ttrnn.load(tmp_path / "model")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(dict(loaded.state_dict()), dict(rounded(model, dtype).state_dict()), rtol=0, atol=0)
    for batch in (1, 3):
        for num_frames in (1, 6):
            frames = clips(model, batch, num_frames)
            torch.testing.assert_close(loaded(frames), rounded(model, dtype)(frames), rtol=0, atol=0)


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0), ("bfloat16", 2**-8), ("int8", 0.5 / 127)])
def test_no_weight_moves_further_than_its_type_allows(dtype, error):
    state = make().state_dict()
    for name, weight in unpack(pack(state, dtype), dtype).items():
        bound = error * state[name].abs().max() * 1.001 if state[name].dim() > 1 else 0
        assert (weight - state[name]).abs().max() <= bound, name


def test_a_matrix_of_zeros_stays_one():
    packed = pack({"head.weight": torch.zeros(2, 3)}, "int8")
    torch.testing.assert_close(unpack(packed, "int8"), {"head.weight": torch.zeros(2, 3)})


def test_the_directory_says_how_far_logits_move(tmp_path):
    model = make()
    moved = {}
    for dtype in DTYPES:
        ttrnn.save(model, tmp_path / dtype, dtype=dtype)
        config = json.loads((tmp_path / dtype / "config.json").read_text())
        moved[dtype] = config.get("logits_moved_by", 0)
        assert config["dtype"] == dtype
        assert f"| weights | {dtype} |" in (tmp_path / dtype / "README.md").read_text()
    assert moved["float32"] == 0 < moved["bfloat16"] < moved["int8"] < 0.2
    assert moved["int8"] == difference(model, "int8")
    frames = clips(model, 1, 4)
    loss = (ttrnn.load(tmp_path / "int8")(frames) - model(frames)).abs().max().item()
    assert 0 < loss < 3 * moved["int8"] * (1 + model(frames).abs().max().item())


def test_other_types_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, int8, got 'int4'"):
        ttrnn.save(make(), tmp_path / "model", dtype="int4")
    assert list(tmp_path.iterdir()) == []

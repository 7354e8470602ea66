"""ttrnn/export.py: the ONNX files give what the model gives and are as small as the model, or are not there."""

import importlib.util
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import ttrnn.parity
from ttrnn import ModelConfig, VideoClassifier
from ttrnn.export import export_onnx_clip, export_onnx_step
from ttrnn.onnx_graph import Graph
from ttrnn.pooling import POOLINGS

MODULES = ("onnx", "onnxruntime")
needs_onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, MODULES)),
    reason=f"{' and '.join(MODULES)} are not both installed: pip install 'ttrnn[onnx]'",
)

SMALL: dict[str, Any] = {
    "width": 6, "height": 8, "classes": ("run", "jump, high", "springen ü"), "mean": (90.0, 127.5, 140.0),
    "in_modes": "4x6x6", "hidden_modes": "2x3x2", "ranks": "3"}  # fmt: skip
PAPER: dict[str, Any] = {"width": 160, "height": 120, "classes": ("a", "b"), "in_modes": "8x20x20x18"}
CASES = {
    **{
        f"{cell}, {recurrent} recurrent": {"cell": cell, "recurrent_ranks": ranks}
        for cell in ("rnn", "gru", "lstm")
        for recurrent, ranks in (("dense", "none"), ("tt", "2"))
    },
    **{f"pooling {pooling}": {"pooling": pooling} for pooling in POOLINGS},
    "two layers of an lstm, tt recurrent, mean": {
        "cell": "lstm", "num_layers": 2, "recurrent_ranks": "2", "pooling": "mean"},
    "differences, two layers": {"differences": "extra", "num_layers": 2, "pooling": "max"},
    "differences only": {"differences": "only", "cell": "lstm", "recurrent_ranks": "2"},
    "dense input": {"input": "dense"},
    **{
        f"format {name}": {"format": name, "recurrent_format": name, "recurrent_ranks": "2"}
        for name in ("cp", "tucker", "ht", "tr", "bt", "low-rank")
    },
    "format block-diagonal": {"recurrent_format": "block-diagonal", "recurrent_ranks": "3"},
    "grey, no mean, rank 1": {"channels": 1, "in_modes": "4x4x3", "mean": (0.0,), "ranks": "1", "recurrent_ranks": "1"},
    "ranks as high as they go": {"ranks": "99", "recurrent_ranks": "99"},
    "several labels": {"task": "multi_label"},
    "stem": {"stem": "conv", "in_modes": "2x2x16", "differences": "extra", "pooling": "max"},
    "stem, frames alone": {"stem": "conv", "stem_channels": "2x3x2", "stem_strides": "1x2x1", "in_modes": "auto"},
    "stem, differences only, grey": {
        "stem": "conv", "stem_channels": "4", "in_modes": "4x3x4", "differences": "only", "cell": "lstm", "channels": 1,
        "mean": (0.0,)},
}  # fmt: skip
BOTH = {
    "both directions": {"bidirectional": True},
    "both directions, two layers, differences, attention": {
        "bidirectional": True, "num_layers": 2, "differences": "extra", "pooling": "attention", "recurrent_ranks": "2"},
    "both directions of an lstm, max": {"bidirectional": True, "cell": "lstm", "pooling": "max"},
    "both directions of an rnn, mean, dense": {
        "bidirectional": True, "cell": "rnn", "pooling": "mean", "input": "dense"},
    "both directions, stem": {
        "bidirectional": True, "stem": "conv", "in_modes": "2x2x16", "differences": "extra", "pooling": "mean"},
}  # fmt: skip
# Of the formats one: a layer's product is the same part of both files.
CLIP_CASES = {
    name: changes for name, changes in (CASES | BOTH).items() if name == "format ht" or not name.startswith("format ")
}
DTYPES = {"tensor(uint8)": torch.uint8, "tensor(float)": torch.float32}
FORMS = {"step": export_onnx_step, "clip": export_onnx_clip}


def make(**kwargs: Any) -> VideoClassifier:
    """A model none of whose parameters is zero."""
    torch.manual_seed(0)
    model = VideoClassifier(ModelConfig(**{**SMALL, **kwargs}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def open_session(path: Path) -> Any:
    return importlib.import_module("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])


def run(session: Any, frames_BTHWC: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """The outputs after each frame, from zero states of the shapes that the file itself asks for."""
    batch = len(frames_BTHWC)
    state = {
        i.name: torch.zeros([batch if size == "batch" else size for size in i.shape], dtype=DTYPES[i.type])
        for i in session.get_inputs()
        if i.name != "frame"
    }
    results = []
    for frame in frames_BTHWC.unbind(1):
        feeds = {"frame": frame.numpy(), **{name: tensor.numpy() for name, tensor in state.items()}}
        outputs = [torch.from_numpy(output) for output in session.run(None, feeds)]
        results.append(dict(zip([o.name for o in session.get_outputs()], outputs, strict=True)))
        state = {name: results[-1][name.replace("_0", "_n")] for name in state}
    return results


def clips(model: VideoClassifier, batch: int, num_frames: int) -> torch.Tensor:
    config = model.config
    size = (batch, num_frames, config.height, config.width, config.channels)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


@needs_onnx
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_frame_by_frame_the_file_gives_what_step_gives(changes: dict[str, Any], tmp_path: Path) -> None:
    model = make(**changes)
    export_onnx_step(model, tmp_path / "step.onnx")
    session = open_session(tmp_path / "step.onnx")
    for batch in (1, 3):
        frames = clips(model, batch, 6)
        results = run(session, frames)
        for number in range(batch):
            state = None
            for frame, result in zip(frames[number], results, strict=True):
                with torch.no_grad():
                    logits, state = model.step(frame, state)
                (hx, previous), pooled, *kept = state
                expected = dict(zip(("h_n", "c_n"), hx if isinstance(hx, tuple) else (hx,), strict=False))
                mine = {name: result[name][:, number : number + 1] for name in expected}
                expected["logits"], mine["logits"] = logits, result["logits"][number]
                expected["scores"], mine["scores"] = model.probabilities(logits), result["scores"][number]
                carried = dict(zip(model.pooling.state(torch.zeros(1)), pooled, strict=True))
                if previous is not None:
                    carried |= {"previous": previous, "seen": torch.ones(1, 1)}
                carried |= dict(zip(("previous", "seen"), kept, strict=False))
                for name, part in carried.items():
                    expected[f"{name}_n"], mine[f"{name}_n"] = part[0], result[f"{name}_n"][number]
                assert mine.keys() == expected.keys() == result.keys()
                torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


@needs_onnx
@pytest.mark.parametrize("changes", CLIP_CASES.values(), ids=CLIP_CASES)
def test_the_clip_file_gives_what_the_model_gives_for_clips_of_all_lengths(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    model = make(**changes)
    export_onnx_clip(model, tmp_path / "clip.onnx")
    session = open_session(tmp_path / "clip.onnx")
    # 500 frames of the small models are several blocks and a part of one.
    for lengths in ([1], [7], [5, 1, 9], [500], [2, 2]):
        frames = clips(model, len(lengths), max(lengths))
        feeds = {"frames": frames.numpy(), "lengths": torch.tensor(lengths, dtype=torch.int32).numpy()}
        logits, scores = map(torch.from_numpy, session.run(["logits", "scores"], feeds))
        with torch.no_grad():
            expected = model(frames, lengths=lengths)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(scores, model.probabilities(expected), rtol=1e-4, atol=1e-5)


@needs_onnx
def test_what_lies_behind_a_clip_is_not_looked_at(tmp_path: Path) -> None:
    model = make(**BOTH["both directions, two layers, differences, attention"])
    export_onnx_clip(model, tmp_path / "clip.onnx")
    session = open_session(tmp_path / "clip.onnx")
    frames, lengths = clips(model, 2, 6).numpy(), torch.tensor([6, 3], dtype=torch.int32).numpy()
    before = session.run(None, {"frames": frames, "lengths": lengths})
    frames[1, 3:] = 255
    for old, new in zip(before, session.run(None, {"frames": frames, "lengths": lengths}), strict=True):
        assert (old == new).all()


@needs_onnx
def test_the_step_file_says_what_it_takes_and_gives(tmp_path: Path) -> None:
    difference = export_onnx_step(make(cell="lstm", num_layers=2, pooling="mean"), tmp_path / "step.onnx")
    session = open_session(tmp_path / "step.onnx")
    inputs = {i.name: (i.type, i.shape) for i in session.get_inputs()}
    assert inputs == {
        "frame": ("tensor(uint8)", ["batch", 8, 6, 3]),
        "h_0": ("tensor(float)", [2, "batch", 12]),
        "c_0": ("tensor(float)", [2, "batch", 12]),
        "sum_0": ("tensor(float)", ["batch", 12]),
        "count_0": ("tensor(float)", ["batch", 1]),
    }
    outputs = {o.name.replace("_n", "_0"): (o.type, o.shape) for o in session.get_outputs()}
    scores = ("tensor(float)", ["batch", 3])
    assert outputs == {"logits": scores, "scores": scores} | {n: inputs[n] for n in inputs if n != "frame"}
    check_metadata(session, "step", difference)


@needs_onnx
def test_the_clip_file_says_what_it_takes_and_gives(tmp_path: Path) -> None:
    difference = export_onnx_clip(make(bidirectional=True), tmp_path / "clip.onnx")
    session = open_session(tmp_path / "clip.onnx")
    assert {i.name: (i.type, i.shape) for i in session.get_inputs()} == {
        "frames": ("tensor(uint8)", ["batch", "time", 8, 6, 3]),
        "lengths": ("tensor(int32)", ["batch"]),
    }
    scores = ("tensor(float)", ["batch", 3])
    assert {o.name: (o.type, o.shape) for o in session.get_outputs()} == {"logits": scores, "scores": scores}
    check_metadata(session, "clip", difference)


def check_metadata(session: Any, form: str, difference: float) -> None:
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata.pop("classes")) == list(SMALL["classes"])
    assert json.loads(metadata.pop("sampling")) == {}
    assert float(metadata.pop("matches_within")) == pytest.approx(difference, rel=0.1)
    assert 0 < difference < 1e-4
    assert metadata == {
        "format": "ttrnn", "version": "1", "form": form, "task": "single_label",
        "width": "6", "height": "8", "channels": "3"}  # fmt: skip


@needs_onnx
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("changes", [
    pytest.param({**PAPER, "hidden_modes": "4x4x4x4", "ranks": "4", "recurrent_ranks": "4"}, id="tt recurrent"),
    pytest.param({**PAPER, "hidden_modes": "4x4x4x4", "ranks": "4"}, id="dense recurrent"),
    pytest.param({"width": 32, "height": 24, "input": "dense", "hidden_modes": "64"}, id="dense input"),
    *(pytest.param({**PAPER, "hidden_modes": "4x4x4x4", "recurrent_ranks": "3", **formats}, id=str(formats))
      for formats in ({"format": "cp", "ranks": "20", "recurrent_format": "bt"},
                      {"format": "tucker", "recurrent_format": "tr"},
                      {"format": "ht", "recurrent_format": "block-diagonal", "recurrent_ranks": "1"})),
])  # fmt: skip
def test_the_file_is_as_small_as_the_model(form: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = make(**changes)
    FORMS[form](model, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size <= 4 * model.num_params + 15_000


@needs_onnx
def test_exporting_is_quiet_names_no_path_and_leaves_the_model_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = make(dropout=0.5).double().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for form, export in FORMS.items():
        export(model, tmp_path / form)
        assert str(Path(ttrnn.__file__).parent).encode() not in (tmp_path / form).read_bytes()
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert capfd.readouterr() == ("", "")
    assert {record.name for record in caplog.records if record.levelno >= logging.INFO} == {"ttrnn.export"}


@needs_onnx
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shift", [1e-3, float("nan")], ids=["off by a thousandth", "not a number"])
def test_a_file_that_differs_from_the_model_is_not_kept(
    form: str, shift: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = VideoClassifier.forward
    monkeypatch.setattr(VideoClassifier, "forward", lambda *args, **kwargs: forward(*args, **kwargs) + shift)
    with pytest.raises(RuntimeError, match=r"outputs differ from the model's by .*not kept"):
        FORMS[form](make(), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@needs_onnx
def test_a_step_file_whose_state_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = Graph.call

    def shifted(graph: Graph, name: str, op: str, *inputs: str, **attributes: Any) -> str:
        if name == "h_n":
            op, inputs = "Add", (*inputs, graph.constant(1e-3))
        return finish(graph, name, op, *inputs, **attributes)

    monkeypatch.setattr(Graph, "call", shifted)
    # The logits follow from the same states, before the shift.
    monkeypatch.setattr(ttrnn.parity, "_LENGTHS", ([1],))
    with pytest.raises(RuntimeError, match=r"outputs differ from the model's by .*not kept"):
        export_onnx_step(make(), tmp_path / "step.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_bidirectional_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bidirectional models can't stream"):
        export_onnx_step(make(bidirectional=True), tmp_path / "step.onnx")
    assert list(tmp_path.iterdir()) == []


@needs_onnx
@pytest.mark.parametrize("name", MODULES)
def test_a_missing_module_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError) as caught:
        export_onnx_step(make(), tmp_path / "step.onnx")
    assert caught.value.name == name
    assert list(tmp_path.iterdir()) == []

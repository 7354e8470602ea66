"""ttrnn/export.py: the ONNX file does what model.step does and is as small as the model, or is not there."""

import importlib.util
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import ttrnn.export
from ttrnn import ModelConfig, VideoClassifier
from ttrnn.export import export_onnx_step
from ttrnn.pooling import POOLINGS

MODULES = ("onnx", "onnxscript", "onnxruntime")
needs_onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, MODULES)),
    reason=f"{', '.join(MODULES)} are not all installed: pip install 'ttrnn[onnx]'",
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
    "grey, no mean, rank 1": {"channels": 1, "in_modes": "4x4x3", "mean": (0.0,), "ranks": "1", "recurrent_ranks": "1"},
    "ranks as high as they go": {"ranks": "99", "recurrent_ranks": "99"},
}  # fmt: skip


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
    sizes = {i.name: [batch if size == "batch" else size for size in i.shape] for i in session.get_inputs()}
    state = {name: torch.zeros(size) for name, size in sizes.items() if name != "frame"}
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
    for batch in (1, 2, 5):
        frames = clips(model, batch, 6)
        results = run(session, frames)
        for number in range(batch):
            state = None
            for frame, result in zip(frames[number], results, strict=True):
                with torch.no_grad():
                    logits, state = model.step(frame, state)
                (hx, previous), pooled = state
                expected = dict(zip(("h_n", "c_n"), hx if isinstance(hx, tuple) else (hx,), strict=False))
                mine = {name: result[name][:, number : number + 1] for name in expected}
                expected["logits"], mine["logits"] = logits, result["logits"][number]
                carried = dict(zip(model.pooling.state(torch.zeros(1)), pooled, strict=True))
                if previous is not None:
                    carried |= {"previous": previous, "seen": torch.ones(1, 1)}
                for name, part in carried.items():
                    expected[f"{name}_n"], mine[f"{name}_n"] = part[0], result[f"{name}_n"][number]
                assert mine.keys() == expected.keys() == result.keys()
                torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


@needs_onnx
def test_the_file_says_what_it_takes_and_gives(tmp_path: Path) -> None:
    export_onnx_step(make(cell="lstm", num_layers=2, pooling="mean"), tmp_path / "step.onnx")
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
    assert outputs == {"logits": ("tensor(float)", ["batch", 3])} | {n: inputs[n] for n in inputs if n != "frame"}
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata.pop("classes")) == list(SMALL["classes"])
    assert metadata == {"width": "6", "height": "8", "channels": "3"}


@needs_onnx
@pytest.mark.parametrize("changes", [
    pytest.param({**PAPER, "hidden_modes": "4x4x4x4", "ranks": "4", "recurrent_ranks": "4"}, id="tt recurrent"),
    pytest.param({"width": 32, "height": 24, "input": "dense", "hidden_modes": "64"}, id="dense input"),
])  # fmt: skip
def test_the_file_is_as_small_as_the_model(changes: dict[str, Any], tmp_path: Path) -> None:
    model = make(**changes)
    export_onnx_step(model, tmp_path / "step.onnx")
    assert (tmp_path / "step.onnx").stat().st_size <= 4 * model.num_params + 10_000


@needs_onnx
def test_exporting_is_quiet_names_no_path_and_leaves_the_model_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = make(dropout=0.5).double().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_onnx_step(model, tmp_path / "step.onnx")
    assert str(Path(ttrnn.__file__).parent).encode() not in (tmp_path / "step.onnx").read_bytes()
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert capfd.readouterr() == ("", "")
    assert {record.name for record in caplog.records if record.levelno >= logging.INFO} == {"ttrnn.export"}


def _shift(monkeypatch: pytest.MonkeyPatch, owner: type, by: tuple[float, ...]) -> None:
    """Makes `owner` give outputs that are off by that much each."""
    forward = owner.forward

    def tampered(self: Any, frame: torch.Tensor, *state: torch.Tensor) -> Any:
        result = forward(self, frame, *state)
        if isinstance(result, tuple):
            return tuple(part + shift for part, shift in zip(result, by, strict=True))
        return result + by[0]

    monkeypatch.setattr(owner, "forward", tampered)


@needs_onnx
@pytest.mark.parametrize(("owner", "by"), [
    pytest.param(VideoClassifier, (1e-3,), id="logits"),
    pytest.param(VideoClassifier, (float("nan"),), id="logits not a number"),
    pytest.param(ttrnn.export._Step, (0, 1e-3), id="state"),
])  # fmt: skip
def test_a_file_that_differs_from_the_model_is_not_kept(
    owner: type, by: tuple[float, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _shift(monkeypatch, owner, by)
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


def test_importing_loads_none_of_them() -> None:
    code = f"import sys, ttrnn.export; sys.exit(bool({set(MODULES)} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True)

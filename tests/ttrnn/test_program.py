"""ttrnn/program.py: a torch.export program gives what model.step gives, without ttrnn, or is not there."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import ttrnn.program
from tests.ttrnn.test_export_onnx import CASES, PAPER, clips, make
from ttrnn.model import VideoClassifier
from ttrnn.program import export_program
from ttrnn.step import step_state


# To trace a step and to load it takes a second: each part of a step at least once.
@pytest.mark.parametrize("changes", [
    pytest.param(CASES["two layers of an lstm, tt recurrent, mean"], id="two layers of an lstm, tt recurrent, mean"),
    pytest.param({"differences": "extra", "pooling": "attention"}, id="gru, dense recurrent, differences, attention"),
    pytest.param({"input": "dense", "cell": "rnn", "pooling": "max"}, id="dense rnn, max"),
    pytest.param(CASES["format ht"] | {"differences": "only"}, id="format ht, differences only"),
    pytest.param(CASES["stem, frames alone"], id="stem, frames alone"),
    pytest.param(CASES["stem, differences only, grey"], id="stem, differences only, grey"),
])  # fmt: skip
def test_frame_by_frame_the_program_gives_what_the_model_gives(changes: dict[str, Any], tmp_path: Path) -> None:
    model = make(**changes)
    difference = export_program(model, tmp_path / "step.pt2")
    about = {"ttrnn.json": ""}
    module = torch.export.load(tmp_path / "step.pt2", extra_files=about).module()
    for batch in (1, 2, 5):
        frames, state = clips(model, batch, 6), tuple(step_state(model, batch).values())
        for number in range(6):
            with torch.no_grad():
                logits, scores, *state = module(frames[:, number], *state)
                expected = model(frames[:, : number + 1])
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(scores, model.probabilities(expected), rtol=1e-4, atol=1e-5)
    said = json.loads(about["ttrnn.json"])
    assert float(said["matches_within"]) == pytest.approx(difference, rel=0.1)
    assert json.loads(said["classes"]) == list(model.config.classes)


def test_the_program_needs_no_ttrnn_names_no_path_and_is_as_small_as_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(**PAPER, hidden_modes="4x4x4x4", ranks="4", recurrent_ranks="4")
    path = tmp_path / "step.pt2"
    export_program(model, path)
    assert path.stat().st_size <= 3 * 4 * model.num_params + 100_000
    assert str(Path(ttrnn.program.__file__).parent).encode() not in path.read_bytes()
    # As where ttrnn is not installed: nothing can import it, and no operator is one that it registered.
    for name in [name for name in sys.modules if name.partition(".")[0] == "ttrnn"]:
        monkeypatch.setitem(sys.modules, name, None)
    program = torch.export.load(path)
    operators = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert {getattr(operator, "namespace", operator.__module__) for operator in operators} <= {"aten", "_operator"}
    logits, *_ = program.module()(torch.zeros(3, 120, 160, 3, dtype=torch.uint8), torch.zeros(1, 3, 256))
    assert logits.shape == (3, 2)


def test_a_program_that_differs_from_the_model_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward: Any = VideoClassifier.forward
    monkeypatch.setattr(VideoClassifier, "forward", lambda *args, **kwargs: forward(*args, **kwargs) + 1e-3)
    with pytest.raises(RuntimeError, match=r"the program's outputs differ from the model's by .*not kept"):
        export_program(make(), tmp_path / "step.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_bidirectional_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bidirectional models can't stream"):
        export_program(make(bidirectional=True), tmp_path / "step.pt2")

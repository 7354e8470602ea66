"""ttrnn/program.py: a torch.export program gives what model.step gives, without ttrnn, or is not there."""

import json
import subprocess
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


@pytest.mark.parametrize("name", [
    "gru, dense recurrent", "two layers of an lstm, tt recurrent, mean", "differences only", "pooling attention",
    "dense input", "format ht", "stem", "stem, frames alone", "stem, differences only, grey",
])  # fmt: skip
def test_frame_by_frame_the_program_gives_what_the_model_gives(name: str, tmp_path: Path) -> None:
    model = make(**CASES[name])
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


def test_the_program_needs_no_ttrnn_names_no_path_and_is_as_small_as_the_model(tmp_path: Path) -> None:
    model = make(**PAPER, hidden_modes="4x4x4x4", ranks="4", recurrent_ranks="4")
    path = tmp_path / "step.pt2"
    export_program(model, path)
    assert path.stat().st_size <= 3 * 4 * model.num_params + 100_000
    assert str(Path(ttrnn.program.__file__).parent).encode() not in path.read_bytes()
    code = (
        f"import sys, torch; module = torch.export.load({str(path)!r}).module()\n"
        "logits, *_ = module(torch.zeros(3, 120, 160, 3, dtype=torch.uint8), torch.zeros(1, 3, 256))\n"
        "print(tuple(logits.shape), 'ttrnn' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout == "(3, 2) False\n"


def test_a_program_that_differs_from_the_model_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward: Any = VideoClassifier.forward
    monkeypatch.setattr(VideoClassifier, "forward", lambda *args, **kwargs: forward(*args, **kwargs) + 1e-3)
    with pytest.raises(RuntimeError, match=r"the program's outputs differ from the model's by .*not kept"):
        export_program(make(), tmp_path / "step.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_bidirectional_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bidirectional models can't stream"):
        export_program(make(bidirectional=True), tmp_path / "step.pt2")

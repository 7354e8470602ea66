"""Commands that a person waits for load only what they need. (Seconds are measured by tests/benchmarks/startup.py.)"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import ttrnn
from tests.videos import moving_square, write_video

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("ray", "optuna", "matplotlib", "onnx", "pandas", "torch._dynamo")


def loaded(calls: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...], cwd: Path) -> list[str]:
    """After each command of one process, the words of the command and those of the modules that have been loaded."""
    code = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom pipelines.__main__ import main\n"
    for names, words in calls:
        code += (
            f"try:\n    assert main({list(words)}) == 0\nexcept SystemExit as end:\n    assert not end.code\n"
            f"print()\nprint('loaded:', {words}, [name for name in {names} if name in sys.modules])\n"
        )
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("loaded: ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model directory, the model as ONNX, and a clip of each of two classes."""
    folder = tmp_path_factory.mktemp("startup")
    torch.manual_seed(0)
    sizes = {"width": 8, "height": 8, "channels": 1, "in_modes": "8x8", "hidden_modes": "2x2", "ranks": "2"}
    model = ttrnn.VideoClassifier(ttrnn.ModelConfig(**sizes, classes=("a", "b"), mean=(9.0,))).eval()
    ttrnn.save(model, folder / "model")
    ttrnn.export_onnx_step(model, folder / "model" / "step.onnx")
    for name in model.config.classes:
        (folder / "clips" / name).mkdir(parents=True)
        write_video(folder / "clips" / name / "clip.avi", moving_square())
    return folder


# The commands of a process come in the order of what they may load: the first loads least.
@pytest.mark.parametrize(
    "calls",
    [
        (
            ((*HEAVY, "torch", "numpy", "cv2", "rich"), ("--help",)),
            ((*HEAVY, "torch", "pyarrow", "scipy"), ("predict", "--help")),
            ((*HEAVY, "torch", "pyarrow", "scipy"), ("predict", "model/step.onnx", "clips")),
            ((*HEAVY, "torch"), ("evaluate", "--help")),
            ((*HEAVY, "torch"), ("evaluate", "model/step.onnx", "clips", "--split", "all")),
        ),
        (((*HEAVY, "pyarrow", "scipy"), ("predict", "model", "clips/a/clip.avi")),),
    ],
    ids=["without torch", "with torch"],
)
def test_a_command_loads_only_what_it_needs(folder: Path, calls: tuple[Any, ...]) -> None:
    lines = loaded(calls, folder)
    assert len(lines) == len(calls)
    assert all(line.endswith(" []") for line in lines), lines

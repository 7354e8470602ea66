"""Try other runtimes on an exported step: do they open it, and by how much do its logits differ over a stream?

    python -m tests.benchmarks.runtimes FOLDER        in an environment with some of the packages

FOLDER is a model directory with step.onnx and step.pt2; the first run writes stream.npz there, 20 random frames and the
logits of onnxruntime, which all later runs compare with. Each runtime has one function; those that are not installed
are skipped, so that each can have an environment of its own. Rows of the same package in docs/results/runtimes.csv are
replaced.
"""

import csv
import importlib
import importlib.metadata
import logging
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["RUNTIMES", "table"]

log = logging.getLogger("tests.benchmarks")
_CSV = Path(__file__).parents[2] / "docs" / "results" / "runtimes.csv"
_NUM_FRAMES = 20
# One step: (frame [1, H, W, C], state [layers, 1, hidden]) -> (logits [1, classes], next state).
Step = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def onnxruntime(folder: Path) -> tuple[Step, Path]:
    """The runtime that export itself verifies with."""
    session = importlib.import_module("onnxruntime").InferenceSession(folder / "step.onnx")
    return lambda frame, state: session.run(["logits", "h_n"], {"frame": frame, "h_0": state}), folder / "step.onnx"


def openvino(folder: Path) -> tuple[Step, Path]:
    """Reads step.onnx; float32 arithmetic."""
    core = importlib.import_module("openvino")
    model = core.Core().compile_model(folder / "step.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def step(frame: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = model({"frame": frame, "h_0": state})
        return found["logits"], found["h_n"]

    return step, folder / "step.onnx"


def executorch(folder: Path) -> tuple[Step, Path]:
    """Lowers step.pt2 to the XNNPACK backend and runs the .pte file."""
    torch, exir = importlib.import_module("torch"), importlib.import_module("executorch.exir")
    backend = importlib.import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    # Its memory planning takes no dynamic batch.
    program = torch.export.export(torch.export.load(folder / "step.pt2").module(), _example(folder))
    lowered = exir.to_edge_transform_and_lower(program, partitioner=[backend.XnnpackPartitioner()]).to_executorch()
    file = folder / "step.pte"
    file.write_bytes(lowered.buffer)
    method = importlib.import_module("executorch.runtime").Runtime.get().load_program(file).load_method("forward")

    def step(frame: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, _, after = method.execute([torch.from_numpy(frame), torch.from_numpy(state)])
        return logits.numpy(), after.numpy()

    return step, file


def litert_torch(folder: Path) -> tuple[Step, Path]:
    """Converts step.pt2 to a .tflite file, which the LiteRT interpreter runs."""
    torch, litert = importlib.import_module("torch"), importlib.import_module("litert_torch")
    module = torch.export.load(folder / "step.pt2").module()
    file = folder / "step.tflite"
    litert.convert(module, _example(folder)).export(str(file))
    interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter(str(file))
    run = interpreter.get_signature_runner()

    def step(frame: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = run(args_0=frame, args_1=state)
        return found["output_0"], found["output_2"]

    return step, file


def emx_onnx_cgen(folder: Path) -> tuple[Step, Path]:
    """Generates C from step.onnx, compiled with cc; the size is that of the compiled library."""
    ctypes = importlib.import_module("ctypes")
    source, library = folder / "emx.c", folder / "emx.so"
    program = str(Path(sys.executable).with_name("emx-onnx-cgen"))
    _run(program, "compile", "step.onnx", "emx.c", "--model-name", "step", "--input-dim", "batch=1", cwd=folder)
    _run("cc", "-O2", "-shared", "-fPIC", str(source), "-o", str(library), "-lm", cwd=folder)
    call = ctypes.CDLL(str(library)).step
    with np.load(folder / "stream.npz") as stream:
        logits, scores = (np.zeros_like(stream["logits"][:1]) for _ in range(2))

    def step(frame: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        after = np.zeros_like(state)
        call(*(array.ctypes.data_as(ctypes.c_void_p) for array in (frame, state, logits, scores, after)))
        return logits.copy(), after

    return step, library


def tinygrad(folder: Path) -> tuple[Step, Path]:
    """Reads step.onnx."""
    grad = importlib.import_module("tinygrad")
    run = importlib.import_module("tinygrad.nn.onnx").OnnxRunner(str(folder / "step.onnx"))

    def step(frame: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = run({"frame": grad.Tensor(frame), "h_0": grad.Tensor(state)})
        return found["logits"].numpy(), found["h_n"].numpy()

    return step, folder / "step.onnx"


def mnn(folder: Path) -> tuple[Step, Path]:
    """Converts step.onnx with mnnconvert."""
    expr, nn = importlib.import_module("MNN.expr"), importlib.import_module("MNN.nn")
    file = folder / "step.mnn"
    program = str(Path(sys.executable).with_name("mnnconvert"))
    _run(program, "-f", "ONNX", "--modelFile", "step.onnx", "--MNNModel", file.name, "--bizCode", "x", cwd=folder)
    net = nn.load_module_from_file(str(file), ["frame", "h_0"], ["logits", "h_n"])

    def variable(array: np.ndarray, kind: Any) -> Any:
        return expr.const(np.ascontiguousarray(array), list(array.shape), expr.NCHW, kind)

    def step(frame: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, after = net.forward([variable(frame, expr.uint8), variable(state, expr.float)])
        return np.array(logits.read()), np.array(after.read()).reshape(state.shape)

    return step, file


RUNTIMES: Mapping[str, Callable[[Path], tuple[Step, Path]]] = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "executorch": executorch,
    "litert-torch": litert_torch,
    "emx-onnx-cgen": emx_onnx_cgen,
    "tinygrad": tinygrad,
    "mnn": mnn,
}
"""By the name of the package on PyPI."""


def _example(folder: Path) -> tuple[Any, Any]:
    """Tensors for a frame and a state."""
    torch = importlib.import_module("torch")
    with np.load(folder / "stream.npz") as stream:
        return torch.from_numpy(stream["frame"]), torch.from_numpy(stream["state"])


def _run(*words: str, cwd: Path) -> None:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])


def tried(name: str, folder: Path) -> dict[str, Any]:
    """The row of a runtime: its version, and the largest difference of logits or the reason why it does not work."""
    version = importlib.metadata.version(name)
    row = {"package": name, "version": version, "opens": "", "kB": "", "difference": "", "works": "yes", "reason": ""}
    try:
        step, file = RUNTIMES[name](folder)
        row |= {"opens": file.name, "kB": round(file.stat().st_size / 1000)}
        with np.load(folder / "stream.npz") as stream:
            state, worst = stream["state"], 0.0
            for frame, expected in zip(stream["frames"], stream["logits"], strict=True):
                logits, state = step(frame[None], state)
                worst = max(worst, float(np.abs(logits - expected).max()))
        row["difference"] = f"{worst:.1e}"
    # Each of these packages has exceptions of its own.
    except Exception as error:
        row |= {"works": "no", "reason": " ".join(str(error).split())[:150] or type(error).__name__}
    return row


def record_stream(folder: Path) -> None:
    """Writes stream.npz: random frames, the first state, and the logits by onnxruntime."""
    session = importlib.import_module("onnxruntime").InferenceSession(folder / "step.onnx")
    shapes = {part.name: [1 if isinstance(n, str) else n for n in part.shape] for part in session.get_inputs()}
    frames = np.random.default_rng(0).integers(0, 256, (_NUM_FRAMES, *shapes["frame"][1:]), np.uint8)
    first = state = np.zeros(shapes["h_0"], np.float32)
    logits = []
    for frame in frames:
        found, state = session.run(["logits", "h_n"], {"frame": frame[None], "h_0": state})
        logits.append(found[0])
    np.savez(folder / "stream.npz", frames=frames, frame=frames[:1], state=first, logits=np.stack(logits))


def table(rows: Iterable[Mapping[str, str]]) -> str:
    """Markdown; rows are those of the CSV."""
    lines = ["| package | version | file | kB | largest difference of logits |", "|---|---|---|---|---|"]
    for row in rows:
        result = row["difference"] if row["works"] == "yes" else f"does not work: {row['reason']}".replace("|", "/")
        lines.append(f"| {row['package']} | {row['version']} | {row['opens']} | {row['kB']} | {result} |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Tries what is installed and updates the CSV; returns the exit code."""
    folder = Path(argv[0])
    if not (folder / "stream.npz").exists():
        record_stream(folder)
    installed = {part.metadata["Name"].lower().replace("_", "-") for part in importlib.metadata.distributions()}
    rows = [tried(name, folder) for name in RUNTIMES if name in installed]
    about = {"date": date.today().isoformat(), "command": "python -m tests.benchmarks.runtimes FOLDER"}
    old = list(csv.DictReader(_CSV.open(encoding="utf-8"))) if _CSV.exists() else []
    found = {row["package"]: row for row in [*old, *({**row, **about} for row in rows)]}
    with _CSV.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *about], lineterminator="\n")
        writer.writeheader()
        writer.writerows(found[name] for name in RUNTIMES if name in found)
    for row in rows:
        log.info("%s", row)
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main(sys.argv[1:]))

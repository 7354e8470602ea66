"""Write a model as C, compile it and compare it with the model.

Legend: T time, C classes.
"""

import logging
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttrnn.files import atomic_directory
from ttrnn.integer import IntegerModel
from ttrnn.model import VideoClassifier
from ttrnn.portable.c import c_files
from ttrnn.portable.c_tables import Weights, state_bytes, watch_bytes
from ttrnn.portable.rounding import integer_model
from ttrnn.portable.weights import ModelWeights

__all__ = ["C_FLAGS", "compiled", "export_c", "outputs"]

log = logging.getLogger(__name__)

_Array = NDArray[Any]
C_FLAGS = ("-std=c99", "-O2", "-Wall", "-Wextra", "-pedantic")
_TOLERANCE = 1e-5
"""of probabilities"""
_TIME_LIMIT_S = 600


def export_c(
    model: VideoClassifier,
    folder: str | Path,
    dtype: str = "float32",
    calibration: Sequence[_Array] = (),
    clips: Sequence[_Array] = (),
    events: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes model.h, model.c, main.c, Makefile and sketch.ino, if they give what the model gives.

    Args:
        model: In eval mode, on the CPU; not changed.
        folder: To write, whole or not at all.
        dtype: float32, or int8 with weights rounded row by row.
        calibration: uint8 (T, height, width, channels) each, of the train split; for int8.
        clips: The same of another split, to compare on; none: clips of noise.
        events: `events` of the model's config.json, window, hop and thresholds by class; None: no `ttrnn_watch`.

    Returns:
        dtype, ram_bytes (of a ttrnn_state), watch_bytes (of a ttrnn_watch; None without events), compiled (False if
        there is no `cc` on the PATH), difference (the largest between the probabilities of the C code, or without `cc`
        of the whole numbers, and of the model; None if nothing was compared), and num_frames compared.

    Raises:
        ValueError: the model is bidirectional, or int8 without clips to calibrate on.
        RuntimeError: the code doesn't compile, gives other results, or int8 is not equal to ttrnn.integer bit for bit.
    """
    weights = integer_model(model, calibration) if dtype == "int8" else ModelWeights.of(model)
    clips = clips or _noise(model)
    difference, num_frames = None, sum(map(len, clips))
    is_compiled = shutil.which("cc") is not None
    if is_compiled:
        with tempfile.TemporaryDirectory() as temporary:
            found = outputs(compiled(weights, Path(temporary), events=events), weights, clips)
        difference = _compare(model, weights, clips, found)
        accuracy = f"Probabilities are within {difference:.1e} of the float32 model's on {num_frames:,} frames"
        accuracy += "; bit for bit those of ttrnn.integer." if dtype == "int8" else "."
    else:
        log.warning("no cc on the PATH: model.c is written, but was not compiled and not compared with the model")
        accuracy = "Not compiled at export and not compared with the model: there was no cc."
    with atomic_directory(folder) as directory:
        for name, text in c_files(weights, accuracy=accuracy, events=events).items():
            (directory / name).write_text(text, encoding="utf-8")
    log.info("C in %s: a state of %d bytes. %s", dtype, state_bytes(weights), accuracy)
    return {
        "dtype": dtype,
        "ram_bytes": state_bytes(weights),
        "watch_bytes": watch_bytes(weights, events) if events else None,
        "compiled": is_compiled,
        "difference": difference,
        "num_frames": num_frames if is_compiled else 0,
    }


def compiled(
    weights: Weights, folder: Path, *flags: str, compiler: str = "cc", events: Mapping[str, Any] | None = None
) -> Path:
    """Writes and compiles the model and check.c, which reads clips and writes logits and scores; returns the program.

    Raises:
        RuntimeError: the compiler fails.
    """
    check = (resources.files("ttrnn.portable") / "c_source" / "check.c").read_text(encoding="utf-8")
    for name, text in {**c_files(weights, events=events), "check.c": check}.items():
        (folder / name).write_text(text, encoding="utf-8")
    command = [compiler, *(flags or C_FLAGS), "-o", "check", "check.c", "model.c", "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=_TIME_LIMIT_S, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.decode(errors="replace").splitlines() if "error" in line]
        raise RuntimeError(f"{compiler} can't compile the model: {(lines or [f'exit code {done.returncode}'])[0]}")
    return folder / "check"


def outputs(
    program: Path | Sequence[str | Path], weights: Weights, clips: Sequence[_Array]
) -> list[tuple[_Array, _Array]]:
    """Logits and scores (T + 1, C) of each clip, before the first frame and after each, by a program of `compiled`."""
    num_classes = len(weights.head_bias)
    kinds = ("<i4", "<u2") if isinstance(weights, IntegerModel) else ("<f4", "<f4")
    row = np.dtype([("logits", kinds[0], (num_classes,)), ("scores", kinds[1], (num_classes,))])
    data = b"".join(np.array(len(clip), "<u4").tobytes() + np.ascontiguousarray(clip).tobytes() for clip in clips)
    command = [program] if isinstance(program, Path) else program
    done = subprocess.run(command, input=data, capture_output=True, timeout=_TIME_LIMIT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"the compiled model ends with exit code {done.returncode}: {done.stderr[-300:].decode()}")
    rows = np.frombuffer(done.stdout, row)
    parts = np.split(rows, np.cumsum([len(clip) + 1 for clip in clips])[:-1])
    return [(part["logits"], part["scores"]) for part in parts]


def _compare(
    model: VideoClassifier, weights: Weights, clips: Sequence[_Array], found: Sequence[tuple[_Array, _Array]]
) -> float:
    """The largest difference between probabilities. Raises RuntimeError if there is one that should not be."""
    differences = []
    for clip, (logits, scores) in zip(clips, found, strict=True):
        if isinstance(weights, IntegerModel):
            expected = weights(clip)
            if not (np.array_equal(logits, expected[0]) and np.array_equal(scores, expected[1])):
                raise RuntimeError("the C code in int8 is not equal to ttrnn.integer bit for bit: not kept")
            scores = scores / 32768
        stream = model.stream()
        theirs = np.stack([stream.push(frame).float().numpy() for frame in clip])
        differences.append(float(abs(scores[1:] - theirs).max()))
    # Not >, so that NaN is refused too.
    if not isinstance(weights, IntegerModel) and not max(differences) <= _TOLERANCE:
        raise RuntimeError(
            f"the C code's probabilities differ from the model's by {max(differences):.1e}, more than "
            f"{_TOLERANCE:.0e}: not kept"
        )
    return max(differences)


def _noise(model: VideoClassifier) -> list[_Array]:
    config, rng = model.config, np.random.default_rng(0)
    return [
        rng.integers(0, 256, (length, config.height, config.width, config.channels), dtype=np.uint8)
        for length in (8, 1, 3)
    ]

"""Package a trained model: a model directory with float32 or rounded weights, ONNX files and a torch.export program."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ttrnn.checkpoint
from pipelines.core.errors import UserError, user_errors
from pipelines.data.shards import DATASET_JSON
from pipelines.evaluation.c_form import write_c
from pipelines.evaluation.classifier import load_model
from pipelines.evaluation.evaluator import evaluate_model
from pipelines.storage.location import Location
from ttrnn.checkpoint import read_config
from ttrnn.files import atomic_directory
from ttrnn.model import VideoClassifier
from ttrnn.program import export_program
from ttrnn.quantise import rounded

__all__ = ["check_out", "package_model"]

log = logging.getLogger(__name__)


def check_out(out: Path, *, overwrite: bool) -> None:
    """Raises UserError if a directory exists and is not to be replaced, or is no model directory."""
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists; --overwrite replaces it")
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]) and not (out / "model.safetensors").exists():
        raise UserError(f"{out} is no model directory and is not replaced; give another OUT")


def package_model(
    model_dir: Path,
    out: Path,
    results: Mapping[str, Any],
    *,
    dtype: str = "float32",
    onnx: bool = False,
    program: bool = False,
    c: bool = False,
) -> dict[str, Any]:
    """Writes a model directory, whole or not at all.

    Args:
        model_dir: The model directory to package.
        out: The directory to write, which is replaced.
        results: Training results to add to those of the model.
        dtype: Of the weights on disk: float32, bfloat16 or int8.
        onnx: Also write clip.onnx and, unless the model is bidirectional, step.onnx.
        program: Also write step.pt2.
        c: Also write the folder c: the model as C, in float32 or int8.

    Returns:
        num_params, input_params, dtype, num_bytes, files {name: bytes}, and the results, with val_metric_rounded and
        lost_by_rounding if weights were rounded and the validation split is available.

    Raises:
        UserError: the model is damaged, a package for ONNX is missing, or the model cannot be exported as a program or
            as C.
    """
    model = load_model(model_dir).cpu()
    results = {**read_config(model_dir)["results"], **results}
    # ONNX files and the program get the same rounded weights as the model directory.
    exported = model if dtype == "float32" else rounded(model, dtype)
    if dtype != "float32":
        results |= _rounding_loss(model_dir, exported, results)
    with atomic_directory(out) as directory:
        ttrnn.checkpoint.write(model, directory, results, dtype)
        if onnx:
            _write_onnx(exported, directory)
        if program:
            with user_errors("--program"):
                export_program(exported, directory / "step.pt2")
        if c:
            # In int8 of the exact weights: they are rounded row by row, not once for each core.
            results["c"] = write_c(model if dtype == "int8" else exported, directory / "c", results, dtype)
    files = {str(file.relative_to(out)): file.stat().st_size for file in sorted(out.rglob("*")) if file.is_file()}
    return {
        "num_params": model.config.num_params,
        "input_params": model.config.input_params,
        **results,
        "dtype": dtype,
        "num_bytes": sum(files.values()),
        "files": files,
    }


def _rounding_loss(model_dir: Path, model: VideoClassifier, results: Mapping[str, Any]) -> dict[str, Any]:
    """The metric with rounded weights on the validation split, and by how much it is lower than with exact weights."""
    shards = results.get("shards")
    if results.get("watch_test") or shards is None or not (Location.of(shards) / DATASET_JSON).exists():
        log.warning(
            "the shards %s are gone, or have no validation split: the loss by rounding is not evaluated", shards
        )
        return {}
    with tempfile.TemporaryDirectory() as directory:
        ttrnn.save(model, Path(directory, "model"), dict(results))
        value = evaluate_model(Path(directory, "model"), shards, "val")["value"]
    exact = evaluate_model(model_dir, shards, "val")["value"]
    return {"val_metric_rounded": value, "lost_by_rounding": exact - value}


def _write_onnx(model: VideoClassifier, out: Path) -> None:
    from ttrnn.export import export_onnx_clip, export_onnx_step

    try:
        export_onnx_clip(model, out / "clip.onnx")
        if model.config.bidirectional:
            log.info("no step.onnx: a bidirectional model needs the last frame first, so it can't stream")
        else:
            export_onnx_step(model, out / "step.onnx")
    except ImportError as error:
        raise UserError(f"--onnx needs {error.name}; install it with: pip install 'ttrnn[onnx]'") from error

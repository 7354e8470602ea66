"""Package a trained model: a model directory with float32 or rounded weights, ONNX files, a program, JavaScript."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import ttrnn.checkpoint
from pipelines.core.errors import UserError, user_errors
from pipelines.data.folds import Folding, folds_of, open_folds
from pipelines.data.shards import DATASET_JSON
from pipelines.evaluation.c_form import write_c
from pipelines.evaluation.classifier import open_classifier
from pipelines.evaluation.evaluator import evaluate_model
from pipelines.evaluation.run_clips import clips_of_run
from pipelines.evaluation.thresholds import choose_rule, default_window
from pipelines.evaluation.torch_classifier import load_model
from pipelines.storage.location import Location
from ttrnn.config_file import read_config, read_events
from ttrnn.events import EventRule
from ttrnn.files import atomic_directory
from ttrnn.model import VideoClassifier
from ttrnn.portable.js import demo_page, export_js
from ttrnn.program import export_program
from ttrnn.quantise import rounded

__all__ = ["check_out", "package_model"]

log = logging.getLogger(__name__)

# Exported forms are compared on so many clips of the validation split, and so many frames of each.
_NUM_COMPARED, _MOST_FRAMES = 8, 40


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
    js: bool = False,
    c: bool = False,
    false_alarms_per_hour: float | None = None,
    window: int | None = None,
) -> dict[str, Any]:
    """Writes a model directory, whole or not at all.

    Args:
        model_dir: The model directory to package.
        out: The directory to write, which is replaced.
        results: Training results to add to those of the model.
        dtype: Of the weights on disk: float32, bfloat16 or int8.
        onnx: Also write clip.onnx and, unless the model is bidirectional, step.onnx.
        program: Also write step.pt2.
        js: Also write model.js and demo.html.
        c: Also write the folder c: the model as C, in float32 or int8.
        false_alarms_per_hour: Choose thresholds for events (`choose_rule`); None: keep those of the model, if any.
        window: For the choice, in frames; None: `default_window`.

    Returns:
        num_params, input_params, dtype, num_bytes, files {name: bytes}, and the results, with val_metric_rounded and
        lost_by_rounding if weights were rounded and the validation split is available, and with events, what was seen
        when thresholds were chosen.

    Raises:
        UserError: the model is damaged, a package for ONNX is missing, the model cannot be exported as a program, in
            JavaScript or as C, or thresholds cannot be chosen.
    """
    model = load_model(model_dir).cpu()
    results = {**read_config(model_dir)["results"], **results}
    # ONNX files and the program get the same rounded weights as the model directory.
    exported = model if dtype == "float32" else rounded(model, dtype)
    if dtype != "float32":
        results |= _rounding_loss(model_dir, exported, results)
    events = read_events(model_dir)
    if false_alarms_per_hour is not None:
        events, results["events"] = _choose_events(exported, results, false_alarms_per_hour, window)
    elif events is not None and dtype != "float32":
        log.warning("the thresholds for events were chosen without rounding; give --false-alarms-per-hour again")
    compared = _compared(results) if js or c else []
    with atomic_directory(out) as directory:
        ttrnn.checkpoint.write(model, directory, results, dtype, events)
        if onnx:
            _write_onnx(exported, directory)
        if program:
            with user_errors("--program"):
                export_program(exported, directory / "step.pt2")
        rule = read_config(directory).get("events")
        if js:
            with user_errors("--js"):
                export_js(exported, directory / "model.js", dtype, compared, rule)
            page = demo_page((directory / "model.js").read_text(encoding="utf-8"))
            (directory / "demo.html").write_text(page, encoding="utf-8")
        if c:
            # In int8 of the exact weights: they are rounded row by row, not once for each core.
            source = model if dtype == "int8" else exported
            results["c"] = write_c(source, directory / "c", results, dtype, compared, rule)
    files = {str(file.relative_to(out)): file.stat().st_size for file in sorted(out.rglob("*")) if file.is_file()}
    return {
        "num_params": model.config.num_params,
        "input_params": model.config.input_params,
        **results,
        **({"events": {**events.to_dict(), **results.get("events", {})}} if events is not None else {}),
        "dtype": dtype,
        "num_bytes": sum(files.values()),
        "files": files,
    }


def _rounding_loss(model_dir: Path, model: VideoClassifier, results: Mapping[str, Any]) -> dict[str, Any]:
    """The metric with rounded weights on the validation split, and by how much it is lower than with exact weights."""
    if not _has_validation(results):
        text = "the shards %s are gone, or have no validation split: the loss by rounding is not evaluated"
        log.warning(text, results.get("shards"))
        return {}
    shards = results["shards"]
    with tempfile.TemporaryDirectory() as directory:
        ttrnn.save(model, Path(directory, "model"), dict(results))
        value = evaluate_model(Path(directory, "model"), shards, "val")["value"]
    exact = evaluate_model(model_dir, shards, "val")["value"]
    return {"val_metric_rounded": value, "lost_by_rounding": exact - value}


def _compared(results: Mapping[str, Any]) -> list[np.ndarray]:
    """Clips to compare exported forms on, uint8 [T, H, W, C]; [] without a validation split."""
    clips = [] if results.get("watch_test") else clips_of_run(results, "val", _NUM_COMPARED)
    return [clip[:_MOST_FRAMES] for clip in clips]


def _has_validation(results: Mapping[str, Any]) -> bool:
    shards = results.get("shards")
    return not results.get("watch_test") and shards is not None and (Location.of(shards) / DATASET_JSON).exists()


def _choose_events(
    model: VideoClassifier, results: Mapping[str, Any], limit: float, window: int | None
) -> tuple[EventRule, dict[str, Any]]:
    """Chooses thresholds on the validation split of the shards that the model was trained on."""
    shards = results.get("shards")
    if results.get("watch_test") or shards is None:
        raise UserError(
            "--false-alarms-per-hour needs a validation split, which this model was trained on too, or which it does "
            "not record; give a run of train without --watch-test"
        )
    split = open_folds(shards, Folding(**folds_of(results))).split("val")
    with tempfile.TemporaryDirectory() as directory:
        ttrnn.save(model, Path(directory, "model"))
        classifier = open_classifier(Path(directory, "model"))
    if classifier.why_no_stream:
        raise UserError(f"--false-alarms-per-hour needs a model that streams, but {classifier.why_no_stream}")
    if window is None:
        window = default_window(split, classifier.classes)
    return choose_rule(classifier, split, limit=limit, window=window)


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

"""Write a model as C, with clips of its run to calibrate on and to compare on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.errors import UserError, user_errors
from pipelines.data.folds import Folding, open_folds
from pipelines.data.shards import DATASET_JSON
from pipelines.storage.location import Location
from ttrnn.model import VideoClassifier

__all__ = ["clips_of_run", "write_c"]

# Of the train split, spread over it, to find the ranges of values; of each, integer_model looks at 32 frames.
_NUM_CALIBRATION = 64
# Of the validation split.
_NUM_COMPARED, _MOST_FRAMES = 8, 40


def write_c(model: VideoClassifier, folder: Path, results: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Writes a model as C, see `export_c`, and returns what that does.

    Args:
        model: In eval mode, on the CPU; in float32, also for int8, which rounds row by row.
        folder: To write.
        results: Of the run, which name its shards.
        dtype: Of the weights: float32 or int8; bfloat16 gives float32.

    Raises:
        UserError: the model is bidirectional, the compiled code differs from it, or int8 has no train split.
    """
    from ttrnn.portable.c_export import export_c

    is_int8 = dtype == "int8"
    calibration = clips_of_run(results, "train", _NUM_CALIBRATION) if is_int8 else []
    if is_int8 and not calibration:
        raise UserError(
            f"--c with --dtype int8 calibrates on the train split, but the shards {results.get('shards')} are gone; "
            "bring them back, or leave out --dtype int8"
        )
    compared = [] if results.get("watch_test") else clips_of_run(results, "val", _NUM_COMPARED)
    with user_errors("--c"):
        return export_c(
            model, folder, "int8" if is_int8 else "float32", calibration, [c[:_MOST_FRAMES] for c in compared]
        )


def clips_of_run(results: Mapping[str, Any], split: str, num_clips: int) -> list[np.ndarray]:
    """Clips of a split that a model was trained with, uint8 [T, H, W, C], spread evenly; [] if the shards are gone."""
    shards = results.get("shards")
    if shards is None or not (Location.of(shards) / DATASET_JSON).exists():
        return []
    folds = {name: results[name] for name in ("folds", "fold", "split_by")} if results.get("folds") else {}
    data = open_folds(Location.of(shards), Folding(**folds))
    if split not in data.splits and split not in (data.rows or {}):
        return []
    clips = data.split(split)
    chosen = np.unique(np.linspace(0, len(clips) - 1, min(num_clips, len(clips))).astype(int))
    return [np.array(clips[int(number)].frames) for number in chosen]

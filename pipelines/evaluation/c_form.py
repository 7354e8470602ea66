"""Write a model as C, with clips of its run to calibrate on and to compare on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.errors import UserError, user_errors
from pipelines.evaluation.run_clips import clips_of_run
from ttrnn.model import VideoClassifier

__all__ = ["write_c"]

# Of the train split, spread over it, to find the ranges of values; of each, integer_model looks at 32 frames.
_NUM_CALIBRATION = 64


def write_c(
    model: VideoClassifier,
    folder: Path,
    results: Mapping[str, Any],
    dtype: str,
    compared: Sequence[np.ndarray],
    events: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes a model as C, see `export_c`, and returns what that does.

    Args:
        model: In eval mode, on the CPU; in float32, also for int8, which rounds row by row.
        folder: To write.
        results: Of the run, which name its shards.
        dtype: Of the weights: float32 or int8; bfloat16 gives float32.
        compared: Clips to compare the compiled code on; none: noise.
        events: `events` of the config.json of the model directory, for `ttrnn_watch`.

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
    with user_errors("--c"):
        return export_c(model, folder, "int8" if is_int8 else "float32", calibration, compared, events)

"""Read clips of the run that a model comes from, to calibrate and to compare its exported forms."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.data.folds import Folding, folds_of, open_folds
from pipelines.data.shards import DATASET_JSON
from pipelines.storage.location import Location

__all__ = ["clips_of_run"]


def clips_of_run(results: Mapping[str, Any], split: str, num_clips: int) -> list[np.ndarray]:
    """Clips of a split that a model was trained with, uint8 [T, H, W, C], spread evenly; [] if the shards are gone."""
    shards = results.get("shards")
    if shards is None or not (Location.of(shards) / DATASET_JSON).exists():
        return []
    data = open_folds(Location.of(shards), Folding(**folds_of(results)))
    if split not in data.splits and split not in (data.rows or {}):
        return []
    clips = data.split(split)
    chosen = np.unique(np.linspace(0, len(clips) - 1, min(num_clips, len(clips))).astype(int))
    return [np.array(clips[int(number)].frames) for number in chosen]

"""Split a data set of shards again, for cross-validation, without decoding anything."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.errors import UserError
from pipelines.data.clip import ListedClip
from pipelines.data.dataset import ShardDataset, Split
from pipelines.data.splits import SPLITS, SplitOptions, assign_splits
from pipelines.storage.location import Location

__all__ = ["Folding", "folds_of", "open_folds", "resplit", "without_val"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Folding:
    """Which splits to use: those of the shards, or new folds."""

    folds: int | None = None
    """split all clips again into this many parts; None: the splits of the shards"""
    fold: int | None = None
    """the part that is the test split, from 0"""
    split_by: str = "group"
    """keep groups whole (group), or split clips one by one (clip)"""
    watch_test: bool = False
    """train on val as well, and use the test split as validation split"""

    def __post_init__(self) -> None:
        if self.split_by not in ("group", "clip"):
            raise ValueError(f"split_by must be one of group, clip, got {self.split_by!r}")
        if self.folds is None and (self.fold is not None or self.split_by != "group"):
            raise ValueError(f"fold {self.fold} and split_by {self.split_by} need folds: into how many parts?")
        if self.folds is not None and (self.folds < 2 or self.fold is None or not 0 <= self.fold < self.folds):
            raise ValueError(f"folds >= 2 and 0 <= fold < folds must hold, got folds {self.folds}, fold {self.fold}")


def folds_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """The folds that a model was trained on, by option, from the results in its config.json; {} without folds."""
    return {name: results[name] for name in ("folds", "fold", "split_by")} if results.get("folds") else {}


def open_folds(shards: str | Path | Location, folding: Folding) -> ShardDataset:
    """Opens a data set with the splits that `folding` describes.

    The folds depend on the names of clips and groups only, not on the seed of a run: all models have the same ones.

    Raises:
        UserError: damaged shards, or groups or classes that cannot be split in this way.
    """
    data = ShardDataset.open(shards)
    if folding.folds is not None:
        assert folding.fold is not None
        leak = folding.split_by == "clip"
        try:
            data = resplit(data, SplitOptions(folds=folding.folds, fold=folding.fold, allow_group_leak=leak))
        except UserError as error:
            # The message mentions the options of preprocess.
            text = str(error).replace("--allow-group-leak", "--split-by clip").replace("--seed", "number of --folds")
            raise UserError(text) from error
    return without_val(data) if folding.watch_test else data


def resplit(data: ShardDataset, options: SplitOptions) -> ShardDataset:
    """Splits the clips of all splits again into train, val and test, by their names, labels and groups.

    The order within a split is that of the shards. Mean and standard deviation are those of the new train split,
    computed from a sample.

    Raises:
        UserError: groups or classes that cannot be split in this way; see splits.assign_splits.
    """
    clips = data.clips()
    listed = [
        ListedClip(clip_id, frozenset(data.classes[label] for label in labels), group)
        for clip_id, labels, group in zip(clips.clip_ids, clips.labels, clips.groups, strict=True)
    ]
    rows: dict[str, list[int]] = {split: [] for split in SPLITS}
    for row, split in enumerate(assign_splits(listed, options)):
        rows[split].append(row)
    return _view(data, rows)


def without_val(data: ShardDataset) -> ShardDataset:
    """Moves the clips of val to train and uses the test split as val, as in papers that select on their test split."""
    numbers = itertools.count()
    original = {name: list(itertools.islice(numbers, split["num_clips"])) for name, split in data.splits.items()}
    train, val, test = (list((data.rows or original).get(name, [])) for name in SPLITS)
    return _view(data, {"train": sorted(train + val), "val": test, "test": test})


def _view(data: ShardDataset, rows: Mapping[str, Sequence[int]]) -> ShardDataset:
    view = dataclasses.replace(data, rows={name: tuple(own) for name, own in rows.items()})
    mean, std = _pixel_statistics(view.split("train"))
    return dataclasses.replace(view, mean=mean, std=std)


def _pixel_statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, from at most some 500 clips and 31 frames of each."""
    # For each channel, how many pixels have each of the 256 values: integers add up in any order.
    counts = np.zeros((split.frame.channels, 256), np.int64)
    for index in range(0, len(split), max(1, len(split) // 256)):
        frames = split[index].frames
        for frame in frames[:: max(1, len(frames) // 16)]:
            for channel in range(split.frame.channels):
                counts[channel] += np.bincount(frame[..., channel].reshape(-1), minlength=256)
    values, shares = np.arange(256), counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt(shares @ values**2 - mean**2)
    # For a channel without contrast: pixels are divided by it.
    return tuple(mean.tolist()), tuple(float(value) or 1.0 for value in std)

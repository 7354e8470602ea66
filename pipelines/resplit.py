"""Views of a data set of shards whose clips are dealt out to the splits anew; nothing is decoded or written."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.shards import ShardDataset, Split
from pipelines.splits import SPLITS, Row, SplitOptions, assign_splits

__all__ = ["resplit", "without_val"]


def resplit(data: ShardDataset, options: SplitOptions) -> ShardDataset:
    """All clips, whatever their split, dealt out to train, val and test by their names, labels and groups.

    The order within a split is that of the shards. Mean and standard deviation are those of the new train split, by
    some frames of some hundred clips.

    Raises:
        UserError: groups or classes that can't be split so; see splits.assign_splits.
    """
    clips = data.clips()
    rows = [
        Row(clip_id, frozenset(data.classes[label] for label in labels), group)
        for clip_id, labels, group in zip(clips.clip_ids, clips.labels, clips.groups, strict=True)
    ]
    dealt: dict[str, list[int]] = {split: [] for split in SPLITS}
    for number, split in enumerate(assign_splits(rows, options)):
        dealt[split].append(number)
    return _view(data, dealt)


def without_val(data: ShardDataset) -> ShardDataset:
    """The clips of val go to train, and val is the test split: as papers have it that watch their test split."""
    numbers = itertools.count()
    made = {name: list(itertools.islice(numbers, split["num_clips"])) for name, split in data.splits.items()}
    train, val, test = (list((data.dealt or made).get(name, [])) for name in SPLITS)
    return _view(data, {"train": sorted(train + val), "val": test, "test": test})


def _view(data: ShardDataset, dealt: Mapping[str, Sequence[int]]) -> ShardDataset:
    view = dataclasses.replace(data, dealt={name: tuple(rows) for name, rows in dealt.items()})
    mean, std = _pixel_statistics(view.split("train"))
    return dataclasses.replace(view, mean=mean, std=std)


def _pixel_statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of at most some 500 clips, 16 to 31 frames of each that has as many."""
    # Of each channel, how many pixels have each of the 256 values: integers, so that no order matters.
    counts = np.zeros((split.frame.channels, 256), np.int64)
    for index in range(0, len(split), max(1, len(split) // 256)):
        frames = split[index].frames
        for frame in frames[:: max(1, len(frames) // 16)]:
            for channel in range(split.frame.channels):
                counts[channel] += np.bincount(frame[..., channel].reshape(-1), minlength=256)
    values, shares = np.arange(256), counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt(shares @ values**2 - mean**2)
    # A channel without any contrast would be divided by zero.
    return tuple(mean.tolist()), tuple(float(value) or 1.0 for value in std)

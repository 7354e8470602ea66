"""Clips from shards to batches on their way to the model: order, alteration, labels, one batch ahead of training.

Legend: B batch, T time, D frame size, C classes.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from pipelines.data.augment import Augmentation
from pipelines.data.dataset import Split

__all__ = ["Batch", "ahead", "batches", "epoch_seed", "epoch_steps", "num_steps"]


Item = TypeVar("Item")
Made = TypeVar("Made")
# Clips are shuffled among all, and then sorted by length within so many steps.
_POOL_STEPS = 16
# So much of a split stays mapped: to map pages anew in each epoch costs some 5% of the training.
_MAPPED_BYTES = 2 << 30
_CPU = torch.device("cpu")


class Batch(NamedTuple):
    """Clips of one training step on one worker."""

    frames: list[Tensor]
    """(T_b, H, W, C) uint8 for each clip b. On a processor, and unaltered, these are views of the shards' own files."""
    labels: Tensor
    """(B,) class indices, or (B, C) of 0 and 1 where clips have several labels."""
    indices: list[int]
    """Of the clips in their split."""
    share: float
    """This worker's share of the clips of the step; 0 for one that only keeps the others company, in a step with fewer
    clips than workers."""


def epoch_seed(seed: int, *path: int) -> int:
    """A 63-bit seed that depends on all the numbers: run, epoch, step, rank."""
    return int(np.random.SeedSequence(seed, spawn_key=path).generate_state(1, np.uint64)[0] >> 1)


def num_steps(num_clips: int, batch_size: int, world_size: int = 1) -> int:
    """Steps per epoch, the last and smaller one included; the same on every worker."""
    return -(-num_clips // (batch_size * world_size))


def epoch_steps(lengths: np.ndarray, num_together: int, seed: int | None) -> list[np.ndarray]:
    """Which clips go together, step by step: all clips once, those of a step of like length, the longest first.

    Args:
        lengths: Frames of each clip.
        num_together: Clips of a step, on all workers together; the last step may have fewer.
        seed: Draws who meets whom, and the order of the steps; None sorts all clips by length.
    """
    clips, whole = np.arange(len(lengths)), len(lengths)
    if seed is None:
        return _cut(_longest_first(clips, lengths), num_together)
    rng = np.random.default_rng(seed)
    clips = rng.permutation(clips)
    # The smaller step is set apart first: it would always get the shortest clips.
    whole -= whole % num_together
    pools = _cut(clips[:whole], _POOL_STEPS * num_together)
    steps = [step for pool in pools for step in _cut(_longest_first(pool, lengths), num_together)]
    last = _cut(_longest_first(clips[whole:], lengths), num_together)
    return [*(steps[at] for at in rng.permutation(len(steps))), *last]


def _cut(clips: np.ndarray, size: int) -> list[np.ndarray]:
    return [clips[start : start + size] for start in range(0, len(clips), size)]


def _longest_first(clips: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return clips[np.argsort(-lengths[clips], kind="stable")]


def _deal(clips: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """One worker's part of a step's clips, longest first; to and fro, so that all have about as many frames."""
    rounds = np.arange(-(-len(clips) // world_size))
    places = rounds * world_size + np.where(rounds % 2, world_size - 1 - rank, rank)
    return clips[places[places < len(clips)]]


def batches(
    split: Split,
    batch_size: int,
    num_classes: int,
    multi_label: bool,
    *,
    seed: int | None = None,
    first_step: int = 0,
    augmentation: Augmentation | None = None,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device = _CPU,
) -> Generator[Batch, None, None]:
    """One epoch of batches for one of `world_size` workers; a thread prepares the next while one is used.

    Memory stays flat: beyond the first 2 GiB of a split, clips leave it once they were used. Close the generator where
    it is not used up.

    Args:
        split: Clips to read.
        batch_size: Clips per worker and step.
        num_classes: C.
        multi_label: Labels as (B, C) of 0 and 1 instead of (B,) indices.
        seed: Of the order, see `epoch_steps`, and of what `augmentation` draws for each clip.
        first_step: How many steps are left out, because they were done before.
        augmentation: Alters each clip; wants a seed. None: clips as they are.
        rank: Which worker this is.
        world_size: How many there are; together they take batch_size * world_size clips a step.
        device: Where the batches are wanted.
    """

    def prepare(together: np.ndarray) -> Batch:
        mine = _deal(together, rank, world_size)
        indices = (mine if len(mine) else together[:1]).tolist()
        split.prefetch(indices)
        frames = [torch.from_numpy(_altered(split, index, augmentation, seed)) for index in indices]
        if device.type == "cuda":
            # Only from there does the GPU fetch them while the processor goes on.
            frames = [clip.pin_memory() for clip in frames]
        return Batch(frames, _labels(split, indices, num_classes, multi_label), indices, len(mine) / len(together))

    steps = epoch_steps(split.lengths, batch_size * world_size, seed)[first_step:]
    stays = np.cumsum(split.lengths, dtype=np.int64) * split.frame.size <= _MAPPED_BYTES
    with contextlib.closing(ahead(prepare, steps)) as prepared:
        for batch in prepared:
            frames = [clip.to(device, non_blocking=True) for clip in batch.frames]
            yield batch._replace(frames=frames, labels=batch.labels.to(device, non_blocking=True))
            split.release([index for index in batch.indices if not stays[index]])


def _altered(split: Split, index: int, augmentation: Augmentation | None, seed: int | None) -> np.ndarray:
    frames = split[index].frames
    if augmentation is None:
        return frames
    assert seed is not None
    # By clip, whoever reads it and when.
    return augmentation(frames, np.random.default_rng([seed, index]))


def _labels(split: Split, indices: list[int], num_classes: int, multi_label: bool) -> Tensor:
    if not multi_label:
        return torch.tensor([split.labels[index][0] for index in indices])
    labels = torch.zeros(len(indices), num_classes)
    for row, index in enumerate(indices):
        labels[row, list(split.labels[index])] = 1.0
    return labels


def ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Generator[Made, None, None]:
    """`map(make, items)`, made in a thread, one item ahead of the one that is used.

    What `make` raises is raised here, in its turn. The thread ends with the generator: close one that is not used up.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        waiting: deque[Future[Made]] = deque()
        for item in items:
            waiting.append(thread.submit(make, item))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

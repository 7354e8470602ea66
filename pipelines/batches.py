"""Clips from shards to batches on their way to the model: order, packing without padding, labels.

Legend: B batch, T time, F frames (packed B and T), D frame size, C classes.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from pipelines.shards import Clip, Split

__all__ = ["Batch", "batches", "epoch_seed", "num_steps", "pack_clips"]


class Batch(NamedTuple):
    """Clips of one training step on one worker, longest first."""

    frames: PackedSequence
    """(F, D) uint8."""
    labels: Tensor
    """(B,) class indices, or (B, C) of 0 and 1 where clips have several labels."""
    indices: list[int]
    """Of the clips in their split."""
    share: float
    """This worker's share of the clips of the step; 0 for one that only keeps the others company, in a step with fewer
    clips than workers."""


def epoch_seed(seed: int, *path: int) -> int:
    """A 63-bit seed that depends on all the numbers: run, epoch, rank."""
    return int(np.random.SeedSequence(seed, spawn_key=path).generate_state(1, np.uint64)[0] >> 1)


def num_steps(num_clips: int, batch_size: int, world_size: int = 1) -> int:
    """Steps per epoch, the last and smaller one included; the same on every worker."""
    return -(-num_clips // (batch_size * world_size))


def pack_clips(clips: Sequence[Clip]) -> tuple[PackedSequence, np.ndarray]:
    """Clips as a PackedSequence of uint8 rows, in one copy; and the order, longest first, in which they now stand."""
    lengths = np.array([len(clip.frames) for clip in clips])
    order = np.argsort(-lengths, kind="stable")
    batch_sizes = (lengths[None, :] > np.arange(lengths.max())[:, None]).sum(axis=1)
    starts = np.concatenate([[0], np.cumsum(batch_sizes)[:-1]])
    data = torch.empty(int(lengths.sum()), clips[0].frames[0].size, dtype=torch.uint8)
    rows = data.numpy()
    for place, index in enumerate(order):
        rows[starts[: lengths[index]] + place] = clips[index].frames.reshape(lengths[index], -1)
    return PackedSequence(data, torch.from_numpy(batch_sizes)), order


def batches(
    split: Split,
    batch_size: int,
    num_classes: int,
    multi_label: bool,
    *,
    shuffle_seed: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """One epoch of batches for one of `world_size` workers.

    Args:
        split: Clips to read.
        batch_size: Clips per worker and step.
        num_classes: C.
        multi_label: Labels as (B, C) of 0 and 1 instead of (B,) indices.
        shuffle_seed: Order of the clips; None keeps theirs.
        rank: Which worker this is.
        world_size: How many there are; together they take batch_size * world_size clips a step.
    """
    order = (
        np.arange(len(split)) if shuffle_seed is None else np.random.default_rng(shuffle_seed).permutation(len(split))
    )
    for step in range(num_steps(len(split), batch_size, world_size)):
        together = order[step * batch_size * world_size : (step + 1) * batch_size * world_size]
        mine = together[rank::world_size]
        share = len(mine) / len(together)
        indices = mine if len(mine) else together[:1]
        frames, longest_first = pack_clips([split[int(index)] for index in indices])
        indices = indices[longest_first].tolist()
        if multi_label:
            labels = torch.zeros(len(indices), num_classes)
            for row, index in enumerate(indices):
                labels[row, list(split.labels[index])] = 1.0
        else:
            labels = torch.tensor([split.labels[index][0] for index in indices])
        yield Batch(frames, labels, indices, share)

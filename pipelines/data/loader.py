"""Read batches from shards for training: order the clips, augment them, add labels, prepare one batch ahead.

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

__all__ = ["Batch", "batches", "epoch_seed", "epoch_steps", "map_ahead", "num_steps"]


T = TypeVar("T")
R = TypeVar("R")
# All clips are shuffled, and then sorted by length within this many steps.
_POOL_STEPS = 16
# This much of the files of a split stays mapped: mapping pages again in each epoch costs some 5% of the training time.
_MAPPED_BYTES = 2 << 30
_CPU = torch.device("cpu")


class Batch(NamedTuple):
    """Clips of one training step on one worker."""

    frames: list[Tensor]
    """(T_b, H, W, C) uint8 for each clip b; on a CPU, without augmentation, raw ones are views of the mapped shards."""
    labels: Tensor
    """(B,) class indices, or (B, C) of 0 and 1 if clips have several labels."""
    indices: list[int]
    """Of the clips, in their split."""
    share: float
    """This worker's share of the clips of the step; 0 if the step has fewer clips than workers and none for this one,
    which then takes part with a clip of another worker."""


def epoch_seed(seed: int, *path: int) -> int:
    """A 63-bit seed that depends on all given numbers, such as run, epoch, step and rank."""
    return int(np.random.SeedSequence(seed, spawn_key=path).generate_state(1, np.uint64)[0] >> 1)


def num_steps(num_clips: int, batch_size: int, world_size: int = 1) -> int:
    """Steps per epoch, including a smaller last one; the same on every worker."""
    return -(-num_clips // (batch_size * world_size))


def epoch_steps(lengths: np.ndarray, step_size: int, seed: int | None) -> list[np.ndarray]:
    """The clips of each step: every clip once, clips of similar length in one step, the longest first.

    Args:
        lengths: Frames of each clip.
        step_size: Clips of a step, on all workers together; the last step may have fewer.
        seed: Of the random choice of steps and their order; None sorts all clips by length.
    """
    clips, whole = np.arange(len(lengths)), len(lengths)
    if seed is None:
        return _cut(_longest_first(clips, lengths), step_size)
    rng = np.random.default_rng(seed)
    clips = rng.permutation(clips)
    # The clips of the smaller step are chosen first: otherwise it would always get the shortest ones.
    whole -= whole % step_size
    pools = _cut(clips[:whole], _POOL_STEPS * step_size)
    steps = [step for pool in pools for step in _cut(_longest_first(pool, lengths), step_size)]
    last = _cut(_longest_first(clips[whole:], lengths), step_size)
    return [*(steps[at] for at in rng.permutation(len(steps))), *last]


def _cut(clips: np.ndarray, size: int) -> list[np.ndarray]:
    return [clips[start : start + size] for start in range(0, len(clips), size)]


def _longest_first(clips: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return clips[np.argsort(-lengths[clips], kind="stable")]


def _worker_part(clips: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """One worker's clips of a step, longest first; in alternating order, so that all have about as many frames."""
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

    Clips that are stored encoded are decoded by as many threads as PyTorch uses. Memory is bounded: beyond the first
    2 GiB of a split, clips are released after use. Close the generator to stop early.

    Args:
        split: Clips to read.
        batch_size: Clips per worker and step.
        num_classes: C.
        multi_label: Labels as (B, C) of 0 and 1 instead of (B,) indices.
        seed: Of the order, see `epoch_steps`, and of the augmentation of each clip.
        first_step: How many steps to skip, because they were done before.
        augmentation: Applied to each clip; needs a seed. None: clips as they are.
        rank: Which worker this is.
        world_size: How many there are; together they take batch_size * world_size clips a step.
        device: Where to put the batches.
    """

    stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def prepare(step: np.ndarray) -> tuple[Batch, torch.cuda.Event | None]:
        mine = _worker_part(step, rank, world_size)
        indices = (mine if len(mine) else step[:1]).tolist()
        split.prefetch(indices)
        clips = mapped(lambda index: _augmented(split, index, augmentation, seed), indices)
        frames = [torch.from_numpy(clip) for clip in clips]
        batch = Batch(frames, _labels(split, indices, num_classes, multi_label), indices, len(mine) / len(step))
        return (batch, None) if stream is None else _sent(batch, stream)

    steps = epoch_steps(split.lengths, batch_size * world_size, seed)[first_step:]
    stays_mapped = np.cumsum(split.num_bytes) <= _MAPPED_BYTES
    with _mapping(split) as mapped, contextlib.closing(map_ahead(prepare, steps)) as prepared:
        for batch, arrived in prepared:
            if arrived is not None:
                user = torch.cuda.current_stream(device)
                user.wait_event(arrived)
                for tensor in (*batch.frames, batch.labels):
                    # Its memory is not used again before the training step is done with it.
                    tensor.record_stream(user)
            yield batch
            split.release([index for index in batch.indices if not stays_mapped[index]])


@contextlib.contextmanager
def _mapping(split: Split) -> Generator[Callable[[Callable[[int], np.ndarray], list[int]], Iterable[np.ndarray]]]:
    """Yields `map`, which is spread over threads if clips have to be decoded."""
    num_threads = torch.get_num_threads()
    if num_threads == 1 or not split.is_encoded:
        yield map
        return
    with ThreadPoolExecutor(num_threads, thread_name_prefix="decode") as threads:
        yield threads.map


def _sent(batch: Batch, stream: torch.cuda.Stream) -> tuple[Batch, torch.cuda.Event]:
    """The batch on the GPU, copied from pinned memory beside the training step before, and the event of its arrival."""
    with torch.cuda.stream(stream):
        frames, labels = (
            [tensor.pin_memory().to(stream.device, non_blocking=True) for tensor in tensors]
            for tensors in (batch.frames, [batch.labels])
        )
        return batch._replace(frames=frames, labels=labels[0]), stream.record_event()


def _augmented(split: Split, index: int, augmentation: Augmentation | None, seed: int | None) -> np.ndarray:
    frames = split[index].frames
    if augmentation is None:
        return frames
    assert seed is not None
    # The same for a clip on any worker, at any step.
    return augmentation(frames, np.random.default_rng([seed, index]))


def _labels(split: Split, indices: list[int], num_classes: int, multi_label: bool) -> Tensor:
    if not multi_label:
        return torch.tensor([split.labels[index][0] for index in indices])
    labels = torch.zeros(len(indices), num_classes)
    for row, index in enumerate(indices):
        labels[row, list(split.labels[index])] = 1.0
    return labels


def map_ahead(function: Callable[[T], R], items: Iterable[T]) -> Generator[R, None, None]:
    """As `map(function, items)`, computed in a thread one item ahead of the caller.

    Exceptions of `function` are raised at their item. The thread ends with the generator: close it to stop early.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="map_ahead") as thread:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(thread.submit(function, item))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

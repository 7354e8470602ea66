"""Measure the reading of clips from shards in batches.

Legend: B batch, T time, H W frame height and width in pixels, C channels.
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.data.augment import Augmentation
from pipelines.data.dataset import Split
from pipelines.data.loader import batches
from pipelines.data.shards import Clip, write_shard
from pipelines.video.frame import FrameSize
from tests.benchmarks.measure import Row, interleaved, row, status_bytes
from ttrnn import TTGRU

__all__ = ["loading"]

log = logging.getLogger(__name__)

_FRAME = FrameSize(width=160, height=120, channels=3)
_BATCH = 8
_PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
# Equal numbers of frames, so that the times can be compared.
_SAME_LENGTH = Augmentation(flip=True, shift=8, brightness=0.2)
_ALTERED = {
    "flip": Augmentation(flip=True),
    "shift": Augmentation(shift=8),
    "temporal_crop": Augmentation(temporal_crop=0.7),
    "speed": Augmentation(speed=1.5),
    "brightness": Augmentation(brightness=0.2),
    "all": Augmentation(flip=True, shift=8, temporal_crop=0.7, speed=1.5, brightness=0.2),
}


def loading(rounds: int, quick: bool) -> Iterator[Row]:
    """Compares an epoch of reading with memcpy, training steps with and without the loader; augmentation; memory.

    The shards contain noise, 50 to 250 frames per clip, and are in the page cache.
    """
    with tempfile.TemporaryDirectory() as directory:
        yield from measure(_write(Path(directory), 16 if quick else 160, 20 if quick else 250), rounds)


def measure(files: list[Path], rounds: int) -> Iterator[Row]:
    """Measures everything on shards of 160 x 120 x 3."""
    split = Split(files, _FRAME)
    shape = f"{len(split)} clips, {int(split.lengths.sum()):,} frames, batches of {_BATCH}"
    log.info("loading: %s", shape)
    # First, because memory of the other measurements would hide it.
    yield from _resident(files)
    yield from _read(split, shape, rounds)
    yield from _steps(split, shape, rounds)
    yield from _altered(split, shape, rounds)


def _write(path: Path, num_clips: int, most: int) -> list[Path]:
    """Writes shards of clips of up to `most` frames."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(most // 5, most + 1, num_clips)
    files = []
    for number, part in enumerate(np.array_split(lengths, 8)):
        pixels = (rng.integers(0, 256, (length, *_FRAME.shape), dtype=np.uint8) for length in part)
        files.append(path / f"{number}.arrow")
        write_shard(files[-1], (Clip("", (0,), "", 25.0, frames) for frames in pixels))
    return files


def _epoch(split: Split, augmentation: Augmentation | None = None) -> Iterator[list[Tensor]]:
    return (batch.frames for batch in batches(split, _BATCH, 1, False, seed=0, augmentation=augmentation))


def _per_frame(split: Split, name: str, shape: str, precision: str, seconds: list[float]) -> Row:
    return row("loading", name, shape, precision, [1e6 * s / split.lengths.sum() for s in seconds], "us/frame")


def _ratio(name: str, shape: str, precision: str, over: list[float], under: list[float]) -> Row:
    return row("loading", name, shape, precision, [a / b for a, b in zip(over, under, strict=True)], "times")


def _read(split: Split, shape: str, rounds: int) -> Iterator[Row]:
    """Copies every byte of an epoch to a buffer: from the batches of the loader, and from memory."""
    in_memory = [[clip.clone() for clip in frames] for frames in _epoch(split)]
    buffer = torch.empty(max(sum(clip.numel() for clip in frames) for frames in in_memory), dtype=torch.uint8)

    def copy(epoch: Iterable[list[Tensor]]) -> None:
        for frames in epoch:
            start = 0
            for clip in frames:
                buffer[start : start + clip.numel()].copy_(clip.view(-1))
                start += clip.numel()

    times = interleaved({"loader": lambda: copy(_epoch(split)), "memcpy": lambda: copy(in_memory)}, rounds)
    for name, seconds in times.items():
        yield _per_frame(split, f"epoch read: {name}", shape, "uint8", seconds)
    yield _ratio("epoch read: loader / memcpy", shape, "uint8", times["loader"], times["memcpy"])


def _training_step(precision: str) -> Callable[[list[Tensor]], None]:
    torch.manual_seed(0)
    network = TTGRU((8, 20, 20, 18), (4, 4, 4, 4), 4, scale=1 / 60, mean=110.0, compute_dtype=_PRECISIONS[precision])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)

    def step(frames: list[Tensor]) -> None:
        loss = network(frames)[1].square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return step


def _steps(split: Split, shape: str, rounds: int) -> Iterator[Row]:
    """Training steps of a TT-GRU on batches from the loader, each followed by one on the same clips in memory.

    In these pairs, both sides are disturbed alike by other processes; the spread is over epochs, each the median of its
    steps.
    """
    in_memory = [[clip.clone() for clip in frames] for frames in _epoch(split)]
    for precision in _PRECISIONS:
        step = _training_step(precision)
        for name, augmentation in (("loader", None), ("loader, altered", _SAME_LENGTH)):
            _paired(split, in_memory, step, augmentation)
            pairs = [_paired(split, in_memory, step, augmentation) for _ in range(rounds)]
            for which, seconds in zip((name, "in memory"), zip(*pairs, strict=True), strict=True):
                yield row("loading", f"step: {which}", shape, precision, [1e6 * s for s in seconds], "us/frame")
            ratios = [a / b for a, b in pairs]
            yield row("loading", f"step: {name} / in memory", shape, precision, ratios, "times")


def _paired(
    split: Split, in_memory: list[list[Tensor]], step: Callable[[list[Tensor]], None], augmentation: Augmentation | None
) -> tuple[float, float]:
    """Seconds per frame with the loader and without."""
    seconds: list[tuple[float, float]] = []
    epoch = _epoch(split, augmentation)
    for kept in in_memory:
        start = time.perf_counter()
        step(next(epoch))
        middle = time.perf_counter()
        step(kept)
        num_frames = sum(map(len, kept))
        seconds.append(((middle - start) / num_frames, (time.perf_counter() - middle) / num_frames))
    # The first batch of an epoch is not prefetched.
    from_loader, from_memory = zip(*seconds[1:], strict=True)
    return statistics.median(from_loader), statistics.median(from_memory)


def _altered(split: Split, shape: str, rounds: int) -> Iterator[Row]:
    """Augmentation alone, per stored frame."""
    few = range(min(len(split), 16))
    split.prefetch(few)

    def alter(augmentation: Augmentation) -> None:
        for index in few:
            augmentation(split[index].frames, np.random.default_rng(index))

    work = {name: lambda augmentation=augmentation: alter(augmentation) for name, augmentation in _ALTERED.items()}
    num_frames = int(split.lengths[list(few)].sum())
    for name, seconds in interleaved(work, rounds).items():
        values = [1e6 * value / num_frames for value in seconds]
        yield row("loading", f"alter: {name}", shape, "uint8", values, "us/frame")
    split.release(few)


def _resident(files: list[Path]) -> Iterator[Row]:
    """Additional memory of this process in each step of an epoch, for the shards twice and four times."""
    step = _training_step("bfloat16")
    for frames in _epoch(Split(files, _FRAME)):
        step(frames)
    for times in (2, 4):
        split = Split(files * times, _FRAME)
        start = {kind: status_bytes(kind) for kind in ("RssAnon", "RssFile")}
        held: dict[str, list[float]] = {kind: [] for kind in start}
        for frames in _epoch(split):
            step(frames)
            for kind, values in held.items():
                values.append(float(status_bytes(kind) - start[kind]))
        shape = f"{len(split)} clips, {int(split.lengths.sum()) * _FRAME.size / 1e6:,.0f} MB"
        for kind, values in held.items():
            yield row("loading", f"resident: {kind}", shape, "bfloat16", values, "bytes")

"""Measure whole epochs of small trainings on shards, as `train` runs them, against low-rank layers on the same batches.

A step of these trainings is so short that calls, the loader and the optimizer matter as much as arithmetic.
"""

import json
import logging
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pipelines.data.dataset import ShardDataset
from pipelines.data.loader import batches
from pipelines.training.options import TrainOptions
from pipelines.training.trainer import fit
from pipelines.video.frame import FrameSize
from tests.benchmarks.clips import LowRank
from tests.benchmarks.measure import Row, row
from tests.shards import make_shards

__all__ = ["epochs"]

log = logging.getLogger(__name__)

_FRAME, _BATCH = FrameSize(width=64, height=32, channels=1), 16
# options of the model; the width of the low-rank layer of about as many weights, and its hidden size
_MODELS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "hidden 32, rank 2": ({"hidden_modes": "2x2x2x4", "ranks": "2"}, (8, 32)),
    "hidden 256, rank 4": ({"ranks": "4"}, (16, 256)),
    "hidden 256, rank 4, TT recurrent": ({"ranks": "4", "recurrent_ranks": "4"}, (16, 256)),
}


def epochs(rounds: int, quick: bool) -> Iterator[Row]:
    """us a frame of training, 720 clips of 4 to 22 grey frames of 64x32, batches of 16, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as directory:
            shards = make_shards(
                Path(directory) / "shards", num_clips=32 if quick else 720, num_classes=10, num_frames=22, frame=_FRAME
            )
            yield from _measure(shards, Path(directory), rounds)
    finally:
        torch.set_num_threads(threads)


def _measure(shards: Path, directory: Path, rounds: int) -> Iterator[Row]:
    times: dict[str, list[float]] = {}
    for at in range(rounds):
        for name, (options, (width, hidden_size)) in _MODELS.items():
            log.info("epoch: %s, round %d of %d", name, at + 1, rounds)
            out = directory / f"{name} {at}"
            out.mkdir()
            # The first epoch also starts the process up.
            fit(TrainOptions(shards=str(shards), out=str(out), epochs=2, batch_size=_BATCH, **options))
            last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
            times.setdefault(name, []).append(1e6 / last["frames_per_s"])
            times.setdefault(f"{name}: low-rank", []).append(_low_rank(shards, width, hidden_size))
    shape = f"GRU 64x32, 720 clips, batches of {_BATCH}"
    for name in _MODELS:
        yield row("epoch", f"ttrnn, {name}", shape, "float32", times[name], "us/frame")
        ratios = [a / b for a, b in zip(times[name], times[f"{name}: low-rank"], strict=True)]
        yield row("epoch", f"ttrnn, {name} / Linear + nn.GRU", shape, "float32", ratios, "times")


def _low_rank(shards: Path, width: int, hidden_size: int) -> float:
    """us a frame of an epoch of `Linear` and `nn.GRU` over the same loader, clips padded to the longest of a batch."""
    train = ShardDataset.open(str(shards)).split("train")
    model = LowRank(math.prod(_FRAME.shape), width, hidden_size)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for seed in range(2):
        start = time.perf_counter()
        for batch in batches(train, _BATCH, 10, False, seed=seed):
            lengths = torch.tensor([len(clip) for clip in batch.frames])
            padded = torch.nn.utils.rnn.pad_sequence(batch.frames, batch_first=True).flatten(2)
            loss = torch.nn.functional.cross_entropy(model(padded, lengths), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        seconds = time.perf_counter() - start
    return 1e6 * seconds / int(train.lengths.sum())

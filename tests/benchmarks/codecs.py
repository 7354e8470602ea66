"""Measure the codecs of shards: size, time to encode and decode a frame, and the share of time that training waits.

    python -m tests.benchmarks.codecs UCF-101 --out docs/results/codecs.csv

Clips of the given folders of videos and of the demo are decoded at 160x120 RGB and 80x60 grey. Everything is in the
page cache. A figure is the median over rounds, in each of which every codec has its turn, with the least and the most.
"""

import csv
import itertools
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.core import command
from pipelines.core.options import positional
from pipelines.data.codecs import CODECS, decode, encode
from pipelines.data.demo_videos import render_demo
from pipelines.data.loader import batches
from pipelines.data.shard_reader import Split
from pipelines.data.shards import Clip, write_shard
from pipelines.video.decode import decode as decode_video
from pipelines.video.errors import RejectedError
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from tests.benchmarks.measure import Row, interleaved, row
from ttrnn import TTGRU
from ttrnn.files import atomic_write

__all__ = ["CodecOptions", "measure_codecs"]

log = logging.getLogger("tests.benchmarks")

_FRAMES = {FrameSize(160, 120, 3): (8, 20, 20, 18), FrameSize(80, 60, 1): (8, 10, 10, 6)}
"""input modes by size of frames"""
_BATCH = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecOptions:
    """Measure the codecs of shards; write a CSV."""

    videos: tuple[str, ...] = positional(default=())
    """folders of videos to take clips from, besides the demo"""
    out: str = "codecs.csv"
    """the file to write"""
    num_clips: int = 32
    """clips of each folder, evenly spaced over its files"""
    max_frames: int = 300
    """of a clip"""
    rounds: int = 5
    """number of rounds, in each of which every codec runs once"""

    def __post_init__(self) -> None:
        for name in ("num_clips", "max_frames", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def measure_codecs(options: CodecOptions) -> dict[str, Any]:
    """Measures every codec on every folder and size; writes the CSV anew after each."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        render_demo(place / "demo", options.num_clips, seed=0)
        for folder, frame in itertools.product([*map(Path, options.videos), place / "demo"], _FRAMES):
            shape = f"{folder.name}, {frame.width}x{frame.height}x{frame.channels}"
            clips, decoding = _clips(folder, frame, shape, options)
            log.info("%s: %d clips, %s frames", shape, len(clips), f"{sum(map(len, clips)):,}")
            for line in itertools.chain(
                [decoding],
                _sizes(clips, shape, options.rounds),
                _training(clips, frame, shape, place, options.rounds),
            ):
                log.info("%-34s %-28s %-9s %10.4g %s", line.shape, line.name, line.precision, line.median, line.unit)
                rows.append(line)
            _write(Path(options.out), rows)
    return {"out": options.out, "rows": [asdict(line) for line in rows]}


def _clips(folder: Path, frame: FrameSize, shape: str, options: CodecOptions) -> tuple[list[np.ndarray], Row]:
    """Clips of a folder, and the us a frame to decode and resize their videos."""
    files = sorted(file for file in folder.rglob("*.*") if file.is_file() and file.suffix != ".json")
    clips, times = [], []
    for file in files[:: max(1, len(files) // options.num_clips)][: options.num_clips]:
        start = time.perf_counter()
        try:
            clips.append(decode_video(file, frame, Sampling(max_frames=options.max_frames)).frames)
        except RejectedError as error:
            log.info("%s", error)
            continue
        times.append(1e6 * (time.perf_counter() - start) / len(clips[-1]))
    return clips, row("codecs", "decode and resize a video", shape, "video", times, "us/frame")


def _sizes(clips: Sequence[np.ndarray], shape: str, rounds: int) -> Iterator[Row]:
    """The size as a share of raw frames, the mean difference of pixels, and us a frame, on one thread."""
    num_frames, encoded = sum(map(len, clips)), {name: [encode(name, clip) for clip in clips] for name in CODECS}
    for name in CODECS:
        shares = [data.size / clip.size for data, clip in zip(encoded[name], clips, strict=True)]
        total = sum(data.size for data in encoded[name]) / sum(clip.size for clip in clips)
        yield Row(
            section="codecs", name="size / raw, of all clips", shape=shape, precision=name, unit="share",
            median=total, low=min(shares), high=max(shares),
        )  # fmt: skip
        if CODECS[name].is_lossy:
            differences = [
                float(np.abs(decode(name, data, clip.shape).astype(np.int16) - clip).mean())
                for data, clip in zip(encoded[name], clips, strict=True)
            ]
            yield row("codecs", "mean difference of a clip", shape, name, differences, "of 255")
    encoders: dict[str, Callable[[], object]] = {
        name: lambda name=name: [encode(name, clip) for clip in clips] for name in CODECS if name != "raw"
    }
    decoders: dict[str, Callable[[], object]] = {
        name: lambda name=name: [decode(name, data, c.shape) for data, c in zip(encoded[name], clips, strict=True)]
        for name in encoders
    }
    for what, work in (("encode", encoders), ("decode", decoders)):
        for name, seconds in interleaved(work, rounds).items():
            yield row("codecs", what, shape, name, [1e6 * value / num_frames for value in seconds], "us/frame")


def _training(clips: Sequence[np.ndarray], frame: FrameSize, shape: str, place: Path, rounds: int) -> Iterator[Row]:
    """Epochs of a TT-GRU on shards of each codec: the share of time that it waits, and the time against raw shards."""
    splits, step = {}, _training_step(frame)
    for name in CODECS:
        write_shard(place / name, (Clip("", (0,), "", 25.0, frames) for frames in clips), name)
        # The same clips several times over, so that an epoch has some 20 steps.
        splits[name] = Split([place / name] * max(1, -(-20 * _BATCH // len(clips))), frame)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in CODECS}
    for _ in range(rounds + 1):
        for name, split in splits.items():
            times[name].append(_epoch(split, step))
    num_frames = int(splits["raw"].lengths.sum())
    # The first epoch is a warm-up.
    raw = [total for _, total in times["raw"][1:]]
    for name in CODECS:
        waited, totals = zip(*times[name][1:], strict=True)
        shares = [100 * wait / total for wait, total in zip(waited, totals, strict=True)]
        yield row("codecs", "training waits", shape, name, shares, "% of time")
        yield row("codecs", "training", shape, name, [1e6 * total / num_frames for total in totals], "us/frame")
        ratios = [total / other for total, other in zip(totals, raw, strict=True)]
        yield row("codecs", "training / with raw", shape, name, ratios, "times")


def _training_step(frame: FrameSize) -> Callable[[list[Tensor]], None]:
    torch.manual_seed(0)
    network = TTGRU(_FRAMES[frame], (4, 4, 4, 4), 4, scale=1 / 60, mean=110.0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)

    def step(frames: list[Tensor]) -> None:
        loss = network(frames)[1].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _epoch(split: Split, step: Callable[[list[Tensor]], None]) -> tuple[float, float]:
    """Seconds of waiting and of all, from the second batch on: nothing runs beside the preparation of the first."""
    epoch = batches(split, _BATCH, 1, False, seed=0)
    step(next(epoch).frames)
    waited, start = 0.0, time.perf_counter()
    while True:
        begin = time.perf_counter()
        batch = next(epoch, None)
        waited += time.perf_counter() - begin
        if batch is None:
            return waited, time.perf_counter() - start
        step(batch.frames)


def _write(file: Path, rows: Sequence[Row]) -> None:
    with atomic_write(file) as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["data", "frame", "codec", "what", "median", "low", "high", "unit"])
        for line in rows:
            data, frame = line.shape.rsplit(", ", 1)
            figures = [f"{value:.4g}" for value in (line.median, line.low, line.high)]
            writer.writerow([data, frame, line.precision, line.name, *figures, line.unit])


def summary(result: dict[str, Any]) -> str:
    """A Markdown table."""
    lines = ["| data and frame | codec | what | median | least | most | unit |", "|---|---|---|---:|---:|---:|---|"]
    for line in result["rows"]:
        figures = " | ".join(f"{line[name]:.4g}" for name in ("median", "low", "high"))
        lines.append(f"| {line['shape']} | {line['precision']} | {line['name']} | {figures} | {line['unit']} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return command.run(CodecOptions, measure_codecs, summary, argv)


if __name__ == "__main__":
    sys.exit(main())

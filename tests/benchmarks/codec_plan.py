"""Plan large data sets on paper, from the rates that tests.benchmarks.codecs measured.

    python -m tests.benchmarks.codec_plan docs/results/codecs.csv

docs/scale.md has the table.
"""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.text import duration, size
from pipelines.data.codecs import CODECS

__all__ = ["table"]

_FRAME, _FRAME_BYTES = "160x120x3", 160 * 120 * 3
_TRAIN_SHARE = 0.7
_NUM_CPUS, _GPU_RATE = 16, 20_000
"""of a machine for preprocessing and training; frames per s that one GPU trains, assumed as in scale_model"""


@dataclass(frozen=True, slots=True)
class _DataSet:
    name: str
    num_clips: int
    num_frames: float
    """of all clips"""


_DATA_SETS = (
    _DataSet("UCF101", 13_320, 2.4e6),
    # Of 10 s at 30 frames/s.
    _DataSet("Kinetics-400", 240_000, 240_000 * 300),
)


def table(file: Path, data: str) -> str:
    """Markdown: bytes, minutes and the cost of decoding of each data set and codec, by the rates of `data`."""
    with file.open(newline="", encoding="utf-8") as opened:
        found = {
            (row["codec"], row["what"]): float(row["median"])
            for row in csv.DictReader(opened)
            if (row["data"], row["frame"]) == (data, _FRAME)
        }
    lines = [
        "| data set | codec | size | of raw | preprocessing | an epoch of decoding | processors for one GPU |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for one in _DATA_SETS:
        for codec, kind in CODECS.items():
            share = found[codec, "size / raw, of all clips"]
            encode_us, decode_us = (found.get((codec, what), 0.0) for what in ("encode", "decode"))
            # Lossy frames of the train split are decoded for their mean and deviation.
            checked_us = _TRAIN_SHARE * decode_us if kind.is_lossy else 0
            work_us = found["video", "decode and resize a video"] + encode_us + checked_us
            cells = [
                one.name,
                f"`{codec}`",
                size(one.num_frames * _FRAME_BYTES * share),
                f"{100 * share:.1f}%",
                duration(one.num_frames * work_us * 1e-6 / _NUM_CPUS),
                duration(_TRAIN_SHARE * one.num_frames * decode_us * 1e-6 / _NUM_CPUS) if decode_us else "none",
                f"{_GPU_RATE * decode_us * 1e-6:.1f}" if decode_us else "none",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "ucf101_10") + "\n")

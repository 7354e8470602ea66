"""(1) Decode labelled videos into shards of uint8 frames, which training maps into memory, with Ray Data.

    python -m pipelines.preprocess videos/ shards/
    python -m pipelines.preprocess clips.csv shards/ --width 64 --height 32 --channels 1 --num-frames 24
    python -m pipelines.preprocess arrays/ shards/ --value-range 20:40      .npy, .npz or Arrow: T x H x W (x C)
    python -m pipelines.preprocess videos/ shards/ --resume       finish an interrupted job, or add new clips
    python -m pipelines.preprocess videos/ s3://bucket/shards
    python -m pipelines.preprocess videos/ shards/ --dry-run      frames, bytes and minutes, before anything is written
    python -m pipelines.preprocess videos/ shards/ --codec h264   for data sets that are too large for raw frames
    python -m pipelines.preprocess --inspect shards/
    python -m pipelines.preprocess --verify shards/

Any process may be killed at any time; with --resume, the result is the same. On a cluster, the nodes that see the
videos and OUT do the work: all nodes if both are URIs.
"""

import shlex
import sys
from typing import Any

from rich.console import Group, RenderableType

from pipelines.core import command
from pipelines.core.options import takes_options
from pipelines.core.terminal import table
from pipelines.core.text import duration, plural, program, size
from pipelines.data.estimate import dry_run
from pipelines.data.kinds import Argument, check_arguments
from pipelines.data.options import PreprocessOptions
from pipelines.data.preprocessing import make_shards
from pipelines.data.rejected import REJECTED_CSV, read_rejected
from pipelines.storage.location import Location

__all__ = ["summary"]

_NUM_NAMED = 5
"""Rejected clips that are named at the end."""


@takes_options(PreprocessOptions)
def preprocess(options: PreprocessOptions) -> dict[str, Any]:
    """Makes shards, estimates their size, or inspects or verifies existing ones; for results see `make_shards`."""
    # Only the inspection loads matplotlib.
    if options.inspect:
        from pipelines.report.inspection import inspect_shards

        return inspect_shards(options.inspect, options.sheet)
    if options.verify:
        from pipelines.report.inspection import verify_shards

        return verify_shards(options.verify)
    check_arguments(
        "preprocess",
        Argument("VIDEOS", options.videos, ("videos",)),
        Argument("OUT", options.out, ("shards",), is_out=True),
    )
    return dry_run(options) if options.dry_run else make_shards(options)


def summary(result: dict[str, Any]) -> RenderableType:
    """A table of the splits, the rejected clips, and the next command."""
    if "damaged" in result or "sheet" in result:
        from pipelines.report.inspection import inspection_summary, verify_summary

        return verify_summary(result) if "damaged" in result else inspection_summary(result)
    if "dry_run" in result:
        return _dry_run_summary(result)
    title, numbers = f"{len(result['classes'])} classes, {result['task']}", ("clips", "frames", "MB")
    splits = table("split", *numbers, right=numbers, title=title)
    for name, split in result["splits"].items():
        splits.add_row(name, f"{split['num_clips']:,}", f"{split['num_frames']:,}", f"{split['num_bytes'] / 1e6:,.1f}")
    codec = "" if result["codec"] == "raw" else f", codec {result['codec']}"
    lines = [f"shards in {result['out']}{codec}"]
    if result["num_rejected"]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(result["rejected"].items()))
        place = Location.of(result["out"])
        lines.append(f"{plural(result['num_rejected'], 'clip')} rejected ({reasons}); see {place / REJECTED_CSV}")
        lines += [f"    {path}: {reason}" for path, reason in read_rejected(place)[:_NUM_NAMED]]
    return Group(
        splits,
        *lines,
        f"next: {program('sweep')} --data {shlex.quote(result['out'])} --out runs/first --time-budget 20",
    )


def _dry_run_summary(result: dict[str, Any]) -> RenderableType:
    """A table of the codecs, with the chosen one marked."""
    frame = result["frame"]
    codecs = table(
        "codec",
        "size",
        "time",
        title=f"{result['num_clips']:,} clips, about {result['num_frames']:,} frames of {frame['width']} x "
        f"{frame['height']} x {frame['channels']}",
    )
    for name, codec in result["codecs"].items():
        time = "unknown" if codec["minutes"] is None else duration(60 * codec["minutes"])
        mark = " <-" if name == result["codec"] else ""
        codecs.add_row(name + mark, size(codec["num_bytes"]), time)
    disk = "" if result["free_bytes"] is None else f"; {size(result['free_bytes'])} are free for {result['out']}"
    return Group(
        codecs,
        f"codec {result['codec']}: {result['reason']}",
        f"estimated from {result['num_tried']} clips, on the {result['num_cpus']} CPUs of this machine{disk}",
        "nothing was written",
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns the exit code."""
    return command.run(PreprocessOptions, preprocess, summary, argv)


if __name__ == "__main__":
    # As `python pipelines/preprocess.py` too: the importable module is the one that Ray pickles by reference.
    from pipelines.preprocess import main as importable_main

    sys.exit(importable_main())

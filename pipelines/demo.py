"""Render the demo data set (see data/demo_videos.py) as video files in class folders.

python -m pipelines.demo demo
python -m pipelines.demo demo --num-clips 960 --seed 1 --overwrite
python -m pipelines.demo demo-streams --streams 4          long videos in which mostly nothing happens
"""

import sys
from dataclasses import dataclass
from typing import Any

from pipelines.core import command
from pipelines.core.options import positional, takes_options
from pipelines.core.text import plural, program
from pipelines.data.demo_streams import render_streams
from pipelines.data.demo_videos import CHANNELS, CLASSES, HEIGHT, MARKER, NUM_CLIPS, NUM_FRAMES, WIDTH, render_demo
from pipelines.storage.location import Location
from pipelines.storage.output import prepare_out

__all__ = ["DemoOptions", "demo", "summary"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoOptions:
    """Render the demo data set as video files OUT/CLASS/clip.avi."""

    out: str = positional()
    """directory to make, with a folder for each class"""
    num_clips: int = NUM_CLIPS
    """clips in total, evenly distributed over the classes"""
    seed: int = 0
    """the same seed renders the same pixels"""
    streams: int | None = None
    """instead of clips: this many long videos OUT/streams/NN.avi in which mostly nothing happens, with OUT/streams.csv,
    and OUT/background of videos in which nothing does"""
    overwrite: bool = False
    """delete an older demo data set first"""

    def __post_init__(self) -> None:
        if self.num_clips < len(CLASSES):
            raise ValueError(f"num_clips must be at least {len(CLASSES)}, a clip for each class, got {self.num_clips}")
        if self.streams is not None and self.streams < 1:
            raise ValueError(f"streams must be 1 or more, got {self.streams}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")


@takes_options(DemoOptions)
def demo(options: DemoOptions) -> dict[str, Any]:
    """Renders the data set; returns its location and its properties."""
    out = prepare_out(Location.of(options.out).local, marker=MARKER, overwrite=options.overwrite).local
    if options.streams is not None:
        render_streams(out, options.streams, options.seed)
        return {"out": str(out), "streams": options.streams, "table": str(out / "streams.csv")}
    render_demo(out, options.num_clips, options.seed)
    return {
        "out": str(out),
        "num_clips": options.num_clips,
        "classes": list(CLASSES),
        "width": WIDTH,
        "height": HEIGHT,
        "channels": CHANNELS,
        "num_frames": NUM_FRAMES,
    }


def summary(result: dict[str, Any]) -> str:
    """The text that is printed at the end."""
    if "streams" in result:
        background = f"{result['out']}/background"
        return (
            f"{plural(result['streams'], 'stream')} in {result['table']}, videos of nothing in {background}\n"
            f"next: {program('preprocess')} demo demo-shards --background {background}"
        )
    return (
        f"{result['num_clips']} clips of {len(result['classes'])} classes in {result['out']}\n"
        f"next: {program('preprocess')} {result['out']} shards --width {result['width']} "
        f"--height {result['height']} --channels {result['channels']}"
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns the exit code."""
    return command.run(DemoOptions, demo, summary, argv)


if __name__ == "__main__":
    # As `python pipelines/demo.py` too: the importable module is the one that Ray pickles by reference.
    from pipelines.demo import main as importable_main

    sys.exit(importable_main())

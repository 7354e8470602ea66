"""The embedded default data set: sliding tartan, rendered with OpenCV and encoded as real video files in class folders.

    python -m pipelines.demo demo
    python -m pipelines.demo demo --num-clips 960 --seed 1 --overwrite

A clip shows a cloth with three sets of translucent stripes: falling to the right, falling to the left, and level. Each
set climbs or sinks, and the class says which way each of them goes: `up-down-up`.

It takes the order of the frames: stripes start anywhere in their period, so that single frames have one distribution in
all eight classes. And it takes ranks: the weights of a rank-1 tensor train are a function of the row times one of the
column, which answers to stripes that fall to the right exactly as to their mirror image.

Legend: T time, H W C frame height, width and colour channels (blue, green, red, as OpenCV has them).
"""

import sys
from dataclasses import dataclass
from typing import Any

from pipelines.core import command
from pipelines.core.options import positional
from pipelines.core.text import python
from pipelines.data.demo_videos import CHANNELS, CLASSES, HEIGHT, MARKER, NUM_CLIPS, NUM_FRAMES, WIDTH, render_demo
from pipelines.storage.location import Location
from pipelines.storage.output import prepare_out

__all__ = ["DemoOptions", "demo", "summary"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoOptions:
    """Render the demo data set as video files OUT/CLASS/clip.avi."""

    out: str = positional()
    """directory to make, of class folders"""
    num_clips: int = NUM_CLIPS
    """clips in all, spread evenly over the classes"""
    seed: int = 0
    """the same seed renders the same pixels"""
    overwrite: bool = False
    """delete an older demo data set first"""

    def __post_init__(self) -> None:
        if self.num_clips < len(CLASSES):
            raise ValueError(f"num_clips must be at least {len(CLASSES)}, a clip for each class, got {self.num_clips}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")


def demo(options: DemoOptions) -> dict[str, Any]:
    """Renders the data set that the options ask for; returns where it lies and what is in it."""
    out = prepare_out(Location.of(options.out).local, marker=MARKER, overwrite=options.overwrite).local
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
    """What a person reads at the end."""
    return (
        f"{result['num_clips']} clips of {len(result['classes'])} classes in {result['out']}\n"
        f"next: {python()} -m pipelines.preprocess {result['out']} shards --width {result['width']} "
        f"--height {result['height']} --channels {result['channels']}"
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command; see the top of the file."""
    return command.run(DemoOptions, demo, summary, argv)


if __name__ == "__main__":
    # As `python pipelines/demo.py` too: the importable module is the one that Ray pickles by reference.
    from pipelines.demo import main as importable_main

    sys.exit(importable_main())

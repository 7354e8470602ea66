"""(7) Classify videos: files, folders, raw frames on standard input, a camera.

    python -m pipelines.predict runs/sweep/best clip.avi other.mp4 folder
    python -m pipelines.predict runs/sweep/best clip.avi --json
    python -m pipelines.predict model/clip.onnx folder --lines
    python -m pipelines.predict runs/sweep/best match.mp4 --window 4s --hop 2s --annotate match-labelled.mp4
    python -m pipelines.predict runs/sweep/best 0 --stream
    ffmpeg -v error -i clip.avi -vf scale=64:48 -pix_fmt gray -f rawvideo - | python -m pipelines.predict model -

On standard input come the bytes of one frame after the other, in the model's size, grey or RGB (ffmpeg's gray or
rgb24), and nothing else; they are taken as they come. --stream says when the leading class changes, and on a terminal
shows the scores; with --lines it prints a JSON line for each frame (or window).
"""

import sys
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType

from pipelines.core import command
from pipelines.core.options import positional
from pipelines.inference.prediction import predict_videos
from pipelines.inference.table import predictions_table
from pipelines.video.windows import Length

__all__ = ["PredictOptions", "predict"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictOptions:
    """Classify videos with a model; it knows frame size, sampling and classes by itself."""

    model: str = positional()
    """model directory, run or ONNX file (clip or step), or its URI, such as runs/sweep/best"""
    video: tuple[str, ...] = positional()
    """video files, folders of them, - for raw frames on standard input, or the number of a camera, from 0"""
    window: str | None = None
    """classify windows of this length: frames (48) or seconds (2.5s); a video's own probabilities are their mean"""
    hop: str | None = None
    """from the beginning of one window to that of the next, likewise; default: the window"""
    top_k: int | None = None
    """list so many classes, best first; default: 2 in the table"""
    stream: bool = False
    """tell scores as they come: frame by frame as a camera would, in constant memory, or window by window"""
    lines: bool = False
    """print a JSON line for each video as it is done, instead of a table"""
    annotate: str | None = None
    """OUT.mp4: write the one video that is given with its label on it, without sound"""
    overwrite: bool = False
    """replace OUT.mp4"""

    def __post_init__(self) -> None:
        if not self.video:
            raise ValueError("VIDEO is missing (see --help)")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.hop is not None and self.window is None:
            raise ValueError(f"hop {self.hop} is of windows; give --window too")
        for name in ("window", "hop"):
            if (text := getattr(self, name)) is not None:
                Length.parse(text, name)
        if self.annotate is not None and not self.annotate.lower().endswith(".mp4"):
            raise ValueError(f"annotate must be a name that ends with .mp4, got {self.annotate!r}")


def predict(options: PredictOptions) -> dict[str, Any]:
    """The command as a function; see `predict_videos` for its result and errors."""
    return predict_videos(
        options.model,
        options.video,
        window=options.window,
        hop=options.hop,
        top_k=options.top_k,
        stream=options.stream,
        lines=options.lines,
        annotated_file=options.annotate,
        overwrite=options.overwrite,
    )


def summary(result: dict[str, Any]) -> RenderableType | None:
    """A table of the videos; nothing where their lines have been printed already."""
    return None if result.get("lines") else predictions_table(result)


def main(argv: list[str] | None = None) -> int:
    """The command; see the head of this file."""
    return command.run(PredictOptions, predict, summary, argv)


if __name__ == "__main__":
    # As `python pipelines/predict.py` too: the same importable module either way.
    from pipelines.predict import main as importable_main

    sys.exit(importable_main())

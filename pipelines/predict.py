"""(7) Classify videos: files, folders, raw frames on standard input, a camera.

    python -m pipelines.predict runs/sweep/best clip.avi other.mp4 folder
    python -m pipelines.predict runs/sweep/best clip.avi --json
    python -m pipelines.predict model/clip.onnx folder --lines
    python -m pipelines.predict runs/sweep/best match.mp4 --window 4s --hop 2s --annotate match-labelled.mp4
    python -m pipelines.predict runs/sweep/best 0 --stream
    python -m pipelines.predict trigger hour.mp4 --events --events-out hour.vtt
    ffmpeg -v error -i clip.avi -vf scale=64:48 -pix_fmt gray -f rawvideo - | python -m pipelines.predict model -

Standard input is the bytes of one frame after the other, in the model's size, grey or RGB (ffmpeg's gray or rgb24).
--stream logs when the predicted class changes, and draws the scores on a terminal; with --lines it prints a JSON line
for each frame (or window).
"""

import sys
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType

from pipelines.core import command
from pipelines.core.options import positional, takes_options
from pipelines.data.kinds import MODELS, Argument, check_arguments
from pipelines.inference.prediction import predict_videos
from pipelines.inference.table import predictions_table
from pipelines.video.windows import Length

__all__ = ["PredictOptions", "predict"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictOptions:
    """Classify videos with a model, which contains frame size, sampling and classes."""

    model: str = positional()
    """model directory, run or ONNX file (clip or step), such as runs/sweep/best, or a URI of one"""
    video: tuple[str, ...] = positional()
    """video files, arrays (.npy, .npz, Arrow), folders of pictures (each is one clip), folders of these, - for raw
    frames on standard input, or the number of a camera, from 0"""
    window: str | None = None
    """classify windows of this length: frames (48) or seconds (2.5s); the probabilities of a video are their mean"""
    hop: str | None = None
    """from the beginning of one window to that of the next, frames or seconds; default: the window"""
    top_k: int | None = None
    """list this many classes, best first; default: 2 in the table"""
    stream: bool = False
    """report scores while a video is read: frame by frame, in constant memory, or window by window"""
    lines: bool = False
    """print a JSON line for each video when it is finished, instead of a table"""
    events: bool = False
    """find the events in long videos, with the window and the thresholds of a model that was exported with
    --false-alarms-per-hour; with --stream each is reported as soon as its class is sure"""
    events_out: str | None = None
    """with --events: file to write them to, .jsonl, .csv (video,start_s,end_s,label and more) or .vtt (subtitles)"""
    annotate: str | None = None
    """OUT.mp4: write a copy of the video (only one may be given) with its label, without sound"""
    overwrite: bool = False
    """replace OUT.mp4, or the file of --events-out"""

    def __post_init__(self) -> None:
        if not self.video:
            raise ValueError("VIDEO is missing (see --help)")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.hop is not None and self.window is None:
            raise ValueError(f"hop {self.hop} needs windows; give --window too")
        for name in ("window", "hop"):
            if (text := getattr(self, name)) is not None:
                Length.parse(text, name)
        if self.events_out is not None and not self.events:
            raise ValueError(f"events_out {self.events_out} needs events; give --events too")
        if self.events and (self.window is not None or self.annotate is not None):
            raise ValueError("events excludes window, which the model has from its export, and annotate")
        if self.annotate is not None and not self.annotate.lower().endswith(".mp4"):
            raise ValueError(f"annotate must be a name that ends with .mp4, got {self.annotate!r}")


@takes_options(PredictOptions)
def predict(options: PredictOptions) -> dict[str, Any]:
    """Classifies the videos; for results and errors see `predict_videos`."""
    videos = [Argument("VIDEO", path, ("videos",)) for path in options.video]
    check_arguments("predict", Argument("MODEL", options.model, MODELS), *videos)
    return predict_videos(
        options.model,
        options.video,
        window=options.window,
        hop=options.hop,
        top_k=options.top_k,
        stream=options.stream,
        lines=options.lines,
        events=options.events,
        events_file=options.events_out,
        annotated_file=options.annotate,
        overwrite=options.overwrite,
    )


def summary(result: dict[str, Any]) -> RenderableType | None:
    """A table of the videos; None if they were printed as lines."""
    return None if result.get("lines") else predictions_table(result)


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns the exit code."""
    return command.run(PredictOptions, predict, summary, argv)


if __name__ == "__main__":
    # As `python pipelines/predict.py` too: the same importable module either way.
    from pipelines.predict import main as importable_main

    sys.exit(importable_main())

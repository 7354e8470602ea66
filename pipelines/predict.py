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

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipelines import cli
from pipelines.annotate import annotate
from pipelines.catalog import VIDEOS
from pipelines.classifier import Classifier, open_classifier, reading_model
from pipelines.cli import UserError, percent
from pipelines.crew import on_all_cores
from pipelines.isolation import IsolatedDecoder
from pipelines.one_video import TIME_LIMIT_S, Recogniser, is_camera
from pipelines.segments import Length
from pipelines.storage import Location
from pipelines.teller import Teller, write_line

__all__ = ["PredictOptions", "predict"]

log = logging.getLogger(__name__)
_MOST_SEGMENTS = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictOptions:
    """Classify videos with a model; it knows frame size, sampling and classes by itself."""

    model: str = cli.positional()
    """model directory, run or ONNX file (clip or step), or its URI, such as runs/sweep/best"""
    video: tuple[str, ...] = cli.positional()
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
    """Classifies each video; one that does not decode is an entry with an error, and the rest go on.

    Returns:
        videos, in the order given: path, label, probabilities, num_frames (or path and error); with windows also
        segments, with top_k also top. exit_code 1 where there is an error.

    Raises:
        UserError: a damaged model, or what it can't do.
    """
    paths = list(_inputs(options.video))
    with reading_model(options.model) as model:
        classifier = open_classifier(model)
    _check(options, paths, classifier)
    window, hop = (None if text is None else Length.parse(text, "") for text in (options.window, options.hop))
    videos: list[dict[str, Any]] = [{} for _ in paths]
    with Teller(classifier, as_lines=options.lines) as teller:
        recogniser = Recogniser(classifier, window, hop or window, options.top_k, teller if options.stream else None)
        for number, entry in _entries(recogniser, paths):
            words = entry.pop("words", None)
            if options.annotate is not None and "error" not in entry:
                annotate(paths[number], Path(options.annotate), words)
                log.info("%s: written", options.annotate)
            if options.lines:
                write_line(entry)
            videos[number] = entry
    result: dict[str, Any] = {"videos": videos}
    if options.lines:
        result["lines"] = True
    if recogniser.is_interrupted:
        return {**result, "exit_code": 130}
    return {**result, "exit_code": 1 if any("error" in video for video in videos) else 0}


def _entries(recogniser: Recogniser, paths: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The entry of each video with its number, as they are done."""
    is_live = recogniser.teller is not None or any(path == "-" or is_camera(path) for path in paths)
    if len(paths) > 1 and not is_live:
        done = on_all_cores(paths, recogniser.entry, time_limit_s=TIME_LIMIT_S, let_go=recogniser.let_go)
        yield from cli.progress(done, len(paths), "videos")
        return
    with IsolatedDecoder(TIME_LIMIT_S) as decoder:
        for number, path in enumerate(paths):
            yield number, recogniser.entry(path, decoder)


def _inputs(given: tuple[str, ...]) -> Iterator[str]:
    """The videos, those of folders by name."""
    for name in given:
        if name == "-" or not Path(name).is_dir():
            yield name
            continue
        files = [file for file in Location.of(name).files() if file.lower().endswith(VIDEOS)]
        if not files:
            raise UserError(f"{name} has no videos ({', '.join(VIDEOS)}); give another folder, or files by name")
        yield from (str(Path(name, file)) for file in files)


def _check(options: PredictOptions, paths: list[str], classifier: Classifier) -> None:
    """Raises UserError where the options ask for what can't be."""
    if (options.stream or any(map(is_camera, paths))) and not options.window and classifier.why_no_stream:
        raise UserError(
            f"--stream, or a camera, gives one frame at a time, but {options.model} needs whole clips: "
            f"{classifier.why_no_stream}; leave --stream out, or give --window"
        )
    for path in filter(is_camera, paths):
        if not options.stream:
            raise UserError(f"{path} is a camera, which does not end; give --stream (a file of that name is ./{path})")
    if paths.count("-") > 1:
        raise UserError("- is standard input, which can be read once; give it once")
    if "-" in paths and sys.stdin is not None and sys.stdin.isatty():
        raise UserError(
            "- reads raw frames from standard input, which is a terminal; see the ffmpeg line in the README"
        )
    if "-" in paths and any(Length.parse(text, "").is_seconds for text in (options.window, options.hop) if text):
        raise UserError(
            "raw frames on standard input have no frame rate; give --window and --hop in frames, such as 48"
        )
    if options.annotate is not None:
        if len(paths) != 1 or paths[0] == "-" or is_camera(paths[0]):
            raise UserError(f"--annotate {options.annotate} is for one video file; give one")
        out = Path(options.annotate)
        if out.exists() and (not options.overwrite or out.is_dir()):
            raise UserError(f"{out} exists; --overwrite replaces a file")
        if not out.absolute().parent.is_dir():
            raise UserError(f"there is no directory {out.absolute().parent} to write {out.name} in")
        if Path(paths[0]).exists() and out.exists() and out.samefile(paths[0]):
            raise UserError(f"{out} is the video itself; give another name")


def _shown(result: dict[str, Any]) -> RenderableType | None:
    return None if result.get("lines") else summary(result)


def summary(result: dict[str, Any]) -> RenderableType:
    """A table: video, label, probability, runners-up; and the segments of those that have some."""
    videos, names = result["videos"], _names([video["path"] for video in result["videos"]])
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("video", overflow="fold")
    table.add_column("label")
    table.add_column("probability", justify="right")
    table.add_column("next best")
    table.add_column("frames", justify="right")
    parts: list[RenderableType] = [table]
    for name, video in zip(names, videos, strict=True):
        if "error" in video:
            # In full it has been told already.
            reason = video["error"].removeprefix(repr(video["path"])[1:-1]).strip(" :").split(":")[0]
            table.add_row(Text(name), "-", "-", Text(f"error: {reason}"), "-")
            continue
        first, *others = _ranked(video, len(video.get("top", ())) or 2)
        best = ", ".join(f"{other} {percent(share)}" for other, share in others) or "-"
        label = Text(video["label"] or "(none)")
        table.add_row(Text(name), label, percent(first[1]), Text(best), f"{video['num_frames']:,}")
        if "segments" in video:
            parts += ["", *_segments(name, video["segments"])]
    return Group(*parts)


def _segments(name: str, segments: list[dict[str, Any]]) -> Iterator[RenderableType]:
    is_timed = all(segment["end_s"] is not None for segment in segments)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for head, side in (("seconds" if is_timed else "frames", "right"), ("label", "left"), ("probability", "right")):
        table.add_column(head, justify=side)  # type: ignore[arg-type]
    for segment in segments[:_MOST_SEGMENTS]:
        span = f"{segment['start_frame']:,} to {segment['end_frame']:,}"
        if is_timed:
            span = f"{segment['start_s']:.1f} to {segment['end_s']:.1f}"
        ((_, share),) = _ranked(segment, 1)
        table.add_row(span, Text(segment["label"] or "(none)"), percent(share))
    yield Text(f"{name}, {len(segments):,} segments")
    yield table
    if len(segments) > _MOST_SEGMENTS:
        yield f"and {len(segments) - _MOST_SEGMENTS:,} more: --json has all"


def _ranked(entry: dict[str, Any], number: int) -> list[tuple[str, float]]:
    return sorted(entry["probabilities"].items(), key=lambda item: -item[1])[:number]


def _names(paths: list[str]) -> list[str]:
    """As short as they can be told apart: so many last parts of each as it takes."""
    most = max(len(Path(path).parts) for path in paths)
    for number in range(1, most + 1):
        names = [str(Path(*Path(path).parts[-number:])) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return names


def main(argv: list[str] | None = None) -> int:
    """The command; see the head of this file."""
    return cli.run(PredictOptions, predict, _shown, argv)


if __name__ == "__main__":
    # As `python pipelines/predict.py` too: the same importable module either way.
    from pipelines.predict import main as importable_main

    sys.exit(importable_main())

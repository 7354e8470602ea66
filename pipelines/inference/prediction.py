"""Classify the videos of a predict command."""

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.core.errors import UserError
from pipelines.core.progress import progress
from pipelines.data.layouts import VIDEOS
from pipelines.evaluation.classifier import open_classifier, reading_model
from pipelines.inference.output import Teller, write_line
from pipelines.inference.recognizer import TIME_LIMIT_S, Recogniser, is_camera
from pipelines.storage.location import Location
from pipelines.video.overlay import annotate
from pipelines.video.pool import on_all_cores
from pipelines.video.windows import Length
from pipelines.video.worker import IsolatedDecoder

__all__ = ["predict_videos"]


log = logging.getLogger(__name__)


def predict_videos(
    model: str,
    videos: Sequence[str],
    *,
    window: str | None = None,
    hop: str | None = None,
    top_k: int | None = None,
    stream: bool = False,
    lines: bool = False,
    annotated: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Classifies each video; one that does not decode is an entry with an error, and the rest go on.

    The arguments are the options of `python -m pipelines.predict`.

    Returns:
        videos, in the order given: path, label, probabilities, num_frames (or path and error); with windows also
        segments, with top_k also top. exit_code 1 where there is an error.

    Raises:
        UserError: a damaged model, or options that it cannot satisfy.
    """
    paths = list(_inputs(videos))
    with reading_model(model) as directory:
        classifier = open_classifier(directory)
    lengths = {name: Length.parse(text, name) for name, text in (("window", window), ("hop", hop)) if text}
    if (stream or any(map(is_camera, paths))) and not window and classifier.why_no_stream:
        raise UserError(
            f"--stream, or a camera, gives one frame at a time, but {model} needs whole clips: "
            f"{classifier.why_no_stream}; leave --stream out, or give --window"
        )
    _check_sources(paths, lengths.values(), is_streamed=stream)
    if annotated is not None:
        _check_annotated(annotated, paths, overwrite)
    found: list[dict[str, Any]] = [{} for _ in paths]
    with Teller(classifier, as_lines=lines) as teller:
        length = lengths.get("window")
        recogniser = Recogniser(classifier, length, lengths.get("hop", length), top_k, teller if stream else None)
        for number, entry in _entries(recogniser, paths):
            words = entry.pop("words", None)
            if annotated is not None and "error" not in entry:
                annotate(paths[number], Path(annotated), words)
                log.info("%s: written", annotated)
            if lines:
                write_line(entry)
            found[number] = entry
    result: dict[str, Any] = {"videos": found}
    if lines:
        result["lines"] = True
    if recogniser.is_interrupted:
        return {**result, "exit_code": 130}
    return {**result, "exit_code": 1 if any("error" in video for video in found) else 0}


def _entries(recogniser: Recogniser, paths: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The entry of each video with its number, as they are done."""
    is_live = recogniser.teller is not None or any(path == "-" or is_camera(path) for path in paths)
    if len(paths) > 1 and not is_live:
        done = on_all_cores(paths, recogniser.entry, time_limit_s=TIME_LIMIT_S, let_go=recogniser.let_go)
        yield from progress(done, len(paths), "videos")
        return
    with IsolatedDecoder(TIME_LIMIT_S) as decoder:
        for number, path in enumerate(paths):
            yield number, recogniser.entry(path, decoder)


def _inputs(given: Sequence[str]) -> Iterator[str]:
    """The videos, those of folders by name."""
    for name in given:
        if name == "-" or not Path(name).is_dir():
            yield name
            continue
        files = [file for file in Location.of(name).files() if file.lower().endswith(VIDEOS)]
        if not files:
            raise UserError(f"{name} has no videos ({', '.join(VIDEOS)}); give another folder, or files by name")
        yield from (str(Path(name, file)) for file in files)


def _check_sources(paths: Sequence[str], lengths: Iterable[Length], *, is_streamed: bool) -> None:
    """Raises UserError for cameras and standard input that cannot be read as asked for."""
    for path in filter(is_camera, paths):
        if not is_streamed:
            raise UserError(f"{path} is a camera, which does not end; give --stream (a file of that name is ./{path})")
    if paths.count("-") > 1:
        raise UserError("- is standard input, which can be read once; give it once")
    if "-" in paths and sys.stdin is not None and sys.stdin.isatty():
        raise UserError(
            "- reads raw frames from standard input, which is a terminal; see the ffmpeg line in the README"
        )
    if "-" in paths and any(length.is_seconds for length in lengths):
        raise UserError(
            "raw frames on standard input have no frame rate; give --window and --hop in frames, such as 48"
        )


def _check_annotated(annotated: str, paths: Sequence[str], overwrite: bool) -> None:
    """Raises UserError for an annotated video that cannot be written."""
    if len(paths) != 1 or paths[0] == "-" or is_camera(paths[0]):
        raise UserError(f"--annotate {annotated} is for one video file; give one")
    out = Path(annotated)
    if out.exists() and (not overwrite or out.is_dir()):
        raise UserError(f"{out} exists; --overwrite replaces a file")
    if not out.absolute().parent.is_dir():
        raise UserError(f"there is no directory {out.absolute().parent} to write {out.name} in")
    if Path(paths[0]).exists() and out.exists() and out.samefile(paths[0]):
        raise UserError(f"{out} is the video itself; give another name")

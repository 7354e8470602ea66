"""Classify the videos of a predict command."""

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.core.errors import UserError
from pipelines.core.progress import progress
from pipelines.data.tree import list_tree
from pipelines.evaluation.classifier import open_classifier
from pipelines.evaluation.event_files import check_events_file, write_events
from pipelines.evaluation.event_finder import TimedEvent, event_rule
from pipelines.evaluation.model_files import reading_model
from pipelines.inference.output import LiveOutput, write_line
from pipelines.inference.recognizer import TIME_LIMIT_S, Recognizer, is_camera
from pipelines.storage.location import Location
from pipelines.video.errors import RejectedError
from pipelines.video.overlay import annotate
from pipelines.video.pool import on_all_cores
from pipelines.video.suffixes import ARRAY_SUFFIXES, NO_CLIPS, PICTURE_SUFFIXES
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
    events: bool = False,
    events_file: str | None = None,
    annotated_file: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Classifies each video; the entry of one that does not decode has an error, and the others are not affected.

    The arguments are the options of `python -m pipelines.predict`.

    Returns:
        videos, in the order given: path, label, probabilities, num_frames (or path and error); with windows also
        segments, with events also events, with top_k also top. exit_code is 1 if an entry has an error.

    Raises:
        UserError: a damaged model, or options that the model or the videos do not allow.
    """
    paths = list(_inputs(videos))
    with reading_model(model) as directory:
        classifier = open_classifier(directory)
        rule = event_rule(directory, classifier) if events else None
    lengths = {name: Length.parse(text, name) for name, text in (("window", window), ("hop", hop)) if text}
    if (stream or any(map(is_camera, paths))) and not window and classifier.why_no_stream:
        raise UserError(
            f"--stream, or a camera, gives one frame at a time, but {model} needs whole clips: "
            f"{classifier.why_no_stream}; leave out --stream, or give --window"
        )
    _check_sources(paths, lengths.values(), is_streamed=stream)
    if annotated_file is not None:
        _check_annotated_file(annotated_file, paths, overwrite)
    if events_file is not None:
        check_events_file(events_file, paths)
        _check_new_file(Path(events_file), overwrite)
    entries: list[dict[str, Any]] = [{} for _ in paths]
    with LiveOutput(classifier, as_lines=lines) as live:
        length = lengths.get("window")
        recognizer = Recognizer(classifier, length, lengths.get("hop", length), top_k, live if stream else None, rule)
        for index, entry in _predict(recognizer, paths):
            captions = entry.pop("captions", [])
            if annotated_file is not None and "error" not in entry:
                entry = _annotate(paths[index], Path(annotated_file), captions) or entry
            if lines:
                write_line(entry)
            entries[index] = entry
    errors = [entry["error"] for entry in entries if "error" in entry]
    for error in errors:
        log.error("error: %s", error)
    if events_file is not None:
        _write_events(Path(events_file), entries)
    result: dict[str, Any] = {"videos": entries}
    if lines:
        result["lines"] = True
    if recognizer.is_interrupted:
        return {**result, "exit_code": 130}
    return {**result, "exit_code": 1 if errors else 0}


def _annotate(path: str, out: Path, captions: Sequence[tuple[float, str]]) -> dict[str, str]:
    """Writes the annotated copy; returns the entry of a video that does not decode to its end, or an empty one."""
    try:
        annotate(path, out, captions, time_limit_s=TIME_LIMIT_S)
    except RejectedError as error:
        return {"path": path, "error": str(error)}
    log.info("%s: written", out)
    return {}


def _write_events(file: Path, entries: Sequence[dict[str, Any]]) -> None:
    found = {entry["path"]: entry["events"] for entry in entries if "events" in entry}
    write_events(file, {path: [TimedEvent(**event) for event in events] for path, events in found.items()})


def _predict(recognizer: Recognizer, paths: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the index and the entry of each video as it completes."""
    is_live = recognizer.live is not None or any(path == "-" or is_camera(path) for path in paths)
    if len(paths) > 1 and not is_live:
        done = on_all_cores(paths, recognizer.predict, time_limit_s=TIME_LIMIT_S, cancel=recognizer.cancel)
        yield from progress(done, len(paths), "videos")
        return
    with IsolatedDecoder(TIME_LIMIT_S) as decoder:
        for index, path in enumerate(paths):
            yield index, recognizer.predict(path, decoder)


def _inputs(given: Sequence[str]) -> Iterator[str]:
    """Yields the clips; a folder is replaced by the clips in it, sorted by name, unless it is a clip of pictures."""
    for name in given:
        if name == "-" or not Path(name).is_dir():
            yield name
            continue
        tree, _ = list_tree(Location.of(name))
        has_pictures = any("/" not in file and file.lower().endswith(PICTURE_SUFFIXES) for file in tree.files)
        if has_pictures and not set(tree.videos) - tree.picture_folders:
            if tree.videos:
                raise UserError(
                    f"{name} holds pictures, and {tree.videos[0]} in it too; give the folders that are clips"
                )
            yield name
            continue
        if not tree.videos:
            raise UserError(f"{name} has {NO_CLIPS}; give another folder, or files by name")
        yield from (str(Path(name, clip)) for clip in tree.videos)


def _check_sources(paths: Sequence[str], lengths: Iterable[Length], *, is_streamed: bool) -> None:
    """Raises UserError for cameras and standard input that cannot be read with these options."""
    for path in filter(is_camera, paths):
        if not is_streamed:
            raise UserError(f"{path} is a camera, which never ends; give --stream (a file of this name is ./{path})")
    if paths.count("-") > 1:
        raise UserError("- is standard input, which can be read only once; give it once")
    if "-" in paths and sys.stdin is not None and sys.stdin.isatty():
        raise UserError(
            "- reads raw frames from standard input, which is a terminal; see the ffmpeg line in the README"
        )
    if "-" in paths and any(length.is_seconds for length in lengths):
        raise UserError(
            "raw frames on standard input have no frame rate; give --window and --hop in frames, such as 48"
        )


def _check_annotated_file(name: str, paths: Sequence[str], overwrite: bool) -> None:
    """Raises UserError if the annotated video cannot be written."""
    is_video = len(paths) == 1 and paths[0] != "-" and not is_camera(paths[0])
    if not is_video or Path(paths[0]).is_dir() or paths[0].lower().endswith(ARRAY_SUFFIXES):
        raise UserError(f"--annotate {name} is for one video file; give one")
    out = Path(name)
    _check_new_file(out, overwrite)
    if Path(paths[0]).exists() and out.exists() and out.samefile(paths[0]):
        raise UserError(f"{out} is the video itself; give another name")


def _check_new_file(out: Path, overwrite: bool) -> None:
    """Raises UserError if a file cannot be written, or exists and is not to be replaced."""
    if out.exists() and (not overwrite or out.is_dir()):
        raise UserError(f"{out} exists; --overwrite replaces a file")
    if not out.absolute().parent.is_dir():
        raise UserError(f"there is no directory {out.absolute().parent} to write {out.name} in")

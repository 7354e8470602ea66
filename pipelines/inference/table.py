"""Format predictions as tables for the terminal."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pipelines.core.terminal import table
from pipelines.core.text import percent, plural

__all__ = ["predictions_table"]

_MAX_SEGMENTS = 40


def predictions_table(result: dict[str, Any]) -> RenderableType:
    """A table of the videos that decode: label, probability, next best classes; and the segments, if any."""
    videos, names = result["videos"], _names([video["path"] for video in result["videos"]])
    labels = table("video", "label", "probability", "next best", "frames", right=("probability", "frames"))
    parts: list[RenderableType] = [labels]
    for name, video in zip(names, videos, strict=True):
        if "error" in video:
            # It has been logged.
            continue
        first, *others = _ranked(video, len(video.get("top", ())) or 2)
        best = ", ".join(f"{other} {percent(share)}" for other, share in others) or "-"
        label = Text(video["label"] or "(none)")
        labels.add_row(Text(name), label, percent(first[1]), Text(best), f"{video['num_frames']:,}")
        if "segments" in video:
            parts += ["", *_segments(name, video["segments"])]
        if "events" in video:
            parts += ["", *_segments(name, video["events"], "event")]
    return Group(*(parts if labels.row_count else []))


def _segments(name: str, segments: list[dict[str, Any]], kind: str = "segment") -> Iterator[RenderableType]:
    is_timed = all(segment["end_s"] is not None for segment in segments)
    unit = "seconds" if is_timed else "frames"
    spans = table(unit, "label", "probability", right=(unit, "probability"))
    for segment in segments[:_MAX_SEGMENTS]:
        span = f"{segment['start_frame']:,} to {segment['end_frame']:,}"
        if is_timed:
            span = f"{segment['start_s']:.1f} to {segment['end_s']:.1f}"
        share = segment["score"] if "score" in segment else _ranked(segment, 1)[0][1]
        spans.add_row(span, Text(segment["label"] or "(none)"), percent(share))
    yield Text(f"{name}, {plural(len(segments), kind)}")
    if segments:
        yield spans
    if len(segments) > _MAX_SEGMENTS:
        yield f"and {len(segments) - _MAX_SEGMENTS:,} more; --json lists all"


def _ranked(entry: dict[str, Any], number: int) -> list[tuple[str, float]]:
    return sorted(entry["probabilities"].items(), key=lambda item: -item[1])[:number]


def _names(paths: list[str]) -> list[str]:
    """The paths, each shortened to its last parts, as many as needed to tell them apart."""
    max_parts = max(len(Path(path).parts) for path in paths)
    for number in range(1, max_parts + 1):
        names = [str(Path(*Path(path).parts[-number:])) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return names

"""Format predictions as tables for the terminal."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipelines.core.text import percent, plural

__all__ = ["predictions_table"]

_MAX_SEGMENTS = 40


def predictions_table(result: dict[str, Any]) -> RenderableType:
    """A table with the label, its probability and the next best classes of each video, and the segments, if any."""
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
            # The full message has been logged.
            reason = video["error"].removeprefix(repr(video["path"])[1:-1]).strip(" :").split(":")[0]
            table.add_row(Text(name), "-", "-", Text(f"error: {reason}"), "-")
            continue
        first, *others = _ranked(video, len(video.get("top", ())) or 2)
        best = ", ".join(f"{other} {percent(share)}" for other, share in others) or "-"
        label = Text(video["label"] or "(none)")
        table.add_row(Text(name), label, percent(first[1]), Text(best), f"{video['num_frames']:,}")
        if "segments" in video:
            parts += ["", *_segments(name, video["segments"])]
        if "events" in video:
            parts += ["", *_segments(name, video["events"], "event")]
    return Group(*parts)


def _segments(name: str, segments: list[dict[str, Any]], kind: str = "segment") -> Iterator[RenderableType]:
    is_timed = all(segment["end_s"] is not None for segment in segments)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for head, side in (("seconds" if is_timed else "frames", "right"), ("label", "left"), ("probability", "right")):
        table.add_column(head, justify=side)  # type: ignore[arg-type]
    for segment in segments[:_MAX_SEGMENTS]:
        span = f"{segment['start_frame']:,} to {segment['end_frame']:,}"
        if is_timed:
            span = f"{segment['start_s']:.1f} to {segment['end_s']:.1f}"
        share = segment["score"] if "score" in segment else _ranked(segment, 1)[0][1]
        table.add_row(span, Text(segment["label"] or "(none)"), percent(share))
    yield Text(f"{name}, {plural(len(segments), kind)}")
    if segments:
        yield table
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

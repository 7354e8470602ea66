"""Write events to a file: JSON lines, CSV or WebVTT subtitles, by its suffix."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from pipelines.core.errors import UserError
from pipelines.data.streams import HEADER
from pipelines.evaluation.event_finder import TimedEvent
from ttrnn.files import atomic_write

__all__ = ["check_events_file", "write_events"]

Events = Mapping[str, Sequence[TimedEvent]]
"""the events of each video, in order of time"""
_MORE = ("detected_s", "score", "start_frame", "end_frame", "detected_frame")


def check_events_file(name: str, videos: Sequence[str]) -> None:
    """Raises UserError for another suffix, and for subtitles of several videos or of raw frames."""
    suffix = Path(name).suffix.lower()
    if suffix not in _WRITERS:
        raise UserError(f"{name} must end with {', '.join(_WRITERS)}")
    if suffix == ".vtt" and (len(videos) != 1 or "-" in videos):
        given = "raw frames, which have no times" if "-" in videos else len(videos)
        raise UserError(f"{name} has the subtitles of one video, got {given}; give a .csv or .jsonl file")


def write_events(file: Path, events: Events) -> None:
    """Writes the file, whole or not at all.

    Raises:
        UserError: subtitles of events without times.
    """
    with atomic_write(file) as opened:
        _WRITERS[file.suffix.lower()](opened, events)


def _write_lines(file: IO[str], events: Events) -> None:
    for video, own in events.items():
        file.writelines(json.dumps({"video": video, **event.to_dict()}) + "\n" for event in own)


def _write_csv(file: IO[str], events: Events) -> None:
    """The columns of evaluate --stream, and more; a video without events is alone in its row, as there."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*HEADER, *_MORE])
    for video, own in events.items():
        for event in own:
            values = {"video": video, **event.to_dict()}
            writer.writerow([values[name] for name in (*HEADER, *_MORE)])
        if not own:
            writer.writerow([video, *[""] * (len(HEADER) + len(_MORE) - 1)])


def _write_vtt(file: IO[str], events: Events) -> None:
    file.write("WEBVTT\n")
    for video, own in events.items():
        for event in own:
            if event.start_s is None or event.end_s is None:
                raise UserError(f"{video} has no frame rate, so its events have no times; give a .csv or .jsonl file")
            # In cues, & and < begin markup, and an empty line ends the cue.
            text = " ".join(event.label.split()).replace("&", "&amp;").replace("<", "&lt;")
            file.write(f"\n{_clock(event.start_s)} --> {_clock(event.end_s)}\n{text} {100 * event.score:.0f}%\n")


def _clock(seconds: float) -> str:
    minutes, milliseconds = divmod(round(1000 * seconds), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds / 1000:06.3f}"


_WRITERS: Mapping[str, Callable[[IO[str], Events], None]] = {
    ".jsonl": _write_lines,
    ".csv": _write_csv,
    ".vtt": _write_vtt,
}

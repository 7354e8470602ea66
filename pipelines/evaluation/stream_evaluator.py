"""Evaluate a model with thresholds on videos of which a table says what happens when."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.errors import UserError
from pipelines.core.progress import progress
from pipelines.core.text import percent
from pipelines.data.copies import local_copy
from pipelines.data.streams import read_truths
from pipelines.data.tree import parent_of
from pipelines.evaluation.classifier import open_classifier
from pipelines.evaluation.event_files import write_events
from pipelines.evaluation.event_finder import TimedEvent, event_rule, find_events, stream_scores
from pipelines.evaluation.event_metrics import compare_streams
from pipelines.storage.location import Location
from pipelines.video.errors import RejectedError
from pipelines.video.sources import open_video
from pipelines.video.worker import IsolatedDecoder
from ttrnn.events import BACKGROUND

__all__ = ["evaluate_streams", "events_text"]

_TIME_LIMIT_S = 300.0


def evaluate_streams(model_dir: str | Path, table: str | Location, *, out: Path | None = None) -> dict[str, Any]:
    """Finds the events in videos and compares them with a table.

    Args:
        model_dir: A model directory, a run or an ONNX file, with thresholds.
        table: CSV file video,start_s,end_s,label; see `streams.read_truths`.
        out: A directory to write events.csv to, the events that were found.

    Returns:
        num_videos, window, hop, num_params and the result of `event_metrics.compare_streams`.

    Raises:
        UserError: the model has no thresholds, the table has other labels than the model, or a video does not decode or
            has no frame rate.
    """
    classifier, file = open_classifier(model_dir), Location.of(table)
    rule, truths = event_rule(model_dir, classifier), read_truths(file)
    names = [name for name in classifier.classes if name != BACKGROUND]
    if unknown := {truth.label for own in truths.values() for truth in own} - set(names):
        known = ", ".join(names)
        raise UserError(
            f"{file} has the label {min(unknown)!r}, but the model has {known}; correct it, or leave out its rows (a "
            "video alone in its row has no events)"
        )
    sampling = dataclasses.replace(classifier.sampling, max_frames=None, num_frames=None)
    found: dict[str, list[TimedEvent]] = {}
    total_s = 0.0
    with IsolatedDecoder(_TIME_LIMIT_S) as decoder:
        for video in progress(truths, len(truths), "videos"):
            path, timer = str(parent_of(file) / video), _Timer(video)
            try:
                with local_copy(path) as local, open_video(local, classifier.frame, sampling, decoder) as source:
                    scores = stream_scores(classifier, rule, timer.timed(source.frames))
                    found[video] = list(find_events(rule, classifier.classes, scores))
            except RejectedError as error:
                raise UserError(f"{file}: {error}") from error
            total_s += timer.total_s
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_events(out / "events.csv", found)
    compared = compare_streams([(found[video], truths[video]) for video in truths], names, total_s / 3600)
    sizes = {"window": rule.window, "hop": rule.hop, "num_params": classifier.num_params}
    return {"num_videos": len(truths), **sizes, **compared}


class _Timer:
    """Measures a video while its frames pass."""

    def __init__(self, video: str) -> None:
        self._video = video
        self.total_s = 0.0

    def timed(self, frames: Iterable[tuple[float | None, np.ndarray]]) -> Iterator[tuple[float, np.ndarray]]:
        first_s = last_s = math.nan
        num_frames = 0
        for seconds, pixels in frames:
            if seconds is None:
                raise UserError(
                    f"{self._video} has no frame rate, so nothing in it has a time; give videos that have one"
                )
            first_s, last_s, num_frames = (first_s if num_frames else seconds), seconds, num_frames + 1
            yield seconds, pixels
        # The last frame lasts as long as the mean of the others.
        self.total_s = last_s + (last_s - first_s) / max(1, num_frames - 1)


def events_text(result: Mapping[str, Any]) -> str:
    """A line with recall, false alarms an hour and delay, and their 95% intervals."""
    low, high = result["false_alarms_interval"]
    parts = []
    if result["recall"] is not None:
        recall = " to ".join(percent(bound) for bound in result["recall_interval"])
        parts.append(f"recall {percent(result['recall'])} of {result['num_events']:,} events (95% interval {recall})")
    parts.append(
        f"{result['false_alarms_per_hour']:.1f} false alarms an hour ({low:.1f} to {high:.1f}; "
        f"{result['num_false_alarms']:,} in {result['hours']:.2g} hours)"
    )
    if result["mean_delay_s"] is not None:
        delay = result["mean_delay_interval"]
        spread = "" if delay is None else f" ({delay[0]:.2f} to {delay[1]:.2f})"
        parts.append(f"detected after {result['mean_delay_s']:.2f} s on average{spread}")
    return ", ".join(parts)

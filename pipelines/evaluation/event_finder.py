"""Find events in a stream of frames with a model that has a window and thresholds (ttrnn/events.py).

Legend: C classes, H W frame height and width in pixels, K channels.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.errors import UserError, user_errors
from pipelines.evaluation.classifier import Classifier
from pipelines.evaluation.model_files import model_directory
from ttrnn.config_file import read_events
from ttrnn.events import Event, EventDetector, EventRule, StaggeredStates

__all__ = ["TimedEvent", "event_rule", "find_events", "stream_scores"]


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """An event with its times in s, which are None if the frames have none."""

    label: str
    start_s: float | None
    end_s: float | None
    detected_s: float | None
    """when its score first reached the threshold"""
    score: float
    start_frame: int
    end_frame: int
    """frame that follows the last one"""
    detected_frame: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values by field name."""
        return asdict(self)


def event_rule(model: str | Path, classifier: Classifier) -> EventRule:
    """Window and thresholds of a model directory, a run or an ONNX file beside its config.json.

    Raises:
        UserError: it has none, or cannot stream.
    """
    directory = model_directory(model)
    if classifier.why_no_stream:
        raise UserError(f"events need a model that takes one frame at a time, but {model}: {classifier.why_no_stream}")
    if Path(model).suffix == ".onnx" and not (directory / "config.json").exists():
        raise UserError(f"{model} has no config.json beside it, which has the thresholds; leave it in its directory")
    with user_errors():
        rule = read_events(directory)
    if rule is None:
        raise UserError(
            f"{model} has no thresholds for events; export it with: export {model} OUT --false-alarms-per-hour 1"
        )
    return rule


def stream_scores(
    classifier: Classifier, rule: EventRule, frames: Iterable[tuple[float | None, np.ndarray]]
) -> Iterator[tuple[float | None, np.ndarray]]:
    """The time of each frame of a stream, in s (None: unknown), and its scores.

    Args:
        classifier: The model.
        rule: Its window and hop.
        frames: Time and uint8 [H, W, K] of each.
    """
    states = StaggeredStates(classifier.stream, rule)
    for seconds, pixels in frames:
        yield seconds, states.push(pixels)


def find_events(
    rule: EventRule,
    classes: Sequence[str],
    scores: Iterable[tuple[float | None, np.ndarray]],
    on_start: Callable[[TimedEvent], None] = lambda event: None,
) -> Iterator[TimedEvent]:
    """Yields the events of a stream as soon as they are over, in constant memory.

    Args:
        rule: Window and thresholds.
        classes: Names, in the order of the scores.
        scores: Time in s and float32 [C] of each frame, from `stream_scores`.
        on_start: Called with each event when its class is sure; its end and score are those so far.
    """
    detector, clock = EventDetector(rule, classes), _Clock(2 * rule.window + 2)
    # The times of the start and the detection of open events, which the clock may forget.
    opened: dict[str, TimedEvent] = {}

    def ended(event: Event) -> TimedEvent:
        start = opened.pop(event.label)
        return clock.timed(event, start.start_s, start.detected_s)

    for seconds, scores_C in scores:
        clock.add(seconds)
        over = [ended(event) for event in detector.push(scores_C.tolist())]
        for event in detector.started:
            opened[event.label] = clock.timed(event, clock.seconds(event.start), clock.seconds(event.detected))
            on_start(opened[event.label])
        yield from over
    yield from [ended(event) for event in detector.finish()]


class _Clock:
    """The times of the last frames of a stream."""

    def __init__(self, num_frames: int) -> None:
        self._times: deque[float | None] = deque(maxlen=num_frames)
        self._num_frames = 0

    def add(self, seconds: float | None) -> None:
        self._times.append(seconds)
        self._num_frames += 1

    def seconds(self, frame: int) -> float | None:
        """The time of a frame that was added, or of the next one, as far from the last as that from the one before."""
        times, index = self._times, frame - self._num_frames + len(self._times)
        if index < len(times):
            return times[index]
        last, before = times[-1], times[-2] if len(times) > 1 else times[-1]
        return None if last is None or before is None else last + (last - before)

    def timed(self, event: Event, start_s: float | None, detected_s: float | None) -> TimedEvent:
        return TimedEvent(
            event.label,
            start_s,
            self.seconds(event.end),
            detected_s,
            event.score,
            event.start,
            event.end,
            event.detected,
        )

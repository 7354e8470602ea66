"""Turn the scores of a stream into events: the definition that every form of a model follows (Python, ONNX, C, JS).

Frames are counted from 0. An EventRule has a window W and a hop P in frames, of which W is a multiple, and thresholds.

    states   A state begins, as before the first frame of a clip, at each of the frames 0, P, 2P, ... and takes W
             frames; W / P states run side by side. The scores of frame t are those of the oldest:
                 first(t)  = P * max(0, floor(t / P) - W / P + 1)
                 scores(t) = scores of the model for the clip of the frames first(t) to t
    alarms   Class c alarms at frame t if it has a threshold and
                 scores(t)[c] >= threshold(c)   and   t >= W - P
             so each alarm rests on W - P + 1 to W frames. Several classes may alarm at the same frame.
    events   An alarm of frame t covers the frames first(t) to t. In order of time, an alarm joins the event before it
             of its class if first(t) <= end of this event; otherwise it begins a new one:
                 start    = first(t) of the first alarm
                 detected = t of the first alarm; a trigger fires here, before the event is over
                 end      = t of the last alarm, plus 1
                 score    = the highest of all alarms
             An event is over at the first frame with first(t) > end, or at the end of the stream.

Scores and thresholds are float32, so every form compares the same numbers.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["BACKGROUND", "Event", "EventDetector", "EventRule", "StaggeredStates"]

BACKGROUND = "background"
"""name of the class of clips in which nothing happens, which has no threshold"""


@dataclass(frozen=True, kw_only=True, slots=True)
class EventRule:
    """The window, the hop and the thresholds of a model; `events` in the config.json of its directory.

    Raises:
        ValueError: a value that is out of range.
    """

    window: int
    """W, frames that a state takes"""
    hop: int
    """P, frames from the beginning of one state to that of the next"""
    thresholds: Mapping[str, float]
    """by class; a class without one never alarms"""

    def __post_init__(self) -> None:
        for name in ("window", "hop"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise ValueError(f"{name} must be a number of frames, at least 1, got {value!r}")
        if self.window % self.hop:
            raise ValueError(f"window must be a multiple of hop, got window={self.window}, hop={self.hop}")
        if not isinstance(self.thresholds, Mapping):
            raise ValueError(f"thresholds must be numbers by class, got {self.thresholds!r}")
        for name, value in self.thresholds.items():
            if type(value) is not float or not math.isfinite(value):
                raise ValueError(f"the threshold of {name} must be a finite number, got {value!r}")

    @classmethod
    def from_dict(cls, values: Any, classes: Sequence[str]) -> "EventRule":
        """The rule in a config.json. Raises ValueError for other values, and classes that the model does not have."""
        if not isinstance(values, dict) or values.keys() != {"window", "hop", "thresholds"}:
            raise ValueError(f"events must have window, hop and thresholds, got {values!r}")
        rule = cls(**values)
        if unknown := rule.thresholds.keys() - set(classes):
            raise ValueError(f"there are thresholds for {', '.join(sorted(unknown))}, which are no classes")
        return rule

    def to_dict(self) -> dict[str, Any]:
        """JSON values by field name."""
        return {"window": self.window, "hop": self.hop, "thresholds": dict(self.thresholds)}

    def first(self, frame: int) -> int:
        """The first frame of the clip that the scores of a frame are for."""
        return self.hop * max(0, frame // self.hop - self.window // self.hop + 1)

    def may_alarm(self, frame: int) -> bool:
        """Whether the oldest state has taken enough frames."""
        return frame >= self.window - self.hop

    def alarm(self, label: str, frame: int, score: float) -> "Event":
        """The event of one alarm."""
        return Event(label, self.first(frame), frame, frame + 1, score)


@dataclass(frozen=True, slots=True)
class Event:
    """A class that was seen in a stream; places are numbers of frames."""

    label: str
    """name of the class"""
    start: int
    """first frame"""
    detected: int
    """frame at which its score first reached the threshold"""
    end: int
    """frame that follows the last one"""
    score: float
    """highest score, 0 to 1"""

    def joined(self, alarm: "Event") -> "Event | None":
        """The event with a later alarm of its class; None if that begins another event."""
        if alarm.start > self.end:
            return None
        return Event(self.label, self.start, self.detected, alarm.end, max(self.score, alarm.score))


class EventDetector:
    """Finds events in the scores of one stream, frame by frame.

    Example:
        >>> states, detector = StaggeredStates(lambda: model.stream().push, rule), EventDetector(rule, classes)
        >>> for frame in camera:
        ...     for event in detector.push(states.push(frame).tolist()):
        ...         print("over:", event)
        ...     for event in detector.started:
        ...         print("sure, and still going on:", event)
    """

    def __init__(self, rule: EventRule, classes: Sequence[str]) -> None:
        self._rule = rule
        limits = rule.thresholds
        self._thresholds = [(index, name, limits[name]) for index, name in enumerate(classes) if name in limits]
        self._open: dict[str, Event] = {}
        self.num_frames = 0
        """pushed so far"""
        self.started: list[Event] = []
        """those that were detected at the last frame"""

    def push(self, scores: Sequence[float]) -> list[Event]:
        """Takes the scores of the next frame, float32 values by class; returns the events that are over."""
        frame, self.started = self.num_frames, []
        self.num_frames += 1
        over = [event for event in self._open.values() if self._rule.first(frame) > event.end]
        for event in over:
            del self._open[event.label]
        for index, label, threshold in self._thresholds if self._rule.may_alarm(frame) else ():
            if scores[index] >= threshold:
                alarm = self._rule.alarm(label, frame, scores[index])
                if label in self._open:
                    joined = self._open[label].joined(alarm)
                    assert joined is not None
                    self._open[label] = joined
                else:
                    self._open[label] = alarm
                    self.started.append(alarm)
        return over

    def finish(self) -> list[Event]:
        """The events that were still going on when the stream ended."""
        over, self._open = list(self._open.values()), {}
        return over


class StaggeredStates:
    """Gives the scores of a stream of any length by states that begin one hop after the other.

    Args:
        begin: Begins a stream: returns a function from the next frame to the scores of all its frames so far, such as
            `lambda: model.stream().push`.
        rule: The window and the hop. A frame costs W / P steps of the model.
    """

    def __init__(self, begin: Callable[[], Callable[[Any], Any]], rule: EventRule) -> None:
        self._begin, self._rule = begin, rule
        self._states: deque[Callable[[Any], Any]] = deque(maxlen=rule.window // rule.hop)
        self._num_frames = 0

    def push(self, frame: Any) -> Any:
        """Takes one more frame; returns its scores, as `begin`'s function gives them."""
        if self._num_frames % self._rule.hop == 0:
            # A full deque drops its oldest state, which has taken its W frames.
            self._states.append(self._begin())
        self._num_frames += 1
        scores, *_ = [state(frame) for state in self._states]
        return scores

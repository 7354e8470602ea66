"""Compare the events of streams with what happens in them: recall, false alarms an hour, delay, with 95% intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import gammaincinv, stdtrit

from pipelines.data.streams import Truth
from pipelines.evaluation.event_finder import TimedEvent

__all__ = ["Counts", "compare_streams", "match", "metrics"]

_CONFIDENCE = 0.95


def match(events: Sequence[tuple[float, float]], truths: Sequence[tuple[float, float]]) -> list[int | None]:
    """For each event of one class, the truth that it hits, or None: a false alarm.

    In order of their starts, each event hits the truth that ends first of those that it overlaps and that none has hit
    before. So each truth is hit at most once, and each event hits at most one; as events of a class do not overlap, no
    other choice has more hits.

    Args:
        events: Start and end (which is no part of it) of each.
        truths: Likewise, in the same unit.
    """
    hits: list[int | None] = [None] * len(events)
    free = sorted(range(len(truths)), key=lambda index: truths[index][::-1])
    for number in sorted(range(len(events)), key=events.__getitem__):
        start, end = events[number]
        hit = next((index for index in free if truths[index][0] < end and start < truths[index][1]), None)
        if hit is not None:
            hits[number] = hit
            free.remove(hit)
    return hits


@dataclass(slots=True)
class Counts:
    """What happened to the truths and the events of a class, or of all, in some streams."""

    num_events: int = 0
    """truths"""
    num_false_alarms: int = 0
    delays_s: list[float] = field(default_factory=list)
    """for each truth that was hit, from its start to the detection"""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.num_events + other.num_events,
            self.num_false_alarms + other.num_false_alarms,
            self.delays_s + other.delays_s,
        )


def compare_streams(
    streams: Sequence[tuple[Sequence[TimedEvent], Sequence[Truth]]], classes: Sequence[str], hours: float
) -> dict[str, Any]:
    """The metrics of all classes together and of each class.

    Args:
        streams: The events that were found in each stream, and the truths.
        classes: Names of those that can alarm.
        hours: Of all streams.

    Returns:
        hours, the `metrics` of all, and per_class: class and its `metrics`.
    """
    counts = {name: sum((_compare(*stream, name) for stream in streams), Counts()) for name in classes}
    per_class = [{"class": name, **metrics(own, hours)} for name, own in counts.items()]
    return {"hours": hours, **metrics(sum(counts.values(), Counts()), hours), "per_class": per_class}


def _compare(events: Sequence[TimedEvent], truths: Sequence[Truth], label: str) -> Counts:
    """The counts of a class in one stream."""
    own = [event for event in events if event.label == label]
    expected = [truth for truth in truths if truth.label == label]
    spans = [(event.start_s or 0.0, event.end_s or 0.0) for event in own]
    hits = match(spans, [(truth.start_s, truth.end_s) for truth in expected])
    delays = [
        (event.detected_s or 0.0) - expected[hit].start_s
        for event, hit in zip(own, hits, strict=True)
        if hit is not None
    ]
    return Counts(len(expected), len(own) - len(delays), delays)


def metrics(counts: Counts, hours: float) -> dict[str, Any]:
    """The metrics of some counts, with 95% intervals.

    Returns:
        num_events, num_hits, num_false_alarms; recall (None without events) and its interval (Wilson);
        false_alarms_per_hour and its interval (exact, of a Poisson count); mean_delay_s (None without hits) and its
        interval (Student's t; None below two hits). The intervals take events for independent of each other.
    """
    # Takes half a second, and every `evaluate` imports this module.
    from scipy.stats import binomtest

    hits, false, delays = len(counts.delays_s), counts.num_false_alarms, counts.delays_s
    recall = binomtest(hits, counts.num_events).proportion_ci(_CONFIDENCE, "wilson") if counts.num_events else None
    low = gammaincinv(false, (1 - _CONFIDENCE) / 2) if false else 0.0
    high = gammaincinv(false + 1, (1 + _CONFIDENCE) / 2)
    spread = None
    if hits > 1:
        half = stdtrit(hits - 1, (1 + _CONFIDENCE) / 2) * np.std(delays, ddof=1) / math.sqrt(hits)
        spread = [float(np.mean(delays) - half), float(np.mean(delays) + half)]
    return {
        "num_events": counts.num_events,
        "num_hits": hits,
        "num_false_alarms": false,
        "recall": hits / counts.num_events if counts.num_events else None,
        "recall_interval": None if recall is None else [float(recall.low), float(recall.high)],
        "false_alarms_per_hour": false / hours,
        "false_alarms_interval": [float(low / hours), float(high / hours)],
        "mean_delay_s": float(np.mean(delays)) if delays else None,
        "mean_delay_interval": spread,
    }

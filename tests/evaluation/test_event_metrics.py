"""pipelines/evaluation/event_metrics.py against cases computed by hand."""

import itertools
import math

import numpy as np
import pytest

from pipelines.data.streams import Truth
from pipelines.evaluation.event_finder import TimedEvent
from pipelines.evaluation.event_metrics import Counts, compare_streams, match, metrics

CASES = {
    "hit": ([(0, 4)], [(3, 9)], [0]),
    "touching is no overlap": ([(0, 4)], [(4, 9)], [None]),
    "two events in one truth": ([(0, 4), (6, 9)], [(1, 20)], [0, None]),
    "two truths in one event": ([(0, 20)], [(1, 3), (5, 9)], [0]),
    "each its own": ([(0, 6), (8, 20)], [(1, 3), (5, 9)], [0, 1]),
    "the one that ends first": ([(0, 6), (7, 20)], [(5, 9), (1, 3)], [1, 0]),
    "nothing happens": ([(0, 6)], [], [None]),
    "nothing found": ([], [(0, 6)], []),
}


@pytest.mark.parametrize("name", CASES)
def test_events_hit_the_truths_that_they_overlap_once(name):
    events, truths, expected = CASES[name]
    assert match(events, truths) == expected


def test_no_other_choice_has_more_hits():
    rng = np.random.default_rng(0)
    for _ in range(60):
        one, two = (np.sort(rng.choice(20, 2 * rng.integers(1, 4), replace=False)).reshape(-1, 2) for _ in range(2))
        events, truths = one.tolist(), two.tolist()
        most = 0
        for order in itertools.permutations([*range(len(truths)), *[None] * len(events)], len(events)):
            pairs = [(event, truths[i]) for event, i in zip(events, order, strict=True) if i is not None]
            if all(event[0] < truth[1] and truth[0] < event[1] for event, truth in pairs):
                most = max(most, len(pairs))
        assert sum(hit is not None for hit in match(events, truths)) == most


def timed(label, start, end, detected):
    return TimedEvent(label, start, end, detected, 0.9, 0, 1, 0)


def test_the_metrics_of_two_streams_are_those_computed_by_hand():
    first = (
        [timed("wave", 1.0, 2.0, 1.5), timed("wave", 5.0, 6.0, 5.5), timed("clap", 1.0, 2.0, 1.5)],
        [Truth("wave", 1.2, 3.0), Truth("wave", 8.0, 9.0)],
    )
    second = ([timed("clap", 2.0, 4.0, 3.5)], [Truth("clap", 3.0, 5.0)])
    result = compare_streams([first, second], ("wave", "clap", "jump"), hours=0.5)
    assert result["hours"] == 0.5
    assert (result["num_events"], result["num_hits"], result["num_false_alarms"]) == (3, 2, 2)
    assert (result["recall"], result["false_alarms_per_hour"]) == (2 / 3, 4.0)
    assert result["mean_delay_s"] == pytest.approx((0.3 + 0.5) / 2)
    # Student's t of one degree of freedom, 12.706, times 0.1, the standard error of 0.3 and 0.5.
    assert result["mean_delay_interval"] == pytest.approx([0.4 - 1.2706, 0.4 + 1.2706], abs=1e-4)
    wave, clap, jump = result["per_class"]
    assert (wave["class"], wave["num_events"], wave["recall"], wave["num_false_alarms"]) == ("wave", 2, 0.5, 1)
    assert (clap["recall"], clap["num_false_alarms"], clap["mean_delay_interval"]) == (1.0, 1, None)
    assert (jump["recall"], jump["recall_interval"], jump["mean_delay_s"]) == (None, None, None)


def test_the_intervals_are_the_published_ones():
    # Garwood's limits of a Poisson count: 0 gives 0 to 3.689, 4 gives 1.090 to 10.242.
    assert metrics(Counts(), 1.0)["false_alarms_interval"] == pytest.approx([0, 3.689], abs=1e-3)
    assert metrics(Counts(num_false_alarms=4), 2.0)["false_alarms_interval"] == pytest.approx(
        [1.090 / 2, 10.242 / 2], abs=1e-3
    )
    # Wilson's interval of 8 of 10.
    z = 1.959964
    middle, half = (0.8 + z * z / 20) / (1 + z * z / 10), z * math.sqrt(0.016 + z * z / 400) / (1 + z * z / 10)
    interval = metrics(Counts(10, 0, [0.0] * 8), 1.0)["recall_interval"]
    assert interval == pytest.approx([middle - half, middle + half], abs=1e-4)

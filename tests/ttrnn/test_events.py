"""ttrnn/events.py: hand-made scores give exactly the events of the definition."""

import itertools

import numpy as np
import pytest
import torch

from tests.ttrnn.test_export_onnx import clips, make
from ttrnn.events import Event, EventDetector, EventRule, StaggeredStates

CLASSES = ("background", "wave", "clap")


def rule(window=4, hop=2, **thresholds):
    return EventRule(window=window, hop=hop, thresholds=thresholds or {"wave": 0.5})


def detect(given, scores):
    """The events of scores of wave and clap: with the frame at which each is over, at the end, and as they start."""
    detector, over, started = EventDetector(given, CLASSES), [], []
    for number, (wave, clap) in enumerate(scores):
        over += [(number, event) for event in detector.push([1.0, wave, clap])]
        started += [(number, event.label) for event in detector.started]
    return over, detector.finish(), started


@pytest.mark.parametrize(("window", "hop", "expected"), [
    (4, 2, [0, 0, 0, 0, 2, 2, 4, 4, 6]),
    (6, 2, [0, 0, 0, 0, 0, 0, 2, 2, 4, 4, 6]),
    (3, 3, [0, 0, 0, 3, 3, 3, 6]),
    (3, 1, [0, 0, 0, 1, 2, 3]),
    (1, 1, [0, 1, 2, 3]),
])  # fmt: skip
def test_the_scores_of_a_frame_are_for_the_clip_that_the_formula_says(window, hop, expected):
    given = rule(window, hop)
    assert [given.first(frame) for frame in range(len(expected))] == expected

    def begin():
        seen = []
        return lambda frame: [seen.append(frame), list(seen)][1]

    states = StaggeredStates(begin, given)
    for frame, first in enumerate(expected):
        assert states.push(frame) == list(range(first, frame + 1))


def test_the_states_of_a_model_give_what_predict_gives_for_that_clip():
    model, given = make(pooling="mean"), rule(4, 2)
    frames, states = clips(model, 1, 9)[0], StaggeredStates(lambda: model.stream().push, given)
    for number, frame in enumerate(frames):
        expected = model.predict(frames[given.first(number) : number + 1])
        torch.testing.assert_close(states.push(frame), expected, rtol=1e-4, atol=1e-5)


# With a window of 4 and a hop of 2, the clips of the frames 0 to 9 begin at 0 0 0 0 2 2 4 4 6 6.
CASES = {
    "nothing": ([0.1] * 12, [], []),
    "at the threshold": ([0, 0, 0, 0.5, 0, 0, 0, 0, 0, 0], [(8, Event("wave", 0, 3, 4, 0.5))], []),
    "just below it": ([0, 0, 0, 0.49999, 0, 0, 0, 0], [], []),
    "too few frames seen": ([0.9, 0.9, 0, 0, 0, 0, 0, 0], [], []),
    "at the first frame that may": ([0.9, 0.9, 0.7, 0, 0, 0, 0, 0], [(6, Event("wave", 0, 2, 3, 0.7))], []),
    "the highest score": ([0, 0, 0, 0.6, 0.9, 0.7, 0, 0, 0, 0], [], [Event("wave", 0, 3, 6, 0.9)]),
    "spans that touch": ([0, 0, 0, 0.6, 0, 0, 0, 0.8], [], [Event("wave", 0, 3, 8, 0.8)]),
    "spans with a gap": (
        [0, 0, 0, 0.6, 0, 0, 0, 0, 0.8],
        [(8, Event("wave", 0, 3, 4, 0.6))],
        [Event("wave", 6, 8, 9, 0.8)],
    ),
    "at the last frame": ([0] * 9 + [1.0], [], [Event("wave", 6, 9, 10, 1.0)]),
    "no frames": ([], [], []),
}


@pytest.mark.parametrize("name", CASES)
def test_scores_become_exactly_these_events(name):
    scores, over, at_end = CASES[name]
    assert detect(rule(), [(score, 0.9) for score in scores])[:2] == (over, at_end)


def test_classes_have_events_of_their_own_and_start_when_they_are_sure():
    scores = [(0, 0), (0, 0.4), (0.6, 0), (0.6, 0.3), (0, 0.4), (0, 0), (0, 0), (0, 0), (0, 0.8)]
    over, at_end, started = detect(rule(wave=0.5, clap=0.3), scores)
    assert started == [(2, "wave"), (3, "clap"), (8, "clap")]
    wave, clap = Event("wave", 0, 2, 4, 0.6), Event("clap", 0, 3, 5, 0.4)
    assert (over, at_end) == ([(8, wave), (8, clap)], [Event("clap", 6, 8, 9, 0.8)])


@pytest.mark.parametrize(("window", "hop"), [(4, 2), (6, 2), (5, 5), (1, 1)])
def test_events_cover_the_clips_of_their_alarms_and_no_other_frame(window, hop):
    rng, given = np.random.default_rng(window), rule(window, hop, wave=0.7)
    scores = rng.random((200, 2)).astype(np.float32).tolist()
    over, at_end, _ = detect(given, scores)
    events = [event for _, event in over] + at_end
    alarms = [t for t, (wave, _) in enumerate(scores) if wave >= 0.7 and given.may_alarm(t)]
    covered = {frame for t in alarms for frame in range(given.first(t), t + 1)}
    assert covered == {frame for event in events for frame in range(event.start, event.end)}
    assert len(events) > 1
    assert all(one.end < two.start for one, two in itertools.pairwise(events))
    for event in events:
        own = [t for t in alarms if event.start <= t < event.end]
        assert (event.detected, event.end) == (own[0], own[-1] + 1)
        assert event.score == max(scores[t][0] for t in own)
        assert event.start == given.first(own[0])


@pytest.mark.parametrize(("values", "message"), [
    ({"window": 5, "hop": 2, "thresholds": {}}, "window must be a multiple of hop, got window=5, hop=2"),
    ({"window": 0, "hop": 1, "thresholds": {}}, "window must be a number of frames, at least 1, got 0"),
    ({"window": 4.0, "hop": 2, "thresholds": {}}, r"window must be a number of frames, at least 1, got 4\.0"),
    ({"window": 4, "hop": 2, "thresholds": {"wave": float("nan")}}, "threshold of wave must be a finite number"),
    ({"window": 4, "hop": 2, "thresholds": {"jump": 0.5}}, "thresholds for jump, which are no classes"),
    ({"window": 4, "hop": 2, "thresholds": [0.5]}, r"thresholds must be numbers by class, got \[0\.5\]"),
    ({"window": 4, "thresholds": {}}, "events must have window, hop and thresholds"),
    ([], r"events must have window, hop and thresholds, got \[\]"),
])  # fmt: skip
def test_a_rule_that_is_none_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        EventRule.from_dict(values, CLASSES)


def test_a_rule_comes_back_from_its_json():
    given = rule(6, 3, wave=0.25, clap=0.75)
    assert EventRule.from_dict(given.to_dict(), CLASSES) == given

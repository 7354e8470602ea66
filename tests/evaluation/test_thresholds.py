"""pipelines/evaluation/thresholds.py against brute force."""

from types import SimpleNamespace

import numpy as np
import pytest

from pipelines.evaluation.event_metrics import match
from pipelines.evaluation.thresholds import _events, choose_rule, choose_threshold, default_window
from ttrnn.events import EventDetector, EventRule


def detect(scores_T, window, hop, threshold):
    """Hits and false alarms by the detector itself."""
    detector = EventDetector(EventRule(window=window, hop=hop, thresholds={"wave": float(threshold)}), ("wave",))
    events = [event for score in scores_T.tolist() for event in detector.push([score])] + detector.finish()
    return [(event.start, event.end) for event in events]


@pytest.mark.parametrize(("window", "hop"), [(6, 3), (8, 2), (5, 5)])
@pytest.mark.parametrize("most_false", [0, 1, 3])
def test_the_threshold_is_the_one_of_brute_force(window, hop, most_false):
    rng, rule = np.random.default_rng(window), EventRule(window=window, hop=hop, thresholds={})
    for _ in range(8):
        truths = [(20, 27), (45, 55), (70, 76), (90, 98)]
        scores_T = rng.random(120).astype(np.float32) * 0.8
        for _, end in truths:
            scores_T[end - 3 : end + 1] += rng.choice([0, 0.3])
        # Of all thresholds on a fine grid: those above the first that has too many false alarms.
        allowed = {}
        for threshold in np.unique(np.r_[scores_T[window - hop :], np.linspace(0, 1.1, 400)])[::-1]:
            spans = detect(scores_T, window, hop, threshold)
            assert _events(scores_T, rule, threshold) == spans
            hits = sum(hit is not None for hit in match(spans, truths))
            if len(spans) - hits > most_false:
                break
            allowed[threshold] = (hits, hits - len(spans))
        best = max(allowed.values())
        chosen, num_hits = choose_threshold(scores_T, rule, truths, most_false)
        assert num_hits == best[0]
        if best[0] == 0:
            assert chosen is None
            continue
        assert chosen == np.float32(chosen)
        spans = detect(scores_T, window, hop, chosen)
        hits = sum(hit is not None for hit in match(spans, truths))
        assert (hits, hits - len(spans)) == best
        # In the middle of its run.
        run = [value for value, quality in allowed.items() if quality == best]
        assert min(run) - 0.003 <= chosen <= max(run)


def test_the_threshold_lies_in_the_middle_between_the_highest_false_and_the_lowest_hit():
    scores_T = np.zeros(40, np.float32)
    scores_T[[10, 20, 30]] = 0.9, 0.5, 0.7
    rule = EventRule(window=4, hop=2, thresholds={})
    assert choose_threshold(scores_T, rule, [(8, 12), (28, 32)], 0) == (pytest.approx(0.6), 2)
    assert choose_threshold(scores_T, rule, [(8, 12), (18, 22), (28, 32)], 0) == (pytest.approx(0.25), 3)
    # The highest score is a false alarm.
    assert choose_threshold(scores_T, rule, [(18, 22)], 0) == (None, 0)
    # The frames in which no class may alarm do not count.
    scores_T[1] = 1
    assert choose_threshold(scores_T, rule, [(8, 12), (28, 32)], 0) == (pytest.approx(0.6), 2)


@pytest.mark.parametrize(("lengths", "expected"), [([4, 9, 8], 8), ([5], 6), ([7, 8], 8), ([1], 2)])
def test_the_default_window_is_the_median_length_made_even(lengths, expected):
    split = SimpleNamespace(lengths=np.array([*lengths, 99]), labels=[(1,)] * len(lengths) + [(0,)])
    assert default_window(split, ("background", "wave")) == expected


class Looking:
    """A classifier whose scores are those of the row of the frame that its first pixel names."""

    classes = ("background", "wave", "clap")

    def __init__(self, scores_TC):
        self._scores_TC = scores_TC

    def stream(self):
        return lambda pixels: self._scores_TC[int(pixels[0, 0, 0])]


def test_false_alarms_that_no_equal_share_uses_go_to_the_class_that_gains_most():
    # 12 clips of 10 frames at 10/s, 12 s: a limit of 300 false alarms an hour is one in this stream, for two classes.
    labels = [(0,)] * 7 + [(1,)] * 3 + [(2,)] * 2
    frames = np.arange(120, dtype=np.uint8).reshape(12, 10, 1, 1, 1)
    clips = [SimpleNamespace(frames=own, fps=10.0) for own in frames]
    split = FakeSplit(labels=labels, lengths=np.full(12, 10), fps=[10.0] * 12, clips=clips)
    scores_TC = np.zeros((120, 3), np.float32)
    for label, first, high in ((1, 7, 0.6), (2, 10, 0.6)):
        rows = [row for row in range(12) if labels[row] == (label,)]
        scores_TC[[10 * row + 6 for row in rows], label] = high
        scores_TC[10 * first + 6, label] = 0.9
        # One false alarm, in the first clip of nothing, hides all but one clip of each class.
        scores_TC[6, label] = 0.8
    for limit, hits in ((0, 2), (300, 4), (600, 5)):
        rule, seen = choose_rule(Looking(scores_TC), split, limit=limit, window=4)
        assert (seen["num_hits"], seen["num_false_alarms"]) == (hits, limit // 300)
        assert seen["hours"] == pytest.approx(12 / 3600)
        assert rule.thresholds["wave"] == pytest.approx(0.85 if limit == 0 else 0.3)


class FakeSplit(SimpleNamespace):
    clip_ids = ("clip",) * 12

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        return self.clips[row]

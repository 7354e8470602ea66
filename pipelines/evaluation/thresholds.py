"""Choose the thresholds of a model for events, on a stream of validation clips joined with clips of nothing.

Legend: T time, C classes.
"""

import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pipelines.data.dataset import Split
from pipelines.data.streams import join_clips
from pipelines.evaluation.classifier import Classifier
from pipelines.evaluation.event_finder import find_events, stream_scores
from pipelines.evaluation.event_metrics import compare_streams, match
from ttrnn.events import BACKGROUND, EventRule

__all__ = ["choose_rule", "choose_threshold", "default_window"]

log = logging.getLogger(__name__)
_SEED = 0


def default_window(split: Split, classes: Sequence[str]) -> int:
    """The median length of the clips that are not of nothing, in frames, made even."""
    lengths = [
        length
        for length, labels in zip(split.lengths.tolist(), split.labels, strict=True)
        if [classes[label] for label in labels] != [BACKGROUND]
    ]
    return 2 * max(1, math.ceil(np.median(lengths) / 2)) if lengths else 2


def choose_rule(classifier: Classifier, split: Split, *, limit: float, window: int) -> tuple[EventRule, dict[str, Any]]:
    """Chooses a threshold for each class but `background`, for at most `limit` false alarms an hour of all together.

    In a stream joined of all clips of the split, every class may have the same share of them, rounded down; those that
    are left go to the classes that gain the most hits by one more.

    Args:
        classifier: The model.
        split: Validation clips, some of them of nothing.
        limit: False alarms an hour.
        window: In frames; the hop is half of it, or the window itself if it is odd.

    Returns:
        The rule; and limit, num_pauses (clips of nothing in the stream) and the result of `compare_streams`.

    Raises:
        UserError: no stream can be joined of the clips.
    """
    hop = window if window % 2 else window // 2
    stream = join_clips(split, classifier.classes, _SEED)
    rule = EventRule(window=window, hop=hop, thresholds={})
    scored = list(stream_scores(classifier, rule, stream.frames()))
    scores_TC = np.stack([scores_C for _, scores_C in scored])
    hours, names = stream.seconds / 3600, [name for name in classifier.classes if name != BACKGROUND]
    columns = {name: scores_TC[:, classifier.classes.index(name)] for name in names}
    share, rest = divmod(math.floor(limit * hours), len(names))
    chosen = {name: choose_threshold(columns[name], rule, stream.spans(name), share) for name in names}
    if rest:
        more = {name: choose_threshold(columns[name], rule, stream.spans(name), share + 1) for name in names}
        gains = {name: more[name].num_hits - chosen[name].num_hits for name in names}
        chosen |= {name: more[name] for name in sorted(names, key=gains.__getitem__)[-rest:] if gains[name]}
    thresholds = {name: choice.threshold for name, choice in chosen.items() if choice.threshold is not None}
    for name in chosen.keys() - thresholds.keys():
        log.warning("%s: no threshold gives a hit and no more false alarms than allowed; it never alarms", name)
    rule = EventRule(window=window, hop=hop, thresholds=thresholds)
    seen = compare_streams([(list(find_events(rule, classifier.classes, scored)), stream.truths())], names, hours)
    return rule, {"limit": limit, "num_pauses": len(stream.rows) - seen["num_events"], **seen}


class Choice(NamedTuple):
    """The threshold of a class."""

    threshold: float | None
    """a float32 number; None if no threshold within the limit has a hit"""
    num_hits: int


def choose_threshold(
    scores_T: np.ndarray, rule: EventRule, truths: Sequence[tuple[int, int]], most_false: int
) -> Choice:
    """The threshold of a class with the most hits, and the fewest false alarms of such, within a limit.

    Considered are the thresholds from the highest score down to the first at which there are more than `most_false`
    false alarms. Of neighbours with the same hits and false alarms, it is the middle of the highest and the lowest.

    Args:
        scores_T: float32, of one class.
        rule: Window and hop.
        truths: Start and end in frames of what happens of this class.
        most_false: The limit.

    """
    values, seen = np.unique(scores_T[rule.window - rule.hop :])[::-1], []
    for value in values:
        spans = _events(scores_T, rule, value)
        hits = sum(hit is not None for hit in match(spans, truths))
        if len(spans) - hits > most_false:
            break
        seen.append((hits, hits - len(spans)))
    if not seen or max(seen)[0] == 0:
        return Choice(None, 0)
    first = seen.index(max(seen))
    after = next((index for index in range(first, len(seen)) if seen[index] != seen[first]), len(seen))
    highest, below = values[first], values[after] if after < len(values) else np.float32(0)
    middle = np.float32((highest + below) / 2)
    # Two neighbours of float32 have no middle.
    return Choice(float(middle if middle > below else highest), seen[first][0])


def _events(scores_T: np.ndarray, rule: EventRule, threshold: float) -> list[tuple[int, int]]:
    """Start and end of the events of one class, as EventDetector finds them."""
    alarms = np.flatnonzero(scores_T >= threshold)
    alarms = alarms[alarms >= rule.window - rule.hop]
    if not len(alarms):
        return []
    firsts = rule.hop * np.maximum(0, alarms // rule.hop - rule.window // rule.hop + 1)
    begins = np.flatnonzero(np.r_[True, firsts[1:] > alarms[:-1] + 1])
    ends = alarms[np.r_[begins[1:], len(alarms)] - 1] + 1
    return list(zip(firsts[begins].tolist(), ends.tolist(), strict=True))

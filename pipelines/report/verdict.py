"""Hold the frontier of a sweep against its baselines, and say in a sentence whether tensor trains win."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipelines.core.text import percent

__all__ = ["baseline_name", "comparable", "difference", "metric_of", "verdict"]

_NAMES = {
    "thumbnail": "thumbnail",
    "low-rank": "low-rank model",
    "cnn": "small CNN",
    "linear": "linear classifier",
    "dense": "dense GRU",
}
Trial = Mapping[str, Any]
# Sizes within a tenth count as equal.
_ALIKE = 1.1


class _Pair(NamedTuple):
    """A tensor train and a baseline."""

    train: Trial
    baseline: Trial

    @property
    def val(self) -> tuple[float, list[float]]:
        """By how much the tensor train is better on validation, and the interval; 0 to 1."""
        found = difference(self.train, self.baseline, "val")
        assert found is not None
        return found

    @property
    def test(self) -> tuple[float, list[float]] | None:
        """Likewise on test; None if one of the two was not tested."""
        return difference(self.train, self.baseline, "test")


def verdict(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Compares a point of the frontier with the best baseline of about its size or less; None if there is no baseline.

    The point is the best one if it is about as small as the baselines, else the one with the highest metric that is.
    The frontier loses at a size if a baseline is significantly better than each tensor train of at most its size. The
    comparison is on validation. A win there that is none on test counts as a tie.

    Args:
        data: Contents of pareto.json.

    Returns:
        outcome: `wins`, `ties` or `loses` for the point; `mixed` if the frontier loses at another size; `unmatched` if
        the point is smaller than each baseline. sentence: the outcome in words. trial and baseline: the names of the
        two. val and test: difference and interval of the trial's metric minus the baseline's, 0 to 1, or None.
    """
    baselines = comparable(data)
    if not baselines:
        return None
    points = sorted(data["frontier"], key=_size)
    best = next(point for point in points if point["trial"] == data["best"])
    # Points that some baseline can be held against; the smallest ones may have none.
    held = [point for point in points if _ALIKE * _size(point) >= min(map(_size, baselines))] or points[-1:]
    point = best if best in held and _size(best) <= _largest(baselines) else _within(held, _largest(baselines))
    beaten = [pair for each in baselines if (pair := _Pair(_within(points, _size(each)), each)).val[1][1] < 0]
    lost = min(beaten, key=lambda pair: pair.val[0], default=None)
    matched = [each for each in baselines if _size(each) <= _ALIKE * _size(point)]
    pair = _Pair(point, max(matched or baselines, key=lambda each: (metric_of(each, "val"), -_size(each))))
    if matched:
        outcome = _outcome(pair)
        sentence = _SENTENCES[outcome](pair)
    else:
        outcome = "unmatched"
        sentence = (
            f"No baseline is as small as {_train(point)} ({_metric(point)} on validation); {_baseline(pair.baseline)} "
            f"has {_metric(pair.baseline)}."
        )
    if lost is not None and outcome != "loses":
        more = (
            f" {_train(point).capitalize()} has {_metric(point)}, {_points(pair)} more than {_baseline(pair.baseline)}."
        )
        outcome, sentence, pair = "mixed", _lost(lost, " at every size") + (more if matched else ""), lost
    if point is not best:
        sentence += f" The best tensor train, {_train(best)}, has {_metric(best)}."
    test = pair.test
    return {
        "outcome": outcome,
        "sentence": sentence,
        "trial": pair.train["trial"],
        "baseline": pair.baseline["trial"],
        "val": {"difference": pair.val[0], "interval": pair.val[1]},
        "test": None if test is None else {"difference": test[0], "interval": test[1]},
    }


def comparable(data: Mapping[str, Any]) -> list[Trial]:
    """The baselines whose means are known if those of the frontier are; single values otherwise."""
    baselines = [trial for trial in data.get("baselines") or [] if trial["state"] == "baseline"]
    replicated = [trial for trial in baselines if trial.get("replication")]
    return replicated if data.get("replications") and replicated else baselines


def _within(points: Sequence[Trial], limit: float) -> Trial:
    """The best point of at most `limit` parameters, or the smallest point if all are larger."""
    return [points[0], *(point for point in points if _size(point) <= limit)][-1]


def _largest(baselines: Sequence[Trial]) -> float:
    """The size up to which points are about as small as the baselines, a dense one aside: a tenth above the largest."""
    small = [each for each in baselines if each["config"].get("input") != "dense"] or baselines
    return _ALIKE * max(map(_size, small))


def _outcome(pair: _Pair) -> str:
    _, (low, high) = pair.val
    if high < 0:
        return "loses"
    return "wins" if low > 0 and (pair.test is None or pair.test[0] > 0) else "ties"


def difference(first: Trial, second: Trial, split: str) -> tuple[float, list[float]] | None:
    """The metric of the first trial minus that of the second, and the 95% interval; None if one is not known.

    The interval follows from those of the two metrics (MOVER, Zou and Donner 2008), as if the metrics were independent.
    On the same clips they are correlated, so that it is rather too wide.
    """
    one, two = metric_of(first, split), metric_of(second, split)
    if one is None or two is None:
        return None
    (low, high), (other_low, other_high) = _interval(first, split), _interval(second, split)
    margins = math.hypot(one - low, other_high - two), math.hypot(high - one, two - other_low)
    return one - two, [one - two - margins[0], one - two + margins[1]]


def metric_of(trial: Trial, split: str) -> Any:
    """The metric on a split, 0 to 1: the mean of the replications if there are any, else that of the trial; or None."""
    mean = (trial.get("replication") or {}).get(f"{split}_mean")
    return trial.get(f"{split}_metric") if mean is None else mean


def _interval(trial: Trial, split: str) -> Sequence[float]:
    replication = trial.get("replication") or {}
    known = replication if replication.get(f"{split}_mean") is not None else trial
    return known.get(f"{split}_interval") or [metric_of(trial, split)] * 2


def _size(trial: Trial) -> int:
    return int(trial["num_params"])


def baseline_name(trial: Trial) -> str:
    """A baseline in words: `thumbnail`, `small CNN`."""
    return _NAMES.get(trial["config"].get("input", ""), "baseline")


def _baseline(trial: Trial) -> str:
    return f"a {baseline_name(trial)} of {_size(trial):,} parameters"


def _train(trial: Trial) -> str:
    return f"trial {trial['trial']} with {_size(trial):,} parameters"


def _metric(trial: Trial) -> str:
    return percent(metric_of(trial, "val"))


def _points(pair: _Pair, sign: int = 1) -> str:
    """`9.2 points (95% interval 4.1 to 14.3; on test 8.8, 3.0 to 14.6)`; with sign -1, baseline minus tensor train."""

    def numbers(found: tuple[float, list[float]]) -> list[str]:
        return [f"{100 * sign * value:.1f}" for value in (found[0], *found[1][::sign])]

    value, low, high = numbers(pair.val)
    text = f"{value} points (95% interval {low} to {high}"
    if pair.test is not None:
        value, low, high = numbers(pair.test)
        text += f"; on test {value}, {low} to {high}"
    return f"{text})"


def _won(pair: _Pair) -> str:
    return (
        f"Tensor trains win: {_train(pair.train)} has {_metric(pair.train)} on validation, {_points(pair)} more than "
        f"{_baseline(pair.baseline)}, the best baseline of about its size or less."
    )


def _tied(pair: _Pair) -> str:
    baseline = _baseline(pair.baseline)
    why = "is not there on test" if pair.val[1][0] > 0 else "may be chance"
    return (
        f"{baseline[:1].upper()}{baseline[1:]} does as well here: {_metric(pair.baseline)} on validation against "
        f"{_metric(pair.train)} of {_train(pair.train)}; the difference of {_points(pair)} {why}."
    )


def _lost(pair: _Pair, where: str = " here") -> str:
    role = ", the best tensor train of at most its size" if _size(pair.train) <= _size(pair.baseline) else ""
    return (
        f"Tensor trains do not win{where}: {_baseline(pair.baseline)} has {_metric(pair.baseline)} on validation, "
        f"{_points(pair, -1)} more than {_train(pair.train)}{role}."
    )


_SENTENCES = {"wins": _won, "ties": _tied, "loses": _lost}

"""Say in one sentence what the best model of a sweep reaches at its size."""

from collections.abc import Mapping
from typing import Any

from pipelines.core.text import percent
from pipelines.report.verdict import baseline_name, comparable, difference, metric_of

__all__ = ["headline"]

# Smaller differences in size are not worth a comparison.
_LEAST_RATIO = 1.5
_ALIKE = 0.02


def headline(data: Mapping[str, Any]) -> str:
    """The size of the best model and its metric, beside those of the best larger model or baseline.

    The metric is that on test if the two were tested, else that on validation.

    Args:
        data: Contents of pareto.json.
    """
    others = [*data["frontier"], *comparable(data)]
    best = next(point for point in data["frontier"] if point["trial"] == data["best"])
    larger = [each for each in others if each["num_params"] >= _LEAST_RATIO * best["num_params"]]
    other = max(larger, key=lambda each: (metric_of(each, "val") or 0, -each["num_params"]), default=None)
    is_tested = metric_of(best, "test") is not None and (other is None or metric_of(other, "test") is not None)
    split = "test" if is_tested else "val"
    where = "test" if is_tested else "validation"
    start = f"{best['num_params']:,} parameters: {percent(metric_of(best, split))} on {where}"
    if other is None:
        return f"{start}, where guessing gives {percent(data['chance'])}."
    found = difference(best, other, split)
    assert found is not None
    points, (low, high) = found
    if low > 0:
        compared = f"{100 * points:.1f} points more than"
    elif high < 0:
        compared = f"{-100 * points:.1f} points less than"
    else:
        compared = "as good as" if abs(points) < _ALIKE else "not significantly different from"
    ratio = other["num_params"] / best["num_params"]
    times = f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"
    what = "a " + baseline_name(other) if other["state"] == "baseline" else "the largest model of the frontier"
    return f"{start}, {compared} {what} ({percent(metric_of(other, split))}), with {times} times fewer parameters."

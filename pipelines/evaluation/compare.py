"""Two models on the same clips: how far apart they are, and whether it may be chance.

Legend: B clips, C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.evaluation.bootstrap import Resamples, resampled
from pipelines.evaluation.metrics import Labels, hits, score

__all__ = ["chosen", "compare", "mcnemar", "rests_on", "verdict"]


def mcnemar(num_first: int, num_second: int) -> float:
    """McNemar's test, exact and two-sided: the chance of so uneven a split, or more, by a fair coin.

    Args:
        num_first: Clips that only the first model has right.
        num_second: Clips that only the second has right.
    """
    total = num_first + num_second
    term = tail = 1
    for number in range(min(num_first, num_second)):
        term = term * (total - number) // (number + 1)
        tail += term
    return min(1.0, 2 * tail / 2**total)


def chosen(task: str, scores_BC: np.ndarray) -> np.ndarray:
    """bool [B, C]: the classes that each clip is taken for; that of the highest score, or all of at least one half."""
    if task == "single_label":
        return np.eye(scores_BC.shape[1], dtype=bool)[scores_BC.argmax(axis=1)]
    return scores_BC >= 0.5


def compare(
    task: str, first_BC: np.ndarray, second_BC: np.ndarray, labels: Labels, groups: Sequence[str]
) -> dict[str, Any]:
    """Of two models' scores for the same clips.

    Where clips have one label and are drawn one by one, McNemar's exact test; where whole groups are drawn, or clips
    have several labels, the bootstrap of `metrics.interval`, paired: the same clips drawn for both.

    Returns:
        difference (of the metric, first less second, -1 to 1), difference_interval (95%, by the bootstrap),
        difference_by (group or clip), test (mcnemar or bootstrap), p_value (of mcnemar, else None), is_significant (at
        5%), num_differing (clips that they take for different classes), and where clips have one label num_only_first
        and num_only_second, which only that one has right.
    """
    first, second = (resampled(task, scores_BC, labels, groups) for scores_BC in (first_BC, second_BC))
    low, high = Resamples(first.values - second.values, first.by, first.num_units, first.num_groups).bounds()
    result: dict[str, Any] = {
        "difference": score(task, first_BC, labels) - score(task, second_BC, labels),
        "difference_interval": [low, high],
        "difference_by": first.by,
        "test": "bootstrap",
        "p_value": None,
        "is_significant": low > 0 or high < 0,
        "num_differing": int((chosen(task, first_BC) != chosen(task, second_BC)).any(axis=1).sum()),
    }
    if task == "single_label":
        ours, theirs = hits(first_BC, labels), hits(second_BC, labels)
        only = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
        result |= {"num_only_first": only[0], "num_only_second": only[1]}
        if first.by == "clip":
            p_value = mcnemar(*only)
            result |= {"test": "mcnemar", "p_value": p_value, "is_significant": p_value < 0.05}
    return result


def rests_on(by: str, num_groups: int, num_clips: int) -> str:
    """What an interval is worth, to be said after it; "" where there is nothing to say."""
    if by == "group":
        return f" by {num_groups} groups"
    if 0 < num_groups < num_clips:
        return f" for more clips of the same {num_groups} group{'s' if num_groups > 1 else ''}"
    return ""


def verdict(result: dict[str, Any], num_clips: int, num_groups: int) -> str:
    """What `compare` found, in three lines."""
    low, high = (100 * bound for bound in result["difference_interval"])
    by = rests_on(result["difference_by"], num_groups, num_clips)
    lines = [
        f"difference {100 * result['difference']:+.1f} points (95% interval {low:+.1f} to {high:+.1f}{by})",
        f"taken for other classes: {result['num_differing']:,} of {num_clips:,} clips",
    ]
    if result.get("num_only_first") or result.get("num_only_second"):
        lines[1] += (
            f" ({result['num_only_first']:,} only the first has right, {result['num_only_second']:,} only the other)"
        )
    means = "more than chance" if result["is_significant"] else "it may be chance"
    if low == high == 0:
        return "\n".join(lines)
    if result["test"] == "mcnemar":
        lines.append(f"McNemar's exact test: p = {result['p_value']:.2g}, {means}")
    else:
        lines.append(
            f"paired bootstrap: {means}, as the interval {'leaves out' if result['is_significant'] else 'has'} 0"
        )
    return "\n".join(lines)

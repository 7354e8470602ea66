"""Compare two models on the same clips: the difference of their metrics, and whether it is significant.

Legend: B clips, C classes.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri

from pipelines.evaluation.bootstrap import Resamples, resample
from pipelines.evaluation.metrics import Labels, correct, task_metric

__all__ = ["compare", "comparison_text", "interval_note", "mcnemar", "predicted_classes", "smallest_difference"]

# Share of the clips that exactly one of two models classifies correctly.
_SHARE_DIFFERING = 1 / 4


def mcnemar(num_first: int, num_second: int) -> float:
    """The p-value of McNemar's exact two-sided test.

    Args:
        num_first: Clips that only the first model classifies correctly.
        num_second: Clips that only the second model classifies correctly.
    """
    # Loaded here: it takes half a second, which only a comparison should cost.
    from scipy.stats import binomtest

    total = num_first + num_second
    return float(binomtest(num_first, total).pvalue) if total else 1.0


def smallest_difference(num_units: int) -> float:
    """The difference of the accuracies of two models, 0 to 1, up to which a paired test on so many clips shows nothing.

    It is z sqrt(q / n), with z = 1.96: the 95% margin of the mean of n differences (1, 0 or -1, by which of the two
    models is right) if exactly one model is right for a quarter of the clips, q = 1/4. For 8 clips it is 0.35. With
    fewer than 38 clips McNemar's exact test needs even more: 6 clips that only one of the models classifies correctly.

    Args:
        num_units: n, clips, or groups if the clips of a group are not independent.
    """
    return min(1.0, float(ndtri(0.975)) * math.sqrt(_SHARE_DIFFERING / num_units)) if num_units else 1.0


def predicted_classes(task: str, scores_BC: np.ndarray) -> np.ndarray:
    """bool [B, C]: the classes predicted for each clip: that of the highest score, or all of at least one half."""
    if task == "single_label":
        return np.eye(scores_BC.shape[1], dtype=bool)[scores_BC.argmax(axis=1)]
    return scores_BC >= 0.5


def compare(
    task: str, first_BC: np.ndarray, second_BC: np.ndarray, labels: Labels, groups: Sequence[str]
) -> dict[str, Any]:
    """Tests whether the metrics of two models on the same clips differ.

    McNemar's exact test if clips have one label and are independent; the paired bootstrap of
    `bootstrap.interval`, with the same resamples for both models, if clips come in groups or have several labels.

    Returns:
        difference (of the metric, first minus second, -1 to 1), difference_interval (95%, by the bootstrap),
        difference_by (group or clip), test (mcnemar or bootstrap), p_value (of mcnemar, else None), is_significant (at
        5%), num_differing (clips for which the models predict different classes), and if clips have one label
        num_only_first and num_only_second, the clips that only that model classifies correctly.
    """
    first, second = (resample(task, scores_BC, labels, groups) for scores_BC in (first_BC, second_BC))
    low, high = Resamples(first.values - second.values, first.by, first.num_units, first.num_groups).bounds()
    result: dict[str, Any] = {
        "difference": task_metric(task, first_BC, labels) - task_metric(task, second_BC, labels),
        "difference_interval": [low, high],
        "difference_by": first.by,
        "test": "bootstrap",
        "p_value": None,
        "is_significant": low > 0 or high < 0,
        "num_differing": int((predicted_classes(task, first_BC) != predicted_classes(task, second_BC)).any(1).sum()),
    }
    if task == "single_label":
        first_B, second_B = correct(first_BC, labels), correct(second_BC, labels)
        num_first, num_second = int((first_B & ~second_B).sum()), int((second_B & ~first_B).sum())
        result |= {"num_only_first": num_first, "num_only_second": num_second}
        if first.by == "clip":
            p_value = mcnemar(num_first, num_second)
            result |= {"test": "mcnemar", "p_value": p_value, "is_significant": p_value < 0.05}
    return result


def interval_note(by: str, num_groups: int, num_clips: int) -> str:
    """Words to put after an interval that say what it holds for; "" if they are not needed."""
    if by == "group":
        return f" by {num_groups} groups"
    if 0 < num_groups < num_clips:
        return f" for more clips of the same {num_groups} group{'s' if num_groups > 1 else ''}"
    return ""


def comparison_text(result: dict[str, Any], num_clips: int, num_groups: int) -> str:
    """The result of `compare` in up to three lines."""
    low, high = (100 * bound for bound in result["difference_interval"])
    note = interval_note(result["difference_by"], num_groups, num_clips)
    lines = [
        f"difference {100 * result['difference']:+.1f} points (95% interval {low:+.1f} to {high:+.1f}{note})",
        f"predictions differ for {result['num_differing']:,} of {num_clips:,} clips",
    ]
    if result.get("num_only_first") or result.get("num_only_second"):
        lines[1] += f" (only the first correct: {result['num_only_first']:,}, only the other: "
        lines[1] += f"{result['num_only_second']:,})"
    if low == high == 0:
        return "\n".join(lines)
    conclusion = "significant" if result["is_significant"] else "not significant"
    if result["test"] == "mcnemar":
        lines.append(f"McNemar's exact test: p = {result['p_value']:.2g}, {conclusion} at 5%")
    else:
        excludes = "excludes" if result["is_significant"] else "contains"
        lines.append(f"paired bootstrap: {conclusion} at 5%, as the interval {excludes} 0")
    return "\n".join(lines)

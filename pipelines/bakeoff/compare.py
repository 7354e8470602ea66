"""Compare each contender of a bake-off with the first one, over all data sets."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scipy.special import ndtri

from search_spaces.bakeoff import CONTENDERS

__all__ = ["Difference", "differences"]

_Z = float(ndtri(0.975))


class Difference(NamedTuple):
    """The metric of a contender minus that of the first one, as a mean over data sets."""

    mean: float
    low: float
    high: float
    """95% interval, for new seeds and for more clips of the same kind"""
    by_data: Mapping[str, float]

    @property
    def is_significant(self) -> bool:
        """Whether the interval does not contain 0."""
        return self.low > 0 or self.high < 0


def differences(table: Sequence[Mapping[str, Any]]) -> dict[tuple[int, str], Difference]:
    """For each budget and contender, its difference to the first one, over the data sets where both have results.

    Its variance is that of the sample of clips, paired, plus that of the seeds, pooled over all contenders of a data
    set and budget: three seeds of one model alone would hardly tell how much they vary.
    """
    pooled: dict[tuple[int, str], list[float]] = {}
    for row in table:
        if row["seed_variance"] not in (None, ""):
            pooled.setdefault((int(row["budget"]), row["data"]), []).append(float(row["seed_variance"]))
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for row in table:
        if row["difference"] not in (None, "") and row["contender"] != str(CONTENDERS[0]):
            groups.setdefault((int(row["budget"]), row["contender"]), []).append(row)
    found = {}
    for key, own in groups.items():
        by_data = {row["data"]: float(row["difference"]) for row in own}
        variance = 0.0
        for row in own:
            of_seeds = statistics.fmean(pooled.get((key[0], row["data"]), [0.0]))
            variance += float(row["difference_clip_variance"]) + 2 * of_seeds / int(row["num_seeds"])
        mean, margin = statistics.fmean(by_data.values()), _Z * variance**0.5 / len(own)
        found[key] = Difference(mean, mean - margin, mean + margin, by_data)
    return found

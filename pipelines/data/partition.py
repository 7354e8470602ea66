"""Divide units into parts by hash, so that units that are added later do not move the others.

A unit is a group of clips or a single clip. Its place in [0, 1) depends only on its name and a salt, and the shares of
the parts divide this interval. If a class gets too few units in a part by chance, the nearest units move there.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Unit", "partition"]

Unit = tuple[str, str]
"""group or clip, and its name"""
# What a class gets in a part at least, as a factor of the part's share.
_MIN_SHARE = 0.75


def partition(
    members: Iterable[tuple[Unit, frozenset[str]]], shares: Mapping[str, float], salt: str, fixed: Mapping[Unit, str]
) -> dict[Unit, str]:
    """Assigns a part to every unit.

    Args:
        members: Units with labels; a unit that occurs several times has all of its labels.
        shares: The share of every part, by name; they need not sum to 1.
        salt: What the places depend on, besides the names.
        fixed: Parts of units that must not move.
    """
    labels: dict[Unit, frozenset[str]] = {}
    for unit, own in members:
        labels[unit] = labels[unit] | own if unit in labels else own
    borders, low, total = {}, 0.0, sum(shares.values())
    for part, share in shares.items():
        borders[part] = (low / total, (low + share) / total)
        low += share
    places = {unit: _place(salt, unit) for unit in labels}
    last = list(shares)[-1]
    parts = {
        unit: fixed[unit]
        if fixed.get(unit) in shares
        else next((part for part, (_, high) in borders.items() if place < high), last)
        for unit, place in places.items()
    }
    units_of: dict[str, list[Unit]] = defaultdict(list)
    for unit, own in labels.items():
        for label in own:
            units_of[label].append(unit)
    # If groups span classes this may fail; then at least one unit in every part, even if the shares suffer.
    for min_share in (_MIN_SHARE, 0.0):
        _rebalance(parts, units_of, labels, places, borders, min_share, fixed)
    return parts


def _place(salt: str, unit: Unit) -> float:
    digest = hashlib.sha256(f"{salt}:{unit[0]}:{unit[1]}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def _rebalance(
    parts: dict[Unit, str],
    units_of: Mapping[str, Sequence[Unit]],
    labels: Mapping[Unit, frozenset[str]],
    places: Mapping[Unit, float],
    borders: Mapping[str, tuple[float, float]],
    min_share: float,
    fixed: Mapping[Unit, str],
) -> None:
    """Moves units until each class has `min_share` of its share and at least one unit in every part, rarest first.

    A class with fewer units than there are parts is not considered. No move makes another class short.
    """
    count = {label: Counter(parts[unit] for unit in own) for label, own in units_of.items()}
    need = {
        label: {
            part: max(1, int(min_share * (high - low) * len(own))) if len(own) >= len(borders) else 0
            for part, (low, high) in borders.items()
        }
        for label, own in units_of.items()
    }
    for label in sorted(units_of, key=lambda label: (len(units_of[label]), label)):
        for part, (low, high) in borders.items():
            if count[label][part] >= need[label][part]:
                continue
            donors = [unit for unit in units_of[label] if parts[unit] != part and unit not in fixed]
            # One pass is enough: a unit that cannot move now cannot move later, because the other parts only shrink.
            for unit in sorted(donors, key=lambda unit: (max(low - places[unit], places[unit] - high), unit)):
                if all(count[other][parts[unit]] > need[other][parts[unit]] for other in labels[unit]):
                    for other in labels[unit]:
                        count[other][parts[unit]] -= 1
                        count[other][part] += 1
                    parts[unit] = part
                    if count[label][part] >= need[label][part]:
                        break

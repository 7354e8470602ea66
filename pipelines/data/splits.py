"""Which clips train a model, which choose it and which test it: by hash, so that new clips move no old ones.

A unit is a group (speaker, source video) where groups are known, else a clip. Its place in [0, 1) depends on its name
and the seed alone, and the shares of the splits cut that line. Where chance leaves a class short in a split, the units
nearest to the border move.
"""

import fnmatch
import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipelines.core.errors import UserError

__all__ = ["DEFAULT_SPLITS", "SPLITS", "Row", "SplitOptions", "assign_splits"]


log = logging.getLogger(__name__)
SPLITS = {"train": 0.70, "val": 0.15, "test": 0.15}
"""The splits, and the share of the groups (of the clips, where no groups are known) that each gets."""
# What a class is sure of in a split, as a part of the split's share.
_LEAST = 0.75
_Unit = tuple[str, str]


class Row(NamedTuple):
    """A clip as its catalogue tells of it; group and split are "" where it says nothing."""

    clip_id: str
    labels: frozenset[str]
    group: str = ""
    split: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitOptions:
    """How clips are dealt out to the splits."""

    seed: int = 0
    """of the hash that deals them out"""
    allow_group_leak: bool = False
    """let a group lie in several splits; splits made here are then by clip"""
    folds: int | None = None
    """cross-validation: one of so many equal parts is the test split"""
    fold: int = 0
    """which part that is, from 0"""
    leave_group_out: str | None = None
    """the group that is the test split, or a pattern (*_01) for several"""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")
        if self.folds is not None and self.folds < 2:
            raise ValueError(f"folds must be 2 or more, got {self.folds}")
        if not 0 <= self.fold < (self.folds or 1):
            raise ValueError(f"0 <= fold < folds must hold, got fold={self.fold}, folds={self.folds}")
        if self.folds is not None and self.leave_group_out is not None:
            raise ValueError("folds and leave_group_out exclude each other; give one of them")

    @property
    def by_group(self) -> bool:
        """Whether groups stay whole."""
        return not self.allow_group_leak


DEFAULT_SPLITS = SplitOptions()


def assign_splits(
    rows: Sequence[Row],
    options: SplitOptions = DEFAULT_SPLITS,
    kept_splits: Mapping[str, str] | None = None,
    kept_classes: Collection[str] = (),
) -> list[str]:
    """Gives every row its split.

    Splits that the rows give are kept; those that they lack are cut from train, or from all rows if they give none.
    `folds` and `leave_group_out` set aside what the rows give; val is then cut from what is not in the test split.

    Args:
        rows: The clips, each clip_id once.
        options: How to cut.
        kept_splits: Where clips lie already, by clip_id: they stay there, and their groups follow them.
        kept_classes: Classes of which some clips lie there already; they need no new ones in every split.

    Raises:
        UserError: a group lies in several splits, a class is missing from one, or a clip would have to move.
    """
    kept = kept_splits or {}
    units = [_unit(row, options.by_group) for row in rows]
    pins: dict[_Unit, str] = {}
    for row, unit in zip(rows, units, strict=True):
        if row.clip_id in kept:
            pins.setdefault(unit, kept[row.clip_id])
    if options.folds or options.leave_group_out is not None:
        fixed, salt = _test_splits(rows, units, options, pins), "val:"
        sources = ["train", "val"]
    else:
        fixed, salt = _given_splits(rows), ""
        sources = ["train", *(split for split in SPLITS if split != "train" and split not in fixed)]
    _refuse_moves(rows, fixed, sources, kept)
    pool = [i for i, split in enumerate(fixed) if not split]
    if options.by_group and len(sources) > 1:
        _tell_of_missing_groups(rows if options.folds else [rows[i] for i in pool])
    cut = _cut(
        ((units[i], rows[i].labels) for i in pool),
        {split: SPLITS[split] for split in sources},
        f"{salt}{options.seed}",
        pins,
    )
    splits = [kept.get(row.clip_id) or split or cut[unit] for row, split, unit in zip(rows, fixed, units, strict=True)]
    if options.by_group:
        _refuse_group_leak(rows, splits)
    _refuse_rare_classes(rows, splits, options, kept_classes)
    return splits


def _unit(row: Row, by_group: bool) -> _Unit:
    """What a cut must not tear apart."""
    return ("group", row.group) if by_group and row.group else ("clip", row.clip_id)


def _given_splits(rows: Sequence[Row]) -> list[str]:
    """Of every row the split that it gives, or "" where it is to be cut: from train, where val or test is missing."""
    given = {row.split for row in rows}
    if "" in given and len(given) > 1:
        example = next(row for row in rows if not row.split)
        raise UserError(f"{example.clip_id} has no split, others have one; give every clip a split, or none")
    if given != {""} and "train" not in given:
        raise UserError("no clip has split train; give it to the clips to learn from")
    complete = given == set(SPLITS)
    return [row.split if complete or row.split != "train" else "" for row in rows]


def _test_splits(
    rows: Sequence[Row], units: Sequence[_Unit], options: SplitOptions, pins: Mapping[_Unit, str]
) -> list[str]:
    """ "test" for the rows of the fold or the group that is left out, "" for the rest."""
    if any(row.split for row in rows):
        name = "folds" if options.folds else "leave-group-out"
        log.info("--%s sets aside the splits that the catalogue gives", name)
    if options.leave_group_out is not None:
        chosen = _matching_groups(rows, options.leave_group_out)
        return ["test" if row.group in chosen else "" for row in rows]
    assert options.folds is not None
    folds = {str(fold): 1 / options.folds for fold in range(options.folds)}
    # Without the pins, which each fold's own data set has others of: so the folds agree about every new clip.
    fold_of = _cut(((unit, row.labels) for unit, row in zip(units, rows, strict=True)), folds, str(options.seed), {})
    tested = {unit for unit, fold in fold_of.items() if pins.get(unit, "test") == "test" and int(fold) == options.fold}
    tested |= {unit for unit, split in pins.items() if split == "test"}
    return ["test" if unit in tested else "" for unit in units]


def _matching_groups(rows: Sequence[Row], wanted: str) -> set[str]:
    groups = {row.group for row in rows if row.group}
    chosen = {group for group in groups if group == wanted or fnmatch.fnmatchcase(group, wanted)}
    if not chosen:
        if not groups:
            raise UserError(f"--leave-group-out {wanted}: no clip has a group; use --folds")
        some = ", ".join(sorted(groups)[:3]) + (", ..." if len(groups) > 3 else "")
        raise UserError(f"--leave-group-out {wanted}: there is no such group; the {len(groups):,} groups are {some}")
    if chosen == groups and all(row.group for row in rows):
        raise UserError(f"--leave-group-out {wanted} takes all {len(groups):,} groups; leave some to learn from")
    return chosen


def _cut(
    members: Iterable[tuple[_Unit, frozenset[str]]], shares: Mapping[str, float], salt: str, pins: Mapping[_Unit, str]
) -> dict[_Unit, str]:
    """Deals units out by their places, and repairs what came out short. Pinned units stay where they are."""
    labels: dict[_Unit, frozenset[str]] = {}
    for unit, own in members:
        labels[unit] = labels[unit] | own if unit in labels else own
    borders, low, total = {}, 0.0, sum(shares.values())
    for split, share in shares.items():
        borders[split] = (low / total, (low + share) / total)
        low += share
    places = {unit: _place(salt, unit) for unit in labels}
    last = list(shares)[-1]
    cut = {
        unit: pins[unit]
        if pins.get(unit) in shares
        else next((split for split, (_, high) in borders.items() if place < high), last)
        for unit, place in places.items()
    }
    units_of: dict[str, list[_Unit]] = defaultdict(list)
    for unit, own in labels.items():
        for label in own:
            units_of[label].append(unit)
    # A last resort where groups span classes: one unit in every split, at the expense of the shares.
    for least in (_LEAST, 0.0):
        _repair(cut, units_of, labels, places, borders, least, pins)
    return cut


def _place(salt: str, unit: _Unit) -> float:
    digest = hashlib.sha256(f"{salt}:{unit[0]}:{unit[1]}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def _repair(
    cut: dict[_Unit, str],
    units_of: Mapping[str, Sequence[_Unit]],
    labels: Mapping[_Unit, frozenset[str]],
    places: Mapping[_Unit, float],
    borders: Mapping[str, tuple[float, float]],
    least: float,
    pins: Mapping[_Unit, str],
) -> None:
    """Moves units until each class has `least` of its share, and one unit at least, in every split: rarest first.

    A class with fewer units than there are splits has to take what comes. No move makes another class short.
    """
    count = {label: Counter(cut[unit] for unit in own) for label, own in units_of.items()}
    need = {
        label: {
            split: max(1, int(least * (high - low) * len(own))) if len(own) >= len(borders) else 0
            for split, (low, high) in borders.items()
        }
        for label, own in units_of.items()
    }
    for label in sorted(units_of, key=lambda label: (len(units_of[label]), label)):
        for split, (low, high) in borders.items():
            if count[label][split] >= need[label][split]:
                continue
            donors = [unit for unit in units_of[label] if cut[unit] != split and unit not in pins]
            # One pass is enough: who can't give now can't later, since donors only lose.
            for unit in sorted(donors, key=lambda unit: (max(low - places[unit], places[unit] - high), unit)):
                if all(count[other][cut[unit]] > need[other][cut[unit]] for other in labels[unit]):
                    for other in labels[unit]:
                        count[other][cut[unit]] -= 1
                        count[other][split] += 1
                    cut[unit] = split
                    if count[label][split] >= need[label][split]:
                        break


def _tell_of_missing_groups(rows: Sequence[Row]) -> None:
    single = sum(not row.group for row in rows)
    if single:
        log.info(
            "%s of %s clips have no group and are split one by one: near-copies may lie on both sides",
            f"{single:,}",
            f"{len(rows):,}",
        )


def _refuse_moves(rows: Sequence[Row], fixed: Sequence[str], sources: Sequence[str], kept: Mapping[str, str]) -> None:
    for row, split in zip(rows, fixed, strict=True):
        allowed = [split] if split else sources
        if row.clip_id in kept and kept[row.clip_id] not in allowed:
            raise UserError(
                f"{row.clip_id} is in split {kept[row.clip_id]} of the data set, and would now be in "
                f"{' or '.join(allowed)}; make a new data set"
            )


def _refuse_group_leak(rows: Sequence[Row], splits: Sequence[str]) -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for row, split in zip(rows, splits, strict=True):
        if row.group:
            found[row.group].add(split)
    leaks = [f"{group} ({', '.join(sorted(own))})" for group, own in sorted(found.items()) if len(own) > 1]
    if leaks:
        raise UserError(
            f"groups lie in several splits: {', '.join(leaks[:3])}{', ...' if len(leaks) > 3 else ''}; "
            "keep each in one, or allow it with --allow-group-leak"
        )


def _refuse_rare_classes(
    rows: Sequence[Row], splits: Sequence[str], options: SplitOptions, known: Collection[str]
) -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for row, split in zip(rows, splits, strict=True):
        for label in row.labels:
            found[label].add(split)
    # A group that is left out need not show every class.
    wanted = [split for split in SPLITS if split != "test" or options.leave_group_out is None]
    for label in sorted(found.keys() - set(known)):
        lacking = [split for split in wanted if split not in found[label]]
        if lacking:
            own = [row for row in rows if label in row.labels]
            raise UserError(f"label {label!r} has {_count_and_way_out(own, lacking, options)}")


def _count_and_way_out(own: Sequence[Row], lacking: Sequence[str], options: SplitOptions) -> str:
    num_groups = len({_unit(row, by_group=True) for row in own})
    num_units = num_groups if options.by_group else len(own)
    ways = ["give it more clips", "leave it out"]
    if options.by_group and num_groups < 3 <= len(own):
        ways.append("let its groups lie in several splits with --allow-group-leak")
    if options.folds and num_units < options.folds:
        ways.append("take fewer --folds")
    elif num_units >= len(SPLITS) and not any(row.split for row in own):
        ways.append("try another --seed")
    return (
        f"{len(own):,} clip{'s' * (len(own) > 1)} in {num_groups:,} group{'s' * (num_groups > 1)}, and none in "
        f"{', '.join(lacking)}; {', or '.join([', '.join(ways[:-1]), ways[-1]])}"
    )

"""Split clips into train, val and test, by group where groups are known.

Splits that a catalogue gives are kept. The others are cut by hash (see `partition`), so that clips that are added later
do not move old ones.
"""

import fnmatch
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.core.errors import UserError
from pipelines.data.clip import ListedClip
from pipelines.data.partition import Unit, partition
from pipelines.data.problems import joined, raise_problems, some

__all__ = ["DEFAULT_SPLITS", "SPLITS", "SplitOptions", "assign_splits"]


log = logging.getLogger(__name__)
SPLITS = {"train": 0.70, "val": 0.15, "test": 0.15}
"""The splits, and the share of the groups that each gets (of the clips, if they have no groups)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitOptions:
    """Options for splitting clips."""

    seed: int = 0
    """of the hash by which clips are split"""
    allow_group_leak: bool = False
    """allow a group in several splits; clips are then split one by one"""
    folds: int | None = None
    """cross-validation: split into this many equal parts, one of which is the test split"""
    fold: int = 0
    """the part that is the test split, from 0"""
    leave_group_out: str | None = None
    """the group that is the test split, or a pattern (*_01) for several"""
    allow_missing_classes: bool = False
    """allow val and test without some classes; train always needs all"""

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
    clips: Sequence[ListedClip],
    options: SplitOptions = DEFAULT_SPLITS,
    kept_splits: Mapping[str, str] | None = None,
    kept_classes: Collection[str] = (),
    *,
    for_training: bool = True,
    problems: Sequence[str] = (),
    doubtful: Collection[str] = (),
) -> list[str]:
    """Assigns a split to every clip.

    Splits that the catalogue gives are kept; missing ones are cut from train, or from all clips if none is given.
    `folds` and `leave_group_out` replace given splits; val is then cut from the clips outside the test split.

    Args:
        clips: The clips, each clip_id once.
        options: How to split.
        kept_splits: Splits of earlier clips, by clip_id: these clips stay there, and their groups join them.
        kept_classes: Classes of the earlier clips; they need no new clips in every split.
        for_training: False: no class needs clips in every split.
        problems: Problems of the catalogue, which are reported together with those of the splits.
        doubtful: Labels of clips that cannot be read: they may be in every split.

    Raises:
        UserError: there are `problems`, a group is in several splits, a class is missing from one, or a clip would
            have to move; the message names all.
    """
    kept = kept_splits or {}
    units = [_unit(clip, options.by_group) for clip in clips]
    fixed_units: dict[Unit, str] = {}
    for clip, unit in zip(clips, units, strict=True):
        if clip.clip_id in kept:
            fixed_units.setdefault(unit, kept[clip.clip_id])
    is_replaced = options.folds is not None or options.leave_group_out is not None
    try:
        known = _test_splits(clips, units, options, fixed_units) if is_replaced else _given_splits(clips)
    except UserError as error:
        leaks = [] if is_replaced else _leaks(clips, [clip.split for clip in clips], options)
        message = joined([*problems, str(error), *leaks])
        raise UserError(message) from error
    missing = [split for split in SPLITS if split != "train" and split not in known]
    sources = ["train", *(["val"] if is_replaced else missing)]
    if moves := _moves(clips, known, sources, kept):
        raise_problems([*problems, moves])
    pool = [i for i, split in enumerate(known) if not split]
    if options.by_group and len(sources) > 1:
        _log_missing_groups(clips if options.folds else [clips[i] for i in pool])
    cut = partition(
        ((units[i], clips[i].labels) for i in pool),
        {split: SPLITS[split] for split in sources},
        f"{'val:' if is_replaced else ''}{options.seed}",
        fixed_units,
    )
    splits = [
        kept.get(clip.clip_id) or split or cut[unit] for clip, split, unit in zip(clips, known, units, strict=True)
    ]
    lacking = _lacking_classes(clips, splits, options, {*kept_classes, *doubtful}) if for_training else []
    raise_problems([*problems, *_leaks(clips, splits, options), *lacking])
    return splits


def _unit(clip: ListedClip, by_group: bool) -> Unit:
    """A unit that is kept in one split: a group, or a clip without one."""
    return ("group", clip.group) if by_group and clip.group else ("clip", clip.clip_id)


def _given_splits(clips: Sequence[ListedClip]) -> list[str]:
    """The given split of every clip; "" if it is to be cut: from train, if val or test is missing."""
    given = {clip.split for clip in clips}
    if "" in given and len(given) > 1:
        unsplit = [clip.clip_id for clip in clips if not clip.split]
        subject = f"{unsplit[0]} has" if len(unsplit) == 1 else f"{len(unsplit):,} clips, {some(unsplit)}, have"
        raise UserError(f"{subject} no split, others have one; give every clip a split, or none")
    if given and given != {""} and "train" not in given:
        raise UserError(f"no clip has split train, only {', '.join(sorted(given))}; give it to the clips to train on")
    complete = given == set(SPLITS)
    return [clip.split if complete or clip.split != "train" else "" for clip in clips]


def _test_splits(
    clips: Sequence[ListedClip], units: Sequence[Unit], options: SplitOptions, fixed_units: Mapping[Unit, str]
) -> list[str]:
    """The split of every clip: "test" for the fold or the group that is left out, "" for the others."""
    if any(clip.split for clip in clips):
        name = "folds" if options.folds else "leave-group-out"
        log.info("--%s replaces the splits that the catalogue gives", name)
    if options.leave_group_out is not None:
        chosen = _matching_groups(clips, options.leave_group_out)
        return ["test" if clip.group in chosen else "" for clip in clips]
    assert options.folds is not None
    folds = {str(fold): 1 / options.folds for fold in range(options.folds)}
    # Without the fixed splits, which differ between the data sets of the folds: the folds agree about every new clip.
    fold_of = partition(
        ((unit, clip.labels) for unit, clip in zip(units, clips, strict=True)), folds, str(options.seed), {}
    )
    tested = {
        unit for unit, fold in fold_of.items() if fixed_units.get(unit, "test") == "test" and int(fold) == options.fold
    }
    tested |= {unit for unit, split in fixed_units.items() if split == "test"}
    return ["test" if unit in tested else "" for unit in units]


def _matching_groups(clips: Sequence[ListedClip], wanted: str) -> set[str]:
    groups = {clip.group for clip in clips if clip.group}
    chosen = {group for group in groups if group == wanted or fnmatch.fnmatchcase(group, wanted)}
    if not chosen:
        if not groups:
            raise UserError(f"--leave-group-out {wanted}: no clip has a group; use --folds")
        some = ", ".join(sorted(groups)[:3]) + (", ..." if len(groups) > 3 else "")
        raise UserError(f"--leave-group-out {wanted}: there is no such group; the {len(groups):,} groups are {some}")
    if chosen == groups and all(clip.group for clip in clips):
        raise UserError(f"--leave-group-out {wanted} takes all {len(groups):,} groups; leave some to train on")
    return chosen


def _log_missing_groups(clips: Sequence[ListedClip]) -> None:
    single = sum(not clip.group for clip in clips)
    if single:
        log.info(
            "%s of %s clips have no group and are split one by one: near-copies may lie on both sides",
            f"{single:,}",
            f"{len(clips):,}",
        )


def _moves(clips: Sequence[ListedClip], known: Sequence[str], sources: Sequence[str], kept: Mapping[str, str]) -> str:
    """The refusal to move clips into other splits than those of the data set, or ""."""
    moved = [
        (clip.clip_id, split)
        for clip, split in zip(clips, known, strict=True)
        if clip.clip_id in kept and kept[clip.clip_id] not in ([split] if split else sources)
    ]
    if not moved:
        return ""
    clip_id, split = moved[0]
    others = f" (and {len(moved) - 1:,} other clips would move too)" if len(moved) > 1 else ""
    return (
        f"{clip_id} is in split {kept[clip_id]} of the data set, and would now be in {split or ' or '.join(sources)}"
        f"{others}; make a new data set"
    )


def _leaks(clips: Sequence[ListedClip], splits: Sequence[str], options: SplitOptions) -> list[str]:
    """The refusal of groups that are in several splits."""
    found: dict[str, set[str]] = defaultdict(set)
    for clip, split in zip(clips, splits, strict=True):
        if clip.group and split:
            found[clip.group].add(split)
    leaks = [f"{group} ({', '.join(sorted(own))})" for group, own in sorted(found.items()) if len(own) > 1]
    if not leaks or not options.by_group:
        return []
    number = f"{len(leaks):,} " if len(leaks) > 3 else ""
    return [
        f"{number}groups are in several splits: {some(leaks)}; keep each in one, or allow it with --allow-group-leak"
    ]


def _lacking_classes(
    clips: Sequence[ListedClip], splits: Sequence[str], options: SplitOptions, known: Collection[str]
) -> list[str]:
    """The refusal of classes that are missing from a split, all of them."""
    found: dict[str, set[str]] = defaultdict(set)
    own: dict[str, list[ListedClip]] = defaultdict(list)
    for clip, split in zip(clips, splits, strict=True):
        for label in clip.labels:
            found[label].add(split)
            own[label].append(clip)
    # A group that is left out need not have every class.
    wanted = [split for split in SPLITS if split != "test" or options.leave_group_out is None]
    if options.allow_missing_classes:
        wanted = ["train"]
    lacking = {
        label: missing
        for label in sorted(found.keys() - set(known))
        if (missing := [split for split in wanted if split not in found[label]])
    }
    if not lacking:
        return []
    texts = [f"label {label!r} has {_counts(own[label])}, and none in {', '.join(lacking[label])}" for label in lacking]
    return [f"{'; '.join(texts)}; {_advice([own[label] for label in lacking], lacking.values(), options)}"]


def _counts(own: Sequence[ListedClip]) -> str:
    num_groups = _num_units(own, by_group=True)
    return f"{len(own):,} clip{'s' * (len(own) > 1)} in {num_groups:,} group{'s' * (num_groups > 1)}"


def _num_units(own: Sequence[ListedClip], by_group: bool) -> int:
    return len({_unit(clip, by_group) for clip in own})


def _advice(classes: Sequence[Sequence[ListedClip]], lacking: Iterable[list[str]], options: SplitOptions) -> str:
    """The ways out for classes, given by their clips, that are missing from splits."""
    it = "it" if len(classes) == 1 else "them"
    ways = [f"give {it} more clips", f"leave {it} out"]
    if options.by_group and any(_num_units(own, by_group=True) < 3 <= len(own) for own in classes):
        ways.append(f"allow {'its' if it == 'it' else 'their'} groups in several splits with --allow-group-leak")
    if options.folds and any(_num_units(own, options.by_group) < options.folds for own in classes):
        ways.append("use fewer --folds")
    elif any(
        _num_units(own, options.by_group) >= len(SPLITS) and not any(clip.split for clip in own) for own in classes
    ):
        ways.append("try another --seed")
    if not options.folds and all("train" not in splits for splits in lacking):
        ways.append("allow val and test without classes with --allow-missing-classes")
    return ", or ".join([", ".join(ways[:-1]), ways[-1]])

"""Splits: every class gets its share, added clips do not move old ones, and groups do not leak."""

import logging
from collections import Counter, defaultdict

import pytest

from pipelines.core.errors import UserError
from pipelines.data.clip import ListedClip
from pipelines.data.splits import SPLITS, SplitOptions, assign_splits


def single(num_clips: int, classes: str = "ab", split: str = "", group_size: int = 0) -> list[ListedClip]:
    """CLASS/NNN.avi; with groups of `group_size` clips each, if not 0."""
    return [
        ListedClip(f"{name}/{i:03}.avi", frozenset(name), f"{name}/g{i // group_size}" if group_size else "", split)
        for name in classes
        for i in range(num_clips)
    ]


def spanning(num_groups: int, classes: str = "abcd") -> list[ListedClip]:
    """Every group (speaker) has every class three times."""
    return [
        ListedClip(f"{name}/{speaker}_{i}.avi", frozenset(name), f"speaker{speaker}")
        for speaker in range(num_groups)
        for name in classes
        for i in range(3)
    ]


def several_labels(num_clips: int) -> list[ListedClip]:
    every = {"w": 1, "x": 2, "y": 5, "z": 12}
    return [
        ListedClip(f"{i}.avi", frozenset(label for label, step in every.items() if i % step == 0))
        for i in range(num_clips)
    ]


def by_clip(clips: list[ListedClip], *args: object, **options: object) -> dict[str, str]:
    kept = args[0] if args else None
    splits = assign_splits(clips, SplitOptions(**options), kept)  # type: ignore[arg-type]
    return dict(zip((clip.clip_id for clip in clips), splits, strict=True))


def counts(clips: list[ListedClip], splits: dict[str, str]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        for label in clip.labels:
            found[label][splits[clip.clip_id]] += 1
    return found


@pytest.mark.parametrize(
    ("clips", "options"),
    [
        pytest.param(single(20, "abcdefgh"), {}, id="classes"),
        pytest.param(single(7, "abcdefgh"), {}, id="small classes"),
        pytest.param(several_labels(200), {}, id="several labels"),
        pytest.param(single(40, group_size=4), {"allow_group_leak": True}, id="clips of groups"),
    ],
)
def test_every_class_has_three_quarters_of_its_share_in_every_split(
    clips: list[ListedClip], options: dict[str, object]
) -> None:
    for seed in range(10):
        for found in counts(clips, by_clip(clips, seed=seed, **options)).values():
            for split, share in SPLITS.items():
                assert found[split] >= max(1, int(0.75 * share * found.total())), (seed, found)


@pytest.mark.parametrize("num_groups", [3, 4, 10, 25])
def test_groups_stay_whole_and_every_class_has_one_in_every_split(num_groups: int) -> None:
    for clips in (single(3 * num_groups, group_size=3), spanning(num_groups)):
        for seed in range(10):
            splits = by_clip(clips, seed=seed)
            assert len({(clip.group, splits[clip.clip_id]) for clip in clips}) == len({clip.group for clip in clips})
            assert all(found.keys() == SPLITS.keys() for found in counts(clips, splits).values())


def test_if_groups_span_classes_having_every_class_in_every_split_comes_before_the_shares() -> None:
    labels = ["cde", "a", "bcd", "ace", "acd", "be", "abce", "bce"]
    clips = [ListedClip(str(i), frozenset(names), f"g{i}") for i, names in enumerate(labels)]
    assert all(found.keys() == SPLITS.keys() for found in counts(clips, by_clip(clips)).values())


def test_large_classes_get_their_shares() -> None:
    clips = single(2000)
    for found in counts(clips, by_clip(clips)).values():
        for split, share in SPLITS.items():
            assert found[split] / 2000 == pytest.approx(share, abs=0.03)


def test_splits_depend_on_names_and_seed_only() -> None:
    clips = single(20)
    splits = by_clip(clips)
    assert by_clip(clips[::-1]) == splits
    assert by_clip(clips, seed=1) != splits
    # Fixed values: a new release must not change the splits of a data set.
    tested = "a/002 a/003 a/006 a/010 b/003 b/004 b/011 b/015"
    assert [clip_id for clip_id, split in splits.items() if split == "test"] == [
        f"{clip}.avi" for clip in tested.split()
    ]


def test_ten_percent_more_clips_move_few_old_ones_and_none_of_an_existing_data_set() -> None:
    old, new = single(20, "abcdefghij"), single(22, "abcdefghij")
    moved = []
    for seed in range(20):
        before = by_clip(old, seed=seed)
        after = by_clip(new, seed=seed)
        moved.append(sum(after[clip_id] != split for clip_id, split in before.items()) / len(before))
        assert before.items() <= by_clip(new, before, seed=seed).items()
    assert max(moved) <= 0.05
    assert sum(moved) / len(moved) <= 0.02


def test_new_clips_join_their_group_in_an_existing_data_set() -> None:
    clips = single(40, group_size=4)
    kept = {clip.clip_id: "test" for clip in clips if clip.group == "a/g3"}
    kept.popitem()
    splits = by_clip(clips, kept)
    assert {splits[clip.clip_id] for clip in clips if clip.group == "a/g3"} == {"test"}


def test_an_existing_class_may_get_few_new_clips() -> None:
    clips = [*single(10), *single(1, "z")]
    with pytest.raises(UserError, match="label 'z' has 1 clip"):
        assign_splits(clips)
    assert len(assign_splits(clips, kept_classes=["z"])) == 21


def given(**numbers: int) -> list[ListedClip]:
    return [
        ListedClip(f"{name}{split}{i}.avi", frozenset(name), "", split)
        for name in "ab"
        for split, number in numbers.items()
        for i in range(number)
    ]


@pytest.mark.parametrize(
    ("clips", "cut_from_train"),
    [
        (given(train=4, val=2, test=1), set()),
        (given(train=17, test=5), {"val"}),
        (given(train=17, val=5), {"test"}),
        (given(train=20), {"val", "test"}),
    ],
    ids=["all given", "val missing", "test missing", "both missing"],
)
def test_what_is_given_stays_and_what_is_missing_is_cut_from_train(
    clips: list[ListedClip], cut_from_train: set[str]
) -> None:
    splits = by_clip(clips)
    for clip in clips:
        if clip.split != "train":
            assert splits[clip.clip_id] == clip.split
    assert {splits[clip.clip_id] for clip in clips if clip.split == "train"} == {"train", *cut_from_train}


@pytest.mark.parametrize(
    ("clips", "options"),
    [
        pytest.param(single(60, group_size=3), {}, id="groups"),
        pytest.param(spanning(11), {}, id="groups that span classes"),
        pytest.param(single(23, "abc"), {}, id="clips"),
        pytest.param(spanning(4), {"allow_group_leak": True}, id="clips regardless of groups"),
        pytest.param(given(train=9, test=9), {}, id="given splits are replaced"),
    ],
)
@pytest.mark.parametrize("folds", [3, 5])
def test_every_clip_is_tested_in_exactly_one_fold(
    clips: list[ListedClip], options: dict[str, object], folds: int
) -> None:
    tested: Counter[str] = Counter()
    for fold in range(folds):
        splits = by_clip(clips, folds=folds, fold=fold, **options)
        tested.update(clip_id for clip_id, split in splits.items() if split == "test")
        assert all(found.keys() == SPLITS.keys() for found in counts(clips, splits).values())
        if not options and clips[0].group:
            assert len({(clip.group, splits[clip.clip_id]) for clip in clips}) == len({clip.group for clip in clips})
    assert tested == Counter(clip.clip_id for clip in clips)


def test_folds_are_cut_independently_of_val() -> None:
    clips = single(1000)
    for fold in range(4):
        found = Counter(by_clip(clips, folds=4, fold=fold).values())
        assert found["test"] / 2000 == pytest.approx(0.25, abs=0.03)
        assert found["val"] / 2000 == pytest.approx(0.75 * 0.15 / 0.85, abs=0.03)


def test_new_clips_are_tested_in_exactly_one_fold_as_well_and_old_ones_stay() -> None:
    old, new = single(20), single(24)
    tested: Counter[str] = Counter()
    for fold in range(5):
        before = by_clip(old, folds=5, fold=fold)
        after = by_clip(new, before, folds=5, fold=fold)
        assert before.items() <= after.items()
        tested.update(clip_id for clip_id, split in after.items() if split == "test")
    assert tested == Counter(clip.clip_id for clip in new)


@pytest.mark.parametrize(
    ("wanted", "groups"),
    [("speaker3", {"speaker3"}), ("speaker1*", {"speaker1", "speaker10", "speaker11"})],
    ids=["name", "pattern"],
)
def test_a_group_that_is_left_out_is_the_test_split(wanted: str, groups: set[str]) -> None:
    clips = spanning(12)
    splits = by_clip(clips, leave_group_out=wanted)
    assert {clip.group for clip in clips if splits[clip.clip_id] == "test"} == groups
    assert {splits[clip.clip_id] for clip in clips if clip.group not in groups} == {"train", "val"}


def test_a_group_that_is_left_out_need_not_have_every_class() -> None:
    assert "test" in by_clip(single(20, group_size=2), leave_group_out="a/g0").values()


@pytest.mark.parametrize(
    ("clips", "options", "told"),
    [
        (given(train=9, test=9), {"folds": 3}, "--folds replaces the splits that the catalogue gives"),
        (single(9), {}, "18 of 18 clips have no group and are split one by one: near-copies may lie on both sides"),
        (given(train=9, test=9), {}, "18 of 18 clips have no group"),
    ],
    ids=["folds", "no groups", "no groups in train"],
)
def test_facts_that_affect_the_result_are_logged(
    clips: list[ListedClip], options: dict[str, object], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        by_clip(clips, **options)
    assert told in caplog.text


@pytest.mark.parametrize(
    ("clips", "options"),
    [(spanning(10), {}), (given(train=9, val=2, test=9), {}), (single(9), {"allow_group_leak": True})],
    ids=["groups", "all given", "by clip on request"],
)
def test_nothing_is_logged_for_ordinary_splits(
    clips: list[ListedClip], options: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        by_clip(clips, **options)
    assert not caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"folds": 1}, "folds must be 2 or more, got 1"),
        ({"folds": 5, "fold": 5}, "0 <= fold < folds must hold, got fold=5, folds=5"),
        ({"fold": 1}, "got fold=1, folds=None"),
        ({"folds": 5, "leave_group_out": "g"}, "exclude each other"),
    ],
    ids=["seed", "folds", "fold", "fold without folds", "both"],
)
def test_invalid_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplitOptions(**options)  # type: ignore[arg-type]

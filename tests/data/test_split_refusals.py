"""Splits that cannot be made are refused in one line, with all problems."""

import pytest

from pipelines.core.errors import UserError
from pipelines.data.clip import ListedClip
from pipelines.data.splits import SPLITS, assign_splits
from tests.data.test_splits import by_clip, given, single, spanning

LEAK = [
    ListedClip(f"{name}{split}{g}.avi", frozenset(name), f"speaker{g}", split)
    for name in "ab"
    for split in SPLITS
    for g in range(5)
]


@pytest.mark.parametrize(
    ("clips", "options", "kept", "message"),
    [
        pytest.param(
            [*given(train=3), *single(1)],
            {},
            {},
            "^2 clips, a/000.avi, b/000.avi, have no split, others have one; give",
            id="mixed",
        ),
        pytest.param(given(val=3, test=3), {}, {}, "no clip has split train", id="no train"),
        pytest.param(
            LEAK,
            {},
            {},
            r"several splits: speaker0 \(test, train, val\), speaker1 .*, speaker2 .*, \.\.\.; .* --allow-group-leak",
            id="leak",
        ),
        pytest.param(
            [*given(train=3, val=1, test=1), ListedClip("c.avi", frozenset("c"), "", "train")],
            {},
            {},
            "label 'c' has 1 clip in 1 group, and none in val, test; give it more clips, leave it out, or allow val "
            "and test without classes with --allow-missing-classes$",
            id="one clip",
        ),
        pytest.param(
            single(9, group_size=5),
            {},
            {},
            "label 'a' has 9 clips in 2 groups, and none in .*; .*; .* allow their groups .* --allow-group-leak",
            id="two groups",
        ),
        pytest.param(
            single(12, group_size=4), {"folds": 9}, {}, "12 clips in 3 groups, and none .* fewer --folds", id="folds"
        ),
        pytest.param(
            given(train=5, test=2), {}, {"atest0.avi": "val"}, "atest0.avi is in split val .* be in test", id="moved"
        ),
        pytest.param(
            given(train=5, test=2),
            {},
            {"atrain0.avi": "test"},
            "is in split test .* be in train or val",
            id="moved out",
        ),
        pytest.param(
            spanning(9),
            {"leave_group_out": "speaker"},
            {},
            r"--leave-group-out speaker: there is no such group; the 9 groups are speaker0, speaker1, speaker2, \.\.\.",
            id="unknown group",
        ),
        pytest.param(single(9), {"leave_group_out": "x"}, {}, "no clip has a group; use --folds", id="no groups"),
        pytest.param(spanning(9), {"leave_group_out": "*"}, {}, "takes all 9 groups", id="all groups"),
    ],
)
def test_impossible_splits_are_refused_in_one_line(
    clips: list[ListedClip], options: dict[str, object], kept: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        by_clip(clips, kept, **options)
    assert "\n" not in str(error.value)


def test_a_group_leak_in_given_splits_may_be_allowed() -> None:
    assert by_clip(LEAK, allow_group_leak=True) == {clip.clip_id: clip.split for clip in LEAK}


def lacking(*labels: str) -> list[ListedClip]:
    """Clips of a and b in every split, and of the labels in train and test only."""
    extra = [
        ListedClip(f"{name}{split}{i}.avi", frozenset({name}), "", split)
        for name in labels
        for split in ("train", "test")
        for i in range(2)
    ]
    return [*given(train=3, val=1, test=2), *extra]


def test_all_classes_that_are_missing_from_a_split_are_named_at_once() -> None:
    with pytest.raises(UserError) as error:
        by_clip([*lacking("c", "d", "e"), ListedClip("f.avi", frozenset("f"), "", "val")])
    one = "label {!r} has 4 clips in 4 groups, and none in val"
    assert str(error.value) == (
        f"{one.format('c')}; {one.format('d')}; {one.format('e')}; label 'f' has 1 clip in 1 group, and none in train, "
        "test; give them more clips, or leave them out"
    )


def test_val_and_test_may_lack_classes_on_request_but_not_train() -> None:
    clips = lacking("c", "d")
    with pytest.raises(UserError, match=r"or allow val and test without classes with --allow-missing-classes$"):
        by_clip(clips)
    assert by_clip(clips, allow_missing_classes=True) == {clip.clip_id: clip.split for clip in clips}
    with pytest.raises(UserError, match="label 'e' has 1 clip in 1 group, and none in train; give it more clips, or"):
        by_clip([*clips, ListedClip("e.avi", frozenset("e"), "", "test")], allow_missing_classes=True)


def test_no_class_needs_every_split_for_an_evaluation() -> None:
    clips = [*single(9), *single(1, "z")]
    assert len(assign_splits(clips, for_training=False)) == 19


def test_a_missing_class_and_a_leak_are_named_together() -> None:
    leak = [ListedClip(f"x{split}.avi", frozenset("a"), "speaker", split) for split in SPLITS]
    with pytest.raises(UserError, match=r"^2 problems: \(1\) groups are .* speaker .*; \(2\) label 'c' has 4 clips"):
        by_clip([*lacking("c"), *leak])


def test_clips_without_a_split_and_a_leak_are_named_together() -> None:
    leak = [ListedClip(f"x{split}.avi", frozenset("a"), "speaker", split) for split in ("", *SPLITS)]
    with pytest.raises(UserError, match=r"\(1\) x.avi has no split, others have one; .* \(2\) groups are"):
        by_clip([*lacking("c"), *leak])


def test_all_clips_that_would_move_are_counted() -> None:
    kept = {"atest0.avi": "val", "btest0.avi": "val", "btest1.avi": "train"}
    with pytest.raises(
        UserError, match=r"^atest0.avi is in split val .* be in test \(and 2 other clips would move too"
    ):
        by_clip(given(train=5, test=2), kept)

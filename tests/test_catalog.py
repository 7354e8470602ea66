"""pipelines/catalog.py: each layout is read as its makers meant it, and splits are fair, stable and free of leaks."""

import logging
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from pipelines.catalog import SPLITS, Catalog, read_catalog
from pipelines.cli import UserError

DATA = Path(__file__).parents[2] / "shared" / "data"


def touch(path: Path, *files: str) -> Path:
    for file in files:
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (path / file).touch()
    return path


def write_csv(path: Path, *lines: str, header: str = "path,label,group,split") -> Path:
    (path / "clips.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path / "clips.csv"


def class_folders(path: Path, num_clips: int = 20, classes: str = "ab") -> Path:
    return touch(path, *(f"{name}/{clip:03}.avi" for name in classes for clip in range(num_clips)))


def ucf11(path: Path, num_groups: int = 10) -> Path:
    return touch(
        path,
        *(
            f"{label}/v_{word}_{group:02}/v_{word}_{group:02}_{clip:02}.mpg"
            for label, word in (("basketball", "shooting"), ("walking", "walk_dog"))
            for group in range(1, num_groups + 1)
            for clip in range(1, 5)
        ),
    )


def hollywood2(path: Path) -> Path:
    labels = {"Run": [1, -1, 1, -1, 1, 1, -1, -1], "Eat": [-1, 1, 1, -1, -1, 1, 1, 1]}
    touch(path, "ClipSets/Run_autotrain.txt", "AVIClips/none")
    for label, signs in labels.items():
        for split, number in (("train", 8), ("test", 4)):
            lines = [f"actionclip{split}{i:05}  {sign}" for i, sign in enumerate(signs[:number])]
            (path / "ClipSets" / f"{label}_{split}.txt").write_text("\n".join(lines) + "\n")
    return path


def celebrities(path: Path) -> Path:
    return touch(
        path,
        *(
            f"{n:04}_{video:02}_{n % 7:03}_{person}.avi"
            for n, (person, video) in enumerate(
                (person, video) for person in ("adam_sandler", "al_gore") for video in (1, 2, 3) for _ in range(4)
            )
        ),
    )


def splits_of(catalog: Catalog) -> dict[str, str]:
    return {entry.clip_id: entry.split for entry in catalog.entries}


@pytest.mark.parametrize(
    ("make", "layout", "clip_id", "labels", "group"),
    [
        (class_folders, "folders", "a/003.avi", {"a"}, ""),
        (ucf11, "ucf11", "walking/v_walk_dog_02/v_walk_dog_02_03.mpg", {"walking"}, "walking/v_walk_dog_02"),
        (hollywood2, "hollywood2", "AVIClips/actioncliptrain00002.avi", {"Eat", "Run"}, ""),
        (celebrities, "youtube-celebrities", "0004_02_004_adam_sandler.avi", {"adam_sandler"}, "adam_sandler/02"),
    ],
    ids=["folders", "ucf11", "hollywood2", "youtube-celebrities"],
)
def test_a_layout_is_recognised_read_and_told_of(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    make: object,
    layout: str,
    clip_id: str,
    labels: set[str],
    group: str,
) -> None:
    assert callable(make)
    make(tmp_path)
    with caplog.at_level(logging.INFO):
        catalog = read_catalog(tmp_path)
    assert f"layout {layout}" in caplog.text
    entry = next(entry for entry in catalog.entries if entry.clip_id == clip_id)
    assert {catalog.classes[label] for label in entry.labels} == labels
    assert (entry.group, entry.path) == (group, tmp_path / clip_id)
    assert catalog == read_catalog(tmp_path, layout)
    assert catalog.classes == tuple(sorted(catalog.classes))


def test_a_csv_is_read_as_it_stands(tmp_path: Path) -> None:
    lines = [
        f"sub/{split}{i}.avi,{label},g{split}{i},{split}"
        for split in SPLITS
        for i, label in enumerate(["run", "eat | run", "eat"])
    ]
    catalog = read_catalog(write_csv(tmp_path, *lines, f"{tmp_path}/./x.avi,eat,,train"))
    assert (catalog.classes, catalog.task) == (("eat", "run"), "multi_label")
    found = {entry.clip_id: (entry.labels, entry.group, entry.split) for entry in catalog.entries}
    assert found["sub/val1.avi"] == ((0, 1), "gval1", "val")
    assert found["x.avi"] == ((0,), "", "train")
    assert len(found) == 10


def test_hollywood2_keeps_its_test_list_and_clips_without_a_label(tmp_path: Path) -> None:
    catalog = read_catalog(hollywood2(tmp_path))
    assert catalog.task == "multi_label"
    splits = splits_of(catalog)
    assert {clip for clip, split in splits.items() if split == "test"} == {
        f"AVIClips/actioncliptest{i:05}.avi" for i in range(4)
    }
    assert {"train", "val"} == {split for clip, split in splits.items() if "cliptrain" in clip}
    assert next(e for e in catalog.entries if e.clip_id.endswith("train00003.avi")).labels == ()


def test_folders_take_videos_at_any_depth_and_nothing_else(tmp_path: Path) -> None:
    class_folders(tmp_path)
    before = len(read_catalog(tmp_path).entries)
    touch(tmp_path, "a/deep/er/x.MP4", "a/notes.txt", "a/.hidden.avi", ".cache/a/y.avi")
    catalog = read_catalog(tmp_path)
    assert len(catalog.entries) == before + 1
    assert "a/deep/er/x.MP4" in splits_of(catalog)


@pytest.mark.parametrize(
    ("num_clips", "wanted"),
    [
        (3, {"train": 1, "val": 1, "test": 1}),
        (4, {"train": 2, "val": 1, "test": 1}),
        (20, {"train": 14, "val": 3, "test": 3}),
        (100, {"train": 70, "val": 15, "test": 15}),
    ],
)
def test_every_class_is_split_70_15_15_by_clip(tmp_path: Path, num_clips: int, wanted: dict[str, int]) -> None:
    catalog = read_catalog(class_folders(tmp_path, num_clips, "abc"))
    for label in range(3):
        assert Counter(entry.split for entry in catalog.entries if entry.labels == (label,)) == wanted


@pytest.mark.parametrize("num_groups", [3, 10, 25])
def test_groups_are_never_torn_apart(tmp_path: Path, num_groups: int) -> None:
    catalog = read_catalog(ucf11(tmp_path, num_groups))
    splits = defaultdict(set)
    for entry in catalog.entries:
        splits[entry.group].add(entry.split)
    assert len(splits) == 2 * num_groups
    assert all(len(found) == 1 for found in splits.values())


def test_groups_that_span_classes_stay_whole_too(tmp_path: Path) -> None:
    lines = [
        f"{label}{speaker}_{i}.avi,{label},speaker{speaker},"
        for speaker in range(10)
        for label in "abcd"
        for i in range(3)
    ]
    catalog = read_catalog(write_csv(tmp_path, *lines))
    assert len({(entry.group, entry.split) for entry in catalog.entries}) == 10
    assert Counter(entry.split for entry in catalog.entries) == {"train": 72, "val": 24, "test": 24}


def test_several_labels_are_balanced_over_the_splits(tmp_path: Path) -> None:
    lines = [
        f"{i}.avi,{'|'.join(name for name, every in (('x', 1), ('y', 2), ('z', 10)) if i % every == 0)},,"
        for i in range(100)
    ]
    catalog = read_catalog(write_csv(tmp_path, *lines))
    for label, count in enumerate([100, 50, 10]):
        found = Counter(entry.split for entry in catalog.entries if label in entry.labels)
        assert found["val"] == pytest.approx(0.15 * count, abs=2)
        assert found["test"] == pytest.approx(0.15 * count, abs=2)


def test_allow_group_leak_splits_by_clip(tmp_path: Path) -> None:
    catalog = read_catalog(ucf11(tmp_path, 2), allow_group_leak=True)
    assert Counter(entry.split for entry in catalog.entries) == {"train": 12, "val": 2, "test": 2}


def test_splits_depend_on_the_seed_and_on_nothing_else(tmp_path: Path) -> None:
    class_folders(tmp_path)
    splits = splits_of(read_catalog(tmp_path))
    assert splits_of(read_catalog(tmp_path)) == splits
    assert splits_of(read_catalog(tmp_path, seed=1)) != splits


def test_val_is_cut_from_train_where_only_train_and_test_are_given(tmp_path: Path) -> None:
    lines = [
        f"{label}{split}{i}.avi,{label},,{split}"
        for label in "ab"
        for split, number in (("train", 17), ("test", 5))
        for i in range(number)
    ]
    catalog = read_catalog(write_csv(tmp_path, *lines))
    assert Counter(entry.split for entry in catalog.entries) == {"train": 28, "val": 6, "test": 10}
    assert all(("test" in entry.clip_id) == (entry.split == "test") for entry in catalog.entries)


FULL = [f"{label}_{split}.avi,{label},,{split}" for label in "ab" for split in SPLITS]


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        pytest.param([], None, "clips.csv has no videos", id="no lines"),
        pytest.param(
            ["a.avi,x"], "path,label", "lacks the column group, split; .* got path,label", id="missing column"
        ),
        pytest.param(["a.avi;x;;"], "path;label;group;split", "lacks the column path, label", id="semicolons"),
        pytest.param([*FULL, "c.avi,,,train"], None, "line 8: the label is empty", id="empty label"),
        pytest.param([*FULL, "c.avi,a|,,train"], None, "line 8: the label is empty", id="empty second label"),
        pytest.param([*FULL, ",a,,train"], None, "line 8: the path is empty", id="empty path"),
        pytest.param(
            [*FULL, "c.avi,a,,valid"],
            None,
            "line 8: split 'valid' is unknown; the splits are train, val, test",
            id="unknown split",
        ),
        pytest.param([*FULL, "./b_val.avi,a,,train"], None, "line 8: b_val.avi is listed twice", id="same path twice"),
        pytest.param([*FULL, "c.avi,a,,"], None, "c.avi has no split, others have one", id="some without a split"),
        pytest.param(["a.avi,a,,val", "b.avi,b,,test"], None, "no clip has split train", id="no train"),
        pytest.param(
            [*FULL, "c.avi,lonely,,train"],
            None,
            "label 'lonely' has 1 clip in 1 group and so none in val, test; give it more clips",
            id="one clip",
        ),
        pytest.param([f"{i}.avi,a,," for i in range(9)], None, r"fewer than two classes \(a\)", id="one class"),
        pytest.param(
            [f"{label}{i}.avi,{label},{label}{i % 2}," for label in "ab" for i in range(9)],
            None,
            "label 'a' has 9 clips in 2 groups and so none in train; .* --allow-group-leak",
            id="two groups",
        ),
        pytest.param(
            [
                f"{label}{split}{g}.avi,{label},speaker{g},{split}"
                for label in "ab"
                for split in SPLITS
                for g in range(5)
            ],
            None,
            r"several splits: speaker0 \(test, train, val\), speaker1 .*, speaker2 .*, \.\.\.; .* "
            "--allow-group-leak",
            id="group leak",
        ),
    ],
)
def test_a_senseless_csv_is_refused_in_one_line(
    tmp_path: Path, lines: list[str], header: str | None, message: str
) -> None:
    file = write_csv(tmp_path, *lines, header=header or "path,label,group,split")
    with pytest.raises(UserError, match=message) as error:
        read_catalog(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("files", "layout", "message"),
    [
        pytest.param([], "auto", "has no videos; layout folders reads CLASS", id="empty folder"),
        pytest.param(["a/x.txt", "b/y.jpg"], "auto", "has no videos", id="no videos"),
        pytest.param(
            ["a/1.avi", "b/1.avi", "loose.avi"], "auto", "loose.avi lies in no class folder", id="loose video"
        ),
        pytest.param(
            ["train/a/1.avi", "test/a/2.avi"],
            "auto",
            "are splits, not classes; list the videos in a CSV",
            id="folders of splits",
        ),
        pytest.param(
            ["a/1.avi", b"b/\xff.avi".decode("utf-8", "surrogateescape")],
            "auto",
            r"the name of 'b/.udcff.avi' in .* is not UTF-8",
            id="name in another encoding",
        ),
        pytest.param(
            ["a/1.avi"],
            "tapes",
            "layout 'tapes' is unknown; the layouts are auto, csv, folders, ucf11",
            id="unknown layout",
        ),
        pytest.param(["a/1.avi"], "csv", "is a folder; layout csv reads", id="folder as CSV"),
        pytest.param(["a/1.avi"], "ucf11", "1.avi does not fit layout ucf11", id="not UCF11"),
        pytest.param(["a/1.avi"], "youtube-celebrities", "1.avi does not fit layout youtube", id="not celebrities"),
        pytest.param(
            [f"{c}/{i}.avi" for c in "ab" for i in range(5)] + ["c/1.avi"],
            "auto",
            "label 'c' has 1 clip in 1 group",
            id="label with one clip",
        ),
    ],
)
def test_a_senseless_folder_is_refused_in_one_line(tmp_path: Path, files: list[str], layout: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_catalog(touch(tmp_path, *files), layout)
    assert "\n" not in str(error.value)


def test_no_such_path_and_no_csv_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*nowhere; give a folder"):
        read_catalog(tmp_path / "nowhere")
    (tmp_path / "clip.avi").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match=r"clip.avi is no CSV file"):
        read_catalog(tmp_path / "clip.avi")


def test_a_group_leak_that_is_given_may_be_allowed(tmp_path: Path) -> None:
    lines = [f"{label}{split}.avi,{label},g,{split}" for label in "ab" for split in SPLITS]
    assert len(read_catalog(write_csv(tmp_path, *lines), allow_group_leak=True).entries) == 6


@pytest.mark.skipif(not DATA.exists(), reason=f"no real videos in {DATA}")
@pytest.mark.parametrize(
    ("file", "leak", "sizes"),
    [
        ("avletters.csv", True, {"train": 442, "val": 78, "test": 260}),
        ("miracl_words_speaker.csv", False, {"train": 800, "val": 200, "test": 200}),
        ("ucf101_10.csv", False, {"train": 160, "val": 66, "test": 66}),
    ],
)
def test_real_catalogues_keep_their_splits(file: str, leak: bool, sizes: dict[str, int]) -> None:
    catalog = read_catalog(DATA / file, allow_group_leak=leak)
    assert Counter(entry.split for entry in catalog.entries) == sizes
    assert all(entry.path.exists() for entry in catalog.entries)


@pytest.mark.skipif(not DATA.exists(), reason=f"no real videos in {DATA}")
def test_the_real_ucf11_folder_is_recognised() -> None:
    with pytest.raises(UserError, match=r"fewer than two classes \(basketball\).*layout ucf11"):
        read_catalog(DATA / "ucf11")

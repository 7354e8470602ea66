"""Lists of Kinetics, Jester, Something-Something and mmaction2: labels and splits, whatever the tree around them."""

import json
import logging
from pathlib import Path

import pytest

from pipelines.core.errors import UserError
from pipelines.data.catalog import read_catalog
from tests.trees import described, touch, write

PARTS = {"train": range(12), "validation": range(12, 18), "test": range(18, 22)}
GESTURES = ("Swiping Left", "Drumming Fingers")
SENTENCES = ("Putting [something] on [something]", "Closing, then opening [something]")


def frames(folder: str, numbers: range, name: str = "{:05}.jpg") -> list[str]:
    return [f"{folder}/{i}/{name.format(k)}" for i in numbers for k in (1, 2, 3)]


def gesture(i: int) -> str:
    return GESTURES[i % 2]


def jester(root: Path, folder: str = "20bn-jester-v1") -> Path:
    """Folders of pictures and ID;label lists; the list of test has no labels."""
    for split in ("train", "validation"):
        write(root / f"jester-v1-{split}.csv", *(f"{i};{gesture(i)}" for i in PARTS[split]))
    write(root / "jester-v1-test.csv", *map(str, PARTS["test"]))
    write(root / "jester-v1-labels.csv", *GESTURES)
    return touch(root, *frames(folder, range(22)))


def sentence(i: int) -> str:
    return SENTENCES[i % 2]


def something(root: Path) -> Path:
    """Videos, and lists in JSON with templates; the list of test has no labels."""
    for split, numbers in PARTS.items():
        clips = [
            {"id": str(i), "label": f"putting box {i}", "template": sentence(i), "placeholders": ["a box"]}
            for i in numbers
        ]
        if split == "test":
            clips = [{"id": clip["id"]} for clip in clips]
        write(root / "labels" / f"something-something-v2-{split}.json", json.dumps(clips))
    write(root / "labels/something-something-v2-labels.json", json.dumps({"Closing something": "0"}))
    return touch(root, *(f"20bn-something-something-v2/{i}.webm" for i in range(22)))


def expected(name: str, label_of: object) -> dict[str, str]:
    return {name.format(i): label_of(i) for split in ("train", "validation") for i in PARTS[split]}  # type: ignore[operator]


def check_splits(found: dict[str, tuple[str, str]], name: str) -> None:
    """Val is that of the lists; test is cut from train."""
    assert {clip for clip, (_, split) in found.items() if split == "val"} == {
        name.format(i) for i in PARTS["validation"]
    }
    assert {split for _, split in found.values()} == {"train", "val", "test"}


def test_jester_is_read_as_folders_of_pictures_with_its_lists(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        catalog = read_catalog(jester(tmp_path))
    assert "read as layout jester, because jester-v1-train.csv lists clips with their classes" in caplog.text
    assert "jester-v1-test.csv: 4 clips have no label and are left out" in caplog.text
    found = described(catalog)
    name = "20bn-jester-v1/{}"
    assert {clip: label for clip, (label, _) in found.items()} == expected(name, gesture)
    check_splits(found, name)
    assert all(Path(clip.path).is_dir() for clip in catalog.clips)


def test_jester_may_have_headers_videos_and_folders_of_splits(tmp_path: Path) -> None:
    for name, split in (("Train", "train"), ("Validation", "validation")):
        rows = [f"{i},{gesture(i)},37,{i % 2}" for i in PARTS[split]]
        write(tmp_path / f"{name}.csv", "video_id,label,frames,label_id", *rows)
        touch(tmp_path, *(f"{name}/{i}.mp4" for i in PARTS[split]))
    found = described(read_catalog(tmp_path))
    assert found["Validation/12.mp4"] == (gesture(12), "val")
    assert found["Train/0.mp4"][0] == gesture(0)
    assert len(found) == 18


def test_something_something_has_the_classes_of_its_templates(tmp_path: Path) -> None:
    found = described(read_catalog(something(tmp_path)))
    name = "20bn-something-something-v2/{}.webm"
    assert {clip: label for clip, (label, _) in found.items()} == expected(
        name, lambda i: sentence(i).replace("[", "").replace("]", "")
    )
    check_splits(found, name)


def test_something_something_v1_has_commas_in_its_labels(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        write(
            tmp_path / f"something-something-v1-{split}.csv",
            *(f"{i};Pretending to put, say, thing {i % 2}" for i in PARTS[split]),
        )
    catalog = read_catalog(touch(tmp_path, *frames("20bn-something-something-v1", range(18))))
    assert catalog.classes == ("Pretending to put, say, thing 0", "Pretending to put, say, thing 1")


@pytest.mark.parametrize(
    "pattern",
    ["{split}/{id}_000010_000020.mp4", "{split}/{label}/{id}_000010_000020.mkv", "videos/{id}.mp4"],
    ids=["by split", "by split and class", "without times"],
)
def test_kinetics_is_read_with_its_lists(tmp_path: Path, pattern: str) -> None:
    clips, rows = {}, {split: ["label,youtube_id,time_start,time_end,split"] for split in PARTS}
    for split, numbers in PARTS.items():
        for i in numbers:
            label, identity = ("air drumming", "abseiling")[i % 2], f"-{i:02}_AbcdEF"
            name = {"validation": "val"}.get(split, split)
            clips[pattern.format(split=name, label=label.replace(" ", "_"), id=identity)] = (label, name)
            written = {"validation": "validate"}.get(split, split)
            rows[split].append(f"{label},{identity},10,20,{written}")
    for split, lines in rows.items():
        write(tmp_path / "annotations" / f"{split}.csv", *lines)
    catalog = read_catalog(touch(tmp_path, *clips))
    assert described(catalog) == clips
    assert {clip.group for clip in catalog.clips} == {f"-{i:02}_AbcdEF" for i in range(22)}


def mmaction2(root: Path, line: str, names: str = "{split}_split_{n}_videos.txt") -> Path:
    """Lists 1 and 2 of clips run/i and eat/i; list 2 has the splits of the first 12 clips and the others exchanged."""
    for n, exchanged in ((1, False), (2, True)):
        for split, numbers in (("train", range(12)), ("val", range(12, 18))):
            part = {"train": "val", "val": "train"}[split] if exchanged else split
            lines = [line.format(label=label, i=i, k=k) for k, label in enumerate(("run", "eat")) for i in numbers]
            write(root / names.format(split=part, n=n), *lines)
    return root


@pytest.mark.parametrize("split_list", [1, 2])
@pytest.mark.parametrize(
    ("line", "clip"),
    [
        ("{label}/{i}.mp4 {k}", "videos/{label}/{i}.mp4"),
        ("data/ucf/videos/{label}/{i}.mp4 {k}", "videos/{label}/{i}.mp4"),
        ("{label}\\{i}.mp4 {k}", "videos/{label}/{i}.avi"),
        ("{label}/{i} 3 {k}", "rawframes/{label}/{i}"),
        ("{label}/{i}.mp4,{k}", "videos/{label}/{i}.mp4"),
    ],
    ids=["videos", "longer paths", "re-encoded, backslashes", "folders of pictures", "commas"],
)
def test_lists_of_mmaction2_are_read(tmp_path: Path, line: str, clip: str, split_list: int) -> None:
    mmaction2(tmp_path, line)
    write(tmp_path / "annotations/classInd.txt", "1 Running", "2 Eating")
    clips = {
        clip.format(label=label, i=i): (name, i)
        for label, name in (("run", "Running"), ("eat", "Eating"))
        for i in range(18)
    }
    is_folder = not clip.endswith(("mp4", "avi"))
    touch(tmp_path, *(f"{name}/img_{k:05}.jpg" if is_folder else name for name in clips for k in (1, 2, 3)))
    found = described(read_catalog(tmp_path, split_list=split_list))
    assert {name: label for name, (label, _) in found.items()} == {name: label for name, (label, _) in clips.items()}
    tested = {name for name, (_, i) in clips.items() if (i >= 12) == (split_list == 1)}
    assert {name for name, (_, split) in found.items() if split == "val"} == tested


def test_numbers_of_classes_are_named_by_a_file_by_folders_or_by_themselves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mmaction2(tmp_path, "{label}/{i}.mp4 {k}")
    touch(tmp_path, *(f"{label}/{i}.mp4" for label in ("run", "eat") for i in range(18)))
    assert read_catalog(tmp_path).classes == ("eat", "run")
    write(tmp_path / "label_map_k400.txt", "running", "eating", "sleeping")
    assert read_catalog(tmp_path).classes == ("eating", "running")
    flat = mmaction2(tmp_path / "flat", "{label}_{i}.mp4 {k}")
    touch(flat, *(f"{label}_{i}.mp4" for label in ("run", "eat") for i in range(18)))
    assert read_catalog(flat).classes == ("0", "1")
    assert "no file names the classes" in caplog.text


def test_several_labels_of_mmaction2_are_several_labels(tmp_path: Path) -> None:
    for split, numbers in (("train", range(9)), ("val", range(9, 12)), ("test", range(12, 15))):
        write(tmp_path / f"{split}.txt", *(f"{i}.mp4 {'0 1' if i % 3 == 0 else i % 3 - 1}" for i in numbers))
    catalog = read_catalog(touch(tmp_path, *(f"videos/{i}.mp4" for i in range(15))))
    assert (catalog.task, described(catalog)["videos/0.mp4"][0]) == ("multi_label", "0|1")


@pytest.mark.parametrize(
    ("make", "file", "num_clips"),
    [
        (jester, "jester-v1-train.csv", 12),
        (something, "labels/something-something-v2-train.json", 12),
        (lambda root: touch(mmaction2(root, "{i}{label}.mp4 {k}"), *(f"{i}{c}.mp4" for i in range(18)
         for c in ("run", "eat"))), "train_split_1_videos.txt", 24),
    ],
    ids=["jester", "something-something", "mmaction2"],
)  # fmt: skip
def test_one_list_may_be_given_alone(tmp_path: Path, make: object, file: str, num_clips: int) -> None:
    catalog = read_catalog(make(tmp_path) / file)  # type: ignore[operator]
    assert len(catalog.clips) == num_clips
    assert {clip.split for clip in catalog.clips} == {"train", "val", "test"}
    assert all(Path(clip.path).exists() for clip in catalog.clips)


def test_clips_that_do_not_exist_are_counted_and_others_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    something(tmp_path)
    for i in (0, 13):
        (tmp_path / f"20bn-something-something-v2/{i}.webm").unlink()
    touch(tmp_path, "20bn-something-something-v2/77.webm")
    catalog = read_catalog(tmp_path)
    assert len(catalog.clips) == 16
    assert "something-something-v2-train.json: 1 clips do not exist: 0" in caplog.text
    assert "something-something-v2-validation.json: 1 clips do not exist: 13" in caplog.text
    assert "20bn-something-something-v2/77.webm" in catalog.left_out


def test_lists_that_contradict_each_other_or_the_folders_are_refused_with_all_clips(tmp_path: Path) -> None:
    rows = {"train": ["a1,run", "a2,eat", "a3,run", "b1,run"], "val": ["a1,eat", "c1,eat", "d1,run"]}
    for split, lines in rows.items():
        write(tmp_path / f"{split}.csv", "id,label", *lines)
    touch(tmp_path, "train/run/a1.mp4", "train/run/a2.mp4", "train/run/a3.mp4", "val/run/b1.mp4", "val/eat/c1.mp4")
    touch(tmp_path, "x/d1.mp4", "y/d1.mp4")
    with pytest.raises(UserError) as error:
        read_catalog(tmp_path)
    message = str(error.value)
    assert message.startswith("4 problems")
    for told in (
        "val.csv: train/run/a1.mp4 is eat in val, in another list run in train",
        "val.csv: d1 may be x/d1.mp4 or y/d1.mp4",
        "train/run/a2.mp4 is eat in the lists",
        "val/run/b1.mp4 is in train in the lists",
    ):
        assert told in message


def test_other_files_named_like_lists_do_no_harm(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{label}/{i}.avi" for label in "ab" for i in range(9)))
    write(tmp_path / "train.csv", "epoch,loss", "1,0.5")
    write(tmp_path / "test.json", '{"a": 1}')
    write(tmp_path / "validation.txt", "The videos of val.", "1 2 3")
    (tmp_path / "training.csv").write_bytes(b"\0\1\2\xff")
    assert read_catalog(tmp_path).classes == ("a", "b")


def test_lists_whose_classes_are_not_those_of_the_folders_are_refused_with_both_readings(tmp_path: Path) -> None:
    for split, numbers in (("train", range(9)), ("val", range(9, 12))):
        rows = [f"{label}{i}.mp4,{('mild', 'severe')[i % 2]}" for label in ("fall", "slip") for i in numbers]
        write(tmp_path / f"{split}.csv", "filename,label", *rows)
    touch(tmp_path, *(f"{label}/{label}{i}.mp4" for label in ("fall", "slip") for i in range(12)))
    told = (
        r"train.csv gives the classes mild, severe, but the clips lie in the folders fall, slip; give --layout folders "
        "to take the folders for classes, --layout jester to take the lists, or a CSV file path,label,group,split"
    )
    with pytest.raises(UserError, match=told):
        read_catalog(tmp_path)
    assert read_catalog(tmp_path, "folders").classes == ("fall", "slip")
    assert read_catalog(tmp_path, "jester").classes == ("mild", "severe")


def test_flat_folders_of_splits_with_tables_are_read(tmp_path: Path) -> None:
    for split, numbers in (("train", range(9)), ("valid", range(9, 12)), ("test", range(12, 15))):
        write(tmp_path / f"{split}.csv", "file_name,label", *(f"{split}/{i}.mp4,{'ab'[i % 2]}" for i in numbers))
        touch(tmp_path, *(f"{split}/{i}.mp4" for i in numbers))
    found = described(read_catalog(tmp_path))
    assert len(found) == 15
    assert (found["valid/10.mp4"], found["test/13.mp4"]) == (("a", "val"), ("b", "test"))

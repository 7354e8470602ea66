"""pipelines/report/inspection.py: numbers agree with the clips, leaks and damage are found, the sheet is written."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from pipelines.core.errors import UserError
from pipelines.data.shards import Clip, write_dataset_json, write_shard
from pipelines.report.inspection import inspect_shards, inspection_summary, verify_shards, verify_summary
from pipelines.storage.location import Location
from pipelines.video.frame import FrameSize

FRAME = FrameSize(width=8, height=4, channels=3)
CLASSES = ["run", "jump", "[b]走る[/b]"]
# split: (label or labels, group, frames, frames/s) of each clip.
CLIPS = {
    "train": [(0, "g1", 10, 5.0), (0, "g1", 20, 10.0), (0, "g2", 3, 0.0), (1, "g3", 4, 2.0), (2, "", 5, 0.0)],
    "val": [(0, "g4", 7, 7.0), (1, "g3", 8, 4.0)],
    "test": [(1, "g2", 1, 0.0), (1, "g3", 2, 1.0), (0, "g5", 9, 9.0)],
}


def make(path, clips=CLIPS, task="single_label") -> Path:
    """Writes a data set with up to three clips in a shard."""
    place = Location.of(path)
    place.mkdir()
    splits = {}
    for name, rows in clips.items():
        made = [
            Clip(
                f"{name}/{index}.avi",
                label if isinstance(label, tuple) else (label,),
                group,
                fps,
                np.full((num_frames, *FRAME.shape), 40 * index, np.uint8),
            )
            for index, (label, group, num_frames, fps) in enumerate(rows)
        ]
        splits[name] = [
            write_shard(place / f"{name}-{start // 3:05}.arrow", made[start : start + 3])
            for start in range(0, len(made), 3)
        ]
    write_dataset_json(
        place,
        classes=CLASSES,
        task=task,
        frame=FRAME,
        sampling={"fps": None, "every": 2, "fit": "crop"},
        mean=[1.0, 2.0, 3.5],
        std=[4.0, 5.0, 6.0],
        splits=splits,
        options={},
    )
    return path


def text(renderable) -> str:
    """The text of a renderable in a wide terminal."""
    console = Console(width=200, soft_wrap=True, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_the_numbers_agree_with_the_clips(tmp_path):
    path = make(tmp_path / "shards")
    result = inspect_shards(path)
    sizes = {name: sum(file.stat().st_size for file in path.glob(f"{name}-*.arrow")) for name in CLIPS}
    assert result["splits"] == {
        "train": {
            "num_clips": 5,
            "num_frames": 42,
            "num_bytes": sizes["train"],
            "num_groups": 3,
            "video_s": 2 + 2 + 2,
            "num_clips_without_fps": 2,
            "min_frames": 3,
            "median_frames": 5,
            "max_frames": 20,
        },
        "val": {
            "num_clips": 2,
            "num_frames": 15,
            "num_bytes": sizes["val"],
            "num_groups": 2,
            "video_s": 1 + 2,
            "num_clips_without_fps": 0,
            "min_frames": 7,
            "median_frames": 7.5,
            "max_frames": 8,
        },
        "test": {
            "num_clips": 3,
            "num_frames": 12,
            "num_bytes": sizes["test"],
            "num_groups": 3,
            "video_s": 2 + 1,
            "num_clips_without_fps": 1,
            "min_frames": 1,
            "median_frames": 2,
            "max_frames": 9,
        },
    }
    totals = ("num_clips", "num_frames", "num_bytes", "num_groups", "video_s", "num_clips_without_fps")
    assert [result[name] for name in totals] == [10, 69, sum(sizes.values()), 5, 12, 3]
    assert result["by_class"]["run"] == {
        "train": {"num_clips": 3, "num_groups": 2},
        "val": {"num_clips": 1, "num_groups": 1},
        "test": {"num_clips": 1, "num_groups": 1},
    }
    assert result["by_class"][CLASSES[2]]["train"] == {"num_clips": 1, "num_groups": 0}
    assert (result["frame"], result["task"]) == ({"width": 8, "height": 4, "channels": 3}, "single_label")
    assert (result["mean"], result["std"], result["classes"]) == ([1.0, 2.0, 3.5], [4.0, 5.0, 6.0], CLASSES)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_groups_in_several_splits_are_counted_and_named(tmp_path):
    result = inspect_shards(make(tmp_path / "shards"))
    assert result["leaked_groups"] == {"g2": ["train", "test"], "g3": ["train", "val", "test"]}
    assert "leak: 2 groups are in several splits: g2 (train, test), g3 (train, val, test)\n" in text(
        inspection_summary(result)
    )


def test_without_groups_no_groups_are_mentioned(tmp_path):
    clips = {name: [(label, "", *rest) for label, _, *rest in rows] for name, rows in CLIPS.items()}
    result = inspect_shards(make(tmp_path / "shards", clips))
    assert (result["num_groups"], result["leaked_groups"]) == (0, {})
    assert "leak" not in text(inspection_summary(result))
    assert "(groups)" not in text(inspection_summary(result))


@pytest.mark.parametrize(
    ("clips", "task", "chance", "majority"),
    [
        pytest.param(CLIPS, "single_label", 1 / 3, ("jump", 2 / 3), id="one label"),
        pytest.param(
            {"train": CLIPS["train"], "test": [((0, 1), "", 2, 0.0), ((1,), "", 2, 0.0)]},
            "multi_label",
            (1 / 2 + 1) / 2,
            (None, None),
            id="several labels",
        ),
        pytest.param({"train": CLIPS["train"], "test": []}, "single_label", None, (None, None), id="empty test"),
        pytest.param({"train": CLIPS["train"]}, "single_label", None, (None, None), id="no test"),
    ],
)
def test_chance_and_majority_class_are_those_of_the_test_split(tmp_path, clips, task, chance, majority):
    result = inspect_shards(make(tmp_path / "shards", clips, task))
    assert result["chance"] == (chance and pytest.approx(chance))
    assert (result["majority_class"], result["majority_share"]) == majority
    assert ("chance on test" in text(inspection_summary(result))) == (chance is not None)


def test_rejected_clips_are_counted_by_reason_and_the_first_are_named(tmp_path):
    path = make(tmp_path / "shards")
    rows = [f'"new\nline, {i}.avi",truncated' for i in range(6)]
    (path / "rejected.csv").write_bytes(
        "\n".join(["path,reason", *rows, "b.avi,unreadable", ""]).encode() + b"\xff,x\n"
    )
    result = inspect_shards(path)
    assert result["num_rejected"] == 8
    assert result["rejected"] == {"truncated": 6, "unreadable": 1, "x": 1}
    assert result["rejected_clips"] == [{"path": f"new\nline, {i}.avi", "reason": "truncated"} for i in range(5)]
    assert "8 clips rejected (6 truncated, 1 unreadable, 1 x); the first" in text(inspection_summary(result))


def test_further_columns_of_rejected_csv_are_ignored(tmp_path):
    path = make(tmp_path / "shards")
    (path / "rejected.csv").write_text("path,reason,codec\na.avi,truncated,h264\n")
    assert inspect_shards(path)["rejected"] == {"truncated": 1}


def test_a_damaged_list_of_rejected_clips_is_named_in_the_error(tmp_path):
    path = make(tmp_path / "shards")
    (path / "rejected.csv").write_text("path,reason\nonly a path\n")
    with pytest.raises(UserError, match=r"rejected.csv is damaged"):
        inspect_shards(path)


def test_the_summary_has_the_most_important_numbers(tmp_path):
    result = inspect_shards(make(tmp_path / "shards"))
    shown = text(inspection_summary(result))
    for wanted in (
        "3 classes, single_label",
        "frames 8 x 4, RGB, fit: crop; sampling: every=2; codec: raw",
        "mean 1.0 2.0 3.5, standard deviation 4.0 5.0 6.0",
        "3 clips have no frame rate",
        "chance on test: 33.3%; always predicting 'jump': 66.7%",
        CLASSES[2],
        f"contact sheet: {tmp_path / 'shards' / 'contact-sheet.png'}",
    ):
        assert wanted in shown
    cells = [line.split() for line in shown.splitlines()]
    assert ["train", "5", "3", "42", "3", "5", "20", "0.1", "min", "0.0"] in cells
    assert ["all", "10", "5", "69", "0.2", "min", "0.0"] in cells
    assert ["run", "3", "(2)", "1", "(1)", "1", "(1)"] in cells
    assert [CLASSES[2], "1", "0", "0"] in cells


def test_long_video_times_are_in_hours(tmp_path):
    result = inspect_shards(make(tmp_path / "shards", {"train": [(0, "", 18, 0.001)] * 2, "val": [], "test": []}))
    assert result["video_s"] == pytest.approx(36_000)
    assert "10.0 h" in text(inspection_summary(result))


def test_the_sheet_shows_train_and_is_written_to_the_given_path(tmp_path):
    path = make(tmp_path / "shards")
    result = inspect_shards(path, tmp_path / "other.png")
    assert result["sheet"] == str(tmp_path / "other.png")
    assert not (path / "contact-sheet.png").exists()
    sheet = cv2.imread(result["sheet"])
    # A frame is drawn on 128 x 64 pixels; only the fifth clip of train has the grey value 160.
    assert (sheet == 160).all(axis=2).sum() >= 4 * 128 * 64


def test_the_sheet_is_written_to_the_working_directory_if_shards_are_read_only(tmp_path, monkeypatch):
    path, here = make(tmp_path / "shards"), tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    # Root can write despite permissions.
    monkeypatch.setattr(os, "access", lambda place, mode: (os.fspath(place), mode) != (str(path), os.W_OK))
    assert inspect_shards(path)["sheet"] == "contact-sheet.png"
    assert [file.name for file in here.iterdir()] == ["contact-sheet.png"]
    assert not (path / "contact-sheet.png").exists()


def test_remote_shards_are_inspected_and_verified_like_local_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("TTRNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    place = make("mock://inspected/shards")
    result = inspect_shards(place)
    assert (result["num_clips"], result["sheet"]) == (10, "contact-sheet.png")
    assert (tmp_path / "contact-sheet.png").exists()
    assert verify_shards(place)["damaged"] == []
    (Location.of(place) / "train-00001.arrow").write_text("no shard")
    assert verify_shards(place)["damaged"] == ["train-00001.arrow"]
    Location.of(place).clear()


def change_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def make_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGE = {
    "a byte changed": change_a_byte,
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "grown": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "empty": lambda file: file.write_bytes(b""),
    "missing": Path.unlink,
    "a directory": make_directory,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_verify_finds_damaged_shards_and_checks_all_others(tmp_path, damage):
    path = make(tmp_path / "shards")
    damage(path / "train-00000.arrow")
    change_a_byte(path / "test-00000.arrow")
    result = verify_shards(path)
    assert result["damaged"] == ["train-00000.arrow", "test-00000.arrow"]
    assert (result["num_shards"], result["exit_code"]) == (4, 2)
    assert "missing or damaged, 2 of 4 shards" in verify_summary(result)
    assert "train-00000.arrow, test-00000.arrow" in verify_summary(result)


def test_verify_accepts_intact_shards(tmp_path):
    path = make(tmp_path / "shards")
    result = verify_shards(path)
    num_bytes = sum(file.stat().st_size for file in path.glob("*.arrow"))
    assert result == {"shards": str(path), "num_shards": 4, "num_bytes": num_bytes, "damaged": [], "exit_code": 0}
    assert verify_summary(result).endswith("all intact")


@pytest.mark.parametrize("step", [inspect_shards, verify_shards])
def test_a_directory_without_a_data_set_is_refused(tmp_path, step):
    path = make(tmp_path / "shards")
    (path / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"has no dataset.json"):
        step(path)
    shutil.rmtree(path)
    with pytest.raises(UserError, match=r"is no directory"):
        step(path)


def test_a_data_set_without_splits_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no splits: there is nothing to inspect"):
        inspect_shards(make(tmp_path / "shards", clips={}))

"""pipelines/shards.py: what is written comes back, and what is damaged is refused by name."""

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.cli import UserError
from pipelines.shards import Clip, Frame, ShardDataset, write_dataset_json, write_shard

FRAME = Frame(width=7, height=5, channels=3)


def make_clips(number: int, seed: int = 0) -> list[Clip]:
    rng = np.random.default_rng(seed)
    return [
        Clip(
            f"a/{i}.avi",
            tuple(range(i % 3)),
            f"g{i % 2}",
            12.5 + i,
            rng.integers(0, 256, (1 + 3 * i % 5, *FRAME.shape), dtype=np.uint8),
        )
        for i in range(number)
    ]


def make_dataset(path: Path, clips: dict[str, list[list[Clip]]]) -> Path:
    path.mkdir(exist_ok=True)
    splits = {
        name: [write_shard(path / f"{name}-{index:05}.arrow", shard) for index, shard in enumerate(shards)]
        for name, shards in clips.items()
    }
    write_dataset_json(
        path,
        classes=["x", "y", "z"],
        task="multi_label",
        frame=FRAME,
        sampling={"fps": None},
        mean=[1.5, 2.0, 3.0],
        std=[4.0, 5.0, 6.5],
        splits=splits,
        options={"seed": 0},
    )
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "shards", {"train": [make_clips(3), make_clips(4, seed=1)], "val": [make_clips(2)]})


def assert_same(got: Clip, wanted: Clip) -> None:
    assert (got.clip_id, got.labels, got.group, got.fps) == (wanted.clip_id, wanted.labels, wanted.group, wanted.fps)
    np.testing.assert_array_equal(got.frames, wanted.frames)


def test_clips_come_back_in_order_across_shards(dataset: Path) -> None:
    split = ShardDataset.open(dataset).split("train")
    wanted = [*make_clips(3), *make_clips(4, seed=1)]
    assert len(split) == 7
    for got, clip in zip(split, wanted, strict=True):
        assert_same(got, clip)
    assert split.clip_ids == [clip.clip_id for clip in wanted]
    assert split.labels == [clip.labels for clip in wanted]
    assert split.groups == [clip.group for clip in wanted]
    assert split.lengths.dtype == np.int32
    assert split.lengths.tolist() == [len(clip.frames) for clip in wanted]


def test_dataset_json_says_what_was_written(dataset: Path) -> None:
    data = ShardDataset.open(dataset)
    assert (data.classes, data.task, data.frame) == (("x", "y", "z"), "multi_label", FRAME)
    assert (data.mean, data.std, data.sampling) == ((1.5, 2.0, 3.0), (4.0, 5.0, 6.5), {"fps": None})
    assert data.splits["train"]["num_clips"] == 7
    assert data.splits["train"]["num_frames"] == int(data.split("train").lengths.sum())
    data.verify()


def test_frames_are_views_of_the_file_which_no_writing_reaches(dataset: Path) -> None:
    before_bytes = [file.read_bytes() for file in sorted(dataset.glob("*.arrow"))]
    split = ShardDataset.open(dataset).split("train")
    before = pa.total_allocated_bytes()
    frames = split[1].frames
    assert pa.total_allocated_bytes() == before
    assert not frames.flags.owndata
    frames[0] = 255 - frames[0]
    assert [file.read_bytes() for file in sorted(dataset.glob("*.arrow"))] == before_bytes


def test_a_split_pickles_small_and_opens_anew(dataset: Path) -> None:
    split = ShardDataset.open(dataset).split("train")
    data = pickle.dumps(split)
    assert len(data) < split.lengths.sum() * FRAME.size
    for got, wanted in zip(pickle.loads(data), split, strict=True):
        assert_same(got, wanted)


def test_many_threads_may_read(dataset: Path) -> None:
    split = ShardDataset.open(dataset).split("train")
    wanted = [int(clip.frames.sum()) for clip in split]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: int(split[i % 7].frames.sum()), range(700)))
    assert got == wanted * 100


def test_plain_pyarrow_reads_a_shard(dataset: Path) -> None:
    table = pa.ipc.open_file(str(dataset / "train-00001.arrow")).read_all()
    names = ["clip_id", "labels", "group", "num_frames", "fps", "frames"]
    assert [(field.name, str(field.type)) for field in table.schema] == list(
        zip(names, ["string", "list<item: int32>", "string", "int32", "float", "large_binary"], strict=True)
    )
    row, clip = table.to_pylist()[2], make_clips(4, seed=1)[2]
    assert row["labels"] == list(clip.labels)
    frames = np.frombuffer(row["frames"], np.uint8).reshape(row["num_frames"], *FRAME.shape)
    np.testing.assert_array_equal(frames, clip.frames)


def test_the_same_clips_give_the_same_bytes(tmp_path: Path) -> None:
    shards = [write_shard(tmp_path / name, make_clips(3)) for name in ("a", "b")]
    assert shards[0]["sha256"] == shards[1]["sha256"]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert shards[0]["num_bytes"] == (tmp_path / "a").stat().st_size


def test_a_shard_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def clips() -> Iterator[Clip]:
        yield make_clips(1)[0]
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_shard(tmp_path / "train-00000.arrow", clips())
    assert list(tmp_path.iterdir()) == []


def edit(path: Path, **changes: Any) -> None:
    document = json.loads((path / "dataset.json").read_text()) | changes
    (path / "dataset.json").write_text(json.dumps(document))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            lambda path: (path / "dataset.json").unlink(),
            r"shards has no dataset.json: it is unfinished",
            id="unfinished",
        ),
        pytest.param(lambda path: path.rename(path.with_name("other")), r"shards is no directory", id="no directory"),
        pytest.param(
            lambda path: cut(path / "dataset.json"), r"dataset.json is damaged", id="dataset.json cut in half"
        ),
        pytest.param(
            lambda path: (path / "dataset.json").write_text("[]"), r"dataset.json is damaged", id="other JSON"
        ),
        pytest.param(lambda path: edit(path, version=2), r"version 2, this program reads .* version 1", id="version"),
        pytest.param(lambda path: edit(path, frame={}), r"dataset.json is damaged", id="a value is missing"),
        pytest.param(
            lambda path: cut(path / "train-00001.arrow"),
            r"train-00001.arrow is damaged: it has [\d,]+ bytes instead of [\d,]+",
            id="shard cut in half",
        ),
        pytest.param(
            lambda path: (path / "val-00000.arrow").unlink(), r"val-00000.arrow is missing", id="missing shard"
        ),
    ],
)
def test_what_is_not_whole_is_refused_in_one_line_that_names_it(dataset: Path, damage: Any, message: str) -> None:
    damage(dataset)
    with pytest.raises(UserError, match=message) as error:
        ShardDataset.open(dataset)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("position", "tells"), [(-3, "split"), (400, "verify")], ids=["footer", "in a clip"])
def test_a_changed_byte_is_found_by_verify(dataset: Path, position: int, tells: str) -> None:
    file = dataset / "train-00000.arrow"
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)
    data = ShardDataset.open(dataset)
    with pytest.raises(UserError, match=r"train-00000.arrow is damaged"):
        data.verify()
    if tells == "split":
        with pytest.raises(UserError, match=r"train-00000.arrow is damaged"):
            data.split("train")


def test_an_unknown_split_is_refused_with_those_there_are(dataset: Path) -> None:
    with pytest.raises(UserError, match=r"no split 'test'; it has train, val"):
        ShardDataset.open(dataset).split("test")


def test_reading_loads_neither_torch_nor_ray_nor_cv2() -> None:
    code = "import sys, pipelines.shards; print([m for m in ('torch', 'ray', 'cv2') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

"""Shards: clips are read as they were written, and damaged files are refused by name."""

import hashlib
import json
import mmap
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.core.errors import StepError, UserError
from pipelines.data.dataset import ShardDataset, Split
from pipelines.data.shards import Clip, shard_schema, write_dataset_json, write_shard
from pipelines.storage.cache import Remote, open_cached
from pipelines.storage.location import Location
from pipelines.video.frame import FrameSize
from tests.s3 import s3_server, upload

FRAME = FrameSize(width=7, height=5, channels=3)


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


def test_clips_are_read_in_order_across_shards(dataset: Path) -> None:
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


def test_dataset_json_describes_what_was_written(dataset: Path) -> None:
    data = ShardDataset.open(dataset)
    assert (data.classes, data.task, data.frame) == (("x", "y", "z"), "multi_label", FRAME)
    assert (data.mean, data.std, data.sampling) == ((1.5, 2.0, 3.0), (4.0, 5.0, 6.5), {"fps": None})
    assert data.splits["train"]["num_clips"] == 7
    assert data.splits["train"]["num_frames"] == int(data.split("train").lengths.sum())
    data.verify()


def test_frames_are_views_of_the_file_and_writing_to_them_does_not_change_it(dataset: Path) -> None:
    before_bytes = [file.read_bytes() for file in sorted(dataset.glob("*.arrow"))]
    split = ShardDataset.open(dataset).split("train")
    before = pa.total_allocated_bytes()
    frames = split[1].frames
    assert pa.total_allocated_bytes() == before
    assert not frames.flags.owndata
    frames[0] = 255 - frames[0]
    assert [file.read_bytes() for file in sorted(dataset.glob("*.arrow"))] == before_bytes


def test_a_pickled_split_is_small_and_opens_its_files_again(dataset: Path) -> None:
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


@pytest.mark.parametrize("number", [0, 1, 5])
def test_the_hash_taken_while_writing_is_that_of_the_file(tmp_path: Path, number: int) -> None:
    shard = write_shard(tmp_path / "a", make_clips(number))
    content = (tmp_path / "a").read_bytes()
    assert (shard["sha256"], shard["num_bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
    assert shard["num_clips"] == number


def test_splits_without_shards_and_shards_without_clips_are_empty(tmp_path: Path) -> None:
    data = ShardDataset.open(
        make_dataset(tmp_path / "shards", {"train": [[], make_clips(2), []], "val": [[]], "test": []})
    )
    assert data.split("train").clip_ids == [clip.clip_id for clip in make_clips(2)]
    for name in ("val", "test"):
        split = data.split(name)
        assert (len(split), list(split), split.lengths.tolist(), split.lengths.dtype) == (0, [], [], np.int32)
        split.prefetch([])
        split.release([])
    data.verify()


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
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
        pytest.param(
            lambda path: (path / "dataset.json").write_bytes(b'{"format": "\xff"}'),
            r"dataset.json is damaged \('utf-8' codec can't decode byte 0xff",
            id="not UTF-8",
        ),
        pytest.param(
            lambda path: (path / "dataset.json").rename(path / "d") and (path / "dataset.json").mkdir(),
            r"dataset.json can't be read: Is a directory",
            id="a directory",
        ),
        pytest.param(lambda path: edit(path, version=3), r"version 3, this program reads .* 1 and 2", id="version"),
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
def test_an_incomplete_data_set_is_refused_in_one_line_that_names_the_file(
    dataset: Path, damage: Any, message: str
) -> None:
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


def test_reading_a_shard_with_any_changed_byte_does_not_crash(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard", make_clips(1))
    content, refusals = (tmp_path / "shard").read_bytes(), []
    for position in range(len(content)):
        # A new file: the last one is still mapped.
        file = tmp_path / f"{position}.arrow"
        file.write_bytes(content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :])
        try:
            assert [clip.frames.max() > 0 for clip in Split([file], FRAME)] == [True]
        except UserError as error:
            refusals.append(str(error).removeprefix(str(file)))
        file.unlink()
    assert len(refusals) > 100
    assert all(message.startswith(" is damaged (") and "\n" not in message for message in refusals)


def other_columns(file: Path) -> None:
    table = pa.ipc.open_file(str(file)).read_all().drop_columns(["fps"])
    file.unlink()
    with pa.ipc.new_file(str(file), table.schema) as writer:
        writer.write_table(table)


def several_clips_in_a_batch(file: Path) -> None:
    table = pa.ipc.open_file(str(file)).read_all().combine_chunks()
    file.unlink()
    with pa.ipc.new_file(str(file), shard_schema("raw")) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            lambda file: write_shard(file, [Clip("a", (0,), "", 1.0, np.zeros((2, 5, 7, 1), np.uint8))]),
            r"is damaged \(a clip has 70 bytes instead of 210\); delete it and run preprocess --resume",
            id="frames of another size",
        ),
        pytest.param(
            other_columns, r"is damaged \(its columns are clip_id, labels, group, num_frames, frames", id="columns"
        ),
        pytest.param(several_clips_in_a_batch, r"is damaged", id="several clips in a batch"),
        pytest.param(lambda file: file.write_bytes(b""), r"is damaged \(cannot mmap an empty file\)", id="empty"),
        pytest.param(lambda file: file.write_text("no shard" * 99), r"is damaged \(Not an Arrow file\)", id="text"),
        pytest.param(cut, r"is damaged \(Not an Arrow file\)", id="cut in half"),
        pytest.param(lambda file: file.unlink(), r"can't be read: No such file or directory", id="gone"),
        pytest.param(lambda file: file.unlink() or file.mkdir(), r"can't be read: Is a directory", id="a directory"),
    ],
)
def test_a_file_that_is_not_a_shard_is_refused_in_one_line(tmp_path: Path, damage: Any, message: str) -> None:
    file = tmp_path / "train-00000.arrow"
    write_shard(file, make_clips(3))
    damage(file)
    with pytest.raises(UserError, match=f"train-00000.arrow {message}") as error:
        Split([file], FRAME)
    assert "\n" not in str(error.value)


# Pages have 4096 bytes or more: clips smaller than a page, of some pages, and of many.
SIZES = {"tiny": (FrameSize(3, 2, 1), 50), "pages": (FrameSize(80, 60, 1), 20), "large": (FrameSize(160, 120, 3), 20)}


@pytest.mark.parametrize(("frame", "length"), SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("indices", [[0], [9], [4, 5], [9, 0, 3, 3], range(10), []], ids=str)
def test_prefetching_and_releasing_does_not_change_clips(
    tmp_path: Path, frame: FrameSize, length: int, indices: list[int]
) -> None:
    rng = np.random.default_rng(0)
    clips = [
        Clip(str(i), (0,), "", 1.0, rng.integers(0, 256, (1 + i % length, *frame.shape), np.uint8)) for i in range(10)
    ]
    files = [tmp_path / "0", tmp_path / "1"]
    write_shard(files[0], clips[:5])
    write_shard(files[1], clips[5:])
    split = Split(files, frame)
    before = [clip.frames for clip in split]
    for step in (split.prefetch, split.release, split.release, split.prefetch):
        step(indices)
        for clip, frames, wanted in zip(split, before, clips, strict=True):
            np.testing.assert_array_equal(frames, wanted.frames)
            assert_same(clip, wanted)


def resident(file: Path) -> dict[str, int]:
    """Resident bytes of a mapped file: all, and those that were written to."""
    sizes, ours = {"Rss": 0, "Anonymous": 0}, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            ours = line.endswith(f" {file}")
        elif ours and name[:-1] in sizes:
            sizes[name[:-1]] += 1024 * int(rest[0])
    return sizes


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="resident memory is known on Linux only")
def test_released_clips_leave_the_resident_memory(tmp_path: Path) -> None:
    frame, page = FrameSize(160, 120, 3), mmap.PAGESIZE
    clips = [Clip(str(i), (0,), "", 1.0, np.full((20, *frame.shape), i, np.uint8)) for i in range(4)]
    write_shard(tmp_path / "shard", clips)
    split, clip_bytes = Split([tmp_path / "shard"], frame), 20 * frame.size
    split.prefetch([0, 1, 2, 3])
    split[1].frames[:] = 77
    assert resident(tmp_path / "shard")["Rss"] >= 4 * (clip_bytes - page)
    assert resident(tmp_path / "shard")["Anonymous"] >= clip_bytes
    split.release([1, 2])
    # The pages at both ends are shared with neighbouring clips.
    assert resident(tmp_path / "shard")["Anonymous"] <= 2 * page
    assert resident(tmp_path / "shard")["Rss"] <= 2 * clip_bytes + 20 * page
    split.release(range(4))
    assert resident(tmp_path / "shard")["Rss"] <= 20 * page
    np.testing.assert_array_equal(split[2].frames, clips[2].frames)


def test_unpickling_a_split_whose_file_is_missing_is_an_error(dataset: Path) -> None:
    data = pickle.dumps(ShardDataset.open(dataset).split("val"))
    (dataset / "val-00000.arrow").unlink()
    with pytest.raises(UserError, match=r"val-00000.arrow can't be read: No such file"):
        pickle.loads(data)


@pytest.fixture(scope="module")
def query() -> Iterator[str]:
    with s3_server() as query:
        yield query


@pytest.fixture
def remote(query: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Location:
    """The same data set in a bucket, and an empty cache."""
    monkeypatch.setenv("TTRNN_CACHE", str(tmp_path / "cache"))
    return upload(dataset, Location.of(f"s3://lab/{tmp_path.name}/shards?{query}"))


def test_remote_shards_are_those_that_were_uploaded(remote: Location, dataset: Path, tmp_path: Path) -> None:
    remote_data, local_data = ShardDataset.open(remote), ShardDataset.open(str(dataset))
    assert (remote_data.splits, remote_data.mean, remote_data.frame) == (
        local_data.splits,
        local_data.mean,
        local_data.frame,
    )
    remote_data.verify()
    assert not (tmp_path / "cache").exists()
    for name in local_data.splits:
        for got, wanted in zip(remote_data.split(name), local_data.split(name), strict=True):
            assert_same(got, wanted)
    cached = {file.stem for file in (tmp_path / "cache").glob("*.arrow")}
    assert cached == {shard["sha256"] for split in local_data.splits.values() for shard in split["shards"]}


def test_remote_shards_are_read_from_the_cache_the_second_time(remote: Location) -> None:
    data = ShardDataset.open(remote)
    wanted = list(data.split("train"))
    for shard in data.splits["train"]["shards"]:
        (remote / shard["file"]).write_text("lost")
    for got, clip in zip(data.split("train"), wanted, strict=True):
        assert_same(got, clip)


def test_shards_deleted_from_the_cache_stay_readable_for_an_open_split(
    remote: Location, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = ShardDataset.open(remote)
    sizes = {name: sum(shard["num_bytes"] for shard in split["shards"]) for name, split in data.splits.items()}
    monkeypatch.setenv("TTRNN_CACHE_GB", str((max(sizes.values()) + 1) / 1e9))
    train = data.split("train")
    data.split("val")
    left = {file.stem for file in (tmp_path / "cache").glob("*.arrow")}
    assert not {shard["sha256"] for shard in data.splits["train"]["shards"]} <= left
    for got, wanted in zip(train, [*make_clips(3), *make_clips(4, seed=1)], strict=True):
        assert_same(got, wanted)


def test_shards_that_leave_the_cache_before_they_are_mapped_are_read_all_the_same(
    remote: Location, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def open_and_lose(files: Sequence[Remote]) -> list[IO[bytes]]:
        """As if another process made room at the worst moment."""
        opened = open_cached(files)
        for file in (tmp_path / "cache").glob("*.arrow"):
            file.unlink()
        return opened

    monkeypatch.setattr("pipelines.data.shard_reader.open_cached", open_and_lose)
    split = ShardDataset.open(remote).split("val")
    assert not list((tmp_path / "cache").glob("*.arrow"))
    # A spawned worker process opens the files again.
    for got, wanted in zip(pickle.loads(pickle.dumps(split)), split, strict=True):
        assert_same(got, wanted)


def test_shards_are_written_to_a_bucket_with_their_hash(query: str, tmp_path: Path) -> None:
    place = Location.of(f"s3://lab/{tmp_path.name}/train-00000.arrow?{query}")
    shard = write_shard(place, make_clips(3))
    assert shard == write_shard(tmp_path / "train-00000.arrow", make_clips(3))
    assert place.read_bytes() == (tmp_path / "train-00000.arrow").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"lost", r"train-00001.arrow\?.* is damaged"), (None, r"train-00001.arrow\?.* is missing; run preprocess again")],
    ids=["damaged", "missing"],
)
def test_a_damaged_remote_shard_is_refused_by_name(
    remote: Location, tmp_path: Path, content: bytes | None, message: str
) -> None:
    data, shard = ShardDataset.open(remote), remote / "train-00001.arrow"
    if content is None:
        filesystem, path = shard._remote()
        filesystem.delete_file(path)
    else:
        shard.write_text(content.decode())
    with pytest.raises(StepError, match=message) as error:
        data.split("train")
    assert "\n" not in str(error.value)
    assert dict(data.damaged()) == {"train-00000.arrow": False, "train-00001.arrow": True, "val-00000.arrow": False}
    with pytest.raises(UserError, match=r"train-00001.arrow\?.* is damaged: its SHA-256 differs"):
        data.verify()
    assert len(data.split("val")) == 2


def test_an_unfinished_or_missing_remote_directory_is_refused(query: str, remote: Location) -> None:
    with pytest.raises(UserError, match=r"s3://lab/none\?.* is no directory; make shards there"):
        ShardDataset.open(f"s3://lab/none?{query}")
    (remote / "dataset.json").write_text("{")
    with pytest.raises(UserError, match=r"dataset.json\?.* is damaged"):
        ShardDataset.open(remote)
    filesystem, path = (remote / "dataset.json")._remote()
    filesystem.delete_file(path)
    with pytest.raises(UserError, match=r"shards\?.* has no dataset.json: it is unfinished"):
        ShardDataset.open(remote)


@pytest.mark.parametrize("rows", [[5, 0, 2], []], ids=["some", "none"])
def test_a_split_of_some_rows_keeps_their_order_also_when_pickled(dataset: Path, rows: list[int]) -> None:
    files = [dataset / f"train-{number:05}.arrow" for number in (0, 1)]
    everything, some = Split(files, FRAME), Split(files, FRAME, rows)
    assert some.lengths.dtype == np.int32
    for split in (some, pickle.loads(pickle.dumps(some))):
        assert split.clip_ids == [everything.clip_ids[row] for row in rows]
        assert split.lengths.tolist() == [everything.lengths[row] for row in rows]
        for got, row in zip(split, rows, strict=True):
            assert_same(got, everything[row])


def test_all_clips_are_those_of_every_split_in_the_order_of_the_shards(dataset: Path, remote: Location) -> None:
    for place in (dataset, remote):
        clips = ShardDataset.open(place).clips()
        for got, wanted in zip(clips, [*make_clips(3), *make_clips(4, seed=1), *make_clips(2)], strict=True):
            assert_same(got, wanted)


def test_an_unknown_split_is_refused_with_a_list_of_splits(dataset: Path) -> None:
    with pytest.raises(UserError, match=r"no split 'test'; it has train, val"):
        ShardDataset.open(dataset).split("test")


def test_reading_loads_neither_torch_nor_ray_nor_cv2() -> None:
    code = "import sys, pipelines.data.dataset; print([m for m in ('torch', 'ray', 'cv2') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

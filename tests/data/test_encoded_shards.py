"""Shards of version 2: clips are read as their codec decodes them, damage is found, and version 1 did not change."""

import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipelines.core.errors import UserError
from pipelines.data.augment import Augmentation
from pipelines.data.codecs import CODECS, decode, encode
from pipelines.data.dataset import ShardDataset, Split
from pipelines.data.folds import without_val
from pipelines.data.loader import batches
from pipelines.data.shards import Clip, write_dataset_json, write_shard
from pipelines.storage.location import Location
from pipelines.video.frame import FrameSize
from tests.data.test_codecs import moving
from tests.s3 import s3_server, upload

DOCS = Path(__file__).parents[2] / "docs" / "shards.md"
ENCODED = [name for name in CODECS if name != "raw"]
FRAME = FrameSize(width=33, height=21, channels=3)


def make_clips(number: int = 6, frame: FrameSize = FRAME) -> list[Clip]:
    """Clips of 0 to 11 frames."""
    lengths = [4, 0, 11, 1, 7, 3]
    return [
        Clip(f"a/{i}.avi", (i % 2,), f"g{i}", 12.5 + i, moving((lengths[i % 6], *frame.shape), seed=i))
        for i in range(number)
    ]


def as_read(clip: Clip, codec: str) -> np.ndarray:
    return decode(codec, encode(codec, clip.frames), clip.frames.shape)


def make_dataset(path: Path, codec: str, frame: FrameSize = FRAME) -> Path:
    path.mkdir(parents=True)
    clips = make_clips(frame=frame)
    splits = {
        "train": [write_shard(path / f"train-{at:05}.arrow", clips[3 * at : 3 * at + 3], codec) for at in range(2)],
        "val": [write_shard(path / "val-00000.arrow", clips[:2], codec)],
    }
    write_dataset_json(
        path,
        classes=["x", "y"],
        task="single_label",
        frame=frame,
        sampling={},
        mean=[128.0] * frame.channels,
        std=[50.0] * frame.channels,
        splits=splits,
        options={},
        codec=codec,
    )
    return path


@pytest.fixture(params=ENCODED)
def codec(request: pytest.FixtureRequest) -> str:
    return request.param


def test_version_1_has_the_bytes_that_it_always_had(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    clips = [
        Clip(
            f"a/{i}.avi",
            tuple(range(1 + i % 2)),
            f"g{i % 2}",
            12.5 + i,
            rng.integers(0, 256, (i, 5, 7, 3), dtype=np.uint8),
        )
        for i in range(4)
    ]
    shard = write_shard(tmp_path / "a", clips, "raw")
    # By the program of before version 2, and pyarrow 26.
    assert shard["sha256"] == "2755bd0f3f424352e643f87886d964374c7498e7fe13803089e3895da3d1f80c"


def test_clips_are_read_as_their_codec_decodes_them(tmp_path: Path, codec: str) -> None:
    data = ShardDataset.open(make_dataset(tmp_path / "shards", codec))
    assert (data.codec, json.loads((tmp_path / "shards/dataset.json").read_text())["version"]) == (codec, 2)
    data.verify()
    split = data.split("train")
    assert split.is_encoded
    for number_of_times in range(2):
        for got, clip in zip(split, make_clips(), strict=True):
            assert (got.clip_id, got.labels, got.group, got.fps) == (clip.clip_id, clip.labels, clip.group, clip.fps)
            np.testing.assert_array_equal(got.frames, as_read(clip, codec))
            # As a training may do with its batches.
            got.frames[:] = number_of_times
    assert split.lengths.tolist() == [4, 0, 11, 1, 7, 3]
    assert split.num_bytes.tolist() == [encode(codec, clip.frames).size for clip in make_clips()]


def test_a_pickled_split_or_some_rows_of_it_are_read_alike(tmp_path: Path, codec: str) -> None:
    make_dataset(tmp_path / "shards", codec)
    files = [tmp_path / "shards" / f"train-{at:05}.arrow" for at in range(2)]
    for split in (Split(files, FRAME, [4, 0, 2]), pickle.loads(pickle.dumps(Split(files, FRAME, [4, 0, 2])))):
        assert split.lengths.tolist() == [7, 4, 11]
        for got, row in zip(split, [4, 0, 2], strict=True):
            np.testing.assert_array_equal(got.frames, as_read(make_clips()[row], codec))


def test_prefetching_and_releasing_does_not_change_clips(tmp_path: Path, codec: str) -> None:
    split = ShardDataset.open(make_dataset(tmp_path / "shards", codec)).split("train")
    before = [clip.frames for clip in split]
    for step in (split.prefetch, split.release, split.release, split.prefetch):
        step([0, 5, 1, 2, 2])
        for clip, frames in zip(split, before, strict=True):
            np.testing.assert_array_equal(clip.frames, frames)


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("augmentation", [None, Augmentation(flip=True, shift=2)], ids=["plain", "altered"])
def test_batches_are_those_of_raw_shards_with_the_decoded_frames(
    tmp_path: Path, codec: str, num_threads: int, augmentation: Augmentation | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    clips = [clip for clip in make_clips(12) if len(clip.frames)]
    write_shard(tmp_path / "encoded", clips, codec)
    decoded = [Clip(clip.clip_id, clip.labels, clip.group, clip.fps, as_read(clip, codec)) for clip in clips]
    write_shard(tmp_path / "raw", decoded)
    both = [
        batches(Split([tmp_path / name], FRAME), 3, 2, False, seed=1, augmentation=augmentation)
        for name in ("encoded", "raw")
    ]
    number = 0
    for one, two in zip(*both, strict=True):
        assert one.indices == two.indices
        assert all(torch.equal(a, b) for a, b in zip(one.frames, two.frames, strict=True))
        number += 1
    assert number == 4


def test_folds_take_mean_and_deviation_from_decoded_frames(tmp_path: Path, codec: str) -> None:
    data = ShardDataset.open(make_dataset(tmp_path / "shards", codec))
    folds = without_val(data)
    pixels = np.concatenate([clip.frames.reshape(-1, 3) for clip in folds.split("train")])
    np.testing.assert_allclose(folds.mean, pixels.mean(0))
    np.testing.assert_allclose(folds.std, pixels.std(0))


@pytest.fixture(scope="module")
def query() -> Iterator[str]:
    with s3_server() as query:
        yield query


def test_remote_shards_are_read_from_the_cache(
    query: str, tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTRNN_CACHE", str(tmp_path / "cache"))
    place = Location.of(f"s3://lab/{tmp_path.name}/shards?{query}")
    remote = ShardDataset.open(upload(make_dataset(tmp_path / "shards", codec), place))
    remote.verify()
    for got, clip in zip(remote.clips(), [*make_clips(), *make_clips(2)], strict=True):
        np.testing.assert_array_equal(got.frames, as_read(clip, codec))
    assert len(list((tmp_path / "cache").glob("*.arrow"))) == 3


def test_any_changed_byte_of_frames_is_refused_by_the_name_of_shard_and_clip(tmp_path: Path, codec: str) -> None:
    file = make_dataset(tmp_path / "shards", codec) / "train-00000.arrow"
    content, data = file.read_bytes(), encode(codec, make_clips()[2].frames).to_pybytes()
    start, rng = content.index(data), np.random.default_rng(0)
    for at in {0, len(data) - 1, *rng.integers(0, len(data), 30).tolist()}:
        # A new file: the last one is still mapped.
        damaged = tmp_path / f"{at}.arrow"
        damaged.write_bytes(content[: start + at] + bytes([content[start + at] ^ 0x10]) + content[start + at + 1 :])
        split = Split([damaged], FRAME)
        np.testing.assert_array_equal(split[0].frames, as_read(make_clips()[0], codec))
        with pytest.raises(UserError) as error:
            split[2]
        assert str(error.value) == (
            f"{damaged} is damaged (a/2.avi: its checksum differs); delete it and run preprocess --resume"
        )


def test_reading_a_shard_with_any_changed_byte_does_not_crash(tmp_path: Path) -> None:
    frame, frames = FrameSize(width=4, height=3, channels=1), moving((3, 3, 4, 1))
    write_shard(tmp_path / "shard", [Clip("a", (0,), "g", 1.0, frames)], "lossless")
    content, refusals = (tmp_path / "shard").read_bytes(), []
    for position in range(len(content)):
        file = tmp_path / f"{position}.arrow"
        file.write_bytes(content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :])
        try:
            np.testing.assert_array_equal(Split([file], frame)[0].frames, frames)
        except UserError as error:
            refusals.append(str(error).removeprefix(str(file)))
        file.unlink()
    assert len(refusals) > 100
    assert all(message.startswith(" is damaged (") and "\n" not in message for message in refusals)


def rewritten(file: Path, metadata: dict[str, str], **columns: Any) -> None:
    """Writes a shard again, with other metadata or columns."""
    table = pa.ipc.open_file(str(file)).read_all()
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    file.unlink()
    with pa.ipc.new_file(str(file), table.schema.with_metadata(metadata)) as writer:
        writer.write_table(table, max_chunksize=1)


@pytest.mark.parametrize(
    ("metadata", "columns", "message"),
    [
        ({"codec": "gif"}, {}, "its codec is 'gif'"),
        ({}, {}, "its columns are clip_id, labels, group, num_frames, fps, crc32, frames"),
        ({"codec": "lossless"}, {"num_frames": [-1, 0, 11]}, "a clip has -1 frames in "),
        ({"codec": "lossless"}, {"num_frames": [4, 3, 11]}, "a clip has 3 frames in 0 bytes"),
        ({"codec": "lossless"}, {"num_frames": [0, 0, 11]}, "a clip has 0 frames in "),
    ],
    ids=["another codec", "no codec", "negative length", "no bytes", "no frames"],
)
def test_a_shard_that_contradicts_itself_is_refused(
    tmp_path: Path, metadata: dict[str, str], columns: dict[str, Any], message: str
) -> None:
    file = make_dataset(tmp_path / "shards", "lossless") / "train-00000.arrow"
    rewritten(file, metadata, **columns)
    with pytest.raises(UserError, match=f"train-00000.arrow is damaged .{re.escape(message)}"):
        Split([file], FRAME)


def test_a_clip_with_another_number_of_frames_than_announced_is_refused(tmp_path: Path, codec: str) -> None:
    file = make_dataset(tmp_path / "shards", codec) / "train-00000.arrow"
    rewritten(file, {"codec": codec}, num_frames=[5, 0, 11])
    with pytest.raises(UserError, match=r"train-00000.arrow is damaged \(a/0.avi: .*delete it") as error:
        Split([file], FRAME)[0]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("codec", CODECS)
def test_the_lines_of_the_documentation_read_a_clip_without_this_project(
    codec: str, channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = FrameSize(width=33, height=21, channels=channels)
    make_dataset(tmp_path / "shards", codec, frame)
    monkeypatch.chdir(tmp_path)
    opening, *parts = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(opening + parts[list(CODECS).index(codec)], names)
    wanted = as_read(make_clips(frame=frame)[0], codec).astype(int)
    assert names["frames"].shape == wanted.shape
    assert np.abs(names["frames"] - wanted).max() <= (4 if codec == "h264" and channels == 3 else 0)


def test_raw_clips_without_frames_are_read(tmp_path: Path) -> None:
    split = ShardDataset.open(make_dataset(tmp_path / "shards", "raw")).split("train")
    assert not split.is_encoded
    for got, clip in zip(split, make_clips(), strict=True):
        np.testing.assert_array_equal(got.frames, clip.frames)
    split.prefetch([1])
    split.release([1])

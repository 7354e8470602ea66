"""Arrays and folders of pictures through preprocess and predict: the same frames as in the files, the same scores."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ttrnn
from pipelines import predict
from pipelines.core.errors import UserError
from pipelines.data.clip import ClipRecord
from pipelines.data.dataset import ShardDataset
from pipelines.data.options import PreprocessOptions
from pipelines.data.plan import Shard
from pipelines.data.shard_jobs import SMALL_BYTES, _is_small
from pipelines.preprocess import preprocess
from tests.data.test_id_lists import gesture
from tests.pictures import write_pictures
from tests.trees import write
from ttrnn.model import ModelConfig, VideoClassifier

RANDOM = np.random.default_rng(0)


def float_arrays(root: Path, shape: tuple[int, ...] = (10, 8, 8)) -> dict[str, np.ndarray]:
    """CLASS/N.npy with temperatures, by clip_id."""
    found = {f"{label}/{i}.npy": RANDOM.uniform(20, 40, shape).astype("f4") for label in "ab" for i in range(9)}
    for name, array in found.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / name, array)
    return found


def as_uint8(array: np.ndarray) -> np.ndarray:
    return np.rint(np.clip((array.astype(float) - 20) * 255 / 20, 0, 255)).astype(np.uint8)


def make(videos: Path, out: Path, **others: Any) -> ShardDataset:
    preprocess(PreprocessOptions(videos=str(videos), out=str(out), **others))
    return ShardDataset.open(out)


def rejected(out: Path) -> dict[str, str]:
    with (out / "rejected.csv").open(newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def test_arrays_become_shards_of_their_own_size(tmp_path: Path) -> None:
    clips = float_arrays(tmp_path / "clips")
    np.save(tmp_path / "clips" / "a" / "bad.npy", np.zeros((3, 2)))
    out = tmp_path / "shards"
    data = make(tmp_path / "clips", out, value_range="20:40")
    assert data.frame.shape == (8, 8, 1)
    assert data.sampling["value_range"] == "20:40"
    assert rejected(out) == {"a/bad.npy": "wrong_shape"}
    for clip in data.clips():
        np.testing.assert_array_equal(clip.frames[..., 0], as_uint8(clips.pop(clip.clip_id)))
    assert not clips
    # New clips are of the same size; another range would change the old ones.
    np.save(tmp_path / "clips" / "a" / "more.npy", np.full((4, 8, 8), 30.0))
    assert len(make(tmp_path / "clips", out, value_range="20:40", resume=True).clips()) == 19
    with pytest.raises(UserError, match="was started with value_range=20:40, not 20:41"):
        make(tmp_path / "clips", out, value_range="20:41", resume=True)
    np.save(tmp_path / "clips" / "a" / "large.npy", np.full((4, 9, 9), 30.0))
    with pytest.raises(UserError, match="the clips differ in width x height x channels"):
        make(tmp_path / "clips", out, value_range="20:40", resume=True)


def test_without_a_range_the_message_names_it(tmp_path: Path) -> None:
    float_arrays(tmp_path / "clips")
    with pytest.raises(UserError, match=r"all 18 clips were rejected.*18 no_range: .*--value-range=LOW:HIGH") as error:
        make(tmp_path / "clips", tmp_path / "shards")
    assert "\n" not in str(error.value)


def test_jester_as_it_is_downloaded_becomes_shards(tmp_path: Path) -> None:
    parts = {"train": range(12), "validation": range(12, 18)}
    clips = {}
    for split, numbers in parts.items():
        write(tmp_path / f"jester-v1-{split}.csv", *(f"{i};{gesture(i)}" for i in numbers))
        for i in numbers:
            # A picture a name; of another size than the next clip's.
            clips[f"20bn-jester-v1/{i}"] = np.full((12, 20, 30 + i, 3), 10 * i, np.uint8)
            write_pictures(tmp_path / "20bn-jester-v1" / str(i), clips[f"20bn-jester-v1/{i}"], "{:05}.jpg")
    (tmp_path / "20bn-jester-v1" / "3" / "00005.jpg").write_bytes(b"")
    data = make(tmp_path, tmp_path / "shards", width=24, height=16, fps=6.0)
    assert rejected(tmp_path / "shards") == {"20bn-jester-v1/3": "bad_picture"}
    assert data.sampling["picture_fps"] == 12
    assert len(data.clips()) == 17
    for clip in data.clips():
        assert clip.frames.shape == (6, 16, 24, 3)
        assert np.abs(clip.frames.astype(int) - clips[clip.clip_id][0, 0, 0, 0]).max() <= 2
        assert clip.fps == 6


def test_the_size_of_a_folder_counts_when_small_jobs_are_told_from_large_ones(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "clip", np.zeros((2, 8, 8), np.uint8))
    clip = ClipRecord(clip_id="clip", path=str(folder), labels=(0,), group="", split="train")
    assert _is_small([Shard("train-00000.arrow", "train", (clip,))])
    with (folder / "3.png").open("wb") as file:
        file.truncate(int(SMALL_BYTES))
    assert not _is_small([Shard("train-00000.arrow", "train", (clip,))])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes 8 x 8 temperatures from 20 to 40 degrees."""
    torch.manual_seed(0)
    size: dict[str, Any] = {"width": 8, "height": 8, "channels": 1, "hidden_modes": "2x2", "in_modes": "8x8"}
    config = ModelConfig(**size, classes=("a", "b"), sampling={"value_range": "20:40"})
    path = tmp_path_factory.mktemp("model") / "model"
    ttrnn.save(VideoClassifier(config), path, {"metric": "accuracy", "val_metric": 0.5, "num_val_clips": 8})
    return path


def run(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, dict[str, Any], str]:
    code = predict.main([*map(str, words), "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else {}, captured.err


def test_predict_takes_arrays_by_name_and_by_folder(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = float_arrays(tmp_path)
    network = ttrnn.load(model)
    _, by_folder, _ = run(capsys, model, tmp_path)
    _, by_name, _ = run(capsys, model, *(tmp_path / name for name in sorted(clips)))
    assert by_folder == by_name
    for name, video in zip(sorted(clips), by_folder["videos"], strict=True):
        scores = network.predict(as_uint8(clips[name])[..., None]).tolist()
        assert video["path"] == str(tmp_path / name)
        assert list(video["probabilities"].values()) == pytest.approx(scores, abs=1e-6)


def test_predict_takes_a_folder_of_pictures_as_one_clip(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = RANDOM.integers(0, 256, (10, 8, 8), np.uint8)
    for name in ("x", "y"):
        write_pictures(tmp_path / name, frames)
    scores = ttrnn.load(model).predict(frames[..., None]).tolist()
    _, one, _ = run(capsys, model, tmp_path / "x")
    _, two, _ = run(capsys, model, tmp_path)
    assert [video["path"] for video in two["videos"]] == [str(tmp_path / "x"), str(tmp_path / "y")]
    for video in (*one["videos"], *two["videos"]):
        assert video["num_frames"] == 10
        assert list(video["probabilities"].values()) == pytest.approx(scores, abs=1e-6)
    write_pictures(tmp_path, frames[:1])
    code, _, err = run(capsys, model, tmp_path)
    assert code == 2
    assert "holds pictures, and x in it too" in err


@pytest.mark.parametrize("words", [["--window", "4", "--hop", "3"], ["--stream"]], ids=" ".join)
def test_windows_and_streams_of_arrays_and_pictures_agree(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    frames = RANDOM.integers(0, 256, (10, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", frames=frames)
    write_pictures(tmp_path / "b", frames)
    _, result, _ = run(capsys, model, tmp_path / "a.npz", tmp_path / "b", *words)
    first, second = ({**video, "path": ""} for video in result["videos"])
    assert first == second
    if "--window" in words:
        spans = [(part["start_frame"], part["end_frame"], part["start_s"]) for part in first["segments"]]
        assert spans == [(0, 4, None), (3, 7, None), (6, 10, None)]


def test_windows_in_seconds_need_a_rate(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = RANDOM.integers(0, 256, (10, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", frames=frames, fps=5)
    np.savez(tmp_path / "b.npz", frames=frames)
    code, result, _ = run(capsys, model, tmp_path / "a.npz", tmp_path / "b.npz", "--window", "1s")
    assert code == 1
    with_rate, without = result["videos"]
    assert [(part["start_frame"], part["start_s"]) for part in with_rate["segments"]] == [(0, 0.0), (5, 1.0)]
    assert "its frame rate is unknown, so windows cannot be in seconds" in without["error"]


def test_annotated_copies_are_of_videos_only(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 8, 8), np.uint8))
    write_pictures(tmp_path / "b", np.zeros((3, 8, 8), np.uint8))
    for clip in ("a.npy", "b"):
        code, _, err = run(capsys, model, tmp_path / clip, "--annotate", tmp_path / "out.mp4")
        assert code == 2
        assert "is for one video file" in err


def test_a_rejected_array_has_its_reason(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 8)))
    np.save(tmp_path / "b.npy", np.full((3, 8, 8), 30.0))
    code, result, _ = run(capsys, model, tmp_path)
    assert code == 1
    assert "wrong_shape" in result["videos"][0]["error"]
    assert "label" in result["videos"][1]
    (tmp_path / "empty").mkdir()
    code, _, err = run(capsys, model, tmp_path / "empty")
    assert code == 2
    assert "no videos" in err
    assert "no arrays" in err

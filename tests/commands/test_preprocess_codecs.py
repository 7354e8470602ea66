"""`preprocess --codec`: the same bytes for any number of workers; what reads shards reads encoded ones."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.cluster.session import start_ray
from pipelines.core.errors import UserError
from pipelines.data import preprocessing
from pipelines.data.codecs import CODECS, decode, encode
from pipelines.data.dataset import ShardDataset
from pipelines.data.options import PreprocessOptions
from pipelines.evaluation.evaluator import evaluate_model
from pipelines.preprocess import main, preprocess
from pipelines.training import setup
from pipelines.training.trainer import fit
from tests.commands.test_preprocess import SMALL, digests
from tests.runs import assert_equal_to_the_bit
from tests.runs import options as train_options
from tests.videos import moving_square, write_class_folders, write_video

ENCODED = [name for name in CODECS if name != "raw"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("videos"), num_clips=20)


def options(videos: Path, out: Path, **others: Any) -> PreprocessOptions:
    return PreprocessOptions(**{"videos": str(videos), "out": str(out), **SMALL, **others})


@pytest.fixture(scope="module")
def shards(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A data set with each codec, made by one worker of Ray; the tests make theirs without Ray, on all cores."""
    path = tmp_path_factory.mktemp("shards")
    with start_ray(num_cpus=1):
        for codec in CODECS:
            assert preprocess(options(videos, path / codec, codec=codec))["codec"] == codec
    return {codec: path / codec for codec in CODECS}


@pytest.mark.parametrize("codec", ENCODED)
def test_clips_are_those_of_raw_shards_as_the_codec_decodes_them(shards: dict[str, Path], codec: str) -> None:
    raw, data = ShardDataset.open(shards["raw"]), ShardDataset.open(shards[codec])
    assert (raw.codec, data.codec) == ("raw", codec)
    assert {name: split["num_clips"] for name, split in data.splits.items()} == {
        name: split["num_clips"] for name, split in raw.splits.items()
    }
    for name in data.splits:
        for got, clip in zip(data.split(name), raw.split(name), strict=True):
            assert (got.clip_id, got.labels, got.fps) == (clip.clip_id, clip.labels, clip.fps)
            np.testing.assert_array_equal(got.frames, decode(codec, encode(codec, clip.frames), clip.frames.shape))
    # What training reads, not what was encoded.
    pixels = np.concatenate([clip.frames.reshape(-1, 3) for clip in data.split("train")]).astype(float)
    assert data.mean == pytest.approx(pixels.mean(axis=0))
    assert data.std == pytest.approx(pixels.std(axis=0))
    assert (data.mean == raw.mean) == (not CODECS[codec].is_lossy)


@pytest.mark.parametrize("codec", ENCODED)
def test_any_number_of_workers_and_a_resumed_job_give_the_same_bytes(
    shards: dict[str, Path], videos: Path, tmp_path: Path, codec: str
) -> None:
    out = tmp_path / "out"
    preprocess(options(videos, out, codec=codec))
    assert digests(out) == digests(shards[codec])
    for name in ("train-00001.arrow", "val-00000.arrow", "dataset.json"):
        (out / name).unlink()
    preprocess(options(videos, out, codec=codec, resume=True))
    assert digests(out) == digests(shards[codec])


@pytest.mark.parametrize("codec", ENCODED)
def test_encoded_shards_are_verified_and_inspected(shards: dict[str, Path], tmp_path: Path, codec: str) -> None:
    verified = preprocess(PreprocessOptions(verify=str(shards[codec])))
    assert verified["damaged"] == []
    assert verified["exit_code"] == 0
    sheet = tmp_path / "sheet.png"
    found = preprocess(PreprocessOptions(inspect=str(shards[codec]), sheet=str(sheet)))
    assert (found["codec"], found["num_clips"]) == (codec, 40)
    assert sheet.stat().st_size > 1000


def test_auto_is_decided_once_and_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    videos, out = write_class_folders(tmp_path / "videos", num_clips=6), tmp_path / "out"
    asked = []

    def choose(raw_bytes: float, free_bytes: float | None) -> tuple[str, str]:
        asked.append((raw_bytes, free_bytes))
        return "lossless", "for a test"

    monkeypatch.setattr(preprocessing, "choose_codec", choose)
    with caplog.at_level(logging.INFO):
        assert preprocess(options(videos, out))["codec"] == "lossless"
    assert [line for line in caplog.messages if "codec" in line] == ["codec lossless: for a test"]
    ((raw_bytes, free_bytes),) = asked
    assert raw_bytes == 12 * 12 * 24 * 16 * 3
    assert free_bytes
    for name in ("preprocess.json", "dataset.json"):
        assert json.loads((out / name).read_text())["options"]["codec"] == "lossless"
    # More clips, and another opinion now.
    monkeypatch.setattr(preprocessing, "choose_codec", lambda *arguments: pytest.fail("decided again"))
    write_video(videos / "left/more.avi", moving_square(9))
    assert preprocess(options(videos, out, resume=True))["codec"] == "lossless"
    assert preprocess(options(videos, out, codec="lossless", resume=True))["num_clips"] == 13
    with pytest.raises(UserError, match="was started with codec=lossless, not h264; resume it with the same options"):
        preprocess(options(videos, out, codec="h264", resume=True))


def test_a_data_set_of_before_codecs_stays_raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos, out = write_class_folders(tmp_path / "videos", num_clips=4), tmp_path / "out"
    preprocess(options(videos, out))
    for name in ("preprocess.json", "dataset.json"):
        document = json.loads((out / name).read_text())
        assert document["version"] == 1
        assert "codec" not in document
        del document["options"]["codec"]
        (out / name).write_text(json.dumps(document))
    monkeypatch.setattr(preprocessing, "choose_codec", lambda *arguments: pytest.fail("decided again"))
    write_video(videos / "left/more.avi", moving_square(9))
    result = preprocess(options(videos, out, resume=True))
    assert (result["codec"], result["num_clips"]) == ("raw", 9)


def test_a_dry_run_by_the_command_writes_nothing_and_prints_one_json_object(
    videos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([str(videos), str(tmp_path / "out"), "--dry-run", "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["dry_run"] is True
    assert result["num_clips"] == 40
    assert not (tmp_path / "out").exists()


def test_a_training_on_lossless_shards_equals_one_on_raw_ones_to_the_bit(
    shards: dict[str, Path], tmp_path: Path
) -> None:
    for codec in ("raw", "lossless"):
        (tmp_path / codec).mkdir()
        fit(setup.resolve_precision(train_options(shards[codec], tmp_path / codec)))
    assert_equal_to_the_bit(tmp_path / "raw", tmp_path / "lossless")


@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_a_model_is_trained_and_evaluated_on_lossy_shards(shards: dict[str, Path], tmp_path: Path, codec: str) -> None:
    (tmp_path / "run").mkdir()
    chosen = replace(train_options(shards[codec], tmp_path / "run"), folds=2, fold=0)
    result = fit(setup.resolve_precision(chosen))
    assert result["val_metric"] > 0.5
    for place in (shards[codec], shards["raw"]):
        assert evaluate_model(tmp_path / "run" / "model", place, "test")["num_clips"] > 0


def test_an_installation_without_x264_is_told_before_anything_is_decoded(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import av

    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    with pytest.raises(UserError, match=r"codec h264 needs a PyAV with libx264.*--codec jpeg"):
        preprocess(options(videos, tmp_path / "out", codec="h264"))
    assert not list((tmp_path / "out").glob("*.arrow"))


@pytest.mark.parametrize("codec", ENCODED)
def test_a_damaged_clip_ends_a_training_with_one_line(shards: dict[str, Path], tmp_path: Path, codec: str) -> None:
    copied = tmp_path / "shards"
    copied.mkdir()
    for file in shards[codec].iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    data = ShardDataset.open(copied)
    clip = data.split("train")[0]
    encoded = encode(codec, ShardDataset.open(shards["raw"]).split("train")[0].frames).to_pybytes()
    file = copied / data.splits["train"]["shards"][0]["file"]
    content = bytearray(file.read_bytes())
    content[content.index(encoded) + len(encoded) // 2] ^= 1
    file.write_bytes(content)
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=rf"{file.name} is damaged \({clip.clip_id}: its checksum differs\); delete it"):
        fit(setup.resolve_precision(train_options(copied, tmp_path / "run")))
    assert preprocess(PreprocessOptions(verify=str(copied)))["damaged"] == [file.name]

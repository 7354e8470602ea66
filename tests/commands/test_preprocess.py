"""Preprocessing: the same bytes after any interruption, and bad clips do not affect the others."""

import csv
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pipelines.cluster.session import start_ray
from pipelines.core.errors import UserError
from pipelines.data import preprocessing, shard_jobs, shard_writer
from pipelines.data.clip import ClipRecord
from pipelines.data.dataset import ShardDataset
from pipelines.data.options import PreprocessOptions
from pipelines.data.plan import Shard
from pipelines.preprocess import preprocess, summary
from pipelines.storage.location import Location
from pipelines.storage.lock import only_writer
from pipelines.video.decode import decode
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from tests.processes import Child
from tests.s3 import ENVIRONMENT, s3_server
from tests.videos import DyingDecoder, cut_in_half, moving_square, write_class_folders, write_video

REPO = Path(__file__).parents[2]
SMALL: dict[str, Any] = {"width": 24, "height": 16}


@pytest.fixture(scope="module")
def ray_up() -> Iterator[None]:
    """With one CPU; the commands started below use all CPUs."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        with start_ray(num_cpus=1):
            yield


@pytest.fixture(autouse=True)
def without_ray(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that do not ask for Ray decode in this process, which takes less time."""
    if "ray_up" not in request.fixturenames:
        monkeypatch.setattr(shard_jobs, "is_ray_running", lambda: False)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("videos"), num_clips=20)


def options(videos: Path, out: Path, **others: Any) -> PreprocessOptions:
    return PreprocessOptions(**{"videos": str(videos), "out": str(out), **SMALL, **others})


def digests(path: Path) -> dict[str, str]:
    """SHA-256 of the files that are not hidden."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.iterdir()
        if not file.name.startswith(".")
    }


def rejected(out: Path) -> dict[str, str]:
    with (out / "rejected.csv").open(newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def shards(ray_up: None, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "out"
    preprocess(options(videos, out))
    return out


def test_shards_hold_every_clip_as_it_decodes(shards: Path, videos: Path) -> None:
    data = ShardDataset.open(shards)
    data.verify()
    assert (data.classes, data.task, data.frame) == (("left", "right"), "single_label", FrameSize(24, 16, 3))
    sizes = {name: split["num_clips"] for name, split in data.splits.items()}
    assert sum(sizes.values()) == 40
    assert sizes["train"] == pytest.approx(28, abs=4)
    found = []
    for name in data.splits:
        for clip in data.split(name):
            found.append(clip.clip_id)
            np.testing.assert_array_equal(clip.frames, decode(videos / clip.clip_id, data.frame, Sampling()).frames)
            assert data.classes[clip.labels[0]] == clip.clip_id.split("/")[0]
            assert clip.fps == 25
    assert sorted(found) == sorted(path.relative_to(videos).as_posix() for path in videos.glob("*/*"))
    assert rejected(shards) == {}


def test_a_few_videos_are_decoded_without_ray_to_the_same_bytes(
    shards: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(shard_jobs, "is_ray_running", lambda: False)
    monkeypatch.setattr(shard_jobs, "start_ray", refuse)
    preprocess(options(videos, tmp_path / "out"))
    assert digests(tmp_path / "out") == digests(shards)
    size = sum(file.stat().st_size for file in videos.rglob("*.avi"))
    monkeypatch.setattr(shard_jobs, "SMALL_BYTES", size - 1)
    with pytest.raises(AssertionError, match="Ray was started"):
        preprocess(options(videos, tmp_path / "other"))


def test_mean_and_std_are_those_of_the_train_split(shards: Path) -> None:
    data = ShardDataset.open(shards)
    frames = np.concatenate([clip.frames for clip in data.split("train")]).reshape(-1, 3).astype(float)
    assert data.mean == pytest.approx(frames.mean(axis=0))
    assert data.std == pytest.approx(frames.std(axis=0))


def test_grey_and_sampled_shards(videos: Path, tmp_path: Path) -> None:
    result = preprocess(options(videos, tmp_path / "out", channels=1, num_frames=5))
    data = ShardDataset.open(tmp_path / "out")
    assert (data.frame.channels, len(data.mean), data.sampling["num_frames"]) == (1, 1, 5)
    assert set(data.split("val").lengths) == {5}
    assert (result["num_clips"], result["num_frames"]) == (40, 200)


def test_bad_files_are_listed_and_do_not_affect_the_others(ray_up: None, tmp_path: Path) -> None:
    videos = write_class_folders(tmp_path / "videos", num_clips=10)
    wanted = {
        "left/empty.avi": "unreadable",
        "left/text.avi": "unreadable",
        "right/garbage.avi": "unreadable",
        "right/half.avi": "truncated",
        "right/pipe.avi": "unreadable",
    }
    (videos / "left/empty.avi").touch()
    (videos / "left/text.avi").write_text("no video\n" * 100)
    (videos / "right/garbage.avi").write_bytes(np.random.default_rng(0).bytes(5000))
    cut_in_half(write_video(videos / "right/half.avi", moving_square(44)))
    os.mkfifo(videos / "right/pipe.avi")
    result = preprocess(options(videos, tmp_path / "out"))
    assert rejected(tmp_path / "out") == wanted
    assert (result["num_clips"], result["num_rejected"]) == (20, 5)
    assert result["rejected"] == {"unreadable": 4, "truncated": 1}
    console = Console(file=io.StringIO(), width=100)
    console.print(summary(result))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in (
        "train",
        "5 clips rejected (1 truncated, 4 unreadable)",
        "rejected.csv",
        f"-m pipelines.sweep --data {tmp_path}",
    ):
        assert part in text.replace("\n", "")


def test_a_missing_file_of_a_csv_is_a_rejected_clip(videos: Path, tmp_path: Path) -> None:
    lines = [f"{path},{path.parent.name},," for path in sorted(videos.glob("*/*"))]
    (tmp_path / "clips.csv").write_text("\n".join(["path,label,group,split", *lines, "gone.avi,left,,"]))
    preprocess(options(tmp_path / "clips.csv", tmp_path / "out"))
    assert rejected(tmp_path / "out") == {"gone.avi": "missing"}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (("left", "right"), "all 6 clips were rejected; see .*rejected.csv for the reasons"),
        (("left",), "every clip of 'left' in train was rejected; see .*rejected.csv for the reasons"),
    ],
    ids=["everything", "a class"],
)
def test_an_error_says_that_too_few_clips_are_left(tmp_path: Path, bad: tuple[str, ...], message: str) -> None:
    videos = write_class_folders(tmp_path / "videos", num_clips=3)
    for name in bad:
        for file in (videos / name).iterdir():
            file.write_bytes(b"")
    with pytest.raises(UserError, match=message):
        preprocess(options(videos, tmp_path / "out"))
    assert len(rejected(tmp_path / "out")) == 3 * len(bad)
    with pytest.raises(UserError, match="unfinished"):
        ShardDataset.open(tmp_path / "out")


def test_a_decoder_that_crashes_affects_only_its_own_clip(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [
        ClipRecord(clip_id=path.name, path=str(path), labels=(0,), group="", split="val")
        for path in sorted(videos.glob("left/*"))[:4]
    ]
    with DyingDecoder(60) as decoder:
        decoder.deaths = 2
        monkeypatch.setattr(shard_writer, "_decoder", lambda time_limit_s: decoder)
        row = shard_writer.make_shard(
            {"shard": Shard("val-00000.arrow", "val", tuple(clips)).to_json()},
            out=Location.of(tmp_path),
            frame=FrameSize(24, 16, 3),
            sampling=Sampling(),
            time_limit_s=60,
        )
    report = json.loads(row["report"])
    assert report["rejected"] == [["clip_00.avi", "crashed"]]
    assert report["shard"]["num_clips"] == 3


def test_resume_makes_missing_shards_and_keeps_the_list_of_rejected_clips(tmp_path: Path) -> None:
    videos, out = write_class_folders(tmp_path / "videos", num_clips=8), tmp_path / "out"
    (videos / "left/bad.avi").touch()
    preprocess(options(videos, out))
    before = digests(out)
    cut_in_half(out / "train-00002.arrow")
    (out / "val-00000.arrow").unlink()
    (out / "dataset.json").unlink()
    untouched = (out / "train-00001.arrow").stat().st_mtime_ns
    result = preprocess(options(videos, out, resume=True))
    assert digests(out) == before
    assert result["num_rejected"] == 1
    assert (out / "train-00001.arrow").stat().st_mtime_ns == untouched


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "exists; --resume continues it, --overwrite deletes it first"),
        ({"resume": True, "width": 32}, "was started with width=24, not 32; resume it with the same options"),
        ({"resume": True, "num_frames": 3}, "was started with num_frames=None, not 3"),
    ],
    ids=["existing OUT", "other width", "other sampling"],
)
def test_an_existing_out_is_refused_unless_it_is_the_same_job(
    shards: Path, videos: Path, changes: dict[str, Any], message: str
) -> None:
    before = digests(shards)
    with pytest.raises(UserError, match=message):
        preprocess(options(videos, shards, **changes))
    assert digests(shards) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [({}, "exists; --resume"), ({"resume": True}, "nothing to resume"), ({"overwrite": True}, "is not deleted")],
)
def test_an_existing_out_is_refused_before_the_videos_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(preprocessing, "read_catalog", lambda *_, **__: pytest.fail("the videos were listed"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").touch()
    with pytest.raises(UserError, match=message):
        preprocess(options(tmp_path, tmp_path / "out", **changes))


def test_new_clips_go_into_new_shards(tmp_path: Path) -> None:
    videos, out = write_class_folders(tmp_path / "videos", num_clips=20), tmp_path / "out"
    preprocess(options(videos, out))
    before = digests(out)
    ShardDataset.open(out)
    for clip in range(20, 26):
        write_video(videos / f"left/clip_{clip}.avi", moving_square(9))
    # First by name, last by index: the old shards have the indices of the old classes.
    for clip in range(8):
        write_video(videos / f"back/clip_{clip}.avi", moving_square(9, step=5))
    result = preprocess(options(videos, out, resume=True))
    after, data = digests(out), ShardDataset.open(out)
    assert {name: after[name] for name in before if name.endswith(".arrow")} == {
        name: digest for name, digest in before.items() if name.endswith(".arrow")
    }
    assert data.classes == ("left", "right", "back")
    assert result["num_clips"] == 54
    data.verify()
    found = {clip.clip_id: data.classes[clip.labels[0]] for name in data.splits for clip in data.split(name)}
    assert found == {path.relative_to(videos).as_posix(): path.parent.name for path in videos.glob("*/*")}
    assert digests(out) == after
    assert preprocess(options(videos, out, resume=True))["num_clips"] == 54
    assert digests(out) == after


def test_the_old_data_set_stays_readable_while_it_grows(tmp_path: Path) -> None:
    videos, out = write_class_folders(tmp_path / "videos", num_clips=6), tmp_path / "out"
    preprocess(options(videos, out))
    before = (out / "dataset.json").read_bytes()
    (videos / "left/new.avi").touch()
    preprocess(options(videos, out, resume=True))
    assert rejected(out) == {"left/new.avi": "unreadable"}
    assert (out / "dataset.json").read_bytes() == before
    assert ShardDataset.open(out).splits["train"]["num_clips"] > 0


def test_rejected_clips_are_retried_on_request(tmp_path: Path) -> None:
    videos, out = write_class_folders(tmp_path / "videos", num_clips=6), tmp_path / "out"
    for name in ("left/late.avi", "right/never.avi"):
        (videos / name).touch()
    preprocess(options(videos, out))
    write_video(videos / "left/late.avi", moving_square())
    assert preprocess(options(videos, out, resume=True))["num_rejected"] == 2
    for _ in range(2):
        result = preprocess(options(videos, out, resume=True, retry_rejected=True))
        assert (result["num_clips"], rejected(out)) == (13, {"right/never.avi": "unreadable"})
    ids = [clip_id for name in ("train", "val", "test") for clip_id in ShardDataset.open(out).split(name).clip_ids]
    assert len(ids) == len(set(ids)) == 13


def test_a_retried_clip_is_not_duplicated_if_its_first_shard_is_made_again(tmp_path: Path) -> None:
    videos, out = write_class_folders(tmp_path / "videos", num_clips=6), tmp_path / "out"
    (videos / "left/late.avi").touch()
    preprocess(options(videos, out, shard_mb=1e-3))
    write_video(videos / "left/late.avi", moving_square())
    preprocess(options(videos, out, resume=True, retry_rejected=True))
    before = digests(out)
    for file in out.glob("*.arrow"):
        file.unlink()
    for file in out.glob(".*.arrow.json"):
        file.unlink()
    assert preprocess(options(videos, out, resume=True))["num_clips"] == 13
    assert {name: digest for name, digest in digests(out).items() if name.endswith(".arrow")} == {
        name: digest for name, digest in before.items() if name.endswith(".arrow")
    }


def test_a_lost_class_returns_after_its_clips_are_repaired(tmp_path: Path) -> None:
    videos, out = write_class_folders(tmp_path / "videos", num_clips=6), tmp_path / "out"
    preprocess(options(videos, out))
    for clip in range(4):
        write_video(videos / f"back/{clip}.avi", moving_square(3)).write_bytes(b"")
    with pytest.raises(
        UserError, match=r"every clip of 'back' .* repair some and continue with --resume --retry-rejected"
    ):
        preprocess(options(videos, out, resume=True))
    for clip in range(4):
        write_video(videos / f"back/{clip}.avi", moving_square(3))
    result = preprocess(options(videos, out, resume=True, retry_rejected=True))
    assert (result["num_clips"], result["classes"], rejected(out)) == (16, ["left", "right", "back"], {})


@pytest.mark.parametrize("where", ["folder", "CSV", "videos of a CSV"])
def test_overwrite_deletes_no_videos(shards: Path, videos: Path, tmp_path: Path, where: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "preprocess.json").write_bytes((shards / "preprocess.json").read_bytes())
    inside = write_class_folders(out / "videos", num_clips=3)
    catalogue = (out if where == "CSV" else tmp_path) / "clips.csv"
    lines = [f"{path},{path.parent.name},," for path in (inside if "of" in where else videos).glob("*/clip_0[012].avi")]
    catalogue.write_text("\n".join(["path,label,group,split", *lines]))
    before = sorted(path for path in out.rglob("*"))
    with pytest.raises(UserError, match=r"--overwrite deletes .*out, which contains videos of .*; give another"):
        preprocess(options(inside if where == "folder" else catalogue, out, overwrite=True))
    assert sorted(path for path in out.rglob("*")) == before


def test_a_second_command_is_refused_while_the_first_writes(shards: Path, videos: Path) -> None:
    before = digests(shards)
    for how in ({"resume": True}, {"overwrite": True}):
        with only_writer(Location.of(shards)), pytest.raises(UserError, match="another command is writing to"):
            preprocess(options(videos, shards, **how))
    assert digests(shards) == before


def test_a_uri_that_cannot_be_opened_is_not_stored_in_the_plan(videos: Path, tmp_path: Path) -> None:
    lines = [f"{path},{path.parent.name},," for path in sorted(videos.glob("*/*"))]
    (tmp_path / "clips.csv").write_text("\n".join(["path,label,group,split", *lines, "nosuch://host/a.avi,left,,"]))
    with pytest.raises(UserError, match="nosuch://host can't be opened"):
        preprocess(options(tmp_path / "clips.csv", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_names_with_line_breaks_are_read_back_from_the_list_of_rejected_clips(tmp_path: Path) -> None:
    videos, names = (
        write_class_folders(tmp_path / "videos", num_clips=3),
        ["a\rb.avi", "a\nb.avi", 'a, "b".avi', "a\r\nb.avi"],
    )
    for name in names:
        (videos / "left" / name).touch()
    preprocess(options(videos, tmp_path / "out"))
    assert rejected(tmp_path / "out") == {f"left/{name}": "unreadable" for name in names}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "left/clip_00.avi,right,,",
            "left/clip_00.avi has another label or group than in the clips from which .* was made",
        ),
        ("left/clip_00.avi,left,g,", "left/clip_00.avi has another label or group"),
        ("", "left/clip_00.avi is no longer among the clips .* a data set can only grow"),
    ],
    ids=["label", "group", "gone"],
)
def test_a_clip_that_changed_is_refused(videos: Path, tmp_path: Path, line: str, message: str) -> None:
    catalogue, out = videos / "clips.csv", tmp_path / "out"
    lines = [f"{path.relative_to(videos)},{path.parent.name},," for path in sorted(videos.glob("*/*_0?.avi"))]
    catalogue.write_text("\n".join(["path,label,group,split", *lines]))
    preprocess(options(catalogue, out))
    before = digests(out)
    catalogue.write_text("\n".join(["path,label,group,split", line, *lines[1:]]))
    with pytest.raises(UserError, match=message):
        preprocess(options(catalogue, out, resume=True))
    assert digests(out) == before
    catalogue.unlink()


def test_shards_have_about_their_target_size(tmp_path: Path) -> None:
    videos = write_class_folders(tmp_path / "videos", num_clips=50)
    preprocess(options(videos, tmp_path / "out", shard_mb=0.03))
    data, clip_bytes = ShardDataset.open(tmp_path / "out"), 12 * 24 * 16 * 3
    assert {shard["num_clips"] for shard in data.splits["train"]["shards"]} <= {1, 2}
    assert data.splits["train"]["shards"][0]["num_frames"] * 24 * 16 * 3 == 2 * clip_bytes


def test_frames_are_not_counted_if_every_clip_gets_its_own_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocessing, "expected_frames", lambda *arguments: pytest.fail("counted"))
    videos = write_class_folders(tmp_path / "videos", num_clips=6)
    assert preprocess(options(videos, tmp_path / "out", codec="raw"))["num_clips"] == 12


def test_a_video_that_does_not_fit_the_layout_is_listed(tmp_path: Path) -> None:
    videos = write_class_folders(tmp_path / "videos", num_clips=4)
    write_video(videos / "loose.avi", moving_square())
    preprocess(options(videos, tmp_path / "out"))
    assert rejected(tmp_path / "out") == {"loose.avi": "misplaced"}


def test_buckets_give_the_same_bytes_and_can_be_resumed(
    shards: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as query:
        source, out = Location.of(f"s3://lab/videos?{query}"), Location.of(f"s3://lab/sets/out?{query}")
        for path in videos.glob("*/*.avi"):
            with (source / path.parent.name / path.name).writing() as file:
                file.write(path.read_bytes())
        result = preprocess(options(source, out))  # type: ignore[arg-type]
        # The JSON files contain the location of the videos.
        wanted = {name: digest for name, digest in digests(shards).items() if not name.endswith(".json")}

        def found() -> dict[str, str]:
            names = [name for name in out.files() if not name.endswith(".json")]
            return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names}

        assert result["rejected"] == {}
        assert found() == wanted
        with pytest.raises(UserError, match="exists; --resume continues it"):
            preprocess(options(source, out))  # type: ignore[arg-type]
        for name in ("train-00001.arrow", "dataset.json"):
            filesystem, path = (out / name)._remote()
            filesystem.delete_file(path)
        with pytest.raises(UserError, match="is unfinished"):
            ShardDataset.open(out)
        preprocess(options(source, out, resume=True))  # type: ignore[arg-type]
        assert found() == wanted
        monkeypatch.setenv("TTRNN_CACHE", str(tmp_path / "cache"))
        clips = {clip.clip_id: clip for clip in ShardDataset.open(out).split("train")}
        for clip in ShardDataset.open(shards).split("train"):
            np.testing.assert_array_equal(clips[clip.clip_id].frames, clip.frames)
        assert preprocess(options(source, out, overwrite=True))["num_clips"] == 40  # type: ignore[arg-type]


def test_an_impossible_job_is_refused_before_out_is_made(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with pytest.raises(UserError, match="has no videos"):
        preprocess(options(tmp_path / "videos", tmp_path / "out"))
    write_class_folders(tmp_path / "videos", num_clips=3)
    write_video(tmp_path / "videos/lonely/a.avi", moving_square())
    with pytest.raises(UserError, match="label 'lonely' has 1 clip"):
        preprocess(options(tmp_path / "videos", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0}, "width must be above 0, got 0"),
        ({"channels": 2}, r"channels must be 3 \(RGB\) or 1 \(grey\), got 2"),
        ({"shard_mb": -1}, "shard_mb must be above 0, got -1"),
        ({"fit": "squeeze"}, "fit must be stretch, crop or letterbox, got 'squeeze'"),
        ({"folds": 1}, "folds must be 2 or more, got 1"),
        ({"retry_rejected": True}, "retry_rejected needs resume"),
        ({"codec": "gif"}, "codec must be one of auto, raw, lossless, jpeg, h264, got 'gif'"),
        ({"dry_run": True, "resume": True}, "dry_run excludes resume, inspect and verify"),
        ({"max_frames": 0}, "max_frames must be above 0, got 0"),
        ({"num_frames": 3, "fps": 2.0}, "num_frames=3 and fps=2.0 exclude each other"),
        ({"resume": True, "overwrite": True}, "resume and overwrite exclude each other"),
        ({"inspect": "a", "verify": "b"}, "inspect and verify exclude each other"),
        ({"sheet": "a.png"}, "sheet needs inspect"),
    ],
    ids=str,
)
def test_invalid_options_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(Path("videos"), Path("out"), **values)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
        )
        if sys.platform == "linux" and os.geteuid() == 0
        else None
    )
    if mount is None or mount.returncode:
        pytest.skip("needs to mount a small file system, as root on Linux")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_leaves_no_incomplete_file_and_the_job_can_be_resumed(
    shards: Path, videos: Path, small_disk: Path
) -> None:
    with pytest.raises(OSError, match="No space left on device") as error:
        # The codec that is chosen by itself would fit.
        preprocess(options(videos, small_disk / "out", codec="raw"))
    assert "arrow" in str(error.value)
    names = {file.name for file in (small_disk / "out").iterdir()}
    assert not any(name.endswith(".tmp") for name in names)
    assert "dataset.json" not in names
    assert "train-00000.arrow" in names
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    preprocess(options(videos, small_disk / "out", resume=True, codec="raw"))
    assert digests(small_disk / "out") == digests(shards)


def start(videos: Path, out: Path, *others: str, command: tuple[str, ...] = ("-m", "pipelines.preprocess")) -> Any:
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    return Child(
        [sys.executable, *command, str(videos), str(out), *arguments, *others],
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for_shards(process: Any, out: Path, number: int) -> None:
    while len(list(out.glob("*.arrow"))) < number:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def test_interrupted_then_killed_then_resumed_gives_the_same_bytes(shards: Path, videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(videos, out, command=("pipelines/preprocess.py",))
    wait_for_shards(process, out, 1)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate()
    assert process.returncode == 130, messages
    assert re.match(r"interrupted; resume with: .* -m pipelines.preprocess .* --resume$", messages.splitlines()[-1])
    assert not list(out.glob(".*.tmp"))
    assert not (out / "dataset.json").exists()

    number = len(list(out.glob("*.arrow")))
    process = start(videos, out, "--resume")
    wait_for_shards(process, out, number + 1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (out / "dataset.json").exists()

    assert preprocess(options(videos, out, resume=True))["num_clips"] == 40
    assert digests(out) == digests(shards)
    assert not list(out.glob(".*.tmp"))

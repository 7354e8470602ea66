"""Estimates: the rule of --codec auto, the free disk of OUT, and dry runs."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.data import estimate
from pipelines.data.codecs import CODECS
from pipelines.data.estimate import choose_codec, dry_run, expected_bytes, free_disk
from pipelines.data.options import PreprocessOptions
from pipelines.preprocess import summary
from pipelines.storage.location import Location
from tests.report.test_inspection import text
from tests.videos import moving_square, write_bad, write_class_folders, write_video

GB = 10**9


@pytest.mark.parametrize(
    ("raw_gb", "free_gb", "codec"),
    [
        (0, 100, "raw"),
        (0.001, 100, "raw"),
        (4, 100, "raw"),
        (4.1, 100, "lossless"),
        (4, 8, "raw"),
        (4, 7, "lossless"),
        (4, 4, "h264"),
        (140, 1000, "lossless"),
        (140, 200, "lossless"),
        (140, 160, "h264"),
        (4000, 1000, "h264"),
        (4000, 8000, "lossless"),
        (3, None, "raw"),
        (5, None, "lossless"),
        (200, None, "lossless"),
        (201, None, "h264"),
    ],
)
def test_auto_chooses_by_size_and_free_disk(raw_gb: float, free_gb: float | None, codec: str) -> None:
    chosen, reason = choose_codec(raw_gb * GB, None if free_gb is None else free_gb * GB)
    assert chosen == codec
    assert "\n" not in reason


def test_the_reason_has_the_sizes() -> None:
    assert choose_codec(140 * GB, 160 * GB)[1] == (
        "about 140 GB of raw frames, 160 GB free; lossless about 84 GB, which is too much"
    )
    assert choose_codec(0.25 * GB, None)[1] == "about 250 MB of raw frames"


@pytest.mark.parametrize(("fps", "share"), [(None, 1), (5.0, 0.2), (60.0, 1)])
def test_the_expected_bytes_count_every_kept_frame(fps: float | None, share: float) -> None:
    options = PreprocessOptions(videos="videos", out="out", width=10, height=4, fps=fps)
    assert expected_bytes(7, 30, options) == pytest.approx(7 * 30 * share * 10 * 4 * 3)


def test_the_free_disk_is_that_of_the_nearest_directory_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: (asked.append(path), SimpleNamespace(free=7))[1])
    assert free_disk(Location.of(tmp_path / "a" / "b" / "out")) == 7
    monkeypatch.chdir(tmp_path)
    assert free_disk(Location.of("out")) == 7
    assert asked == [tmp_path, tmp_path]
    assert free_disk(Location.of("s3://bucket/out?region=eu-west-1")) is None


def tree(path: Path) -> dict[str, int]:
    """Every file and directory, with the time of its last change."""
    return {str(found.relative_to(path)): os.stat(found).st_mtime_ns for found in (path, *path.rglob("*"))}


@pytest.mark.parametrize("codec", ["auto", "jpeg"])
def test_a_dry_run_gives_the_figures_of_every_codec_and_writes_nothing(
    tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_class_folders(tmp_path / "videos", num_clips=20, num_frames=12)
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    options = PreprocessOptions(videos="videos", out="deep/out", width=24, height=16, codec=codec, dry_run=True)
    result = dry_run(options)
    assert tree(tmp_path) == before
    assert (result["num_clips"], result["num_frames"], result["num_tried"]) == (40, 480, 8)
    assert result["codec"] == ("raw" if codec == "auto" else "jpeg")
    assert list(result["codecs"]) == list(CODECS)
    sizes = {name: figures["num_bytes"] for name, figures in result["codecs"].items()}
    assert sizes["raw"] == 480 * 24 * 16 * 3
    assert 0 < sizes["lossless"] < sizes["raw"]
    assert all(figures["minutes"] > 0 for figures in result["codecs"].values())
    shown = text(summary(result))
    chosen = f"{result['codec']} <-"
    for part in ("40 clips, about 480 frames of 24 x 16 x 3", chosen, "are free for", "nothing was written"):
        assert part in shown


def test_a_dry_run_of_videos_that_do_not_decode_takes_typical_shares(tmp_path: Path) -> None:
    for name in ("left", "right"):
        (tmp_path / "videos" / name).mkdir(parents=True)
        for number in range(4):
            write_bad(tmp_path, "text").rename(tmp_path / "videos" / name / f"{number}.avi")
    result = dry_run(PreprocessOptions(videos=str(tmp_path / "videos"), out=str(tmp_path / "out"), dry_run=True))
    assert (result["num_tried"], result["num_frames"], result["codec"]) == (0, 0, "raw")
    assert all(figures["minutes"] is None for figures in result["codecs"].values())
    assert "unknown" in text(summary(result))


def test_a_clip_that_is_rejected_does_not_end_a_dry_run(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "videos", num_clips=4)
    for number in range(2):
        write_bad(tmp_path, "garbage").rename(tmp_path / "videos" / "left" / f"a{number}.avi")
    result = dry_run(PreprocessOptions(videos=str(tmp_path / "videos"), out=str(tmp_path / "out"), dry_run=True))
    assert result["num_clips"] == 10
    assert 0 < result["num_tried"] < 8
    assert result["codecs"]["lossless"]["num_bytes"] < result["codecs"]["raw"]["num_bytes"]


def test_sizes_of_a_dry_run_are_those_of_the_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_NUM_TRIED", 100)
    for name, level in (("left", 90), ("right", 220)):
        for number in range(4):
            write_video(tmp_path / "videos" / name / f"{number}.avi", moving_square(20, level=level))
    result = dry_run(PreprocessOptions(videos=str(tmp_path / "videos"), out=str(tmp_path / "out"), channels=1, every=2))
    assert result["num_frames"] == 80
    assert result["codecs"]["raw"]["num_bytes"] == 80 * 160 * 120
    assert result["num_tried"] == 8

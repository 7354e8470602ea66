"""Folders of pictures as clips: the right pictures in the right order, and no guess where they are ambiguous."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.video.decode import announced_frames, array_size, decode
from pipelines.video.errors import RejectedError
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from pipelines.video.worker import IsolatedDecoder
from tests.pictures import write_pictures
from tests.videos import numbered, read_numbers

RGB, GREY = FrameSize(48, 32, 3), FrameSize(48, 32, 1)
RANDOM = np.random.default_rng(0)
COLOURED = RANDOM.integers(0, 256, (12, 32, 48, 3), np.uint8)


def reason(folder: Path, sampling: Sampling = Sampling()) -> str:  # noqa: B008 - it is immutable
    with pytest.raises(RejectedError) as error:
        decode(folder, RGB, sampling)
    return error.value.reason


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tif", ".tiff", ".ppm"])
def test_lossless_pictures_come_out_as_they_are(tmp_path: Path, suffix: str) -> None:
    folder = write_pictures(tmp_path / "clip", COLOURED, "frame {}" + suffix)
    (folder / "labels.txt").write_text("no picture")
    (folder / ".hidden.jpg").write_text("no picture")
    np.testing.assert_array_equal(decode(folder, RGB, Sampling()).frames, COLOURED)
    assert announced_frames(str(folder)) == 12
    assert array_size(str(folder)) is None


def test_grey_pictures_stay_grey(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "clip", COLOURED[..., 0], "{}.pgm")
    np.testing.assert_array_equal(decode(folder, GREY, Sampling()).frames[..., 0], COLOURED[..., 0])
    np.testing.assert_array_equal(decode(folder, RGB, Sampling()).frames, COLOURED[..., [0, 0, 0]])


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_pictures_are_those_of_opencv(tmp_path: Path, suffix: str) -> None:
    folder = write_pictures(tmp_path / "clip", numbered(12), "{:05}" + suffix)
    found = decode(folder, RGB, Sampling()).frames
    for number, frame in enumerate(found, 1):
        np.testing.assert_array_equal(frame[..., ::-1], cv2.imread(str(folder / f"{number:05}{suffix}")))
    assert read_numbers(found) == list(range(12))


@pytest.mark.parametrize(
    "name",
    ["img{}.png", "{}.png", "{:05}.png", "clip2_part3_{}.png", "3.5-{}-x.png", "٣ {}.png"],
)
def test_numbers_decide_the_order(tmp_path: Path, name: str) -> None:
    folder = write_pictures(tmp_path / "clip", numbered(120), name, start=1)
    assert read_numbers(decode(folder, RGB, Sampling()).frames) == list(range(120))


def test_the_first_of_several_numbers_counts_first(tmp_path: Path) -> None:
    for second in (10, 9):
        write_pictures(tmp_path / "clip", numbered(30)[second * 2 :][:12], str(second) + "_{}.png", start=0)
    found = read_numbers(decode(tmp_path / "clip", RGB, Sampling()).frames)
    assert found == [*range(18, 30), *range(20, 30)]


@pytest.mark.parametrize(
    ("sampling", "wanted", "fps"),
    [
        (Sampling(), range(40), 0),
        (Sampling(picture_fps=12), range(40), 12),
        (Sampling(picture_fps=12, fps=6), range(0, 40, 2), 6),
        (Sampling(picture_fps=12, every=4), range(0, 40, 4), 3),
        (Sampling(num_frames=4), (5, 15, 25, 35), 0),
        (Sampling(max_frames=7), range(7), 0),
    ],
    ids=str,
)
def test_frames_are_sampled_as_those_of_videos(
    tmp_path: Path, sampling: Sampling, wanted: range, fps: float, decoder: IsolatedDecoder
) -> None:
    folder = write_pictures(tmp_path / "clip", numbered(40))
    decoded = decode(folder, RGB, sampling)
    assert read_numbers(decoded.frames) == list(wanted)
    assert decoded.fps == pytest.approx(fps)
    if sampling.num_frames is None:
        stream = decoder.stream(folder, RGB, sampling)
        assert read_numbers(np.stack([frame.copy() for _, frame in stream.frames])) == list(wanted)


def test_frames_by_time_need_a_rate(tmp_path: Path) -> None:
    assert reason(write_pictures(tmp_path / "clip", numbered(4)), Sampling(fps=5)) == "no_rate"


def test_pictures_of_several_sizes_are_resized_like_a_video(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "clip", np.full((3, 32, 48, 3), 200, np.uint8))
    write_pictures(folder, np.full((3, 64, 20, 3), 100, np.uint8), start=4)
    frames = decode(folder, RGB, Sampling()).frames
    assert [frame.max() for frame in frames] == [frame.min() for frame in frames] == [200] * 3 + [100] * 3


def test_a_stored_orientation_is_applied(tmp_path: Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    image = pil.fromarray(np.repeat(np.repeat(COLOURED[0, :4, :6], 8, axis=0), 8, axis=1))
    exif = pil.Exif()
    # To be shown a quarter turn clockwise.
    exif[274] = 6
    image.save(tmp_path / "1.jpg", exif=exif, quality=100, subsampling=0)
    found = decode(tmp_path, FrameSize(32, 48, 3), Sampling()).frames[0]
    assert np.abs(found.astype(int) - np.rot90(np.asarray(image), -1)).mean() < 2


def test_pictures_of_16_bits_need_a_range(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 5000, (5, 32, 48), np.uint16)
    folder = write_pictures(tmp_path / "depth", values)
    assert reason(folder) == "no_range"
    wanted = np.rint(np.clip(values * (255 / 4000), 0, 255)).astype(np.uint8)
    np.testing.assert_array_equal(decode(folder, GREY, Sampling(value_range="0:4000")).frames[..., 0], wanted)


@pytest.mark.parametrize(
    "other",
    ["flow_x_00001.png", "depth_00001.png", "00001.jpg", "preview.png", "00001_mask.png"],
)
def test_pictures_of_several_kinds_are_rejected(tmp_path: Path, other: str) -> None:
    folder = write_pictures(tmp_path / "clip", numbered(4), "{:05}.png")
    write_pictures(folder, numbered(1), other)
    assert reason(folder) == "mixed_pictures"


def test_one_picture_is_a_clip_and_two_extensions_of_one_format_may_be_mixed(tmp_path: Path) -> None:
    assert len(decode(write_pictures(tmp_path / "one", numbered(1)), RGB, Sampling()).frames) == 1
    folder = write_pictures(tmp_path / "two", numbered(2), "{}.jpg")
    write_pictures(folder, numbered(2), "{}.JPEG", start=3)
    assert read_numbers(decode(folder, RGB, Sampling()).frames) == [0, 1, 0, 1]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tiff"])
@pytest.mark.parametrize("damage", ["cut", "cut at the end", "empty", "text", "folder", "pipe", "dangling link"])
def test_a_picture_that_does_not_decode_rejects_the_clip(
    tmp_path: Path, suffix: str, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_pictures(tmp_path / "clip", COLOURED[:4], "{}" + suffix)
    file = folder / f"3{suffix}"
    content = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage == "pipe":
        os.mkfifo(file)
    elif damage == "dangling link":
        file.symlink_to(folder / "nothing")
    else:
        cut = len(content) // 2 if damage == "cut" else len(content) - 30
        file.write_bytes({"empty": b"", "text": b"no picture\n" * 99}.get(damage, content[:cut]))
    assert reason(folder) == "bad_picture"
    assert len(decode(folder, RGB, Sampling(max_frames=2)).frames) == 2
    assert capfd.readouterr() == ("", "")


def test_a_folder_without_pictures_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    assert reason(tmp_path) == "unreadable"


def test_a_picture_beyond_the_limit_is_too_large(tmp_path: Path) -> None:
    width = height = 1 << 18
    (tmp_path / "1.ppm").write_bytes(b"P6\n%d %d\n255\n" % (width, height) + b"x" * 999)
    with IsolatedDecoder(60) as decoder, pytest.raises(RejectedError) as error:
        decoder.decode(tmp_path, RGB, Sampling())
    assert error.value.reason in ("too_large", "bad_picture")

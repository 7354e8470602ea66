"""Decoding: the right frames at the right size; bad files are rejected with a reason."""

import contextlib
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.video import decode as module
from pipelines.video.decode import decode, open_images
from pipelines.video.errors import RejectedError
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from pipelines.video.worker import IsolatedDecoder
from tests.videos import (
    cut_in_half,
    moving_square,
    numbered,
    read_numbers,
    write_bad,
    write_video,
)

RGB, GREY = FrameSize(24, 16, 3), FrameSize(24, 16, 1)
DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 numbered frames, 25 a second."""
    return write_video(tmp_path_factory.mktemp("decode") / "numbered.avi", numbered(40))


@pytest.mark.parametrize(
    ("sampling", "wanted", "fps"),
    [
        pytest.param(Sampling(), list(range(40)), 25, id="all"),
        pytest.param(Sampling(max_frames=7), list(range(7)), 25, id="max_frames"),
        pytest.param(Sampling(max_frames=99), list(range(40)), 25, id="max_frames beyond the end"),
        pytest.param(Sampling(num_frames=4), [5, 15, 25, 35], 2.5, id="num_frames"),
        pytest.param(Sampling(num_frames=1), [20], 0.625, id="one in the middle"),
        pytest.param(Sampling(num_frames=64), list(range(40)), 25, id="num_frames beyond what there is"),
        pytest.param(Sampling(num_frames=64, max_frames=4), [5, 15, 25, 35], 2.5, id="num_frames and max_frames"),
        pytest.param(Sampling(fps=12.5), list(range(0, 40, 2)), 12.5, id="every other"),
        pytest.param(Sampling(fps=10), [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28, 30, 33, 35, 38], 10, id="2 of 5"),
        pytest.param(Sampling(fps=100), list(range(40)), 25, id="fps above the file's"),
        pytest.param(Sampling(fps=12.5, max_frames=3), [0, 2, 4], 12.5, id="fps and max_frames"),
        pytest.param(Sampling(every=1), list(range(40)), 25, id="every one"),
        pytest.param(Sampling(every=4), list(range(0, 40, 4)), 6.25, id="every fourth"),
        pytest.param(Sampling(every=10, max_frames=3), [0, 10, 20], 2.5, id="every tenth and max_frames"),
        pytest.param(Sampling(every=99), [0], 25 / 99, id="every beyond the end"),
    ],
)
def test_sampling_takes_these_frames(video: Path, sampling: Sampling, wanted: list[int], fps: float) -> None:
    decoded = decode(video, RGB, sampling)
    assert read_numbers(decoded.frames) == wanted
    assert decoded.fps == pytest.approx(fps)


@pytest.mark.parametrize("frame", [RGB, GREY], ids=["RGB", "grey"])
def test_frames_are_averaged_over_area_in_rgb_order(tmp_path: Path, frame: FrameSize) -> None:
    source = moving_square(6)
    source[..., 0] //= 2
    decoded = decode(write_video(tmp_path / "a.avi", source), frame, Sampling()).frames
    assert (decoded.dtype, decoded.shape, decoded.flags.c_contiguous) == (np.uint8, (6, *frame.shape), True)
    wanted = source.reshape(6, 16, 2, 24, 2, 3).mean(axis=(2, 4))
    if frame is GREY:
        wanted = (wanted @ [0.299, 0.587, 0.114])[..., None]
    # Motion JPEG halves the resolution of colour.
    assert np.abs(decoded - wanted).mean() < 6


def gradient(height: int, width: int) -> np.ndarray:
    """uint8 [2, H, W, 3]: two frames, brighter to the right and downwards, a colour each; nowhere black."""
    across, down = np.linspace(60, 250, width), np.linspace(60, 250, height)
    picture = np.stack(np.broadcast_arrays(across, down[:, None], 150), axis=2)
    return np.stack([picture, picture[..., ::-1]]).astype(np.uint8)


def halved(frames: np.ndarray) -> np.ndarray:
    """[T, H / 2, W / 2, C]: means of 2 x 2 pixels."""
    return (frames.reshape(len(frames), frames.shape[1] // 2, 2, frames.shape[2] // 2, 2, -1)).mean(axis=(2, 4))


@pytest.mark.parametrize("channels", [3, 1], ids=["RGB", "grey"])
@pytest.mark.parametrize(
    ("fit", "width", "height", "rows", "columns", "bars"),
    [
        pytest.param("stretch", 24, 16, slice(None), slice(None), (0, 0), id="stretch, same aspect ratio"),
        pytest.param("crop", 24, 16, slice(None), slice(None), (0, 0), id="crop, same aspect ratio"),
        pytest.param("letterbox", 24, 16, slice(None), slice(None), (0, 0), id="letterbox, same aspect ratio"),
        pytest.param("crop", 16, 16, slice(None), slice(8, 40), (0, 0), id="crop left and right"),
        pytest.param("crop", 24, 8, slice(8, 24), slice(None), (0, 0), id="crop above and below"),
        pytest.param("letterbox", 24, 28, slice(None), slice(None), (6, 0), id="bars above and below"),
        pytest.param("letterbox", 40, 16, slice(None), slice(None), (0, 8), id="bars left and right"),
    ],
)
def test_images_of_another_aspect_ratio_are_fitted(
    tmp_path: Path, fit: str, width: int, height: int, rows: slice, columns: slice, bars: tuple[int, int], channels: int
) -> None:
    source = gradient(32, 48)
    file = write_video(tmp_path / "a.mkv", source, codec="FFV1")
    wanted = np.pad(halved(source[:, rows, columns]), ((0, 0), (bars[0],) * 2, (bars[1],) * 2, (0, 0)))
    if channels == 1:
        wanted = (wanted @ [0.299, 0.587, 0.114])[..., None]
    frames = decode(file, FrameSize(width, height, channels), Sampling(fit=fit)).frames
    assert frames.shape == wanted.shape == (2, height, width, channels)
    assert np.abs(frames - wanted).max() < 3
    assert not frames[wanted == 0].any()


def test_stretched_images_fill_the_frame(tmp_path: Path) -> None:
    source = gradient(32, 48)
    frames = decode(write_video(tmp_path / "a.mkv", source, codec="FFV1"), FrameSize(12, 16, 3), Sampling()).frames
    wanted = source.reshape(2, 16, 2, 12, 4, 3).mean(axis=(2, 4))
    assert np.abs(frames - wanted).max() < 3


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1)], ids=str)
@pytest.mark.parametrize("fit", ["stretch", "crop", "letterbox"])
def test_an_image_of_any_size_is_fitted(tmp_path: Path, size: tuple[int, int], fit: str) -> None:
    file = write_video(tmp_path / "a.avi", np.full((1, *size, 3), 200, np.uint8))
    frames = decode(file, RGB, Sampling(fit=fit)).frames
    assert frames.shape == (1, 16, 24, 3)
    assert 190 < frames.max() < 210


# The rotations in the matrix of the track header, in 16.16 fixed point (the last column in 2.30).
MATRICES = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


@pytest.mark.parametrize("degrees", MATRICES)
def test_rotation_metadata_is_applied(tmp_path: Path, degrees: int) -> None:
    source = gradient(32, 48)
    file = write_video(tmp_path / "a.mp4", source, codec="mp4v")
    content = bytearray(file.read_bytes())
    a, b, c, d = (value << 16 for value in MATRICES[degrees])
    struct.pack_into(">9i", content, content.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    file.write_bytes(content)
    # Clockwise; numpy rotates counterclockwise.
    wanted = np.rot90(source, -degrees // 90, axes=(1, 2))
    frames = decode(file, FrameSize(wanted.shape[2], wanted.shape[1], 3), Sampling()).frames
    assert np.abs(frames.astype(int) - wanted).mean() < 6


def test_sampling_is_stored_as_json_values() -> None:
    sampling = Sampling(max_frames=5, every=2, fit="crop")
    values = {"max_frames": 5, "num_frames": None, "fps": None, "every": 2, "fit": "crop"}
    assert sampling.to_dict() == values
    assert Sampling.from_dict(values) == sampling


def test_sampling_of_older_data_sets_can_be_read() -> None:
    older = {"max_frames": 5, "num_frames": None, "fps": 2.5}
    assert Sampling.from_dict(older) == Sampling(max_frames=5, fps=2.5, every=None, fit="stretch")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_frames": 0}, "max_frames must be above 0, got 0"),
        ({"num_frames": -1}, "num_frames must be above 0, got -1"),
        ({"every": 0}, "every must be above 0, got 0"),
        ({"fps": float("nan")}, "fps must be above 0, got nan"),
        ({"fps": 2.0, "num_frames": 3}, "num_frames=3 and fps=2.0 exclude each other"),
        ({"every": 2, "num_frames": 3}, "num_frames=3 and every=2 exclude each other"),
        ({"every": 2, "fps": 2.0}, "fps=2.0 and every=2 exclude each other"),
        ({"fit": "pad"}, "fit must be stretch, crop or letterbox, got 'pad'"),
    ],
    ids=str,
)
def test_invalid_sampling_is_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling.from_dict(values)


BAD = {
    "missing": ["missing"],
    "empty": ["unreadable"],
    "text": ["unreadable"],
    "garbage": ["unreadable"],
    "headers only": ["no_frames", "unreadable"],
    "half": ["truncated"],
}


@pytest.mark.parametrize("isolated", [False, True], ids=["in process", "isolated"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(num_frames=8)], ids=["all", "num_frames"])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_rejected_with_its_reason(
    tmp_path: Path, kind: str, sampling: Sampling, isolated: bool, decoder: IsolatedDecoder
) -> None:
    file = write_bad(tmp_path, kind)
    with pytest.raises(RejectedError) as error:
        (decoder.decode if isolated else decode)(file, RGB, sampling)
    assert error.value.reason in BAD[kind]
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Drops the rights of root, which can read everything, inside the block."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("forbidden", ["clips/a.avi", "clips"], ids=["file", "folder"])
def test_a_file_without_read_permission_is_unreadable(forbidden: str) -> None:
    # Not tmp_path, which is in a folder that only its owner can enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        file = write_video(folder / "clips" / "a.avi", moving_square())
        mode = (folder / forbidden).stat().st_mode
        with without_privileges():
            assert len(decode(file, RGB, Sampling()).frames) == 12
        (folder / forbidden).chmod(0)
        with without_privileges(), pytest.raises(RejectedError) as error:
            decode(file, RGB, Sampling())
        (folder / forbidden).chmod(mode)
    assert error.value.reason == "unreadable"


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        pytest.param("picture.png", None, id="PNG"),
        pytest.param("picture.jpg", None, id="JPEG"),
        pytest.param("picture.gif", None, id="still GIF"),
        pytest.param("animation.gif", 5, id="animated GIF"),
    ],
)
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(max_frames=1)], ids=["all", "one"])
def test_a_still_image_is_not_a_video(tmp_path: Path, file: str, wanted: int | None, sampling: Sampling) -> None:
    if wanted is None:
        assert cv2.imwrite(str(tmp_path / file), gradient(32, 48)[0])
    else:
        animation = cv2.Animation()
        animation.frames = [np.full((32, 48, 4), 50 * t, np.uint8) for t in range(wanted)]
        animation.durations = np.full(wanted, 100)
        assert cv2.imwriteanimation(str(tmp_path / file), animation)
    clip = (tmp_path / file).rename(tmp_path / "clip.avi")
    if wanted is None:
        with pytest.raises(RejectedError, match="unreadable"):
            decode(clip, RGB, sampling)
    else:
        assert len(decode(clip, RGB, sampling).frames) == (sampling.max_frames or wanted)


def test_announced_frames_beyond_what_the_file_can_hold_are_ignored(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.avi", numbered(40))
    content = bytearray(file.read_bytes())
    for place in (content.index(b"avih") + 24, content.index(b"strh") + 40):
        struct.pack_into("<I", content, place, 2**31 - 1)
    file.write_bytes(content)
    assert read_numbers(decode(file, RGB, Sampling()).frames) == list(range(40))
    assert read_numbers(decode(file, RGB, Sampling(num_frames=4)).frames) == [5, 15, 25, 35]
    with IsolatedDecoder(60) as decoder:
        assert decoder.count_frames(file) == 0


def test_a_header_with_twice_the_true_rate_is_accepted_but_a_gap_is_not(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.ts", numbered(40), codec="MPG1")
    assert cv2.VideoCapture(str(file), cv2.CAP_FFMPEG).get(cv2.CAP_PROP_FRAME_COUNT) > 70
    assert len(decode(file, RGB, Sampling()).frames) == 40
    content = file.read_bytes()
    quarter = len(content) // 188 // 4 * 188
    file.write_bytes(content[:quarter] + content[-quarter:])
    with pytest.raises(RejectedError, match="truncated"):
        decode(file, RGB, Sampling())


def test_a_clip_beyond_the_limit_is_too_large(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CLIP_BYTES", 40 * RGB.size)
    assert len(decode(video, RGB, Sampling()).frames) == 40
    monkeypatch.setattr(module, "MAX_CLIP_BYTES", 40 * RGB.size - 1)
    with pytest.raises(RejectedError, match="too_large"):
        decode(video, RGB, Sampling())
    assert len(decode(video, RGB, Sampling(every=2)).frames) == 20


def test_a_frame_beyond_the_limit_is_too_large(video: Path) -> None:
    with IsolatedDecoder(60) as decoder:
        with pytest.raises(RejectedError, match="too_large"):
            decoder.decode(video, FrameSize(30000, 30000, 3), Sampling())
        assert len(decoder.decode(video, RGB, Sampling()).frames) == 40


def test_a_truncated_file_is_accepted_if_the_missing_part_is_not_needed(tmp_path: Path) -> None:
    file = cut_in_half(write_video(tmp_path / "half.avi", numbered(44)))
    assert read_numbers(decode(file, RGB, Sampling(max_frames=10)).frames) == list(range(10))


def test_a_truncated_file_with_a_hundred_frames_is_accepted_and_sampled_over_them(tmp_path: Path) -> None:
    file = write_video(tmp_path / "long.avi", numbered(240))
    cut_in_half(file)
    num_left = len(decode(file, RGB, Sampling()).frames)
    assert 100 <= num_left <= 120
    wanted = [(2 * i + 1) * num_left // 10 for i in range(5)]
    assert read_numbers(decode(file, RGB, Sampling(num_frames=5)).frames) == wanted


def test_bad_files_are_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for kind in ("text", "garbage", "half"):
        with pytest.raises(RejectedError):
            decode(write_bad(tmp_path, kind), RGB, Sampling())
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not DATA.exists(), reason=f"no real videos in {DATA}")
@pytest.mark.parametrize(
    ("file", "num_frames"),
    [
        ("ucf11/basketball/v_shooting_01/v_shooting_01_01.mpg", 108),
        ("ucf101_10/BandMarching/v_BandMarching_g21_c06.avi", 125),
        ("ucf101_10/Archery/v_Archery_g08_c01.avi", 253),
    ],
    ids=["MPEG-1, miscounting header", "cut to 37%", "cut to 70%"],
)
def test_real_files_with_wrong_headers_are_accepted(file: str, num_frames: int) -> None:
    assert len(decode(DATA / file, RGB, Sampling()).frames) == num_frames


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(max_frames=7), Sampling(fps=12.5), Sampling(every=4), Sampling(every=4, max_frames=3)],
    ids=["all", "max_frames", "fps", "every", "every and max_frames"],
)
def test_images_of_a_video_are_those_of_the_clip(video: Path, sampling: Sampling) -> None:
    fps, images = open_images(str(video), sampling)
    clip = decode(video, FrameSize(48, 32, 3), sampling)
    assert fps == pytest.approx(clip.fps)
    times, pixels = zip(*((seconds, image.copy()) for seconds, image, _ in images), strict=True)
    np.testing.assert_array_equal(pixels, clip.frames)
    assert list(times) == clip.times


@pytest.mark.parametrize("kind", ["missing", "text", "headers only", "half"])
def test_images_of_a_bad_file_end_with_the_reason_of_the_clip(tmp_path: Path, kind: str) -> None:
    file = write_bad(tmp_path, kind)
    reasons = []
    for work in (lambda: decode(file, RGB, Sampling()), lambda: list(open_images(str(file), Sampling())[1])):
        with pytest.raises(RejectedError) as error:
            work()
        reasons.append(error.value.reason)
    assert reasons[0] == reasons[1]

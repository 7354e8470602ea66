"""pipelines/decode.py: the right frames at the right size; bad files cost themselves and nothing else."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.decode import REASONS, IsolatedDecoder, RejectedError, Sampling, decode
from pipelines.shards import Frame
from tests.videos import DyingDecoder, cut_in_half, moving_square, numbered, read_numbers, write_video

RGB, GREY = Frame(24, 16, 3), Frame(24, 16, 1)
DATA = Path(__file__).parents[2] / "shared" / "data"


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
    ],
)
def test_sampling_takes_these_frames(video: Path, sampling: Sampling, wanted: list[int], fps: float) -> None:
    decoded = decode(video, RGB, sampling)
    assert read_numbers(decoded.frames) == wanted
    assert decoded.fps == pytest.approx(fps)


@pytest.mark.parametrize("frame", [RGB, GREY], ids=["RGB", "grey"])
def test_frames_are_averaged_over_area_in_rgb_order(tmp_path: Path, frame: Frame) -> None:
    source = moving_square(6)
    source[..., 0] //= 2
    decoded = decode(write_video(tmp_path / "a.avi", source), frame, Sampling()).frames
    assert (decoded.dtype, decoded.shape, decoded.flags.c_contiguous) == (np.uint8, (6, *frame.shape), True)
    wanted = source.reshape(6, 16, 2, 24, 2, 3).mean(axis=(2, 4))
    if frame is GREY:
        wanted = (wanted @ [0.299, 0.587, 0.114])[..., None]
    # Motion JPEG halves the resolution of colour.
    assert np.abs(decoded - wanted).mean() < 6


def test_sampling_travels_as_json_values() -> None:
    sampling = Sampling(max_frames=5, fps=2.5)
    assert sampling.to_dict() == {"max_frames": 5, "num_frames": None, "fps": 2.5}
    assert Sampling.from_dict(sampling.to_dict()) == sampling


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_frames": 0}, "max_frames must be above 0, got 0"),
        ({"num_frames": -1}, "num_frames must be above 0, got -1"),
        ({"fps": float("nan")}, "fps must be above 0, got nan"),
        ({"fps": 2.0, "num_frames": 3}, "num_frames=3 and fps=2.0 exclude each other"),
    ],
    ids=str,
)
def test_senseless_sampling_is_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling.from_dict(values)


def write_bad(path: Path, kind: str) -> Path:
    file = path / f"{kind.replace(' ', '_')}.avi"
    if kind in ("half", "headers only"):
        write_video(file, moving_square(44))
        if kind == "half":
            return cut_in_half(file)
        file.write_bytes(file.read_bytes()[: file.read_bytes().index(b"movi") + 4])
    elif kind != "missing":
        file.write_bytes({"empty": b"", "text": b"not a video\n" * 99, "garbage": os.urandom(5000)}[kind])
    return file


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
def test_a_bad_file_is_rejected_with_its_reason(tmp_path: Path, kind: str, sampling: Sampling, isolated: bool) -> None:
    file = write_bad(tmp_path, kind)
    with IsolatedDecoder(60) as decoder, pytest.raises(RejectedError) as error:
        (decoder.decode if isolated else decode)(file, RGB, sampling)
    assert error.value.reason in BAD[kind]
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_named_like_a_video_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.avi").mkdir()
    with pytest.raises(RejectedError, match="unreadable"):
        decode(tmp_path / "a.avi", RGB, Sampling())


def test_a_cut_file_counts_only_as_far_as_it_is_needed(tmp_path: Path) -> None:
    file = cut_in_half(write_video(tmp_path / "half.avi", numbered(44)))
    assert read_numbers(decode(file, RGB, Sampling(max_frames=10)).frames) == list(range(10))


def test_a_cut_file_with_a_hundred_frames_left_is_kept_and_sampled_over_what_is_left(tmp_path: Path) -> None:
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


def test_isolated_frames_equal_those_decoded_here(tmp_path: Path) -> None:
    files = [write_video(tmp_path / f"{n}.avi", moving_square(n)) for n in (5, 30, 3)]
    with IsolatedDecoder(60) as decoder:
        for file in files:
            for frame in (RGB, GREY):
                np.testing.assert_array_equal(
                    decoder.decode(file, frame, Sampling()).frames, decode(file, frame, Sampling()).frames
                )


@pytest.mark.parametrize(("deaths", "reason"), [(1, None), (2, "crashed")])
def test_a_decoder_that_dies_twice_costs_its_clip_only(video: Path, deaths: int, reason: str | None) -> None:
    with DyingDecoder(60) as decoder:
        decoder.deaths = deaths
        if reason is None:
            assert len(decoder.decode(video, RGB, Sampling()).frames) == 40
        else:
            with pytest.raises(RejectedError) as error:
                decoder.decode(video, RGB, Sampling())
            assert error.value.reason == reason
        assert len(decoder.decode(video, RGB, Sampling()).frames) == 40


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_decoder_that_hangs_costs_its_clip_only(tmp_path: Path, video: Path) -> None:
    pipe = tmp_path / "pipe.avi"
    os.mkfifo(pipe)  # nobody writes to it
    with IsolatedDecoder(0.5) as decoder:
        with pytest.raises(RejectedError) as error:
            decoder.decode(pipe, RGB, Sampling())
        assert error.value.reason == "timed_out"
        decoder.time_limit_s = 60
        assert len(decoder.decode(video, RGB, Sampling()).frames) == 40


def test_a_decoder_that_cannot_start_is_no_fault_of_the_clip(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with IsolatedDecoder(60) as decoder, pytest.raises(RuntimeError, match="does not start"):
        decoder.decode(video, RGB, Sampling())


def test_the_child_ends_with_its_decoder(video: Path) -> None:
    with IsolatedDecoder(60) as decoder:
        decoder.decode(video, RGB, Sampling())
        process = decoder._process
        assert process is not None
        assert process.poll() is None
    assert process.poll() is not None


def test_every_reason_is_explained() -> None:
    assert set(REASONS) == {"missing", "unreadable", "no_frames", "truncated", "crashed", "timed_out"}


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
def test_real_files_with_wrong_headers_are_kept(file: str, num_frames: int) -> None:
    assert len(decode(DATA / file, RGB, Sampling()).frames) == num_frames

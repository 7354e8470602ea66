"""Sources of frames: videos in a child process, raw bytes, windows."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.video.decode import decode
from pipelines.video.errors import RejectedError, VideoError
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from pipelines.video.sources import open_raw, open_video
from pipelines.video.windows import Length, windows
from pipelines.video.worker import IsolatedDecoder
from tests.videos import numbered, patch_decoding_processes, read_numbers, write_video

RGB = FrameSize(24, 16, 3)


def test_a_video_gives_the_frames_of_the_clip_and_frees_the_decoder_when_left_early(tmp_path: Path) -> None:
    file = write_video(tmp_path / "numbered.avi", numbered(40))
    with IsolatedDecoder(60) as decoder:
        with open_video(file, RGB, Sampling(every=2), decoder) as source:
            times, frames = zip(*((seconds, frame.copy()) for seconds, frame in source.frames), strict=True)
        assert times == pytest.approx(np.arange(20) / 12.5)
        np.testing.assert_array_equal(np.stack(frames), decode(file, RGB, Sampling(every=2)).frames)
        with open_video(file, RGB, Sampling(), decoder) as source:
            assert read_numbers(next(source.frames)[1][None]) == [0]
        assert len(decoder.decode(file, RGB, Sampling()).frames) == 40


@pytest.mark.parametrize(("word", "reason"), [("crash", "crashed"), ("hang ", "timed_out"), ("text ", "unreadable")])
def test_a_decoder_that_crashes_or_hangs_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, reason: str
) -> None:
    patch_decoding_processes(tmp_path, monkeypatch)
    file = tmp_path / "bad.avi"
    file.write_text(word)
    with (
        IsolatedDecoder(1 if reason == "timed_out" else 60) as decoder,
        pytest.raises(RejectedError) as error,
        open_video(file, RGB, Sampling(), decoder),
    ):
        pass
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("num_bytes", "num_frames", "message"),
    [(3 * RGB.size, 3, None), (0, 0, "0 bytes of frame 1"), (3 * RGB.size + 5, 3, "5 bytes of frame 4")],
    ids=["whole frames", "empty", "cut within a frame"],
)
def test_raw_bytes_are_frames_and_an_incomplete_frame_is_an_error(
    tmp_path: Path, num_bytes: int, num_frames: int, message: str | None
) -> None:
    content = np.arange(num_bytes).astype(np.uint8).tobytes()
    (tmp_path / "raw").write_bytes(content)
    found = []
    expected = pytest.raises(VideoError, match=message) if message else contextlib.nullcontext()
    with (tmp_path / "raw").open("rb") as file, expected:
        found.extend(frame.tobytes() for _, frame in open_raw(file.fileno(), RGB).frames)
    assert b"".join(found) == content[: num_frames * RGB.size]
    assert len(found) == num_frames


@pytest.mark.parametrize(
    ("num_frames", "size", "hop", "spans"),
    [
        (10, 5, 5, [(0, 5), (5, 10)]),
        (11, 5, 5, [(0, 5), (5, 10), (10, 11)]),
        (10, 4, 2, [(0, 4), (2, 6), (4, 8), (6, 10)]),
        (9, 4, 2, [(0, 4), (2, 6), (4, 8), (6, 9)]),
        (3, 5, 2, [(0, 3)]),
        (12, 2, 5, [(0, 2), (5, 7), (10, 12)]),
        (0, 5, 5, []),
    ],
)
def test_windows_cover_a_video_and_begin_a_hop_apart(
    num_frames: int, size: int, hop: int, spans: list[tuple[int, int]]
) -> None:
    lengths = Length(size, is_seconds=False), Length(hop, is_seconds=False)
    for rate in (None, 25.0):
        found = [(window.start, window.clip[:, 0, 0, 0].tolist()) for window in windows(at(num_frames, rate), *lengths)]
        assert found == [(start, list(range(start, end))) for start, end in spans]


def at(num_frames: int, rate: float | None) -> Iterator[tuple[float | None, np.ndarray]]:
    """Frames that hold their number, in one buffer, at times in s."""
    return timed([None] * num_frames if rate is None else [number / rate for number in range(num_frames)])


def timed(times: list[float] | list[None]) -> Iterator[tuple[float | None, np.ndarray]]:
    pixels = np.zeros((2, 2, 1), np.uint8)
    for number, seconds in enumerate(times):
        pixels[:] = number
        yield seconds, pixels


# 30 frames at 25 a second, then 30 at 5 a second.
VARIABLE = [number / 25 for number in range(30)] + [1.2 + number / 5 for number in range(30)]


@pytest.mark.parametrize(
    ("times", "size", "hop", "spans"),
    [
        (VARIABLE, "20", "20", [(0, 20, 0, 0.8), (20, 40, 0.8, 3.2), (40, 60, 3.2, 7.2)]),
        (VARIABLE, "2s", "2s", [(0, 34, 0, 2), (34, 44, 2, 4), (44, 54, 4, 6), (54, 60, 6, 7.2)]),
        (VARIABLE, "1s", "3s", [(0, 25, 0, 1), (39, 44, 3, 4), (54, 59, 6, 7)]),
        (VARIABLE, "3s", "2s", [(0, 39, 0, 3), (34, 49, 2, 5), (44, 59, 4, 7), (54, 60, 6, 7.2)]),
        (VARIABLE, "10", "2s", [(0, 10, 0, 0.4), (34, 44, 2, 4), (44, 54, 4, 6), (54, 60, 6, 7.2)]),
        # A pause: no window is empty.
        ([0, 0.1, 0.2, 5.5, 5.6, 5.7], "1s", "1s", [(0, 3, 0, 5.5), (3, 6, 5.5, 5.8)]),
        # Thirds of a second, rounded to milliseconds.
        ([0, 0.333, 0.667, 1, 1.333, 1.667, 2], "1s", "1s", [(0, 3, 0, 1), (3, 6, 1, 2), (6, 7, 2, 2)]),
        # Two frames at one time.
        ([0, 0.5, 0.5, 1], "1s", "1s", [(0, 3, 0, 1), (3, 4, 1, 1)]),
    ],
)
def test_windows_follow_the_times_of_frames(
    times: list[float], size: str, hop: str, spans: list[tuple[int, int, float, float]]
) -> None:
    found = list(windows(timed(times), Length.parse(size, "window"), Length.parse(hop, "hop")))
    assert [(window.start, window.end) for window in found] == [span[:2] for span in spans]
    assert [(window.start_s, window.end_s) for window in found] == [pytest.approx(span[2:]) for span in spans]
    for window in found:
        assert window.clip[:, 0, 0, 0].tolist() == list(range(window.start, window.end))


def test_windows_in_seconds_need_times() -> None:
    with pytest.raises(VideoError, match="give frames"):
        list(windows(at(5, None), Length.parse("1s", "window"), Length.parse("1s", "hop")))


def test_a_window_without_times_is_given_as_soon_as_its_last_frame_is_there() -> None:
    source = at(7, None)
    first = next(windows(source, Length.parse("4", "window"), Length.parse("2", "hop")))
    assert first.end == 4
    assert len(list(source)) == 3

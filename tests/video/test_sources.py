"""Sources of frames: videos in a child process, raw bytes, windows."""

import contextlib
from pathlib import Path

import numpy as np
import pytest

from pipelines.video.decode import decode
from pipelines.video.errors import RejectedError, VideoError
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from pipelines.video.sources import open_raw, open_video
from pipelines.video.windows import windows
from pipelines.video.worker import IsolatedDecoder
from tests.videos import numbered, patch_decoding_processes, read_numbers, write_video

RGB = FrameSize(24, 16, 3)


def test_a_video_gives_the_frames_of_the_clip_and_frees_the_decoder_when_left_early(tmp_path: Path) -> None:
    file = write_video(tmp_path / "numbered.avi", numbered(40))
    with IsolatedDecoder(60) as decoder:
        with open_video(file, RGB, Sampling(every=2), decoder) as source:
            assert source.fps == pytest.approx(12.5)
            found = np.stack([frame.copy() for frame in source.frames])
        np.testing.assert_array_equal(found, decode(file, RGB, Sampling(every=2)).frames)
        with open_video(file, RGB, Sampling(), decoder) as source:
            assert read_numbers(next(source.frames)[None]) == [0]
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
        found.extend(frame.tobytes() for frame in open_raw(file.fileno(), RGB).frames)
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
    pixels = np.zeros((2, 2, 1), np.uint8)

    def each():
        for number in range(num_frames):
            pixels[:] = number
            yield pixels

    found = [(start, clip[:, 0, 0, 0].tolist()) for start, clip in windows(each(), size, hop)]
    assert found == [(start, list(range(start, end))) for start, end in spans]

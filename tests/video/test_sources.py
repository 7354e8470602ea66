"""pipelines/frames.py: frames one after another; a decoding process that dies or hangs costs its video only."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.video import sources as frames
from pipelines.video.decode import RejectedError, decode
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from pipelines.video.windows import windows
from tests.videos import haunt_children, numbered, read_numbers, write_video

RGB = FrameSize(24, 16, 3)


def children() -> set[str]:
    """Processes of this one, zombies included."""
    found = (task / "children" for task in Path("/proc/self/task").iterdir())
    return {pid for file in found for pid in file.read_text().split()}


def test_frames_of_a_process_are_those_of_the_clip_and_it_ends_with_the_block(tmp_path: Path) -> None:
    before = children()
    file = write_video(tmp_path / "numbered.avi", numbered(40))
    with frames.video(file, RGB, Sampling(every=2), 60) as source:
        assert children() > before
        assert source.fps == pytest.approx(12.5)
        found = np.stack([frame.copy() for frame in source.each])
    np.testing.assert_array_equal(found, decode(file, RGB, Sampling(every=2)).frames)
    with frames.video(file, RGB, Sampling(), 60) as source:
        assert read_numbers(next(source.each)[None]) == [0]
    # It was killed, and waited for, at the block's end.
    assert children() <= before


@pytest.mark.parametrize(("word", "reason"), [("crash", "crashed"), ("hang ", "timed_out"), ("text ", "unreadable")])
def test_a_process_that_dies_or_hangs_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, reason: str
) -> None:
    haunt_children(tmp_path, monkeypatch)
    file = tmp_path / "bad.avi"
    file.write_text(word)
    # Long enough to start in.
    limit_s = 6 if reason == "timed_out" else 60
    with pytest.raises(RejectedError) as error, frames.video(file, RGB, Sampling(), limit_s):
        pass
    assert error.value.reason == reason


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

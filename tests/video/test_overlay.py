"""Captions on a copy of a video: the images are kept, and a decoder that crashes leaves this process and no file."""

import errno
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.core.errors import StepError
from pipelines.video import overlay
from pipelines.video.decode import decode
from pipelines.video.errors import RejectedError
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from tests.videos import cut_in_half, moving_square, numbered, patch_decoding_processes, write_bad, write_video

SIZE = FrameSize(96, 64, 3)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """30 images of 96 x 64 pixels, mid-grey."""
    return write_video(tmp_path / "videos" / "grey.avi", np.full((30, 64, 96, 3), 120, np.uint8))


def test_captions_are_shown_from_their_time_on_and_the_rest_of_the_image_stays(tmp_path: Path, video: Path) -> None:
    out = tmp_path / "out.mp4"
    assert overlay.annotate(video, out, [(0.4, "first"), (0.8, "")], time_limit_s=60) == 30
    frames = decode(out, SIZE, Sampling()).frames.astype(int)
    assert frames.shape == (30, 64, 96, 3)
    strip, rest = frames[:, -20:], frames[:, :30]
    assert np.abs(rest - 120).mean() < 6
    has_caption = np.abs(strip - 120).mean(axis=(1, 2, 3)) > 20
    assert has_caption.tolist() == [10 <= number < 20 for number in range(30)]


@pytest.mark.parametrize(("word", "reason"), [("crash", "crashed"), ("hang ", "timed_out")])
def test_a_decoder_that_crashes_or_hangs_rejects_the_video_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, reason: str
) -> None:
    patch_decoding_processes(tmp_path, monkeypatch)
    (tmp_path / "bad.avi").write_text(word)
    (tmp_path / "out").mkdir()
    with pytest.raises(RejectedError) as error:
        overlay.annotate(tmp_path / "bad.avi", tmp_path / "out" / "out.mp4", [], time_limit_s=1)
    assert error.value.reason == reason
    assert not list((tmp_path / "out").iterdir())


def test_a_truncated_video_is_copied_as_far_as_it_decodes(tmp_path: Path) -> None:
    file = cut_in_half(write_video(tmp_path / "cut.avi", numbered(44)))
    num_images = overlay.annotate(file, tmp_path / "out.mp4", [(0.0, "a")], time_limit_s=60)
    assert 10 < num_images < 30
    assert len(decode(tmp_path / "out.mp4", SIZE, Sampling()).frames) == num_images


def test_images_keep_their_times(tmp_path: Path) -> None:
    video = tmp_path / "variable.mp4"
    times = [*(number / 25 for number in range(10)), *(0.4 + number / 5 for number in range(10))]
    with av.open(str(video), "w") as file:
        track = file.add_stream("mpeg4", rate=25)
        track.width, track.height, track.codec_context.time_base = 96, 64, Fraction(1, 1000)
        for seconds in times:
            image = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 120, np.uint8), format="rgb24")
            image.pts, image.time_base = round(seconds * 1000), Fraction(1, 1000)
            file.mux(track.encode(image))
        file.mux(track.encode())
    assert overlay.annotate(video, tmp_path / "out.mp4", [(1.0, "late")], time_limit_s=60) == 20
    copy = decode(tmp_path / "out.mp4", SIZE, Sampling())
    assert copy.times == pytest.approx(times, abs=2e-3)
    has_caption = np.abs(copy.frames[:, -20:].astype(int) - 120).mean(axis=(1, 2, 3)) > 20
    assert has_caption.tolist() == [seconds >= 1 for seconds in times]


@pytest.mark.parametrize("kind", ["missing", "text", "headers only"])
def test_a_bad_file_is_rejected_and_writes_nothing(tmp_path: Path, kind: str) -> None:
    with pytest.raises(RejectedError):
        overlay.annotate(write_bad(tmp_path, kind), tmp_path / "out.mp4", [], time_limit_s=60)
    assert not list(tmp_path.glob("*.mp4*"))
    assert not list(tmp_path.glob(".*"))


def test_a_file_that_cannot_be_written_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_video(tmp_path / "videos" / "a.avi", moving_square(12))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(overlay, "_with_caption", full)
    with pytest.raises(StepError, match=r"out.mp4 can't be written: No space left"):
        overlay.annotate(file, tmp_path / "out.mp4", [(0.0, "up")], time_limit_s=60)
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]

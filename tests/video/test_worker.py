"""Decoding in a child: a crash or a hang affects only its own clip, and frames arrive complete and in order."""

import itertools
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.video import child
from pipelines.video.decode import Decoded, decode
from pipelines.video.errors import RejectedError
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from pipelines.video.worker import IsolatedDecoder
from tests.videos import (
    DyingDecoder,
    cut_in_half,
    moving_square,
    numbered,
    patch_decoding_processes,
    read_numbers,
    write_bad,
    write_video,
)

RGB, GREY = FrameSize(24, 16, 3), FrameSize(24, 16, 1)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 numbered frames, 25 a second."""
    return write_video(tmp_path_factory.mktemp("isolation") / "numbered.avi", numbered(40))


def test_frames_decoded_in_a_child_equal_those_decoded_in_this_process(
    tmp_path: Path, decoder: IsolatedDecoder
) -> None:
    files = [write_video(tmp_path / f"{n}.avi", moving_square(n)) for n in (5, 30, 3)]
    for file in files:
        for frame in (RGB, GREY):
            np.testing.assert_array_equal(
                decoder.decode(file, frame, Sampling()).frames, decode(file, frame, Sampling()).frames
            )


@pytest.mark.parametrize(("deaths", "reason"), [(1, None), (2, "crashed")])
def test_a_clip_is_rejected_after_two_crashes_only(video: Path, deaths: int, reason: str | None) -> None:
    with DyingDecoder(60) as decoder:
        decoder.deaths = deaths
        if reason is None:
            assert len(decoder.decode(video, RGB, Sampling()).frames) == 40
        else:
            with pytest.raises(RejectedError) as error:
                decoder.decode(video, RGB, Sampling())
            assert error.value.reason == reason
        assert len(decoder.decode(video, RGB, Sampling()).frames) == 40


@pytest.fixture
def harmful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files named after their effect on decoding processes: crash, hang, once (crash once)."""
    patch_decoding_processes(tmp_path, monkeypatch)
    for word in ("crash", "hang", "once"):
        (tmp_path / word).write_text(f"{word} " * 9)
    return tmp_path


def outcome(result: Decoded | RejectedError) -> str | int:
    return result.reason if isinstance(result, RejectedError) else len(result.frames)


@pytest.mark.parametrize("word", ["crash", "hang"])
def test_a_decoder_that_crashes_or_hangs_affects_only_its_own_clip(harmful: Path, video: Path, word: str) -> None:
    reason = {"crash": "crashed", "hang": "timed_out"}[word]
    with IsolatedDecoder(1) as decoder:
        results = decoder.decode_many([video, harmful / word, video, video, harmful / word], RGB, Sampling())
        assert list(map(outcome, results)) == [40, reason, 40, 40, reason]
        assert len(decoder.decode(video, RGB, Sampling()).frames) == 40


def test_a_clip_is_retried_after_a_crash(harmful: Path, video: Path) -> None:
    with IsolatedDecoder(60) as decoder:
        results = decoder.decode_many([video, harmful / "once", video], RGB, Sampling())
        # The retry finds that it is not a video.
        assert list(map(outcome, results)) == [40, "unreadable", 40]


def test_many_clips_arrive_in_order_and_equal_those_decoded_in_this_process(
    tmp_path: Path, video: Path, decoder: IsolatedDecoder
) -> None:
    files = [write_video(tmp_path / f"{n}.avi", moving_square(n)) for n in (5, 30, 3)]
    files = [files[0], tmp_path / "missing.avi", *files[1:], write_bad(tmp_path, "text"), video]
    for number, result in enumerate(decoder.decode_many(files, RGB, Sampling())):
        if isinstance(result, RejectedError):
            assert result.reason == {1: "missing", 4: "unreadable"}[number]
        else:
            np.testing.assert_array_equal(result.frames, decode(files[number], RGB, Sampling()).frames)
    assert list(decoder.decode_many([], RGB, Sampling())) == []


def test_paths_are_read_one_ahead_of_the_results(video: Path, decoder: IsolatedDecoder) -> None:
    drawn = []

    def paths() -> Iterator[Path]:
        for number in range(5):
            drawn.append(number)
            yield video

    results = decoder.decode_many(paths(), RGB, Sampling())
    assert len(drawn) == 0
    for number, _ in enumerate(results):
        assert len(drawn) == min(number + 2, 5)


def test_frames_stay_valid_while_the_next_clip_is_decoded(
    tmp_path: Path, video: Path, decoder: IsolatedDecoder
) -> None:
    other = write_video(tmp_path / "other.avi", moving_square(40))
    wanted = decode(video, RGB, Sampling()).frames
    results = decoder.decode_many([video, other, video, tmp_path / "none", video, other], RGB, Sampling())
    for _ in range(3):
        result = next(results)
        assert isinstance(result, Decoded)
        # The answer for the clip ahead has arrived, so it is decoded.
        assert decoder._connection.poll(60)
        np.testing.assert_array_equal(result.frames, wanted)
        next(results)
    np.testing.assert_array_equal(result.frames, wanted)


def test_calls_that_interrupt_each_other_never_get_the_answer_to_another_call(
    tmp_path: Path, video: Path, decoder: IsolatedDecoder
) -> None:
    other = write_video(tmp_path / "other.avi", moving_square(7))
    results = decoder.decode_many([other, other, other, other], RGB, Sampling())
    assert outcome(next(results)) == 7
    assert len(decoder.decode(video, RGB, Sampling()).frames) == 40
    assert outcome(next(results)) == 7
    more = decoder.decode_many([video, video, video], RGB, Sampling())
    assert outcome(next(more)) == 40
    assert outcome(next(results)) == 7
    assert outcome(next(more)) == 40
    assert decoder.count_frames(other) == 7
    results.close()
    assert outcome(next(more)) == 40
    assert list(more) == []


def test_memory_of_an_unusually_long_clip_is_freed(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bytes_taken() -> int:
        return sum(os.fstat(memory.file.fileno()).st_blocks * 512 for memory in decoder._memories)

    with IsolatedDecoder(60) as decoder:
        for _ in range(4):
            decoder.decode(video, RGB, Sampling())
        assert 2 * 40 * RGB.size <= bytes_taken() < 4 * 40 * RGB.size
        monkeypatch.setattr(child, "_KEPT_BYTES", 40 * RGB.size - 1)
        wanted = decode(video, RGB, Sampling(max_frames=1)).frames
        for _ in range(2):
            np.testing.assert_array_equal(decoder.decode(video, RGB, Sampling(max_frames=1)).frames, wanted)
        assert bytes_taken() < 40 * RGB.size


def test_count_frames_returns_what_the_header_announces(harmful: Path, video: Path) -> None:
    cut = cut_in_half(write_video(harmful / "cut.avi", numbered(60)))
    with IsolatedDecoder(60) as decoder:
        assert decoder.count_frames(video) == 40
        assert decoder.count_frames(cut) == 60
        for bad in (harmful / "nothing", harmful, harmful / "crash", write_bad(harmful, "text")):
            assert decoder.count_frames(bad) == 0
        assert decoder.count_frames(harmful / "hang", time_limit_s=0.5) == 0
        assert decoder.count_frames(video) == 40


def test_a_decoding_process_that_does_not_start_is_no_rejection(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with IsolatedDecoder(60) as decoder, pytest.raises(RuntimeError, match="does not start"):
        decoder.decode(video, RGB, Sampling())


@pytest.mark.skipif(sys.platform != "linux", reason="the address space is limited on Linux only")
def test_the_memory_of_a_child_is_limited(video: Path, decoder: IsolatedDecoder) -> None:
    decoder.decode(video, RGB, Sampling())
    assert decoder._process is not None
    limit, _ = resource.prlimit(decoder._process.pid, resource.RLIMIT_AS)
    assert 2**33 < limit < 2**34
    assert resource.prlimit(decoder._process.pid, resource.RLIMIT_CORE) == (0, 0)


def test_the_child_ends_with_its_decoder(video: Path) -> None:
    with IsolatedDecoder(60) as decoder:
        decoder.decode(video, RGB, Sampling())
        process = decoder._process
        assert process is not None
        assert process.poll() is None
    assert process.poll() is not None


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(every=2), Sampling(max_frames=7)], ids=str)
@pytest.mark.parametrize("frame", [RGB, GREY], ids=["RGB", "grey"])
def test_a_stream_has_the_frames_of_the_clip_and_times(
    video: Path, sampling: Sampling, frame: FrameSize, decoder: IsolatedDecoder
) -> None:
    clip = decode(video, frame, sampling)
    stream = decoder.stream(video, frame, sampling)
    assert (stream.fps, stream.frame) == (pytest.approx(clip.fps), frame)
    times, frames = zip(*((seconds, pixels.copy()) for seconds, pixels in stream.frames), strict=True)
    np.testing.assert_array_equal(frames, clip.frames)
    np.testing.assert_allclose(times, np.arange(len(clip.frames)) * (sampling.every or 1) / 25, atol=1e-3)


def test_a_stream_may_keep_the_size_of_the_images(tmp_path: Path, decoder: IsolatedDecoder) -> None:
    source = moving_square(5)
    stream = decoder.stream(write_video(tmp_path / "a.mkv", source, codec="FFV1"), None, Sampling())
    assert stream.frame == FrameSize(48, 32, 3)
    found = np.stack([pixels.copy() for _, pixels in stream.frames])
    # Up to the conversion between colour spaces in the file.
    assert np.abs(found.astype(int) - source).max() <= 3


def test_streams_and_clips_share_a_child_and_a_stream_that_is_closed_early_costs_no_other(
    video: Path, decoder: IsolatedDecoder
) -> None:
    assert len(decoder.decode(video, RGB, Sampling()).frames) == 40
    process = decoder._process
    for _ in range(2):
        assert len(list(decoder.stream(video, RGB, Sampling()).frames)) == 40
    assert len(decoder.decode(video, RGB, Sampling()).frames) == 40
    assert decoder._process is process
    stream = decoder.stream(video, RGB, Sampling())
    assert read_numbers(next(stream.frames)[1][None]) == [0]
    stream.frames.close()
    assert len(decoder.decode(video, RGB, Sampling()).frames) == 40


@pytest.mark.parametrize(("word", "reason"), [("crash", "crashed"), ("hang", "timed_out"), ("once", "unreadable")])
def test_a_stream_that_crashes_or_hangs_is_rejected(harmful: Path, video: Path, word: str, reason: str) -> None:
    with IsolatedDecoder(1) as decoder:
        with pytest.raises(RejectedError) as error:
            decoder.stream(harmful / word, RGB, Sampling())
        assert error.value.reason == reason
        assert len(list(decoder.stream(video, RGB, Sampling()).frames)) == 40


def test_a_stream_whose_child_dies_midway_is_rejected_after_the_frames_that_arrived(tmp_path: Path) -> None:
    file = write_video(tmp_path / "long.avi", numbered(200))
    with IsolatedDecoder(60) as decoder:
        frames = decoder.stream(file, RGB, Sampling()).frames
        assert len(list(itertools.islice(frames, 40))) == 40
        assert decoder._process is not None
        decoder._process.kill()
        decoder._process.wait()
        rest: list[float] = []
        with pytest.raises(RejectedError, match="crashed"):
            rest.extend(seconds for seconds, _ in frames)
        # Blocks of 32 frames; one may have been decoded ahead.
        assert len(rest) in (24, 56)
        assert len(decoder.decode(file, RGB, Sampling()).frames) == 200


def test_a_truncated_stream_gives_its_frames_before_the_reason(tmp_path: Path, decoder: IsolatedDecoder) -> None:
    file, times = cut_in_half(write_video(tmp_path / "cut.avi", numbered(44))), []
    with pytest.raises(RejectedError, match="truncated"):
        times.extend(seconds for seconds, _ in decoder.stream(file, RGB, Sampling()).frames)
    assert 10 < len(times) < 30


def test_a_stream_of_frames_beyond_the_limit_is_too_large(video: Path) -> None:
    with IsolatedDecoder(60) as decoder, pytest.raises(RejectedError, match="too_large"):
        list(decoder.stream(video, FrameSize(30000, 30000, 3), Sampling()).frames)


def test_decoding_loads_neither_pyarrow_nor_torch_nor_ray() -> None:
    code = (
        "import sys, pipelines.video.worker, pipelines.video.overlay, pipelines.video.sources;"
        "print([name for name in ('pyarrow', 'torch', 'ray', 'pandas') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

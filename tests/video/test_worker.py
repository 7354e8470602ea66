"""pipelines/isolation.py: a decoder that dies or hangs costs its clip only, and frames come in order and unharmed."""

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.video import worker as module
from pipelines.video.decode import Decoded, RejectedError, decode
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from pipelines.video.worker import IsolatedDecoder
from tests.videos import (
    DyingDecoder,
    cut_in_half,
    haunt_children,
    moving_square,
    numbered,
    write_bad,
    write_video,
)

RGB, GREY = FrameSize(24, 16, 3), FrameSize(24, 16, 1)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 numbered frames, 25 a second."""
    return write_video(tmp_path_factory.mktemp("isolation") / "numbered.avi", numbered(40))


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


@pytest.fixture
def haunted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files named after what decoding processes make of them: crash, hang, once (die of it, once)."""
    haunt_children(tmp_path, monkeypatch)
    for word in ("crash", "hang", "once"):
        (tmp_path / word).write_text(f"{word} " * 9)
    return tmp_path


def outcome(result: Decoded | RejectedError) -> str | int:
    return result.reason if isinstance(result, RejectedError) else len(result.frames)


@pytest.mark.parametrize("word", ["crash", "hang"])
def test_a_decoder_that_dies_or_hangs_costs_its_clip_only(haunted: Path, video: Path, word: str) -> None:
    reason = {"crash": "crashed", "hang": "timed_out"}[word]
    with IsolatedDecoder(1) as decoder:
        results = decoder.decode_many([video, haunted / word, video, video, haunted / word], RGB, Sampling())
        assert list(map(outcome, results)) == [40, reason, 40, 40, reason]
        assert len(decoder.decode(video, RGB, Sampling()).frames) == 40


def test_a_clip_that_a_decoder_dies_of_once_is_tried_again(haunted: Path, video: Path) -> None:
    with IsolatedDecoder(60) as decoder:
        results = decoder.decode_many([video, haunted / "once", video], RGB, Sampling())
        # It is no video.
        assert list(map(outcome, results)) == [40, "unreadable", 40]


def test_many_clips_come_in_order_and_equal_those_decoded_here(tmp_path: Path, video: Path) -> None:
    files = [write_video(tmp_path / f"{n}.avi", moving_square(n)) for n in (5, 30, 3)]
    files = [files[0], tmp_path / "missing.avi", *files[1:], write_bad(tmp_path, "text"), video]
    with IsolatedDecoder(60) as decoder:
        for number, result in enumerate(decoder.decode_many(files, RGB, Sampling())):
            if isinstance(result, RejectedError):
                assert result.reason == {1: "missing", 4: "unreadable"}[number]
            else:
                np.testing.assert_array_equal(result.frames, decode(files[number], RGB, Sampling()).frames)
        assert list(decoder.decode_many([], RGB, Sampling())) == []


def test_paths_are_drawn_one_ahead(video: Path) -> None:
    drawn = []

    def paths() -> Iterator[Path]:
        for number in range(5):
            drawn.append(number)
            yield video

    with IsolatedDecoder(60) as decoder:
        results = decoder.decode_many(paths(), RGB, Sampling())
        assert len(drawn) == 0
        for number, _ in enumerate(results):
            assert len(drawn) == min(number + 2, 5)


def test_frames_last_while_the_next_clip_is_decoded(tmp_path: Path, video: Path) -> None:
    other = write_video(tmp_path / "other.avi", moving_square(40))
    wanted = decode(video, RGB, Sampling()).frames
    with IsolatedDecoder(60) as decoder:
        results = decoder.decode_many([video, other, video, tmp_path / "none", video, other], RGB, Sampling())
        for _ in range(3):
            result = next(results)
            assert isinstance(result, Decoded)
            # There is an answer for the clip ahead: it has been decoded.
            assert decoder._connection.poll(60)
            np.testing.assert_array_equal(result.frames, wanted)
            next(results)
    np.testing.assert_array_equal(result.frames, wanted)


def test_who_stops_early_or_asks_in_between_hears_no_answer_to_another_question(tmp_path: Path, video: Path) -> None:
    other = write_video(tmp_path / "other.avi", moving_square(7))
    with IsolatedDecoder(60) as decoder:
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


def test_what_an_uncommonly_long_clip_took_is_given_back(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bytes_taken() -> int:
        return sum(os.fstat(memory.file.fileno()).st_blocks * 512 for memory in decoder._memories)

    with IsolatedDecoder(60) as decoder:
        for _ in range(4):
            decoder.decode(video, RGB, Sampling())
        assert 2 * 40 * RGB.size <= bytes_taken() < 4 * 40 * RGB.size
        monkeypatch.setattr(module, "_KEPT_BYTES", 40 * RGB.size - 1)
        wanted = decode(video, RGB, Sampling(max_frames=1)).frames
        for _ in range(2):
            np.testing.assert_array_equal(decoder.decode(video, RGB, Sampling(max_frames=1)).frames, wanted)
        assert bytes_taken() < 40 * RGB.size


def test_frames_are_counted_as_the_header_has_it(haunted: Path, video: Path) -> None:
    cut = cut_in_half(write_video(haunted / "cut.avi", numbered(60)))
    with IsolatedDecoder(60) as decoder:
        assert decoder.count_frames(video) == 40
        assert decoder.count_frames(cut) == 60
        for bad in (haunted / "nothing", haunted, haunted / "crash", write_bad(haunted, "text")):
            assert decoder.count_frames(bad) == 0
        assert decoder.count_frames(haunted / "hang", time_limit_s=0.5) == 0
        assert decoder.count_frames(video) == 40


def test_a_decoder_that_cannot_start_is_no_fault_of_the_clip(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with IsolatedDecoder(60) as decoder, pytest.raises(RuntimeError, match="does not start"):
        decoder.decode(video, RGB, Sampling())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
def test_a_child_may_not_take_all_the_memory(video: Path) -> None:
    with IsolatedDecoder(60) as decoder:
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

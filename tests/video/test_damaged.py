"""The corpus of damaged files (tests/damaged.py): no crash, no hang, each decoded or rejected with the right reason."""

import math
import os
from pathlib import Path

import numpy as np
import pytest

from pipelines.video.decode import decode
from pipelines.video.errors import RejectedError
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from pipelines.video.worker import IsolatedDecoder
from tests.damaged import Case, corpus, intact_videos

FRAME = FrameSize(24, 16, 3)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    return corpus(tmp_path_factory.mktemp("damaged"))


def test_the_corpus_is_large(cases: list[Case]) -> None:
    assert len({case.path for case in cases}) == len(cases) > 200


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(num_frames=8), Sampling(fps=12.5)], ids=str)
def test_each_file_is_decoded_or_rejected_with_the_right_reason(
    tmp_path: Path, cases: list[Case], sampling: Sampling
) -> None:
    intact = {str(path): decode(path, FRAME, sampling).frames for path in intact_videos(tmp_path).values()}
    # An intact file must not be affected by the files before it: one follows each, or with sampling every eighth.
    every = 1 if sampling == Sampling() else 8
    paths = []
    for number, case in enumerate(cases):
        paths += [case.path, [*intact][number % len(intact)]] if number % every == 0 else [case.path]
    wrong, by_path = [], {case.path: case for case in cases}
    with IsolatedDecoder(60) as decoder:
        for path, result in zip(paths, decoder.decode_many(paths, FRAME, sampling), strict=True):
            if path in intact:
                assert not isinstance(result, RejectedError), path
                np.testing.assert_array_equal(result.frames, intact[path])
            elif isinstance(result, RejectedError):
                if result.reason not in by_path[path].reasons:
                    wrong.append(f"{by_path[path].name}: {result.reason}")
            elif not _is_expected_number(by_path[path], len(result.frames), sampling) or not 0 <= result.fps < math.inf:
                wrong.append(f"{by_path[path].name}: {len(result.frames)} frames, {result.fps} frames/s")
    assert not wrong, "\n".join(wrong)


def _is_expected_number(case: Case, num_frames: int, sampling: Sampling) -> bool:
    if sampling == Sampling():
        return num_frames in case.num_frames
    return 0 < num_frames < min(case.num_frames.stop, (sampling.num_frames or math.inf) + 1)


def test_announced_frames_beyond_what_the_file_can_hold_are_ignored(cases: list[Case]) -> None:
    with IsolatedDecoder(60) as decoder:
        for case in cases:
            num_frames = decoder.count_frames(case.path)
            assert num_frames == 0 or num_frames <= os.path.getsize(case.path) / 8, case.name

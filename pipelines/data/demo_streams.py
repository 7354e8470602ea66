"""Render streams of the demo data set: long videos in which the stripes mostly stand still.

OUT/background/NN.avi    nothing happens: for preprocess --background OUT/background
OUT/streams/NN.avi       clips of all classes in random order, parted by stretches in which nothing happens
OUT/streams.csv          what happens when: for evaluate --stream OUT/streams.csv
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipelines.core.progress import progress
from pipelines.data.demo_videos import CLASSES, FPS, MARKER, NUM_FRAMES, draw_clip, write_video
from pipelines.data.streams import Truth, write_truths
from ttrnn.files import atomic_directory

__all__ = ["render_streams"]

# Of the background: enough videos for all splits, and stretches in each, each with its own cloth and light.
_NUM_VIDEOS, _NUM_STRETCHES = 8, 12
# Lengths of a stretch in which nothing happens, in clips.
_PAUSE = (2, 7)


def render_streams(out: Path, num_streams: int, seed: int) -> Path:
    """Renders the streams, atomically; replaces an older `out`.

    Args:
        out: Directory to make.
        num_streams: Number of streams; each has one clip of every class.
        seed: The same seed renders the same pixels.

    Raises:
        OSError: a video could not be written completely.
    """
    with atomic_directory(out) as directory:
        for name in ("background", "streams"):
            (directory / name).mkdir()
        truths = []
        for index in progress(range(_NUM_VIDEOS + num_streams), _NUM_VIDEOS + num_streams, "rendering streams"):
            # Not the numbers of the clips of render_demo, which have two.
            rng, number = np.random.default_rng([seed, index, 1]), index - _NUM_VIDEOS
            if number < 0:
                write_video(
                    directory / "background" / f"{index:02}.avi", _frames([None] * _NUM_STRETCHES, rng, []), FPS
                )
                continue
            labels = [label for own in rng.permutation(len(CLASSES)).tolist() for label in (None, own)]
            own_truths: list[Truth] = []
            write_video(directory / "streams" / f"{number:02}.avi", _frames([*labels, None], rng, own_truths), FPS)
            truths.append((f"streams/{number:02}.avi", own_truths))
        write_truths(directory / "streams.csv", truths)
        (directory / MARKER).write_text("{}\n", encoding="utf-8")
    return out


def _frames(labels: list[int | None], rng: np.random.Generator, truths: list[Truth]) -> Iterator[np.ndarray]:
    """The frames of clips and stretches, H x W x C; adds what happens to `truths`."""
    number = 0
    for label in labels:
        num_frames = (
            NUM_FRAMES if label is not None else int(rng.integers(_PAUSE[0] * NUM_FRAMES, _PAUSE[1] * NUM_FRAMES))
        )
        if label is not None:
            truths.append(Truth(CLASSES[label], number / FPS, (number + num_frames) / FPS))
        yield from draw_clip(label, rng, num_frames)
        number += num_frames

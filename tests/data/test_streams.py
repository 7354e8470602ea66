"""pipelines/data/streams.py: joined clips are where the truths say; tables come back, or are refused."""

import itertools

import numpy as np
import pytest

from pipelines.core.errors import UserError
from pipelines.data.dataset import ShardDataset
from pipelines.data.streams import Truth, join_clips, read_truths, write_truths
from pipelines.storage.location import Location
from tests.shards import make_shards

CLASSES = ("wave", "background", "clap")


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return ShardDataset.open(make_shards(tmp_path_factory.mktemp("data") / "shards")).split("train")


@pytest.mark.parametrize("num_pauses", [12, 30, 5])
def test_clips_lie_between_clips_of_nothing_that_are_used_equally_often(split, num_pauses):
    nothing = [row for row in range(36) if split.labels[row] == (1,)]
    kept = [row for row in range(36) if row not in nothing or row in nothing[:num_pauses]]
    if num_pauses == 30:
        kept = [*nothing, *[row for row in range(36) if row not in nothing][:6]]
    part = type(split)(split._files, split.frame, kept)
    stream = join_clips(part, CLASSES, seed=3)
    labels = [part.labels[row] for row in stream.rows]
    assert labels[0] == labels[-1] == (1,)
    assert all(1 in (one[0], two[0]) for one, two in itertools.pairwise(labels))
    times = np.bincount(stream.rows, minlength=len(part))
    events, pauses = ([i for i in range(len(part)) if (part.labels[i] == (1,)) == is_pause] for is_pause in (0, 1))
    assert times[events].tolist() == [1] * len(events)
    assert times[pauses].max() - times[pauses].min() <= 1
    assert times[pauses].sum() == max(len(pauses), len(events) + 1)
    assert join_clips(part, CLASSES, seed=3).rows == stream.rows != join_clips(part, CLASSES, seed=4).rows


def test_the_frames_of_a_truth_are_those_of_its_clip(split):
    stream = join_clips(split, CLASSES, seed=0)
    frames, truths = list(stream.frames()), stream.truths()
    times = [seconds for seconds, _ in frames]
    assert times == pytest.approx(np.arange(len(frames)) / 10)
    assert stream.seconds == pytest.approx(len(frames) / 10)
    rows = [row for row in stream.rows if split.labels[row] != (1,)]
    assert len(truths) == len(rows) == 24
    spans = sorted(stream.spans("wave") + stream.spans("clap"))
    for truth, row, (start, end) in zip(truths, rows, spans, strict=True):
        assert truth.label == CLASSES[split.labels[row][0]]
        assert (truth.start_s, truth.end_s) == pytest.approx((start / 10, end / 10))
        np.testing.assert_array_equal(np.stack([pixels for _, pixels in frames[start:end]]), split[row].frames)


def test_a_stream_needs_clips_of_nothing_and_rates(split):
    with pytest.raises(UserError, match=r"no class 'background'.*preprocess --background FOLDER"):
        join_clips(split, ("a", "b", "c"), 0)
    only = type(split)(split._files, split.frame, [row for row in range(36) if split.labels[row] == (1,)])
    with pytest.raises(UserError, match="needs clips of 'background' and others, got 12 and 0"):
        join_clips(only, CLASSES, 0)
    silent = type(split)(split._files, split.frame, list(range(36)))
    silent.fps = [10.0] * 35 + [0.0]
    with pytest.raises(UserError, match="train/35 has no frame rate; preprocess it with --fps"):
        join_clips(silent, CLASSES, 0)


def test_a_table_comes_back_with_videos_in_which_nothing_happens(tmp_path):
    file = tmp_path / "streams.csv"
    streams = {"a.avi": [Truth("wave", 0.5, 1.25), Truth("clap, twice", 2.0, 3.0)], "b.avi": []}
    write_truths(file, streams.items())
    assert file.read_text().splitlines()[0] == "video,start_s,end_s,label"
    assert read_truths(Location.of(file)) == streams


@pytest.mark.parametrize(("text", "message"), [
    ("video,start_s,label\n", "has no column end_s; its header must have video,start_s,end_s,label"),
    ("video,start_s,end_s,label\n", "has no videos"),
    ("", "has no column video, start_s, end_s, label"),
    ("video,start_s,end_s,label\na.avi,2,1,wave\n", "line 2: a.avi,2,1,wave must be a video, 0 <= start_s < end_s"),
    ("video,start_s,end_s,label\na.avi,,,\na.avi,x,1,wave\n", "line 3: a.avi,x,1,wave must be"),
    ("video,start_s,end_s,label\na.avi,1,2,\n", "line 2"),
    ("video,start_s,end_s,label\na.avi,1,inf,wave\n", "line 2"),
])  # fmt: skip
def test_a_table_that_is_none_is_refused(tmp_path, text, message):
    (tmp_path / "streams.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_truths(Location.of(tmp_path / "streams.csv"))

"""preprocess --background: clips of nothing, cut at random from long videos, none of which is in two splits."""

import json

import numpy as np
import pytest

from pipelines.core.errors import UserError
from pipelines.data.background import random_spans
from pipelines.data.dataset import ShardDataset
from pipelines.data.options import PreprocessOptions
from pipelines.data.preprocessing import make_shards
from tests.videos import numbered, read_numbers, write_class_folders, write_video


@pytest.mark.parametrize(("total", "lengths", "kept"), [
    (10, [3, 4], [3, 4]),
    (7, [3, 4], [3, 4]),
    (6, [3, 4, 1], [3]),
    (2, [3, 4], [2]),
    (0, [3], []),
    (9, [], []),
])  # fmt: skip
def test_spans_have_their_lengths_do_not_overlap_and_reach_every_place(total, lengths, kept):
    found = [random_spans(total, lengths, np.random.default_rng(seed)) for seed in range(200)]
    for spans in found:
        assert [end - start for start, end in spans] == kept
        places = [0, *[place for span in spans for place in span], total]
        assert places == sorted(places)
    if kept == [3, 4] and total == 10:
        # Three free frames fall into three gaps in ten ways.
        assert len({tuple(spans) for spans in found}) == 10


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_class_folders(root / "clips", num_clips=5)
    for number in range(4):
        write_video(root / "nothing" / f"{number}.avi", numbered(90), fps=25)
    return root


def make(videos, out, **kwargs):
    options = {"width": 48, "height": 32, "allow_missing_classes": True, "background": str(videos / "nothing")}
    return make_shards(PreprocessOptions(videos=str(videos / "clips"), out=str(out), **options | kwargs))


def clips_of(out):
    """Each clip, by split."""
    data = ShardDataset.open(out)
    return {name: list(data.split(name)) for name in data.splits}


@pytest.fixture(scope="module")
def shards(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "shards"
    return make(videos, out), out


def test_background_is_a_class_with_as_many_clips_as_the_others_and_no_video_in_two_splits(shards):
    result, out = shards
    assert result["classes"] == ["left", "right", "background"]
    splits_of = {}
    for name, clips in clips_of(out).items():
        nothing = [clip for clip in clips if clip.labels == (2,)]
        others = len(clips) - len(nothing)
        sources = {clip.group for clip in nothing}
        assert others <= len(nothing) < others + len(sources)
        for source in sources:
            assert splits_of.setdefault(source, name) == name
    assert sorted(splits_of) == [f"background:{number}.avi" for number in range(4)]


def test_cuts_are_consecutive_frames_of_the_source_at_the_place_that_their_name_says(shards):
    _, out = shards
    for clips in clips_of(out).values():
        seen = set()
        for clip in clips:
            if clip.labels != (2,):
                continue
            start = int(clip.clip_id.split("#")[1])
            numbers = read_numbers(clip.frames)
            assert numbers == list(range(start, start + 12))
            assert clip.fps == 25
            places = {(clip.group, number) for number in numbers}
            assert not places & seen
            seen |= places


def test_the_same_seed_cuts_the_same_clips_and_an_interrupted_job_resumes(videos, shards, tmp_path):
    _, out = shards
    make(videos, tmp_path / "again")
    expected = {file.name: file.read_bytes() for file in out.glob("*.arrow")}
    plan = json.loads((tmp_path / "again" / "preprocess.json").read_text())
    for number, shard in enumerate(plan["shards"]):
        if shard["clips"][0][0].startswith("background:") or number == 0:
            (tmp_path / "again" / f".{shard['file']}.json").unlink()
            (tmp_path / "again" / shard["file"]).unlink()
    (tmp_path / "again" / "dataset.json").unlink()
    make(videos, tmp_path / "again", resume=True)
    assert {file.name: file.read_bytes() for file in (tmp_path / "again").glob("*.arrow")} == expected
    make(videos, tmp_path / "other", seed=1)
    ids = [{c.clip_id for clips in clips_of(place).values() for c in clips} for place in (out, tmp_path / "other")]
    assert ids[0] != ids[1]


def test_cuts_last_as_long_as_the_clips_when_a_number_of_frames_is_taken(videos, tmp_path):
    make(videos, tmp_path / "shards", num_frames=4)
    (clip, *_) = [clip for clip in clips_of(tmp_path / "shards")["train"] if clip.labels == (2,)]
    start = int(clip.clip_id.split("#")[1])
    # Of 12 frames, as from the other clips: the middle of each quarter.
    assert read_numbers(clip.frames) == [start + place for place in (1, 4, 7, 10)]
    assert clip.fps == pytest.approx(25 / 3)


def test_every_nth_frame_and_a_rate_hold_for_cuts(videos, tmp_path):
    for name, sampling in (("every", {"every": 3}), ("fps", {"fps": 25 / 3})):
        make(videos, tmp_path / name, **sampling)
        (clip, *_) = [clip for clip in clips_of(tmp_path / name)["train"] if clip.labels == (2,)]
        start = int(clip.clip_id.split("#")[1])
        assert read_numbers(clip.frames) == [3 * start, 3 * start + 3, 3 * start + 6, 3 * start + 9]


def test_a_folder_with_too_few_videos_is_refused_and_a_damaged_one_is_rejected(videos, tmp_path):
    write_video(tmp_path / "two" / "a.avi", numbered(30))
    with pytest.raises(UserError, match="two has 1 video, but train, val and test each need their own"):
        make(videos, tmp_path / "shards", background=str(tmp_path / "two"))
    with pytest.raises(UserError, match=r"--background .*none is no folder; give one with long videos"):
        make(videos, tmp_path / "shards", background=str(tmp_path / "none"))
    for name in "bcd":
        write_video(tmp_path / "two" / f"{name}.avi", numbered(90), fps=25)
    (tmp_path / "two" / "e.avi").write_bytes(b"no video" * 99)
    result = make(videos, tmp_path / "shards", background=str(tmp_path / "two"))
    assert result["num_rejected"] == 1
    assert "background:e.avi" in (tmp_path / "shards" / "rejected.csv").read_text()

"""Augmentation: each option against a simple implementation, no change by default, the same change for a clip."""

import numpy as np
import pytest

from pipelines.data.augment import Augmentation

SHAPES = [(7, 6, 5, 3), (4, 8, 8, 1), (1, 5, 6, 3)]
EVERYTHING = {"flip": True, "shift": 3, "temporal_crop": 0.5, "speed": 2.0, "brightness": 0.4}


def clip(shape=(7, 6, 5, 3)):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def outcomes(frames, count=300, **kwargs):
    """Different results over many draws."""
    augment = Augmentation(**kwargs)
    results = [augment(frames, np.random.default_rng(seed)) for seed in range(count)]
    return list({(result.shape, result.tobytes()): result for result in results}.values())


def same(results, expected):
    return {(r.shape, r.tobytes()) for r in results} == {(e.shape, np.ascontiguousarray(e).tobytes()) for e in expected}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_by_default_a_clip_is_returned_itself(shape):
    frames = clip(shape)
    assert Augmentation()(frames, np.random.default_rng(0)) is frames


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_flip_mirrors_half_of_the_clips(shape):
    frames = clip(shape)
    assert same(outcomes(frames, flip=True), [frames, frames[:, :, ::-1]])
    augment, rng = Augmentation(flip=True), np.random.default_rng(0)
    kept = [np.array_equal(augment(frames, rng), frames) for _ in range(1000)]
    assert 420 < sum(kept) < 580


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shift_moves_by_every_number_of_pixels_and_repeats_the_edges(shape):
    frames, (height, width) = clip(shape), shape[1:3]
    expected = []
    for x in range(-2, 3):
        for y in range(-2, 3):
            rows, columns = np.clip(np.arange(height) - y, 0, height - 1), np.clip(np.arange(width) - x, 0, width - 1)
            expected.append(frames[:, rows][:, :, columns])
    assert same(outcomes(frames, shift=2), expected)


@pytest.mark.parametrize(("num_frames", "share", "least"), [(7, 0.5, 4), (30, 0.1, 3), (5, 0.01, 1), (1, 0.5, 1)])
def test_temporal_crop_keeps_any_part_that_is_long_enough(num_frames, share, least):
    frames = np.arange(num_frames, dtype=np.uint8).reshape(-1, 1, 1, 1)
    expected = [
        frames[first : first + kept] for kept in range(least, num_frames + 1) for first in range(num_frames - kept + 1)
    ]
    assert same(outcomes(frames, 6000, temporal_crop=share), expected)


@pytest.mark.parametrize("num_frames", [1, 2, 10, 31])
def test_speed_picks_frames_evenly_and_in_order(num_frames):
    frames = np.arange(num_frames, dtype=np.uint8).reshape(-1, 1, 1, 1)
    results = outcomes(frames, 2000, speed=2.0)
    counts = {len(result) for result in results}
    assert (min(counts), max(counts)) == (max(1, round(num_frames / 2)), 2 * num_frames)
    for result in results:
        # A chosen frame is the one in the middle of its share of the time.
        middles = [(number + 0.5) / len(result) for number in range(len(result))]
        assert result.flatten().tolist() == [int(middle * num_frames) for middle in middles]
    assert any(np.array_equal(result, frames) for result in results)


def test_slower_is_as_likely_as_faster():
    frames, augment, rng = clip((100, 1, 1, 1)), Augmentation(speed=3.0), np.random.default_rng(0)
    lengths = np.array([len(augment(frames, rng)) for _ in range(1000)])
    assert 420 < (lengths < 100).sum() < 580
    assert (lengths.min(), lengths.max()) == pytest.approx((33, 300), abs=3)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_brightness_multiplies_all_pixels_of_a_clip_by_one_factor_and_saturates(shape):
    frames = clip(shape)
    seen = []
    for seed in range(50):
        result = Augmentation(brightness=0.4)(frames, np.random.default_rng(seed))
        factor = np.random.default_rng(seed).uniform(0.6, 1.4)
        np.testing.assert_array_equal(result, np.minimum(np.rint(frames * factor), 255))
        seen.append(factor)
    assert min(seen) < 0.7
    assert max(seen) > 1.3


@pytest.mark.parametrize("shape", [*SHAPES, (500, 90, 4, 3)], ids=str)
@pytest.mark.parametrize("kwargs", [EVERYTHING, *({name: value} for name, value in EVERYTHING.items())], ids=str)
def test_the_same_seed_gives_the_same_clip_contiguous_and_the_stored_one_stays(kwargs, shape):
    frames = clip(shape)
    before, augment = frames.copy(), Augmentation(**kwargs)
    one, other = (augment(frames, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(frames, before)
    assert one.dtype == np.uint8
    assert one.flags.c_contiguous
    assert one.shape[1:] == shape[1:]
    assert len(outcomes(frames, 20, **kwargs)) > 1 or shape[0] == 1


@pytest.mark.parametrize(
    "kwargs",
    [
        {"shift": -1},
        {"temporal_crop": 0.0},
        {"temporal_crop": 1.1},
        {"speed": 0.9},
        {"speed": 11.0},
        {"speed": float("nan")},
        {"brightness": -0.1},
        {"brightness": 1.5},
        {"brightness": float("nan")},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused_by_name_and_value(kwargs):
    ((name, value),) = kwargs.items()
    with pytest.raises(ValueError, match=f"{name} must .*{value}"):
        Augmentation(**kwargs)

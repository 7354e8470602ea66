"""pipelines/batches.py: every clip once, packed as torch packs, shares that make the mean over all workers right."""

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from pipelines.batches import batches, epoch_seed, num_steps, pack_clips
from pipelines.shards import Clip


class Clips(list):
    """Clips in memory that read like a split of shards."""

    @property
    def labels(self):
        return [clip.labels for clip in self]


def make_clips(lengths, num_classes=3):
    rng = np.random.default_rng(0)
    clips = Clips()
    for number, length in enumerate(lengths):
        frames = rng.integers(0, 256, (length, 2, 3, 1), dtype=np.uint8)
        # As memory-mapped shards have them.
        frames.flags.writeable = False
        clips.append(Clip(str(number), (number % num_classes,), "", 25.0, frames))
    return clips


@pytest.mark.parametrize("lengths", [[3], [4, 4, 4], [2, 5, 1, 5, 3], [1, 1], [1, 9]], ids=str)
def test_clips_are_packed_as_torch_packs_them(lengths):
    clips = make_clips(lengths)
    packed, order = pack_clips(clips)
    assert order.tolist() == sorted(range(len(clips)), key=lambda index: -lengths[index])
    expected = pack_sequence([torch.tensor(clips[index].frames).flatten(1) for index in order])
    assert packed.data.dtype == torch.uint8
    torch.testing.assert_close(packed.data, expected.data, rtol=0, atol=0)
    torch.testing.assert_close(packed.batch_sizes, expected.batch_sizes, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("num_clips", "batch_size", "world_size", "expected"),
    [
        (8, 4, 1, 2),
        (9, 4, 1, 3),
        (9, 4, 2, 2),
        (9, 4, 3, 1),
        (1, 16, 4, 1),
        (17, 4, 4, 2),
    ],
    ids=str,
)
def test_an_epoch_has_as_many_steps_on_every_worker(num_clips, batch_size, world_size, expected):
    assert num_steps(num_clips, batch_size, world_size) == expected
    for rank in range(world_size):
        steps = batches(make_clips([2] * num_clips), batch_size, 3, False, rank=rank, world_size=world_size)
        assert len(list(steps)) == expected


@pytest.mark.parametrize("shuffle_seed", [None, 5], ids="shuffle seed {}".format)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("num_clips", [1, 7, 8, 9, 13])
def test_every_clip_counts_once_and_a_step_s_shares_sum_to_one(num_clips, world_size, shuffle_seed):
    clips = make_clips(range(1, num_clips + 1))
    workers = [
        list(batches(clips, 2, 3, False, shuffle_seed=shuffle_seed, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    seen = []
    for step in zip(*workers, strict=True):
        assert sum(batch.share for batch in step) == pytest.approx(1)
        counted = [batch for batch in step if batch.share]
        together = sum(len(batch.indices) for batch in counted)
        assert all(batch.share == len(batch.indices) / together for batch in counted)
        # A worker without a clip of its own still has one to run through the model: the others wait for its gradients.
        assert all(len(batch.indices) == 1 for batch in step if not batch.share)
        assert all(len(batch.indices) <= 2 for batch in step)
        seen += [index for batch in counted for index in batch.indices]
    assert sorted(seen) == list(range(num_clips))


def test_shares_turn_the_workers_means_into_the_mean_over_all_clips_of_the_step():
    clips = make_clips([2] * 7)
    workers = [list(batches(clips, 2, 3, False, rank=rank, world_size=3)) for rank in range(3)]
    means = [sum(np.mean(batch.indices) * batch.share for batch in step) for step in zip(*workers, strict=True)]
    assert means == pytest.approx([np.mean(range(6)), 6])


@pytest.mark.parametrize("multi_label", [False, True], ids=["one label", "several labels"])
def test_frames_labels_and_indices_belong_together(multi_label):
    clips = make_clips([4, 1, 6, 2, 5, 3])
    if multi_label:
        clips = Clips(
            Clip(clip.clip_id, labels, "", 25.0, clip.frames)
            for clip, labels in zip(clips, [(), (0,), (1, 2), (2,), (0, 1, 2), (1,)], strict=True)
        )
    for batch in batches(clips, 4, 3, multi_label, shuffle_seed=1):
        frames, lengths = pad_packed_sequence(batch.frames, batch_first=True)
        assert lengths.tolist() == sorted(lengths.tolist(), reverse=True)
        for row, index in enumerate(batch.indices):
            np.testing.assert_array_equal(frames[row, : lengths[row]], clips[index].frames.reshape(lengths[row], -1))
            if multi_label:
                assert batch.labels[row].dtype == torch.float32
                assert batch.labels[row].nonzero().flatten().tolist() == list(clips[index].labels)
            else:
                assert batch.labels.dtype == torch.int64
                assert batch.labels[row] == clips[index].labels[0]


def order_of(clips, **kwargs):
    return [index for batch in batches(clips, 1, 3, False, **kwargs) for index in batch.indices]


def test_order_is_that_of_the_split_or_of_the_seed():
    clips = make_clips([1] * 20)
    assert order_of(clips) == list(range(20))
    assert order_of(clips, shuffle_seed=1) == order_of(clips, shuffle_seed=1)
    assert len({tuple(order_of(clips, shuffle_seed=seed)) for seed in (None, 1, 2)}) == 3


def test_seeds_depend_on_every_number_and_suit_torch():
    seeds = [epoch_seed(*path) for path in [(0,), (1,), (0, 1), (0, 2), (1, 1), (1, 2), (0, 1, 1), (0, 1, 2)]]
    assert len(set(seeds)) == len(seeds)
    assert seeds[0] == epoch_seed(0)
    for seed in seeds:
        assert 0 <= seed < 2**63
        torch.Generator().manual_seed(seed)

"""Batches: every clip once, similar lengths together, one batch ahead, and shares that give correct means."""

import threading

import numpy as np
import pytest
import torch

from pipelines.data.augment import Augmentation
from pipelines.data.loader import batches, epoch_seed, epoch_steps, map_ahead, num_steps
from pipelines.data.shards import Clip
from pipelines.video.frame import FrameSize


class Clips(list):
    """Clips in memory with the interface of a split of shards, which record the calls."""

    frame = FrameSize(width=3, height=4, channels=1)
    is_encoded = False

    def __init__(self, clips):
        super().__init__(clips)
        self.events = []

    @property
    def labels(self):
        return [clip.labels for clip in self]

    @property
    def lengths(self):
        return np.array([len(clip.frames) for clip in self], np.int32)

    @property
    def num_bytes(self):
        return self.lengths.astype(np.int64) * self.frame.size

    def prefetch(self, indices):
        self.events.append(("prefetch", list(indices)))

    def release(self, indices):
        self.events.append(("release", list(indices)))


def make_clips(lengths, num_classes=3):
    rng = np.random.default_rng(0)
    return Clips(
        Clip(str(number), (number % num_classes,), "", 25.0, rng.integers(0, 256, (length, 4, 3, 1), dtype=np.uint8))
        for number, length in enumerate(lengths)
    )


def random_lengths(count):
    return np.random.default_rng(1).integers(1, 500, count).astype(np.int32)


def frames_of(clips, **kwargs):
    """The augmented frames of each clip, by index."""
    return {
        index: frames.numpy().copy()
        for batch in batches(clips, 2, 3, False, **kwargs)
        for index, frames in zip(batch.indices, batch.frames, strict=True)
    }


@pytest.mark.parametrize(
    ("num_clips", "batch_size", "world_size", "expected"),
    [
        (8, 4, 1, 2),
        (9, 4, 1, 3),
        (9, 4, 2, 2),
        (9, 4, 3, 1),
        (1, 16, 4, 1),
        (17, 4, 4, 2),
        (0, 4, 2, 0),
    ],
    ids=str,
)
def test_an_epoch_has_as_many_steps_on_every_worker(num_clips, batch_size, world_size, expected):
    assert num_steps(num_clips, batch_size, world_size) == expected
    for rank in range(world_size):
        steps = batches(make_clips([2] * num_clips), batch_size, 3, False, rank=rank, world_size=world_size)
        assert len(list(steps)) == expected


@pytest.mark.parametrize("seed", [None, 5], ids="seed {}".format)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("num_clips", [1, 7, 8, 9, 13])
def test_every_clip_counts_once_and_the_shares_of_a_step_sum_to_one(num_clips, world_size, seed):
    clips = make_clips(range(1, num_clips + 1))
    workers = [
        list(batches(clips, 2, 3, False, seed=seed, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    seen = []
    for step in zip(*workers, strict=True):
        assert sum(batch.share for batch in step) == pytest.approx(1)
        counted = [batch for batch in step if batch.share]
        together = sum(len(batch.indices) for batch in counted)
        assert all(batch.share == len(batch.indices) / together for batch in counted)
        # A worker without a clip of its own still gets one for the model: the others wait for its gradients.
        assert all(len(batch.indices) == 1 for batch in step if not batch.share)
        assert all(len(batch.indices) <= 2 for batch in step)
        seen += [index for batch in counted for index in batch.indices]
    assert sorted(seen) == list(range(num_clips))


def test_shares_weight_the_means_of_the_workers_into_the_mean_over_the_step():
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
    for batch in batches(clips, 4, 3, multi_label, seed=1):
        for row, index in enumerate(batch.indices):
            # The clip itself, not a copy.
            assert batch.frames[row].data_ptr() == clips[index].frames.ctypes.data
            assert batch.frames[row].shape == clips[index].frames.shape
            if multi_label:
                assert batch.labels[row].dtype == torch.float32
                assert batch.labels[row].nonzero().flatten().tolist() == list(clips[index].labels)
            else:
                assert batch.labels.dtype == torch.int64
                assert batch.labels[row] == clips[index].labels[0]


def test_without_a_seed_the_longest_clips_come_first():
    assert [step.tolist() for step in epoch_steps(np.array([3, 9, 3, 5, 9]), 2, None)] == [[1, 4], [3, 0], [2]]


def test_order_depends_on_the_seed_alone():
    lengths = random_lengths(50)
    orders = {seed: np.concatenate(epoch_steps(lengths, 8, seed)).tolist() for seed in (None, 1, 2)}
    assert len({tuple(order) for order in orders.values()}) == 3
    for seed, order in orders.items():
        assert sorted(order) == list(range(50))
        assert np.concatenate(epoch_steps(lengths, 8, seed)).tolist() == order


def test_clips_of_a_step_have_similar_lengths_and_steps_are_shuffled():
    # As many clips as are sorted together: then no two steps have the same length.
    lengths = np.random.default_rng(0).permutation(16 * 8)
    steps = epoch_steps(lengths, 8, 3)
    ranges = [range(lengths[step].min(), lengths[step].max() + 1) for step in steps]
    assert all(len(lengths_of) == 8 for lengths_of in ranges)
    assert ranges != sorted(ranges, key=lambda lengths_of: lengths_of.start)
    assert ranges != sorted(ranges, key=lambda lengths_of: -lengths_of.start)


def test_clips_are_combined_differently_in_every_epoch():
    lengths = random_lengths(1000)
    pairs = [
        {(int(a), int(b)) for step in epoch_steps(lengths, 4, seed) for a in step for b in step if a < b}
        for seed in range(2)
    ]
    assert len(pairs[0] & pairs[1]) < 0.1 * len(pairs[0])


def test_the_smaller_step_comes_last_and_has_clips_of_any_length():
    lengths = np.arange(1, 44)
    lasts = [epoch_steps(lengths, 4, seed)[-1] for seed in range(60)]
    assert all(len(last) == 3 for last in lasts)
    assert np.mean([lengths[last].mean() for last in lasts]) == pytest.approx(22, abs=4)
    assert all(len(step) == 4 for step in epoch_steps(lengths, 4, 0)[:-1])


@pytest.mark.parametrize("seed", [None, 5], ids="seed {}".format)
def test_workers_share_the_steps_of_a_single_worker(seed):
    clips = make_clips(random_lengths(30))
    whole = [set(batch.indices) for batch in batches(clips, 8, 3, False, seed=seed)]
    workers = [batches(clips, 2, 3, False, seed=seed, rank=rank, world_size=4) for rank in range(4)]
    assert [set().union(*(batch.indices for batch in step)) for step in zip(*workers, strict=True)] == whole


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_workers_get_similar_numbers_of_frames(world_size):
    clips = make_clips(random_lengths(8 * world_size))
    workers = [batches(clips, 4, 3, False, seed=1, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in zip(*workers, strict=True):
        lengths = [clips.lengths[batch.indices] for batch in step]
        frames = [part.sum() for part in lengths]
        assert max(frames) - min(frames) <= np.ptp(np.concatenate(lengths))


def test_augmentation_does_not_depend_on_the_worker_and_differs_between_epochs():
    clips, augment = make_clips([5, 9, 7, 4, 6]), Augmentation(flip=True, shift=2, temporal_crop=0.5, brightness=0.4)
    alone = frames_of(clips, seed=1, augmentation=augment)
    for index in range(5):
        assert alone[index].tolist() != clips[index].frames.tolist()
    for rank in range(2):
        for index, frames in frames_of(clips, seed=1, augmentation=augment, rank=rank, world_size=2).items():
            np.testing.assert_array_equal(frames, alone[index])
    other = frames_of(clips, seed=2, augmentation=augment)
    assert sum(other[index].tolist() != alone[index].tolist() for index in range(5)) >= 4


@pytest.mark.parametrize(("limit", "released"), [(12 * 15, []), (12 * 15 - 1, [2]), (12 * 6, [1, 2]), (71, [0, 1, 2])])
def test_only_clips_beyond_a_limit_are_released(monkeypatch, limit, released):
    clips = make_clips([6, 5, 4])
    monkeypatch.setattr("pipelines.data.loader._MAPPED_BYTES", limit)
    list(batches(clips, 2, 3, False))
    assert [index for kind, indices in clips.events for index in indices if kind == "release"] == released


def test_pages_are_prefetched_one_batch_ahead_and_released_after_use(monkeypatch):
    monkeypatch.setattr("pipelines.data.loader._MAPPED_BYTES", 0)
    clips = make_clips([6, 5, 4, 3, 2, 1])
    used = []
    for batch in batches(clips, 2, 3, False):
        used.append(batch.indices)
        released = [indices for kind, indices in clips.events if kind == "release"]
        assert released == used[:-1]
        assert [indices for kind, indices in clips.events if kind == "prefetch"][: len(used)] == used
    assert [indices for kind, indices in clips.events if kind == "release"] == used == [[0, 1], [2, 3], [4, 5]]


def thread_is_running():
    return any(thread.name.startswith("map_ahead") for thread in threading.enumerate())


def test_map_ahead_computes_in_order_in_another_thread_at_most_one_ahead():
    made, threads = [], set()

    def make(number):
        made.append(number)
        threads.add(threading.get_ident())
        return -number

    used = []
    for value in map_ahead(make, range(20)):
        used.append(value)
        assert len(made) <= len(used) + 1
    assert used == [-number for number in range(20)]
    assert threads.isdisjoint({threading.get_ident()})
    assert len(threads) == 1
    assert not thread_is_running()
    assert list(map_ahead(make, [])) == []


def test_map_ahead_computes_the_next_item_while_one_is_used():
    being_made = threading.Event()

    def make(number):
        if number == 1:
            being_made.set()
        return number

    for value in map_ahead(make, range(2)):
        if value == 0:
            assert being_made.wait(timeout=30)


@pytest.mark.parametrize("at", [0, 1, 3])
def test_map_ahead_raises_an_error_at_its_item_and_leaves_no_thread(at):
    def make(number):
        if number == at:
            raise OSError("shard gone")
        return number

    used = []
    with pytest.raises(OSError, match="shard gone"):
        used.extend(map_ahead(make, range(5)))
    assert used == list(range(at))
    assert not thread_is_running()


@pytest.mark.parametrize("how", ["closed", "dropped", "the caller fails"])
def test_stopping_early_leaves_no_thread(how):
    epoch = batches(make_clips([2] * 20), 2, 3, False)
    next(epoch)
    assert thread_is_running()
    if how == "closed":
        epoch.close()
    elif how == "dropped":
        del epoch
    else:
        with pytest.raises(ZeroDivisionError):
            epoch.throw(ZeroDivisionError())
    assert not thread_is_running()


@pytest.mark.parametrize("first_step", [0, 1, 3, 4])
def test_an_epoch_can_be_resumed_at_any_step_with_the_same_batches(first_step):
    clips, augment = make_clips([5, 9, 7, 4, 6, 3, 8]), Augmentation(flip=True, shift=1)
    whole = list(batches(clips, 2, 3, False, seed=1, augmentation=augment))
    rest = list(batches(clips, 2, 3, False, seed=1, augmentation=augment, first_step=first_step))
    assert len(rest) == 4 - first_step
    for batch, expected in zip(rest, whole[first_step:], strict=True):
        assert batch.indices == expected.indices
        assert all(map(torch.equal, batch.frames, expected.frames))


def test_seeds_depend_on_every_number_and_are_valid_for_torch():
    seeds = [epoch_seed(*path) for path in [(0,), (1,), (0, 1), (0, 2), (1, 1), (1, 2), (0, 1, 1), (0, 1, 2)]]
    assert len(set(seeds)) == len(seeds)
    assert seeds[0] == epoch_seed(0)
    for seed in seeds:
        assert 0 <= seed < 2**63
        torch.Generator().manual_seed(seed)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_on_cuda_are_those_of_the_cpu():
    clips = make_clips([5, 9, 7, 4, 6])
    on_gpu = list(batches(clips, 2, 3, False, seed=1, device=torch.device("cuda")))
    for batch, expected in zip(on_gpu, batches(clips, 2, 3, False, seed=1), strict=True):
        assert batch.indices == expected.indices
        assert batch.labels.is_cuda
        torch.testing.assert_close(batch.labels.cpu(), expected.labels)
        for frames, wanted in zip(batch.frames, expected.frames, strict=True):
            assert frames.is_cuda
            torch.testing.assert_close(frames.cpu(), wanted)

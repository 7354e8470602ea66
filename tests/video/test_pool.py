"""The decoder pool: every item once, on all cores; an exception cancels the rest."""

import threading
import time

import pytest
import torch

from pipelines.video.pool import on_all_cores
from pipelines.video.worker import IsolatedDecoder


def test_every_item_is_processed_once_with_its_own_decoder_and_one_torch_thread():
    before, busy, lock = torch.get_num_threads(), set(), threading.Lock()

    def work(item: int, decoder: IsolatedDecoder) -> tuple[int, int]:
        with lock:
            assert id(decoder) not in busy
            busy.add(id(decoder))
        threads = torch.get_num_threads()
        with lock:
            busy.remove(id(decoder))
        return item * item, threads

    done = dict(on_all_cores(range(40), work, time_limit_s=1))
    assert done == {number: (number * number, 1) for number in range(40)}
    assert torch.get_num_threads() == before
    assert list(on_all_cores([], work, time_limit_s=1)) == []


def test_an_exception_is_raised_and_the_remaining_items_are_cancelled():
    begun = []

    def work(item: int, _: IsolatedDecoder) -> None:
        begun.append(item)
        if item == 3:
            raise ValueError("three")
        time.sleep(0.005)

    with pytest.raises(ValueError, match="three"):
        for _ in on_all_cores(range(1000), work, time_limit_s=1):
            pass
    assert len(begun) < 1000

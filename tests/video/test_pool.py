"""pipelines/crew.py: every item once, on all cores; what one raises ends the rest."""

import threading
import time

import pytest
import torch

from pipelines.video.pool import on_all_cores
from pipelines.video.worker import IsolatedDecoder


def test_every_item_is_worked_on_once_with_a_decoder_of_its_own_and_one_thread():
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


def test_what_one_item_raises_is_raised_and_the_rest_is_let_go():
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

"""Several videos at once: a thread for each core, and for each thread a decoding process of its own."""

import contextlib
import os
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

import torch

from pipelines.video.worker import IsolatedDecoder

__all__ = ["on_all_cores"]


T = TypeVar("T")
R = TypeVar("R")


def on_all_cores(
    items: Sequence[T],
    work: Callable[[T, IsolatedDecoder], R],
    *,
    time_limit_s: float,
    let_go: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, R]]:
    """The number of each item and what `work` makes of it, as they are done. torch has one thread for each meanwhile.

    Args:
        items: Videos, say.
        work: From an item and a decoder, which nobody else uses meanwhile, to a result. What it raises is raised here,
            and items that have not been begun are let go.
        time_limit_s: Of the decoders, for a video.
        let_go: Called at the end, or when something was raised here (Ctrl-C, say): what is being worked on may stop.
    """
    num_workers = min(len(items), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
    free: queue.SimpleQueue[IsolatedDecoder] = queue.SimpleQueue()
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        for _ in range(num_workers):
            free.put(stack.enter_context(IsolatedDecoder(time_limit_s)))
        pool = ThreadPoolExecutor(max(1, num_workers), initializer=torch.set_num_threads, initargs=(1,))
        stack.callback(pool.shutdown, cancel_futures=True)
        stack.callback(let_go)

        def call(item: T) -> R:
            decoder = free.get()
            try:
                return work(item, decoder)
            finally:
                free.put(decoder)

        numbers = {pool.submit(call, item): number for number, item in enumerate(items)}
        for future in as_completed(numbers):
            yield numbers[future], future.result()

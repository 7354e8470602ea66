"""Process several videos at a time: one thread per core, each with its own decoding process."""

import contextlib
import os
import queue
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from typing import TypeVar

from pipelines.video.worker import IsolatedDecoder

__all__ = ["on_all_cores"]


T = TypeVar("T")
R = TypeVar("R")


def on_all_cores(
    items: Sequence[T],
    work: Callable[[T, IsolatedDecoder], R],
    *,
    time_limit_s: float,
    cancel: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, R]]:
    """Yields the index and the result of each item as it completes; torch, if loaded, uses one thread per worker.

    Args:
        items: For example, paths of videos.
        work: Computes the result of an item, with a decoder that no other thread uses. An exception is raised here,
            and items that have not been started are cancelled.
        time_limit_s: Of the decoders, for a video.
        cancel: Called at the end, also after an exception (such as Ctrl-C); it may make running calls stop early.
    """
    num_workers = min(len(items), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
    free_decoders: queue.SimpleQueue[IsolatedDecoder] = queue.SimpleQueue()
    with contextlib.ExitStack() as stack:
        # If `work` uses torch, it is loaded already; ONNX files need none.
        torch = sys.modules.get("torch")
        initializer = None
        if torch is not None:
            initializer = partial(torch.set_num_threads, 1)
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
        for _ in range(num_workers):
            free_decoders.put(stack.enter_context(IsolatedDecoder(time_limit_s)))
        threads = ThreadPoolExecutor(max(1, num_workers), initializer=initializer)
        stack.callback(threads.shutdown, cancel_futures=True)
        stack.callback(cancel)

        def call(item: T) -> R:
            decoder = free_decoders.get()
            try:
                return work(item, decoder)
            finally:
                free_decoders.put(decoder)

        indices = {threads.submit(call, item): index for index, item in enumerate(items)}
        for future in as_completed(indices):
            yield indices[future], future.result()

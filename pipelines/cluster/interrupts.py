"""Keep Ctrl-C with the command: Ray and Tune would take it for themselves."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

__all__ = ["delayed_interrupts", "in_thread", "kept_signals"]


@contextlib.contextmanager
def delayed_interrupts() -> Iterator[None]:
    """Puts off Ctrl-C until the block is done: a Ray that is half up crashes when Python ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if caught and callable(handler):
        handler(signal.SIGINT, None)


@contextlib.contextmanager
def kept_signals() -> Iterator[None]:
    """Tune would keep Ctrl-C for itself for ever, and swallow the first one of what comes after it."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


def in_thread(function: Callable[[], Any]) -> None:
    """Calls it, raising what it raises. In the main thread Ray would take Ctrl-C for itself, and for good."""
    outcome: Future[Any] = Future()

    def call() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    outcome.result()

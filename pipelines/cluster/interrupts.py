"""Keep the command's own handling of Ctrl-C and SIGTERM, which Ray and Tune replace."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

__all__ = ["delayed_interrupts", "kept_signals", "run_in_thread"]


@contextlib.contextmanager
def delayed_interrupts() -> Iterator[None]:
    """Delays Ctrl-C and SIGTERM until the block has ended: Python would crash while Ray is half started.

    Afterwards the handlers are the same as before, whatever the block has installed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if caught:
        signal.raise_signal(caught[0])


@contextlib.contextmanager
def kept_signals() -> Iterator[None]:
    """Restores the signal handlers that Tune has replaced: it would keep them, and ignore the next Ctrl-C."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


def run_in_thread(function: Callable[[], Any]) -> None:
    """Calls a function in a thread and raises its errors. In the main thread Ray Train would take Ctrl-C for itself."""
    outcome: Future[Any] = Future()

    def call() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    outcome.result()

"""Something to be done again and again while something else goes on."""

import contextlib
import threading
from collections.abc import Callable, Iterator

__all__ = ["repeated"]


@contextlib.contextmanager
def repeated(call: Callable[[], object], every_s: float) -> Iterator[None]:
    """Calls it in a thread of its own, every so many seconds while the block runs; never after it."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(every_s):
            call()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()

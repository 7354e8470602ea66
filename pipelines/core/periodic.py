"""Call a function periodically in a background thread."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

__all__ = ["repeated"]

log = logging.getLogger(__name__)


@contextlib.contextmanager
def repeated(call: Callable[[], object], every_s: float) -> Iterator[None]:
    """Calls a function every `every_s` seconds in a background thread while the block runs, never after it.

    An error of the function is logged with its traceback, once for each type of error; the calls continue.
    """
    stop = threading.Event()
    logged: set[type[Exception]] = set()

    def loop() -> None:
        while not stop.wait(every_s):
            try:
                call()
            except Exception as error:
                if type(error) not in logged:
                    logged.add(type(error))
                    log.exception("an error in the background; the call is repeated every %g s", every_s)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()

"""Lock a directory against other processes of this machine."""

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator

from pipelines.core.errors import UserError
from pipelines.storage.location import Location
from pipelines.storage.output import make_directory

__all__ = ["only_writer"]

log = logging.getLogger(__name__)


@contextlib.contextmanager
def only_writer(place: Location, *, wait_s: float = 0.0) -> Iterator[None]:
    """Keeps other processes of this machine, which ask too, out of a directory while the block runs.

    A local directory is made for it, and removed if nothing comes to lie there. Remote ones are not guarded.

    Args:
        place: The directory.
        wait_s: How long to wait for another process, in seconds.

    Raises:
        UserError: another process is in it still, or it can't be made, or not be written to.
    """
    if not place.is_local:
        yield
        return
    is_new = not place.exists()
    make_directory(place)
    if not os.access(place.local, os.W_OK | os.X_OK):
        raise UserError(f"{place} can't be written to; give another OUT")
    # The directory, not a file in it: nothing is left behind, and --overwrite deletes no lock.
    descriptor = os.open(place.text, os.O_RDONLY)
    try:
        _lock(descriptor, place, wait_s)
        try:
            yield
        finally:
            if is_new:
                with contextlib.suppress(OSError):
                    os.rmdir(place.text)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, place: Location, wait_s: float) -> None:
    give_up = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= give_up:
                raise UserError(
                    f"another command is writing to {place}; wait until it is done, or give another OUT"
                ) from error
            time.sleep(0.1)
        except OSError:
            log.info("%s: its file system has no locks; see to it that no other command writes there", place)
            return
        else:
            return

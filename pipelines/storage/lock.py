"""Lock a directory against other processes of this machine."""

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator

from pipelines.core.errors import UserError
from pipelines.storage.location import Location
from pipelines.storage.output import delete_empty, make_directory, missing_directories

__all__ = ["only_writer"]

log = logging.getLogger(__name__)


@contextlib.contextmanager
def only_writer(place: Location, *, wait_s: float = 0.0) -> Iterator[None]:
    """Locks a directory while the block runs, against processes of this machine that call this function too.

    A local directory that does not exist is made, and deleted again with its new parents if it stays empty. Remote ones
    are not locked.

    Args:
        place: The directory.
        wait_s: How long to wait for another process, in seconds.

    Raises:
        UserError: another process still holds the lock, or the directory can't be made or written to.
    """
    if not place.is_local:
        yield
        return
    missing = missing_directories(place)
    descriptor = _open_locked(place, time.monotonic() + wait_s)
    try:
        yield
    finally:
        delete_empty(missing)
        os.close(descriptor)


def _open_locked(place: Location, deadline: float) -> int:
    """A descriptor of the directory, which holds its lock."""
    while True:
        make_directory(place)
        if not os.access(place.local, os.W_OK | os.X_OK):
            raise UserError(f"{place} can't be written to; give another OUT")
        # The directory is locked and not a file in it: nothing is left behind, and --overwrite deletes no lock.
        descriptor = os.open(place.text, os.O_RDONLY)
        try:
            _lock(descriptor, place, deadline)
            # The process that held the lock may have deleted the directory.
            if place.exists() and os.path.samestat(os.fstat(descriptor), os.stat(place.text)):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, place: Location, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise UserError(
                    f"another command is writing to {place}; wait until it is done, or give another OUT"
                ) from error
            time.sleep(0.1)
        except OSError:
            log.info("%s: its file system has no locks; make sure that no other command writes there", place)
            return
        else:
            return

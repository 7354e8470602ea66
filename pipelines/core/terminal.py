"""Standard error while libraries chatter: their lines into a file, those of `logging` where a person reads them."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

__all__ = ["chatter_to", "logging_to", "size_of"]


@contextlib.contextmanager
def chatter_to(path: Path) -> Iterator[TextIO]:
    """Points standard output and error at a file, for C++ and subprocesses too; gives what was standard error.

    Log lines go where they went before.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        stream = sys.stderr
        if _descriptor(stream) == 2:
            stream = stack.enter_context(
                open(os.dup(2), "w", encoding=stream.encoding, errors=stream.errors, buffering=1)
            )
            stack.enter_context(logging_to(stream, sys.stderr))
        file = stack.enter_context(path.open("ab"))
        for descriptor in (1, 2):
            kept = os.dup(descriptor)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, descriptor)
            os.dup2(file.fileno(), descriptor)
        stack.callback(sys.stdout.flush)
        stack.callback(sys.stderr.flush)
        yield stream


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def logging_to(stream: TextIO, before: TextIO) -> Iterator[None]:
    """What the root logger's handlers write to the stream `before` goes to `stream`."""
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is before
    ]
    for handler in handlers:
        handler.setStream(stream)
    try:
        yield
    finally:
        for handler in handlers:
            handler.setStream(before)


def size_of(terminal: TextIO) -> tuple[int, int]:
    """Columns and lines; rich would ask standard input and output, which may be files."""
    width, height = os.get_terminal_size(terminal.fileno())
    # A pseudo-terminal of unknown size says 0.
    return width or 80, height or 24

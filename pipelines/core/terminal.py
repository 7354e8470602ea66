"""Draw tables for the terminal; redirect standard output and error to a file, while log messages still reach it."""

import contextlib
import logging
import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TextIO

from rich import box
from rich.table import Table

__all__ = ["logging_to", "output_to_file", "table", "terminal_size"]


def table(*headers: str, right: Collection[str] = (), title: str | None = None) -> Table:
    """An empty table in the style of all commands.

    Args:
        *headers: Of the columns.
        right: Headers of the columns that are aligned at the right.
        title: The line above it.
    """
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=title, title_justify="left")
    for header in headers:
        made.add_column(header, justify="right" if header in right else "left", overflow="fold")
    return made


@contextlib.contextmanager
def output_to_file(path: Path) -> Iterator[TextIO]:
    """Redirects standard output and error to a file, for C++ code and child processes too.

    Log messages still go where they went before.

    Yields:
        The former standard error.
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
    """Makes the handlers of the root logger that write to `before` write to `stream` instead."""
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


def terminal_size(terminal: TextIO) -> tuple[int, int]:
    """Columns and lines of a terminal; rich would use those of standard input and output, which may be files."""
    width, height = os.get_terminal_size(terminal.fileno())
    # A pseudo-terminal of unknown size returns 0.
    return width or 80, height or 24

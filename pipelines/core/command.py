"""Run a command: parse its options, print its result, return the exit code.

A command is a frozen dataclass of options, a function from these options to a dict of JSON values, and a function from
this dict to the text that a person reads:

    def main(argv: list[str] | None = None) -> int:
        return command.run(PreprocessOptions, preprocess, summary, argv)
"""

import contextlib
import dataclasses
import errno
import json
import logging
import os
import re
import shlex
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from rich.console import Console

from pipelines.core.errors import StepError, UserError
from pipelines.core.options import parse
from pipelines.core.text import program

__all__ = ["run"]

log = logging.getLogger(__name__)
# Columns of a table that no terminal shows: rich would wrap it at 80.
_WIDEST = 10_000

T = TypeVar("T")


def run(
    options_class: type[T],
    step: Callable[[T], dict[str, Any]],
    summary: Callable[[dict[str, Any]], Any],
    argv: Sequence[str] | None = None,
) -> int:
    """Parses the options, calls `step` and prints its result.

    Args:
        options_class: The dataclass of options.
        step: From the options to a result of JSON values; its "exit_code", if any, is removed and returned.
        summary: From the result to what a person reads: text or anything rich can print; None prints nothing.
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        The exit code: 0 done, 2 a mistake of the user, 1 any other error, 130 interrupted by Ctrl-C or SIGTERM.
    """
    with _logging_to_stderr(), _sigterm_interrupts():
        return _run(options_class, step, summary, argv)


def _run(
    options_class: type[T],
    step: Callable[[T], dict[str, Any]],
    summary: Callable[[dict[str, Any]], Any],
    argv: Sequence[str] | None,
) -> int:
    module = sys.modules[step.__module__]
    prog = program(step.__module__.rpartition(".")[2]) if module.__name__ != "__main__" else None
    try:
        lines = (module.__doc__ or "").splitlines()
        written = "\n".join(line for line in lines if line.startswith("    "))
        examples = re.sub(r"python -m pipelines\.(\w+)", lambda match: program(match[1]), written)
        options, as_json = parse(options_class, argv, prog, examples)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            log.info("Ctrl-C is ignored here, as the shell that started this command asked; SIGTERM ends it")
        # Ray and OpenCV write to standard output too; with --json all of that goes to standard error.
        with _stdout_to_stderr() if as_json else contextlib.nullcontext():
            result = step(options)
        exit_code = int(result.pop("exit_code", 0))
        if as_json:
            sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
        elif (text := summary(result)) is not None:
            _print(text)
        sys.stdout.flush()
        return exit_code
    except UserError as error:
        log.error("error: %s", " ".join(str(error).split("\n")))
        return 2
    except StepError as error:
        log.error("error: %s", error)
        return 1
    except KeyboardInterrupt:
        may_resume = "resume" in {field.name for field in dataclasses.fields(options_class)}  # type: ignore[arg-type]
        words = [word for word in (sys.argv[1:] if argv is None else argv) if word not in ("--overwrite", "--resume")]
        line = f"{program(step.__module__.rpartition('.')[2])} {shlex.join([*words, '--resume'])}"
        log.error("interrupted%s", f"; resume with: {line}" if may_resume else "")
        return 130
    except BrokenPipeError:
        # The reader (head, say) has ended. Python would report it again when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            log.error("error: no room on the disk (%s); make some and run the same command with --resume", error)
        else:
            traceback.print_exc()
        return 1
    except Exception:
        traceback.print_exc()
        return 1


def _print(text: Any) -> None:
    width = None if sys.stdout.isatty() else _WIDEST
    Console(file=sys.stdout, width=width, soft_wrap=True, highlight=False, markup=False, emoji=False).print(text)


@contextlib.contextmanager
def _logging_to_stderr() -> Iterator[None]:
    """Writes log messages as plain lines to standard error while a command runs."""
    root, handler = logging.getLogger(), logging.StreamHandler(sys.stderr)
    level = root.level
    handler.setFormatter(logging.Formatter("%(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Makes SIGTERM do what Ctrl-C does, also where Ctrl-C is ignored; a handler that is installed already stays."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def interrupt(_: int, frame: types.FrameType | None) -> None:
        # Tune, say, replaces the handler of Ctrl-C while it runs.
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler):
            handler(signal.SIGINT, frame)
        else:
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Redirects file descriptor 1 to standard error, for this process and its children."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)

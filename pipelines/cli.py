"""What all commands share: options from a dataclass, exit codes, output, OUT directories, progress.

A command is a frozen dataclass of options, a function of them that returns a JSON-like dict, and a function that turns
this dict into the text a person reads:

    def main(argv: list[str] | None = None) -> int:
        return cli.run(PreprocessOptions, preprocess, summary, argv)
"""

import argparse
import ast
import contextlib
import dataclasses
import errno
import inspect
import json
import logging
import os
import shlex
import shutil
import sys
import textwrap
import time
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = [
    "StepError",
    "UserError",
    "check_values",
    "duration",
    "field_help",
    "percent",
    "positional",
    "progress",
    "python",
    "run",
    "user_errors",
]

log = logging.getLogger(__name__)
T = TypeVar("T")


class UserError(ValueError):
    """A mistake of the user's: one line that names the value and the way out. The command ends with exit code 2."""


class StepError(RuntimeError):
    """A step can't go on, through no mistake in its options: told in one line. The command ends with exit code 1."""


@contextlib.contextmanager
def user_errors(what: str = "") -> Iterator[None]:
    """Turns a ValueError of the library (a shape that does not fit, say) into a UserError, with `what` before it."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{what}: {error}" if what else str(error)) from error


def positional(**kwargs: Any) -> Any:
    """A dataclass field that is given by position on the command line, without a `--name`."""
    return dataclasses.field(metadata={"positional": True}, **kwargs)


def field_help(options_class: type) -> dict[str, str]:
    """The docstrings under the fields of a dataclass (house rule 5), by field name, base classes included."""
    texts: dict[str, str] = {}
    for cls in reversed(options_class.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(after, ast.Expr):
                assert isinstance(statement.target, ast.Name)
                assert isinstance(after.value, ast.Constant)
                texts[statement.target.id] = " ".join(str(after.value.value).split())
    return texts


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UserError(f"{message} (see --help)")


def build_parser(options_class: type, prog: str | None = None) -> argparse.ArgumentParser:
    """An argparse parser whose options are the fields of `options_class`; absent options stay absent."""
    doc = inspect.getdoc(options_class) or ""
    parser = _Parser(
        prog=prog,
        description=doc,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    helps, hints = field_help(options_class), get_type_hints(options_class)
    for field in dataclasses.fields(options_class):
        kind, many = _scalar_type(hints[field.name])
        default = field.default
        text = helps.get(field.name, "").replace("%", "%%")
        if default is not dataclasses.MISSING and default is not None and default is not False and default != ():
            text += f" [default: {default}]"
        if field.metadata.get("positional"):
            # Not `required` here: --config may give it.
            parser.add_argument(
                field.name, metavar=field.name.upper(), help=text, type=kind, nargs="*" if many else "?"
            )
        elif kind is bool:
            parser.add_argument(
                _flag(field.name),
                dest=field.name,
                help=text,
                action=argparse.BooleanOptionalAction if default is True else "store_true",
            )
        else:
            parser.add_argument(
                _flag(field.name),
                dest=field.name,
                help=text,
                type=_or_none(kind) if field.default is not None and _is_optional(hints[field.name]) else kind,
                nargs="+" if many else None,
                metavar=kind.__name__.upper(),
            )
    parser.add_argument(
        "--config",
        metavar="FILE.json",
        help="read options from a JSON file holding the same names; the command line wins over it",
    )
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object on standard output")
    return parser


def parse(options_class: type[T], argv: Sequence[str] | None, prog: str | None = None) -> tuple[T, bool]:
    """Options from the command line over those of `--config FILE.json` over the defaults; and whether --json was given.

    Raises:
        UserError: unknown option or name, value of the wrong type, or one that the dataclass itself refuses.
    """
    given = vars(build_parser(options_class, prog).parse_args(argv))
    as_json, config = given.pop("json", False), given.pop("config", None)
    values = {**(_read_config(options_class, config) if config else {}), **{k: v for k, v in given.items() if v != []}}
    for field in dataclasses.fields(options_class):  # type: ignore[arg-type]
        if (
            field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
            and field.name not in values
        ):
            raise UserError(f"{field.name.upper()} is missing (see --help)")
        if isinstance(values.get(field.name), list):
            values[field.name] = tuple(values[field.name])
    with user_errors():
        return options_class(**values), as_json


def _read_config(options_class: type, path: str) -> dict[str, Any]:
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--config {path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"--config {path} must hold one JSON object, got {type(values).__name__}")
    check_values(options_class, values, f"--config {path}")
    return values


def check_values(options_class: type, values: Any, what: str) -> None:
    """Raises UserError, with `what` before it, unless these are options of the class by name, of the right types."""
    if not isinstance(values, Mapping):
        raise UserError(f"{what}: must be options by their names, got {values!r}")
    hints = get_type_hints(options_class)
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"{what}: unknown option {name!r}; the options are {', '.join(sorted(hints))}")
        kind, many = _scalar_type(hints[name])
        if many and not isinstance(value, list):
            raise UserError(f"{what}: {name} must be a list, got {json.dumps(value, default=repr)}")
        for item in value if many else [value]:
            optional = item is None and _is_optional(hints[name])
            right_type = isinstance(item, int | float if kind is float else kind)
            if not optional and (not right_type or (kind is not bool and isinstance(item, bool))):
                raise UserError(f"{what}: {name} must be {kind.__name__}, got {json.dumps(item, default=repr)}")


def _scalar_type(hint: Any) -> tuple[Any, bool]:
    """(type of one value, whether there may be many) of `int`, `int | None`, `tuple[str, ...]`."""
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    if get_origin(hint) is types.UnionType:
        return next(arg for arg in get_args(hint) if arg is not type(None)), False
    return hint, False


def _is_optional(hint: Any) -> bool:
    return type(None) in get_args(hint)


def _or_none(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Reads the word none too: nothing else stands for it where it is not the default."""

    def read(text: str) -> Any:
        return None if text == "none" else kind(text)

    # argparse names it where a value is wrong.
    read.__name__ = kind.__name__
    return read


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def run(
    options_class: type[T],
    step: Callable[[T], dict[str, Any]],
    summary: Callable[[dict[str, Any]], Any],
    argv: Sequence[str] | None = None,
) -> int:
    """Parses, runs `step`, prints its result, and gives the exit code that the design fixes.

    Args:
        options_class: The dataclass of options.
        step: From options to a result of JSON values; its "exit_code", if any, is taken out and used.
        summary: From the result to what a person reads: text or anything rich can print; None: nothing.
        argv: Arguments without the program's name; None takes the process's own.

    Returns:
        0 done, 2 a user's mistake, 1 anything else, 130 interrupted.
    """
    with _logging_to_stderr():
        return _run(options_class, step, summary, argv)


def _run(
    options_class: type[T],
    step: Callable[[T], dict[str, Any]],
    summary: Callable[[dict[str, Any]], Any],
    argv: Sequence[str] | None,
) -> int:
    module = sys.modules[step.__module__]
    prog = f"python -m {step.__module__}" if module.__name__ != "__main__" else None
    try:
        options, as_json = parse(options_class, argv, prog)
        # Ray and OpenCV write to standard output as they please; under --json all of it goes to standard error.
        with _stdout_to_stderr() if as_json else contextlib.nullcontext():
            result = step(options)
        exit_code = int(result.pop("exit_code", 0))
        if as_json:
            sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
        elif (text := summary(result)) is not None:
            Console(file=sys.stdout, soft_wrap=True, highlight=False, markup=False, emoji=False).print(text)
        sys.stdout.flush()
        return exit_code
    except UserError as error:
        log.error("error: %s", " ".join(str(error).split("\n")))
        return 2
    except StepError as error:
        log.error("error: %s", error)
        return 1
    except KeyboardInterrupt:
        log.error("interrupted")
        return 130
    except BrokenPipeError:
        # The reader (head, say) has gone. Python would complain once more while closing standard output.
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


@contextlib.contextmanager
def _logging_to_stderr() -> Iterator[None]:
    """Shows what the steps log, as plain lines, while a command runs."""
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
def _stdout_to_stderr() -> Iterator[None]:
    """Points file descriptor 1 at standard error, for this process and those it starts."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def python() -> str:
    """What to type for this Python: `python`, or its path where `python` is another one."""
    if shutil.which("python") == sys.executable:
        return "python"
    return shlex.quote(min(os.path.relpath(sys.executable), sys.executable, key=len))


def duration(seconds: float) -> str:
    """As a person says it: `42 s`, `3 min 07 s`, `1 h 05 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def percent(value: float | None) -> str:
    """0.9375 -> `93.8%`; `-` for None."""
    return "-" if value is None else f"{100 * value:.1f}%"


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Passes items on, showing how many have passed: a bar on a terminal, a plain line every 5 s elsewhere."""
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            yield from bar.track(items, total=total, description=what)
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last > 5:
            last = time.monotonic()
            log.info("%s: %d of %d", what, done, total)

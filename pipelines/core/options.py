"""Read options into a dataclass: from the command line and --config FILE.json, with help from its docstrings."""

import argparse
import ast
import dataclasses
import difflib
import functools
import inspect
import json
import shlex
import textwrap
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pipelines.core.errors import UserError, user_errors

__all__ = ["check_values", "did_you_mean", "field_help", "positional", "takes_options"]


T = TypeVar("T")
R = TypeVar("R")


def positional(**kwargs: Any) -> Any:
    """A dataclass field that the command line takes by position, without a `--name`."""
    return dataclasses.field(metadata={"positional": True}, **kwargs)


def takes_options(options_class: type) -> Callable[[Callable[[Any], R]], Callable[..., R]]:
    """Lets a function of an options object also be called with the options themselves, as Python functions are.

    Example:
        predict(PredictOptions(model="model", video=("clip.avi",)))
        predict("model", "clip.avi", window="2s")
    """

    def decorate(function: Callable[[Any], R]) -> Callable[..., R]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> R:
            if len(args) == 1 and isinstance(args[0], options_class) and not kwargs:
                return function(args[0])
            return function(_from_arguments(options_class, args, kwargs))

        call.options_class = options_class  # type: ignore[attr-defined]
        return call

    return decorate


def _from_arguments(options_class: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The options; those that the command line takes by position may be given so here."""
    hints, values, rest = get_type_hints(options_class), dict(kwargs), list(args)
    for field in dataclasses.fields(options_class):
        if rest and field.metadata.get("positional"):
            many = _scalar_type(hints[field.name])[1] and not isinstance(rest[0], list | tuple)
            values[field.name], rest = (rest, []) if many else (rest[0], rest[1:])
    if rest:
        raise TypeError(f"{len(rest)} values too many by position: {', '.join(map(repr, rest))}")
    return options_class(**{name: _as_option(value) for name, value in values.items()})


def _as_option(value: Any) -> Any:
    """A command line has text where Python may have a Path, and options are tuples where Python may have lists."""
    if isinstance(value, list | tuple):
        return tuple(map(_as_option, value))
    return str(value) if isinstance(value, Path) else value


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


def build_parser(options_class: type, prog: str | None = None, examples: str = "") -> argparse.ArgumentParser:
    """An argparse parser whose options are the fields of a dataclass; its result holds only options that were given.

    Options stand in a group for each class that has fields; a class may have CHOICES, values by the name of the field.
    """
    fields = {field.name: field for field in dataclasses.fields(options_class)}
    places = [_place(field) for field in fields.values() if field.metadata.get("positional")]
    parser = _Parser(
        prog=prog,
        usage=" ".join(["%(prog)s", *places, "[options]"]),
        description=inspect.getdoc(options_class) or "",
        epilog=examples and f"examples:\n{examples}",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    helps, hints = field_help(options_class), get_type_hints(options_class)
    choices = getattr(options_class, "CHOICES", {})
    for cls in options_class.__mro__[:-1]:
        own = [fields.pop(name) for name in vars(cls).get("__annotations__", ()) if name in fields]
        group = parser.add_argument_group(_title(cls)) if own and cls is not options_class else parser
        for field in own:
            kind, many = _scalar_type(hints[field.name])
            text = helps.get(field.name, "").replace("%", "%%") + _default_text(field.default)
            if field.metadata.get("positional"):
                # Not required: --config may give it.
                group.add_argument(
                    field.name, metavar=field.name.upper(), help=text, type=kind, nargs="*" if many else "?"
                )
            elif kind is bool:
                group.add_argument(
                    _flag(field.name),
                    dest=field.name,
                    help=text,
                    action=argparse.BooleanOptionalAction if field.default is True else "store_true",
                )
            else:
                among = choices.get(field.name)
                group.add_argument(
                    _flag(field.name),
                    *map(_flag, field.metadata.get("aliases", ())),
                    dest=field.name,
                    help=text,
                    type=_or_none(kind) if field.default is not None and _is_optional(hints[field.name]) else kind,
                    nargs="+" if many else None,
                    metavar="{" + ",".join(among) + "}" if among else kind.__name__.upper(),
                )
    parser.add_argument(
        "--config",
        metavar="FILE.json",
        help="read options from a JSON file holding the same names; the command line wins over it",
    )
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object on standard output")
    return parser


def _place(field: "dataclasses.Field[Any]") -> str:
    """A value that is given by position, as the usage line shows it."""
    name = field.name.upper()
    text = f"{name} [{name} ...]" if get_origin(field.type) is tuple else name
    has_default = field.default is not dataclasses.MISSING
    return f"[{text}]" if has_default else text


def _title(cls: type) -> str:
    """A group of options, by the first sentence about their class."""
    return (inspect.getdoc(cls) or cls.__name__).split(".")[0].split(",")[0].lower()


def _default_text(default: Any) -> str:
    if default is dataclasses.MISSING or default is None or default is False or default in ((), ""):
        return ""
    return f" [default: {' '.join(map(str, default)) if isinstance(default, tuple) else default}]"


def parse(
    options_class: type[T], argv: Sequence[str] | None, prog: str | None = None, examples: str = ""
) -> tuple[T, bool]:
    """Reads options: the command line overrides `--config FILE.json`, which overrides the defaults.

    Returns:
        The options, and whether --json was given.

    Raises:
        UserError: an unknown option, a value of the wrong type, or a value that the dataclass refuses.
    """
    parser = build_parser(options_class, prog, examples)
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        flags = [flag for flag in parser._option_string_actions if flag.startswith("--")]
        guess = did_you_mean(unknown[0].split("=")[0], flags) or _by_name(options_class, unknown)
        raise UserError(f"unknown: {' '.join(unknown)}{guess} (see --help)")
    given = vars(namespace)
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


def _by_name(options_class: type, words: Sequence[str]) -> str:
    """A hint for a command that takes nothing by position: its first options, with the words as values."""
    fields = dataclasses.fields(options_class)
    if words[0].startswith("-") or any(field.metadata.get("positional") for field in fields):
        return ""
    named = (f"{_flag(field.name)} {shlex.quote(word)}" for field, word in zip(fields, words, strict=False))
    return f"; values are given by name: {' '.join(named)}"


def _read_config(options_class: type, path: str) -> dict[str, Any]:
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--config {path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"--config {path} must hold one JSON object, got {type(values).__name__}")
    for field in dataclasses.fields(options_class):
        for alias in field.metadata.get("aliases", ()):
            if alias in values:
                values[field.name] = values.pop(alias)
    check_values(options_class, values, f"--config {path}")
    return values


def check_values(options_class: type, values: Any, what: str) -> None:
    """Checks names and types of options that are given as a mapping.

    Raises:
        UserError: they are no options of the class; the message begins with `what`.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{what}: must be options by their names, got {values!r}")
    hints, names = get_type_hints(options_class), sorted(field.name for field in dataclasses.fields(options_class))
    for name, value in values.items():
        if name not in names:
            guess = did_you_mean(str(name), names)
            raise UserError(f"{what}: unknown option {name!r}{guess}; the options are {', '.join(names)}")
        kind, many = _scalar_type(hints[name])
        if many and not isinstance(value, list):
            raise UserError(f"{what}: {name} must be a list, got {json.dumps(value, default=repr)}")
        for item in value if many else [value]:
            optional = item is None and _is_optional(hints[name])
            right_type = isinstance(item, int | float if kind is float else kind)
            if not optional and (not right_type or (kind is not bool and isinstance(item, bool))):
                raise UserError(f"{what}: {name} must be {kind.__name__}, got {json.dumps(item, default=repr)}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean WORD?` with the most similar known word, or "" if none is."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _scalar_type(hint: Any) -> tuple[Any, bool]:
    """(type of one value, whether it is a tuple) of a hint such as `int`, `int | None`, `tuple[str, ...]`."""
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    if get_origin(hint) is types.UnionType:
        return next(arg for arg in get_args(hint) if arg is not type(None)), False
    return hint, False


def _is_optional(hint: Any) -> bool:
    return type(None) in get_args(hint)


def _or_none(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """A parser of option values that accepts `none` too, for options whose default is not None."""

    def read(text: str) -> Any:
        return None if text == "none" else kind(text)

    # argparse names it in its message for a wrong value.
    read.__name__ = kind.__name__
    return read


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")

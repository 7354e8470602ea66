"""Options from a dataclass: command line, --config FILE.json, help texts from the docstrings under the fields."""

import argparse
import ast
import dataclasses
import inspect
import json
import textwrap
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pipelines.core.errors import UserError, user_errors

__all__ = ["check_values", "field_help", "positional"]


T = TypeVar("T")


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

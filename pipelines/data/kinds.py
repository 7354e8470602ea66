"""Recognise shards, runs, sweeps, models and videos, and refuse arguments of another kind than a command takes."""

import contextlib
import itertools
import os
import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from pipelines.core.errors import UserError
from pipelines.core.text import program
from pipelines.storage.location import Location
from pipelines.video.suffixes import PICTURE_SUFFIXES, VIDEO_SUFFIXES

__all__ = ["MODELS", "Argument", "check_arguments", "kind_of"]

MODELS = ("model", "run", "sweep")
"""Kinds of directories from which a model is read."""

_KINDS = {
    "ttrnn-shards": "shards",
    "ttrnn-preprocess": "shards",
    "ttrnn-sweep": "sweep",
    "ttrnn-run": "run",
    "ttrnn-model": "model",
    "ttrnn-baseline": "model",
}
"""From the `format` in a JSON file of a directory to a kind."""
_FORMAT = re.compile(rb'"format": ?"(ttrnn-[a-z]+)"')
# All files of this project begin with their format.
_HEAD_BYTES = 1 << 12
_WORDS = {"shards": "shards", "videos": "videos", "sweep": "a sweep", "run": "a run", "model": "a model"}
# Arrow files are left out: they may be shards that have lost their dataset.json.
_CLIPS = (*VIDEO_SUFFIXES, ".npy", ".npz", *PICTURE_SUFFIXES)
# Among so many files, one is a clip.
_MOST_FILES = 10_000
_MOST_JSON = 100


class Argument(NamedTuple):
    """An argument of a command."""

    name: str
    """as the usage shows it"""
    path: str | None
    """what the user gave"""
    kinds: Collection[str]
    """what it may be; for OUT, what the command writes there"""
    is_out: bool = False
    """whether the command writes it"""


def kind_of(path: str) -> str | None:
    """Recognises a path: shards, sweep, run, model or videos; None for anything else, and for URIs."""
    place = Location.of(path)
    if not place.is_local:
        return None
    if not place.is_dir():
        suffix = os.path.splitext(path.lower())[1]
        return "model" if suffix == ".onnx" else "videos" if suffix in (".csv", *_CLIPS) else None
    kind = next((_KINDS[each] for each in _formats(path) if each in _KINDS), None)
    if kind is not None:
        return kind
    return "videos" if any(file.lower().endswith(_CLIPS) for file in _files(path)) else None


def _formats(path: str) -> Iterator[str]:
    with os.scandir(path) as entries:
        names = [entry.path for entry in entries if entry.name.endswith(".json") and entry.is_file()]
    for name in sorted(names)[:_MOST_JSON]:
        with contextlib.suppress(OSError), open(name, "rb") as file:
            if found := _FORMAT.search(file.read(_HEAD_BYTES)):
                yield found[1].decode()


def _files(path: str) -> Iterator[str]:
    names = (name for _, _, names in os.walk(path) for name in names)
    return itertools.islice(names, _MOST_FILES)


def check_arguments(command: str, *arguments: Argument) -> None:
    """Refuses arguments in the wrong order, or of another kind; what is not recognised is left to the command.

    Args:
        command: Its name.
        *arguments: Those that are paths, in the order of its usage.

    Raises:
        UserError: the message has the command that was meant.
    """
    given = [argument for argument in arguments if argument.path]
    kinds = {argument.path: kind_of(str(argument.path)) for argument in given}
    for other in given[1:]:
        first, kind = given[0], kinds[other.path]
        is_missing = "://" not in str(first.path) and not os.path.exists(str(first.path))
        may_swap = is_missing or kinds[first.path] in other.kinds
        fits = kind in first.kinds and kind not in other.kinds
        if fits and may_swap and kinds[first.path] not in first.kinds:
            words = [str(each.path) for each in (other, *(each for each in given if each is not other))]
            what = _WORDS[str(kind)]
            raise UserError(f"the arguments are in the wrong order; give {what} first: {_line(command, words)}")
    for argument in given:
        kind = kinds[argument.path]
        if kind is not None and kind not in argument.kinds and not argument.is_out:
            verb = "is" if kind in MODELS else "holds"
            wanted = " or ".join(_WORDS[each] for each in argument.kinds)
            usage = list(dict.fromkeys(each.name for each in arguments))
            way_out = _way_out(command, str(argument.path), kind, argument.kinds) or f"give {_line(command, usage)}"
            raise UserError(f"{argument.path} {verb} {_WORDS[kind]}, not {wanted}; {way_out}")


def _line(command: str, words: Sequence[str]) -> str:
    # Names in a usage are not quoted.
    shown = [word if word.isupper() or word.startswith("--") else shlex.quote(word) for word in words]
    return " ".join([f"{program(command)}", *shown[:4], *(["..."] if len(shown) > 4 else [])])


def _way_out(command: str, path: str, kind: str, wanted: Collection[str]) -> str | None:
    """The command that takes a path of this kind, or that makes what is wanted from it; None if there is none."""
    if kind == "shards" and command == "preprocess":
        return f"give them to train or sweep: {_line('train', [path, 'run'])}"
    if kind == "shards" and command == "predict":
        return f"evaluate takes shards: {_line('evaluate', ['MODEL', path])}"
    if kind == "videos" and "shards" in wanted:
        return f"make shards first: {_line('preprocess', [path, 'shards'])}"
    if kind in ("shards", "videos") and "sweep" in wanted:
        return f"make a sweep first: {_line('sweep', ['--data', path, '--out', 'sweep'])}"
    if kind in MODELS and "sweep" in wanted:
        return f"export takes it: {_line('export', [path, 'model'])}"
    return None

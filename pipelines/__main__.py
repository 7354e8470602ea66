"""Run a command by its name: `ttrnn sweep` and `python -m pipelines sweep` are `python -m pipelines.sweep`."""

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence

from pipelines.core.options import build_parser, did_you_mean

__all__ = ["COMMANDS", "main", "option_classes"]

COMMANDS = {
    "demo": "render a demo data set",
    "preprocess": "videos -> shards",
    "train": "shards -> one model",
    "sweep": "shards or videos -> a frontier of models; without --data the whole job on the demo",
    "pareto": "the frontier of a sweep: table, page, figure",
    "export": "one model of a sweep or a run -> a model directory, ONNX",
    "evaluate": "a model on a split, or on labelled videos",
    "predict": "a model on videos, cameras, raw frames",
    "reproduce": "the experiments of the paper",
}
"""In the order the data flows."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names, and returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(_help())
        return 0
    name, *others = words
    if name == "--version":
        sys.stdout.write(f"ttrnn {importlib.metadata.version('ttrnn')}\n")
        return 0
    if name == "--completion":
        sys.stdout.write(_completion())
        return 0
    if name not in COMMANDS:
        guess = did_you_mean(name, COMMANDS)
        sys.stderr.write(f"error: ttrnn has no command {name!r}{guess}; the commands are {', '.join(COMMANDS)}\n")
        return 2
    code: int = importlib.import_module(f"pipelines.{name}").main(others)
    return code


def option_classes(command: str) -> list[type]:
    """The classes of a command's options: one, and of reproduce that of its bake-off too."""
    module = importlib.import_module(f"pipelines.{command}")
    names = [command, "bakeoff"] if command == "reproduce" else [command]
    return [getattr(module, name).options_class for name in names]


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "".join(f"  {name:<{width}}  {text}\n" for name, text in COMMANDS.items())
    return (
        f"usage: ttrnn COMMAND [options]      (or python -m pipelines.COMMAND)\n\n{commands}\n"
        "ttrnn COMMAND --help lists its options. Try: ttrnn sweep\n"
        'Commands and options are completed after: eval "$(ttrnn --completion)" (bash; zsh after bashcompinit)\n'
    )


def _completion() -> str:
    """A script for bash that completes commands, options, and names of files."""
    cases = []
    for name in COMMANDS:
        actions = [action for own in option_classes(name) for action in build_parser(own)._actions]
        flags = dict.fromkeys(flag for action in actions for flag in action.option_strings if flag.startswith("--"))
        cases.append(f'    {name}) words="{" ".join(flags)}" ;;\n')
    return (
        "_ttrnn() {\n"
        f'  local words="{" ".join(COMMANDS)}" word="${{COMP_WORDS[COMP_CWORD]}}"\n'
        f'  if ((COMP_CWORD > 1)); then case "${{COMP_WORDS[1]}}" in\n{"".join(cases)}  esac; fi\n'
        '  COMPREPLY=($(compgen -W "$words" -- "$word"))\n'
        "}\n"
        "complete -o default -F _ttrnn ttrnn\n"
    )


if __name__ == "__main__":
    sys.exit(main())

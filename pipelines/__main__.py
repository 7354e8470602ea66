"""Run a command by its name: `ttrnn sweep` and `python -m pipelines sweep` are `python -m pipelines.sweep`."""

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence

from pipelines.core.options import did_you_mean

__all__ = ["COMMANDS", "main"]

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
    name, *others = [*(sys.argv[1:] if argv is None else argv), ""]
    if name in ("", "-h", "--help"):
        sys.stdout.write(_help())
        return 0
    if name == "--version":
        sys.stdout.write(f"ttrnn {importlib.metadata.version('ttrnn')}\n")
        return 0
    if name not in COMMANDS:
        guess = did_you_mean(name, COMMANDS)
        sys.stderr.write(f"error: ttrnn has no command {name!r}{guess}; the commands are {', '.join(COMMANDS)}\n")
        return 2
    code: int = importlib.import_module(f"pipelines.{name}").main(others[:-1])
    return code


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "".join(f"  {name:<{width}}  {text}\n" for name, text in COMMANDS.items())
    return (
        f"usage: ttrnn COMMAND [options]      (or python -m pipelines.COMMAND)\n\n{commands}\n"
        "ttrnn COMMAND --help tells its options. Try: ttrnn sweep\n"
    )


if __name__ == "__main__":
    sys.exit(main())

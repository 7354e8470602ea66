"""Reproduce the paper's table: train its models on folds of a data set, and compare with the published figures.

With --bakeoff, compare tensor formats at equal numbers of parameters instead.

    python -m pipelines.reproduce --dataset ucf11 --dry-run                  parameters, memory, time; needs no data
    python -m pipelines.reproduce UCF11_updated_mpg runs/ucf11 --dataset ucf11
    python -m pipelines.reproduce SHARDS runs/ucf11 --dataset ucf11 --models tt-gru dense-gru --epochs 30 --lr 1e-3
    python -m pipelines.reproduce UCF11_updated_mpg runs/ucf11 --dataset ucf11 --resume
    python -m pipelines.reproduce --bakeoff SHARDS SHARDS --out runs/bakeoff

Protocol `published`: folds are drawn clip by clip, so that clips of one source video are in train and test; the model
of the last epoch is used, and validated on the test fold after each epoch. Protocol `ours`: groups are kept together,
the epoch is selected on a validation split of the other folds, and the test fold is evaluated once. For a data set with
official lists, both protocols use their test split.

Writes OUT/table.md, table.csv (a row per protocol and model), runs.csv (a row per run), runs/ (each a run, see train,
with a result.json) and, for videos, shards/. A bake-off writes OUT/bakeoff.md, bakeoff.csv (a row per data set, budget
and contender), bakeoff.png and runs/; its options are listed by --help --bakeoff.
"""

import sys
from typing import Any

from pipelines.bakeoff import contest
from pipelines.bakeoff.options import BakeoffOptions
from pipelines.bakeoff.table import cells_of
from pipelines.core import command
from pipelines.core.options import takes_options
from pipelines.data.kinds import Argument, check_arguments
from pipelines.paper import reproduction, table
from pipelines.paper.estimate import dry_run_summary
from pipelines.paper.protocols import ReproduceOptions

__all__ = ["bakeoff", "reproduce", "summary"]


@takes_options(ReproduceOptions)
def reproduce(options: ReproduceOptions) -> dict[str, Any]:
    """The command as a function; see `paper.reproduction.reproduce` for its result and errors."""
    check_arguments(
        "reproduce",
        Argument("DATA", options.data, ("shards", "videos")),
        Argument("OUT", options.out, (), is_out=True),
    )
    return reproduction.reproduce(options)


def summary(result: dict[str, Any]) -> str:
    """The table with its remarks and notes, or the estimates of --dry-run."""
    if result.get("dry_run"):
        return dry_run_summary(result)
    rows = (row for row in result["table"] if row["note"] not in ("", table.WATCHED))
    notes = (f"{row['model']} {row['protocol']}: {row['note']}" for row in rows)
    out = result["out"]
    return "\n".join(
        [
            table.terminal_table(result["table"], result["title"]),
            *result["remarks"],
            *notes,
            f"table: {out}/table.md, table.csv; runs: {out}/runs.csv",
        ]
    )


@takes_options(BakeoffOptions)
def bakeoff(options: BakeoffOptions) -> dict[str, Any]:
    """The command with --bakeoff as a function; see `bakeoff.contest.bakeoff` for its result and errors."""
    check_arguments("reproduce", *(Argument("SHARDS", place, ("shards",)) for place in options.bakeoff))
    return contest.bakeoff(options)


def bakeoff_summary(result: dict[str, Any]) -> str:
    """The table of a bake-off with its remarks."""
    header, body = cells_of(result["table"])
    title = "test metric in percent, mean over seeds (lowest to highest)"
    out = result["out"]
    files = f"table: {out}/bakeoff.md, bakeoff.csv; figure: bakeoff.png"
    return "\n".join([table.plain_table(header, body, title), *result["remarks"], files])


def main(argv: list[str] | None = None) -> int:
    """The command; see the docstring of this module."""
    if "--bakeoff" in (sys.argv[1:] if argv is None else argv):
        return command.run(BakeoffOptions, bakeoff, bakeoff_summary, argv)
    return command.run(ReproduceOptions, reproduce, summary, argv)


if __name__ == "__main__":
    # Run the importable module, also for `python pipelines/reproduce.py`: Ray pickles its functions by reference.
    from pipelines.reproduce import main as importable_main

    sys.exit(importable_main())

"""The paper's table: its models trained on folds of a data set, on Ray, beside the published figures.

    python -m pipelines.reproduce --dataset ucf11 --dry-run                  parameters, memory, time; needs no data
    python -m pipelines.reproduce UCF11_updated_mpg runs/ucf11 --dataset ucf11
    python -m pipelines.reproduce SHARDS runs/ucf11 --dataset ucf11 --models tt-gru dense-gru --epochs 30 --lr 1e-3
    python -m pipelines.reproduce UCF11_updated_mpg runs/ucf11 --dataset ucf11 --resume

Two protocols. `published`: folds are dealt clip by clip, so clips of one source video lie on both sides; the model of
the last epoch counts, and the fold it is tested on is watched all along. `ours`: groups stay whole, the epoch is chosen
on a validation split cut from the other folds, and the test fold is looked at once. Where a data set has official
lists, both take their test split.

Leaves OUT/table.md, table.csv (a row for each protocol and model), runs.csv (one for each run), runs/ (each a run as
train leaves it, with its result.json) and, if videos were given, shards/.
"""

import sys
from typing import Any

from pipelines.core import command
from pipelines.paper import table
from pipelines.paper.estimate import dry_run_summary
from pipelines.paper.protocols import ReproduceOptions
from pipelines.paper.reproduction import reproduce

__all__ = ["summary"]


def summary(result: dict[str, Any]) -> str:
    """What a person reads: the table and what must be known of it, or what it would take."""
    if result.get("dry_run"):
        return dry_run_summary(result)
    noted = (row for row in result["table"] if row["note"] not in ("", table.WATCHED))
    notes = (f"{row['model']} {row['protocol']}: {row['note']}" for row in noted)
    out = result["out"]
    return "\n".join(
        [
            table.terminal_table(result["table"], result["title"]),
            *result["remarks"],
            *notes,
            f"table: {out}/table.md, table.csv; each run: {out}/runs.csv",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """The command; see the head of this file."""
    return command.run(ReproduceOptions, reproduce, summary, argv)


if __name__ == "__main__":
    # As `python pipelines/reproduce.py` too: the importable module is the one that Ray pickles by reference.
    from pipelines.reproduce import main as importable_main

    sys.exit(importable_main())

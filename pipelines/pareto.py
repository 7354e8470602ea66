"""(4) The trials of a sweep -> the frontier of parameters against the validation metric, as files to look at.

    python -m pipelines.pareto runs/sweep
    python -m pipelines.pareto runs/sweep --json
    python -m pipelines.pareto s3://bucket/sweep

Reads SWEEP/sweep.json, SWEEP/trials/ID/, SWEEP/study.journal and SWEEP/confirm/; writes SWEEP/trials.csv, pareto.csv,
pareto.json, pareto.png, report.html and best/, the model of the best point as the sweep trained it. The frontier is
chosen on validation. The test split is looked at once, and for the frontier's points only: a value that pareto.json has
for the same trial and the same weights is taken from there.
"""

import dataclasses
import sys
from typing import Any

from pipelines.core import command
from pipelines.core.options import positional
from pipelines.report.frontier_files import FILES, browser, write_frontier
from pipelines.report.table import frontier_table
from pipelines.storage.bucket import reading_copy
from pipelines.storage.location import Location

__all__ = ["ParetoOptions", "pareto"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ParetoOptions:
    """The frontier of a sweep: table, CSV, JSON, picture, page, and the best point's model."""

    sweep: str = positional()
    """the OUT of `python -m pipelines.sweep`, directory or URI; the files are written into it"""


def pareto(options: ParetoOptions) -> dict[str, Any]:
    """The command: `write_frontier` of options.sweep. Of one in a bucket it tells where the files can be looked at."""
    place = Location.of(options.sweep)
    with reading_copy(place, FILES) as path:
        result = write_frontier(path, place=place)
    if not place.is_local:
        result["files"] = {name: str(path / name) for name in FILES}
        result["next"][0] = browser(path)
    return result


def main(argv: list[str] | None = None) -> int:
    """Runs `pareto` from the command line and gives its exit code."""
    return command.run(ParetoOptions, pareto, frontier_table, argv)


if __name__ == "__main__":
    # As `python pipelines/pareto.py` too: the importable module is the one that Ray pickles by reference.
    from pipelines.pareto import main as importable_main

    sys.exit(importable_main())

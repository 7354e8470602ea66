"""(4) Draw the frontier of a sweep, parameters against the validation metric, as tables, figure and page.

    python -m pipelines.pareto runs/sweep
    python -m pipelines.pareto runs/sweep --json
    python -m pipelines.pareto s3://bucket/sweep

Reads the trials, the study and the replications of the sweep; writes SWEEP/trials.csv, pareto.csv, pareto.json,
pareto.png, report.html and best/, the model of the best point as the sweep trained it. The frontier is chosen on
validation. The test split is evaluated once, and only for the points of the frontier: if pareto.json has a test metric
of the same trial with the same weights, that is used.
"""

import dataclasses
import sys
from typing import Any

from pipelines.core import command
from pipelines.core.options import positional, takes_options
from pipelines.data.kinds import Argument, check_arguments
from pipelines.report.frontier_files import browser_command, write_frontier
from pipelines.report.table import frontier_table
from pipelines.storage.bucket import reading_copy
from pipelines.storage.location import Location
from pipelines.tuning.sweep_directory import SweepDirectory, is_result

__all__ = ["ParetoOptions", "pareto"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ParetoOptions:
    """Write the frontier of a sweep: table, CSV, JSON, figure, HTML page, and the best model."""

    sweep: str = positional()
    """the OUT of a sweep, directory or URI; the files are written into it"""


@takes_options(ParetoOptions)
def pareto(options: ParetoOptions) -> dict[str, Any]:
    """Writes the files of the frontier; for a sweep in a bucket, "files" are the paths of the local copies."""
    check_arguments("pareto", Argument("SWEEP", options.sweep, ("sweep",)))
    place = Location.of(options.sweep)
    files = SweepDirectory.FRONTIER_FILES
    with reading_copy(place, markers=(SweepDirectory.MARKER,), wanted=is_result, results=files) as copy:
        path = copy.path
        result = write_frontier(path, place=place, fetch=copy.fetch)
    if not place.is_local:
        result["files"] = {name: str(path / name) for name in files}
        result["next"][0] = browser_command(SweepDirectory(path))
    return result


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    return command.run(ParetoOptions, pareto, frontier_table, argv)


if __name__ == "__main__":
    # `python pipelines/pareto.py` must run the importable module too, because pickles refer to it by name.
    from pipelines.pareto import main as importable_main

    sys.exit(importable_main())

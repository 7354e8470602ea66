"""Tabulate what sweeps found: the best model of at most some sizes, beside the best baseline of at most that size.

    python -m tests.benchmarks.frontiers runs/words runs/letters --out docs/results

Of each sweep with replications it takes the point with the highest mean validation metric; tests play no part in the
choice. Writes OUT/sweeps.csv, a line for each point of each frontier and each baseline.
"""

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from pipelines.core import command
from pipelines.core.options import positional
from pipelines.tuning.sweep_directory import SweepDirectory
from ttrnn.files import atomic_write

_COLUMNS = (
    "data", "trial", "kind", "num_params", "seeds", "val_mean", "val_low", "val_high", "test_mean", "test_low",
    "test_high", "tests", "chance", "num_val_clips", "num_test_clips", "wall_s",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontiersOptions:
    """Tabulate the frontiers of sweeps whose points were replicated; write sweeps.csv."""

    sweeps: tuple[str, ...] = positional()
    """directories of sweeps"""
    sizes: str = "3300,10300"
    """sizes to take the best models of, separated by commas; the last row has no limit"""
    out: str = "bench/frontiers"
    """directory of sweeps.csv"""


def frontiers(options: FrontiersOptions) -> dict[str, Any]:
    """Reads pareto.json of each sweep and writes sweeps.csv."""
    rows = [row for sweep in options.sweeps for row in _rows(SweepDirectory(sweep))]
    out, limits = Path(options.out), [*map(int, options.sizes.split(",")), None]
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(out / "sweeps.csv") as file:
        writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return {"out": str(out), "table": table(rows, limits)}


def _rows(sweep: SweepDirectory) -> Iterable[dict[str, Any]]:
    data = json.loads(sweep.pareto_json.read_text(encoding="utf-8"))
    common = {name: data[name] for name in ("chance", "num_val_clips", "num_test_clips")}
    common |= {"data": data["dataset"], "wall_s": data.get("wall_s")}
    for kind, points in (("tensor train", data["frontier"]), ("baseline", data["baselines"])):
        for point in points:
            if (found := point["replication"]) is not None and found["test"]:
                yield {
                    **common,
                    "trial": point["trial"],
                    "kind": kind,
                    "num_params": point["num_params"],
                    "seeds": len(found["seeds"]),
                    **_interval("val", found["val_mean"], found["val_interval"]),
                    **_interval("test", found["test_mean"], found["test_interval"]),
                    "tests": ";".join(f"{value:.4f}" for value in found["test"]),
                }


def _interval(split: str, value: float, bounds: Sequence[float]) -> dict[str, str]:
    low, high = bounds
    return {f"{split}_mean": f"{value:.4f}", f"{split}_low": f"{low:.4f}", f"{split}_high": f"{high:.4f}"}


def table(rows: Sequence[Mapping[str, Any]], limits: Sequence[int | None]) -> str:
    """Markdown: the best tensor train and baseline of at most each size; the rows are those of the CSV."""
    lines = [
        "| data | at most | parameters | validation | test (lowest to highest) | best baseline: parameters, test |",
        "|---|---|---|---|---|---|",
    ]
    for data in dict.fromkeys(row["data"] for row in rows):
        for limit in limits:
            best = {
                kind: max(
                    (row for row in rows if (row["data"], row["kind"]) == (data, kind) and _fits(row, limit)),
                    key=lambda row: float(row["val_mean"]),
                    default=None,
                )
                for kind in ("tensor train", "baseline")
            }
            train, baseline = best["tensor train"], best["baseline"]
            size = "any size" if limit is None else f"{limit:,}"
            cells = ["-"] * 3
            if train is not None:
                tests = [float(value) for value in train["tests"].split(";")]
                spread = f"**{mean(tests):.3f}** ({min(tests):.3f} to {max(tests):.3f})"
                cells = [f"{int(train['num_params']):,}", f"{float(train['val_mean']):.3f}", spread]
            simple = "-"
            if baseline is not None:
                simple = f"{baseline['trial']}: {int(baseline['num_params']):,}, {float(baseline['test_mean']):.3f}"
            lines.append(f"| {data} | {size} | {' | '.join(cells)} | {simple} |")
    return "\n".join(lines) + "\n"


def _fits(row: Mapping[str, Any], limit: int | None) -> bool:
    return limit is None or int(row["num_params"]) <= limit


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return command.run(FrontiersOptions, frontiers, lambda result: result["table"], argv)


if __name__ == "__main__":
    sys.exit(main())

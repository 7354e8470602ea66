"""Compare the speed and memory of ttrnn with other libraries, dense layers of torch, and limits of the machine.

    python -m tests.benchmarks                                    everything, about a quarter of an hour on 2 cores
    python -m tests.benchmarks --sections step,product --out DIR
    python -m tests.benchmarks --quick                            only a test; the figures are meaningless

`make bench` installs the other libraries (the extra `bench`) and runs everything. A library that is not installed is
skipped with a warning.
"""

import logging
import os
import platform
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from pipelines.core import command
from tests.benchmarks import peers, report, sections
from tests.benchmarks.clips import long_clips, small_frames
from tests.benchmarks.epochs import epochs
from tests.benchmarks.loading import loading
from tests.benchmarks.stem import stem

log = logging.getLogger("tests.benchmarks")

SECTIONS = {
    **sections.SECTIONS,
    "long": long_clips,
    "small": small_frames,
    "stem": stem,
    "epoch": epochs,
    "loading": loading,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkOptions:
    """Compare ttrnn with other libraries; write results.csv, results.md and results.png to a directory."""

    out: str = "bench"
    """directory for the results; earlier results in it are replaced"""
    sections: str = ",".join(SECTIONS)
    """names of the sections to measure, separated by commas"""
    rounds: int = 7
    """number of rounds, in each of which every contender runs once"""
    quick: bool = False
    """use small sizes and two rounds, as a test"""

    def __post_init__(self) -> None:
        unknown = [name for name in self.sections.split(",") if name not in SECTIONS]
        if unknown:
            raise ValueError(f"unknown section {unknown[0]!r}; the sections are {','.join(SECTIONS)}")
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")


def benchmark(options: BenchmarkOptions) -> dict[str, Any]:
    """Checks the contenders, measures section by section, and writes the results after each section."""
    absent = peers.missing()
    for name in absent:
        log.info("%s is not installed and skipped; pip install --editable '.[bench]' installs it", name)
    peers.check()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    about = report.About(
        date=date.today().isoformat(),
        machine=_machine(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        rounds=2 if options.quick else options.rounds,
        not_installed=tuple(absent),
    )
    rows = []
    for name in options.sections.split(","):
        for row in SECTIONS[name](about.rounds, options.quick):
            log.info(
                "%-10s %-45s %-28s %-8s %10.4g %s",
                row.section,
                row.name,
                row.shape,
                row.precision,
                row.median,
                row.unit,
            )
            rows.append(row)
        report.write(out, rows, about)
    return {"out": str(out), "rows": len(rows), "markdown": report.markdown(rows, about)}


def _machine() -> str:
    """Processor, number of cores, and relevant instruction sets."""
    model, flags = platform.processor() or platform.machine(), set()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        lines = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in lines.items()}
        model, flags = fields.get("model name", model), set(fields.get("flags", "").split())
    extensions = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{model}, {os.cpu_count()} cores ({' '.join(extensions)})"


def summary(result: dict[str, Any]) -> str:
    """The tables and the paths of the files."""
    return f"{result['markdown']}\n{result['out']}: results.csv, results.md, results.png"


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return command.run(BenchmarkOptions, benchmark, summary, argv)


if __name__ == "__main__":
    sys.exit(main())

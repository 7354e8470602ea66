"""Write the tables of README.md and docs/ from docs/results/*.csv.

    python -m tests.benchmarks.tables

A page names a table in a comment, `<!-- table NAME -->`; everything from there to `<!-- end -->` is replaced. NAME is

- a key of TABLES,
- a CSV file, whose rows are shown as they are, or
- a module of tests.benchmarks, whose function table(rows) gets the rows of NAME.csv.

Date, command and source of the rows, if they have them, stand below the table.
"""

import csv
import importlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean

from pipelines.bakeoff.table import cells_of
from tests.benchmarks import codec_plan, frontiers, report, scale_model
from tests.benchmarks.measure import Row
from ttrnn.files import atomic_write

__all__ = ["PAGES", "RESULTS", "TABLES", "filled"]

_REPO = Path(__file__).parents[2]
RESULTS = _REPO / "docs" / "results"
PAGES = (_REPO / "README.md", *sorted((_REPO / "docs").glob("*.md")))
# Columns that do not stand in the table but below it.
_ABOUT = ("date", "command", "source")


def filled(text: str) -> str:
    """The text of a page with all its tables written anew."""

    def table(match: re.Match[str]) -> str:
        name = match["name"]
        lines = TABLES[name]() if name in TABLES else _of_file(name)
        return f"<!-- table {name} -->\n\n{lines.strip()}\n\n<!-- end -->"

    return re.sub(r"<!-- table (?P<name>\S+) -->.*?<!-- end -->", table, text, flags=re.DOTALL)


def read(name: str) -> list[dict[str, str]]:
    """The rows of a file in docs/results."""
    with (RESULTS / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _of_file(name: str) -> str:
    rows = read(f"{name.removesuffix('.csv')}.csv")
    if name.endswith(".csv"):
        head = [column for column in rows[0] if column not in _ABOUT]
        table = _table(head, ([row[column] for column in head] for row in rows))
    else:
        table = importlib.import_module(f"tests.benchmarks.{name}").table(rows)
    return f"{table.strip()}\n\n{_about(rows)}"


def _table(head: Sequence[str], body: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body))


def _about(rows: Sequence[Mapping[str, str]], columns: Sequence[str] = _ABOUT) -> str:
    """One line of the different values of the columns."""
    values = {column: list(dict.fromkeys(row[column] for row in rows if row.get(column))) for column in columns}
    parts = [", ".join(f"`{one}`" if column == "command" else one for one in values[column]) for column in columns]
    text = "; ".join(part for part in parts if part)
    return text and f"*{text}*"


def sweeps() -> str:
    """The best models of sweeps within some sizes."""
    return frontiers.table(read("sweeps.csv"), [3_300, 10_300, None])


def replays() -> str:
    """Hypervolume of a replayed search at its end, and the share of all epochs that it took, by early stopping."""
    rows = [row for row in read("replay.csv") if row["order"] == "random"]
    rules = list(dict.fromkeys(row["stopping"] for row in rows))
    body = []
    for data, epochs in dict.fromkeys((row["data"], row["epochs"]) for row in rows):
        cells = [data, epochs]
        for rule in rules:
            own = [row for row in rows if (row["data"], row["epochs"], row["stopping"]) == (data, epochs, rule)]
            at_end, trained = (mean(float(row[column]) for row in own) for column in ("at 100%", "trained"))
            cells.append(f"{at_end:.3f} ({trained:.0%})")
        body.append(cells)
    return _table(["data", "epochs of a trial", *rules], body)


def measured(file: str, section: str, shape: str = "") -> tuple[list[Row], str]:
    """The rows of a section of tests.benchmarks at shapes that begin with `shape`, and a line about them."""
    sections = ("step", "forward") if section == "step" else (section,)
    rows = [row for row in read(file) if row["section"] in sections and row["shape"].startswith(shape)]
    texts, numbers = ("section", "name", "shape", "precision", "unit"), ("median", "low", "high")
    found = [
        Row(**{name: row[name] for name in texts}, **{name: float(row[name]) for name in numbers})  # type: ignore[arg-type]
        for row in rows
    ]
    for row in rows:
        row |= {"torch": f"torch {row['torch']}", "threads": f"threads: {row['threads']}" if row["threads"] else ""}
    return found, _about(rows, ("date", "machine", "threads", "torch", "source"))


def _speed(file: str, section: str, table: Callable[[list[Row]], list[str]], shape: str = "") -> Callable[[], str]:
    def lines() -> str:
        rows, about = measured(file, section, shape)
        return "\n".join([*table(rows), "", about])

    return lines


def small_frames(rows: list[Row]) -> list[str]:
    """Training steps on small frames, and their ratio to a low-rank Linear and nn.GRU."""
    simple = "Linear + nn.GRU"
    ratios = {(row.shape, row.name, row.precision): row for row in rows if row.unit == "times"}
    body = []
    for row in rows:
        if row.unit == "ms/step":
            ratio = ratios.get((row.shape, f"{row.name} / {simple}", row.precision))
            body.append([row.shape, row.name, row.precision, report.spread(row, ".1f"), report.spread(ratio, ".2f")])
    return _table(["", "", "precision", "ms a training step", f"/ {simple}"], body).splitlines()


def bakeoff() -> str:
    """Every cell of the bake-off of tensor formats."""
    return _table(*cells_of(read("bakeoff.csv")))


TABLES: dict[str, Callable[[], str]] = {
    "bakeoff": bakeoff,
    "sweeps": sweeps,
    "replays": replays,
    "codecs": lambda: codec_plan.table(RESULTS / "codecs.csv", "ucf101_10"),
    "scale": scale_model.table,
    "step": _speed("step.csv", "step", report.step_tables, "LSTM UCF11"),
    "memory": _speed("memory.csv", "memory", report.memory_table, "GRU"),
    "small": _speed("small.csv", "small", small_frames),
}


def main() -> int:
    """Writes all pages; returns the exit code."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            with atomic_write(page) as file:
                file.write(new)
            sys.stdout.write(f"{page.relative_to(_REPO)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

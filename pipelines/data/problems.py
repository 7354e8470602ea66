"""Report all problems of a catalogue in one message."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from pipelines.core.errors import UserError

__all__ = ["LineProblems", "joined", "raise_problems", "some"]


def some(names: Iterable[str], limit: int = 3) -> str:
    """The first names, for a message: a, b, c, ..."""
    names = list(names)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def joined(problems: Sequence[str]) -> str:
    """All problems in one line."""
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} problems: " + "; ".join(f"({i}) {text}" for i, text in enumerate(problems, 1))


def raise_problems(problems: Sequence[str]) -> None:
    """Raises a UserError that names all problems, if there are any."""
    if problems:
        raise UserError(joined(problems))


class LineProblems:
    """Problems in the lines of a file; equal ones are reported once, with their lines."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._lines: dict[str, list[int]] = defaultdict(list)

    def add(self, line: int, problem: str) -> None:
        """Adds a problem of a line, numbered from 1."""
        self._lines[problem].append(line)

    def texts(self) -> list[str]:
        """A text for each kind of problem; at most 20, and one that counts the rest."""
        shown = list(self._lines.items())[:20]
        texts = [f"{self._file}, {_lines(lines)}: {problem}" for problem, lines in shown]
        if rest := sum(len(lines) for lines in list(self._lines.values())[20:]):
            texts.append(f"and {rest:,} more lines of {self._file}")
        return texts


def _lines(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"line {numbers[0]}"
    rest = f", ... ({len(numbers):,} lines)" if len(numbers) > 10 else ""
    return f"lines {', '.join(map(str, numbers[:10]))}{rest}"

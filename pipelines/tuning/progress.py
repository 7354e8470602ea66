"""Keep the state of a running sweep, estimate its time left, and draw it for a terminal."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipelines.core.text import duration, percent
from pipelines.tuning.formatting import texts
from pipelines.tuning.frontier import knee
from pipelines.tuning.time_left import Forecast
from pipelines.tuning.trial import Trial

__all__ = ["State", "draw", "time_left_s", "totals"]


_WIDE = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Everything that the screen shows, except for the time."""

    metric: str
    """name of the validation metric"""
    chance: float
    """metric of random guessing, 0 to 1"""
    start: float
    """start time on the monotonic clock, s"""
    time_budget_s: float | None = None
    """time after which no more trials start, counted from `start`"""
    stage: str = ""
    """search, refine or confirm"""
    stage_start: float = 0.0
    """start time of the stage or of its first trial, s"""
    total: int = 0
    """number of trials in this stage"""
    num_earlier: int = 0
    """number of them that an earlier command finished"""
    ended: Counter[str] = field(default_factory=Counter)
    """number of trials of this stage that have ended, by state"""
    running: Mapping[str, Trial] = field(default_factory=dict)
    """running trials by name"""
    points: Sequence[Trial] = ()
    """current frontier of all stages, smallest first"""
    num_epochs: int = 0
    """epochs of all ended trials of all stages"""
    forecast: Forecast = field(default_factory=Forecast)
    """what was measured, and what is still to do"""


def time_left_s(state: State, now: float) -> float | None:
    """Estimated time to the end of the last stage, or of the budget; None as long as nothing is measured."""
    budget_s = math.inf if state.time_budget_s is None else max(state.start + state.time_budget_s - now, 0.0)
    return state.forecast.seconds(now, state.points, budget_s)


def totals(state: State, now: float) -> list[str]:
    """Lines of text: number of ended trials, their states, results so far, and time."""
    done, done_now = state.ended.total(), state.ended.total() - state.num_earlier
    states = [", ".join(f"{count} {name}" for name, count in sorted(state.ended.items()))] if done else []
    states += [f"{len(state.running)} running"] if state.running else []
    best = percent(state.points[-1].val_metric) if state.points else "-"
    num_epochs = state.num_epochs + sum(trial.epochs or 0 for trial in state.running.values())
    results = [
        f"best {state.metric.replace('_', ' ')} {best} (chance {percent(state.chance)})",
        f"{num_epochs:,} epochs",
    ]
    minutes = (now - state.stage_start) / 60
    rate = done_now / minutes if minutes else 0.0
    results += [f"{rate:.2g} trials/min" if rate < 10 else f"{rate:,.0f} trials/min"] if rate else []
    spent = duration(now - state.start)
    spent += "" if state.time_budget_s is None else f" of {duration(state.time_budget_s)}"
    left = time_left_s(state, now)
    when = [spent, f"about {duration(left)} left"] if left else [spent]
    return [f"{done} of {state.total} trials", *("; ".join(facts) for facts in (states, results, when))]


def draw(state: State, now: float, width: int, height: int) -> RenderableType:
    """Draws the screen in at most `height` - 1 lines (at least 14); cells that are too wide end with an ellipsis.

    Args:
        state: The state of the sweep.
        now: Current time on the monotonic clock, s.
        width: Number of columns of the terminal.
        height: Number of its lines.
    """
    how_many, states, *others = totals(state, now)
    bar = Table.grid(padding=(0, 1), expand=True)
    for ratio in (None, 1, None):
        bar.add_column(ratio=ratio, no_wrap=True)
    bar.add_row(state.stage, ProgressBar(total=max(state.total, 1), completed=state.ended.total()), how_many)
    head: list[RenderableType] = [
        bar,
        _line(states or "no trial has started yet", "red" if state.ended["failed"] else ""),
        *(_line(text) for text in others),
    ]
    names = ["cell", "modes", "ranks"] + (["recurrent_ranks"] if width >= _WIDE else [])
    table = Table.grid(padding=(0, 2))
    for name in ("trial", "num_params", "val_metric", "mark", *names):
        can_shrink = name in ("modes", "ranks", "recurrent_ranks")
        table.add_column(justify="right" if name in ("num_params", "val_metric") else "left", no_wrap=not can_shrink)
    # The other lines: an empty line and a header for each of two parts, and the line of the cursor.
    room = max(height - 1 - len(head) - 5, 5)
    running, most = list(state.running.values()), room // 3 + 1
    if more := f"+ {len(running) - most + 1}" if len(running) > most else "":
        running = running[: most - 1]
    if running:
        _add_head(table, "running", "epoch", names)
        for trial in running:
            _add_trial(table, trial, f"{trial.epochs or 0}/{trial.config.get('epochs', '?')}", names)
        if more:
            table.add_row(_line(more))
    if state.points:
        _add_head(table, "frontier", "", names)
        knee_name = knee(state.points, state.chance).trial
        for trial in _thinned(state.points, max(room - len(running) - bool(more), 3), knee_name):
            _add_trial(table, trial, "knee" if trial.trial == knee_name else "", names)
    return Group(*head, table, "")


def _line(text: str, style: str = "") -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _add_head(table: Table, title: str, mark: str, names: Sequence[str]) -> None:
    table.add_row()
    heads = (title, "params", "val", mark, *(name.replace("_", " ") for name in names))
    table.add_row(*(_line(text, "bold") for text in heads))


def _add_trial(table: Table, trial: Trial, mark: str, names: Sequence[str]) -> None:
    text = texts(dataclasses.asdict(trial))
    cells = (trial.trial, text["num_params"], text["val_metric"], mark, *(text[name] for name in names))
    table.add_row(*(_line(cell) for cell in cells), style="bold cyan" if mark == "knee" else "")


def _thinned(points: Sequence[Trial], most: int, required: str) -> Sequence[Trial]:
    """At most `most` points, evenly spaced, always with the smallest, the best and the one named `required`."""
    if len(points) <= most:
        return points
    chosen = {round(number * (len(points) - 1) / (most - 1)) for number in range(most)}
    index = next(number for number, point in enumerate(points) if point.trial == required)
    if index not in chosen:
        inner = chosen - {0, len(points) - 1}
        chosen = chosen - {min(inner, key=lambda number: abs(number - index))} | {index}
    return [points[number] for number in sorted(chosen)]

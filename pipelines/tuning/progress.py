"""How far a sweep is: first what is known of it, then how that is drawn."""

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
from pipelines.tuning.trial import Trial

__all__ = ["State", "draw", "time_left_s", "totals"]


_WIDE = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """All that the screen shows, but for the time."""

    metric: str
    """name of the validation metric"""
    chance: float
    """what guessing reaches, 0 to 1"""
    start: float
    """when the screen went on, on the monotonic clock, s"""
    time_budget_s: float | None = None
    """after which no more trials begin, counted from `start`"""
    stage: str = ""
    """search, refine or confirm"""
    stage_start: float = 0.0
    """when it, or its first trial, began"""
    total: int = 0
    """trials of this stage"""
    num_earlier: int = 0
    """of them, those that an earlier command had ended"""
    ended: Counter[str] = field(default_factory=Counter)
    """trials of this stage that have ended, by their state"""
    running: Mapping[str, Trial] = field(default_factory=dict)
    """those that train, as far as they are; by name"""
    first_epochs: Mapping[str, int] = field(default_factory=dict)
    """the first epoch seen of each of them: not 1 where it was resumed"""
    points: Sequence[Trial] = ()
    """the frontier so far, of all stages, smallest first"""
    num_epochs: int = 0
    """trained by the trials that have ended, of all stages"""


def time_left_s(state: State, now: float) -> float | None:
    """Until the stage is over, as its trials went so far, or the budget is; None while nothing can be said.

    An epoch of a running trial counts as its part of a trial.
    """
    done = float(state.ended.total() - state.num_earlier)
    for name, first in state.first_epochs.items():
        trial = state.running[name]
        done += ((trial.epochs or 0) - first + 1) / trial.config.get("epochs", math.inf)
    todo = max(state.total - state.num_earlier - done, 0.0)
    budget = math.inf if state.time_budget_s is None else max(state.start + state.time_budget_s - now, 0.0)
    return min((now - state.stage_start) / done * todo, budget) if done > 0 else None


def totals(state: State, now: float) -> list[str]:
    """How many trials have ended, in which states, what has come out, and the time."""
    done, here = state.ended.total(), state.ended.total() - state.num_earlier
    states = [", ".join(f"{count} {name}" for name, count in sorted(state.ended.items()))] if done else []
    states += [f"{len(state.running)} running"] if state.running else []
    best = percent(state.points[-1].val_metric) if state.points else "-"
    num_epochs = state.num_epochs + sum(trial.epochs or 0 for trial in state.running.values())
    found = [f"best {state.metric.replace('_', ' ')} {best} (chance {percent(state.chance)})", f"{num_epochs:,} epochs"]
    minutes = (now - state.stage_start) / 60
    rate = here / minutes if minutes else 0.0
    found += [f"{rate:.2g} trials/min" if rate < 10 else f"{rate:,.0f} trials/min"] if rate else []
    spent = duration(now - state.start)
    spent += "" if state.time_budget_s is None else f" of {duration(state.time_budget_s)}"
    left = time_left_s(state, now) if done < state.total else None
    when = [spent] if left is None else [spent, f"about {duration(left)} left"]
    return [f"{done} of {state.total} trials", *("; ".join(facts) for facts in (states, found, when))]


def draw(state: State, now: float, width: int, height: int) -> RenderableType:
    """The screen, in at most `height` - 1 lines where there are 15 or more; what is too wide ends in an ellipsis.

    Args:
        state: What to show.
        now: The time on the monotonic clock, s.
        width: Columns of the terminal.
        height: Its lines.
    """
    how_many, states, *others = totals(state, now)
    bar = Table.grid(padding=(0, 1), expand=True)
    for ratio in (None, 1, None):
        bar.add_column(ratio=ratio, no_wrap=True)
    bar.add_row(state.stage, ProgressBar(total=max(state.total, 1), completed=state.ended.total()), how_many)
    head: list[RenderableType] = [
        bar,
        _line(states or "no trial has begun yet", "red" if state.ended["failed"] else ""),
        *(_line(text) for text in others),
    ]
    names = ["cell", "modes", "ranks"] + (["recurrent_ranks"] if width >= _WIDE else [])
    table = Table.grid(padding=(0, 2))
    for name in ("trial", "num_params", "val_metric", "mark", *names):
        gives_way = name in ("modes", "ranks", "recurrent_ranks")
        table.add_column(justify="right" if name in ("num_params", "val_metric") else "left", no_wrap=not gives_way)
    # Beside them, for each part an empty line and a head, and a last line for the cursor and what is typed there.
    room = max(height - 1 - len(head) - 5, 5)
    shown, most = list(state.running.values()), room // 3 + 1
    if more := f"+ {len(shown) - most + 1}" if len(shown) > most else "":
        shown = shown[: most - 1]
    if shown:
        _add_head(table, "running", "epoch", names)
        for trial in shown:
            _add_trial(table, trial, f"{trial.epochs or 0}/{trial.config.get('epochs', '?')}", names)
        if more:
            table.add_row(_line(more))
    if state.points:
        _add_head(table, "frontier", "", names)
        bend = knee(state.points).trial
        for trial in _thinned(state.points, max(room - len(shown) - bool(more), 3), bend):
            _add_trial(table, trial, "knee" if trial.trial == bend else "", names)
    return Group(*head, table, "")


def _line(text: str, style: str = "") -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _add_head(table: Table, title: str, mark: str, names: Sequence[str]) -> None:
    table.add_row()
    heads = (title, "params", "val", mark, *(name.replace("_", " ") for name in names))
    table.add_row(*(_line(text, "bold") for text in heads))


def _add_trial(table: Table, trial: Trial, mark: str, names: Sequence[str]) -> None:
    known = texts(dataclasses.asdict(trial))
    cells = (trial.trial, known["num_params"], known["val_metric"], mark, *(known[name] for name in names))
    table.add_row(*(_line(text) for text in cells), style="bold cyan" if mark == "knee" else "")


def _thinned(points: Sequence[Trial], most: int, kept: str) -> Sequence[Trial]:
    """At most so many points, evenly chosen; the smallest, the best and the one named `kept` are always among them."""
    if len(points) <= most:
        return points
    chosen = {round(number * (len(points) - 1) / (most - 1)) for number in range(most)}
    wanted = next(number for number, point in enumerate(points) if point.trial == kept)
    if wanted not in chosen:
        inner = chosen - {0, len(points) - 1}
        chosen = chosen - {min(inner, key=lambda number: abs(number - wanted))} | {wanted}
    return [points[number] for number in sorted(chosen)]

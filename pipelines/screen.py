"""What a person sees while a sweep runs: one screen on a terminal, plain lines elsewhere. All of it on standard error.

    with Screen(metric="top1", chance=0.25, chatter=out / "ray.log") as screen:
        screen.stage("search", total=64)
        screen.started(Trial(trial="0000", state="running", config={"cell": "gru", "epochs": 16}))
        screen.epoch("0000", 1, val_metric=0.5, num_params=1234)
        screen.ended(read_trial(out / "trials" / "0000"))

Inside the block, what Ray and other libraries write to standard output and standard error goes to the file `chatter`.
Lines of `logging` that were on their way to standard error stand above the screen.
"""

import contextlib
import dataclasses
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipelines.cli import duration, percent
from pipelines.frontier import frontier, knee
from pipelines.shown import texts
from pipelines.terminal import chatter_to, logging_to, size_of
from pipelines.trials import Trial, read_trial

if TYPE_CHECKING:
    from ray import tune

__all__ = ["Screen", "State", "draw", "time_left_s", "totals", "tune_callback"]

log = logging.getLogger(__name__)
T = TypeVar("T")
_TOTALS_EVERY_S = 10.0
_SIGN_OF_LIFE_EVERY_S = 60.0
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


class Screen:
    """Shows a sweep; a context manager. Its methods are called by one thread.

    Args:
        metric: Name of the validation metric.
        chance: What guessing reaches, 0 to 1.
        chatter: File for what libraries write to standard output and standard error; it is appended to.
        time_budget_s: After which no more trials begin, counted from the start of the block.
    """

    def __init__(self, *, metric: str, chance: float, chatter: Path, time_budget_s: float | None = None) -> None:
        self._chatter, self._stack, self._live = chatter, contextlib.ExitStack(), False
        self._said = time.monotonic()
        self.state = State(metric=metric, chance=chance, start=self._said, time_budget_s=time_budget_s)

    def __enter__(self) -> "Screen":
        self._said = time.monotonic()
        self.state = dataclasses.replace(self.state, start=self._said, stage_start=self._said)
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(chatter_to(self._chatter))
            self._live = stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
            if self._live:
                console = Console(file=stream, force_terminal=True, highlight=False, markup=False, emoji=False)
                stack.enter_context(logging_to(cast(TextIO, FileProxy(console, stream)), stream))

                def drawn() -> RenderableType:
                    console.size = ConsoleDimensions(*size_of(stream))
                    return draw(self.state, time.monotonic(), *console.size)

                live = Live(
                    get_renderable=drawn,
                    console=console,
                    refresh_per_second=1,
                    transient=True,
                    redirect_stdout=False,
                    redirect_stderr=False,
                )
                stack.enter_context(live)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._stack.close()
        except OSError as failure:
            # A terminal that has gone is no reason to lose what comes after the trials.
            log.warning("the screen could not be cleared: %s", failure)
        if self.state.stage:
            self._say_totals()

    def stage(self, name: str, total: int, earlier: Sequence[Trial] = ()) -> None:
        """A stage begins: search, refine or confirm.

        Args:
            name: Of the stage.
            total: Its trials, the earlier ones included.
            earlier: Those that an earlier command had ended.
        """
        if self.state.stage:
            self._say_totals()
        self.state = dataclasses.replace(
            self.state,
            stage=name,
            stage_start=time.monotonic(),
            total=total,
            num_earlier=len(earlier),
            ended=Counter(trial.state for trial in earlier),
            running={},
            first_epochs={},
            points=frontier([*self.state.points, *earlier]),
            num_epochs=self.state.num_epochs + sum(trial.epochs or 0 for trial in earlier),
        )

    def started(self, trial: Trial) -> None:
        """A trial begins to train.

        Args:
            trial: Its name and configuration; `epochs` in the latter are those planned.
        """
        state, name = self.state, trial.trial
        is_first = not state.running and state.ended.total() == state.num_earlier
        self.state = dataclasses.replace(
            state,
            # What Ray takes to begin says nothing of the trials' pace.
            stage_start=time.monotonic() if is_first else state.stage_start,
            running={**state.running, name: trial},
            first_epochs=_without(state.first_epochs, name),
        )

    def epoch(self, name: str, epoch: int, val_metric: float, num_params: int | None = None) -> None:
        """A running trial has done an epoch; its val_metric is that of its best one, 0 to 1."""
        state = self.state
        known = state.running.get(name, Trial(trial=name, state="running"))
        trial = dataclasses.replace(
            known,
            epochs=epoch,
            val_metric=val_metric,
            num_params=known.num_params if num_params is None else num_params,
        )
        self.state = dataclasses.replace(
            state,
            running={**state.running, name: trial},
            first_epochs={name: epoch, **state.first_epochs},
        )
        if not self._live and time.monotonic() - self._said > _SIGN_OF_LIFE_EVERY_S:
            self._say_totals()

    def ended(self, trial: Trial, *, joins: bool = True) -> None:
        """A trial has come to its end: complete, stopped, failed or paused, as its state says.

        Args:
            trial: As `read_trial` knows it.
            joins: Whether it may stand on the frontier if it is complete; not so a confirmation of one that does.
        """
        state, name = self.state, trial.trial
        self.state = dataclasses.replace(
            state,
            ended=state.ended + Counter([trial.state]),
            running=_without(state.running, name),
            first_epochs=_without(state.first_epochs, name),
            points=frontier([*state.points, trial]) if joins else state.points,
            num_epochs=state.num_epochs + (trial.epochs or 0),
        )
        if trial.state == "failed":
            log.error("trial %s failed: %s", name, trial.error or f"see {self._chatter}")
        elif not self._live:
            log.info(
                "trial %(trial)s  %(state)s  %(val_metric)s  %(num_params)s parameters  %(cell)s %(modes)s, "
                "ranks %(ranks)s, recurrent ranks %(recurrent_ranks)s",
                texts(dataclasses.asdict(trial)),
            )
        if not self._live and time.monotonic() - self._said > _TOTALS_EVERY_S:
            self._say_totals()

    def _say_totals(self) -> None:
        self._said = time.monotonic()
        log.info("%s: %s", self.state.stage, "; ".join(filter(None, totals(self.state, self._said))))


def tune_callback(screen: Screen) -> "tune.Callback":
    """What Tune calls, to keep `screen` up to date.

    Trials are configured by {"trial": name, "train": options of train, "num_params": count}; their results are the
    summaries of `fit` with the number of the epoch.
    """
    from ray import tune

    class OnScreen(tune.Callback):
        def __reduce__(self) -> tuple[Any, ...]:
            # Tune saves what it is given; a screen is no state.
            return tune.Callback, ()

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            config = trial.config
            known = Trial(
                trial=config["trial"], state="running", config=config["train"], num_params=config.get("num_params")
            )
            screen.started(known)

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            screen.epoch(trial.config["trial"], result["epoch"], result["val_metric"], result["num_params"])

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            known = _known(trial)
            # One that was sent home when the time was up goes on with --resume.
            screen.ended(dataclasses.replace(known, state="paused") if known.state == "running" else known)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            error = str(trial.get_error() or "").strip().splitlines()
            screen.ended(dataclasses.replace(_known(trial), state="failed", error=error[-1] if error else None))

    return OnScreen()


def _known(trial: Any) -> Trial:
    return read_trial(Path(trial.config["train"]["out"]))


def _without(mapping: Mapping[str, T], name: str) -> dict[str, T]:
    return {other: value for other, value in mapping.items() if other != name}

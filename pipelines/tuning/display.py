"""What a person sees while a sweep runs: one screen on a terminal, plain lines elsewhere. All of it on standard error.

    with Screen(metric="accuracy", chance=0.25, chatter=out / "ray.log") as screen:
        screen.stage("search", total=64)
        screen.started(Trial(trial="0000", state="running", config={"cell": "gru", "epochs": 16}))
        screen.epoch("0000", 1, val_metric=0.5)
        screen.ended(read_trial(RunDirectory(out / "trials" / "0000")))

Inside the block, what Ray and other libraries write to standard output and standard error goes to the file `chatter`.
Lines of `logging` that were on their way to standard error stand above the screen.
"""

import contextlib
import dataclasses
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

from rich.console import Console, ConsoleDimensions, RenderableType
from rich.file_proxy import FileProxy
from rich.live import Live

from pipelines.core.terminal import logging_to, output_to_file, terminal_size
from pipelines.training.launcher import is_progress
from pipelines.training.run_directory import RunDirectory
from pipelines.tuning.formatting import texts
from pipelines.tuning.frontier import frontier
from pipelines.tuning.progress import State, draw, totals
from pipelines.tuning.trial import Trial, read_trial

if TYPE_CHECKING:
    from ray import tune

__all__ = ["Screen", "tune_callback"]


log = logging.getLogger(__name__)
T = TypeVar("T")
_TOTALS_EVERY_S = 10.0
_SIGN_OF_LIFE_EVERY_S = 60.0


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
            stream = stack.enter_context(output_to_file(self._chatter))
            self._live = stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
            if self._live:
                console = Console(file=stream, force_terminal=True, highlight=False, markup=False, emoji=False)
                stack.enter_context(logging_to(cast(TextIO, FileProxy(console, stream)), stream))

                def drawn() -> RenderableType:
                    console.size = ConsoleDimensions(*terminal_size(stream))
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

    def close(self) -> None:
        """Leaves the terminal as it was, for good."""
        self._stack.close()

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

    def epoch(self, name: str, epoch: int, val_metric: float) -> None:
        """A running trial has done an epoch; val_metric is that of its best one, 0 to 1."""
        state = self.state
        known = state.running.get(name, Trial(trial=name, state="running"))
        trial = dataclasses.replace(known, epochs=epoch, val_metric=val_metric)
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


def tune_callback(screen: Screen, *, joins: bool = True) -> "tune.Callback":
    """A callback of Tune that keeps `screen` up to date with the trainings of `run_trainings`.

    Args:
        screen: Shows them.
        joins: As `Screen.ended` has it.
    """
    from ray import tune

    class OnScreen(tune.Callback):
        def __reduce__(self) -> tuple[Any, ...]:
            # Tune saves its callbacks, and is never resumed.
            return tune.Callback, ()

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            training = trial.config["training"]
            config, num_params = dataclasses.asdict(training.options), training.model.num_params
            screen.started(Trial(trial=training.name, state="running", config=config, num_params=num_params))

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            if is_progress(result):
                screen.epoch(trial.config["training"].name, result["epoch"], result["best_val_metric"])

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            if not is_progress(trial.last_result):
                # It continues on another node.
                return
            known = _known(trial)
            # One that was paused when the time was up continues with --resume.
            known = dataclasses.replace(known, state="paused") if known.state == "running" else known
            screen.ended(known, joins=joins)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            error = str(trial.get_error() or "").strip().splitlines()
            failed = dataclasses.replace(_known(trial), state="failed", error=error[-1] if error else None)
            screen.ended(failed, joins=joins)

    return OnScreen()


def _known(trial: Any) -> Trial:
    return read_trial(RunDirectory(trial.config["training"].options.out))


def _without(mapping: Mapping[str, T], name: str) -> dict[str, T]:
    return {other: value for other, value in mapping.items() if other != name}

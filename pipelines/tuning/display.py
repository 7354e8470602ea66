"""Display a running sweep on standard error: as one screen on a terminal, as log lines elsewhere.

    with Screen(metric="accuracy", chance=0.25, chatter=out / "ray.log") as screen:
        screen.stage("search", total=64)
        screen.started(Trial(trial="0000", state="running", config={"cell": "gru", "epochs": 16}))
        screen.epoch("0000", 1, val_metric=0.5)
        screen.ended(read_trial(RunDirectory(out / "trials" / "0000")))

In the block, the output of Ray and other libraries on standard output and standard error is written to the file
`chatter`. Log lines appear above the screen.
"""

import contextlib
import dataclasses
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

from rich.console import Console, ConsoleDimensions, RenderableType
from rich.file_proxy import FileProxy
from rich.live import Live

from pipelines.core.terminal import logging_to, output_to_file, terminal_size
from pipelines.training.launcher import is_progress
from pipelines.training.queue import Training
from pipelines.training.run_directory import RunDirectory
from pipelines.tuning.formatting import texts
from pipelines.tuning.frontier import frontier
from pipelines.tuning.progress import State, draw, totals
from pipelines.tuning.time_left import Forecast, Key
from pipelines.tuning.trial import Trial, planned_trial, read_trial

if TYPE_CHECKING:
    from ray import tune

__all__ = ["Screen", "tune_callback"]


log = logging.getLogger(__name__)
T = TypeVar("T")
_TOTALS_EVERY_S = 10.0
_TOTALS_WITHOUT_NEWS_EVERY_S = 60.0


class Screen:
    """Displays a sweep; a context manager. All methods must be called by the same thread.

    Args:
        metric: Name of the validation metric.
        chance: The metric of random guessing, 0 to 1.
        chatter: File to which the output of libraries is appended.
        time_budget_s: Time after which no more trials start, counted from the start of the block.
        forecast: The amounts of data, and the stages that follow the search.
    """

    def __init__(
        self,
        *,
        metric: str,
        chance: float,
        chatter: Path,
        time_budget_s: float | None = None,
        forecast: Forecast | None = None,
    ) -> None:
        self._chatter, self._stack, self._live = chatter, contextlib.ExitStack(), False
        self._logged_at = time.monotonic()
        self.state = State(
            metric=metric,
            chance=chance,
            start=self._logged_at,
            time_budget_s=time_budget_s,
            forecast=forecast or Forecast(),
        )

    def __enter__(self) -> "Screen":
        self._logged_at = time.monotonic()
        self.state = dataclasses.replace(self.state, start=self._logged_at, stage_start=self._logged_at)
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(output_to_file(self._chatter))
            self._live = stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
            if self._live:
                console = Console(file=stream, force_terminal=True, highlight=False, markup=False, emoji=False)
                stack.enter_context(logging_to(cast(TextIO, FileProxy(console, stream)), stream))

                def render() -> RenderableType:
                    console.size = ConsoleDimensions(*terminal_size(stream))
                    return draw(self.state, time.monotonic(), *console.size)

                live = Live(
                    get_renderable=render,
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
            # The command continues although the terminal was closed.
            log.warning("the screen could not be cleared: %s", failure)
        if self.state.stage:
            self._log_totals()

    def close(self) -> None:
        """Restores the terminal; nothing is displayed any more."""
        self._stack.close()

    def stage(self, name: str, total: int, earlier: Sequence[Trial] = (), planned: Sequence[Training] = ()) -> None:
        """Starts a stage: search, refine or confirm.

        Args:
            name: Name of the stage.
            total: Number of its trials, including the earlier ones.
            earlier: Trials that an earlier command finished.
            planned: The trainings to come whose models are known.
        """
        if self.state.stage:
            self._log_totals()
        self.state = dataclasses.replace(
            self.state,
            stage=name,
            stage_start=time.monotonic(),
            total=total,
            num_earlier=len(earlier),
            ended=Counter(trial.state for trial in earlier),
            running={},
            forecast=self.state.forecast.stage(name, total - len(earlier), list(map(planned_trial, planned)), earlier),
            points=frontier([*self.state.points, *earlier]),
            num_epochs=self.state.num_epochs + sum(trial.epochs or 0 for trial in earlier),
        )

    def expect(self, epochs_s: Mapping[Key, float]) -> None:
        """Sets the expected seconds of an epoch of planned models, see Forecast."""
        self.state = dataclasses.replace(self.state, forecast=self.state.forecast.expecting(epochs_s))

    def expect_baselines(self, baselines: Sequence[Training]) -> None:
        """Counts the time of baselines, which are not trials of the stage."""
        forecast = self.state.forecast.more(list(map(planned_trial, baselines)))
        self.state = dataclasses.replace(self.state, forecast=forecast)

    def started(self, trial: Trial, *, is_baseline: bool = False) -> None:
        """Called when a trial starts.

        Args:
            trial: Its name and configuration; `epochs` in the latter is the planned number.
            is_baseline: Only its time counts.
        """
        state, name = self.state, trial.trial
        if is_baseline:
            self.state = dataclasses.replace(state, forecast=state.forecast.started(trial, time.monotonic()))
            return
        is_first = not state.running and state.ended.total() == state.num_earlier
        self.state = dataclasses.replace(
            state,
            # The time that Ray takes to start is not part of the rate of trials.
            stage_start=time.monotonic() if is_first else state.stage_start,
            # With a time budget, more trials follow than were planned while there is time.
            total=max(state.total, state.ended.total() + len(state.running) + 1),
            running={**state.running, name: trial},
            forecast=state.forecast.started(trial, time.monotonic()),
        )

    def epoch(
        self, name: str, epoch: int, val_metric: float, time_s: float | None = None, *, is_baseline: bool = False
    ) -> None:
        """Called after an epoch of a trial; val_metric is that of its best epoch, 0 to 1, time_s its duration."""
        forecast = self.state.forecast.epoch(name, epoch, time.monotonic(), time_s)
        self.state = state = dataclasses.replace(self.state, forecast=forecast)
        if is_baseline:
            return
        earlier = state.running.get(name, Trial(trial=name, state="running"))
        trial = dataclasses.replace(earlier, epochs=epoch, val_metric=val_metric)
        self.state = dataclasses.replace(state, running={**state.running, name: trial})
        if not self._live and time.monotonic() - self._logged_at > _TOTALS_WITHOUT_NEWS_EVERY_S:
            self._log_totals()

    def ended(self, trial: Trial, *, joins: bool = True, is_baseline: bool = False) -> None:
        """Called when a trial has ended; its state is complete, stopped, failed or paused.

        Args:
            trial: The trial, see `read_trial`.
            joins: Whether it is added to the frontier if it is complete; replications are not.
            is_baseline: It is none of the trials.
        """
        state, name = self.state, trial.trial
        if is_baseline:
            forecast = state.forecast.ended(trial, time.monotonic(), is_baseline=True)
            self.state = dataclasses.replace(state, forecast=forecast)
            log.info(
                "baseline %(trial)s  %(state)s  %(val_metric)s  %(num_params)s parameters",
                texts(dataclasses.asdict(trial)),
            )
            return
        self.state = dataclasses.replace(
            state,
            ended=state.ended + Counter([trial.state]),
            running=_without(state.running, name),
            forecast=state.forecast.ended(trial, time.monotonic(), joins=joins),
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
        if not self._live and time.monotonic() - self._logged_at > _TOTALS_EVERY_S:
            self._log_totals()

    def _log_totals(self) -> None:
        self._logged_at = time.monotonic()
        log.info("%s: %s", self.state.stage, "; ".join(filter(None, totals(self.state, self._logged_at))))


def tune_callback(
    screen: Screen, *, joins: bool = True, within: Callable[[Trial], Trial] = lambda trial: trial
) -> "tune.Callback":
    """A callback for Tune that updates `screen` with the trainings of `run_trainings`.

    Args:
        screen: The display.
        joins: See `Screen.ended`.
        within: Gives a trial that exceeds the limits of the sweep another state.
    """
    from ray import tune

    class ScreenCallback(tune.Callback):
        def __reduce__(self) -> tuple[Any, ...]:
            # Tune saves its callbacks, but is never restored.
            return tune.Callback, ()

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            training = trial.config["training"]
            screen.started(planned_trial(training), is_baseline=training.is_baseline)

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            if is_progress(result):
                training, best = trial.config["training"], result["best_val_metric"]
                time_s = result.get("time_s")
                screen.epoch(training.name, result["epoch"], best, time_s, is_baseline=training.is_baseline)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            if trial.last_result.get("unfit_node"):
                # It continues on another node.
                return
            ended = within(_read(trial))
            # A trial that is paused at the end of the time budget continues with --resume.
            ended = dataclasses.replace(ended, state="paused") if ended.state == "running" else ended
            if trial.last_result.get("failed"):
                ended = dataclasses.replace(ended, state="failed", error=trial.last_result["problem"])
            screen.ended(ended, joins=joins, is_baseline=trial.config["training"].is_baseline)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            error = str(trial.get_error() or "").strip().splitlines()
            failed = dataclasses.replace(_read(trial), state="failed", error=error[-1] if error else None)
            screen.ended(failed, joins=joins, is_baseline=trial.config["training"].is_baseline)

    return ScreenCallback()


def _read(trial: Any) -> Trial:
    return read_trial(RunDirectory(trial.config["training"].options.out))


def _without(mapping: Mapping[str, T], name: str) -> dict[str, T]:
    return {other: value for other, value in mapping.items() if other != name}

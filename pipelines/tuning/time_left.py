"""Estimate the time that a sweep still takes: the planned epochs times the cost of each model, measured if possible.

    forecast = Forecast(num_frames=9_000, num_clips=400, num_slots=2, num_seeds=3).stage("search", 16, baselines)
    forecast = forecast.started(trial, now).epoch("0000", 1, now).ended(trial, now)
    forecast.seconds(now, points)

The work of an epoch is counted in MACs. Its duration is that measured for models of the same work, or else the
work times the seconds per multiply-add of all epochs so far.
"""

import dataclasses
import heapq
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.tuning.frontier import baseline_frontier
from pipelines.tuning.trial import Trial

__all__ = ["Forecast", "Key"]

Key = tuple[str, float]
"""Input (tt or dense) of a model and the work of an epoch. A dense product takes much less time per multiply-add."""
# The cost of a frame, of a step, and of a parameter in a step, beside the MACs of the recurrent layers; in
# MACs, from steps of small models on one core.
_FRAME, _STEP, _PARAMETER = 6e4, 1.6e7, 80.0
# Refined models train for a quarter of the epochs; about two of them follow from each point of the frontier.
_REFINEMENT = 2 / 4
# All later rounds of refinements together cost about half of the current one.
_LATER_ROUNDS = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class _Running:
    trial: Trial
    start: float
    seen: float
    """time of the start or of the last epoch"""
    first: int = 0
    """number of epochs that an earlier command trained"""
    done: int = 0
    """number of epochs"""
    spent_s: float = 0.0
    """duration of those of this command"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a sweep has measured, and what it has still to do; each event gives a new forecast. Times are in s."""

    num_frames: float = 1.0
    """of an epoch; a frame of validation counts a third"""
    num_clips: int = 1
    """of the train split"""
    num_slots: int = 1
    """trainings at a time"""
    num_seeds: int = 0
    """replications of each point that follow the search"""
    refines: bool = False
    """whether refinements follow the search"""
    expected: Mapping[Key, float] = field(default_factory=dict)
    """seconds of an epoch of some planned models, from a few steps"""
    name: str = ""
    """stage: search, refine or confirm"""
    num_left: int = 0
    """trainings of this stage that have not started"""
    planned: Sequence[Trial] = ()
    """those of them whose models are known, in their order"""
    running: Mapping[str, _Running] = field(default_factory=dict)
    measured: Mapping[Key, tuple[float, int]] = field(default_factory=dict)
    """seconds and number of the epochs so far of models of the same work"""
    finished: Mapping[str, tuple[Trial, float]] = field(default_factory=dict)
    """name -> (trial, seconds) of trials that have ended, not of replications"""
    baselines: Mapping[str, tuple[Trial, float]] = field(default_factory=dict)
    """the same for baselines"""
    rests: Sequence[float] = ()
    """seconds after the last epoch of each training of this stage that has ended"""

    def stage(
        self, name: str, num_left: int, planned: Sequence[Trial] = (), earlier: Iterable[Trial] = ()
    ) -> "Forecast":
        """Begins a stage with `num_left` trainings to start; `earlier` trials were finished by other commands."""
        finished, measured = dict(self.finished), dict(self.measured)
        for trial in earlier:
            if trial.train_s and trial.epochs:
                finished[trial.trial] = trial, trial.train_s
                _add(measured, self.key(trial), trial.train_s, trial.epochs)
        new = dataclasses.replace(self, name=name, num_left=num_left, planned=tuple(planned), running={}, rests=())
        return dataclasses.replace(new, finished=finished, measured=measured)

    def expecting(self, epochs_s: Mapping[Key, float]) -> "Forecast":
        """Sets the expected seconds of an epoch of some models."""
        return dataclasses.replace(self, expected=epochs_s)

    def more(self, planned: Sequence[Trial]) -> "Forecast":
        """Adds trainings to the stage."""
        return dataclasses.replace(self, num_left=self.num_left + len(planned), planned=(*self.planned, *planned))

    def started(self, trial: Trial, now: float) -> "Forecast":
        """A training starts; `epochs` of its configuration is the planned number."""
        # Compared by work: planned baselines have no names yet.
        keys = [self.key(other) for other in self.planned]
        known = keys.index(self.key(trial)) if self.key(trial) in keys else len(keys)
        return dataclasses.replace(
            self,
            num_left=max(self.num_left - 1, 0),
            planned=(*self.planned[:known], *self.planned[known + 1 :]),
            running={**self.running, trial.trial: _Running(trial=trial, start=now, seen=now)},
        )

    def epoch(self, name: str, epoch: int, now: float, time_s: float | None = None) -> "Forecast":
        """A training has finished an epoch, which took `time_s`: without the start of its process, if that is known."""
        run = self.running.get(name)
        if run is None:
            return self
        measured, time_s = dict(self.measured), now - run.seen if time_s is None else time_s
        _add(measured, self.key(run.trial), time_s, 1)
        first = run.first if run.done else epoch - 1
        run = dataclasses.replace(run, first=first, done=epoch, seen=now, spent_s=run.spent_s + time_s)
        return dataclasses.replace(self, running={**self.running, name: run}, measured=measured)

    def ended(self, trial: Trial, now: float, *, joins: bool = True, is_baseline: bool = False) -> "Forecast":
        """A training has ended; `joins`: it is a trial or a baseline, not a replication."""
        run = self.running.get(trial.trial)
        if run is None:
            return self
        finished, baselines, measured = dict(self.finished), dict(self.baselines), dict(self.measured)
        if not run.done and trial.epochs:
            # Reports may come late, all at once.
            _add(measured, self.key(run.trial), now - run.start, trial.epochs)
        if joins and trial.state in ("complete", "stopped"):
            ended = dataclasses.replace(trial, state="baseline") if is_baseline else trial
            (baselines if is_baseline else finished)[trial.trial] = ended, trial.train_s or now - run.start
        running = {name: other for name, other in self.running.items() if name != trial.trial}
        rests = (*self.rests, now - run.seen) if run.done else self.rests
        new = dataclasses.replace(self, running=running, measured=measured, rests=rests)
        return dataclasses.replace(new, finished=finished, baselines=baselines)

    def seconds(self, now: float, points: Sequence[Trial], budget_s: float = math.inf) -> float | None:
        """The time to the end of the sweep; None as long as nothing is measured.

        Args:
            now: The current time.
            points: The frontier so far.
            budget_s: Time after which no trial starts, and no replications either.
        """
        stage_s = self._stage_s(now)
        if stage_s is None or self.name == "confirm":
            return stage_s
        if self.name == "refine":
            stage_s *= 1 + _LATER_ROUNDS
        elif self.refines:
            stage_s += self._refinement_s(points)
        if stage_s >= budget_s:
            return budget_s
        return min(stage_s + self._replication_s(points), budget_s)

    def later_s(self, points: Sequence[Trial], num_points: int) -> float:
        """The time to reserve for baselines that wait, a round of refinements, and replications.

        Args:
            points: The frontier so far. Dear points of it are replicated only if there is more time.
            num_points: Replications of so many models of the usual cost.
        """
        waiting_s = sum(self.training_s(trial) or 0.0 for trial in self.planned if _is_other_input(trial))
        refinement_s = self._refinement_s(points) if self.refines else 0.0
        replicated_s = num_points * self.usual_s() + self._baseline_s(points)
        return refinement_s + (waiting_s + self.num_seeds * replicated_s) / self.num_slots

    def _refinement_s(self, points: Sequence[Trial]) -> float:
        return _REFINEMENT * self._points_s(points) / self.num_slots

    def _replication_s(self, points: Sequence[Trial]) -> float:
        grows = 1 + _REFINEMENT if self.refines and self.name == "search" else 1.0
        return self.num_seeds * (grows * self._points_s(points) + self._baseline_s(points)) / self.num_slots

    def usual_s(self) -> float:
        """The expected duration of a trial that is not known yet; 0 as long as nothing is measured."""
        return self._usual_s() or 0.0

    def key(self, trial: Trial) -> Key:
        """The input of a model, and the cost of an epoch in MACs."""
        steps = math.ceil(self.num_clips / trial.config.get("batch_size", 16))
        frame, step = _FRAME + (trial.multiply_adds or 0), _STEP + _PARAMETER * (trial.num_params or 0)
        return trial.config.get("input", "tt"), self.num_frames * frame + steps * step

    def training_s(self, trial: Trial) -> float | None:
        """The expected duration of a whole training; None as long as nothing is measured."""
        epoch_s = self.epoch_s(trial)
        rest = statistics.fmean(self.rests) if self.rests else 0.0
        return None if epoch_s is None else trial.config.get("epochs", 1) * epoch_s + rest

    def epoch_s(self, trial: Trial) -> float | None:
        """The expected duration of an epoch; None as long as nothing is measured."""
        key = self.key(trial)
        if key in self.measured:
            seconds, number = self.measured[key]
            return seconds / number
        if key in self.expected:
            # Corrected by those that have been trained since.
            both = [other for other in self.expected if other in self.measured]
            actual = sum(self.measured[other][0] / self.measured[other][1] for other in both)
            return self.expected[key] * (actual / sum(self.expected[other] for other in both) if both else 1.0)
        spent = [(*other, *seconds) for other, seconds in self.measured.items()]
        spent = spent or [(*other, seconds, 1) for other, seconds in self.expected.items()]
        spent = [each for each in spent if each[0] == key[0]] or spent
        total = sum(work * number for _, work, _, number in spent)
        return key[1] * sum(seconds for *_, seconds, _ in spent) / total if spent else None

    def _stage_s(self, now: float) -> float | None:
        """The time to the end of the stage, in which a waiting training starts as soon as a slot is free."""
        running = [self._running_s(run, now) for run in self.running.values()]
        unknown = [self._usual_s()] * max(self.num_left - len(self.planned), 0)
        # Large baselines come last.
        waiting = unknown + [self.training_s(trial) for trial in self.planned]
        free = [seconds for seconds in running if seconds is not None]
        free += [0.0] * (self.num_slots - len(free))
        heapq.heapify(free)
        for seconds in waiting:
            heapq.heappush(free, heapq.heappop(free) + (seconds or 0.0))
        return None if None in running + waiting else max(free)

    def _running_s(self, run: _Running, now: float) -> float | None:
        epoch_s = self.epoch_s(run.trial)
        if run.done:
            epoch_s = run.spent_s / (run.done - run.first)
        if epoch_s is None:
            return None
        # An epoch that is overdue takes at least as long as it has taken so far.
        epoch_s = max(epoch_s, now - run.seen)
        return float(max((run.trial.config.get("epochs", 1) - run.done) * epoch_s - (now - run.seen), 0.0))

    def _usual_s(self) -> float | None:
        """The expected duration of a trial that is not known yet: the mean of those so far, stopped ones included."""
        trials = [run.trial for run in self.running.values()] or ([] if self.finished else self.planned[:1])
        known = [seconds for _, seconds in self.finished.values()]
        known += [seconds for seconds in map(self.training_s, trials) if seconds is not None]
        return statistics.fmean(known) if known else None

    def _points_s(self, points: Sequence[Trial]) -> float:
        """The duration of one training of each point of the frontier, with the ancestors of refined ones."""
        names, parents = set(), {point.trial for point in points}
        while parents:
            names |= parents
            found = [self.finished[name][0].parent for name in parents if name in self.finished]
            parents = {name for name in found if name is not None} - names
        total = sum(self.finished[name][1] for name in names if name in self.finished)
        if self.name != "search":
            return total
        # The frontier of n models grows by 1 / (n + 1) with another one, if sizes and metrics are independent.
        known = [*self.planned, *(run.trial for run in self.running.values())]
        num_baselines = sum(map(_is_other_input, known))
        num_finished, num_to_come = len(self.finished) + 1, len(self.running) + self.num_left - num_baselines
        each = total / len(points) if points else self._usual_s() or 0.0
        return total + each * math.log((num_finished + num_to_come) / num_finished)

    def _baseline_s(self, points: Sequence[Trial]) -> float:
        """The duration of one training of each baseline that is replicated: their frontier, and the dense one."""
        done = [*self.finished.values(), *self.baselines.values()]
        front = {trial.trial for trial in baseline_frontier(trial for trial, _ in self.baselines.values())}
        trials = [*self.planned, *(run.trial for run in self.running.values())]
        found = [(trial, self.training_s(trial) or 0.0) for trial in trials] + done
        names = {point.trial for point in points} | front
        dense = [s for trial, s in found if trial.config.get("input") == "dense" and trial.trial not in names]
        return max(dense, default=0.0) + sum(self.baselines[name][1] for name in front)


def _is_other_input(trial: Trial) -> bool:
    """Whether a planned model has no tensor train as its input matrix: a baseline, but for spaces that have others."""
    return trial.config.get("input", "tt") != "tt"


def _add(measured: dict[Key, tuple[float, int]], key: Key, seconds: float, number: int) -> None:
    before, count = measured.get(key, (0.0, 0))
    measured[key] = before + seconds, count + number

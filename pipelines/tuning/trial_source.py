"""Supply the trainings of a sweep in their order: questions, trials and baselines, refinements."""

import logging
from collections.abc import Callable, Collection, Sequence

from pipelines.training.queue import Training
from pipelines.tuning.baselines import settle
from pipelines.tuning.stopping import EarlyStopping
from pipelines.tuning.study import Search

__all__ = ["TrialSource"]

log = logging.getLogger(__name__)

# With a time budget, a fault of the machine would crash one trial after the other until its end.
_MOST_CRASHED = 10


class TrialSource:
    """The source of a sweep's trainings: the proposals of the search, then rounds of refinements.

    Args:
        search: Proposes the trials.
        stopping: Receives the trials that failed.
        baselines: Called once the questions are answered: those that alternate with the first proposals, and those that
            follow all of them.
        refinements: The next round of refinements; [] if there is none.
        has_time: Whether there is time for another trial.
        has_time_for_baselines: Whether there is time for a baseline.
    """

    def __init__(
        self,
        search: Search,
        stopping: EarlyStopping,
        *,
        baselines: Callable[[], tuple[list[Training], list[Training]]],
        refinements: Callable[[], Sequence[Training]],
        has_time: Callable[[], bool],
        has_time_for_baselines: Callable[[], bool],
    ) -> None:
        self._search, self._stopping, self._refinements = search, stopping, refinements
        self._has_time, self._has_time_for_baselines = has_time, has_time_for_baselines
        self._refined: list[Training] = []
        self._make_baselines, self._num_crashed = baselines, 0
        self._baselines: tuple[list[Training], list[Training]] | None = None
        self._is_turn_of_baseline = False
        self.num_workers = search.num_workers

    def next(self, running: Collection[str]) -> Training | None:
        if self._num_crashed >= _MOST_CRASHED:
            return None
        if self._search.is_asking or self._search.has_unfinished:
            training = self._search.next()
            if training is not None or self._search.is_asking:
                return training
        if self._baselines is None:
            self._baselines = self._make_baselines()
        first, last = self._baselines
        is_turn, self._is_turn_of_baseline = self._is_turn_of_baseline, not self._is_turn_of_baseline
        if is_turn and first and self._has_time_for_baselines():
            return first.pop(0)
        if not self._refined and self._has_time() and (training := self._search.next()) is not None:
            return training
        if (first or last) and self._has_time_for_baselines():
            return (first or last).pop(0)
        if not self._refined and not running:
            self._refined = list(self._refinements())
        return self._refined.pop(0) if self._refined else None

    def ended(self, training: Training, error: str | None) -> None:
        self._num_crashed = self._num_crashed + 1 if error is not None else 0
        if self._num_crashed == _MOST_CRASHED:
            log.error("%d trainings in a row crashed, the last one with: %s; no more are started", _MOST_CRASHED, error)
        if training.is_baseline:
            settle(training, error)
        elif self._search.settle(training.name, error=error) == "failed":
            # Running trials are not compared with it any more.
            self._stopping.remove(training.name)

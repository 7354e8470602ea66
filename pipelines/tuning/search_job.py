"""Run the trials of a sweep: the search, and the refinement of its models."""

import dataclasses
import logging
import math
import sys
import time
from collections.abc import Collection, Sequence

from pipelines.cluster.slots import Slots, local_device
from pipelines.data.dataset import ShardDataset
from pipelines.training.launcher import run_trainings
from pipelines.training.memory import step_bytes
from pipelines.training.options import TrainOptions
from pipelines.training.queue import Training
from pipelines.tuning.baselines import announce, baseline_trainings
from pipelines.tuning.budget import POINTS, Plan, Planner
from pipelines.tuning.build import Builder
from pipelines.tuning.data_check import cost_text
from pipelines.tuning.display import Screen, tune_callback
from pipelines.tuning.frontier import frontier
from pipelines.tuning.options import SweepOptions
from pipelines.tuning.questions import may_ask
from pipelines.tuning.refine import propose
from pipelines.tuning.schedulers import make_scheduler
from pipelines.tuning.space_check import check_space, size_costs
from pipelines.tuning.stopping import Curve, EarlyStopping
from pipelines.tuning.study import Search
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.tuning.trial import Trial
from pipelines.tuning.trial_source import TrialSource
from ttrnn.config import ModelConfig

__all__ = ["run_search"]

log = logging.getLogger(__name__)


def run_search(
    options: SweepOptions, sweep: SweepDirectory, data: ShardDataset, slots: Slots, deadline: float, screen: Screen
) -> int:
    """Runs, resumes or extends the search, and then refines the models of the frontier if requested.

    Returns:
        The number of trials whose process failed.
    """
    return _SearchJob(options, sweep, data, slots, deadline, screen).run()


# Baselines and refinements need less time in reserve than trials: they cost little, and decide what the rest is worth.
_LEAST_POINTS = POINTS // 2


class _SearchJob:
    """The search of one command."""

    def __init__(
        self,
        options: SweepOptions,
        sweep: SweepDirectory,
        data: ShardDataset,
        slots: Slots,
        deadline: float,
        screen: Screen,
    ) -> None:
        self._options, self._sweep, self._data, self._slots = options, sweep, data, slots
        self._deadline, self._screen = deadline, screen
        self._earlier = sweep.trials()
        # The node of the command may not have the device of the trainings.
        self._can_measure = slots.device_type == local_device().type
        self._planner = None if self._earlier else Planner(options, sweep, data, slots)
        asks, self._num_trials = may_ask(options.most_trials), options.most_trials
        if self._planner is not None and self._can_measure:
            screen.expect(self._planner.measured(screen.state.forecast, asks=asks))
            if options.time_budget is not None:
                plan = self._planner.plan(screen.state.forecast, self._left_s(), asks=asks)
                if asks and not may_ask(plan.num_trials):
                    plan, asks = self._planner.plan(screen.state.forecast, self._left_s(), asks=False), False
                self._num_trials = plan.num_trials
                self._accept(plan)
        self._search = self._make_search(asks)
        self._search.on_answer = self._plan_again

    def run(self) -> int:
        """Trains to the end; returns the number of trials whose process failed."""
        options, search, screen = self._options, self._search, self._screen
        stopping = EarlyStopping(len(self._data.split("val")))
        for trial in self._earlier:
            if trial.num_params is not None and trial.state != "failed" and self._is_compared(trial):
                stopping.add(Curve.of(trial.trial, trial.num_params, [value for _, value in trial.curve]))
        ended = [trial for trial in self._earlier if trial.state in ("complete", "stopped") and trial.parent is None]
        # How many trials a resumed sweep with a time budget trains is not planned.
        total = self._num_trials if self._num_trials < sys.maxsize else len(ended) + 1
        screen.stage("search", total, ended, search.planned())
        if self._planner is not None and self._can_measure and options.time_budget is None:
            self._write_cost(cost_text(options, self._data, self._planner.usual, screen.state.forecast))
        if options.baselines == "dense":
            self._announce_dense()
        # Ray Train would continue a trial of several workers after Tune has stopped it.
        scheduler = options.early_stopping if options.num_workers == 1 else "none"
        num_failed = run_trainings(
            TrialSource(
                search,
                stopping,
                baselines=self._baselines,
                refinements=self._refinements,
                has_time=lambda: self._has_time(screen.state.forecast.usual_s(), POINTS),
                has_time_for_baselines=lambda: self._has_time(0.0, _LEAST_POINTS),
            ),
            self._slots,
            state=self._sweep.tune_state,
            scheduler=make_scheduler(scheduler, stopping, search.epochs, self._deadline),
            deadline=self._deadline,
            callbacks=[tune_callback(screen, within=self._sweep.within)],
        )
        if search.exhausted:
            log.warning("%s", search.exhausted)
        return num_failed

    def _left_s(self) -> float:
        return self._deadline - time.monotonic()

    def _is_compared(self, trial: Trial) -> bool:
        """Whether others may be stopped because of a trial: not by one that starts from trained weights, or that
        answers a question and may have had fewer epochs."""
        return trial.parent is None and not self._search.is_of_question(trial.trial)

    def _make_search(self, asks: bool) -> Search:
        options, data, slots = self._options, self._data, self._slots
        longest = max(int(data.split(name).lengths.max(initial=0)) for name in ("train", "val"))
        limits = {name: getattr(options, name) for name in ("max_params", "max_macs")}
        limits["memory_bytes"] = slots.memory_bytes

        def costs(train: TrainOptions, model: ModelConfig) -> dict[str, float]:
            memory = step_bytes(model, train.batch_size, longest, slots.device_type, data.codec)
            return {**size_costs(train, model), "memory_bytes": memory}

        common = {"epochs": options.epochs_per_trial, "seed": options.seed, "num_workers": options.num_workers}
        limits = {name: limit for name, limit in limits.items() if limit is not None and limit < math.inf}
        if not self._earlier:
            builder = Builder(self._sweep, data, common, options.space)
            check_space(options.space, builder, data, limits, costs, streamable=options.streamable)
        return Search(
            self._sweep,
            data,
            common,
            space=options.space,
            num_trials=options.most_trials,
            costs=costs,
            teacher=",".join(options.teacher_paths) or options.teacher,
            streamable=options.streamable,
            asks=asks,
            limits=limits,
            sampler=options.sampler,
            seed=options.seed,
        )

    def _announce_dense(self) -> None:
        """Logs the cost of the dense baseline before anything is trained."""
        common = {"epochs": self._search.epochs, "seed": self._options.seed}
        for dense in baseline_trainings(self._options, common, self._sweep, self._data, self._slots)[1]:
            announce(dense, self._data)

    def _baselines(self) -> tuple[list[Training], list[Training]]:
        common = {"epochs": self._search.epochs, "seed": self._options.seed, "num_workers": self._options.num_workers}
        shared = {**self._search.for_baselines(), **common}
        first, last = baseline_trainings(self._options, shared, self._sweep, self._data, self._slots)
        self._screen.expect_baselines([*first, *last])
        return first, last

    def _plan_again(self, answered: Collection[str]) -> None:
        """Plans the epochs anew, with what the models of a question took on this cluster."""
        if self._planner is not None and self._options.time_budget is not None:
            num_teachers, forecast = self._search.questions.num_teachers, self._screen.state.forecast
            plan = self._planner.plan(forecast, self._left_s(), answered, num_teachers=num_teachers)
            self._accept(plan)
            self._search.epochs = plan.epochs

    def _accept(self, plan: Plan) -> None:
        """Logs a plan, and writes the epochs to sweep.json, and the first plan as the expected cost."""
        document = self._sweep.read()
        self._options = dataclasses.replace(self._options, epochs=plan.epochs)
        self._sweep.write({**document, "options": self._options.settings()})
        if document.get("data_check", {}).get("cost") is None:
            self._write_cost(plan.text)
        else:
            log.info("%s", plan.text)

    def _write_cost(self, text: str) -> None:
        log.info("%s", text)
        document = self._sweep.read()
        self._sweep.write({**document, "data_check": {**document.get("data_check", {}), "cost": text}})

    def _has_time(self, training_s: float, num_points: int) -> bool:
        """Whether a training leaves time for baselines, a round of refinements and replications of so many points."""
        forecast, points = self._screen.state.forecast, self._screen.state.points
        replicated = [self._sweep.replication_results(point.trial) for point in points]
        num_done = sum(len(results) >= self._options.confirm for results in replicated)
        # At least one, as a new one may follow from each training.
        return training_s + forecast.later_s(points, max(1, num_points - num_done)) <= self._left_s()

    def _refinements(self) -> Sequence[Training]:
        """A round of models that start from those of the frontier, rounded to lower ranks; [] if there are no more."""
        search, sweep, limit = self._search, self._sweep, self._options.max_params
        if not (self._options.refine and self._has_time(0.0, _LEAST_POINTS)):
            return []
        trials = sweep.finished_trials()
        proposals = propose(sweep, frontier(trials), trials, epochs=search.epochs, max_params=limit)
        refined = [search.refine(proposal.values, proposal.parent) for proposal in proposals]
        trainings = [training for training in refined if training is not None]
        if trainings:
            self._screen.stage("refine", len(trainings), planned=trainings)
        return trainings

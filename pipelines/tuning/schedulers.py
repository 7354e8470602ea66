"""Stop trials early as schedulers of Ray Tune: by the frontier of parameters and metric, or by ASHA."""

import time
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from pipelines.training.launcher import is_progress
from pipelines.training.run_directory import RunDirectory
from pipelines.tuning.stopping import Curve, EarlyStopping

__all__ = ["make_scheduler"]


def make_scheduler(name: str, stopping: EarlyStopping, epochs: int, deadline: float) -> TrialScheduler:
    """The scheduler of a sweep.

    Args:
        name: frontier, asha or none.
        stopping: Has the curves of the trials of earlier commands.
        epochs: Number of epochs of a trial.
        deadline: Time of time.monotonic() after which running trials pause at the end of their epoch; may be infinite.
    """
    return _Asha(epochs, deadline) if name == "asha" else _Frontier(stopping if name == "frontier" else None, deadline)


class _WithDeadline:
    """Adds a deadline, and a reason for each stop, to a scheduler of Tune."""

    deadline: float

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune saves its scheduler, but is never restored: the curves are read from the files of the trials instead.
        return FIFOScheduler, ()

    def decision(self, reason: str | None, trial: Any) -> str:
        """Stops a trial that has a reason, which is written to its summary.json; pauses a trial after the deadline."""
        if reason is not None:
            # The process of the trial waits meanwhile, and does not write this file.
            RunDirectory(trial.config["training"].options.out).add_to_summary(state="stopped", stopped_by=reason)
        is_late = time.monotonic() > self.deadline
        return TrialScheduler.STOP if reason is not None or is_late else TrialScheduler.CONTINUE


class _Frontier(_WithDeadline, FIFOScheduler):
    """Stops trials that are significantly dominated; none without `stopping`."""

    def __init__(self, stopping: EarlyStopping | None, deadline: float) -> None:
        super().__init__()
        self.stopping, self.deadline = stopping, deadline

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        training = trial.config["training"]
        # A refined trial starts from trained weights, and a question may have fewer epochs.
        is_own = training.options.init is None and not (training.is_baseline or training.is_question)
        is_compared = is_own and is_progress(result)
        reason = None
        if self.stopping is not None and is_compared and result["epoch"] < training.options.epochs:
            values = [record["val_metric"] for record in RunDirectory(training.options.out).metrics()]
            reason = self.stopping.reason_to_stop(
                Curve.of(training.name, training.model.num_params, values), max(1, training.options.epochs // 4)
            )
        return self.decision(reason, trial)


class _Asha(_WithDeadline, ASHAScheduler):
    """Stops trials by asynchronous successive halving (ASHA), by the validation metric alone."""

    def __init__(self, epochs: int, deadline: float) -> None:
        # No trial is stopped at its last epoch, at which it is complete. A plan may give it more epochs than these.
        super().__init__(
            "epoch", "best_val_metric", "max", max_t=epochs, grace_period=max(1, epochs // 9), stop_last_trials=False
        )
        self.deadline = deadline

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        training = trial.config["training"]
        if not is_progress(result) or training.is_baseline or training.is_question:
            return self.decision(None, trial)
        decision: str = super().on_trial_result(tune_controller, trial, result)
        is_last = result["epoch"] >= training.options.epochs
        is_stopped = decision == TrialScheduler.STOP and not is_last
        return self.decision(f"not among the best at epoch {result['epoch']} (ASHA)" if is_stopped else None, trial)

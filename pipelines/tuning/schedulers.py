"""End trials early, as Ray Tune asks: by the frontier of parameters against the metric, or by successive halving."""

import time
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from pipelines.training.launcher import is_progress
from pipelines.training.run_directory import RunDirectory
from pipelines.tuning.stopping import Curve, Judge

__all__ = ["make_scheduler"]


def make_scheduler(name: str, judge: Judge, epochs: int, deadline: float) -> TrialScheduler:
    """The scheduler of a sweep.

    Args:
        name: frontier, asha or none.
        judge: Knows the curves of trials that earlier commands trained.
        epochs: Of a trial.
        deadline: By time.monotonic(), or infinite: trials that run pause at their next epoch after it.
    """
    return _Asha(epochs, deadline) if name == "asha" else _Frontier(judge if name == "frontier" else None, deadline)


class _WithDeadline:
    """What both schedulers add to Tune's."""

    deadline: float

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune saves its scheduler, and is never resumed: the curves are read anew from the files of the trials.
        return FIFOScheduler, ()

    def decision(self, reason: str | None, trial: Any) -> str:
        """Stops a trial for a reason, which its summary.json keeps; pauses one after the deadline."""
        if reason is not None:
            # Its process waits meanwhile.
            RunDirectory(trial.config["training"].options.out).add_to_summary(state="stopped", stopped_by=reason)
        is_late = time.monotonic() > self.deadline
        return TrialScheduler.STOP if reason is not None or is_late else TrialScheduler.CONTINUE


class _Frontier(_WithDeadline, FIFOScheduler):
    """Stops what is dominated beyond noise; with no judge, nothing."""

    def __init__(self, judge: Judge | None, deadline: float) -> None:
        super().__init__()
        self.judge, self.deadline = judge, deadline

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        training = trial.config["training"]
        # A refined trial begins where others end; a dense one is there for the others to be compared with.
        is_judged = training.options.init is None and training.options.input != "dense" and is_progress(result)
        reason = None
        if self.judge is not None and is_judged and result["epoch"] < training.options.epochs:
            values = [record["val_metric"] for record in RunDirectory(training.options.out).metrics()]
            reason = self.judge.reason_to_stop(Curve.of(training.name, training.model.num_params, values))
        return self.decision(reason, trial)


class _Asha(_WithDeadline, ASHAScheduler):
    """Successive halving by the validation metric alone."""

    def __init__(self, epochs: int, deadline: float) -> None:
        # Nothing is stopped at its last epoch: it has had its full budget.
        super().__init__("epoch", "best_val_metric", "max", max_t=epochs + 1, grace_period=max(1, epochs // 9))
        self.deadline = deadline

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if not is_progress(result):
            return self.decision(None, trial)
        decision: str = super().on_trial_result(tune_controller, trial, result)
        is_last = result["epoch"] >= trial.config["training"].options.epochs
        is_stopped = decision == TrialScheduler.STOP and not is_last
        return self.decision(f"not among the best at epoch {result['epoch']} (ASHA)" if is_stopped else None, trial)

"""Train one model, test it, and write RUN/result.json."""

from collections.abc import Callable, Mapping
from typing import Any

from pipelines.cluster.slots import local_device
from pipelines.evaluation.evaluator import evaluate_model
from pipelines.training.memory import peak_memory
from pipelines.training.options import TrainOptions
from pipelines.training.run_directory import RunDirectory
from pipelines.training.trainer import DivergedError, OnEpoch, fit

__all__ = ["RESULT_COLUMNS", "earlier_result", "train_and_test"]

RESULT_COLUMNS = (
    "state", "metric", "value", "chance", "num_clips", "val_metric", "best_epoch", "epochs", "train_s", "peak_bytes",
    "num_params", "input_params", "device", "error", "out",
)  # fmt: skip
"""Names in result.json. `value` is the metric on the test split; `error` is the reason why a run failed."""
_INTERVALS = ("val_interval", "interval")


class _TimeUpError(Exception):
    """The run has exceeded its time limit."""


def train_and_test(
    options: TrainOptions,
    on_epoch: OnEpoch | None = None,
    on_checkpoint: Callable[[], object] = lambda: None,
    *,
    is_tested: bool = True,
    time_limit_s: float | None = None,
) -> dict[str, Any]:
    """Trains one model, from its last checkpoint if there is one, and evaluates it on the test split once.

    Writes RUN/test/ (predictions and metrics), and then RUN/result.json.

    Args:
        options: Options of the run, which has been claimed; precision is not auto.
        on_epoch: See `fit`.
        on_checkpoint: See `fit`.
        is_tested: Whether there is a test split.
        time_limit_s: The run ends with the epoch that exceeds this.

    Returns:
        The values that RESULT_COLUMNS names, and the 95% intervals of val_metric (val_interval) and of value
        (interval). A run that diverges has an error instead of a value.
    """
    run = RunDirectory(options.out)

    def limited(record: dict[str, Any]) -> None:
        if on_epoch is not None:
            on_epoch(record)
        if time_limit_s is not None and record["train_s"] >= time_limit_s and record["epoch"] < options.epochs:
            raise _TimeUpError

    with peak_memory() as peak:
        try:
            summary: Mapping[str, Any] = fit(options, limited, on_checkpoint)
        except _TimeUpError:
            summary = {**run.summary(), "state": "stopped"}
        except DivergedError as error:
            summary = error.summary
        result = {**summary, "peak_bytes": peak(), "device": local_device().type, "out": options.out}
    if summary["state"] != "failed" and is_tested:
        test = evaluate_model(run.path, options.shards, "test", out=run.evaluation("test"))
        result |= {name: test[name] for name in ("value", "chance", "num_clips", "interval")}
    result = {name: result.get(name) for name in (*RESULT_COLUMNS, *_INTERVALS)}
    run.write_result(result)
    if summary["state"] != "stopped":
        run.remove_checkpoint()
    return result


def earlier_result(run: RunDirectory, time_limit_s: float | None = None) -> dict[str, Any] | None:
    """The result of a run that an earlier command finished; None if the run must be started or continued.

    A run that ended by its time limit is continued if it has more time now.
    """
    result = run.result()
    if result is None:
        return None
    if result["state"] == "stopped" and (time_limit_s is None or result["train_s"] < time_limit_s):
        return None
    return result

"""Log a line for each epoch of a training, and summarise the finished run."""

import logging
import shlex
from typing import Any

from pipelines.core.text import duration, program
from pipelines.evaluation.evaluator import headline
from pipelines.training.trainer import OnEpoch

__all__ = ["epoch_logger", "run_summary"]

log = logging.getLogger(__name__)


def epoch_logger() -> OnEpoch:
    """A callback that logs the metrics of each epoch and the estimated time left."""
    times: list[float] = []

    def log_epoch(record: dict[str, Any]) -> None:
        times.append(record["time_s"])
        planned, number = record["epochs_planned"], record["epoch"]
        left_s = (planned - number) * sum(times) / len(times)
        log.info(
            "epoch %*d/%d  train loss %.3f  val loss %.3f  val %s %5.1f%%  %s frames/s  %s",
            len(str(planned)),
            number,
            planned,
            record["train_loss"],
            record["val_loss"],
            "accuracy" if record["metric"] == "accuracy" else "MAP",
            100 * record["val_metric"],
            f"{record['frames_per_s']:,.0f}",
            f"{duration(left_s)} left" if number < planned else "done",
        )

    return log_epoch


def run_summary(result: dict[str, Any]) -> str:
    """The metric, the saved epoch, the model's directory and the next command, from the result of train."""
    model, shards = shlex.quote(result["model"]), shlex.quote(result["shards"])
    return (
        f"{headline(result['measured'])}\n"
        f"saved: epoch {result['best_epoch']} of {result['epochs']}, {result['num_params']:,} parameters, "
        f"{duration(result['train_s'])} of training\n"
        f"model: {result['model']}\n"
        f"next:  {program('evaluate')} {model} {shards} --split test"
    )

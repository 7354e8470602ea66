"""Describe how a model was trained, for its model directory."""

from collections.abc import Mapping
from typing import Any

from pipelines.data.dataset import Split
from pipelines.evaluation.metrics import METRICS
from pipelines.training.checkpoint import Progress
from pipelines.training.options import TrainOptions

__all__ = ["model_results"]


def model_results(
    options: TrainOptions, progress: Progress, train: Split, val: Split, record: Mapping[str, Any], task: str
) -> dict[str, Any]:
    """The results of the training that the model directory records.

    Args:
        options: Of the run.
        progress: Up to the epoch whose model it is.
        train: The clips that it was trained on.
        val: Those that it was validated on.
        record: The line of metrics.jsonl of the epoch.
        task: single_label or multi_label.
    """
    splits = {name: getattr(options, name) for name in ("folds", "fold", "split_by", "watch_test")}
    return {
        "val_metric": record["val_metric"],
        "val_interval": progress.best.get("val_interval"),
        "metric": METRICS[task],
        "num_val_clips": len(val),
        "num_train_clips": len(train),
        "best_epoch": record["epoch"],
        "seed": options.seed,
        "shards": options.shards,
        **{name: getattr(options, name) for name in ("init", "teacher") if getattr(options, name)},
        **(splits if options.folds or options.watch_test else {}),
    }

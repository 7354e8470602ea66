"""Predict the clips of a split and compute metric and loss; the workers of a process group share the clips.

Legend: B clips, C classes.
"""

import contextlib
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines.baselines.network import AnyClassifier
from pipelines.data.dataset import Split
from pipelines.data.loader import batches
from pipelines.evaluation.metrics import task_metric

__all__ = ["losses", "predict_split", "validate"]


def predict_split(
    model: AnyClassifier, split: Split, batch_size: int = 16, *, rank: int = 0, world_size: int = 1
) -> tuple[np.ndarray, list[int], float]:
    """(probabilities (B, C) of this worker's clips, their indices in the split, sum of their losses)."""
    model.eval()
    rows, indices, loss = [], [], 0.0
    epoch = batches(
        split,
        batch_size,
        len(model.config.classes),
        model.config.task == "multi_label",
        rank=rank,
        world_size=world_size,
        device=next(model.parameters()).device,
    )
    with torch.inference_mode(), contextlib.closing(epoch):
        for batch in epoch:
            if batch.share:
                logits = model(batch.frames)
                loss += float(losses(logits, batch.labels).sum())
                rows.append(model.probabilities(logits).float().cpu().numpy())
                indices += batch.indices
    return np.concatenate(rows) if rows else np.empty((0, len(model.config.classes)), np.float32), indices, loss


def losses(logits_BC: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """(B,): the loss of each clip; label smoothing spreads a share `smoothing` of each label over all classes."""
    if labels.dim() == 1:
        return nn.functional.cross_entropy(logits_BC, labels, reduction="none", label_smoothing=smoothing)
    # Each class is a binary decision, so the share is spread over its two outcomes.
    labels = labels * (1 - smoothing) + smoothing / 2
    return nn.functional.binary_cross_entropy_with_logits(logits_BC, labels, reduction="none").mean(dim=1)


def validate(
    model: AnyClassifier, split: Split, batch_size: int, *, rank: int = 0, world_size: int = 1
) -> tuple[float, float, np.ndarray]:
    """(metric, mean loss, probabilities (B, C)) of the whole split, the same on every worker; each clip counts once."""
    part = predict_split(model, split, batch_size, rank=rank, world_size=world_size)
    parts: list[Any] = [part]
    if world_size > 1:
        parts = [None] * world_size
        dist.all_gather_object(parts, part)
    scores_BC = np.empty((len(split), len(model.config.classes)), np.float32)
    for rows, indices, _ in parts:
        scores_BC[indices] = rows
    loss = sum(loss for *_, loss in parts) / len(split)
    return task_metric(model.config.task, scores_BC, split.labels), loss, scores_BC

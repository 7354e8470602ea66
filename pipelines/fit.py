"""The training itself, in plain PyTorch: epochs, validation, checkpoints. It knows nothing of Ray.

Legend: B clips, C classes.
"""

import contextlib
import io
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

import ttrnn
from pipelines.batches import Batch, batches, epoch_seed, num_steps
from pipelines.cli import StepError
from pipelines.metrics import METRICS, score
from pipelines.optim import make_average, make_optimizer, make_schedule
from pipelines.recipe import TrainOptions, flat_config, local_device, model_config
from pipelines.shards import ShardDataset, Split
from ttrnn.files import atomic_write, remove_leftovers
from ttrnn.model import VideoClassifier

__all__ = ["DivergedError", "OnEpoch", "fit", "predict_split"]

OnEpoch = Callable[[dict[str, Any]], None]


class DivergedError(StepError):
    """Loss or gradients are no longer finite; `summary` is what RUN/summary.json says."""

    summary: dict[str, Any]


def predict_split(
    model: VideoClassifier, split: Split, batch_size: int = 16, *, rank: int = 0, world_size: int = 1
) -> tuple[np.ndarray, list[int], float]:
    """Probabilities (B, C) of this worker's clips, their indices in the split, and the sum of their losses."""
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
                loss += float(_losses(logits, batch.labels).sum())
                rows.append(model.probabilities(logits).float().cpu().numpy())
                indices += batch.indices
    return np.concatenate(rows) if rows else np.empty((0, len(model.config.classes)), np.float32), indices, loss


def _losses(logits_BC: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """(B,) one loss per clip, against labels of which a share `smoothing` is spread over all classes."""
    if labels.dim() == 1:
        return nn.functional.cross_entropy(logits_BC, labels, reduction="none", label_smoothing=smoothing)
    # Each class is a question of its own, with two answers.
    labels = labels * (1 - smoothing) + smoothing / 2
    return nn.functional.binary_cross_entropy_with_logits(logits_BC, labels, reduction="none").mean(dim=1)


class _Run:
    """The state of a training and its files; `fit` drives it."""

    def __init__(self, options: TrainOptions, data: ShardDataset) -> None:
        self.options, self.out = options, Path(options.out)
        self.rank, self.world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.train, self.val = data.split("train"), data.split("val")
        self.device = local_device()
        torch.manual_seed(options.seed)
        self.model = VideoClassifier(model_config(options, data)).to(self.device)
        self.model.rnn.reset_parameters(options.input_gain)
        self.compute_dtype = torch.bfloat16 if options.precision == "bfloat16" else None
        self.replica: nn.Module = self.model
        if self.world_size > 1:
            self.replica = nn.parallel.DistributedDataParallel(self.model)
        self.average = make_average(options, self.model)
        self.optimizer = make_optimizer(options, self.model)
        self.steps = num_steps(len(self.train), options.batch_size, self.world_size)
        self.schedule = make_schedule(options, self.optimizer, options.epochs * self.steps)
        self.epoch, self.train_s = 0, 0.0
        self.best: dict[str, Any] = {"epoch": 0, "val_metric": -1.0, "val_loss": math.inf}

    @property
    def result(self) -> VideoClassifier:
        """The model that is measured and kept."""
        model = self.model if self.average is None else self.average.module
        assert isinstance(model, VideoClassifier)
        return model

    @property
    def done(self) -> bool:
        patience = self.options.patience
        return self.epoch >= self.options.epochs or (
            patience is not None and self.epoch - self.best["epoch"] >= patience
        )

    def run_epoch(self) -> dict[str, Any]:
        """One pass over the train split and one over the validation split."""
        start, epoch = time.monotonic(), self.epoch + 1
        # Drawn anew each epoch, so that a resumed run needs no random state to go on as if nothing had happened.
        torch.manual_seed(epoch_seed(self.options.seed, epoch, self.rank))
        self.model.train()
        self.model.rnn.compute_dtype = self.compute_dtype
        loss_sum = torch.zeros(2, device=self.device)
        steps = batches(
            self.train,
            self.options.batch_size,
            len(self.model.config.classes),
            self.model.config.task == "multi_label",
            seed=epoch_seed(self.options.seed, epoch),
            augmentation=self.options.augmentation(),
            rank=self.rank,
            world_size=self.world_size,
            device=self.device,
        )
        with contextlib.closing(steps):
            for batch in steps:
                loss_sum += torch.stack(self._step(batch))
        if self.world_size > 1:
            dist.all_reduce(loss_sum)
        train_s = time.monotonic() - start
        val_metric, val_loss = self._validate()
        self.epoch, self.train_s = epoch, self.train_s + time.monotonic() - start
        return {
            "epoch": epoch,
            "train_loss": float(loss_sum[0] / loss_sum[1]),
            "val_loss": val_loss,
            "val_metric": val_metric,
            "lr": self.schedule.get_last_lr()[0],
            "frames_per_s": float(self.train.lengths.sum() / train_s),
            "time_s": time.monotonic() - start,
        }

    def _step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        losses = _losses(self.replica(batch.frames), batch.labels, self.options.label_smoothing)
        # Workers' gradients are averaged: weighted so, the average is the mean over all clips of the step.
        loss = losses.mean() * batch.share * self.world_size
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.options.max_grad_norm or math.inf)
        if not torch.isfinite(norm):
            raise DivergedError(
                f"diverged in epoch {self.epoch + 1}: loss {loss.item():.4g}, gradient norm {norm.item():.4g}, "
                f"learning rate {self.schedule.get_last_lr()[0]:.3g}; try a smaller --lr"
            )
        self.optimizer.step()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        count = torch.full((), len(losses) if batch.share else 0.0, device=self.device)
        return losses.detach().mean() * count, count

    def _validate(self) -> tuple[float, float]:
        """(metric, mean loss), the same on every worker; each clip counted once."""
        # In full, as every other command measures it and on every machine.
        self.result.rnn.compute_dtype = None
        part = predict_split(self.result, self.val, self.options.batch_size, rank=self.rank, world_size=self.world_size)
        parts: list[Any] = [part]
        if self.world_size > 1:
            parts = [None] * self.world_size
            dist.all_gather_object(parts, part)
        scores = np.empty((len(self.val), len(self.model.config.classes)), np.float32)
        for rows, indices, _ in parts:
            scores[indices] = rows
        return score(self.model.config.task, scores, self.val.labels), sum(loss for *_, loss in parts) / len(self.val)

    def keep(self, record: dict[str, Any]) -> None:
        """Writes the best model, the metrics and then the checkpoint: a run killed in between repeats the epoch."""
        value = (record["val_metric"], -record["val_loss"])
        if self.options.keep == "last" or value > (self.best["val_metric"], -self.best["val_loss"]):
            self.best = {name: record[name] for name in ("epoch", "val_metric", "val_loss")}
            if self.rank == 0:
                results = {
                    "val_metric": record["val_metric"],
                    "metric": METRICS[self.model.config.task],
                    "num_val_clips": len(self.val),
                    "num_train_clips": len(self.train),
                    "best_epoch": record["epoch"],
                    "seed": self.options.seed,
                    "shards": self.options.shards,
                }
                ttrnn.save(self.result, self.out / "model", results)
        if self.rank == 0:
            with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            state = {
                "model": self.model.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "epoch": self.epoch,
                "train_s": self.train_s,
                "best": self.best,
            }
            (self.out / "checkpoint").mkdir(exist_ok=True)
            # By way of memory: torch's own writer does not say when the disk is full.
            buffer = io.BytesIO()
            torch.save(state, buffer)
            with atomic_write(self.out / "checkpoint" / "state.pt", "wb") as file:
                file.write(buffer.getbuffer())

    def restore(self) -> None:
        """Goes on from the checkpoint, if there is one."""
        path = self.out / "checkpoint" / "state.pt"
        if path.exists():
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.epoch, self.train_s, self.best = state["epoch"], state["train_s"], state["best"]
        if self.rank == 0:
            remove_leftovers(self.out)
            self._trim_metrics()

    def _trim_metrics(self) -> None:
        """Drops the lines of epochs that the checkpoint does not hold."""
        path = self.out / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        with atomic_write(path) as file:
            file.writelines(lines[: self.epoch])

    def summary(self, state: str) -> dict[str, Any]:
        """What RUN/summary.json says."""
        config = self.model.config
        return {
            "state": state,
            "num_params": config.num_params,
            "input_params": config.input_params,
            "metric": METRICS[config.task],
            "val_metric": max(self.best["val_metric"], 0.0),
            "best_epoch": self.best["epoch"],
            "num_val_clips": len(self.val),
            "epochs": self.epoch,
            "epochs_planned": self.options.epochs,
            "train_s": round(self.train_s, 3),
            "seed": self.options.seed,
            "config": flat_config(self.options, config),
        }

    def write_summary(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Writes RUN/summary.json (rank 0 only) and gives it back."""
        if self.rank == 0:
            with atomic_write(self.out / "summary.json") as file:
                json.dump(summary, file, indent=1)
        return summary


def fit(options: TrainOptions, on_epoch: OnEpoch | None = None) -> dict[str, Any]:
    """Trains to the end, from the checkpoint in OUT if there is one; plain PyTorch.

    Inside a torch.distributed process group all workers call it and share the work; only rank 0 writes.

    Args:
        options: OUT must exist.
        on_epoch: Called after each epoch, on every worker, with the line of metrics.jsonl and the summary so far.

    Returns:
        The contents of RUN/summary.json.

    Raises:
        UserError: shards or shapes that do not fit.
        DivergedError: a loss or gradient that is not finite; the best model so far stays.
    """
    run = _Run(options, ShardDataset.open(options.shards))
    run.restore()
    while not run.done:
        try:
            record = run.run_epoch()
        except DivergedError as error:
            error.summary = run.write_summary({**run.summary("failed"), "error": str(error)})
            raise
        run.keep(record)
        run.write_summary(run.summary("running"))
        if on_epoch is not None:
            on_epoch({**record, **run.summary("running")})
    return run.write_summary(run.summary("complete"))

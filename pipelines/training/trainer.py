"""Train a model in plain PyTorch, without Ray: steps, validation, checkpoints."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from pipelines.baselines.network import AnyClassifier, BaselineClassifier, save
from pipelines.cluster.slots import local_device
from pipelines.core.errors import StepError
from pipelines.data.dataset import ShardDataset
from pipelines.data.folds import open_folds
from pipelines.data.loader import Batch, batches, epoch_seed, num_steps
from pipelines.evaluation.bootstrap import interval
from pipelines.evaluation.metrics import METRICS, chance_level
from pipelines.evaluation.validation import losses, validate
from pipelines.storage.location import Location
from pipelines.storage.lock import only_writer
from pipelines.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from pipelines.training.optim import make_ema, make_optimizer, make_schedule
from pipelines.training.options import TrainOptions, flat_config
from pipelines.training.records import model_results
from pipelines.training.run_directory import RunDirectory
from pipelines.training.setup import (
    any_model_config,
    compute_in,
    new_model,
    seed_generators,
    starting_model,
    training_splits,
)
from pipelines.training.teacher import make_teacher
from ttrnn.files import remove_leftovers
from ttrnn.model import VideoClassifier

__all__ = ["DivergedError", "OnEpoch", "fit"]


OnEpoch = Callable[[dict[str, Any]], None]
_WAIT_S = 30.0


class DivergedError(StepError):
    """The loss, a gradient or a weight is not finite."""

    summary: dict[str, Any]
    """The contents of RUN/summary.json."""


class _Trainer:
    """The state of a training and its files; `fit` runs it."""

    def __init__(self, options: TrainOptions, data: ShardDataset) -> None:
        self.options, self.directory = options, RunDirectory(options.out)
        self.rank, self.world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.train, self.val = training_splits(options, data)
        self.device = local_device()
        seed_generators(options.seed)
        self.model = new_model(options, any_model_config(options, data)).to(self.device)
        if options.init is not None and not self.directory.state_path.exists():
            # Only refined trials start from another model.
            assert isinstance(self.model, VideoClassifier)
            self.model.load_state_dict(starting_model(options.init, self.model.config).state_dict())
        teacher = make_teacher(options, self.model.config)
        self.teacher = None if teacher is None else teacher.to(self.device)
        self.ema = make_ema(options, self.model)
        self.replica: nn.Module = self.model
        if self.world_size > 1:
            self.replica = nn.parallel.DistributedDataParallel(self.model)
        self.optimizer = make_optimizer(options, self.model)
        self.num_steps = num_steps(len(self.train), options.batch_size, self.world_size)
        self.schedule = make_schedule(options, self.optimizer, options.epochs * self.num_steps)
        self.progress, self.saved_at = Progress(), time.monotonic()
        self.on_checkpoint: Callable[[], object] = lambda: None

    @property
    def result(self) -> AnyClassifier:
        """The model that is evaluated and saved: the EMA of the weights, or the weights themselves without one."""
        model = self.model if self.ema is None else self.ema.module
        assert isinstance(model, VideoClassifier | BaselineClassifier)
        return model

    @property
    def parts(self) -> dict[str, Any]:
        """By name, what a checkpoint saves the state of."""
        return {"model": self.model, "average": self.ema, "optimizer": self.optimizer, "schedule": self.schedule}

    @property
    def done(self) -> bool:
        patience, progress = self.options.patience, self.progress
        return progress.epoch >= self.options.epochs or (
            patience is not None and progress.epoch - progress.best["epoch"] >= patience
        )

    def run_epoch(self) -> dict[str, Any]:
        """Trains on the rest of an epoch, validates, and saves a checkpoint; returns the line of metrics.jsonl."""
        start, progress = time.monotonic(), self.progress
        self.model.train()
        compute_in(self.model, torch.bfloat16 if self.options.precision == "bfloat16" else None)
        steps = batches(
            self.train,
            self.options.batch_size,
            len(self.model.config.classes),
            self.model.config.task == "multi_label",
            seed=epoch_seed(self.options.seed, progress.epoch + 1),
            first_step=progress.step,
            augmentation=self.options.augmentation(),
            rank=self.rank,
            world_size=self.world_size,
            device=self.device,
        )
        with contextlib.closing(steps):
            for batch in steps:
                self._step(batch)
                now = time.monotonic()
                start, progress.epoch_s = now, progress.epoch_s + now - start
                # With weights that are not finite, the next step ends the run, on all workers together.
                if now - self.saved_at > 60 * self.options.checkpoint_minutes and self._is_finite():
                    self.save()
                    self.on_checkpoint()
        # In float32, as in every other command and on every machine.
        compute_in(self.result, None)
        val_metric, val_loss, scores_BC = validate(
            self.result, self.val, self.options.batch_size, rank=self.rank, world_size=self.world_size
        )
        if not (math.isfinite(val_loss) and self._is_finite()):
            raise self._diverged(val_loss)
        return self._finish_epoch(val_metric, val_loss, scores_BC, time.monotonic() - start)

    def _step(self, batch: Batch) -> None:
        progress, share = self.progress, batch.share
        seed_generators(epoch_seed(self.options.seed, progress.epoch + 1, progress.step, self.rank))
        logits = self.replica(batch.frames)
        clip_losses = losses(logits, batch.labels, self.options.label_smoothing)
        if self.teacher is not None:
            clip_losses = self.teacher.mixed(clip_losses, logits, batch.frames)
        # DDP averages the workers' gradients: with these weights, the average is the mean over all clips of the step.
        loss = clip_losses.mean() * share * self.world_size
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.options.max_grad_norm or math.inf)
        sums = torch.stack([clip_losses.detach().sum(), torch.full_like(loss, len(clip_losses))]) * float(share > 0)
        if self.world_size > 1:
            dist.all_reduce(sums)
        loss_sum, count = sums.tolist()
        progress.step, progress.grad_norm = progress.step + 1, float(norm)
        # Both are equal on all workers, so that all of them stop together.
        if not (math.isfinite(progress.grad_norm) and math.isfinite(loss_sum)):
            raise self._diverged(loss_sum / count)
        self.optimizer.step()
        self.schedule.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        progress.loss_sum, progress.num_clips = progress.loss_sum + loss_sum, progress.num_clips + int(count)

    def _diverged(self, loss: float) -> DivergedError:
        progress = self.progress
        error = DivergedError(
            f"diverged in epoch {progress.epoch + 1}, step {progress.step} of {self.num_steps}: loss {loss:.4g}, "
            f"gradient norm {progress.grad_norm:.4g}, learning rate {self.schedule.get_last_lr()[0]:.3g}; the last "
            "good model stays; try a smaller --lr"
        )
        error.summary = self.write_summary("failed", error=str(error))
        return error

    def _is_finite(self) -> bool:
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        return all(bool(torch.isfinite(tensor).all()) for tensor in (*self.model.parameters(), *moments))

    def _finish_epoch(
        self, val_metric: float, val_loss: float, scores_BC: np.ndarray, validation_s: float
    ) -> dict[str, Any]:
        """Saves the checkpoint first: a run killed after that writes the other files when it is resumed, and a run
        killed before it repeats the work since the previous checkpoint."""
        progress = self.progress
        time_s = progress.epoch_s + validation_s
        record: dict[str, Any] = {
            "epoch": progress.epoch + 1,
            "train_loss": progress.loss_sum / progress.num_clips,
            "val_loss": val_loss,
            "val_metric": val_metric,
            "lr": self.schedule.get_last_lr()[0],
            "frames_per_s": float(self.train.lengths.sum() / progress.epoch_s),
            "time_s": time_s,
        }
        best = progress.best
        if self.options.keep == "last" or (val_metric, -val_loss) > (best["val_metric"], -best["val_loss"]):
            bounds = interval(self.model.config.task, scores_BC, self.val.labels, self.val.groups)
            best = {name: record[name] for name in ("epoch", "val_metric", "val_loss")}
            best |= {"val_interval": [bounds.low, bounds.high], "val_interval_by": bounds.by}
        self.progress = Progress(epoch=progress.epoch + 1, train_s=progress.train_s + time_s, best=best, record=record)
        self.save()
        self._publish()
        return record

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all."""
        self.saved_at = time.monotonic()
        if self.rank == 0:
            save_checkpoint(self.directory.state_path, self.parts, self.progress)

    def _publish(self) -> None:
        """Writes the model and the metrics of the epoch that the checkpoint finished; again, after a kill."""
        record = self.progress.record
        if self.rank > 0 or record is None:
            return
        if self.progress.best["epoch"] == record["epoch"]:
            task = self.model.config.task
            results = model_results(self.options, self.progress, self.train, self.val, record, task)
            save(self.result, self.directory.model, results)
        self.directory.append_metrics(record)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Holds the lock on OUT. It is waited for: workers of a killed driver write there for some more seconds."""
        locks = self.rank == 0
        with only_writer(Location.of(self.directory.path), wait_s=_WAIT_S) if locks else contextlib.nullcontext():
            if self.world_size > 1:
                # No worker reads the checkpoint before the lock is held.
                dist.barrier()
            yield

    def restore(self) -> None:
        """Restores the checkpoint, if there is one, and what is written after it."""
        if self.directory.state_path.exists():
            self.progress = load_checkpoint(self.directory.state_path, self.parts)
        if self.rank == 0:
            for directory in (self.directory.path, self.directory.checkpoint):
                remove_leftovers(directory)
            # A kill right after the checkpoint may have lost the epoch's line and model: both are written again.
            is_epoch_end = self.progress.step == 0 and self.progress.record is not None
            self.directory.truncate_metrics(self.progress.epoch - is_epoch_end)
            if is_epoch_end:
                self._publish()

    def write_summary(self, state: str, **more: Any) -> dict[str, Any]:
        """Writes RUN/summary.json (rank 0 only) and returns its contents."""
        config, best = self.model.config, self.progress.best
        summary = {
            "state": state,
            "num_params": config.num_params,
            "input_params": config.input_params,
            "metric": METRICS[config.task],
            "val_metric": max(best["val_metric"], 0.0),
            "val_interval": best.get("val_interval"),
            "val_interval_by": best.get("val_interval_by"),
            "chance": chance_level(config.task, self.val.labels, len(config.classes)),
            "best_epoch": best["epoch"],
            "num_val_clips": len(self.val),
            "epochs": self.progress.epoch,
            "epochs_planned": self.options.epochs,
            "train_s": round(self.progress.train_s, 3),
            "seed": self.options.seed,
            "config": flat_config(self.options, config),
            **more,
        }
        if self.rank == 0:
            self.directory.write_summary(summary)
        return summary


def fit(
    options: TrainOptions, on_epoch: OnEpoch | None = None, on_checkpoint: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Trains to the end, from the checkpoint in OUT if there is one.

    In a torch.distributed process group all workers call it and share the work; only rank 0 writes.

    Args:
        options: OUT must exist.
        on_epoch: Called after each epoch, on every worker, with the line of metrics.jsonl, the other values of the
            summary so far, and best_val_metric.
        on_checkpoint: Called after each checkpoint in the middle of an epoch, on every worker.

    Returns:
        The contents of RUN/summary.json.

    Raises:
        UserError: the shards or shapes do not fit, or another process trains in OUT.
        DivergedError: a loss, gradient or weight is not finite; the model of the best epoch stays.
    """
    run = _Trainer(options, open_folds(options.shards, options.folding))
    run.on_checkpoint = on_checkpoint
    with run.claimed():
        run.restore()
        while not run.done:
            record = run.run_epoch()
            summary = run.write_summary("running")
            if on_epoch is not None:
                on_epoch({**summary, **record, "best_val_metric": summary["val_metric"]})
        return run.write_summary("complete")

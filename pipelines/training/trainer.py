"""The training itself, in plain PyTorch: steps, validation, checkpoints. It knows nothing of Ray."""

import contextlib
import dataclasses
import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

import ttrnn
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
from pipelines.training.optim import make_average, make_optimizer, make_schedule
from pipelines.training.options import TrainOptions, flat_config
from pipelines.training.run_directory import RunDirectory
from pipelines.training.setup import model_config, starting_model, training_splits
from ttrnn.files import atomic_write, remove_leftovers
from ttrnn.model import VideoClassifier

__all__ = ["DivergedError", "OnEpoch", "fit"]


OnEpoch = Callable[[dict[str, Any]], None]
_WAIT_S = 30.0


class DivergedError(StepError):
    """Loss, gradients or weights are no longer finite; `summary` is what RUN/summary.json says."""

    summary: dict[str, Any]


@dataclass(kw_only=True, slots=True)
class _Progress:
    """How far a training has come: beside weights and optimizer, all that a checkpoint holds.

    No random state: each step seeds the generators by the run's seed, the epoch, the step and the rank.
    """

    epoch: int = 0
    """Epochs that are done, validation included."""
    step: int = 0
    """Steps of the next epoch that are done."""
    loss_sum: float = 0.0
    """Over the clips of these steps, on all workers."""
    num_clips: int = 0
    """Of these steps."""
    epoch_s: float = 0.0
    """What these steps took."""
    train_s: float = 0.0
    """What the epochs that are done took."""
    grad_norm: float = 0.0
    """Of the last step, before clipping."""
    best: dict[str, Any] = field(default_factory=lambda: {"epoch": 0, "val_metric": -1.0, "val_loss": math.inf})
    """Of the epoch whose model is kept: epoch, val_metric, val_loss, val_interval, val_interval_by."""
    record: dict[str, Any] | None = None
    """The line of metrics.jsonl of the last epoch that is done."""


class _Run:
    """The state of a training and its files; `fit` drives it."""

    def __init__(self, options: TrainOptions, data: ShardDataset) -> None:
        self.options, self.directory = options, RunDirectory(options.out)
        self.rank, self.world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.train, self.val = training_splits(options, data)
        self.device = local_device()
        torch.manual_seed(options.seed)
        self.model = VideoClassifier(model_config(options, data)).to(self.device)
        self.model.rnn.reset_parameters(options.input_gain)
        if options.init is not None and not self.checkpoint.exists():
            self.model.load_state_dict(starting_model(options.init, self.model.config).state_dict())
        self.average = make_average(options, self.model)
        self.replica: nn.Module = self.model
        if self.world_size > 1:
            self.replica = nn.parallel.DistributedDataParallel(self.model)
        self.optimizer = make_optimizer(options, self.model)
        self.num_steps = num_steps(len(self.train), options.batch_size, self.world_size)
        self.schedule = make_schedule(options, self.optimizer, options.epochs * self.num_steps)
        self.progress, self.saved_at = _Progress(), time.monotonic()
        self.on_checkpoint: Callable[[], object] = lambda: None

    @property
    def checkpoint(self) -> Path:
        """The file that the training goes on from."""
        return self.directory.state_path

    @property
    def result(self) -> VideoClassifier:
        """The model that is measured and kept."""
        model = self.model if self.average is None else self.average.module
        assert isinstance(model, VideoClassifier)
        return model

    @property
    def done(self) -> bool:
        patience, progress = self.options.patience, self.progress
        return progress.epoch >= self.options.epochs or (
            patience is not None and progress.epoch - progress.best["epoch"] >= patience
        )

    def run_epoch(self) -> dict[str, Any]:
        """What is left of a pass over the train split, one over the validation split, and a checkpoint."""
        start, progress = time.monotonic(), self.progress
        self.model.train()
        self.model.rnn.compute_dtype = torch.bfloat16 if self.options.precision == "bfloat16" else None
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
                # Weights that are not finite end the run in the next step, on all workers together.
                if now - self.saved_at > 60 * self.options.checkpoint_minutes and self._is_finite():
                    self.save()
                    self.on_checkpoint()
        # In full, as every other command measures it and on every machine.
        self.result.rnn.compute_dtype = None
        val_metric, val_loss, scores_BC = validate(
            self.result, self.val, self.options.batch_size, rank=self.rank, world_size=self.world_size
        )
        if not (math.isfinite(val_loss) and self._is_finite()):
            raise self._diverged(val_loss)
        return self._finish_epoch(val_metric, val_loss, scores_BC, time.monotonic() - start)

    def _step(self, batch: Batch) -> None:
        progress, share = self.progress, batch.share
        torch.manual_seed(epoch_seed(self.options.seed, progress.epoch + 1, progress.step, self.rank))
        clip_losses = losses(self.replica(batch.frames), batch.labels, self.options.label_smoothing)
        # Workers' gradients are averaged: weighted so, the average is the mean over all clips of the step.
        loss = clip_losses.mean() * share * self.world_size
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.options.max_grad_norm or math.inf)
        sums = torch.stack([clip_losses.detach().sum(), torch.full_like(loss, len(clip_losses))]) * float(share > 0)
        if self.world_size > 1:
            dist.all_reduce(sums)
        loss_sum, count = sums.tolist()
        progress.step, progress.grad_norm = progress.step + 1, float(norm)
        # Both are the same on all workers, which so stop together.
        if not (math.isfinite(progress.grad_norm) and math.isfinite(loss_sum)):
            raise self._diverged(loss_sum / count)
        self.optimizer.step()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        progress.loss_sum, progress.num_clips = progress.loss_sum + loss_sum, progress.num_clips + int(count)

    def _diverged(self, loss: float) -> DivergedError:
        progress = self.progress
        error = DivergedError(
            f"diverged in epoch {progress.epoch + 1}, step {progress.step} of {self.num_steps}: loss {loss:.4g}, "
            f"gradient norm {progress.grad_norm:.4g}, learning rate {self.schedule.get_last_lr()[0]:.3g}; the last "
            "good checkpoint is kept; try a smaller --lr"
        )
        error.summary = self.write_summary({**self.summary("failed"), "error": str(error)})
        return error

    def _is_finite(self) -> bool:
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        return all(bool(torch.isfinite(tensor).all()) for tensor in (*self.model.parameters(), *moments))

    def _finish_epoch(
        self, val_metric: float, val_loss: float, scores_BC: np.ndarray, validation_s: float
    ) -> dict[str, Any]:
        """The checkpoint makes the epoch count; a run killed after it writes the rest again, one killed before repeats
        what it did since the checkpoint before."""
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
        self.progress = _Progress(epoch=progress.epoch + 1, train_s=progress.train_s + time_s, best=best, record=record)
        self.save()
        self._publish()
        return record

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all."""
        self.saved_at = time.monotonic()
        if self.rank > 0:
            return
        state = {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            **dataclasses.asdict(self.progress),
        }
        self.checkpoint.parent.mkdir(exist_ok=True)
        # By way of memory: torch's own writer does not say when the disk is full.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with atomic_write(self.checkpoint, "wb") as file:
            file.write(buffer.getbuffer())

    def _publish(self) -> None:
        """What a reader sees of the epoch that the checkpoint has just closed; maybe once more after a kill."""
        record = self.progress.record
        if self.rank > 0 or record is None:
            return
        if self.progress.best["epoch"] == record["epoch"]:
            ttrnn.save(self.result, self.directory.model, self._results(record))
        self.directory.append_metrics(record)

    def _results(self, record: dict[str, Any]) -> dict[str, Any]:
        """What the model directory says of where it comes from."""
        options = self.options
        splits = {name: getattr(options, name) for name in ("folds", "fold", "split_by", "watch_test")}
        return {
            "val_metric": record["val_metric"],
            "val_interval": self.progress.best.get("val_interval"),
            "metric": METRICS[self.model.config.task],
            "num_val_clips": len(self.val),
            "num_train_clips": len(self.train),
            "best_epoch": record["epoch"],
            "seed": options.seed,
            "shards": options.shards,
            **({"init": options.init} if options.init else {}),
            **(splits if options.folds or options.watch_test else {}),
        }

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keeps other processes out of OUT. Workers whose driver was killed write there for some seconds more."""
        alone = self.rank == 0
        with only_writer(Location.of(self.directory.path), wait_s=_WAIT_S) if alone else contextlib.nullcontext():
            if self.world_size > 1:
                # Nobody reads the checkpoint before that.
                dist.barrier()
            yield

    def restore(self) -> None:
        """Goes on from the checkpoint, if there is one."""
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            for name in ("model", "average", "optimizer", "schedule"):
                if (part := getattr(self, name)) is not None:
                    part.load_state_dict(state[name])
            # Checkpoints from before they were written in the middle of an epoch have fewer names.
            names = {field.name for field in dataclasses.fields(_Progress)}
            self.progress = _Progress(**{name: value for name, value in state.items() if name in names})
        if self.rank == 0:
            for directory in (self.directory.path, self.directory.checkpoint):
                remove_leftovers(directory)
            # The last epoch's line may be there or not.
            unsure = self.progress.step == 0 and self.progress.record is not None
            self.directory.truncate_metrics(self.progress.epoch - unsure)
            if unsure:
                self._publish()

    def summary(self, state: str) -> dict[str, Any]:
        """What RUN/summary.json says."""
        config, best = self.model.config, self.progress.best
        return {
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
        }

    def write_summary(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Writes RUN/summary.json (rank 0 only) and gives it back."""
        if self.rank == 0:
            self.directory.write_summary(summary)
        return summary


def fit(
    options: TrainOptions, on_epoch: OnEpoch | None = None, on_checkpoint: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Trains to the end, from the checkpoint in OUT if there is one; plain PyTorch.

    Inside a torch.distributed process group all workers call it and share the work; only rank 0 writes.

    Args:
        options: OUT must exist.
        on_epoch: Called after each epoch, on every worker, with the line of metrics.jsonl, the other values of the
            summary so far, and best_val_metric.
        on_checkpoint: Called after each checkpoint in the middle of an epoch, on every worker.

    Returns:
        The contents of RUN/summary.json.

    Raises:
        UserError: shards or shapes that do not fit; or another process trains in OUT.
        DivergedError: a loss, gradient or weight that is not finite; the last good checkpoint and the model stay.
    """
    run = _Run(options, open_folds(options.shards, options.folding))
    run.on_checkpoint = on_checkpoint
    with run.claimed():
        run.restore()
        while not run.done:
            record = run.run_epoch()
            summary = run.write_summary(run.summary("running"))
            if on_epoch is not None:
                on_epoch({**summary, **record, "best_val_metric": summary["val_metric"]})
        return run.write_summary(run.summary("complete"))

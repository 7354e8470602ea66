"""(2) Train one model on shards.

    python -m pipelines.train SHARDS runs/gru --cell gru --ranks 4 --epochs 24
    python -m pipelines.train SHARDS runs/tiny --recurrent-ranks 4 --hidden-modes 4x4x4x4
    python -m pipelines.train SHARDS runs/dense --input dense
    python -m pipelines.train SHARDS runs/gru --resume

Leaves RUN/config.json, metrics.jsonl (a line per epoch), summary.json, checkpoint/ (to resume) and model/ (best epoch
on the validation split). `fit` is plain PyTorch and knows nothing of Ray; with --num-workers of two and more, Ray Train
runs it on each worker and torch.distributed averages the gradients.
"""

import contextlib
import dataclasses
import io
import json
import logging
import math
import os
import shlex
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

import ttrnn
from pipelines import cli
from pipelines.augment import Augmentation
from pipelines.batches import Batch, batches, epoch_seed, num_steps
from pipelines.cli import StepError, UserError
from pipelines.cluster import devices, start_ray
from pipelines.metrics import METRICS, score
from pipelines.shards import ShardDataset, Split
from pipelines.storage import Location, prepare_out
from ttrnn.contract import supports_bfloat16
from ttrnn.files import atomic_write, remove_leftovers
from ttrnn.model import ModelConfig, VideoClassifier

__all__ = [
    "DivergedError",
    "TrainOptions",
    "claim_run",
    "fit",
    "fit_on_ray",
    "flat_config",
    "model_config",
    "predict_split",
    "train",
]

log = logging.getLogger(__name__)
OnEpoch = Callable[[dict[str, Any]], None]


# Options of runs from before they had them.
_ABSENT = {
    "precision": "float32",
    **{field.name: field.default for field in dataclasses.fields(Augmentation)},
}


class DivergedError(StepError):
    """Loss or gradients are no longer finite; `summary` is what RUN/summary.json says."""

    summary: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """Train one recurrent classifier on shards of video frames."""

    shards: str = cli.positional()
    """directory that preprocess wrote"""
    out: str = cli.positional()
    """directory of the run: metrics, checkpoint, best model"""
    cell: str = "gru"
    """rnn, gru or lstm"""
    input: str = "tt"
    """input matrix: tt, or dense for the twin without a tensor train"""
    in_modes: str = "auto"
    """input modes such as 8x20x20x18; they multiply to the values of a frame; auto follows its axes"""
    hidden_modes: str = "4x4x4x4"
    """hidden modes; they multiply to the hidden size"""
    ranks: str = "4"
    """one rank, or the inner ranks such as 4x4x4"""
    recurrent_ranks: str = "none"
    """none for a dense recurrent matrix, or its ranks as a tensor train"""
    num_layers: int = 1
    """recurrent layers"""
    bidirectional: bool = False
    """read clips backwards too"""
    pooling: str = "last"
    """of the states over time: last or mean"""
    dropout: float = 0.25
    """before the classifier and between layers, 0 to 1"""
    recurrent_dropout: float = 0.0
    """on the hidden state in the recurrent product, 0 to 1"""
    input_gain: float = 0.3
    """standard deviation of the gates' input part at start; with 1, clips are learnt by heart sooner"""
    epochs: int = 24
    """passes over the train split"""
    batch_size: int = 16
    """clips per step and worker"""
    lr: float = 3e-3
    """peak learning rate of AdamW in a one-cycle schedule"""
    weight_decay: float = 0.01
    """of AdamW"""
    max_grad_norm: float = 1.0
    """gradients of a larger norm are scaled down to it"""
    patience: int | None = None
    """stop after this many epochs without a better validation metric; default: never"""
    precision: str = "auto"
    """of the products with the frames in training: float32, bfloat16, or auto for the one that is fast here; metrics
    are always measured in float32"""
    flip: bool = False
    """mirror half of the clips, left to right, anew in each epoch; not for what has a left and a right: letters,
    gestures"""
    shift: int = 0
    """move each clip by up to this many pixels in x and y; edges are repeated"""
    temporal_crop: float = 1.0
    """keep a random piece of each clip, of at least this share of its frames; 1: all"""
    speed: float = 1.0
    """replay each clip at a random speed from 1/SPEED to SPEED; 1: as it is"""
    brightness: float = 0.0
    """multiply the pixels of each clip by a random factor from 1-BRIGHTNESS to 1+BRIGHTNESS"""
    seed: int = 0
    """of initial weights, order and alteration of clips, and dropout"""
    num_workers: int = 1
    """processes (GPUs) that share the work; two and more run on Ray"""
    resume: bool = False
    """continue a run that was interrupted"""
    overwrite: bool = False
    """delete an older run first"""

    def __post_init__(self) -> None:
        for name in ("seed", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("epochs", "batch_size", "num_workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "max_grad_norm", "input_gain"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision must be auto, float32 or bfloat16, got {self.precision!r}")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be at least 1 epoch, got {self.patience}")
        self.augmentation()

    def augmentation(self) -> Augmentation:
        """What is done to clips of the train split. Raises ValueError by name for a number out of its range."""
        return Augmentation(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Augmentation)})

    def settings(self) -> dict[str, Any]:
        """What decides the result: everything but where it goes and how it was started."""
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in ("out", "resume", "overwrite")
        }


def local_device() -> torch.device:
    """Where this process computes: its GPU if it has one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(options: TrainOptions) -> TrainOptions:
    """With what precision auto stands for: that of the run that is resumed, else what is fast on this machine."""
    if options.precision != "auto":
        return options
    run = Path(options.out, "config.json")
    if run.exists() and not options.overwrite:
        return dataclasses.replace(options, precision=_read_options(run)["precision"])
    fast = "bfloat16" if supports_bfloat16(local_device().type) else "float32"
    return dataclasses.replace(options, precision=fast)


def model_config(options: TrainOptions, data: ShardDataset) -> ModelConfig:
    """The model that the options ask for on these shards. Raises UserError where shapes or shift do not fit frames."""
    if options.shift >= min(data.frame.width, data.frame.height):
        raise UserError(
            f"shift {options.shift} moves frames of {data.frame.width}x{data.frame.height} pixels out of sight; give "
            f"less than {min(data.frame.width, data.frame.height)}"
        )
    names = {field.name for field in dataclasses.fields(ModelConfig)} & set(options.settings())
    with cli.user_errors():
        return ModelConfig(
            width=data.frame.width,
            height=data.frame.height,
            channels=data.frame.channels,
            classes=data.classes,
            task=data.task,
            mean=data.mean,
            std=data.std,
            sampling=data.sampling,
            **{name: getattr(options, name) for name in names},
        )


def flat_config(options: TrainOptions, config: ModelConfig) -> dict[str, Any]:
    """Every configured name of a run but those of its data set and budget: the last columns of trials.csv."""
    known = config.to_dict()
    return {
        name: known.get(name, value)
        for name, value in options.settings().items()
        if name not in ("shards", "epochs", "seed", "num_workers")
    }


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


def _losses(logits_BC: Tensor, labels: Tensor) -> Tensor:
    """(B,) one loss per clip."""
    if labels.dim() == 1:
        return nn.functional.cross_entropy(logits_BC, labels, reduction="none")
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
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=options.lr, weight_decay=options.weight_decay)
        self.steps = num_steps(len(self.train), options.batch_size, self.world_size)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, options.lr, options.epochs * self.steps)
        self.epoch, self.train_s = 0, 0.0
        self.best: dict[str, Any] = {"epoch": 0, "val_metric": -1.0, "val_loss": math.inf}

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
        losses = _losses(self.replica(batch.frames), batch.labels)
        # Workers' gradients are averaged: weighted so, the average is the mean over all clips of the step.
        loss = losses.mean() * batch.share * self.world_size
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.options.max_grad_norm)
        if not torch.isfinite(norm):
            raise DivergedError(
                f"diverged in epoch {self.epoch + 1}: loss {loss.item():.4g}, gradient norm {norm.item():.4g}, "
                f"learning rate {self.schedule.get_last_lr()[0]:.3g}; try a smaller --lr"
            )
        self.optimizer.step()
        self.schedule.step()
        count = torch.full((), len(losses) if batch.share else 0.0, device=self.device)
        return losses.detach().mean() * count, count

    def _validate(self) -> tuple[float, float]:
        """(metric, mean loss), the same on every worker; each clip counted once."""
        # In full, as every other command measures it and on every machine.
        self.model.rnn.compute_dtype = None
        part = predict_split(self.model, self.val, self.options.batch_size, rank=self.rank, world_size=self.world_size)
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
        if value > (self.best["val_metric"], -self.best["val_loss"]):
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
                ttrnn.save(self.model, self.out / "model", results)
        if self.rank == 0:
            with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            state = {
                "model": self.model.state_dict(),
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


def train(options: TrainOptions) -> dict[str, Any]:
    """Makes or resumes the run in OUT, on this process or on Ray workers; gives summary.json with where it lies."""
    # Absolute, since Ray's workers have a working directory of their own.
    shards = str(Location.of(options.shards).absolute())
    options = dataclasses.replace(options, shards=shards, out=os.path.abspath(options.out))
    options = resolve_precision(options)
    config = model_config(options, ShardDataset.open(options.shards))
    if Path(options.out, "config.json").exists():
        # Other things have a config.json too: --overwrite must not delete them.
        _read_options(Path(options.out, "config.json"))
    out = Location.of(options.out).local
    prepare_out(out, marker="config.json", overwrite=options.overwrite, resume=options.resume)
    claim_run(out, options, config)
    log.info(
        "%s, %s parameters, %s of them input-to-hidden (%s)",
        config.cell,
        f"{config.num_params:,}",
        f"{config.input_params:,}",
        config.input_shape,
    )
    if options.num_workers == 1:
        summary = fit(options, _log_epoch)
    else:
        with start_ray(), _following(out / "metrics.jsonl", options):
            summary = fit_on_ray(options)
        if summary["state"] == "failed":
            raise DivergedError(summary["error"])
    return {**summary, "out": str(out), "model": str(out / "model"), "shards": options.shards}


def claim_run(out: Path, options: TrainOptions, config: ModelConfig) -> None:
    """Writes RUN/config.json, or refuses to resume a run that was started with other options."""
    path = out / "config.json"
    if path.exists():
        earlier = _read_options(path)
        for name, value in options.settings().items():
            if earlier.get(name) != value:
                raise UserError(
                    f"{out} was started with {name} {earlier.get(name)!r}, not {value!r}; resume it with the "
                    "same options, or give another OUT"
                )
        return
    with atomic_write(path) as file:
        json.dump(
            {"format": "ttrnn-run", "version": 1, "options": options.settings(), "model": config.to_dict()},
            file,
            indent=1,
        )


def _read_options(path: Path) -> dict[str, Any]:
    """The options in RUN/config.json. Raises UserError if it is something else's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != "ttrnn-run":
            raise KeyError("format")
        options = {**_ABSENT, **content["options"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not describe a run of train; it is left alone: give another OUT") from error
    return options


def fit_on_ray(options: TrainOptions, callbacks: list[Any] | None = None, name: str | None = None) -> dict[str, Any]:
    """`fit` on options.num_workers Ray Train workers; a worker that dies brings all back to the last checkpoint."""
    # Each report waits for the next health check, 2 s apart by default.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    device, _ = devices(options.num_workers)
    out = Path(options.out)
    trainer = TorchTrainer(
        _fit_worker,
        train_loop_config=dataclasses.asdict(options),
        scaling_config=ScalingConfig(num_workers=options.num_workers, use_gpu=device == "GPU"),
        # A name that was there before would silently resume.
        run_config=RunConfig(
            name=name or f"train-{uuid.uuid4().hex[:8]}",
            storage_path=str(out / ".ray"),
            failure_config=FailureConfig(max_failures=3, controller_failure_limit=3),  # type: ignore[call-arg]
            callbacks=callbacks or [],
        ),
    )
    trainer.fit()
    shutil.rmtree(out / ".ray", ignore_errors=True)
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return summary


def _fit_worker(options: dict[str, Any]) -> None:
    import ray.train

    try:
        summary = fit(TrainOptions(**options), ray.train.report)
    except DivergedError as error:
        # To Ray it would be a fault to try again, with the same end.
        summary = error.summary
    # Once more: a run that had finished when its driver died still owes a report.
    ray.train.report(summary)


@contextlib.contextmanager
def _following(metrics: Path, options: TrainOptions) -> Iterator[None]:
    """Logs the lines that workers, maybe on other machines, add to metrics.jsonl."""
    stop, seen = threading.Event(), 0

    def follow() -> None:
        nonlocal seen
        while not stop.wait(1):
            lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
            for line in lines[seen:]:
                _log_epoch({**json.loads(line), "epochs_planned": options.epochs})
            seen = max(seen, len(lines))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _log_epoch(record: dict[str, Any]) -> None:
    left_s = (record["epochs_planned"] - record["epoch"]) * record["time_s"]
    log.info(
        "epoch %d/%d  train loss %.3f  val loss %.3f  val metric %.1f%%  %s frames/s  %.0f s left",
        record["epoch"],
        record["epochs_planned"],
        record["train_loss"],
        record["val_loss"],
        100 * record["val_metric"],
        f"{record['frames_per_s']:,.0f}",
        left_s,
    )


def summary(result: dict[str, Any]) -> str:
    """What a person reads at the end."""
    model, shards = shlex.quote(result["model"]), shlex.quote(result["shards"])
    return (
        f"{result['metric'].replace('_', ' ')} {100 * result['val_metric']:.1f}% on {result['num_val_clips']} "
        f"validation clips "
        f"(best epoch {result['best_epoch']} of {result['epochs']}), {result['num_params']:,} parameters, "
        f"{result['train_s']:.0f} s\n"
        f"model: {result['model']}\n"
        f"next:  {cli.python()} -m pipelines.evaluate {model} {shards} --split test"
    )


def main(argv: list[str] | None = None) -> int:
    """The command; see the head of this file."""
    return cli.run(TrainOptions, train, summary, argv)


if __name__ == "__main__":
    # As `python pipelines/train.py` too: the importable module is the one that Ray pickles by reference.
    from pipelines.train import main as importable_main

    sys.exit(importable_main())

"""Log the metrics of a training to TensorBoard, MLflow or Weights & Biases, and plot its learning curve.

    with Tracking(run, settings, "accuracy", track="mlflow") as tracking:
        tracking.update()  # After each epoch.
        tracking.finish(summary, [run.evaluation("val") / "confusion.png"])

A tracker that fails is logged in one line and not used any more; the training continues. MLflow and Weights & Biases
are configured by their own environment variables (MLFLOW_TRACKING_URI, WANDB_MODE and so on).
"""

import importlib.util
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from pipelines.core.errors import UserError
from pipelines.evaluation.plots import learning_curve
from pipelines.training.run_directory import RunDirectory
from ttrnn.files import atomic_write

__all__ = ["Tracking", "check_tracker"]


log = logging.getLogger(__name__)
# Names in a line of metrics.jsonl, which are also the names in the trackers.
_SCALARS = ("epoch", "train_loss", "val_loss", "val_metric", "lr", "frames_per_s", "time_s")
# Names in summary.json.
_RESULTS = ("best_epoch", "num_params", "input_params", "num_val_clips", "train_s")
# Drawing is repeated after this many times its own duration: it takes 2% of a training.
_PAUSE_FACTOR = 50


def check_tracker(track: str) -> None:
    """Raises UserError if the package of `track` (none, mlflow or wandb) is not installed."""
    if track != "none" and importlib.util.find_spec(track) is None:
        raise UserError(f"track {track} needs a package that is not installed; pip install 'ttrnn[{track}]'")


class _Tracker(Protocol):
    def start(self) -> None: ...

    def epoch(self, record: Mapping[str, Any]) -> None: ...

    def finish(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None: ...

    def close(self, succeeded: bool) -> None: ...


class Tracking:
    """All trackers of one training; a context manager for its duration.

    Epochs are read from RUN/metrics.jsonl. A run that is resumed after a kill continues in the trackers, which get each
    epoch once, also an epoch whose line was written right before the kill.

    Args:
        run: The run.
        settings: The options of the run and of its model.
        metric: Name of its validation metric.
        track: none, mlflow or wandb, in addition to TensorBoard and the learning curve.
    """

    def __init__(self, run: RunDirectory, settings: Mapping[str, Any], metric: str, track: str = "none") -> None:
        self._run, self._num_logged = run, 0
        split = "test" if settings.get("watch_test") else "val"
        curve = _Curve(run, metric, split)
        self._trackers: dict[str, _Tracker] = {"learning curve": curve, "tensorboard": _TensorBoard(run, settings)}
        if track != "none":
            self._trackers[track] = {"mlflow": _MLflow, "wandb": _WandB}[track](run, settings)

    def __enter__(self) -> "Tracking":
        self._each("start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._each("close", kind is None)

    def update(self) -> None:
        """Logs the epochs that were added to metrics.jsonl since the last call; can be called on any thread."""
        for record in self._run.metrics()[self._num_logged :]:
            self._num_logged += 1
            self._each("epoch", record)

    def finish(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Logs summary.json and files, figures among them, after the last epoch."""
        self.update()
        self._each("finish", summary, files)

    def _each(self, method: str, *args: Any) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                getattr(tracker, method)(*args)
            except Exception as error:
                del self._trackers[name]
                log.warning("%s fails (%s); the training continues without it", name, " ".join(str(error).split()))


class _Curve:
    """Draws RUN/learning-curve.png."""

    def __init__(self, run: RunDirectory, metric: str, split: str) -> None:
        self._run, self._metric, self._split = run, metric, split

    def start(self) -> None:
        # Not at once: the first drawing loads matplotlib, which takes about a second.
        self._not_before = time.monotonic() + _PAUSE_FACTOR

    def epoch(self, record: Mapping[str, Any]) -> None:
        if time.monotonic() > self._not_before:
            self._draw()

    def finish(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
        self._draw(summary.get("chance"))

    def close(self, succeeded: bool) -> None:
        # The curve up to the failure.
        if not succeeded:
            self._draw()

    def _draw(self, chance: float | None = None) -> None:
        start = time.monotonic()
        if records := self._run.metrics():
            learning_curve(records, self._run.curve_path, metric=self._metric, chance=chance, val_split=self._split)
        now = time.monotonic()
        self._not_before = now + _PAUSE_FACTOR * (now - start)


class _TensorBoard:
    """Writes RUN/tensorboard."""

    def __init__(self, run: RunDirectory, settings: Mapping[str, Any]) -> None:
        self._directory, self._settings = run.tensorboard, settings
        self._writer: Any = None

    def start(self) -> None:
        pass

    def epoch(self, record: Mapping[str, Any]) -> None:
        if self._writer is None:
            from tensorboardX import SummaryWriter

            # The files of an interrupted run may lack an epoch: purge_step replaces all of their events. Names of files
            # contain the time in seconds only, hence a suffix to distinguish two starts in the same second.
            suffix = f".{len(list(self._directory.glob('*'))):04}"
            self._writer = SummaryWriter(str(self._directory), purge_step=0, filename_suffix=suffix)
            table = "\n".join(f"| {name} | {value} |" for name, value in self._settings.items())
            self._writer.add_text("settings", f"| name | value |\n|---|---|\n{table}", 0)
        for name in _SCALARS[1:]:
            self._writer.add_scalar(name, record[name], record["epoch"])
        self._writer.flush()

    def finish(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
        from matplotlib.image import imread

        for file in files:
            if file.suffix == ".png":
                self._writer.add_image(file.stem, imread(file)[..., :3], summary["epochs"], dataformats="HWC")

    def close(self, succeeded: bool) -> None:
        if self._writer is not None:
            self._writer.close()


class _Remote:
    """Base of MLflow and Weights & Biases: RUN/tracking.json has the ID of the run there and its last logged epoch."""

    name: str

    def __init__(self, run: RunDirectory, settings: Mapping[str, Any]) -> None:
        self._run, self._settings, self._file = run, settings, run.tracking_path
        self._id: str | None = None
        self._epoch = 0

    def start(self) -> None:
        if self._file.exists():
            saved = json.loads(self._file.read_text("utf-8"))
            if saved["track"] == self.name:
                self._id, self._epoch = saved["id"], saved["epoch"]
        self._id = self._begin()
        self._save()

    def epoch(self, record: Mapping[str, Any]) -> None:
        if record["epoch"] > self._epoch:
            self._send({name: record[name] for name in _SCALARS}, record["epoch"])
            self._epoch = record["epoch"]
            self._save()

    def finish(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
        # The trackers' val_metric is that of the last epoch.
        results = {"best_val_metric": summary["val_metric"], **{name: summary[name] for name in _RESULTS}}
        self._send_results(results, files, summary["epochs"])

    def _save(self) -> None:
        with atomic_write(self._file) as file:
            json.dump({"track": self.name, "id": self._id, "epoch": self._epoch}, file)

    def _begin(self) -> str:
        """Starts the run, or resumes the one with the saved ID; returns its ID."""
        raise NotImplementedError

    def _send(self, values: dict[str, float], epoch: int) -> None:
        raise NotImplementedError

    def _send_results(self, results: dict[str, Any], files: Sequence[Path], epoch: int) -> None:
        raise NotImplementedError

    def close(self, succeeded: bool) -> None:
        raise NotImplementedError


class _MLflow(_Remote):
    name = "mlflow"

    def _begin(self) -> str:
        # By default, it waits for minutes if no server answers.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        import mlflow

        self._mlflow = mlflow
        run_id: str = mlflow.start_run(run_id=self._id, run_name=None if self._id else self._run.name).info.run_id
        if not self._id:
            mlflow.log_params(dict(self._settings))
        return run_id

    def _send(self, values: dict[str, float], epoch: int) -> None:
        # With the ID: the active run is known to the thread that started it only.
        self._mlflow.log_metrics(values, step=epoch, run_id=self._id)

    def _send_results(self, results: dict[str, Any], files: Sequence[Path], epoch: int) -> None:
        self._send(results, epoch)
        for file in files:
            self._mlflow.log_artifact(str(file), run_id=self._id)

    def close(self, succeeded: bool) -> None:
        self._mlflow.end_run("FINISHED" if succeeded else "FAILED")


class _WandB(_Remote):
    name = "wandb"

    def _begin(self) -> str:
        import wandb

        self._wandb = wandb
        self._session = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ttrnn"),
            name=self._run.name,
            id=self._id,
            resume="allow",
            config=dict(self._settings),
            dir=str(self._run),
            # By default it redirects standard output, which this command does itself.
            settings=wandb.Settings(console="off"),
        )
        run_id: str = self._session.id
        return run_id

    def _send(self, values: dict[str, float], epoch: int) -> None:
        self._session.log(values, step=epoch)

    def _send_results(self, results: dict[str, Any], files: Sequence[Path], epoch: int) -> None:
        figures = {file.stem: self._wandb.Image(str(file)) for file in files if file.suffix == ".png"}
        self._session.log(figures, step=epoch)
        self._session.summary.update(results)

    def close(self, succeeded: bool) -> None:
        self._session.finish(exit_code=0 if succeeded else 1)

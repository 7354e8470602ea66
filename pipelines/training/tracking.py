"""What a training tells the world: TensorBoard's event files, a picture of its curves, MLflow or Weights & Biases.

    with Tracking(run, settings, "accuracy", track="mlflow") as tracking:
        tracking.update()  # After each epoch.
        tracking.finish(summary, [run.evaluation("val") / "confusion.png"])

Nothing of it ends a training: what fails is told in one line, and left out from then on. MLflow and Weights & Biases
are set up as they always are, by their own environment variables (MLFLOW_TRACKING_URI, WANDB_MODE and so on).
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
# Of a line of metrics.jsonl: the trackers call them the same.
_SCALARS = ("epoch", "train_loss", "val_loss", "val_metric", "lr", "frames_per_s", "time_s")
# Of summary.json.
_RESULTS = ("best_epoch", "num_params", "input_params", "num_val_clips", "train_s")
# Drawn again when this many times as long has passed as drawing took: 2% of a training.
_REST_AFTER_DRAWING = 50


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
    """All that follows one training; a context, from its start to its end, good or bad.

    Epochs are taken from RUN/metrics.jsonl. A run that goes on after a kill goes on in the trackers too, and has each
    epoch there once, also the one whose line was the last thing that it wrote.

    Args:
        run: The run.
        settings: What the run is made of, by name.
        metric: What its val_metric is.
        track: none, mlflow or wandb, beside TensorBoard and the learning curve.
    """

    def __init__(self, run: RunDirectory, settings: Mapping[str, Any], metric: str, track: str = "none") -> None:
        self._run, self._num_told = run, 0
        watched = "test" if settings.get("watch_test") else "val"
        curve = _Curve(run, metric, watched)
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
        """Tells of the epochs that metrics.jsonl has now; on any thread."""
        for record in self._run.metrics()[self._num_told :]:
            self._num_told += 1
            self._each("epoch", record)

    def finish(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Takes summary.json and files to keep beside it, after the last epoch; pictures are shown."""
        self.update()
        self._each("finish", summary, files)

    def _each(self, what: str, *args: Any) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                getattr(tracker, what)(*args)
            except Exception as error:
                del self._trackers[name]
                log.warning("%s fails (%s); the training goes on without it", name, " ".join(str(error).split()))


class _Curve:
    """RUN/learning-curve.png."""

    def __init__(self, run: RunDirectory, metric: str, watched: str) -> None:
        self._run, self._metric, self._watched = run, metric, watched

    def start(self) -> None:
        # As if the first one, which loads matplotlib, took a second.
        self._not_before = time.monotonic() + _REST_AFTER_DRAWING

    def epoch(self, record: Mapping[str, Any]) -> None:
        if time.monotonic() > self._not_before:
            self._draw()

    def finish(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
        self._draw(summary.get("chance"))

    def close(self, succeeded: bool) -> None:
        # How it came to a bad end.
        if not succeeded:
            self._draw()

    def _draw(self, chance: float | None = None) -> None:
        start = time.monotonic()
        if records := self._run.metrics():
            learning_curve(records, self._run.curve_path, metric=self._metric, chance=chance, watched=self._watched)
        now = time.monotonic()
        self._not_before = now + _REST_AFTER_DRAWING * (now - start)


class _TensorBoard:
    """RUN/tensorboard."""

    def __init__(self, run: RunDirectory, settings: Mapping[str, Any]) -> None:
        self._directory, self._settings = run.tensorboard, settings
        self._writer: Any = None

    def start(self) -> None:
        pass

    def epoch(self, record: Mapping[str, Any]) -> None:
        if self._writer is None:
            from tensorboardX import SummaryWriter

            # The files of an interrupted run may lack an epoch: all are told again, in the place of the old ones. The
            # second that is in a file's name is not enough to keep two starts apart.
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
    """What MLflow and Weights & Biases share: RUN/tracking.json, which knows the run there and its last epoch."""

    name: str

    def __init__(self, run: RunDirectory, settings: Mapping[str, Any]) -> None:
        self._run, self._settings, self._file = run, settings, run.tracking_path
        self._id: str | None = None
        self._epoch = 0

    def start(self) -> None:
        if self._file.exists():
            known = json.loads(self._file.read_text("utf-8"))
            if known["track"] == self.name:
                self._id, self._epoch = known["id"], known["epoch"]
        self._id = self._begin()
        self._remember()

    def epoch(self, record: Mapping[str, Any]) -> None:
        if record["epoch"] > self._epoch:
            self._send({name: record[name] for name in _SCALARS}, record["epoch"])
            self._epoch = record["epoch"]
            self._remember()

    def finish(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
        # Their val_metric is that of the last epoch.
        results = {"best_val_metric": summary["val_metric"], **{name: summary[name] for name in _RESULTS}}
        self._send_results(results, files, summary["epochs"])

    def _remember(self) -> None:
        with atomic_write(self._file) as file:
            json.dump({"track": self.name, "id": self._id, "epoch": self._epoch}, file)

    def _begin(self) -> str:
        """Begins the run, or goes on with the one that is known; its id."""
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
        # Its own default waits for minutes where no server answers.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        import mlflow

        self._mlflow = mlflow
        run_id: str = mlflow.start_run(run_id=self._id, run_name=None if self._id else self._run.name).info.run_id
        if not self._id:
            mlflow.log_params(dict(self._settings))
        return run_id

    def _send(self, values: dict[str, float], epoch: int) -> None:
        # By its id, since the run that is active is one of the thread that began it.
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
            # It would take standard output, which is ours to redirect.
            settings=wandb.Settings(console="off"),
        )
        run_id: str = self._session.id
        return run_id

    def _send(self, values: dict[str, float], epoch: int) -> None:
        self._session.log(values, step=epoch)

    def _send_results(self, results: dict[str, Any], files: Sequence[Path], epoch: int) -> None:
        pictures = {file.stem: self._wandb.Image(str(file)) for file in files if file.suffix == ".png"}
        self._session.log(pictures, step=epoch)
        self._session.summary.update(results)

    def close(self, succeeded: bool) -> None:
        self._session.finish(exit_code=0 if succeeded else 1)

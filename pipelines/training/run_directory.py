"""Read and write the files of a run: RUN/config.json, metrics.jsonl, summary.json, result.json, checkpoint/, model/.

    run = RunDirectory("runs/gru")
    run.summary()["val_metric"], [record["val_loss"] for record in run.metrics()]

No other module spells the names of these files or parses them.
"""

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipelines.baselines.config import AnyConfig, any_config
from pipelines.core.errors import UserError
from pipelines.data.augment import Augmentation
from pipelines.storage.layout import MirrorLayout
from pipelines.storage.output import refuse_other_options
from pipelines.storage.transfer import RUNNING
from pipelines.training.options import TrainOptions
from ttrnn.files import atomic_write

__all__ = ["ENDED", "RUN_LAYOUT", "RunDirectory", "has_ended", "is_of_model", "is_record"]

log = logging.getLogger(__name__)

ENDED = ("complete", "stopped", "failed")
"""States of a run that is not trained any further."""

# Values of options for runs of earlier versions, which did not have these options.
_ABSENT = {
    "precision": "float32",
    "format": "tt",
    "recurrent_format": "tt",
    "differences": "none",
    "stem": "none",
    "stem_channels": "8x16",
    "stem_strides": "auto",
    "input_dropout": 0.0,
    "label_smoothing": 0.0,
    "weight_averaging": 0.0,
    "optimizer": "adamw",
    "schedule": "one_cycle",
    "decayed": "all",
    "keep": "best",
    "pixels": "standardised",
    "folds": None,
    "fold": None,
    "split_by": "group",
    "watch_test": False,
    "init": None,
    "teacher": None,
    "teacher_weight": 0.7,
    "teacher_temperature": 3.0,
    **{field.name: field.default for field in dataclasses.fields(Augmentation)},
}


class RunDirectory:
    """The directory of one training; it need not exist yet.

    Args:
        path: RUN.
    """

    MARKER = "config.json"
    """The file that makes a directory a run."""
    LAST = ("summary.json", "result.json")
    """Files that mark a run as finished, in the order in which a copy of the run must receive them."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_path = self.path / self.MARKER
        self.metrics_path = self.path / "metrics.jsonl"
        self.summary_path = self.path / "summary.json"
        self.result_path = self.path / "result.json"
        self.checkpoint = self.path / "checkpoint"
        self.state_path = self.checkpoint / "state.pt"
        self.model = self.path / "model"
        self.curve_path = self.path / "learning-curve.png"
        self.tensorboard = self.path / "tensorboard"
        self.tracking_path = self.path / "tracking.json"
        self.ray_state = self.path / ".ray"

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The last part of the path; for a trial, its name."""
        return self.path.name

    def evaluation(self, split: str) -> Path:
        """The directory of the predictions and metrics on a split."""
        return self.path / split

    def claim(self, options: TrainOptions, model: AnyConfig, *, ignored: Collection[str] = ()) -> None:
        """Writes config.json; if it exists, checks that the run was started with these options.

        Args:
            options: The options of the run.
            model: The configuration of its model.
            ignored: Names of options that may differ.

        Raises:
            UserError: the run was started with other options.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if self.config_path.exists():
            settings = {name: value for name, value in options.settings().items() if name not in ignored}
            refuse_other_options(self.path, self.options(), settings)
            return
        document = {"format": "ttrnn-run", "version": 1, "options": options.settings(), "model": model.to_dict()}
        _write_json(self.config_path, document)

    def options(self) -> dict[str, Any]:
        """The options in config.json. Raises UserError if another program wrote it."""
        try:
            content = json.loads(self.config_path.read_text(encoding="utf-8"))
            if content["format"] != "ttrnn-run":
                raise KeyError("format")
            return {**_ABSENT, **content["options"]}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.config_path} does not describe a run of train; give another OUT") from error

    def parent_and_macs(self) -> tuple[str | None, int | None]:
        """(name of the trial whose weights it started from, MACs of its model for one frame), from config.json.

        Both are None, with a warning, if the file cannot be read.
        """
        try:
            document = json.loads(self.config_path.read_text(encoding="utf-8"))
            # A refined trial starts from SWEEP/trials/PARENT/model.
            init = document["options"].get("init")
            return init and Path(init).parent.name, any_config(document["model"]).multiply_adds
        except FileNotFoundError:
            return None, None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("parent and MACs of %s are unknown: %s cannot be read (%s)", self.name, self.config_path, error)
            return None, None

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, one for each epoch, without a last line that is only half written.

        The list ends, with a warning, before the first line that cannot be parsed.
        """
        records: list[dict[str, Any]] = []
        try:
            for line in self.metrics_path.read_text(encoding="utf-8").splitlines(keepends=True):
                if not line.endswith("\n"):
                    break
                record = json.loads(line)
                record["epoch"], record["val_metric"]
                records.append(record)
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning(
                "the learning curve of %s ends where %s cannot be read (%s)", self.name, self.metrics_path, error
            )
        return records

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Appends the line of an epoch, and waits until it is on the disk."""
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def truncate_metrics(self, num_epochs: int) -> None:
        """Deletes all lines but those of the first `num_epochs` epochs."""
        path = self.metrics_path
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        with atomic_write(path) as file:
            file.writelines(lines[:num_epochs])

    def summary(self) -> dict[str, Any]:
        """The contents of summary.json; {} if there is none or, with a warning, if it cannot be read."""
        try:
            # Python writes NaN and Infinity, which are not valid JSON: such a metric is unknown.
            summary = json.loads(self.summary_path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
            if not isinstance(summary, dict):
                raise ValueError("it is not a JSON object")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning("trial %s counts as unfinished: %s cannot be read (%s)", self.name, self.summary_path, error)
            return {}
        return summary

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json, whole or not at all."""
        _write_json(self.summary_path, summary)

    def add_to_summary(self, **values: Any) -> None:
        """Adds values to summary.json. No other process may write it at the same time."""
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.summary_path
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.write_summary({**content, **values})

    def result(self) -> dict[str, Any] | None:
        """The contents of result.json; None if there is none or, with a warning, if it cannot be read."""
        try:
            result: dict[str, Any] = json.loads(self.result_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read (%s): the run counts as unfinished", self.result_path, error)
            return None
        return result

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Writes result.json, whole or not at all."""
        _write_json(self.result_path, result)

    def remove_checkpoint(self) -> None:
        """Deletes the checkpoint, which a run that has ended does not need; that of a dense model takes a gigabyte."""
        shutil.rmtree(self.checkpoint, ignore_errors=True)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path) as file:
        json.dump(content, file, indent=1)


def has_ended(run: Path) -> bool:
    """Whether a training has finished, according to its summary.json."""
    return RunDirectory(run).summary().get("state") in ENDED


_TRAINING_FILES = (RunDirectory.MARKER, "metrics.jsonl", *RunDirectory.LAST, "model", "checkpoint")

RUN_LAYOUT = MirrorLayout(
    marker=RunDirectory.MARKER,
    run_of=lambda name: "" if name.split("/")[0] in _TRAINING_FILES else None,
    has_ended=has_ended,
    last=RunDirectory.LAST,
    checkpoint="checkpoint",
    # From the checkpoint of a finished run, --resume knows that nothing is left to do.
    keeps_checkpoints=True,
)
"""The layout of a run in a bucket."""


def is_record(name: str) -> bool:
    """Whether a file of a run, given by its path below RUN, records how the training went; weights do not."""
    return name in (RunDirectory.MARKER, "metrics.jsonl", *RunDirectory.LAST, RUNNING)


def is_of_model(name: str) -> bool:
    """Whether a file of a run, given by its path below RUN, is needed to use its model."""
    return name.split("/")[0] in (RunDirectory.MARKER, "model", RUNNING)

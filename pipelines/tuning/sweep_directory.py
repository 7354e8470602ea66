"""What the trials of a sweep have left: SWEEP/sweep.json, and of each SWEEP/trials/ID/ a Trial."""

import dataclasses
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.core.errors import UserError
from ttrnn.files import atomic_write
from ttrnn.model import ModelConfig

__all__ = [
    "Confirmed",
    "Trial",
    "add_to_summary",
    "begun_trials",
    "confirmation_dir",
    "model_dir",
    "read_metrics",
    "read_sweep",
    "read_trial",
    "read_trials",
    "trial_name",
]


log = logging.getLogger(__name__)
_OF_SUMMARY = ("num_params", "input_params", "val_metric", "val_interval", "epochs", "train_s", "error", "stopped_by")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Confirmed:
    """What came of training a trial's options again with fresh seeds; metrics and bounds are 0 to 1."""

    seeds: Sequence[int]
    """those whose run has ended well"""
    val: Sequence[float]
    """validation metric of each"""
    val_mean: float
    """of them"""
    val_interval: Sequence[float]
    """[low, high]: where the mean over all seeds and clips lies with 95% confidence"""
    test: Sequence[float]
    """metric on the test split of each; empty where there is no test split"""
    test_mean: float | None
    """of them"""
    test_interval: Sequence[float] | None
    """likewise"""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What is known of one trial; None where a thing is not known (yet)."""

    trial: str
    """name of its directory under SWEEP/trials"""
    state: str
    """as its summary.json says; `unfinished` where that is missing or half written"""
    num_params: int | None = None
    """parameters of the whole model"""
    input_params: int | None = None
    """input-to-hidden weights only"""
    multiply_adds: int | None = None
    """of the recurrent layers, for one frame"""
    val_metric: float | None = None
    """its best epoch on validation, 0 to 1"""
    test_metric: float | None = None
    """the same weights on the test split, 0 to 1; for points of the frontier only"""
    val_interval: Sequence[float] | None = None
    """[low, high]: where val_metric lies with 95% confidence"""
    test_interval: Sequence[float] | None = None
    """likewise test_metric"""
    per_class: Sequence[Mapping[str, Any]] | None = None
    """test_metric class by class, as metrics.per_class has it"""
    epochs: int | None = None
    """epochs trained"""
    train_s: float | None = None
    """training time, s"""
    curve: Sequence[Sequence[float]] = dataclasses.field(default_factory=list)
    """[epoch, validation metric of this epoch, 0 to 1] of each epoch"""
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """every configured name, in the text forms of the design"""
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """what the sampler chose, by the names of the search space"""
    parent: str | None = None
    """the trial whose rounded weights it started from"""
    stopped_by: str | None = None
    """why it was stopped early"""
    error: str | None = None
    """why it failed"""
    model_sha256: str | None = None
    """of model.safetensors; for points of the frontier only"""
    confirmed: Confirmed | None = None
    """once it was trained again with fresh seeds"""
    lucky: bool = False
    """by val_metric it stood on the frontier, by the mean of its fresh seeds it does not"""

    @property
    def is_finished(self) -> bool:
        """Whether it had its full budget and may stand on the frontier."""
        known = self.num_params is not None and self.val_metric is not None and not math.isnan(self.val_metric)
        return self.state == "complete" and known

    @property
    def place(self) -> tuple[int, float]:
        """(num_params, validation metric: the mean of fresh seeds where it is confirmed) of a finished trial."""
        assert self.num_params is not None
        assert self.val_metric is not None
        return self.num_params, self.val_metric if self.confirmed is None else self.confirmed.val_mean


def confirmation_dir(sweep_dir: str | Path, trial: str, seed: int) -> Path:
    """Where the run lies that trains a trial again with a fresh seed."""
    return Path(sweep_dir, "confirm", f"{trial}-s{seed}")


def model_dir(sweep_dir: str | Path, trial: str) -> Path:
    """Where the model of a trial lies."""
    return Path(sweep_dir, "trials", trial, "model")


def read_sweep(sweep_dir: str | Path) -> dict[str, Any]:
    """SWEEP/sweep.json.

    Raises:
        UserError: The directory is no sweep, or one of another format version.
    """
    path = Path(sweep_dir) / "sweep.json"
    try:
        sweep = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{sweep_dir} is no sweep ({path.name}: {reason}); give the OUT directory of python -m pipelines.sweep"
        ) from error
    found = (sweep.get("format"), sweep.get("version")) if isinstance(sweep, dict) else (None, None)
    if found != ("ttrnn-sweep", 1):
        raise UserError(
            f"{path} must say format ttrnn-sweep, version 1; got format {found[0]}, version {found[1]}; "
            "give the OUT directory of python -m pipelines.sweep"
        )
    return sweep


def read_trials(sweep_dir: str | Path) -> list[Trial]:
    """All trials of a sweep by name, those without a whole summary.json as `unfinished`.

    Raises:
        UserError: The directory is no sweep, or none of its trials has finished.
    """
    read_sweep(sweep_dir)
    trials = begun_trials(sweep_dir)
    if not any(trial.is_finished for trial in trials):
        raise UserError(
            f"{sweep_dir}: none of its {len(trials)} trials has finished with a metric, so there is no "
            f"frontier yet ({', '.join(sorted({trial.state for trial in trials})) or 'no trials'}); continue it with "
            "python -m pipelines.sweep --resume, or give another one a larger --max-params"
        )
    return trials


def begun_trials(sweep_dir: str | Path) -> list[Trial]:
    """All trials of a sweep by name, none of which need have finished; [] before the first."""
    return [read_trial(path) for path in sorted(Path(sweep_dir, "trials").glob("[!.]*")) if path.is_dir()]


def trial_name(number: int) -> str:
    """Of the directory of a trial, by its number in the study."""
    return f"{number:04d}"


def read_trial(directory: Path) -> Trial:
    """The trial whose run lies in `directory`; `unfinished` without a whole summary.json."""
    path = directory / "summary.json"
    try:
        # NaN and Infinity are Python's words, not JSON's: a metric that is one of them is not known.
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
        if not isinstance(found, dict):
            raise ValueError("it does not hold a JSON object")
    except FileNotFoundError:
        found = {}
    except (OSError, ValueError) as error:
        log.warning("trial %s counts as unfinished: %s cannot be read (%s)", directory.name, path, error)
        found = {}
    config = {name: "none" if value is None else value for name, value in found.get("config", {}).items()}
    known: dict[str, Any] = {name: found.get(name) for name in _OF_SUMMARY}
    return Trial(
        trial=directory.name,
        state=found.get("state", "unfinished"),
        config=config,
        curve=read_metrics(directory / "metrics.jsonl"),
        **_read_config(directory / "config.json"),
        **known,
    )


def _read_config(path: Path) -> dict[str, Any]:
    """Whose weights the run started from, and the cost of its model, as RUN/config.json tells."""
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        # A refined trial starts from SWEEP/trials/PARENT/model.
        init = run["options"].get("init")
        multiply_adds = ModelConfig.from_dict(run["model"]).multiply_adds
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("parent and multiply-adds of trial %s: %s cannot be read (%s)", path.parent.name, path, error)
        return {}
    return {"parent": init and Path(init).parent.name, "multiply_adds": multiply_adds}


def read_metrics(path: Path) -> list[list[float]]:
    """[epoch, validation metric] of each whole line of metrics.jsonl; of a trial that is training, the last one may be
    half written."""
    curve: list[list[float]] = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            curve.append([record["epoch"], record["val_metric"]])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the learning curve of trial %s ends where %s cannot be read (%s)", path.parent.name, path, error)
    return curve


def add_to_summary(directory: Path, **values: Any) -> None:
    """Writes values into RUN/summary.json, beside what it says already. Nobody else may be writing it."""
    path = directory / "summary.json"
    directory.mkdir(parents=True, exist_ok=True)
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    with atomic_write(path) as file:
        json.dump({**content, **values}, file, indent=1)

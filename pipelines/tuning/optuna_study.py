"""Open the Optuna study of a sweep, and make its samplers."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from pipelines.data.dataset import ShardDataset
from ttrnn.files import atomic_write

__all__ = ["SAMPLERS", "make_sampler", "open_study", "tell_rejected", "whole_lines", "why_exhausted"]

_NAME = "sweep"
_OBJECTIVES = ("val_metric", "num_params")
_DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)
_NUM_STARTUP = 10
SAMPLERS = ("tpe", "random", "default")
"""tpe takes running trials and limits into account; default is Optuna's own configuration of TPE."""


def make_sampler(name: str, *, seed: int, number: int, num_trained: int) -> BaseSampler:
    """The sampler for one trial, seeded so that a resumed sweep continues with the same one.

    Args:
        name: One of SAMPLERS.
        seed: Seed of the sweep.
        number: Number of the trial in the study.
        num_trained: Number of trained trials whose values were sampled. tpe samples at random before the tenth: trials
            that were rejected without training only show which values to avoid.
    """
    seed = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    if name == "random" or (name == "tpe" and num_trained < _NUM_STARTUP):
        return RandomSampler(seed=seed)
    if name == "default":
        return TPESampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=0, constant_liar=True)


def whole_lines(journal: Path) -> list[bytes]:
    """The lines of a journal but blank ones and half a line at the end, at which Optuna would stop reading.

    An editor may leave a blank line, a full disk half a line.
    """
    lines = journal.read_bytes().splitlines(keepends=True)
    return [line for line in lines if line.strip() and line.endswith(b"\n")]


def open_study(journal: Path, data: ShardDataset) -> optuna.Study:
    """Opens the study of a sweep, or creates it."""
    if journal.exists():
        content, lines = journal.read_bytes(), whole_lines(journal)
        if content != b"".join(lines):
            with atomic_write(journal, "wb") as file:
                file.writelines(lines)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(storage=storage, study_name=_NAME, directions=_DIRECTIONS, load_if_exists=True)
    with warnings.catch_warnings():
        # The method is experimental; the version of Optuna is bounded.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(_OBJECTIVES))
    study.set_user_attr("frame", list(data.frame.shape))
    return study


def why_exhausted(trials: Sequence[FrozenTrial], space_name: str, num_rejected: int) -> str:
    """Explains why the last `num_rejected` models that a space gave were all rejected."""
    rejected = [trial for trial in trials if "rejected" in trial.user_attrs][-num_rejected:]
    too_large = [trial for trial in rejected if trial.user_attrs["rejected"] == "too_large"]
    why = f"none of the last {len(rejected)} models that the space {space_name} gave is new"
    if too_large:
        smallest = min(trial.user_attrs["num_params"] for trial in too_large)
        why += (
            f" and within the limits ({len(too_large)} are too large, the smallest with {smallest:,} parameters); "
            "give larger limits"
        )
    if both := sum(trial.user_attrs["rejected"] == "not_streamable" for trial in rejected):
        why += f" ({both} run in both directions, which --streamable excludes)"
    return f"{why}; give another --space or fewer --num-trials"


def tell_rejected(study: optuna.Study, number: int, attrs: Mapping[str, Any]) -> None:
    """Records a duplicate with the result of the first trial of its model, and another rejected one as pruned."""
    if attrs["rejected"] != "duplicate":
        study.tell(number, state=TrialState.PRUNED)
        return
    # Journals of earlier versions call it twin.
    original = study.get_trials(deepcopy=False)[int(attrs.get("duplicate_of") or attrs["twin"])]
    if original.state in (TrialState.COMPLETE, TrialState.PRUNED):
        study.tell(number, original.values, state=original.state)
    else:
        study.tell(number, state=TrialState.FAIL)

"""What the Optuna study of a sweep tells beside its trials: choices of the sampler, what mattered, what to widen."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from pipelines.tuning.trial import Trial, trial_name

__all__ = ["Study", "edges", "importances", "num_rejected", "read_study"]


log = logging.getLogger(__name__)
_MIN_TRIALS = 10
# The best quarter against all: of a sweep of some dozens of trials a tenth, Optuna's own choice, is too few.
_BEST_SHARE = 0.25
# A number this near to an end, as a share of its range, lies at the end.
_NEAR = 0.05
# One of fewer whole numbers is at an end too often to mean anything.
_MIN_VALUES = 5
Study = Mapping[str, FrozenTrial]
"""Optuna's trials by the names of their directories."""


def read_study(journal: Path) -> dict[str, FrozenTrial]:
    """The Optuna trials in a study's journal by the names of their directories; {} where there is none to read."""
    if not journal.exists():
        return {}
    try:
        storage = JournalStorage(JournalFileBackend(str(journal)))
        (name,) = optuna.get_all_study_names(storage)
        study = optuna.load_study(study_name=name, storage=storage)
    except (OSError, ValueError, KeyError) as error:
        log.warning("%s cannot be read (%s): what the sampler chose is left out", journal, error)
        return {}
    return {trial_name(trial.number): trial for trial in study.get_trials(deepcopy=False)}


def num_rejected(study: Study, reason: str) -> int:
    """Proposals of the sampler that were never trained, for one reason: too_large or duplicate."""
    return sum(trial.user_attrs.get("rejected") == reason for trial in study.values())


def importances(study: Study, trials: Iterable[Trial]) -> dict[str, dict[str, float]] | None:
    """How much each choice decides whether a trial is among the best quarter: shares that add up to 1.

    By PED-ANOVA (Watanabe, Bansal, Hutter, IJCAI 2023) over the finished trials whose values the sampler chose.

    Returns:
        Of val_metric (best: high) and of num_params (best: low), by the names of the search space, {} where the best
        quarter is no better than the rest; None of fewer than 10 such trials.
    """
    known = [trial for trial in trials if trial.is_finished and trial.trial in study and study[trial.trial].params]
    if len(known) < _MIN_TRIALS:
        return None
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return {
            "val_metric": _shares(study, known, lambda trial: -(trial.val_metric or 0.0)),
            "num_params": _shares(study, known, lambda trial: float(trial.num_params or 0)),
        }
    finally:
        optuna.logging.set_verbosity(level)


def _shares(study: Study, trials: Sequence[Trial], value: Callable[[Trial], float]) -> dict[str, float]:
    """For low values, of one objective: what the evaluator understands without further words."""
    values = [value(trial) for trial in trials]
    if sorted(values)[math.ceil(_BEST_SHARE * len(values)) - 1] == max(values):
        return {}
    single = optuna.create_study()
    for trial, own in zip(trials, values, strict=True):
        frozen = study[trial.trial]
        single.add_trial(optuna.create_trial(params=frozen.params, distributions=frozen.distributions, value=own))
    return get_param_importances(single, evaluator=PedAnovaImportanceEvaluator(target_quantile=_BEST_SHARE))


def edges(study: Study, trials: Mapping[str, Trial], points: Mapping[str, str]) -> list[dict[str, Any]]:
    """Numbers of the chosen points that lie at the end of their range: the search space should be widened there.

    A lower end of 0, or of 1 for a whole number, is where such a thing ends, and no matter of the space; among fewer
    than five whole numbers an end says nothing.

    Args:
        study: As `read_study` gives it.
        trials: All trials by name.
        points: What a point is called -> its trial; of a refined one, what its first ancestor was given counts.

    Returns:
        param, value, bound (lower or upper) and a sentence (text) for each, once.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for title, name in points.items():
        while (parent := trials[name].parent) is not None and parent in trials:
            name = parent
        if name not in study:
            continue
        for param, value in study[name].params.items():
            end = _end(study[name].distributions[param], value)
            if end is None or (param, end[0]) in found:
                continue
            bound, low, high = end
            text = f"{param} is {value:.4g} at the {title}, the {bound} end of {low:g} to {high:g}: widen it there"
            found[param, bound] = {"param": param, "value": value, "bound": bound, "text": text}
    return list(found.values())


def _end(distribution: Any, value: Any) -> tuple[str, float, float] | None:
    """(lower or upper, low, high) of a number at an end of its range; else None."""
    if not isinstance(distribution, IntDistribution | FloatDistribution) or distribution.single():
        return None
    low, high = distribution.low, distribution.high
    if isinstance(distribution, IntDistribution) and (high - low) // distribution.step + 1 < _MIN_VALUES:
        return None
    low_is_natural = low <= (1 if isinstance(distribution, IntDistribution) else 0)
    scale = math.log if distribution.log else float
    share = (scale(value) - scale(low)) / (scale(high) - scale(low))
    near = 0.0 if isinstance(distribution, IntDistribution) else _NEAR
    if share >= 1 - near:
        return "upper", low, high
    return ("lower", low, high) if share <= near and not low_is_natural else None

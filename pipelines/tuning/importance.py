"""Read the Optuna study of a sweep: importance of parameters, and parameters at the end of their range."""

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial

from pipelines.tuning.optuna_study import whole_lines
from pipelines.tuning.trial import Trial, trial_name

__all__ = ["Study", "edges", "importances", "num_rejected", "read_study"]


log = logging.getLogger(__name__)
_MIN_TRIALS = 10
# The best quarter of the trials is compared with all; Optuna's default, a tenth, is too few in a sweep of dozens.
_BEST_SHARE = 0.25
# A float within this distance of an end, as a share of the range, counts as at the end.
_NEAR = 0.05
# With fewer integers in the range, a value is at an end too often to be informative.
_MIN_VALUES = 5
Study = Mapping[str, FrozenTrial]
"""Optuna's trials by name of their directory."""


def read_study(journal: Path) -> dict[str, FrozenTrial]:
    """Reads the Optuna trials from a journal; {} if there is none or, with a warning, if it cannot be read."""
    if not journal.exists():
        return {}
    try:
        storage = JournalStorage(_Lines([json.loads(line) for line in whole_lines(journal)]))
        (name,) = optuna.get_all_study_names(storage)
        study = optuna.load_study(study_name=name, storage=storage)
    except (OSError, ValueError, KeyError) as error:
        log.warning("%s cannot be read (%s): the choices of the sampler are omitted", journal, error)
        return {}
    return {trial_name(trial.number): trial for trial in study.get_trials(deepcopy=False)}


class _Lines(BaseJournalBackend):
    """A journal that is only read."""

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self._lines = lines

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self._lines[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise NotImplementedError


def num_rejected(study: Study, reason: str) -> int:
    """Number of proposals that were rejected for a reason: too_large or duplicate."""
    return sum(trial.user_attrs.get("rejected") == reason for trial in study.values())


def importances(study: Study, trials: Iterable[Trial]) -> dict[str, dict[str, float]] | None:
    """The importance of each parameter for being among the best quarter of trials; the values add up to 1.

    Computed by PED-ANOVA (Watanabe, Bansal, Hutter, IJCAI 2023) from the finished trials that were sampled.

    Returns:
        For val_metric (high is best) and num_params (low is best), the importance by name of the parameter; {} if the
        best quarter is not better than the rest. None with fewer than 10 such trials.
    """
    sampled = [trial for trial in trials if trial.is_finished and trial.trial in study and study[trial.trial].params]
    if len(sampled) < _MIN_TRIALS:
        return None
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return {
            "val_metric": _shares(study, sampled, lambda trial: -(trial.val_metric or 0.0)),
            "num_params": _shares(study, sampled, lambda trial: float(trial.num_params or 0)),
        }
    finally:
        optuna.logging.set_verbosity(level)


def _shares(study: Study, trials: Sequence[Trial], value: Callable[[Trial], float]) -> dict[str, float]:
    """The importances for low values of one objective, which is what the evaluator computes by default."""
    values = [value(trial) for trial in trials]
    if sorted(values)[math.ceil(_BEST_SHARE * len(values)) - 1] == max(values):
        return {}
    single = optuna.create_study()
    for trial, objective in zip(trials, values, strict=True):
        frozen = study[trial.trial]
        single.add_trial(optuna.create_trial(params=frozen.params, distributions=frozen.distributions, value=objective))
    return get_param_importances(single, evaluator=PedAnovaImportanceEvaluator(target_quantile=_BEST_SHARE))


def edges(study: Study, trials: Mapping[str, Trial], points: Mapping[str, str]) -> list[dict[str, Any]]:
    """Parameters of the given points that lie at an end of their range, where the search space should be widened.

    Lower ends that cannot be widened (0, or 1 for integers) and ranges of fewer than five integers are ignored.

    Args:
        study: The result of `read_study`.
        trials: All trials by name.
        points: Title of a point -> name of its trial; for a refined trial, the values of its first ancestor are used.

    Returns:
        param, value, bound (lower or upper) and a sentence (text), once for each parameter and bound.
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
    """(lower or upper, low, high) if a number is at an end of its range; else None."""
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

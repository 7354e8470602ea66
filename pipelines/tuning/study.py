"""Choose the models of a sweep with Optuna, and record their results in its study.

A sweep is resumed from SWEEP/study.journal (Optuna) and SWEEP/trials/. User attributes of Optuna's trials: `values`
(options of train that the space returned), `num_params`, `multiply_adds`, `rejected` (too_large or duplicate: proposed,
but never trained), `duplicate_of` (the earlier trial of the same model) and `parent` (the trial whose weights a refined
trial starts from).
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

import search_spaces
from pipelines.core.errors import UserError, user_errors
from pipelines.core.options import check_values
from pipelines.data.dataset import ShardDataset
from pipelines.training.options import TrainOptions, flat_config
from pipelines.training.queue import Training
from pipelines.training.run_directory import ENDED
from pipelines.training.setup import model_config
from pipelines.tuning.optuna_study import make_sampler, open_study
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.tuning.trial import read_trial, trial_name
from ttrnn.model import ModelConfig

__all__ = ["Search"]


log = logging.getLogger(__name__)
# After so many rejected proposals in a row, the space counts as exhausted.
_MAX_REJECTED = 300
_SET_BY_THE_SWEEP = {"shards", "out", "epochs", "seed", "num_workers", "init", "resume", "overwrite"}
Costs = Callable[[TrainOptions, ModelConfig], Mapping[str, float]]


class Search:
    """Proposes models to train, and records their results in the study.

    The baselines of the space are proposed first.

    Args:
        sweep: The directory of the sweep.
        data: The data set.
        common: Options of train that are the same for all trials: epochs, seed, num_workers.
        space: Name of the search space.
        num_trials: Number of models to train, not counting refined ones and those that crashed in an earlier command.
        costs: costs(options, model) -> costs of a model by name; must include `memory_bytes`, of its training.
        limits: Maximum of some costs, by the same names. A model above a limit is not trained; the study records the
            excess as a constraint.
        sampler: One of SAMPLERS.
        seed: Seed of the sampler.
    """

    def __init__(
        self,
        sweep: SweepDirectory,
        data: ShardDataset,
        common: Mapping[str, Any],
        *,
        space: str,
        num_trials: int,
        costs: Costs,
        limits: Mapping[str, float],
        sampler: str = "tpe",
        seed: int = 0,
    ) -> None:
        self._sweep, self._data, self._common, self._costs, self._limits = sweep, data, common, costs, limits
        self._space, self._space_name = search_spaces.load(space), space
        self._sampler, self._seed, self.num_trials = sampler, seed, num_trials
        self.num_workers = int(common.get("num_workers", 1))
        self.exhausted: str | None = None
        """The reason why there are fewer than num_trials trials, if so."""
        self._num_proposed = self._num_rejected = 0
        self._waiting: list[Training] = []
        self._names: dict[str, str] = {}
        """Key of a model (see _key) -> name of its first trial, for all models that were ever proposed."""
        self.study = open_study(sweep.journal, data)
        for trial in self.trials():
            self._restore(trial)
        what = f"the baselines of {space}"
        with user_errors(what):
            baselines = self._space.baselines(data.frame.shape)
        for values in baselines:
            self._check(values, what)
        self._first = [values for values in baselines if _key(*self._build("", values)) not in self._names]

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Optuna's trials, of these states or of all."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _restore(self, trial: FrozenTrial) -> None:
        """Restores a trial of an earlier command: records its result, or proposes it again if it is unfinished."""
        name, attrs = trial_name(trial.number), trial.user_attrs
        if "values" not in attrs:
            # The command was killed before the values of the trial were saved.
            if not trial.state.is_finished():
                self.study.tell(trial.number, state=TrialState.FAIL)
            return
        options, model = self._build(name, attrs["values"])
        if "rejected" in attrs or trial.state != TrialState.FAIL:
            # A model that crashed may be proposed again.
            self._names.setdefault(_key(options, model), name)
        if "rejected" in attrs:
            if not trial.state.is_finished():
                self._tell_rejected(trial.number, attrs)
            return
        if trial.state.is_finished():
            # Versions that kept the checkpoints of ended trials may have left one.
            self._sweep.run(name).remove_checkpoint()
        self._num_proposed += "parent" not in attrs and trial.state != TrialState.FAIL
        if not trial.state.is_finished() and self.settle(name) not in ENDED:
            costs = self._costs(options, model)
            for limit, amount in self._excess(costs).items():
                if amount > 0:
                    raise UserError(
                        f"the unfinished trial {name} takes {limit} {costs[limit]:,.0f}, but the limit is "
                        f"{self._limits[limit]:,.0f}; resume it where the limit is as high as at the start"
                    )
            self._waiting.append(_training(name, options, model, costs))

    def _excess(self, costs: Mapping[str, float]) -> dict[str, float]:
        """By how much the costs exceed each limit; negative below it."""
        return {name: costs[name] - limit for name, limit in self._limits.items()}

    @property
    def num_left(self) -> int:
        """Number of trials still to propose, not counting unfinished ones of earlier commands."""
        return 0 if self.exhausted else max(0, self.num_trials - self._num_proposed)

    def planned(self) -> list[Training]:
        """The trainings to come whose models are known: unfinished ones, and baselines within the limits."""
        built = [self._build("", values) for values in self._first]
        costed = [(options, model, self._costs(options, model)) for options, model in built]
        return (
            self._waiting
            + [
                _training("", *each) for each in costed if all(amount <= 0 for amount in self._excess(each[2]).values())
            ][: self.num_left]
        )

    def next(self) -> Training | None:
        """The next model to train; None if there are no more."""
        if self._waiting:
            return self._waiting.pop(0)
        while self.num_left:
            training = self._ask()
            if training is not None:
                self._num_proposed, self._num_rejected = self._num_proposed + 1, 0
                return training
            self._num_rejected += 1
            if self._num_rejected >= _MAX_REJECTED:
                self.exhausted = self._why_exhausted()
        return None

    def _ask(self) -> Training | None:
        trials = self.trials(TrialState.COMPLETE, TrialState.PRUNED)
        num_trained = sum(bool(trial.params) and "rejected" not in trial.user_attrs for trial in trials)
        self.study.sampler = make_sampler(
            self._sampler, seed=self._seed, number=len(self.trials()), num_trained=num_trained
        )
        trial = self.study.ask()
        if self._first:
            return self._propose(trial, self._first.pop(0), None)
        what = f"the space {self._space_name}"
        with user_errors(what):
            values = self._space.space(trial)
        self._check(values, what)
        return self._propose(trial, values, None)

    @staticmethod
    def _check(values: Mapping[str, Any], what: str) -> None:
        check_values(TrainOptions, values, what)
        if reserved := sorted(_SET_BY_THE_SWEEP & values.keys()):
            raise UserError(f"{what}: {reserved[0]} is set by the sweep for all trials; leave it out")

    def refine(self, values: Mapping[str, Any], parent: str) -> Training | None:
        """Proposes a model that starts from the weights of the trial `parent`; None if too large or a duplicate."""
        return self._propose(self.study.ask(), values, parent)

    def _propose(self, trial: optuna.Trial, values: Mapping[str, Any], parent: str | None) -> Training | None:
        """Saves the values of a trial in the study; a model that is too large or a duplicate is rejected at once."""
        name = trial_name(trial.number)
        options, model = self._build(name, values)
        attrs: dict[str, Any] = {"num_params": model.num_params, "multiply_adds": model.multiply_adds}
        attrs |= {"parent": parent} if parent else {}
        costs = self._costs(options, model)
        excess = self._excess(costs)
        for limit, amount in excess.items():
            trial.set_constraint(limit, amount)
        key = _key(options, model)
        if any(amount > 0 for amount in excess.values()):
            attrs["rejected"] = "too_large"
            if not trial.params and parent is None:
                worst = max(excess, key=lambda limit: excess[limit] / self._limits[limit])
                log.info(
                    "the baseline with input %s and %s parameters is skipped: its %s, %s, exceeds %s",
                    options.input,
                    f"{model.num_params:,}",
                    worst,
                    f"{costs[worst]:,.0f}",
                    f"{self._limits[worst]:,.0f}",
                )
        elif key in self._names:
            attrs |= {"rejected": "duplicate", "duplicate_of": self._names[key]}
        self._names.setdefault(key, name)
        # The values last: a trial that has them is complete.
        for attr, value in {**attrs, "values": dict(values)}.items():
            trial.set_user_attr(attr, value)
        if "rejected" in attrs:
            self._tell_rejected(trial.number, attrs)
            return None
        return _training(name, options, model, costs)

    def _tell_rejected(self, number: int, attrs: Mapping[str, Any]) -> None:
        """Records a model that is too large as pruned, and a duplicate with the result of the first trial."""
        if attrs["rejected"] == "too_large":
            self.study.tell(number, state=TrialState.PRUNED)
            return
        # Journals of earlier versions call it twin.
        original = self.trials()[int(attrs.get("duplicate_of") or attrs["twin"])]
        if original.state in (TrialState.COMPLETE, TrialState.PRUNED):
            self.study.tell(number, original.values, state=original.state)
        else:
            self.study.tell(number, state=TrialState.FAIL)

    def _why_exhausted(self) -> str:
        rejected = [trial for trial in self.trials() if "rejected" in trial.user_attrs][-_MAX_REJECTED:]
        too_large = [trial for trial in rejected if trial.user_attrs["rejected"] == "too_large"]
        why = f"none of the last {len(rejected)} models that the space {self._space_name} gave is new"
        if too_large:
            smallest = min(trial.user_attrs["num_params"] for trial in too_large)
            why += (
                f" and within the limits ({len(too_large)} are too large, the smallest with {smallest:,} parameters); "
                "give larger limits"
            )
        return f"{why}; give another --space or fewer --num-trials"

    def _build(self, name: str, values: Mapping[str, Any]) -> tuple[TrainOptions, ModelConfig]:
        with user_errors(f"the space {self._space_name}"):
            options = self._options(name, values)
        return options, model_config(options, self._data)

    def _options(self, name: str, values: Mapping[str, Any]) -> TrainOptions:
        paths = {"shards": str(self._data.place), "out": str(self._sweep.run(name))}
        values = dict(values)
        if values.get("init") is not None:
            # The name of a trial, not a path: a sweep may be moved.
            values["init"] = str(self._sweep.run(values["init"]).model)
        return TrainOptions(**{**self._common, **values, **paths})

    def settle(self, name: str, *, error: str | None = None) -> str:
        """Records in the study how a trial ended, from its summary.json; nothing for one that is to be continued.

        The checkpoint of a trial that has ended is deleted: only its model is needed any more.

        Args:
            name: Name of the trial.
            error: The reason if its process failed.

        Returns:
            The state of the trial.
        """
        run = self._sweep.run(name)
        if error is not None:
            run.remove_checkpoint()
            self.study.tell(int(name), state=TrialState.FAIL)
            run.add_to_summary(state="failed", error=error)
            return "failed"
        trial = read_trial(run)
        if trial.state in ENDED:
            # Before the study knows that it has ended: after a kill, the next command settles it again.
            run.remove_checkpoint()
        if trial.state == "complete":
            assert trial.val_metric is not None
            assert trial.num_params is not None
            self.study.tell(int(name), [trial.val_metric, float(trial.num_params)])
        elif trial.state in ("stopped", "failed"):
            # Not a result of the full number of epochs.
            self.study.tell(int(name), state=TrialState.PRUNED)
        return trial.state


def _key(options: TrainOptions, model: ModelConfig) -> str:
    """Identifies a model: all its settings, with ranks clipped and written for each bond."""
    return json.dumps(flat_config(options, model), sort_keys=True)


def _training(name: str, options: TrainOptions, model: ModelConfig, costs: Mapping[str, float]) -> Training:
    return Training(name=name, options=options, model=model, memory_bytes=int(costs["memory_bytes"]))

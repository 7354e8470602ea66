"""The study of a sweep: which model to train next, and what came of it. It knows nothing of Tune.

SWEEP/study.journal (Optuna) and SWEEP/trials/ are all that a sweep remembers. What Optuna's trials carry beside their
parameters, as user attributes: `values` (options of train: what the space gave), `num_params`, `multiply_adds`,
`rejected` (too_large, duplicate: asked for, never trained), `parent` (of a refined trial: whose weights it started
from), and of those that did not come to their end `stopped_by` or `error`.
"""

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

import search_spaces
from pipelines.core.errors import UserError, user_errors
from pipelines.core.options import check_values
from pipelines.data.dataset import ShardDataset
from pipelines.training.launcher import Training
from pipelines.training.options import TrainOptions, flat_config
from pipelines.training.setup import model_config
from pipelines.tuning.sweep_directory import SweepDirectory, trial_name
from pipelines.tuning.trial import ENDED, read_trial
from ttrnn.model import ModelConfig

__all__ = ["SAMPLERS", "Search"]


log = logging.getLogger(__name__)
_STUDY = "sweep"
_OBJECTIVES = ("val_metric", "num_params")
_DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)
_NUM_STARTUP = 10
# Asked in a row without one that may be trained: the space has no more of them, or hardly any.
_MAX_REJECTED = 300
_OF_THE_SWEEP = {"shards", "out", "epochs", "seed", "num_workers", "init", "resume", "overwrite"}
SAMPLERS = ("tpe", "random", "default")
Costs = Callable[[TrainOptions, ModelConfig], Mapping[str, float]]


class Search:
    """Asks for models, and tells the study what came of them.

    Each ask seeds its sampler by the seed and the number of the trial: a sweep that is resumed goes on with the same
    sampler. First come the baselines of the space, but those with a dense input matrix, which are there for comparison
    and teach the search nothing, come last.

    Args:
        sweep: Its directory.
        data: What is trained on.
        common: Options of train that all trials have alike: epochs, seed, num_workers.
        space: Name of the search space.
        num_trials: To be trained; refined ones are not counted, nor those that crashed in an earlier command.
        costs: costs(options, model) -> by name what a model takes, `memory_bytes` of training it among them.
        limits: By the same names. What takes more is infeasible: it is not trained, and the study knows by how much.
        sampler: tpe (aware of what runs, and of what was too large), random, or default (Optuna's own).
        seed: Of the sampler.
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
        """Why fewer than num_trials were given out."""
        self._num_given = self._num_rejected = 0
        self._waiting: list[Training] = []
        self._names: dict[str, str] = {}
        """Of all models that were ever asked for: what tells them apart -> the name of the first trial of it."""
        self.study = _open_study(sweep.journal, data)
        for trial in self.trials():
            self._take_up(trial)
        what = f"the baselines of {space}"
        with user_errors(what):
            baselines = self._space.baselines(data.frame.shape)
        for values in baselines:
            self._check(values, what)
        new = [values for values in baselines if _key(*self._built("", values)) not in self._names]
        self._first = [values for values in new if values.get("input") != "dense"]
        self._last = [values for values in new if values.get("input") == "dense"]

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Optuna's trials, of these states or of all."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _take_up(self, trial: FrozenTrial) -> None:
        """A trial that an earlier command has left: its end is told, or it is given out again."""
        name, attrs = trial_name(trial.number), trial.user_attrs
        if "values" not in attrs:
            # Killed between the ask and the note of what it gave.
            if not trial.state.is_finished():
                self.study.tell(trial.number, state=TrialState.FAIL)
            return
        options, model = self._built(name, attrs["values"])
        if "rejected" in attrs or trial.state != TrialState.FAIL:
            # What has crashed may be tried again.
            self._names.setdefault(_key(options, model), name)
        if "rejected" in attrs:
            if not trial.state.is_finished():
                self._tell_rejected(trial.number, attrs)
            return
        self._num_given += "parent" not in attrs and trial.state != TrialState.FAIL
        if not trial.state.is_finished() and self.settle(name) not in ENDED:
            costs = self._costs(options, model)
            for limit, amount in self._excess(costs).items():
                if amount > 0:
                    raise UserError(
                        f"trial {name}, which was begun, takes {limit} {costs[limit]:,.0f}, and there are "
                        f"{self._limits[limit]:,.0f}; resume the sweep where there is as much as when it was started"
                    )
            self._waiting.append(_training(name, options, model, costs))

    def _excess(self, costs: Mapping[str, float]) -> dict[str, float]:
        """By name of the limit, how much beyond it that is."""
        return {limit: costs[limit] - most for limit, most in self._limits.items()}

    @property
    def num_left(self) -> int:
        """Trials that may still be given out, beside those of earlier commands that are taken up again."""
        return 0 if self.exhausted else max(0, self.num_trials - self._num_given)

    def next(self) -> Training | None:
        """The next model to train; None when all have been given out."""
        if self._waiting:
            return self._waiting.pop(0)
        while self.num_left:
            point = self._ask()
            if point is not None:
                self._num_given, self._num_rejected = self._num_given + 1, 0
                return point
            self._num_rejected += 1
            if self._num_rejected >= _MAX_REJECTED:
                self.exhausted = self._why_exhausted()
        return None

    def _ask(self) -> Training | None:
        trials = self.trials(TrialState.COMPLETE, TrialState.PRUNED)
        num_trained = sum(bool(trial.params) and "rejected" not in trial.user_attrs for trial in trials)
        # Of trials that were not trained nothing is learnt but where not to ask.
        random = self._sampler == "random" or (self._sampler == "tpe" and num_trained < _NUM_STARTUP)
        self.study.sampler = _sampler("random" if random else self._sampler, self._seed, len(self.trials()))
        trial = self.study.ask()
        for points, is_time in ((self._first, True), (self._last, self.num_left <= len(self._last))):
            if points and is_time:
                return self._given(trial, points.pop(0), None)
        what = f"the space {self._space_name}"
        with user_errors(what):
            values = self._space.space(trial)
        self._check(values, what)
        return self._given(trial, values, None)

    @staticmethod
    def _check(values: Mapping[str, Any], what: str) -> None:
        check_values(TrainOptions, values, what)
        if taken := sorted(_OF_THE_SWEEP & values.keys()):
            raise UserError(f"{what}: {taken[0]} is given by the sweep, for all trials alike; leave it out")

    def refine(self, values: Mapping[str, Any], parent: str) -> Training | None:
        """A model that starts from the weights of the trial `parent`; None if it is infeasible, or was there before."""
        return self._given(self.study.ask(), values, parent)

    def _given(self, trial: optuna.Trial, values: Mapping[str, Any], parent: str | None) -> Training | None:
        """Notes what the trial is; one that is not to be trained is told at once."""
        name = trial_name(trial.number)
        options, model = self._built(name, values)
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
                    "the baseline with input %s, %s parameters, is passed over: %s %s exceeds %s",
                    options.input,
                    f"{model.num_params:,}",
                    worst,
                    f"{costs[worst]:,.0f}",
                    f"{self._limits[worst]:,.0f}",
                )
        elif key in self._names:
            attrs |= {"rejected": "duplicate", "twin": self._names[key]}
        self._names.setdefault(key, name)
        # The values last: a trial that has them is known whole.
        for attr, value in {**attrs, "values": dict(values)}.items():
            trial.set_user_attr(attr, value)
        if "rejected" in attrs:
            self._tell_rejected(trial.number, attrs)
            return None
        return _training(name, options, model, costs)

    def _tell_rejected(self, number: int, attrs: Mapping[str, Any]) -> None:
        """What is too large teaches the sampler its limit, a twin what the first one has come to."""
        if attrs["rejected"] == "too_large":
            self.study.tell(number, state=TrialState.PRUNED)
            return
        twin = self.trials()[int(attrs["twin"])]
        if twin.state in (TrialState.COMPLETE, TrialState.PRUNED):
            self.study.tell(number, twin.values, state=twin.state)
        else:
            self.study.tell(number, state=TrialState.FAIL)

    def _why_exhausted(self) -> str:
        rejected = [trial for trial in self.trials() if "rejected" in trial.user_attrs][-_MAX_REJECTED:]
        too_large = [trial for trial in rejected if trial.user_attrs["rejected"] == "too_large"]
        why = f"of the last {len(rejected)} models that the space {self._space_name} gave none is new"
        if too_large:
            smallest = min(trial.user_attrs["num_params"] for trial in too_large)
            why += (
                f" and within the limits ({len(too_large)} were too large, the smallest with {smallest:,} parameters); "
                "give larger limits"
            )
        return f"{why}; give another --space or fewer --num-trials"

    def _built(self, name: str, values: Mapping[str, Any]) -> tuple[TrainOptions, ModelConfig]:
        with user_errors(f"the space {self._space_name}"):
            options = self._options(name, values)
        return options, model_config(options, self._data)

    def _options(self, name: str, values: Mapping[str, Any]) -> TrainOptions:
        place = {"shards": str(self._data.place), "out": str(self._sweep.run(name))}
        values = dict(values)
        if values.get("init") is not None:
            # By name: a sweep may be moved.
            values["init"] = str(self._sweep.run(values["init"]).model)
        return TrainOptions(**{**self._common, **values, **place})

    def settle(self, name: str, *, error: str | None = None) -> str:
        """Tells the study how a trial ended, by its summary.json; nothing of one that is to be continued.

        Args:
            name: Of the trial.
            error: Why its process failed, if it did.

        Returns:
            The state of the trial.
        """
        if error is not None:
            self.study.tell(int(name), state=TrialState.FAIL)
            self._sweep.run(name).add_to_summary(state="failed", error=error)
            return "failed"
        trial = read_trial(self._sweep.run(name))
        if trial.state == "complete":
            assert trial.val_metric is not None
            assert trial.num_params is not None
            self.study.tell(int(name), [trial.val_metric, float(trial.num_params)])
        elif trial.state in ("stopped", "failed"):
            # To Optuna too it is not a result of so many epochs, but one that was given up.
            self.study.tell(int(name), state=TrialState.PRUNED)
        return trial.state


def _key(options: TrainOptions, model: ModelConfig) -> str:
    """What tells a model from others: all options as they are settled, ranks clipped and written out."""
    return json.dumps(flat_config(options, model), sort_keys=True)


def _training(name: str, options: TrainOptions, model: ModelConfig, costs: Mapping[str, float]) -> Training:
    return Training(name=name, options=options, model=model, memory_bytes=int(costs["memory_bytes"]))


def _sampler(name: str, seed: int, number: int) -> BaseSampler:
    seed = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    if name == "random":
        return RandomSampler(seed=seed)
    if name == "default":
        return TPESampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=0, constant_liar=True)


@contextlib.contextmanager
def _experiments() -> Iterator[None]:
    """Optuna warns of what it may change; its version is bounded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _open_study(journal: Path, data: ShardDataset) -> optuna.Study:
    """The study of the sweep, made if there is none."""
    if journal.exists():
        content = journal.read_bytes()
        if not content.endswith(b"\n"):
            # Half a line, of a disk that was full or a machine that fell: Optuna would read no further.
            with journal.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(storage=storage, study_name=_STUDY, directions=_DIRECTIONS, load_if_exists=True)
    with _experiments():
        study.set_metric_names(list(_OBJECTIVES))
    study.set_user_attr("frame", list(data.frame.shape))
    return study

"""Choose the models of a sweep with Optuna, and record their results in its study.

A sweep is resumed from SWEEP/study.journal (Optuna) and SWEEP/trials/. User attributes of Optuna's trials: `values`
(options of train that the space returned), `num_params`, `multiply_adds`, `rejected` (too_large, not_streamable or
duplicate: proposed, but never trained), `duplicate_of` (the earlier trial of the same model), `parent` (the trial whose
weights a refined trial starts from), and `question`, `answer` and `teaches` (see questions.py).
"""

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

import search_spaces
from pipelines.core.errors import UserError
from pipelines.data.dataset import ShardDataset
from pipelines.training.queue import Training
from pipelines.training.run_directory import ENDED
from pipelines.tuning.build import Builder, Costs, key, training
from pipelines.tuning.optuna_study import make_sampler, open_study, tell_rejected, why_exhausted
from pipelines.tuning.questions import Questions, may_ask
from pipelines.tuning.space_check import space_errors
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.tuning.trial import read_trial, trial_name
from search_spaces import Sampled

__all__ = ["Search"]

log = logging.getLogger(__name__)
# After so many rejected proposals in a row, the space counts as exhausted.
_MAX_REJECTED = 300


class Search:
    """Proposes models to train, and records their results in the study.

    The models of the space's questions are proposed first, then those that it wants trained first.

    Args:
        sweep: The directory of the sweep.
        data: The data set.
        common: Options of train that are the same for all trials: epochs, seed, num_workers.
        space: Name of the search space.
        num_trials: Number of models to train, not counting refined ones and those that crashed in an earlier command.
        costs: costs(options, model) -> costs of a model by name; must include `memory_bytes`, of its training.
        limits: Maximum of some costs, by the same names. A model above a limit is not trained; the study records the
            excess as a constraint. A teacher has only that of memory.
        teacher: See Questions.
        streamable: No model in both directions, but for teachers.
        asks: Whether the space may ask questions about the data, in a sweep that begins.
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
        teacher: str = "auto",
        streamable: bool = False,
        asks: bool = True,
        sampler: str = "tpe",
        seed: int = 0,
    ) -> None:
        self._sweep, self._costs, self._limits, self._is_streamable = sweep, costs, limits, streamable
        self._space, self._space_name = search_spaces.load(space), space
        self._builder = Builder(sweep, data, common, space)
        self._sampler, self._seed, self.num_trials = sampler, seed, num_trials
        self.num_workers = int(common.get("num_workers", 1))
        self.on_answer: Callable[[Collection[str]], object] = lambda answered: None
        """Called with the names of the answered questions when there is another one."""
        self.exhausted: str | None = None
        """The reason why there are fewer than num_trials trials, if so."""
        self._num_proposed, self._num_rejected, self._waiting = 0, 0, list[Training]()
        self._names: dict[str, str] = {}
        """Key of a model (see build.key) -> name of its first trial, for all models that were ever proposed."""
        self.study = open_study(sweep.journal, data)
        asks &= may_ask(num_trials) and not self.trials()
        for trial in self.trials():
            self._restore(trial)
        if self.study.user_attrs.get("streamable") != streamable:
            self.study.set_user_attr("streamable", streamable)
        self.questions = Questions(
            sweep,
            self.study,
            self._space,
            data.frame.shape,
            len(data.split("val")),
            check=self._builder.check,
            teacher=teacher,
            # Whether a sweep asks is decided once: the sampler needs the same choices in all of its trials.
            asks=self.study.user_attrs.get("answers", {} if asks else None) is not None,
        )
        self._first: list[Mapping[str, Any] | Sampled] | None = None

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Optuna's trials, of these states or of all."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _restore(self, trial: FrozenTrial) -> None:
        """Restores a trial of an earlier command: records its result, or proposes it again if it is unfinished."""
        name, attrs = trial_name(trial.number), trial.user_attrs
        if "values" not in attrs:
            # The command was killed before the values of the trial were saved, or before a queued trial was started.
            if trial.state == TrialState.RUNNING:
                self.study.tell(trial.number, state=TrialState.FAIL)
            return
        options, model = self._builder.build(name, attrs["values"])
        if "rejected" in attrs or trial.state != TrialState.FAIL:
            # A model that crashed may be proposed again.
            self._names.setdefault(key(options, model), name)
        if "rejected" in attrs:
            if not trial.state.is_finished():
                tell_rejected(self.study, trial.number, attrs)
            return
        if trial.state.is_finished():
            # Versions that kept the checkpoints of ended trials may have left one.
            self._sweep.run(name).remove_checkpoint()
        self._num_proposed += "parent" not in attrs and trial.state != TrialState.FAIL
        if not trial.state.is_finished() and self.settle(name) not in ENDED:
            costs = self._costs(options, model)
            for limit, amount in self._excess(costs, teaches=attrs.get("teaches", False)).items():
                if amount > 0:
                    raise UserError(
                        f"the unfinished trial {name} takes {limit} {costs[limit]:,.0f}, but the limit is "
                        f"{self._limits[limit]:,.0f}; resume it where the limit is as high as at the start"
                    )
            self._waiting.append(training(name, options, model, costs, is_question="question" in attrs))

    def _excess(self, costs: Mapping[str, float], *, teaches: bool = False) -> dict[str, float]:
        """By how much the costs exceed each limit; negative below it."""
        limits = {name: limit for name, limit in self._limits.items() if not teaches or name == "memory_bytes"}
        return {name: costs[name] - limit for name, limit in limits.items()}

    @property
    def num_left(self) -> int:
        """Number of trials still to propose, not counting unfinished ones of earlier commands."""
        return 0 if self.exhausted else max(0, self.num_trials - self._num_proposed)

    @property
    def epochs(self) -> int:
        """Epochs of the trials to come, but for those of a question."""
        return self._builder.epochs

    @epochs.setter
    def epochs(self, epochs: int) -> None:
        self._builder.epochs = epochs

    @property
    def has_unfinished(self) -> bool:
        """Whether trials of an earlier command are to be continued."""
        return bool(self._waiting)

    @property
    def is_asking(self) -> bool:
        """Whether models of a question are still to be trained."""
        return self.num_left > 0 and self.questions.question is not None

    def planned(self) -> list[Training]:
        """The trainings to come whose models are known: unfinished ones, and those to be trained first."""
        known = [self._builder.build("", values) for values in self.questions.known(self.epochs)]
        costed = [(options, model, self._costs(options, model)) for options, model in known]
        question = self.questions.question
        teaches = question is not None and question.teaches
        excess = [self._excess(each[2], teaches=teaches).values() for each in costed]
        fitting = [each for each, own in zip(costed, excess, strict=True) if all(amount <= 0 for amount in own)]
        return self._waiting + [training("", *each, is_question=self.is_asking) for each in fitting][: self.num_left]

    def next(self) -> Training | None:
        """The next model to train; None if there are no more, or if `is_asking` and running ones must end first."""
        if self._waiting:
            return self._waiting.pop(0)
        while self.num_left:
            if self.is_asking:
                if self.questions.advance():
                    self.on_answer(list(self.questions.answers))
                if self.is_asking and not self.questions.unasked():
                    return None
            proposed = self._ask()
            if proposed is not None:
                self._num_proposed, self._num_rejected = self._num_proposed + 1, 0
                return proposed
            self._num_rejected += 1
            if self._num_rejected >= _MAX_REJECTED:
                self.exhausted = why_exhausted(self.trials(), self._space_name, _MAX_REJECTED)
        return None

    def _ask(self) -> Training | None:
        trials = self.trials(TrialState.COMPLETE, TrialState.PRUNED)
        num_trained = sum(bool(trial.params) and "rejected" not in trial.user_attrs for trial in trials)
        self.study.sampler = make_sampler(
            self._sampler, seed=self._seed, number=len(self.trials()), num_trained=num_trained
        )
        if self.is_asking:
            question, answer = self.questions.question, self.questions.unasked()[0]
            assert question is not None
            about = {"question": question.name, "answer": answer, "teaches": question.teaches}
            return self._propose(self.study.ask(), self.questions.options(answer, self.epochs), about)
        if self._first is None:
            self._first = [each for each in self.questions.first if not self._was_proposed(each)]
        first = self._first.pop(0) if self._first else None
        if isinstance(first, Mapping):
            return self._propose(self.study.ask(), self.questions.taught(first), {})
        if first is not None:
            self.study.enqueue_trial(dict(first.params))
        trial, what = self.study.ask(), f"the space {self._space_name}"
        with space_errors(what):
            values = self._space.space(trial)
        self._builder.check(values, what)
        return self._propose(trial, self.questions.taught(values), {})

    def _was_proposed(self, first: Mapping[str, Any] | Sampled) -> bool:
        """Whether an earlier command proposed a model that is to be trained first."""
        if isinstance(first, Mapping):
            return key(*self._builder.build("", self.questions.taught(first))) in self._names
        sampled = [trial.params for trial in self.trials() if trial.params]
        return any(all(params.get(name, value) == value for name, value in first.params.items()) for params in sampled)

    def is_of_question(self, name: str) -> bool:
        """Whether a trial answers a question."""
        of_questions = (trial.number for trial in self.trials() if "question" in trial.user_attrs)
        return name in map(trial_name, of_questions)

    def for_baselines(self) -> dict[str, Any]:
        """The options of train that baselines share with the trials."""
        return self._builder.located(self.questions.for_baselines())

    def refine(self, values: Mapping[str, Any], parent: str) -> Training | None:
        """Proposes a model that starts from the weights of the trial `parent`; None if too large or a duplicate."""
        return self._propose(self.study.ask(), self.questions.taught(values), {"parent": parent})

    def _propose(self, trial: optuna.Trial, values: Mapping[str, Any], about: Mapping[str, Any]) -> Training | None:
        """Saves the values of a trial in the study, with what `about` says of it; a model that is too large or a
        duplicate is rejected at once."""
        name = trial_name(trial.number)
        options, model = self._builder.build(name, values)
        attrs: dict[str, Any] = {"num_params": model.num_params, "multiply_adds": model.multiply_adds, **about}
        costs = self._costs(options, model)
        excess = self._excess(costs, teaches=about.get("teaches", False))
        for limit, amount in excess.items():
            trial.set_constraint(limit, amount)
        identity = key(options, model)
        if any(amount > 0 for amount in excess.values()):
            attrs["rejected"] = "too_large"
            if not trial.params and "parent" not in about:
                worst = max(excess, key=lambda limit: excess[limit] / self._limits[limit])
                size, cost, limit = (f"{each:,.0f}" for each in (model.num_params, costs[worst], self._limits[worst]))
                what = f"the model to be trained first with input {options.input} and {size} parameters"
                log.info("%s is skipped: its %s, %s, exceeds %s", what, worst, cost, limit)
        elif self._is_streamable and model.bidirectional and not about.get("teaches"):
            attrs["rejected"] = "not_streamable"
        elif identity in self._names:
            attrs |= {"rejected": "duplicate", "duplicate_of": self._names[identity]}
        self._names.setdefault(identity, name)
        # The values last: a trial that has them is complete.
        for attr, value in {**attrs, "values": dict(values)}.items():
            trial.set_user_attr(attr, value)
        if "rejected" in attrs:
            tell_rejected(self.study, trial.number, attrs)
            return None
        return training(name, options, model, costs, is_question="question" in about)

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

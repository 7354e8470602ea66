"""Ask the questions of a search space: train the models of each, and take the answer of the best one."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

import search_spaces
from pipelines.core.text import percent
from pipelines.evaluation.compare import smallest_difference
from pipelines.evaluation.metrics import standard_error
from pipelines.tuning.space_check import space_errors
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.tuning.trial import trial_name
from search_spaces import Question, Sampled

__all__ = ["Questions", "finding_text", "may_ask"]

log = logging.getLogger(__name__)

# More teachers take longer than they teach.
_MOST_TEACHERS = 2
# With fewer trials, too few would be left for the search.
_LEAST_TRIALS = 12
# Options that do not depend on the kind of model.
_RECIPE = ("flip", "shift", "speed", "brightness", "temporal_crop", "label_smoothing", "weight_averaging")


def may_ask(num_trials: int) -> bool:
    """Whether a sweep of so many trials asks questions about the data."""
    return num_trials >= _LEAST_TRIALS


class Questions:
    """The questions of a space, and the models that it wants trained first, in their order.

    Trials of a question have the user attributes `question` and `answer`. Answers are kept in the study, for the space,
    and in sweep.json as `findings`, for people.

    Args:
        sweep: The directory of the sweep.
        study: Its study.
        space: The search space.
        frame: Height, width, channels.
        num_val_clips: Number of clips in the validation split.
        check: check(values, what) raises UserError for options that a space must not give.
        teacher: auto (the models of a question that teaches), none, or model directories as in TrainOptions.
        asks: Whether anything is asked; else the space gets None as answers.
    """

    def __init__(
        self,
        sweep: SweepDirectory,
        study: optuna.Study,
        space: search_spaces.Space,
        frame: Sequence[int],
        num_val_clips: int,
        *,
        check: Callable[[Mapping[str, Any], str], object],
        teacher: str,
        asks: bool,
    ) -> None:
        self._sweep, self._study, self._space, self._frame, self._check = sweep, study, space, frame, check
        self._num_val_clips, self._teacher = num_val_clips, teacher
        self._answers: dict[str, str] | None = {} if asks else None
        self.question: Question | None = None
        """The question that is being asked; None once all are answered."""
        self.first: list[Mapping[str, Any] | Sampled] = []
        """The models to train first, known once all questions are answered."""
        self._chosen: Mapping[str, Any] = {}
        """The options of the model that won the last question."""
        self._teachers: list[str] = []
        """Names of the trials from whose scores the next ones learn, but for those of a question."""
        self.advance()

    @property
    def answers(self) -> Mapping[str, str]:
        """The answers so far, by the names of the questions."""
        return self._answers or {}

    def advance(self) -> bool:
        """Takes the answers of the questions whose trials have ended; returns whether there were any."""
        before = dict(self.answers)
        while True:
            what = "the models that the space wants trained first"
            with space_errors(what):
                found = self._space.first(self._frame, self._answers)
            for values in found.models.values() if isinstance(found, Question) else found:
                if isinstance(values, Mapping):
                    self._check(values, what)
            if not isinstance(found, Question):
                self.question, self.first = None, list(found)
                break
            self.question = found
            if found.taught is not None and (self._teacher != "auto" or not self._teachers):
                # Nothing to find out: there is no teacher, or it was chosen.
                taught = [answer for answer in found.models if (answer == found.taught) == (self.teacher is not None)]
                self._answers = {**self.answers, found.name: taught[0]}
                continue
            trials = self._trials_of(found)
            if trials.keys() < found.models.keys() or not all(each.state.is_finished() for each in trials.values()):
                break
            self._take_answer(found, trials)
        if "answers" not in self._study.user_attrs or self._study.user_attrs["answers"] != self._answers:
            self._study.set_user_attr("answers", self._answers)
        return before != self.answers

    def options(self, answer: str, epochs: int) -> dict[str, Any]:
        """The options of the model that stands for an answer to the present question.

        Args:
            answer: One of its answers.
            epochs: Of a trial.
        """
        assert self.question is not None
        is_taught = answer == self.question.taught
        share = self.question.taught_epochs if is_taught else self.question.epochs
        values = {**self.question.models[answer], "epochs": max(1, round(share * epochs))}
        return self.taught(values) if is_taught else values

    def known(self, epochs: int) -> list[Mapping[str, Any]]:
        """The options of the models to train next, as far as they are known."""
        if self.question is not None:
            return [self.options(answer, epochs) for answer in self.unasked()]
        return [values for values in self.first if not isinstance(values, Sampled)]

    @property
    def num_teachers(self) -> int:
        """The number of models that teach the trials after the questions; 0 as long as these are not answered."""
        return 0 if self.teacher is None or self.question is not None else len(self.teacher.split(","))

    @property
    def teacher(self) -> str | None:
        """The teacher of the trials to come: names of trials, or model directories, separated by commas."""
        if self._teacher != "auto":
            return None if self._teacher == "none" else self._teacher
        return ",".join(self._teachers) or None

    def taught(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Adds the teacher, if there is one, to the options of a model."""
        return {**values, "teacher": self.teacher} if self.teacher else dict(values)

    def for_baselines(self) -> dict[str, Any]:
        """The options of train that baselines share with the trials: the teacher, and what suits the data."""
        return self.taught({name: value for name, value in self._chosen.items() if name in _RECIPE})

    def unasked(self) -> list[str]:
        """The answers to the present question whose models have not been proposed."""
        if self.question is None:
            return []
        asked = self._trials_of(self.question)
        return [answer for answer in self.question.models if answer not in asked]

    def _trials_of(self, question: Question) -> dict[str, FrozenTrial]:
        """The trial of each answer, if it was proposed."""
        trials = self._study.get_trials(deepcopy=False)
        # A trial without values was killed before it was proposed.
        asked = [trial.user_attrs for trial in trials]
        return {
            attrs["answer"]: trial
            for trial, attrs in zip(trials, asked, strict=True)
            if attrs.get("question") == question.name and "values" in attrs
        }

    def _take_answer(self, question: Question, trials: Mapping[str, FrozenTrial]) -> None:
        assert self._answers is not None
        complete = [answer for answer in question.models if trials[answer].state == TrialState.COMPLETE]
        values = {answer: trials[answer].values[0] for answer in complete}
        highest, unclear = max(values.values(), default=0.0), smallest_difference(self._num_val_clips)
        preferred = [each for each in values if each in question.preferred and values[each] > highest - unclear]
        candidates = preferred or list(values) or list(question.models)
        # Of equal ones the first.
        answer = max(candidates, key=lambda each: values.get(each, 0.0))
        self._answers[question.name], self._chosen = answer, question.models[answer]
        if question.teaches:
            least = highest - standard_error(highest, self._num_val_clips)
            good = sorted((each for each in values if values[each] >= least), key=lambda each: -values[each])
            self._teachers = sorted(trial_name(trials[each].number) for each in good[:_MOST_TEACHERS])
        if question.taught not in (None, answer):
            self._teachers = []
        finding = {"question": question.text, "answer": answer, "values": values}
        finding["trials"] = {each: trial_name(trial.number) for each, trial in trials.items()}
        finding["teachers"] = self._teachers if answer == question.taught else []
        document = self._sweep.read()
        findings = [*document.get("findings", []), finding]
        if finding not in document.get("findings", []):
            self._sweep.write({**document, "findings": findings})
            log.info("%s", finding_text(finding))


def finding_text(finding: Mapping[str, Any]) -> str:
    """A sentence about what a question found."""
    values = finding["values"]
    said = ", ".join(f"{answer} {percent(value)}" for answer, value in values.items())
    text = f"{finding['question']} {finding['answer']} ({f'on validation: {said}' if said else 'nothing trained'})"
    teachers = " and ".join(finding["teachers"])
    return text + (f"; the later models learn from the scores of {teachers}" if teachers else "")

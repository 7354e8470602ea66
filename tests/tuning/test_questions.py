"""Test tuning/questions.py: the models of questions come first, and later models follow the answers."""

import dataclasses

import pytest

import ttrnn
from pipelines.core.errors import UserError
from pipelines.data.dataset import ShardDataset
from pipelines.tuning.questions import finding_text
from pipelines.tuning.sweep_directory import SweepDirectory
from search_spaces import Question, Sampled
from tests.shards import make_shards
from tests.tuning.test_study import finish, make
from ttrnn.model import VideoClassifier

SPACE = f"{__name__}:space"


def space(trial):
    """Samples a model; the shift is that of the answer."""
    answers = trial.study.user_attrs["answers"]
    shift = 1 if answers is None else int(answers["shift"])
    return {**model(trial.suggest_int("ranks", 1, 4)), "shift": shift}


def model(ranks, **more):
    return {"hidden_modes": "2x2x2x2", "recurrent_ranks": "1", "ranks": str(ranks), **more}


def first(frame, answers):
    """Two questions, and then a model by its options and one by what is sampled."""
    if answers is not None and "shift" not in answers:
        models = {str(shift): model(3, shift=shift, bidirectional=True) for shift in (0, 1, 2)}
        return Question(name="shift", text="which shift helps?", models=models, epochs=1 / 2, teaches=True)
    if answers is not None and "teaching" not in answers:
        models = dict.fromkeys(("no", "yes"), model(1, shift=int(answers["shift"])))
        return Question(name="teaching", text="does teaching help?", models=models, taught="yes")
    return [model(2), Sampled({"ranks": 4})]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return ShardDataset.open(make_shards(tmp_path_factory.mktemp("data") / "shards"))


def search(path, data, **kwargs):
    path.mkdir(exist_ok=True)
    sweep = SweepDirectory(path)
    if not sweep.exists():
        sweep.write({"options": {}})
    return make(path, data, **{"space": SPACE, "num_trials": 20, **kwargs})


def end(found, path, training, **kwargs):
    ttrnn.save(VideoClassifier(training.model), path / "trials" / training.name / "model")
    finish(path, training, **kwargs)
    found.settle(training.name, error="died" if kwargs.get("state") == "failed" else None)


def ask(found, path, values, **kwargs):
    """Trains the models of a question to these values, all at a time."""
    trainings = [found.next() for _ in values]
    assert found.is_asking
    assert found.next() is None
    assert all(training.is_question for training in trainings)
    for training, value in zip(trainings, values, strict=True):
        end(found, path, training, val_metric=value, **kwargs)
    return trainings


def test_the_best_model_of_a_question_is_the_answer_and_teaches_the_later_ones(tmp_path, data, caplog):
    caplog.set_level("INFO")
    found = search(tmp_path, data)
    # 12 validation clips: a standard error is 12 points.
    shifts = ask(found, tmp_path, [0.5, 0.8, 0.75])
    assert [training.options.shift for training in shifts] == [0, 1, 2]
    assert {training.options.epochs for training in shifts} == {1}
    untaught, taught = ask(found, tmp_path, [0.4, 0.6])
    teachers = ",".join(str(tmp_path / "trials" / each.name / "model") for each in shifts[1:])
    assert (untaught.options.teacher, taught.options.teacher) == (None, teachers)
    assert taught.teacher_macs == sum(each.model.multiply_adds for each in shifts[1:])
    assert (untaught.options.epochs, taught.options.shift) == (2, 1)
    given, sampled = found.next(), found.next()
    assert not found.is_asking
    assert (given.options.ranks, given.options.shift, given.is_question) == ("2", 0, False)
    assert (sampled.options.ranks, sampled.options.shift, sampled.options.teacher) == ("4", 1, teachers)
    assert found.trials()[int(sampled.name)].params == {"ranks": 4}
    assert found.for_baselines() == {"shift": 1, "teacher": teachers}
    findings = SweepDirectory(tmp_path).read()["findings"]
    assert [finding_text(finding) for finding in findings] == [
        "which shift helps? 1 (on validation: 0 50.0%, 1 80.0%, 2 75.0%)",
        "does teaching help? yes (on validation: no 40.0%, yes 60.0%); the later models learn from the scores of 0001 "
        "and 0002",
    ]
    assert all(finding_text(finding) in caplog.text for finding in findings)


@pytest.mark.parametrize(("values", "shift"), [([0.5, 0.8, 0.75], 2), ([0.3, 0.8, 0.4], 1), ([0.75, 0.8, 0.75], 0)])
def test_a_preferred_answer_is_taken_where_it_is_not_clearly_worse(tmp_path, data, monkeypatch, values, shift):
    original, question = first, dataclasses.replace(first((4, 8, 1), {}), preferred=("0", "2"))
    monkeypatch.setattr(f"{__name__}.first", lambda frame, answers: original(frame, answers) if answers else question)
    found = search(tmp_path, data)
    ask(found, tmp_path, values)
    assert found.next().options.shift == shift


def test_without_a_gain_nobody_is_taught(tmp_path, data):
    found = search(tmp_path, data)
    ask(found, tmp_path, [0.5, 0.8, 0.75])
    ask(found, tmp_path, [0.6, 0.6])
    assert found.next().options.teacher is None
    assert "teacher" not in found.for_baselines()


def test_a_resumed_sweep_asks_the_rest_and_keeps_its_answers(tmp_path, data):
    found = search(tmp_path, data)
    trainings = [found.next(), found.next()]
    end(found, tmp_path, trainings[0], val_metric=0.9)
    again = search(tmp_path, data)
    rest = [again.next(), again.next()]
    assert rest[0] == trainings[1]
    assert rest[1].options.shift == 2
    assert again.next() is None
    for training in rest:
        end(again, tmp_path, training, val_metric=0.1)
    ask(again, tmp_path, [0.1, 0.2])
    planned = [again.next() for _ in range(2)]
    third = search(tmp_path, data)
    assert [third.next() for _ in range(2)] == planned
    # The models of the questions are not trained again.
    assert third.next().options.ranks == "3"
    assert third.next() is None
    assert third.questions.teacher == trainings[0].name
    assert len(SweepDirectory(tmp_path).read()["findings"]) == 2


def test_where_models_of_a_question_fail_the_others_answer_it(tmp_path, data):
    found = search(tmp_path, data)
    trainings = [found.next() for _ in range(3)]
    for training, state in zip(trainings, ("failed", "complete", "failed"), strict=True):
        end(found, tmp_path, training, state=state)
    assert found.next().options.shift == 1
    found = search(tmp_path / "all", data)
    for training in [found.next() for _ in range(3)]:
        end(found, tmp_path / "all", training, state="failed")
    assert found.next().options.shift == 0
    assert found.questions.teacher is None


def test_a_teacher_may_exceed_the_limits_but_the_others_must_not(tmp_path, data):
    limit = found = search(tmp_path / "free", data).next().model.num_params - 1
    found = search(tmp_path, data, limits={"max_params": limit}, streamable=True)
    teachers = ask(found, tmp_path, [0.5, 0.6, 0.7])
    assert all(each.model.num_params > limit and each.model.bidirectional for each in teachers)
    assert all(each.model.num_params <= limit for each in ask(found, tmp_path, [0.5, 0.6]))


@pytest.mark.parametrize("teacher", ["none", "/models/mine"])
def test_the_teacher_may_be_chosen(tmp_path, data, teacher, monkeypatch):
    monkeypatch.setattr("pipelines.tuning.build.teacher_macs", lambda teacher: 0)
    found = search(tmp_path, data, teacher=teacher)
    ask(found, tmp_path, [0.5, 0.6, 0.7])
    expected = None if teacher == "none" else teacher
    # There is nothing to find out about teaching.
    assert found.next().options.teacher == expected
    assert not found.is_asking
    assert found.questions.answers["teaching"] == ("no" if teacher == "none" else "yes")


def test_a_small_sweep_asks_nothing(tmp_path, data):
    found = search(tmp_path, data, num_trials=11)
    assert not found.is_asking
    assert [found.next().options.shift for _ in range(2)] == [0, 1]


def test_a_sweep_that_began_without_questions_asks_none_later(tmp_path, data):
    found = search(tmp_path, data, num_trials=4)
    names = [found.next().options.ranks for _ in range(2)]
    again = search(tmp_path, data, num_trials=100)
    assert not again.is_asking
    assert [again.next().options.ranks for _ in range(2)] == names
    assert again.study.user_attrs["answers"] is None


def test_a_sweep_that_asked_keeps_its_answers_with_any_number_of_trials(tmp_path, data):
    found = search(tmp_path, data)
    ask(found, tmp_path, [0.5, 0.8, 0.1])
    again = search(tmp_path, data, num_trials=8)
    assert again.questions.answers == {"shift": "1"}
    assert again.is_asking


def test_a_model_of_a_question_that_was_not_wholly_proposed_is_proposed_again(tmp_path, data):
    found = search(tmp_path, data)
    found.next()
    for values in ({"question": "shift"}, {"question": "shift", "answer": "1", "teaches": True}):
        killed = found.study.ask()
        for name, value in values.items():
            killed.set_user_attr(name, value)
    again = search(tmp_path, data)
    assert [again.next().options.shift for _ in range(3)] == [0, 1, 2]
    assert again.next() is None


def test_waiting_for_answers_does_not_write_the_journal(tmp_path, data):
    found = search(tmp_path, data)
    for _ in range(3):
        found.next()
    before = (tmp_path / "study.journal").read_bytes()
    assert [found.next() for _ in range(5)] == [None] * 5
    assert (tmp_path / "study.journal").read_bytes() == before


def test_the_epochs_may_change_when_a_question_is_answered(tmp_path, data):
    found, told = search(tmp_path, data), []

    def answered(names):
        told.append(names)
        found.epochs = 10 * len(names)

    found.on_answer = answered
    assert {training.options.epochs for training in ask(found, tmp_path, [0.5, 0.8, 0.1])} == {1}
    assert {training.options.epochs for training in ask(found, tmp_path, [0.5, 0.8])} == {10}
    assert found.next().options.epochs == 20
    assert told == [["shift"], ["shift", "teaching"]]


def test_no_more_than_two_models_teach(tmp_path, data):
    found = search(tmp_path, data)
    trainings = ask(found, tmp_path, [0.8, 0.9, 0.85])
    found.next()
    assert found.questions.teacher == f"{trainings[1].name},{trainings[2].name}"


def test_questions_are_checked_like_the_space(tmp_path, data, monkeypatch):
    question = Question(name="shift", text="?", models={"0": {"depth": 3}})
    monkeypatch.setattr(f"{__name__}.first", lambda frame, answers: question)
    with pytest.raises(UserError, match=r"the models that the space wants trained first.*depth"):
        search(tmp_path, data)

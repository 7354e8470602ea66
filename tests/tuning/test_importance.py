"""Test tuning/importance.py: choices of the sampler, importances, values at the end of their range."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from pipelines.tuning.importance import edges, importances, num_rejected, read_study
from pipelines.tuning.trial import Trial

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-3, 1e-1, log=True),
    "dropout": FloatDistribution(0.0, 0.5),
    "rank": IntDistribution(1, 8, log=True),
    "size": IntDistribution(16, 80, step=16),
    "cell": CategoricalDistribution(["gru", "rnn"]),
    "fixed": IntDistribution(3, 3),
    "shift": IntDistribution(-1, 1),
}
MIDDLE = {"lr": 1e-2, "dropout": 0.25, "rank": 3, "size": 32, "cell": "gru", "fixed": 3, "shift": 0}


def chosen(**changes: Any) -> FrozenTrial:
    return optuna.create_trial(params={**MIDDLE, **changes}, distributions=SPACE, value=0.0)


def trial(name: str, val_metric: float = 0.5, **values: Any) -> Trial:
    return Trial(trial=name, num_params=100, val_metric=val_metric, **({"state": "complete"} | values))


def make_study(path: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(path / "study.journal")))
    return optuna.create_study(storage=storage, study_name="sweep", directions=["maximize", "minimize"])


def test_choices_and_rejections_are_read_by_name_of_the_trial(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    for reason in (None, "too_large", "duplicate", "too_large"):
        one = study.ask()
        one.suggest_int("rank", 2, 2)
        if reason is None:
            study.tell(one, [0.5, 100])
        else:
            one.set_user_attr("rejected", reason)
            study.tell(one, state=TrialState.PRUNED)
    found = read_study(tmp_path / "study.journal")
    assert list(found) == ["0000", "0001", "0002", "0003"]
    assert found["0000"].params == {"rank": 2}
    assert (num_rejected(found, "too_large"), num_rejected(found, "duplicate")) == (2, 1)


def test_without_a_journal_there_are_no_choices_and_no_journal_is_created(tmp_path: Path) -> None:
    assert read_study(tmp_path / "study.journal") == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", '{"op_code": 0}\n', "garbage\nmore garbage\n"])
def test_with_a_damaged_journal_there_are_no_choices(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    (tmp_path / "study.journal").write_text(text)
    assert read_study(tmp_path / "study.journal") == {}
    assert "study.journal cannot be read" in caplog.text


def test_blank_lines_and_a_half_written_last_line_of_a_journal_are_ignored(tmp_path: Path) -> None:
    make_study(tmp_path).ask()
    with (tmp_path / "study.journal").open("a") as file:
        file.write('\n{"op_code": 4, "wor')
    assert list(read_study(tmp_path / "study.journal")) == ["0000"]


def test_a_parameter_with_an_effect_has_the_largest_importance(tmp_path: Path) -> None:
    study, trials = {}, []
    for number in range(20):
        # The metric depends on the rank; dropout has no effect.
        name, rank = f"{number:04d}", 1 + number % 8
        study[name] = chosen(rank=rank, dropout=0.1 * (number % 5), lr=1e-2)
        trials.append(trial(name, 0.1 * rank))
    found = importances(study, trials)
    assert found is not None
    # All have the same number of parameters.
    assert (list(found), found["num_params"]) == (["val_metric", "num_params"], {})
    shares = found["val_metric"]
    assert max(shares, key=lambda name: shares[name]) == "rank"
    assert sum(shares.values()) == pytest.approx(1)
    assert importances(study, trials) == found


def test_unfinished_and_unsampled_trials_do_not_count(tmp_path: Path) -> None:
    study = {f"{number:04d}": chosen(rank=1 + number % 8) for number in range(20)}
    trials = [trial(name, 0.1 * study[name].params["rank"]) for name in study]
    bare = optuna.create_trial(value=0.0)
    assert importances(study, trials[:9]) is None
    assert importances(study, [*trials[:9], trial("0009", state="stopped"), trial("0099")]) is None
    assert importances({**study, "0009": bare}, trials[:10]) is None
    assert importances(study, trials[:10]) is not None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"lr": 0.09}, [("lr", "upper")]),
        ({"lr": 0.0011}, [("lr", "lower")]),
        ({"lr": 0.05}, []),
        ({"rank": 8, "size": 80}, [("rank", "upper"), ("size", "upper")]),
        ({"rank": 7, "size": 64}, []),
        ({"size": 16}, [("size", "lower")]),
        # A rank cannot be below 1, dropout not below 0.
        ({"rank": 1, "dropout": 0.0}, []),
        ({"cell": "rnn"}, []),
        ({"shift": 1}, []),
        ({"shift": -1}, []),
    ],
    ids=str,
)
def test_values_at_an_end_of_their_range_are_reported(changes: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    study = {"0000": chosen(), "0001": chosen(**changes)}
    found = edges(study, {name: trial(name) for name in study}, {"best": "0001", "knee": "0000"})
    assert [(edge["param"], edge["bound"]) for edge in found] == expected
    for edge in found:
        assert edge["value"] == changes[edge["param"]]


def test_an_edge_is_reported_once_and_for_a_refined_point_from_its_ancestor() -> None:
    study = {"0000": chosen(lr=0.1), "0001": chosen(lr=0.099), "0002": optuna.create_trial(value=0.0)}
    trials = {"0000": trial("0000"), "0001": trial("0001"), "0002": trial("0002", parent="0000")}
    (edge,) = edges(study, trials, {"best": "0002", "knee": "0001"})
    assert edge == {
        "param": "lr",
        "value": 0.1,
        "bound": "upper",
        "text": "lr is 0.1 at the best, the upper end of 0.001 to 0.1: widen it there",
    }
    assert edges({}, trials, {"best": "0002"}) == []

"""Test tuning/sweep_directory.py: trials are read from complete and damaged files."""

import json
import math
from pathlib import Path

import pytest

from pipelines.core.errors import UserError
from pipelines.data.dataset import ShardDataset
from pipelines.training.run_directory import RunDirectory
from pipelines.tuning.optuna_study import open_study
from pipelines.tuning.sweep_directory import SWEEP_LAYOUT, SweepDirectory
from pipelines.tuning.trial import Trial, read_trial
from tests.shards import make_shards
from tests.sweeps import TRIALS, config, make_sweep
from ttrnn.model import ModelConfig


def test_trials_are_read_in_order_of_their_names_with_none_for_missing_values(tmp_path: Path) -> None:
    trials = SweepDirectory(make_sweep(tmp_path / "sweep")).finished_trials()
    assert [trial.trial for trial in trials] == sorted(TRIALS)
    assert trials[1] == Trial(
        trial="0001",
        state="complete",
        num_params=3000,
        input_params=400,
        val_metric=0.8,
        epochs=5,
        train_s=61.5,
        config=config(ranks="3x3x3"),
    )
    assert trials[6].error == "diverged <b>"
    assert trials[7] == Trial(trial="0007", state="unfinished")


@pytest.mark.parametrize("text", ['{"state": "complete", "num_par', "", "[]"], ids=["half written", "empty", "list"])
def test_a_trial_with_an_unreadable_summary_counts_as_unfinished_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    sweep = make_sweep(tmp_path / "sweep")
    (sweep / "trials/0001/summary.json").write_text(text)
    assert SweepDirectory(sweep).finished_trials()[1] == Trial(trial="0001", state="unfinished")
    assert "trial 0001 counts as unfinished" in caplog.text


def test_a_metric_that_is_nan_is_unknown(tmp_path: Path) -> None:
    trials = {"0000": {"num_params": 10, "val_metric": math.nan}, "0001": {"num_params": 20, "val_metric": 0.1}}
    first, second = SweepDirectory(make_sweep(tmp_path / "sweep", trials)).finished_trials()
    assert (first.val_metric, first.is_finished, second.is_finished) == (None, False, True)


def test_other_files_in_trials_are_ignored(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "sweep")
    (sweep / "trials/.0008.tmp").mkdir()
    (sweep / "trials/notes.txt").write_text("mine")
    assert len(SweepDirectory(sweep).finished_trials()) == len(TRIALS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"is not a sweep.*give the OUT directory"),
        ('{"format": "ttr', r"is not a sweep.*give the OUT directory"),
        ("[]", r"must have format ttrnn-sweep, version 1; got format None"),
        ('{"format": "ttrnn-model", "version": 1}', r"got format ttrnn-model, version 1"),
        ('{"format": "ttrnn-sweep", "version": 2}', r"got format ttrnn-sweep, version 2"),
    ],
    ids=["missing", "half written", "no object", "another thing", "another version"],
)
def test_a_directory_that_is_not_a_sweep_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(UserError, match=message):
        SweepDirectory(tmp_path).finished_trials()


def run_config(**options: object) -> str:
    model = ModelConfig(width=48, height=32, channels=1, classes=("up", "down"), hidden_modes="2x2x2x2")
    return json.dumps({"format": "ttrnn-run", "version": 1, "options": options, "model": model.to_dict()})


def test_a_trial_has_its_curve_its_parent_the_reason_of_its_stop_and_its_macs(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"0003": {"state": "stopped", "val_metric": 0.4, "stopped_by": "0001 is far better"}})
    run = sweep / "trials/0003"
    (run / "config.json").write_text(run_config(init="/moved/trials/0001/model"))
    lines = [{"epoch": 1, "val_metric": 0.25, "time_s": 1}, {"epoch": 2, "val_metric": 0.4, "time_s": 1}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    trial = read_trial(RunDirectory(run))
    assert (trial.state, trial.stopped_by, trial.parent) == ("stopped", "0001 is far better", "0001")
    assert trial.curve == [[1, 0.25], [2, 0.4]]
    model = ModelConfig(width=48, height=32, channels=1, classes=("up", "down"), hidden_modes="2x2x2x2")
    assert trial.multiply_adds == model.multiply_adds > 0
    assert not trial.is_finished


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("metrics.jsonl", '{"epoch": 1, "val_metric": 0.5}\n{"epoch": 2, "val_m\n', "learning curve of 0001 ends"),
        ("metrics.jsonl", '{"epoch": 1, "val_metric": 0.5}\n[]\n', "learning curve of 0001 ends"),
        ("config.json", '{"options": {"in', "parent and MACs of 0001"),
        ("config.json", '{"options": {}, "model": {"width": 8}}', "missing fields"),
        ("config.json", "[]", "parent and MACs of 0001"),
    ],
)
def test_other_damaged_files_of_a_trial_only_lose_their_own_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, text: str, words: str
) -> None:
    run = make_sweep(tmp_path) / "trials/0001"
    whole = {"metrics.jsonl": '{"epoch": 1, "val_metric": 0.5}\n', "config.json": run_config()}
    for file, content in (whole | {name: text}).items():
        (run / file).write_text(content)
    trial = read_trial(RunDirectory(run))
    assert (trial.is_finished, trial.val_metric, trial.curve) == (True, 0.8, [[1, 0.5]])
    assert (trial.multiply_adds is None) == (name == "config.json")
    assert words in caplog.text


def test_a_trial_without_values_in_the_study_is_unknown(tmp_path: Path) -> None:
    """The files of its training may be newer than the journal; the resumed sweep trains another one in its place."""
    study = open_study(SweepDirectory(tmp_path).journal, ShardDataset.open(make_shards(tmp_path / "shards")))
    for values in ({"cell": "gru"}, None):
        trial = study.ask()
        if values is not None:
            trial.set_user_attr("values", values)
    assert SWEEP_LAYOUT.known_trials is not None
    assert SWEEP_LAYOUT.known_trials(tmp_path) == ["0000"]

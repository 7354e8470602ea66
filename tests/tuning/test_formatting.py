"""Test tuning/formatting.py: the values of a trial as text."""

import dataclasses
from pathlib import Path

import pytest

from pipelines.tuning.formatting import count, interval_text, texts
from pipelines.tuning.sweep_directory import SweepDirectory
from tests.sweeps import make_sweep


def test_values_are_written_with_their_units_and_unknown_ones_as_a_dash(tmp_path: Path) -> None:
    trials = [dataclasses.asdict(trial) for trial in SweepDirectory(make_sweep(tmp_path / "sweep")).trials()]
    known, unknown = texts(trials[1]), texts(trials[7])
    names = ("cell", "ranks", "num_params", "val_metric", "epochs", "train_s")
    assert [known[name] for name in names] == ["gru", "3x3x3", "3,000", "80.0%", "5", "1 min 02 s"]
    assert {unknown[name] for name in names} == {"-"}
    assert (known["modes"], known["state"]) == ("8x4x8x8 → 4x4x4x4", "complete")
    assert (unknown["modes"], unknown["state"]) == ("- → -", "unfinished")
    assert texts(trials[0])["modes"] == "dense → 4x4x4x4"
    trials[1]["config"] |= {"stem": "conv", "stem_channels": "6x8"}
    assert texts(trials[1])["modes"] == "stem 6x8: 8x4x8x8 → 4x4x4x4"
    trials[1]["config"] |= {"format": "ht", "recurrent_format": "tt"}
    assert (texts(trials[1])["ranks"], texts(trials[1])["recurrent_ranks"]) == ("ht 3x3x3", known["recurrent_ranks"])
    assert [texts(trials[1])[name] for name in ("format", "recurrent_format")] == ["ht", "dense"]
    assert texts(trials[6])["state"] == "failed: diverged <b>"


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0, "0"), (1234, "1,234")])
def test_a_number_is_written_with_commas(value: int | None, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(("interval", "text"), [(None, "-"), ([0.712, 0.801], "71.2 to 80.1%")])
def test_an_interval_is_written_in_percent(interval: list[float] | None, text: str) -> None:
    assert interval_text(interval) == text

"""docs/scale.md: its numbers are those of the model, whose parameters scale as they should."""

import dataclasses
from pathlib import Path

import pytest

from tests.benchmarks import codec_plan
from tests.benchmarks.scale_model import Parameters, rows, table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scale.md"


def value(name: str, **changes: float) -> float:
    found = {what: text for what, _, text in rows(dataclasses.replace(Parameters(), **changes))}
    return float(found[name].split()[0].rstrip("%").replace(",", ""))


def test_the_page_says_what_the_model_computes() -> None:
    assert table() in PAGE.read_text(encoding="utf-8")


def test_the_page_says_what_follows_from_the_measured_codecs() -> None:
    assert codec_plan.table(PAGE.parent / "results" / "codecs.csv", "ucf101_10") in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "change", "factor"),
    [
        ("videos", {"num_clips": 20_000}, 2),
        ("shards", {"num_frames": 64}, 2),
        ("an epoch", {"gpu_rate": 10_000}, 2),
        ("sent to the head", {"num_trials": 2_000}, 2),
        ("the sweep", {"num_gpus": 32}, 1.94),
        ("nodes", {"gpu_hour_usd": 1.6165}, 2),
    ],
    ids=lambda value: str(value),
)
def test_what_takes_more_says_so(name: str, change: dict[str, float], factor: float) -> None:
    assert value(name, **change) == pytest.approx(factor * value(name), rel=0.02)

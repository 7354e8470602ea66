"""Test tuning/progress.py: the screen fits the terminal, and the time left is estimated."""

import io
from collections import Counter

import pytest
from rich.console import Console

from pipelines.tuning.progress import State, draw, time_left_s
from pipelines.tuning.time_left import Forecast
from pipelines.tuning.trial import Trial

SMALL = {
    "cell": "gru",
    "input": "tt",
    "in_modes": "8x20x20x18",
    "hidden_modes": "4x4x4x4",
    "ranks": "4x4x4",
    "recurrent_ranks": "none",
    "epochs": 16,
}
LONG = SMALL | {
    "cell": "lstm",
    "in_modes": "2x4x4x5x6x10",
    "hidden_modes": "2x2x2x2x4x4",
    "ranks": "16x16x16x16x16",
    "recurrent_ranks": "12x12x12x12x12",
}


def point(number, *, state="complete", **values):
    """A trial; with increasing numbers, parameters and metric increase."""
    defaults = {"num_params": int(900 * 1.7**number), "val_metric": 1 - 0.7 * 0.8**number, "epochs": 16}
    return Trial(trial=f"{number:04d}", state=state, config=LONG if number % 2 else SMALL, **(defaults | values))


def running(name, epochs, config=SMALL):
    return Trial(trial=name, state="running", config=config, epochs=epochs, val_metric=0.4321, num_params=12_345_678)


def state(num_points=3, num_running=2, **values):
    trials = [running(f"{1000 + number}", 3) for number in range(num_running)]
    defaults = {
        "metric": "mean_average_precision",
        "chance": 0.125,
        "start": 0.0,
        "stage": "search",
        "total": 200,
        "ended": Counter(complete=30, stopped=11, failed=2),
        "running": {trial.trial: trial for trial in trials},
        "forecast": KNOWN.stage("search", 157),
        "points": [point(number) for number in range(num_points)],
        "num_epochs": 4321,
        "time_budget_s": 36_000.0,
    }
    return State(**(defaults | values))


# An earlier command has trained a trial in 32 s.
KNOWN = Forecast().stage("search", 0, earlier=[point(0, train_s=32.0)])


def text_of(state, width, height, now=4567.0):
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(draw(state, now, width, height))
    return console.file.getvalue()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (140, 40), (80, 15), (60, 24)])
@pytest.mark.parametrize(("num_points", "num_running"), [(0, 0), (0, 2), (1, 0), (3, 2), (30, 2), (30, 64)])
def test_the_screen_fits_the_terminal_without_wrapped_lines(width, height, num_points, num_running):
    current = state(num_points, num_running)
    lines = text_of(current, width, height).splitlines()
    assert len(lines) <= height - 1
    assert max(map(len, lines)) <= width
    assert [line.split()[:1] for line in lines] == [
        line.split()[:1] for line in text_of(current, 400, height).splitlines()
    ]
    rows = [line.split() for line in lines]
    for trial in (*current.points[:1], *current.points[-1:]):
        assert any(row[:2] == [trial.trial, f"{trial.num_params:,}"] for row in rows), "smallest and best are shown"
    assert sum("knee" in row for row in rows) == bool(num_points)
    assert sum(row[:1] == ["1000"] and "3/16" in row for row in rows) == bool(num_running)


def test_80_columns_fit_all_numbers_and_a_shape_with_four_modes():
    text = text_of(state(), 80, 24)
    assert "search" in text
    assert "43 of 200 trials" in text
    assert "30 complete, 2 failed, 11 stopped; 2 running" in text
    assert "best mean average precision 55.2% (chance 12.5%); 4,327 epochs; 0.56 trials/min\n" in text
    assert "1 h 16 min of 10 h 00 min; about 1 h 23 min left" in text
    assert "1000      12,345,678  43.2%  3/16   gru   8x20x20x18 → 4x4x4x4" in text
    assert "0002           2,600  55.2%  knee   gru   8x20x20x18 → 4x4x4x4" in text
    assert "recurrent" not in text


def test_a_wide_terminal_also_shows_recurrent_ranks():
    text = text_of(state(), 140, 40)
    assert "recurrent ranks" in text
    assert "2x4x4x5x6x10 → 2x2x2x2x4x4  16x16x16x16x16  12x12x12x12x12" in text


def test_running_trials_that_do_not_fit_are_counted():
    lines = text_of(state(3, 64), 80, 24).splitlines()
    num_shown = sum(line.startswith("10") for line in lines)
    assert 1 <= num_shown < 64
    assert f"+ {64 - num_shown}" in [line.strip() for line in lines]


def test_the_time_left_is_that_of_the_forecast_within_the_budget():
    defaults = {"metric": "accuracy", "chance": 0.5, "start": 0.0, "forecast": KNOWN.stage("search", 5)}
    assert time_left_s(State(**defaults), 100.0) == pytest.approx(5 * 32)
    assert time_left_s(State(**defaults, time_budget_s=130.0), 100.0) == 30.0
    assert time_left_s(State(**defaults, time_budget_s=90.0), 100.0) == 0.0
    assert time_left_s(State(**(defaults | {"forecast": Forecast().stage("search", 5)})), 100.0) is None

import contextlib
import io
import json
import logging
import os
import pty
import sys
import threading
from collections import Counter
from types import SimpleNamespace

import pytest
from rich.console import Console

from pipelines import screen as screens
from pipelines.screen import Screen, State, draw, time_left_s, totals, tune_callback
from pipelines.trials import Trial

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
    """Each has more parameters than the one before, and a better metric by less and less."""
    known = {"num_params": int(900 * 1.7**number), "val_metric": 1 - 0.7 * 0.8**number, "epochs": 16}
    return Trial(trial=f"{number:04d}", state=state, config=LONG if number % 2 else SMALL, **(known | values))


def running(name, epochs, config=SMALL):
    return Trial(trial=name, state="running", config=config, epochs=epochs, val_metric=0.4321, num_params=12_345_678)


def state(num_points=3, num_running=2, **values):
    trials = [running(f"{1000 + number}", 3) for number in range(num_running)]
    known = {
        "metric": "mean_average_precision",
        "chance": 0.125,
        "start": 0.0,
        "stage": "search",
        "total": 200,
        "ended": Counter(complete=30, stopped=11, failed=2),
        "running": {trial.trial: trial for trial in trials},
        "first_epochs": {trial.trial: 1 for trial in trials},
        "points": [point(number) for number in range(num_points)],
        "num_epochs": 4321,
        "time_budget_s": 36_000.0,
    }
    return State(**(known | values))


def text_of(shown, width, height, now=4567.0):
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(draw(shown, now, width, height))
    return console.file.getvalue()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (140, 40), (80, 15), (60, 24)])
@pytest.mark.parametrize(("num_points", "num_running"), [(0, 0), (0, 2), (1, 0), (3, 2), (30, 2), (30, 64)])
def test_the_screen_fits_the_terminal_without_folding_a_line(width, height, num_points, num_running):
    shown = state(num_points, num_running)
    lines = text_of(shown, width, height).splitlines()
    assert len(lines) <= height - 1
    assert max(map(len, lines)) <= width
    assert [line.split()[:1] for line in lines] == [
        line.split()[:1] for line in text_of(shown, 400, height).splitlines()
    ]
    rows = [line.split() for line in lines]
    for trial in (*shown.points[:1], *shown.points[-1:]):
        assert any(row[:2] == [trial.trial, f"{trial.num_params:,}"] for row in rows), "smallest and best are there"
    assert sum("knee" in row for row in rows) == bool(num_points)
    assert sum(row[:1] == ["1000"] and "3/16" in row for row in rows) == bool(num_running)


def test_80_columns_hold_every_number_and_a_shape_of_four_modes_whole():
    text = text_of(state(), 80, 24)
    assert "search" in text
    assert "43 of 200 trials" in text
    assert "30 complete, 2 failed, 11 stopped; 2 running" in text
    assert "best mean average precision 55.2% (chance 12.5%); 4,327 epochs; 0.56 trials/min\n" in text
    assert "1 h 16 min of 10 h 00 min; about 4 h 34 min left" in text
    assert "1000      12,345,678  43.2%  3/16   gru   8x20x20x18 → 4x4x4x4" in text
    assert "0002           2,600  55.2%         gru   8x20x20x18 → 4x4x4x4" in text
    assert "recurrent" not in text


def test_a_wide_terminal_shows_recurrent_ranks_too():
    text = text_of(state(), 140, 40)
    assert "recurrent ranks" in text
    assert "2x4x4x5x6x10 → 2x2x2x2x4x4  16x16x16x16x16  12x12x12x12x12" in text


def test_more_running_trials_than_lines_are_counted():
    lines = text_of(state(3, 64), 80, 24).splitlines()
    shown = sum(line.startswith("10") for line in lines)
    assert 1 <= shown < 64
    assert f"+ {64 - shown}" in [line.strip() for line in lines]


@pytest.mark.parametrize(
    ("values", "left_s"),
    [
        ({"ended": Counter()}, None),
        ({"ended": Counter(complete=2)}, 400.0),
        ({"ended": Counter(complete=1, stopped=1)}, 400.0),
        ({"ended": Counter(complete=2), "stage_start": 50.0}, 200.0),
        ({"ended": Counter(complete=6), "num_earlier": 5}, 400.0),
        ({"ended": Counter(complete=5), "num_earlier": 5}, None),
        ({"ended": Counter(complete=10)}, 0.0),
        ({"ended": Counter(complete=2), "time_budget_s": 130.0}, 30.0),
        ({"ended": Counter(complete=2), "time_budget_s": 90.0}, 0.0),
        ({"ended": Counter(), "time_budget_s": 130.0}, None),
        ({"ended": Counter(), "first_epochs": {"a": 1}, "running": {"a": running("a", 8)}}, 1900.0),
        ({"ended": Counter(), "first_epochs": {"a": 5}, "running": {"a": running("a", 8)}}, 3900.0),
        ({"ended": Counter(), "running": {"a": running("a", None)}}, None),
    ],
    ids=[
        "nothing done", "trials", "stopped ones are done", "of the stage", "earlier ones took no time",
        "only earlier ones", "over", "the budget is less", "the budget is over", "only a budget",
        "an epoch is part of a trial", "resumed in the middle", "no epoch yet",
    ],
)  # fmt: skip
def test_time_left_goes_by_what_this_command_has_done(values, left_s):
    known = {"metric": "accuracy", "chance": 0.5, "start": 0.0, "total": 10}
    assert time_left_s(State(**(known | values)), 100.0) == (left_s if left_s is None else pytest.approx(left_s))


@pytest.fixture
def clock(monkeypatch):
    """The screen's clock, which stands still until it is set."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(screens, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def plain(tmp_path, clock, caplog):
    """A screen where standard error is no terminal."""
    caplog.set_level(logging.INFO)
    with Screen(metric="accuracy", chance=0.25, chatter=tmp_path / "ray.log") as screen:
        screen.stage("search", total=4)
        yield screen


def test_the_frontier_is_of_complete_trials_of_all_stages_but_confirming_ones(plain):
    for number, how in enumerate(("complete", "stopped", "failed", "complete")):
        plain.ended(point(number, state=how))
    assert [trial.trial for trial in plain.state.points] == ["0000", "0003"]
    plain.stage("refine", total=1)
    plain.ended(point(4))
    plain.stage("confirm", total=2)
    plain.ended(point(5), joins=False)
    assert [trial.trial for trial in plain.state.points] == ["0000", "0003", "0004"]
    assert (plain.state.ended, plain.state.num_epochs) == (Counter(complete=1), 6 * 16)


def test_the_clock_of_a_stage_begins_with_its_first_trial(plain, clock):
    clock.now += 30
    for name in ("0000", "0001"):
        plain.started(Trial(trial=name, state="running", config=SMALL))
        clock.now += 30
    plain.ended(point(0))
    plain.started(Trial(trial="0002", state="running", config=SMALL))
    assert totals(plain.state, clock.now)[2:] == [
        "best accuracy 30.0% (chance 25.0%); 16 epochs; 1 trials/min",
        "1 min 30 s; about 3 min 00 s left",
    ]


def test_what_an_earlier_command_has_ended_counts_as_done(plain):
    plain.stage("search", total=4, earlier=[point(0), point(1, state="stopped", epochs=3)])
    assert totals(plain.state, 1060.0)[:3] == [
        "2 of 4 trials",
        "1 complete, 1 stopped",
        "best accuracy 30.0% (chance 25.0%); 19 epochs",
    ]


def test_a_running_trial_is_shown_as_far_as_it_is_until_it_ends(plain):
    plain.started(Trial(trial="0000", state="running", config=SMALL))
    plain.epoch("0000", 5, val_metric=0.5, num_params=1234)
    plain.epoch("0000", 6, val_metric=0.625, num_params=1234)
    plain.epoch("0007", 1, val_metric=0.5)
    words = " ".join(text_of(plain.state, 80, 24).split())
    assert "0000 1,234 62.5% 6/16 gru 8x20x20x18 → 4x4x4x4" in words
    assert plain.state.first_epochs == {"0000": 5, "0007": 1}
    # Its worker has died, and it begins again.
    plain.started(Trial(trial="0000", state="running", config=SMALL))
    assert plain.state.first_epochs == {"0007": 1}
    plain.ended(point(0))
    plain.ended(point(7))
    assert (plain.state.running, plain.state.first_epochs) == ({}, {})


def test_without_a_terminal_each_trial_that_ends_is_one_line_and_totals_come_seldom(plain, clock, caplog):
    for number in range(4):
        clock.now += 6
        plain.epoch(f"{number:04d}", 1, val_metric=0.5)
        plain.ended(point(number))
    lines = [record.getMessage() for record in caplog.records]
    trials = [line for line in lines if line.startswith("trial")]
    assert len(trials) == 4
    assert trials[0] == (
        "trial 0000  complete  30.0%  900 parameters  gru 8x20x20x18 → 4x4x4x4, ranks 4x4x4, recurrent ranks none"
    )
    assert [line for line in lines if line not in trials] == [
        "search: 2 of 4 trials; 2 complete; best accuracy 44.0% (chance 25.0%); 32 epochs; 10 trials/min; 12 s; "
        "about 12 s left",
        "search: 4 of 4 trials; 4 complete; best accuracy 64.2% (chance 25.0%); 64 epochs; 10 trials/min; 24 s",
    ]


def test_without_a_terminal_long_trials_give_a_sign_of_life_each_minute(plain, clock, caplog):
    for epoch in range(1, 6):
        clock.now += 31
        plain.epoch("0000", epoch, val_metric=0.5)
    assert len(caplog.records) == 2


def test_a_failed_trial_is_an_error_that_names_the_reason_or_the_file_to_look_into(plain, caplog, tmp_path):
    plain.ended(point(3, state="failed", error="diverged in epoch 2"))
    plain.ended(point(4, state="failed"))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "trial 0003 failed: diverged in epoch 2"),
        ("ERROR", f"trial 0004 failed: see {tmp_path / 'ray.log'}"),
    ]


def test_chatter_goes_to_its_file_and_nothing_of_it_to_standard_output_or_error(tmp_path, capfd):
    (tmp_path / "ray.log").write_text("of an earlier command\n", encoding="utf-8")
    with Screen(metric="accuracy", chance=0.25, chatter=tmp_path / "ray.log"):
        os.write(1, b"out of C++\n")
        os.write(2, b"error of C++\n")
        os.system("echo of a child")
    os.write(1, b"afterwards\n")
    os.write(2, b"afterwards too\n")
    assert capfd.readouterr() == ("afterwards\n", "afterwards too\n")
    chatter = (tmp_path / "ray.log").read_text(encoding="utf-8")
    assert chatter == "of an earlier command\nout of C++\nerror of C++\nof a child\n"


class Terminal:
    """Inside the block, standard error is a pseudo-terminal; `text` is what has come, whole after the block."""

    def __init__(self, monkeypatch):
        self.text, self.gone = "", threading.Event()
        monkeypatch.setenv("TERM", "xterm")

    def __enter__(self):
        self.master, slave = pty.openpty()
        self.reader, self.kept = threading.Thread(target=self._read), (os.dup(2), sys.stderr)
        os.dup2(slave, 2)
        os.close(slave)
        sys.stderr = open(2, "w", closefd=False, encoding="utf-8")
        self.handler = logging.StreamHandler(sys.stderr)
        logging.getLogger().addHandler(self.handler)
        self.reader.start()
        return self

    def _read(self):
        # The last writer's end is an error.
        with contextlib.suppress(OSError):
            while not self.gone.is_set() and (data := os.read(self.master, 1 << 16)):
                self.text += data.decode()
        os.close(self.master)

    def hang_up(self):
        self.gone.set()
        os.write(2, b" ")
        self.reader.join(timeout=10)

    def __exit__(self, *error):
        logging.getLogger().removeHandler(self.handler)
        os.dup2(self.kept[0], 2)
        os.close(self.kept[0])
        sys.stderr = self.kept[1]
        self.reader.join(timeout=10)


def sweep_a_little(path):
    with Screen(metric="accuracy", chance=0.25, chatter=path) as screen:
        screen.stage("search", total=4)
        screen.started(Trial(trial="0000", state="running", config=SMALL))
        print("chatter", file=sys.stderr)  # noqa: T201
        logging.getLogger("ours").warning("a line of ours")
        screen.ended(point(0))
        raise KeyboardInterrupt


def test_a_terminal_shows_the_screen_with_our_lines_above_it_and_is_left_clean_by_ctrl_c(monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = tmp_path / "ray.log"
    with Terminal(monkeypatch) as terminal:
        with pytest.raises(KeyboardInterrupt):
            sweep_a_little(path)
        assert terminal.handler.stream is sys.stderr
    text, (hide, show, erase) = terminal.text, ("\x1b[?25l", "\x1b[?25h", "\x1b[2K")
    assert text.count(hide) == text.count(show) == 1
    line, bar = text.index("a line of ours"), text.rindex("1 of 4 trials\r\n")
    assert text.index(hide) < line < bar < text.index(show), "the screen is drawn again below the line"
    gone, after = text[bar:].rsplit(erase, 1)
    assert gone.count(erase) >= 6, "the screen is erased"
    assert after.strip().startswith("search: 1 of 4 trials; 1 complete; best accuracy 30.0%")
    assert "trial 0000" not in text, "what the screen shows needs no line"
    assert path.read_text(encoding="utf-8") == "chatter\n"


def test_a_terminal_that_goes_away_does_not_end_the_sweep(monkeypatch, tmp_path, caplog):
    with (
        Terminal(monkeypatch) as terminal,
        Screen(metric="accuracy", chance=0.25, chatter=tmp_path / "ray.log") as screen,
    ):
        screen.stage("search", total=1)
        terminal.hang_up()
        screen.ended(point(0, state="failed", error="no luck"))
    assert "trial 0000 failed: no luck" in caplog.messages
    assert any(message.startswith("the screen could not be cleared") for message in caplog.messages)


def test_tune_tells_the_screen_what_its_trials_do(plain, tmp_path, caplog):
    callback = tune_callback(plain)

    def trial(name, summary):
        out = tmp_path / name
        out.mkdir()
        (out / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
        config = {"trial": name, "train": SMALL | {"out": str(out)}, "num_params": 900}
        return SimpleNamespace(config=config, get_error=lambda: "Traceback\nRuntimeError: no luck\n")

    known = {"num_params": 900, "val_metric": 0.5, "epochs": 2, "config": SMALL}
    first, second, third = (
        trial(name, known | {"state": how})
        for name, how in (("0000", "stopped"), ("0001", "running"), ("0002", "running"))
    )
    for one in (first, second, third):
        callback.on_trial_start(1, [], one)
    assert plain.state.running["0000"].num_params == 900
    callback.on_trial_result(1, [], first, {"epoch": 2, "val_metric": 0.5, "num_params": 900})
    assert (plain.state.running["0000"].epochs, plain.state.running["0000"].val_metric) == (2, 0.5)
    callback.on_trial_complete(1, [], first)
    callback.on_trial_error(1, [], second)
    callback.on_trial_complete(1, [], third)
    # The third could not go on since the time was up.
    assert (plain.state.ended, plain.state.running) == (Counter(stopped=1, failed=1, paused=1), {})
    assert "trial 0001 failed: RuntimeError: no luck" in caplog.messages

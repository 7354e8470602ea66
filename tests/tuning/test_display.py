"""Test tuning/display.py: the screen on a terminal, log lines elsewhere, the callback of Tune."""

import contextlib
import dataclasses
import json
import logging
import os
import pty
import sys
import threading
from collections import Counter
from types import SimpleNamespace

import pytest

from pipelines.training.options import TrainOptions
from pipelines.training.queue import Training
from pipelines.tuning import display
from pipelines.tuning.display import Screen, tune_callback
from pipelines.tuning.progress import totals
from pipelines.tuning.trial import Trial
from tests.tuning.test_progress import SMALL, point, text_of


@pytest.fixture
def clock(monkeypatch):
    """A clock for the screen that only changes when it is set."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def plain(tmp_path, clock, caplog):
    """A screen whose standard error is not a terminal."""
    caplog.set_level(logging.INFO)
    with Screen(metric="accuracy", chance=0.25, chatter=tmp_path / "ray.log") as screen:
        screen.stage("search", total=4)
        yield screen


def test_the_frontier_has_complete_trials_of_all_stages_without_replications(plain):
    for number, state in enumerate(("complete", "stopped", "failed", "complete")):
        plain.ended(point(number, state=state))
    assert [trial.trial for trial in plain.state.points] == ["0000", "0003"]
    plain.stage("refine", total=1)
    plain.ended(point(4))
    plain.stage("confirm", total=2)
    plain.ended(point(5), joins=False)
    assert [trial.trial for trial in plain.state.points] == ["0000", "0003", "0004"]
    assert (plain.state.ended, plain.state.num_epochs) == (Counter(complete=1), 6 * 16)


def test_the_time_of_a_stage_starts_with_its_first_trial(plain, clock):
    clock.now += 30
    for name in ("0000", "0001"):
        plain.started(Trial(trial=name, state="running", config=SMALL))
        clock.now += 30
    plain.ended(point(0))
    plain.started(Trial(trial="0002", state="running", config=SMALL))
    results, times = totals(plain.state, clock.now)[2:]
    assert results == "best accuracy 30.0% (chance 25.0%); 16 epochs; 1 trials/min"
    assert times.startswith("1 min 30 s; about ")


def test_trials_that_an_earlier_command_finished_count_as_done(plain):
    plain.stage("search", total=4, earlier=[point(0), point(1, state="stopped", epochs=3)])
    assert totals(plain.state, 1060.0)[:3] == [
        "2 of 4 trials",
        "1 complete, 1 stopped",
        "best accuracy 30.0% (chance 25.0%); 19 epochs",
    ]


def test_more_trials_than_planned_are_counted_and_baselines_are_not(plain):
    plain.stage("refine", total=1)
    for number in range(2):
        plain.started(Trial(trial=f"{number:04d}", state="running", config=SMALL))
        plain.ended(point(number))
    cnn = Trial(trial="cnn-1000", state="running", config={"input": "cnn", "epochs": 16})
    plain.started(cnn, is_baseline=True)
    plain.epoch("cnn-1000", 1, 0.9, is_baseline=True)
    assert plain.state.forecast.running["cnn-1000"].done == 1
    plain.ended(dataclasses.replace(cnn, state="complete", val_metric=0.9, num_params=1_000), is_baseline=True)
    assert totals(plain.state, 1060.0)[:2] == ["2 of 2 trials", "2 complete"]
    assert "cnn-1000" not in text_of(plain.state, 80, 24)


def test_a_running_trial_is_shown_with_its_last_epoch_until_it_ends(plain):
    plain.started(Trial(trial="0000", state="running", config=SMALL, num_params=1234))
    plain.epoch("0000", 5, val_metric=0.5)
    plain.epoch("0000", 6, val_metric=0.625)
    plain.epoch("0007", 1, val_metric=0.5)
    words = " ".join(text_of(plain.state, 80, 24).split())
    assert "0000 1,234 62.5% 6/16 gru 8x20x20x18 → 4x4x4x4" in words
    assert plain.state.forecast.running["0000"].done == 6
    # Its worker died, and it is restarted.
    plain.started(Trial(trial="0000", state="running", config=SMALL))
    assert plain.state.forecast.running["0000"].done == 0
    plain.ended(point(0))
    plain.ended(point(7))
    assert (plain.state.running, plain.state.forecast.running) == ({}, {})


def test_without_a_terminal_each_ended_trial_is_one_line_and_totals_are_rare(plain, clock, caplog):
    for number in range(4):
        plain.started(Trial(trial=f"{number:04d}", state="running", config=SMALL))
        clock.now += 6
        plain.epoch(f"{number:04d}", 16, val_metric=0.5)
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


def test_without_a_terminal_totals_are_logged_every_minute_during_long_trials(plain, clock, caplog):
    for epoch in range(1, 6):
        clock.now += 31
        plain.epoch("0000", epoch, val_metric=0.5)
    assert len(caplog.records) == 2


def test_a_failed_trial_is_logged_as_an_error_with_its_reason_or_the_log_file(plain, caplog, tmp_path):
    plain.ended(point(3, state="failed", error="diverged in epoch 2"))
    plain.ended(point(4, state="failed"))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "trial 0003 failed: diverged in epoch 2"),
        ("ERROR", f"trial 0004 failed: see {tmp_path / 'ray.log'}"),
    ]


class Terminal:
    """Makes standard error a pseudo-terminal in the block; `text` is its output, complete after the block."""

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
        # Reading fails when the last writer has closed it.
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


def run_interrupted_sweep(path):
    with Screen(metric="accuracy", chance=0.25, chatter=path) as screen:
        screen.stage("search", total=4)
        screen.started(Trial(trial="0000", state="running", config=SMALL))
        print("chatter", file=sys.stderr)  # noqa: T201
        logging.getLogger("test").warning("a log line")
        screen.ended(point(0))
        raise KeyboardInterrupt


def test_a_terminal_shows_the_screen_below_log_lines_and_is_clean_after_ctrl_c(monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = tmp_path / "ray.log"
    with Terminal(monkeypatch) as terminal:
        with pytest.raises(KeyboardInterrupt):
            run_interrupted_sweep(path)
        assert terminal.handler.stream is sys.stderr
    text, (hide, show, erase) = terminal.text, ("\x1b[?25l", "\x1b[?25h", "\x1b[2K")
    assert text.count(hide) == text.count(show) == 1
    line, bar = text.index("a log line"), text.rindex("1 of 4 trials\r\n")
    assert text.index(hide) < line < bar < text.index(show), "the screen is drawn again below the log line"
    gone, after = text[bar:].rsplit(erase, 1)
    assert gone.count(erase) >= 6, "the screen is erased"
    assert after.strip().startswith("search: 1 of 4 trials; 1 complete; best accuracy 30.0%")
    assert "trial 0000" not in text, "a trial that the screen shows is not logged"
    assert path.read_text(encoding="utf-8") == "chatter\n"


def test_a_terminal_without_cursor_control_gets_plain_lines(monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with Terminal(monkeypatch) as terminal:
        monkeypatch.setenv("TERM", "dumb")
        with pytest.raises(KeyboardInterrupt):
            run_interrupted_sweep(tmp_path / "ray.log")
    assert "\x1b" not in terminal.text
    assert [line.split("  ")[0] for line in terminal.text.splitlines()][:2] == ["a log line", "trial 0000"]


def test_a_closed_terminal_does_not_end_the_sweep(monkeypatch, tmp_path, caplog):
    with (
        Terminal(monkeypatch) as terminal,
        Screen(metric="accuracy", chance=0.25, chatter=tmp_path / "ray.log") as screen,
    ):
        screen.stage("search", total=1)
        terminal.hang_up()
        screen.ended(point(0, state="failed", error="no luck"))
    assert "trial 0000 failed: no luck" in caplog.messages
    assert any(message.startswith("the screen could not be cleared") for message in caplog.messages)


def test_the_callback_of_tune_updates_the_screen(plain, tmp_path, caplog):
    callback = tune_callback(plain)

    def trial(name, summary):
        out = tmp_path / name
        out.mkdir()
        (out / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
        options = TrainOptions(shards="shards", out=str(out))
        training = Training(
            name=name, options=options, model=SimpleNamespace(num_params=900, multiply_adds=9000), memory_bytes=0
        )
        config = {"training": training}
        return SimpleNamespace(config=config, last_result={}, get_error=lambda: "Traceback\nRuntimeError: no luck\n")

    summary = {"num_params": 900, "val_metric": 0.5, "epochs": 2, "config": SMALL}
    first, second, third, fourth = (
        trial(name, summary | {"state": state})
        for name, state in (("0000", "stopped"), ("0001", "running"), ("0002", "running"), ("0003", "running"))
    )
    for one in (first, second, third, fourth):
        callback.on_trial_start(1, [], one)
    assert plain.state.running["0000"].num_params == 900
    callback.on_trial_result(1, [], first, {"epoch": 2, "train_loss": 1.0, "best_val_metric": 0.5})
    assert (plain.state.running["0000"].epochs, plain.state.running["0000"].val_metric) == (2, 0.5)
    # Its node cannot store its files: it is restarted on another one.
    first.last_result = {"epoch": 0, "best_val_metric": 0.0, "problem": "no room", "unfit_node": "b"}
    callback.on_trial_result(1, [], first, first.last_result)
    callback.on_trial_complete(1, [], first)
    assert plain.state.running["0000"].epochs == 2
    first.last_result = {}
    callback.on_trial_complete(1, [], first)
    callback.on_trial_error(1, [], second)
    callback.on_trial_complete(1, [], third)
    fourth.last_result = {"epoch": 0, "best_val_metric": 0.0, "problem": "ValueError: no luck either", "failed": True}
    callback.on_trial_complete(1, [], fourth)
    # The third was paused at the end of the time budget.
    assert (plain.state.ended, plain.state.running) == (Counter(stopped=1, failed=2, paused=1), {})
    assert "trial 0003 failed: ValueError: no luck either" in caplog.messages
    assert "trial 0001 failed: RuntimeError: no luck" in caplog.messages

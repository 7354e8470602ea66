"""Test tuning/time_left.py on replayed sweeps: the estimate is near the truth early, and hardly ever jumps."""

import dataclasses
import itertools
import random

import pytest

from pipelines.tuning.frontier import frontier
from pipelines.tuning.time_left import Forecast
from pipelines.tuning.trial import Trial

NUM_FRAMES, NUM_CLIPS, EPOCHS = 20_000.0, 400, 16
# Seconds per multiply-add of the machine that is replayed.
RATE = 1e-10


def model(name, macs, num_params, *, value=0.5, kind="tt", epochs=EPOCHS, parent=None):
    config = {"input": kind, "batch_size": 16, "epochs": epochs}
    values = {"num_params": num_params, "multiply_adds": macs, "val_metric": value, "config": config, "parent": parent}
    return Trial(trial=name, state="running", **values)


def sampled(seed, number, *, stopped=0.4):
    """(trial, its last epoch, seconds per epoch) of models as a sampler gives them, some of which are stopped early."""
    rng = random.Random(seed)
    runs = []
    for index in range(number):
        num_params = int(1000 * 10 ** rng.uniform(0, 1.5))
        trial = model(f"{index:04d}", rng.randint(20_000, 600_000), num_params, value=rng.uniform(0.1, 0.9))
        last = rng.randint(4, 8) if rng.random() < stopped else EPOCHS
        runs.append((trial, last, true_s(trial) * rng.lognormvariate(0, 0.3)))
    return runs


def true_s(trial, factor=1.0):
    return RATE * factor * key(trial)[1]


def key(trial):
    return Forecast(num_frames=NUM_FRAMES, num_clips=NUM_CLIPS).key(trial)


class Replay:
    """Plays the events of trainings on several slots, and records the estimate after each: (time, time left)."""

    def __init__(self, num_slots=2, **kwargs):
        self.forecast = Forecast(num_frames=NUM_FRAMES, num_clips=NUM_CLIPS, num_slots=num_slots, **kwargs)
        self.now, self.num_slots, self.estimates, self.points = 0.0, num_slots, [], []

    def stage(self, name, runs, planned=(), *, joins=True):
        self.forecast = self.forecast.stage(name, len(runs), list(planned))
        self.record()
        events, waiting = [], list(runs)
        while waiting or events:
            while waiting and len({name for _, name, *_ in events}) < self.num_slots:
                trial, last, epoch_s = waiting.pop(0)
                self.forecast = self.forecast.started(trial, self.now)
                events += [
                    (self.now + number * epoch_s, trial.trial, number, trial, last) for number in range(1, last + 1)
                ]
                events.sort(key=lambda event: event[:3])
                self.record()
            self.now, name, number, trial, last = events.pop(0)
            self.forecast = self.forecast.epoch(name, number, self.now)
            if number == last:
                state = "complete" if last == trial.config["epochs"] else "stopped"
                # The configuration in summary.json has no number of epochs.
                config = {name: value for name, value in trial.config.items() if name != "epochs"}
                ended = dataclasses.replace(trial, state=state, epochs=last, config=config)
                self.forecast = self.forecast.ended(ended, self.now, joins=joins)
                self.points = frontier([*self.points, ended]) if joins else self.points
            self.record()

    def record(self):
        self.estimates.append((self.now, self.forecast.seconds(self.now, self.points)))

    def errors(self, after=0.0):
        """Estimated minus actual time left, as shares of the whole time, at all events after a share of it."""
        return [
            (estimate - (self.now - now)) / self.now
            for now, estimate in self.estimates
            if estimate is not None and now >= after * self.now
        ]


def test_the_time_left_is_known_after_the_first_epoch_and_more_and_more_exact():
    replays = [Replay() for _ in range(20)]
    for seed, replay in enumerate(replays):
        replay.stage("search", sampled(seed, 30))
        assert [estimate is None for _, estimate in replay.estimates[:5]] == [True] * 3 + [False] * 2
    # Of trials whose costs differ by a factor of 10 or more, shares of the whole time.
    for after, most in ((0.25, 0.4), (0.5, 0.25), (0.75, 0.15)):
        errors = sorted(abs(error) for replay in replays for error in replay.errors(after))
        assert errors[int(0.9 * len(errors))] < most


@pytest.mark.parametrize("factor", [0.1, 0.5, 1.0], ids=["much cheaper per multiply-add", "cheaper", "as expensive"])
@pytest.mark.parametrize("slower", [0.5, 1.0, 2.0], ids=["faster than measured", "as measured", "slower"])
def test_a_large_baseline_that_comes_last_is_counted_from_the_beginning(factor, slower):
    dense, small = model("", 44_000_000, 44_000_000, kind="dense"), sampled(1, 8)
    dense_s, first, first_s = true_s(dense, factor), small[0][0], small[0][2]
    replay = Replay(expected={key(first): first_s / slower, key(dense): dense_s / slower})
    start = sum(last * epoch_s for _, last, epoch_s in small) / 2
    replay.stage("search", [*small, (dataclasses.replace(dense, trial="0008"), EPOCHS, dense_s)], [first, dense])
    # Two steps of the large model were measured beforehand; how much slower trainings are, the first epoch says.
    assert max(map(abs, replay.errors(after=0.3))) < 0.15
    early = [(now, estimate) for now, estimate in replay.estimates if now < start]
    assert all(0.4 < estimate / (replay.now - now) < 2.5 for now, estimate in early)


def test_a_large_baseline_that_was_not_measured_is_not_forgotten():
    dense, small = model("", 44_000_000, 44_000_000, kind="dense"), sampled(1, 8)
    replay = Replay()
    replay.stage("search", [*small, (dataclasses.replace(dense, trial="0008"), EPOCHS, true_s(dense, 0.4))], [dense])
    estimates = [(now, estimate) for now, estimate in replay.estimates if estimate is not None]
    assert all(0.5 < estimate / (replay.now - now) < 4 for now, estimate in estimates[: len(estimates) // 2])
    assert replay.errors()[-EPOCHS // 2 :] == pytest.approx([0.0] * (EPOCHS // 2), abs=0.01)


def test_a_dense_baseline_is_replicated_too():
    small, dense = (
        (model("0000", 1e5, 5000, value=0.6), EPOCHS, 1.0),
        (model("0001", 1e7, 1e6, kind="dense"), EPOCHS, 9.0),
    )
    replay = Replay(num_seeds=2)
    replay.stage("search", [small, dense])
    assert [point.trial for point in replay.points] == ["0000"]
    assert replay.estimates[-1][1] == pytest.approx(2 * EPOCHS * (1 + 9) / 2, rel=0.01)
    assert replay.estimates[0][1] is None


def test_an_epoch_that_is_overdue_raises_the_estimate():
    trial = model("0000", 1e6, 1e6)
    known = {"expected": {key(trial): true_s(trial)}}
    forecast = Forecast(num_frames=NUM_FRAMES, num_clips=NUM_CLIPS, **known).stage("search", 1)
    forecast = forecast.started(trial, 0.0)
    expected = EPOCHS * true_s(trial)
    assert forecast.seconds(0.0, []) == pytest.approx(expected)
    assert forecast.seconds(expected / EPOCHS, []) == pytest.approx(expected * 15 / 16)
    assert forecast.seconds(expected, []) == pytest.approx(15 * expected)


def test_the_start_of_a_process_does_not_count_as_a_part_of_each_epoch():
    forecast = Forecast(num_frames=NUM_FRAMES, num_clips=NUM_CLIPS).stage("search", 1).started(model("0000", 1, 1), 0.0)
    forecast = forecast.epoch("0000", 1, 20.0, 2.0)
    assert forecast.seconds(20.0, []) == pytest.approx(15 * 2)
    assert forecast.epoch("0000", 2, 26.0, 6.0).seconds(26.0, []) == pytest.approx(14 * 4)


def replicated(points, seeds):
    """The replications of points: each takes as long as the point itself."""
    return [
        (dataclasses.replace(trial, trial=f"{trial.trial}-s{seed}"), last, s)
        for seed in seeds
        for trial, last, s in points
    ]


@pytest.mark.parametrize("seed", range(6))
def test_refinement_and_replication_are_counted_while_the_search_runs(seed):
    runs = sampled(seed, 20)
    replay = Replay(num_seeds=3, refines=True)
    replay.stage("search", runs)
    by_name = {trial.trial: (trial, last, epoch_s) for trial, last, epoch_s in runs}
    rounds = list(replay.points)
    for number in range(2):
        rounds = [
            dataclasses.replace(
                trial,
                trial=f"{trial.trial}{number}",
                num_params=trial.num_params // 2,
                parent=trial.trial,
                config={**trial.config, "epochs": EPOCHS // 4},
            )
            for trial in rounds
        ]
        refined = [(trial, EPOCHS // 4, true_s(trial)) for trial in rounds]
        by_name |= {trial.trial: (trial, last, epoch_s) for trial, last, epoch_s in refined}
        replay.stage("refine", refined, rounds)
    names = {point.trial for point in replay.points}
    while parents := {by_name[name][0].parent for name in names} - names - {None}:
        names |= parents
    runs = replicated([by_name[name] for name in sorted(names)], [1, 2, 3])
    start = replay.now
    replay.stage("confirm", runs, [trial for trial, *_ in runs], joins=False)
    assert max(map(abs, replay.errors(after=0.1))) < 1
    assert max(map(abs, replay.errors(after=0.4))) < 0.4
    confirm = [(now, left) for now, left in replay.estimates if now >= start]
    confirm_s = replay.now - start
    assert all(abs(left - (replay.now - now)) < 0.1 * confirm_s for now, left in confirm), "all runs left are counted"
    rises = [later - earlier for (_, earlier), (_, later) in itertools.pairwise(confirm)]
    assert max(rises) < 0.1 * confirm_s, "it falls, but for small steps"


def test_a_time_budget_bounds_the_search_and_leaves_no_time_for_replications():
    first = model("0000", 1e5, 5000)
    values = {"num_seeds": 3, "expected": {key(first): true_s(first)}}
    forecast = Forecast(num_frames=NUM_FRAMES, num_clips=NUM_CLIPS, **values).stage("search", 10)
    forecast = forecast.started(first, 0.0)
    training_s = EPOCHS * true_s(first)
    assert forecast.seconds(0.0, [], 3 * training_s) == 3 * training_s
    assert forecast.seconds(0.0, [], 20 * training_s) > 15 * training_s, "with the replications after it"


def test_a_resumed_sweep_uses_what_earlier_commands_measured():
    done = model("0000", 1e5, 5000)
    ended = dataclasses.replace(done, state="complete", epochs=EPOCHS, train_s=32.0)
    forecast = Forecast(num_frames=NUM_FRAMES, num_clips=NUM_CLIPS).stage("search", 2, earlier=[ended])
    assert forecast.seconds(0.0, [ended]) == pytest.approx(64.0)
    resumed = forecast.started(model("0001", 1e5, 5000), 0.0).epoch("0001", 13, 2.0)
    assert resumed.seconds(2.0, [ended]) == pytest.approx(3 * 2 + 32, rel=0.05)
    assert resumed.epoch("unknown", 1, 2.0) == resumed


def test_baselines_take_time_and_the_best_of_them_are_replicated():
    good, poor = model("cnn-1", 1e5, 1000, value=0.6, kind="cnn"), model("cnn-2", 1e5, 1000, kind="cnn")
    forecast = Forecast(num_seeds=2).stage("search", 0).more([good, poor])
    assert forecast.num_left == 2
    forecast = forecast.started(good, 0.0).epoch("cnn-1", 1, 1.0)
    # The rest of the first, all of the second, and two replications of what is measured by then: nothing.
    assert forecast.seconds(1.0, []) == pytest.approx(2 * EPOCHS - 1)
    forecast = forecast.epoch("cnn-1", EPOCHS, 16.0, 1.0)
    forecast = forecast.ended(dataclasses.replace(good, state="complete", train_s=16.0), 16.0, is_baseline=True)
    assert forecast.seconds(16.0, []) == pytest.approx(16 + 2 * 16)
    forecast = forecast.started(poor, 16.0).epoch("cnn-2", EPOCHS, 32.0, 16.0)
    forecast = forecast.ended(dataclasses.replace(poor, state="complete", train_s=16.0), 32.0, is_baseline=True)
    # The other one is worse.
    assert forecast.seconds(32.0, []) == pytest.approx(2 * 16)
    assert forecast.finished == {}


def test_the_time_to_reserve_is_that_of_usual_models():
    forecast = Forecast(num_seeds=3, num_slots=2).stage("search", 9)
    assert forecast.later_s([], 4) == 0.0
    for name, train_s in (("0000", 10.0), ("0001", 30.0)):
        trial = model(name, 1e5, 1000)
        forecast = forecast.started(trial, 0.0).epoch(name, EPOCHS, train_s, train_s)
        forecast = forecast.ended(dataclasses.replace(trial, state="complete", train_s=train_s), train_s)
    # Four models of 20 s each with three seeds, two at a time.
    assert forecast.usual_s() == pytest.approx(20.0)
    assert forecast.later_s([], 4) == pytest.approx(120.0)
    dear = [model("0001", 1e5, 1000)]
    refining = dataclasses.replace(forecast, refines=True)
    assert forecast.later_s(dear, 4) == pytest.approx(120.0)
    assert 120.0 < refining.later_s(dear, 4) < 150.0
    # A baseline that waits, of the same work and so of 30 s.
    waiting = dataclasses.replace(dear[0], trial="", config={**dear[0].config, "input": "thumbnail"})
    assert forecast.more([waiting]).later_s([], 4) == pytest.approx(120.0 + forecast.training_s(waiting) / 2)
    assert forecast.training_s(waiting) > 5

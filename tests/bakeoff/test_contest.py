"""Test the command reproduce --bakeoff: search, seeds, table and figure, its resumption, faults."""

import csv
import json
import statistics

import pytest

from pipelines.bakeoff import contest
from pipelines.evaluation.bootstrap import resample
from pipelines.reproduce import main
from pipelines.training.run_directory import RunDirectory
from pipelines.video.frame import FrameSize
from tests.runs import train_queues_here
from tests.shards import make_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "waves", frame=FrameSize(width=8, height=8, channels=1))


@pytest.fixture
def trained(monkeypatch):
    """Trains in this process, without Ray; the list of the trainings."""
    return train_queues_here(monkeypatch, contest)


def arguments(shards, out, *more):
    few = ["--budgets", "700", "--contenders", "tt+tt", "cp+tt", "--num-trials", "2", "--seeds", "2", "--steps", "6"]
    return ["--bakeoff", str(shards), "--out", str(out), *few, *more]


def test_the_best_of_the_search_is_trained_with_new_seeds_and_tested(shards, tmp_path, trained, capsys, monkeypatch):
    drawn = []

    def recorded(*args):
        drawn.append(resample(*args))
        return drawn[-1]

    monkeypatch.setattr("pipelines.bakeoff.table.resample", recorded)
    out = tmp_path / "out"
    assert main([*arguments(shards, out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    searched = [one for one in trained if "/search-" in one.name]
    final = [one for one in trained if "/seed-" in one.name]
    assert len(searched) == len(final) == 4
    # 6 steps are 2 epochs of 36 clips in batches of 16; a third of them is 1 epoch.
    assert {one.options.epochs for one in searched} == {1}
    assert {one.options.epochs for one in final} == {2}
    assert [one.options.seed for one in final] == [1, 2, 1, 2]
    assert not list(out.glob("runs/*/*/*/search-*/test"))
    for name in ("tt+tt", "cp+tt"):
        runs = {path.name: RunDirectory(path) for path in (out / "runs" / "700" / "waves" / name).iterdir()}
        metrics = {key: run.result()["val_metric"] for key, run in runs.items() if key.startswith("search")}
        best = max(sorted(metrics), key=metrics.get)
        same = ("ranks", "recurrent_ranks", "hidden_modes", "lr")
        assert {key: runs[best].options()[key] for key in same} == {key: runs["seed-1"].options()[key] for key in same}
        (row,) = [row for row in result["table"] if row["contender"] == name]
        tests = [runs[f"seed-{seed}"].result()["value"] for seed in (1, 2)]
        assert row["test_mean"] == pytest.approx(statistics.fmean(tests))
        assert row["seed_variance"] == pytest.approx(statistics.variance(tests))
        assert row["num_params"] <= 700
    first, second = result["table"]
    assert first["difference"] == 0
    assert second["difference"] == pytest.approx(second["test_mean"] - first["test_mean"])
    # Resamples of two seeds of each contender, paired: those of one number have the same clips.
    means = [(one.values + two.values) / 2 for one, two in (drawn[:2], drawn[2:])]
    assert second["clip_variance"] == pytest.approx(means[1].var())
    assert second["difference_clip_variance"] == pytest.approx((means[1] - means[0]).var())
    with (out / "bakeoff.csv").open() as file:
        assert [row["contender"] for row in csv.DictReader(file)] == ["tt+tt", "cp+tt"]
    assert "cp+tt" in (out / "bakeoff.md").read_text()
    assert (out / "bakeoff.png").stat().st_size > 1000


def test_complete_runs_are_not_run_again_and_contenders_can_be_added(shards, tmp_path, trained):
    out = tmp_path / "out"
    assert main(arguments(shards, out)) == 0
    trained.clear()
    assert main(arguments(shards, out, "--resume")) == 0
    assert not trained
    assert main(arguments(shards, out, "--resume", "--contenders", "tt+tt", "tt+dense")) == 0
    assert {one.name.split("/")[3] for one in trained} == {"tt+dense"}
    with (out / "bakeoff.csv").open() as file:
        assert [row["contender"] for row in csv.DictReader(file)] == ["tt+tt", "cp+tt", "tt+dense"]


def test_a_contender_without_a_model_that_is_small_enough_stands_in_the_table(shards, tmp_path, trained):
    out = tmp_path / "out"
    assert main(arguments(shards, out, "--budgets", "40", "--contenders", "tt+tt")) == 0
    with (out / "bakeoff.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["note"] == "no model is small enough"
    assert row["test_mean"] == ""


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--contenders", "tt+tt", "svd+tt"], "contenders must be among tt+tt, cp+tt"),
        (["--budgets", "0"], "budgets must be positive numbers of parameters, got [0]"),
        (["--seeds", "0"], "seeds must be at least 1, got 0"),
    ],
)
def test_wrong_options_are_refused_in_one_line(shards, tmp_path, more, message, caplog):
    assert main(arguments(shards, tmp_path / "out", *more)) == 2
    assert message in caplog.text
    assert not (tmp_path / "out").exists()


def test_other_steps_than_before_are_refused(shards, tmp_path, trained, caplog):
    out = tmp_path / "out"
    assert main(arguments(shards, out, "--budgets", "40")) == 0
    assert main(arguments(shards, out, "--resume", "--steps", "9")) == 2
    assert "was started with steps 6, not 9" in caplog.text


def test_overwrite_never_deletes_the_data(tmp_path, trained, caplog):
    shards = make_shards(tmp_path / "out" / "shards")
    (tmp_path / "out" / "bakeoff.json").write_text("{}")
    assert main(arguments(shards, tmp_path / "out", "--overwrite")) == 2
    assert f"--overwrite deletes {tmp_path / 'out'}, in which {shards} lies" in caplog.text
    assert (shards / "dataset.json").exists()


def test_shards_without_test_clips_are_refused(tmp_path, trained, caplog):
    shards = make_shards(tmp_path / "untested")
    document = json.loads((shards / "dataset.json").read_text())
    del document["splits"]["test"]
    (shards / "dataset.json").write_text(json.dumps(document))
    assert main(arguments(shards, tmp_path / "out")) == 2
    assert "has no split 'test'; it has train, val" in caplog.text
    assert not (tmp_path / "out").exists()

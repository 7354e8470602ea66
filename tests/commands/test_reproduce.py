"""Test the command reproduce: the table of the paper from videos or shards, its resumption, faults."""

import csv
import json
import subprocess
import sys
import time

import pytest

from pipelines.core.errors import UserError
from pipelines.data.dataset import ShardDataset
from pipelines.data.folds import open_folds
from pipelines.paper import reproduction
from pipelines.paper.protocols import PaperRun, ReproduceOptions
from pipelines.paper.reproduction import reproduce
from pipelines.reproduce import main, summary
from pipelines.storage.location import Location
from pipelines.storage.lock import only_writer
from pipelines.training.run_directory import RunDirectory
from tests.processes import Child
from tests.runs import train_queues_here
from tests.shards import make_shards
from tests.videos import moving_square, write_video


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards", num_groups=6)


@pytest.fixture
def trained(monkeypatch):
    """Trains in this process, without Ray; the list of the trained runs."""

    def paper_run(training):
        *_, protocol, model, _ = RunDirectory(training.options.out).path.parts
        return PaperRun(protocol, model, training.options)

    return train_queues_here(monkeypatch, reproduction, paper_run)


def options(shards, out, **values):
    few = {"models": ("tt-srnn", "dense-srnn"), "folds": 2, "epochs": 1, "lr": 1e-3}
    return ReproduceOptions(data=str(shards), out=str(out), dataset="ucf11", **(few | values))


def lines(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_a_row_per_protocol_and_model_and_each_clip_is_tested_once(shards, tmp_path, trained):
    result = reproduce(options(shards, tmp_path / "out"))
    num_clips = len(ShardDataset.open(shards).clips())
    assert [(row["protocol"], row["model"]) for row in result["table"]] == [
        (protocol, model) for protocol in ("published", "ours") for model in ("tt-srnn", "dense-srnn")
    ]
    for row in result["table"]:
        assert (row["num_runs"], row["num_planned"], row["num_clips"]) == (2, 2, num_clips)
        assert row["chance"] == pytest.approx(1 / 3)
        assert 0 <= row["low"] <= row["high"] <= 1
    written = lines(tmp_path / "out" / "table.csv")
    assert [float(row["value"]) for row in written] == [row["value"] for row in result["table"]]
    assert len(lines(tmp_path / "out" / "runs.csv")) == len(trained) == 8
    text = (tmp_path / "out" / "table.md").read_text()
    assert "validated on the test fold" in text
    assert "published.csv; not measured here" in text
    assert "for other data, with 11 classes, and not comparable" in text
    assert "exit_code" not in result


def test_only_our_protocol_keeps_groups_together(shards, tmp_path, trained):
    reproduce(options(shards, tmp_path / "out", models=("tt-srnn",)))
    for run in trained:
        with (
            tmp_path / "out" / "runs" / run.protocol / "tt-srnn" / "fold-0-of-2-seed-0" / "test" / "predictions.csv"
        ).open() as file:
            tested = [row["group"] for row in csv.DictReader(file)]
        whole = [group for group in ShardDataset.open(shards).clips().groups if group in set(tested)]
        assert (sorted(whole) == sorted(tested)) == (run.protocol == "ours")


def test_official_splits_are_kept_and_multi_label_clips_are_ranked(tmp_path, trained):
    shards = make_shards(tmp_path / "shards", multi_label=True)
    result = reproduce(ReproduceOptions(data=str(shards), out=str(tmp_path / "out"), dataset="hollywood2",
                                        models=("tt-gru",), epochs=1))  # fmt: skip
    made = ShardDataset.open(shards)
    for run, row in zip(trained, result["table"], strict=True):
        data = open_folds(shards, run.train.folding)
        assert data.split("test").clip_ids == made.split("test").clip_ids
        num_train = len(made.split("train")) + (len(made.split("val")) if run.protocol == "published" else 0)
        assert len(data.split("train")) == num_train
        assert row["metric"] == "mean_average_precision"
        assert (row["num_clips"], row["published"]) == (12, 0.537)


def test_resuming_trains_only_missing_runs_and_can_add_models(shards, tmp_path, trained):
    out = tmp_path / "out"
    first = reproduce(options(shards, out, protocol="ours"))
    assert len(trained) == 4
    with pytest.raises(UserError, match="--resume"):
        reproduce(options(shards, out))
    again = reproduce(options(shards, out, protocol="ours", resume=True))
    assert (again["table"], len(trained)) == (first["table"], 4)
    (out / "runs" / "ours" / "tt-srnn" / "fold-1-of-2-seed-0" / "result.json").unlink()
    more = reproduce(options(shards, out, protocol="ours", models=("tt-srnn", "dense-srnn", "tt-gru"), resume=True))
    assert [run.model for run in trained[4:]] == ["tt-gru", "tt-srnn", "tt-gru"]
    assert [row["value"] for row in more["table"][:2]] == [row["value"] for row in first["table"]]
    with pytest.raises(UserError, match="was started with epochs 1, not 2"):
        reproduce(options(shards, out, epochs=2, resume=True))


def test_a_table_that_was_moved_is_complete(shards, tmp_path, trained):
    before = reproduce(options(shards, tmp_path / "out", protocol="ours"))["table"]
    (tmp_path / "out").rename(tmp_path / "moved")
    assert reproduce(options(shards, tmp_path / "moved", protocol="ours", resume=True))["table"] == before


def test_a_table_keeps_the_rows_of_earlier_commands(shards, tmp_path, trained):
    out = tmp_path / "out"
    first = reproduce(options(shards, out, protocol="ours", models=("tt-srnn",), seeds=2))["table"]
    both = reproduce(options(shards, out, protocol="published", models=("tt-gru",), resume=True))["table"]
    assert [(row["protocol"], row["model"], row["num_runs"]) for row in both] == [
        ("published", "tt-gru", 2),
        ("ours", "tt-srnn", 4),
    ]
    assert both[1] == first[0]
    assert len(trained) == 4 + 2
    assert "the best epoch on validation clips, tested once" in (out / "table.md").read_text()


def test_a_table_has_one_command_at_a_time(shards, tmp_path, trained):
    with only_writer(Location.of(tmp_path / "out")):
        (tmp_path / "out" / "reproduce.json").write_text("{}")
        for option in ("resume", "overwrite"):
            with pytest.raises(UserError, match="another command is writing"):
                reproduce(options(shards, tmp_path / "out", **{option: True}))
        assert (tmp_path / "out" / "reproduce.json").read_text() == "{}"


def test_a_failed_run_is_a_note_in_its_row_and_the_others_continue(shards, tmp_path, trained):
    result = reproduce(options(shards, tmp_path / "out", models=("tt-srnn",), protocol="ours", lr=1e36, epochs=3))
    (row,) = result["table"]
    assert (row["value"], row["num_runs"]) == (None, 0)
    assert "2 of 2 runs failed: diverged" in row["note"]
    assert (result["num_failed"], result["exit_code"]) == (2, 1)
    assert "diverged" in summary(result)


def test_a_run_that_exceeds_its_time_limit_counts_with_a_note(shards, tmp_path, trained):
    result = reproduce(
        options(shards, tmp_path / "out", models=("tt-srnn",), protocol="ours", epochs=50, time_limit_minutes=1e-9)
    )
    (row,) = result["table"]
    assert row["note"] == "2 of 2 runs stopped after 1 epoch for lack of time"
    assert (row["epochs"], row["num_runs"]) == (1, 2)
    assert "stopped after 1 epoch for" in summary(result)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["{tmp}/nothing", "{tmp}/out", "--dataset", "ucf11"], "nothing does not exist"),
        (["{shards}", "{tmp}/out", "--dataset", "ucf12"], "ucf11, hollywood2"),
        (["{shards}", "{tmp}/out"], "DATASET is missing"),
        (["{shards}", "{tmp}/out", "--dataset", "ucf11", "--folds", "7"], "use fewer --folds"),
        (["{shards}", "{tmp}/out", "--dataset", "ucf11", "--max-frames", "9"], "leave it out"),
        (["{shards}", "{parent}", "--dataset", "ucf11", "--overwrite"], "--overwrite deletes"),
    ],
    ids=["no data", "unknown data set", "no data set", "too few groups", "max-frames for shards", "data in OUT"],
)
def test_user_errors_end_with_2_and_one_line(shards, tmp_path, capsys, words, hint):
    words = [word.format(shards=shards, tmp=tmp_path, parent=shards.parent) for word in words]
    assert main(words) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert hint in line
    assert (shards / "dataset.json").exists()
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Videos of two classes in the layout of UCF11, CLASS/v_CLASS_NN/v_CLASS_NN_NN.avi: 4 groups of 2 clips each."""
    root = tmp_path_factory.mktemp("videos")
    for index, name in enumerate(("left", "right")):
        for group in range(4):
            for clip in range(2):
                frames = moving_square(8, step=1 + 2 * index, level=150 + 20 * group + clip)
                write_video(root / name / f"v_{name}_{group:02}" / f"v_{name}_{group:02}_{clip:02}.avi", frames)
    return root


def test_a_killed_reproduction_resumes_where_it_was(videos, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    out = tmp_path / "out"
    words = [str(videos), str(out), "--dataset", "ucf11", "--models", "tt-srnn", "--folds", "2", "--protocol", "ours"]
    words += ["--epochs", "2", "--lr", "1e-3", "--max-frames", "6"]
    results = lambda: sorted(out.glob("runs/*/*/*/result.json"))  # noqa: E731
    command = [sys.executable, "-m", "pipelines.reproduce", *words]
    process = Child(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not results():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    # Its Ray processes end some seconds later; the next command is not affected.
    process.kill()
    process.wait(timeout=60)
    first = {path: path.stat().st_mtime_ns for path in results()}
    assert main([*words, "--resume", "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["table"]
    assert (row["num_runs"], row["num_clips"], row["epochs"]) == (2, 16, 2)
    assert row["input_params"] == 2_976
    assert {path: path.stat().st_mtime_ns for path in first} == first
    data = ShardDataset.open(out / "shards")
    assert (data.frame.width, data.frame.height, data.classes) == (160, 120, ("left", "right"))
    assert data.clips().lengths.max() == 6

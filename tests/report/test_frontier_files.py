"""pipelines/report/frontier_files.py: the frontier, what it is computed from, and the files that show it."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import IntDistribution

from pipelines.core.errors import UserError
from pipelines.report.frontier_files import COLUMNS, write_frontier
from pipelines.tuning.frontier import hypervolume
from tests.sweeps import CLASSES, TRIALS, Evaluate, add_baselines, config, make_sweep, write_replications
from tests.tuning.test_importance import make_study

FILES = ("trials.csv", "pareto.csv", "pareto.json", "pareto.png", "report.html")

# test_html.py looks at the figure.
pytestmark = pytest.mark.usefixtures("without_figure")


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "trials",
    [{}, {"0000": None}, {"0000": TRIALS["0004"], "0001": TRIALS["0006"]}],
    ids=["no trial", "no summary", "pruned and failed"],
)
def test_sweep_without_a_finished_trial_is_refused(tmp_path: Path, trials: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"none of its {len(trials)} trials has finished.*--resume"):
        write_frontier(make_sweep(tmp_path / "sweep", trials), Evaluate())
    assert not any((tmp_path / "sweep" / name).exists() for name in (*FILES, "best"))


def test_csv_files_have_the_columns_of_the_design(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "sweep")
    write_frontier(sweep, Evaluate())
    names = [
        "trial",
        "state",
        "num_params",
        "input_params",
        "val_metric",
        "test_metric",
        "epochs",
        "train_s",
        *config(),
        "hidden",
    ]
    trials, points = read_csv(sweep / "trials.csv"), read_csv(sweep / "pareto.csv")
    assert list(trials[0]) == names
    assert list(points[0]) == [*names, "val_mean", "test_mean", "num_seeds"]
    assert names[:8] == list(COLUMNS)
    assert [trial["trial"] for trial in trials] == sorted(TRIALS)
    assert list(points[1].values()) == [
        "0001",
        "complete",
        "3000",
        "400",
        "0.8",
        "0.52",
        "5",
        "61.5",
        "gru",
        "tt",
        "8x4x8x8",
        "4x4x4x4",
        "3x3x3",
        "none",
        "0.003",
        *["", "", "", ""],
    ]
    assert {trial["trial"]: trial["test_metric"] for trial in trials if trial["test_metric"]} == {
        "0003": "0.51",
        "0001": "0.52",
        "0005": "0.53",
    }
    assert (trials[0]["in_modes"], trials[7]["in_modes"], trials[7]["num_params"]) == ("none", "", "")
    assert trials[3]["hidden"] == '"x",\ny'


def test_configured_name_never_hides_a_column(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "sweep", {"0000": {"num_params": 9, "val_metric": 0.5, "config": {"epochs": 100}}})
    write_frontier(sweep, Evaluate())
    assert (sweep / "trials.csv").read_text().splitlines() == [",".join(COLUMNS), "0000,complete,9,400,0.5,0.51,5,61.5"]


def test_json_names_frontier_best_knee_and_baseline(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "sweep")
    result = write_frontier(sweep, Evaluate())
    data = json.loads((sweep / "pareto.json").read_text())
    assert (data["format"], data["version"]) == ("ttrnn-pareto", 1)
    assert [trial["trial"] for trial in data["frontier"]] == ["0003", "0001", "0005"]
    assert (data["best"], data["knee"], data["highest"], data["baseline"]) == ("0001", "0001", "0005", "0000")
    assert data["classes"] == CLASSES
    assert data["command"] == (
        "python -m pipelines.sweep --data clips --out runs/sweep --space default --num-trials 8 "
        "--epochs 5 --seed 0 --num-workers 1"
    )
    assert {name: value for name, value in result.items() if name != "files"} == data
    assert all(Path(path).exists() for path in result["files"].values())
    assert set(result["files"]) == {*FILES, "best"}


def test_test_split_is_evaluated_once_and_for_the_frontier_only(tmp_path: Path) -> None:
    sweep, evaluate = make_sweep(tmp_path / "sweep"), Evaluate()
    first = write_frontier(sweep, evaluate)
    assert evaluate.evaluated == ["0003", "0001", "0005"]
    second = write_frontier(sweep, evaluate)
    assert evaluate.evaluated == ["0003", "0001", "0005"]
    assert second["frontier"] == first["frontier"]


def test_test_split_is_evaluated_again_if_weights_changed(tmp_path: Path) -> None:
    sweep, evaluate = make_sweep(tmp_path / "sweep"), Evaluate()
    write_frontier(sweep, evaluate)
    (sweep / "trials/0001/model/model.safetensors").write_bytes(b"trained anew")
    result = write_frontier(sweep, evaluate)
    assert evaluate.evaluated == ["0003", "0001", "0005", "0001"]
    assert [trial["test_metric"] for trial in result["frontier"]] == [0.51, 0.54, 0.53]


def test_test_split_is_evaluated_again_if_pareto_json_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sweep, evaluate = make_sweep(tmp_path / "sweep"), Evaluate()
    (sweep / "pareto.json").write_text('{"frontier": [{"tri')
    write_frontier(sweep, evaluate)
    assert evaluate.evaluated == ["0003", "0001", "0005"]
    assert "pareto.json cannot be read" in caplog.text


def test_without_shards_the_test_metric_stays_as_it_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sweep, evaluate = make_sweep(tmp_path / "sweep"), Evaluate()
    write_frontier(sweep, evaluate)
    shutil.rmtree(sweep / "shards")
    (sweep / "trials/0001/model/model.safetensors").write_bytes(b"trained anew")
    result = write_frontier(sweep, evaluate)
    assert [trial["test_metric"] for trial in result["frontier"]] == [0.51, None, 0.53]
    assert f"test_metric stays empty: the shards {sweep / 'shards'} are gone" in caplog.text


def test_data_set_without_test_clips_is_not_evaluated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sweep, evaluate = make_sweep(tmp_path / "sweep", num_test_clips=0), Evaluate()
    write_frontier(sweep, evaluate)
    assert evaluate.evaluated == []
    assert [trial["test_metric"] for trial in read_csv(sweep / "pareto.csv")] == ["", "", ""]
    assert "the data set has no test clips" in caplog.text


def test_metrics_of_the_frontier_come_with_their_intervals(tmp_path: Path) -> None:
    best = {**(TRIALS["0005"] or {}), "val_interval": [0.85, 0.95]}
    sweep = make_sweep(tmp_path / "sweep", {**TRIALS, "0005": best})
    for _ in range(2):
        result = write_frontier(sweep, Evaluate())
        found = [(trial["val_interval"], trial["test_interval"]) for trial in result["frontier"]]
        assert found[0] == (None, pytest.approx([0.385, 0.635]))
        assert found[2] == ([0.85, 0.95], pytest.approx([0.405, 0.655]))


def test_best_is_a_copy_of_the_best_points_model(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "sweep")
    (sweep / "best").mkdir()
    (sweep / "best/stale").write_text("of an earlier best")
    write_frontier(sweep, Evaluate())
    assert sorted(path.name for path in (sweep / "best").iterdir()) == ["config.json", "model.safetensors"]
    assert (sweep / "best/model.safetensors").read_bytes() == b"0001"


def test_point_of_the_frontier_without_its_model_is_refused(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "sweep")
    shutil.rmtree(sweep / "trials/0001/model")
    with pytest.raises(UserError, match=r"trial 0001 is a point of the frontier, but .* is missing; put it back"):
        write_frontier(sweep, Evaluate())


def test_an_error_leaves_every_file_unchanged(tmp_path: Path) -> None:
    def fail(*args: Any, **kwargs: Any) -> dict[str, Any]:
        raise UserError("shard cut in half")

    sweep = make_sweep(tmp_path / "sweep")
    write_frontier(sweep, Evaluate())
    before = {path: path.read_bytes() for path in sweep.iterdir() if path.is_file()}
    (sweep / "trials/0001/model/model.safetensors").write_bytes(b"trained anew")
    with pytest.raises(UserError, match="shard cut in half"):
        write_frontier(sweep, fail)
    assert {path: path.read_bytes() for path in sweep.iterdir() if path.is_file()} == before


def test_frontier_best_and_knee_are_chosen_by_the_means_of_replications(tmp_path: Path) -> None:
    sweep, evaluate = make_sweep(tmp_path / "sweep"), Evaluate()
    write_replications(sweep, {"0003": [0.3, 0.3], "0001": [0.8, 0.84], "0005": [0.8, 0.8]})
    data = write_frontier(sweep, evaluate)
    # Of the weights of the sweep only those of the frontier are tested; best/ is one of them.
    assert evaluate.evaluated == ["0003", "0001"]
    assert ([point["trial"] for point in data["frontier"]], data["best"]) == (["0003", "0001"], "0001")
    (lost,) = data["not_replicated"]
    assert (lost["trial"], lost["not_replicated"], lost["val_metric"]) == ("0005", True, 0.85)
    assert data["replications"]["seeds"] == [1, 2]
    replication = data["frontier"][1]["replication"]
    assert (replication["seeds"], replication["val"]) == ([1, 2], [0.8, 0.84])
    assert (replication["val_mean"], replication["test_mean"]) == (pytest.approx(0.82), pytest.approx(0.81))
    assert (sweep / "best/model.safetensors").read_bytes() == b"0001"
    row = read_csv(sweep / "pareto.csv")[1]
    assert (row["val_metric"], float(row["val_mean"]), row["num_seeds"]) == ("0.8", pytest.approx(0.82), "2")
    assert "val_mean" not in read_csv(sweep / "trials.csv")[0]
    assert write_frontier(sweep, evaluate)["not_replicated"] == data["not_replicated"]
    assert len(evaluate.evaluated) == 2


def test_a_replicated_dense_model_is_preferred_as_the_baseline(tmp_path: Path) -> None:
    better_once = {**(TRIALS["0000"] or {}), "val_metric": 0.72}
    sweep = make_sweep(tmp_path / "sweep", {**TRIALS, "0008": better_once})
    assert write_frontier(sweep, Evaluate())["baseline"] == "0008"
    write_replications(sweep, {"0003": [0.3], "0001": [0.8], "0005": [0.9], "0000": [0.7]})
    assert write_frontier(sweep, Evaluate())["baseline"] == "0000"


def test_the_test_metric_of_a_point_that_was_not_replicated_is_kept(tmp_path: Path) -> None:
    sweep, evaluate = make_sweep(tmp_path / "sweep"), Evaluate()
    write_frontier(sweep, evaluate)
    write_replications(sweep, {"0003": [0.3], "0001": [0.8], "0005": [0.5]})
    for _ in range(2):
        (lost,) = write_frontier(sweep, evaluate)["not_replicated"]
        assert (lost["trial"], lost["test_metric"]) == ("0005", 0.53)
    assert len(evaluate.evaluated) == 3


def test_a_pareto_json_of_an_earlier_version_keeps_its_test_metrics(tmp_path: Path) -> None:
    sweep, evaluate = make_sweep(tmp_path / "sweep"), Evaluate()
    write_frontier(sweep, evaluate)
    data = json.loads((sweep / "pareto.json").read_text())
    # Earlier versions called points that were not replicated lucky.
    del data["not_replicated"]
    data["lucky"] = [data["frontier"].pop()]
    (sweep / "pareto.json").write_text(json.dumps(data))
    assert [point["test_metric"] for point in write_frontier(sweep, evaluate)["frontier"]] == [0.51, 0.52, 0.53]
    assert len(evaluate.evaluated) == 3


def test_json_has_the_results_of_the_whole_sweep(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "sweep", {**TRIALS, "0008": {"state": "stopped", "num_params": 9, "epochs": 2}})
    (sweep / "trials/0007/metrics.jsonl").write_text('{"epoch": 1, "val_metric": 0.5}\n')
    data = write_frontier(sweep, Evaluate())
    # Complete trials 25 epochs, pruned 1, failed 5, stopped 2, killed 1.
    assert data["epochs_trained"] == 34
    places = [(1_000, 0.3), (3_000, 0.8), (40_000, 0.85)]
    assert data["hypervolume"] == pytest.approx(hypervolume(places))
    assert "from 100 to 10,000,000 parameters" in data["hypervolume_reference"]
    assert (data["num_too_large"], data["num_duplicates"], data["importances"], data["edges"]) == (0, 0, None, [])
    assert (data["not_replicated"], data["replications"], data["published"]) == ([], None, [])
    point = data["frontier"][0]
    assert [row["class"] for row in point["per_class"]] == CLASSES
    assert (point["replication"], point["not_replicated"], point["params"], point["parent"]) == (None, False, {}, None)
    assert next(trial for trial in data["trials"] if trial["trial"] == "0000")["per_class"] is None
    assert next(trial for trial in data["trials"] if trial["trial"] == "0007")["curve"] == [[1, 0.5]]


def test_json_has_the_sampled_values_of_each_trial(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "sweep")
    study = make_study(sweep)
    asked = [study.ask({"rank": IntDistribution(1, 8)}).params for _ in range(6)]
    data = write_frontier(sweep, Evaluate())
    assert [trial["params"] for trial in data["trials"]] == [*asked, {}, {}]


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("ucf11", [("tt-gru", 3232, 0.813), ("tt-lstm", 3360, 0.796)]),
        ("YouTube-Celebrities", [("tt-gru", 3328, 0.8), ("tt-lstm", 3392, 0.755)]),
        ("words", []),
    ],
)
def test_published_accuracies_are_given_for_the_papers_data_sets(
    tmp_path: Path, dataset: str, expected: list[tuple[str, int, float]]
) -> None:
    data = write_frontier(make_sweep(tmp_path / "sweep", dataset=dataset), Evaluate())
    assert [tuple(claim.values()) for claim in data["published"]] == expected
    assert all(list(claim) == ["model", "num_input_params", "accuracy"] for claim in data["published"])


def test_baselines_are_tested_and_listed_and_never_on_the_frontier(tmp_path: Path) -> None:
    evaluate = Evaluate()
    sweep = add_baselines(make_sweep(tmp_path / "sweep"), {"thumbnail-3000": (2_900, 0.99), "cnn-1000": (900, 0.2)})
    for _ in range(2):
        data = write_frontier(sweep, evaluate)
        assert evaluate.evaluated == ["0003", "0001", "0005", "cnn-1000", "thumbnail-3000"]
    assert [point["trial"] for point in data["frontier"]] == ["0003", "0001", "0005"]
    assert [(each["trial"], each["state"], each["test_metric"]) for each in data["baselines"]] == [
        ("cnn-1000", "baseline", 0.54),
        ("thumbnail-3000", "baseline", 0.55),
    ]
    assert {trial["trial"] for trial in data["trials"]} == set(TRIALS)
    rows = read_csv(sweep / "trials.csv")
    assert [(row["trial"], row["state"], row["input"]) for row in rows[-2:]] == [
        ("cnn-1000", "baseline", "cnn"),
        ("thumbnail-3000", "baseline", "thumbnail"),
    ]
    assert "baseline" not in {row["state"] for row in read_csv(sweep / "pareto.csv")}
    assert (data["best"], data["baseline"], data["verdict"]["outcome"]) == ("0001", "thumbnail-3000", "loses")
    assert (sweep / "best/model.safetensors").read_bytes() == b"0001"
    assert data["epochs_trained"] == 31


def test_baselines_are_drawn_by_their_means_where_the_frontier_is(tmp_path: Path) -> None:
    sweep = add_baselines(make_sweep(tmp_path / "sweep"), {"thumbnail-3000": (2_900, 0.99), "cnn-1000": (900, 0.2)})
    write_replications(
        sweep, {"0003": [0.3], "0001": [0.8], "0005": [0.85], "thumbnail-3000": [0.6], "cnn-1000": [0.3]}
    )
    data = write_frontier(sweep, Evaluate())
    assert [each["replication"]["val_mean"] for each in data["baselines"]] == [0.3, 0.6]
    assert [point["trial"] for point in data["frontier"]] == ["0003", "0001", "0005"]
    assert data["verdict"]["val"]["difference"] == pytest.approx(0.3 - 0.6)
    (row,) = [row for row in read_csv(sweep / "trials.csv") if row["trial"] == "thumbnail-3000"]
    assert row["val_metric"] == "0.99"

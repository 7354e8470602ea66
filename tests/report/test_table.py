"""pipelines/report/table.py: the frontier in the terminal."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.report.frontier_files import write_frontier
from pipelines.report.table import frontier_table
from tests.sweeps import Evaluate, add_baselines, config, make_sweep, write_replications

pytestmark = pytest.mark.usefixtures("without_figure")


def printed(result: dict[str, Any], width: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, soft_wrap=True, highlight=False).print(frontier_table(result))
    return file.getvalue().splitlines()


def test_table_shows_frontier_baseline_and_paths_of_the_files(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "sweep", dataset="[red]words")
    lines = printed(write_frontier(sweep, Evaluate()), 120)
    rows = {line.split()[0]: " ".join(line.split()) for line in lines if line.startswith("0")}
    assert list(rows) == ["0003", "0001", "0005", "0000"]
    assert rows["0001"] == "0001 gru 8x4x8x8 → 4x4x4x4 3x3x3 none 3,000 400 80.0% 52.0% best, knee"
    assert " ".join(lines[lines.index(next(line for line in lines if line.startswith("0001"))) + 1].split()) == "40-64"
    assert rows["0005"].endswith(" highest")
    assert rows["0000"] == "0000 gru dense → 4x4x4x4 none none 90,000 400 70.0% - baseline"
    text = "\n".join(lines)
    assert "[red]words: accuracy" in text
    assert "5 of 8 trials finished, 31 epochs in all; 60 validation and 30 test clips; chance 33.3%" in text
    assert str(sweep / "report.html") in text
    assert f"-m pipelines.export {sweep} exported --select knee" in text


def test_the_last_line_warns_of_a_best_model_that_is_hardly_better_than_chance(tmp_path: Path) -> None:
    trials = {"0000": {"num_params": 10, "val_metric": 0.206, "val_interval": [0.088, 0.353], "config": config()}}
    result = write_frontier(make_sweep(tmp_path / "sweep", trials, chance=1 / 11), Evaluate())
    assert printed(result, 120)[-1].startswith("20.6% is hardly better than chance (9.1%)")
    assert not printed({**result, "warning": None}, 120)[-1].startswith("20.6%")


def test_table_shows_all_numbers_on_80_columns(tmp_path: Path) -> None:
    trials = {
        "0000": {
            "num_params": 12_345_678,
            "input_params": 1_234_567,
            "val_metric": 0.5,
            "config": config(in_modes="8x20x20x18", ranks="10x10x10", recurrent_ranks="4x4x4"),
        }
    }
    text = "\n".join(printed(write_frontier(make_sweep(tmp_path / "sweep", trials), Evaluate()), 80))
    assert all(part in text for part in ("8x20x20x18", "10x10x10", "12,345,678", "1,234,567", "50.0%", "51.0%"))


def test_table_shows_means_points_that_were_not_replicated_and_failed_replications(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "sweep")
    write_replications(sweep, {"0003": [0.3, 0.3], "0001": [0.8, 0.84], "0005": [0.8, 0.8]})
    plan = {"seeds": [1, 2], "failed": [{"trial": "0001", "seed": 3, "error": "died"}]}
    (sweep / "confirm/plan.json").write_text(json.dumps(plan))
    text = " ".join("\n".join(printed(write_frontier(sweep, Evaluate()), 120)).split())
    assert "means of 2 trainings with new seeds" in text
    assert "not replicated: trial 0005 had 85.0% in the sweep, but 80.0% on average with new seeds" in text
    assert "replication failed: trial 0001 with seed 3: died" in text
    assert " 82.0% 81.0% " in text
    (sweep / "confirm/0005-s2/result.json").unlink()
    plan["failed"] = [{"trial": "0005", "seed": 2, "error": "diverged"}]
    (sweep / "confirm/plan.json").write_text(json.dumps(plan))
    text = " ".join("\n".join(printed(write_frontier(sweep, Evaluate()), 120)).split())
    assert "replication failed: trial 0005 with seed 2: diverged" in text
    assert "Training it again with new seeds failed for some of them" in (sweep / "report.html").read_text()


def test_points_for_whose_replication_there_was_no_time_are_named_once(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "sweep")
    write_replications(sweep, {"0001": [0.8, 0.84]})
    plan = {"seeds": [1, 2], "failed": [], "left_out": ["0003", "0005"]}
    (sweep / "confirm/plan.json").write_text(json.dumps(plan))
    result = write_frontier(sweep, Evaluate())
    assert [point["trial"] for point in result["frontier"]] == ["0001"]
    text = " ".join("\n".join(printed(result, 120)).split())
    assert "no time to replicate 0003, 0005: resume with --confirm, or a --time-budget" in text
    page = (sweep / "report.html").read_text()
    assert page.count("for lack of time, and left off the frontier: 0003, 0005.") == 1
    assert "failed for some of them" not in page


def test_table_lists_baselines_and_chance_below_the_frontier_and_the_sentence_below_it(tmp_path: Path) -> None:
    sweep = add_baselines(make_sweep(tmp_path / "sweep"), {"low-rank-10000": (9_900, 0.8), "linear": (900, 0.2)})
    data = write_frontier(sweep, Evaluate())
    for width in (80, 120):
        lines = printed(data, width)
        starts = [line.split()[0] for line in lines if line[:1].strip()]
        assert starts[starts.index("0005") + 1 :][:4] == ["linear", "low-rank-", "10000", "chance"]
        (chance,) = [line.split() for line in lines if line.startswith("chance")]
        assert chance == ["chance", "33.3%"]
    assert data["verdict"]["sentence"] in "\n".join(lines)

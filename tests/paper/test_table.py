"""Test paper/table.py: rows over folds and seeds, notes on incomplete rows, all formats."""

import csv

import pytest

from pipelines.paper.table import RUN_COLUMNS, WATCHED, rows, terminal_table, write_table


def a_run(tmp_path, fold, value=0.5, **values):
    """A run on 10 clips with the accuracy `value`."""
    out = tmp_path / f"{values.get('model', 'tt-gru')}-{fold}"
    (out / "test").mkdir(parents=True)
    lines = [f"clip {fold}.{i},g{fold}.{i // 2},a,-,{float(i < 10 * value)},0.5" for i in range(10)]
    (out / "test" / "predictions.csv").write_text("\n".join(["clip_id,group,label,predicted,p(a),p(b)", *lines]))
    run = {
        **dict.fromkeys(RUN_COLUMNS),
        "protocol": "ours",
        "model": "tt-gru",
        "fold": fold,
        "seed": 0,
        "state": "complete",
        "metric": "accuracy",
        "value": value,
        "chance": 0.5,
        "num_clips": 10,
        "epochs": 4,
        "train_s": 8.0,
        "peak_bytes": 10**8 + fold,
        "num_params": 5000,
        "input_params": 3232,
        "dense_params": 44_236_800,
        "published": 0.813,
        "out": str(out),
    }
    return run | values


def test_a_row_has_mean_and_standard_deviation_over_runs(tmp_path):
    (row,) = rows([a_run(tmp_path, 0, 0.4), a_run(tmp_path, 1, 0.8, epochs=2, train_s=2.0)])
    assert row["value"] == pytest.approx(0.6)
    assert row["spread"] == pytest.approx(0.2 * 2**0.5)
    assert row["low"] < 0.6 < row["high"]
    assert (row["num_runs"], row["num_planned"], row["num_clips"]) == (2, 2, 20)
    assert (row["epochs"], row["train_s"], row["epoch_s"]) == (3, 5.0, pytest.approx(5 / 3))
    assert row["compression"] == pytest.approx(13_687.1, abs=0.1)
    assert row["peak_bytes"] == 10**8 + 1
    assert row["note"] == ""


def test_one_run_has_no_standard_deviation(tmp_path):
    assert rows([a_run(tmp_path, 0)])[0]["spread"] is None


@pytest.mark.parametrize(
    ("states", "note"),
    [
        (["complete", "stopped"], "1 of 2 runs stopped after 4 epochs for lack of time"),
        (["failed", "complete"], "1 of 2 runs failed: it broke"),
        (["refused", "refused"], "2 of 2 runs refused: it broke"),
        (["complete", "waiting"], "1 of 2 runs waiting"),
    ],
    ids=" ".join,
)
def test_a_row_with_incomplete_runs_has_a_note(tmp_path, states, note):
    runs = [a_run(tmp_path, fold, state=state) for fold, state in enumerate(states)]
    for run in runs:
        if run["state"] in ("failed", "refused", "waiting"):
            run |= dict.fromkeys(("value", "epochs", "train_s", "peak_bytes", "num_clips"))
            run["error"] = None if run["state"] == "waiting" else "it broke"
    (row,) = rows(runs)
    assert row["note"] == note
    assert row["num_runs"] == sum(run["value"] is not None for run in runs)
    assert (row["value"] is None) == (row["num_runs"] == 0)


def test_the_published_protocol_has_a_note_that_it_validates_on_the_test_fold(tmp_path):
    assert rows([a_run(tmp_path, 0, protocol="published")])[0]["note"] == WATCHED


def test_files_and_terminal_have_the_same_rows(tmp_path):
    runs = [a_run(tmp_path, 0), a_run(tmp_path, 0, 0.3, model="dense|gru", published=None)]
    found = rows(runs)
    write_table(tmp_path, found, runs, "ucf11", ["as it is"])
    with (tmp_path / "table.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["model"] for row in written] == ["tt-gru", "dense|gru"]
    assert [float(row["value"]) for row in written] == [0.5, 0.3]
    assert [row["published"] for row in written] == ["0.813", ""]
    with (tmp_path / "runs.csv").open(newline="") as file:
        assert tuple(next(csv.reader(file))) == RUN_COLUMNS
    markdown = (tmp_path / "table.md").read_text()
    assert markdown.startswith("# ucf11\n\n- as it is\n\n| protocol | model | measured |")
    assert "| ours | tt-gru | 50.0% |" in markdown
    assert "| ours | dense\\|gru | 30.0% |" in markdown
    assert len({line.replace("\\|", "").count("|") for line in markdown.splitlines() if line.startswith("|")}) == 1
    title, _, header, rule, *lines = terminal_table(found, "ucf11").splitlines()
    assert title == "ucf11"
    assert len(header) <= len(rule)
    assert [line.split()[:3] for line in lines[:2]] == [["ours", "tt-gru", "50.0%"], ["ours", "dense|gru", "30.0%"]]
    assert "3,232" in lines[0]
    assert lines[0].endswith("100 MB")


def test_the_name_of_a_class_may_contain_the_separator_of_labels(tmp_path):
    run = a_run(tmp_path, 0, 0.4)
    predictions = tmp_path / "tt-gru-0" / "test" / "predictions.csv"
    whole = rows([run])
    predictions.write_text(predictions.read_text().replace(",a,", ",a|b,").replace("p(a),p(b)", "p(a|b),p(b)"))
    assert rows([run]) == whole


def test_the_interval_of_several_models_ranks_the_clips_of_each_model_separately(tmp_path):
    runs = []
    for seed, least in enumerate((0.0, 0.5)):
        run = a_run(tmp_path, seed, value=1.0, seed=seed, metric="mean_average_precision")
        # Both models rank all clips correctly, but one scores positive clips lower than the other negative ones.
        lines = [f"clip {i},,{'a' if i < 4 else ''},-,{least + 0.4 * (i < 4)},0" for i in range(10)]
        predictions = tmp_path / f"tt-gru-{seed}" / "test" / "predictions.csv"
        predictions.write_text("\n".join(["clip_id,group,label,predicted,p(a),p(b)", *lines]))
        runs.append(run)
    (row,) = rows(runs)
    assert row["high"] == 1.0
    assert row["low"] == rows(runs[:1])[0]["low"] > 0.5

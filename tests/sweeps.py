"""Sweep directories that were written without training, and a substitute for evaluation."""

import json
from pathlib import Path
from typing import Any

CLASSES = ["left", "<script>alert(1)</script>", '"x",y']


def config(**changes: Any) -> dict[str, Any]:
    """The options of a TT-GRU with the paper's ranks."""
    return {
        "cell": "gru",
        "input": "tt",
        "in_modes": "8x4x8x8",
        "hidden_modes": "4x4x4x4",
        "ranks": "4x4x4",
        "recurrent_ranks": "none",
        "lr": 0.003,
        **changes,
    }


# name: contents of summary.json, or None for no such file. On the frontier: 0003, 0001, 0005; the knee is 0001.
TRIALS: dict[str, dict[str, Any] | None] = {
    "0000": {"num_params": 90_000, "val_metric": 0.70, "config": config(input="dense", in_modes=None, ranks=None)},
    "0001": {"num_params": 3_000, "val_metric": 0.80, "config": config(ranks="3x3x3")},
    "0002": {"num_params": 3_000, "val_metric": 0.75, "config": config(recurrent_ranks="2x2x2")},
    "0003": {"num_params": 1_000, "val_metric": 0.30, "config": config(cell="rnn", hidden='"x",\ny')},
    "0004": {"state": "pruned", "num_params": 500, "val_metric": 0.99, "epochs": 1, "config": config()},
    "0005": {"num_params": 40_000, "val_metric": 0.85, "config": config(ranks="8x8x8")},
    "0006": {"state": "failed", "num_params": 700, "val_metric": None, "error": "diverged <b>", "config": config()},
    "0007": None,
}


def make_sweep(path: Path, trials: dict[str, dict[str, Any] | None] = TRIALS, **changes: Any) -> Path:
    """A sweep directory as the command sweep leaves it, written without training."""
    options = {
        "data": "clips",
        "out": "runs/sweep",
        "space": "default",
        "num_trials": 8,
        "epochs": 5,
        "max_params": None,
        "seed": 0,
        "num_workers": 1,
    }
    shards = path / "shards"
    shards.mkdir(parents=True)
    (shards / "dataset.json").write_text("{}")
    sweep = {
        "format": "ttrnn-sweep",
        "version": 1,
        "options": options,
        "shards": str(shards),
        "metric": "accuracy",
        "num_classes": 3,
        "classes": CLASSES,
        "chance": 1 / 3,
        "num_val_clips": 60,
        "num_test_clips": 30,
        "dataset": "words",
        **changes,
    }
    (path / "sweep.json").write_text(json.dumps(sweep))
    for name, found in trials.items():
        model = path / "trials" / name / "model"
        model.mkdir(parents=True)
        (model / "model.safetensors").write_bytes(name.encode())
        (model / "config.json").write_text(json.dumps({"name": name}))
        if found is not None:
            defaults = {"state": "complete", "input_params": 400, "epochs": 5, "epochs_planned": 5, "train_s": 61.5}
            (path / "trials" / name / "summary.json").write_text(json.dumps({**defaults, **found}))
    return path


def add_baselines(sweep: Path, values: dict[str, tuple[int, float]]) -> Path:
    """Adds finished baselines to a sweep: name -> (num_params, val_metric)."""
    for name, (num_params, val_metric) in values.items():
        run = sweep / "baselines" / name
        (run / "model").mkdir(parents=True)
        (run / "model/model.safetensors").write_bytes(name.encode())
        kind = name.rpartition("-")[0] or name
        summary = {"state": "complete", "num_params": num_params, "val_metric": val_metric, "epochs": 5}
        summary |= {"config": config(input=kind, in_modes="4x8", hidden_modes="16"), "input_params": 9, "train_s": 1.0}
        (run / "summary.json").write_text(json.dumps(summary))
    return sweep


class Evaluate:
    """A substitute for evaluate_model that records the trials it is called for."""

    def __init__(self) -> None:
        self.evaluated: list[str] = []

    def __call__(self, model_dir: Path, shards_dir: Path, split: str) -> dict[str, Any]:
        assert split == "test"
        assert (shards_dir / "dataset.json").exists()
        self.evaluated.append(model_dir.parent.name)
        value = 0.5 + 0.01 * len(self.evaluated)
        rows = [{"class": name, "num_clips": 10, "precision": None, "recall": value, "f1": None} for name in CLASSES]
        interval = [value - 0.125, value + 0.125]
        return {"metric": "accuracy", "value": value, "interval": interval, "per_class": rows}


def write_replications(sweep: Path, values: dict[str, list[float]]) -> None:
    """Writes the results of replications: for each trial its validation metrics with the seeds 1, 2, ..."""
    for name, metrics in values.items():
        for seed, value in enumerate(metrics, 1):
            run = sweep / "confirm" / f"{name}-s{seed}"
            run.mkdir(parents=True)
            result = {"val_metric": value, "val_interval": [value - 0.1, value + 0.1], "value": value - 0.01}
            result |= {"state": "complete", "interval": [value - 0.11, value + 0.09]}
            (run / "result.json").write_text(json.dumps(result))
    seeds = list(range(1, 1 + max(map(len, values.values()))))
    (sweep / "confirm/plan.json").write_text(json.dumps({"seeds": seeds, "failed": []}))

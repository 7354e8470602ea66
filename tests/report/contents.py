"""Contents of pareto.json for tests: with all values known, and of an earlier version."""

import copy
from typing import Any

from tests.sweeps import config

HOSTILE = '</script><script>alert(1)</script><img src="https://x.invalid/y">'

# Two formats of the input matrix and three of the recurrent one.
OF_FORMATS: dict[str, dict[str, Any] | None] = {
    name: {"num_params": num_params, "val_metric": metric, "config": config(**options)}
    for name, num_params, metric, options in (
        ("0000", 1_000, 0.5, {"format": "tt", "recurrent_format": "tt"}),
        ("0001", 2_000, 0.6, {"format": "cp", "recurrent_format": "low-rank", "recurrent_ranks": "2"}),
        ("0002", 3_000, 0.4, {"format": "cp", "recurrent_format": "tt", "recurrent_ranks": "2x2x2"}),
    )
}


def full(data: dict[str, Any]) -> dict[str, Any]:
    """The same with all values known: 0002 is refined from 0005, 0004 was stopped, 0001 was not replicated."""
    data = copy.deepcopy(data)
    trials = {trial["trial"]: trial for trial in data["trials"]}
    for trial in trials.values():
        trial["curve"] = [[1, 0.2], [2, 0.4], [3, trial["val_metric"]]] if trial["val_metric"] else []
        trial["multiply_adds"] = trial["num_params"] and 10 * trial["num_params"]
        trial["val_interval"] = [trial["val_metric"] - 0.1, trial["val_metric"] + 0.1] if trial["val_metric"] else None
    # Tested as a point of an earlier frontier; the plot shows no test metric of dominated trials.
    trials["0002"] |= {
        "test_metric": 0.7,
        "parent": "0005",
        "config": {**trials["0002"]["config"], "init": "trials/0005/model"},
    }
    trials["0004"] |= {"state": "stopped", "stopped_by": "0001 was better after 1 epoch", "curve": [[1, 0.99]]}
    for name, mean in (("0003", 0.29), ("0001", 0.28), ("0005", 0.82), ("0000", 0.6)):
        runs, bounds = [mean - 0.01, mean, mean + 0.01], [mean - 0.05, mean + 0.05]
        split = {"val": runs, "val_mean": mean, "val_interval": bounds}
        test = {"test": runs, "test_mean": mean + 0.02, "test_interval": bounds}
        trials[name] |= {"replication": {"seeds": [1, 2, 3], **split, **test}, "not_replicated": name == "0001"}
        rows = [
            {"class": label, "num_clips": 10, "precision": 1.0, "recall": 0.5, "f1": 0.7} for label in data["classes"]
        ]
        trials[name]["per_class"] = rows if name != "0000" else None
    return data | {
        "frontier": [trials["0003"], trials["0005"]],
        "not_replicated": [trials["0001"]],
        "best": "0005",
        "knee": "0005",
        "highest": "0005",
        "replications": {"seeds": [1, 2, 3], "method": "By the method.", "failed": []},
        "published": [
            {"model": "tt-gru", "num_input_params": 3232, "accuracy": 0.813},
            {"model": "tt-lstm", "num_input_params": 3360, "accuracy": 0.796},
        ],
        "importances": {"val_metric": {"lr": 0.75, "cell": 0.25}, "num_params": {"cell": 1.0}},
        "edges": [{"param": "lr", "value": 0.02, "bound": "upper", "text": "lr is 0.02 at the best: widen it there"}],
        "hypervolume": 0.5,
        "hypervolume_reference": "of all there is",
        "epochs_trained": 31,
        "num_too_large": 4,
        "num_duplicates": 2,
    }


NEW_KEYS = (
    "published",
    "importances",
    "edges",
    "not_replicated",
    "replications",
    "hypervolume",
    "hypervolume_reference",
)


NEW_TRIAL_KEYS = (
    "parent",
    "stopped_by",
    "curve",
    "params",
    "multiply_adds",
    "per_class",
    "replication",
    "not_replicated",
)


def older(data: dict[str, Any]) -> dict[str, Any]:
    """The same as an earlier version wrote it, without the new keys."""
    kept = {name: value for name, value in data.items() if name not in NEW_KEYS}
    for name in ("trials", "frontier"):
        kept[name] = [{key: trial[key] for key in trial if key not in NEW_TRIAL_KEYS} for trial in data[name]]
    return kept

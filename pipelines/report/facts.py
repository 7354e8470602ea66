"""Say how the numbers of a sweep were obtained, for its page."""

import html
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipelines.core.text import percent
from pipelines.evaluation.metrics import standard_error
from pipelines.report.parts import commands, metric_name
from pipelines.tuning.formatting import count

__all__ = ["facts"]


def facts(data: Mapping[str, Any]) -> str:
    """How the numbers were obtained, as the entries of a description list."""
    replications = data.get("replications") or {}
    failed = [f"trial {run['trial']} with seed {run['seed']}: {run['error']}" for run in replications.get("failed", [])]
    refined = sum(trial.get("parent") is not None for trial in data["trials"])
    hypervolume, latency = data.get("hypervolume"), data.get("latency") or {}
    found = {
        "Data set": f"{data['dataset']}, {data['num_classes']} classes: {', '.join(data['classes'])}",
        "Clips": f"{count(data['num_val_clips'])} validation, {count(data['num_test_clips'])} test",
        "Metric": _metric_fact(data),
        "Intervals": "95% confidence, by a bootstrap of clips, or of whole groups (speakers, source videos) if there "
        "are enough; they hold for these weights and do not include the variance between seeds",
        "Trials": _trials_fact(data),
        "Selection": "on validation: the best epoch of a trial, the frontier, the best point and the knee. Validation "
        f"{metric_name(data)} is optimistic because it was selected on",
        "Replication": f"with the seeds {', '.join(map(str, replications['seeds']))}; the frontier is drawn from their "
        f"means. {replications['method']}"
        if replications
        else "none: each point is one training with one seed, and some are good by chance; replicate with "
        "sweep --resume --confirm 3",
        "Failed replications": "; ".join(failed),
        "Baselines": "trained for as many epochs and tested like the frontier, of which they are never part: thumbnail "
        "(the frame averaged down to a few cells), low-rank (a linear projection of the frame to few values) and cnn "
        "(two convolutions), each with differences of frames and a small GRU; linear: a linear classifier of a few "
        "averaged frames. Intervals of differences are computed as if models were independent, and are rather too wide"
        if data.get("baselines")
        else "",
        "Test": "evaluated once, after the frontier was drawn, for its points"
        + (" and the baselines" if data.get("baselines") else " only")
        + (", and once for each of their replications" if replications else ""),
        "Refined": f"{refined} of the trials: the weights of a trained one are rounded to smaller ranks and fine-tuned "
        "for a few epochs; a dashed line leads to each from its parent"
        if refined
        else "",
        "Parameters": "of the whole model, recurrent matrix and classifier included; input-to-hidden weights are also "
        "listed, since papers count only those",
        "Published": "results reported by the paper, on its own splits and clips; not reproduced here"
        if data.get("published")
        else "",
        "Best": f"the highest validation {metric_name(data)} of at most {data['options']['max_params']:,} parameters"
        if data["options"].get("max_params")
        else "the knee, since no --max-params was given",
        "Knee": "the point where ten times the parameters are no longer worth a quarter of what the highest point "
        "gains over guessing",
        "Teacher": "models that learn from the scores of larger ones beside the labels are replicated with the same "
        "teacher: its own variance between seeds is not in the intervals"
        if any(trial["config"].get("teacher", "none") != "none" for trial in data["trials"])
        else "",
        "Streamable": "every model runs in one direction and gives scores while a video runs"
        if data["options"].get("streamable")
        else "",
        "Hypervolume": ""
        if hypervolume is None
        else f"{percent(hypervolume)}: {data.get('hypervolume_reference', '')}",
        "Milliseconds": f"{latency['method']}, on {latency['machine']}; other programs on it make them longer"
        if latency.get("ms_per_frame")
        else "",
        "Created": data["created"],
    }
    entries = "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in found.items() if text)
    return f"{entries}<dt>Command</dt><dd>{commands([data['command']])}</dd>"


def _metric_fact(data: Mapping[str, Any]) -> str:
    text = f"{metric_name(data)}; chance is {percent(data['chance'])}"
    if data["metric"] != "accuracy":
        return text
    error = 100 * standard_error(data["frontier"][-1]["val_metric"], data["num_val_clips"])
    return f"{text}; the standard error of the highest point is {error:.1f} points: smaller differences may be chance"


def _trials_fact(data: Mapping[str, Any]) -> str:
    options, states = data["options"], Counter(trial["state"] for trial in data["trials"])
    parts = [
        ", ".join(f"{number} {state}" for state, number in states.items()),
        f"at most {options['epochs']} epochs, seed {options['seed']}",
    ]
    for name, what in (
        ("epochs_trained", "epochs trained in all"),
        ("num_duplicates", "proposed twice and trained once"),
        ("num_too_large", "proposed that are too large and were not trained"),
    ):
        if data.get(name):
            parts.append(f"{count(data[name])} {what}")
    return "; ".join(parts)

"""Write the files that show the frontier of a sweep: tables, figure, report.html, and the best model."""

import dataclasses
import json
import logging
import shlex
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.core.errors import UserError
from pipelines.core.progress import progress
from pipelines.core.text import program, python
from pipelines.data.dataset import ShardDataset
from pipelines.data.shards import DATASET_JSON
from pipelines.evaluation.evaluator import evaluate_model
from pipelines.report.headline import headline
from pipelines.report.html import write_page
from pipelines.report.latency import time_models
from pipelines.report.mistakes import find_mistakes
from pipelines.report.pareto_data import csv_tables
from pipelines.report.plot import write_figure
from pipelines.report.verdict import verdict
from pipelines.storage.location import Location
from pipelines.tuning.frontier import HYPERVOLUME, dense_baseline, hypervolume, knee
from pipelines.tuning.importance import Study, edges, importances, num_rejected, read_study
from pipelines.tuning.replication import DrawnFrontier, draw_frontier, with_test
from pipelines.tuning.selection import best_point, chance_warning
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.tuning.trial import Trial
from search_spaces import paper
from ttrnn.files import atomic_directory, atomic_write, sha256
from ttrnn.model import ModelConfig

__all__ = ["COLUMNS", "browser_command", "write_frontier"]


log = logging.getLogger(__name__)
Evaluate = Callable[..., Mapping[str, Any]]
COLUMNS = ("trial", "state", "num_params", "input_params", "val_metric", "test_metric", "epochs", "train_s")
_FROM_SWEEP = (
    "dataset", "metric", "num_classes", "classes", "chance", "num_val_clips", "num_test_clips", "shards", "options"
)  # fmt: skip
_FROM_TEST = {"test_metric": "value", "test_interval": "interval", "per_class": "per_class"}


def write_frontier(
    sweep_dir: str | Path,
    evaluate: Evaluate = evaluate_model,
    place: Location | None = None,
    fetch: Callable[[Path], Path] = lambda model_dir: model_dir,
) -> dict[str, Any]:
    """Computes the frontier of a sweep and writes the files that show it, each whole or not at all.

    Args:
        sweep_dir: The sweep, finished or not.
        evaluate: evaluate(model_dir, shards_dir, split="test") -> {"value": metric, ...}; called once for each point of
            the frontier whose weights have not been tested before.
        place: The sweep of which `sweep_dir` is a copy; default: `sweep_dir` itself.
        fetch: Called with each model directory before it is read; returns it.

    Returns:
        The contents of pareto.json, and under "files" the paths of all files.

    Raises:
        UserError: no sweep, no finished trial, or the model of a point of the frontier is missing.
    """
    sweep = SweepDirectory(sweep_dir)
    document, trials, study = sweep.read(), sweep.finished_trials(), read_study(sweep.journal)
    trials = [
        dataclasses.replace(trial, params=study[trial.trial].params) if trial.trial in study else trial
        for trial in trials
    ]
    shards = Location.of(document["shards"]) if document["num_test_clips"] else None
    frontier = _test(
        sweep, draw_frontier(sweep, trials), shards, lambda model: evaluate(fetch(model), shards, split="test"), fetch
    )
    place = place or Location(str(sweep))
    data = _contents(sweep, place, document, frontier)
    data |= _insights(study, frontier, {name: data[name] for name in ("best", "knee", "highest")})
    if (found := verdict(data)) is not None:
        data |= {"verdict": found, "baseline": found["baseline"]}
    data["headline"] = headline(data)
    data["mistakes"] = _mistakes(sweep, data, shards, fetch)
    timed = [*data["frontier"], *data["baselines"]]
    data["latency"] = time_models({trial["trial"]: fetch(sweep.run(trial["trial"]).model) for trial in timed})

    # pareto.json first, because it stores the test metrics.
    with atomic_write(sweep.pareto_json) as file:
        json.dump(data, file, indent=1, allow_nan=False)
    for name, table in csv_tables(data).items():
        with atomic_write(sweep.path / name) as file:
            file.write(table)
    write_figure(sweep.pareto_png, data)
    write_page(sweep.report_html, data)
    with atomic_directory(sweep.best) as best:
        shutil.copytree(sweep.run(data["best"]).model, best, dirs_exist_ok=True)
    return {**data, "files": {name: str(place / name) for name in sweep.FRONTIER_FILES}}


def _mistakes(
    sweep: SweepDirectory, data: Mapping[str, Any], shards: Location | None, fetch: Callable[[Path], Path]
) -> dict[str, Any] | None:
    """The mistakes of the best model on test, from an earlier frontier if it is the same; None without test clips."""
    (digest,) = [point["model_sha256"] for point in data["frontier"] if point["trial"] == data["best"]]
    known = sweep.known_mistakes()
    if known is not None and known["model_sha256"] == digest:
        return known
    if shards is None or not (shards / DATASET_JSON).exists():
        return None
    try:
        found = find_mistakes(fetch(sweep.run(data["best"]).model), ShardDataset.open(shards))
    except UserError as error:
        log.warning("the page does not show what the best model gets wrong: %s", error)
        return None
    return found and {"trial": data["best"], "model_sha256": digest, **found}


def _test(
    sweep: SweepDirectory,
    frontier: DrawnFrontier,
    shards: Location | None,
    test_model: Callable[[Path], Mapping[str, Any]],
    fetch: Callable[[Path], Path],
) -> DrawnFrontier:
    """Adds model_sha256 to the points, and test_metric (None if there are no test clips) to those of the frontier.

    Baselines are tested like the frontier. Points that were not replicated keep the test metric of an earlier frontier.
    Without test clips, shards is None.
    """
    known, can_test = sweep.known_tests(), shards is not None and (shards / DATASET_JSON).exists()

    def with_metrics(point: Trial, is_on_frontier: bool) -> Trial:
        model_dir = fetch(sweep.run(point.trial).model)
        weights = model_dir / "model.safetensors"
        try:
            digest = sha256(weights)
        except FileNotFoundError as error:
            raise UserError(
                f"trial {point.trial} is a point of the frontier, but {weights} is missing; put it back, "
                f"or remove {model_dir.parent}"
            ) from error
        test = known.get((point.trial, digest), {})
        if is_on_frontier and can_test:
            if not test:
                result = test_model(model_dir)
                test = {name: result[source] for name, source in _FROM_TEST.items()}
            if point.replication and not point.replication.test:
                point = with_test(sweep, point, test_model)
        return dataclasses.replace(point, **test, model_sha256=digest)

    tested = [*frontier.points, *(trial for trial in frontier.trials if trial.is_baseline)]
    tested = [with_metrics(point, True) for point in progress(tested, len(tested), "test split")]
    points = tested[: len(frontier.points)]
    not_replicated = [with_metrics(point, False) for point in frontier.not_replicated]
    if any(point.test_metric is None for point in points) and not can_test:
        reason = f"the shards {shards} are gone" if shards else "the data set has no test clips"
        log.warning("test_metric stays empty: %s", reason)
    by_name = {point.trial: point for point in (*tested, *not_replicated)}
    trials = [by_name.get(trial.trial, trial) for trial in frontier.trials]
    return dataclasses.replace(frontier, points=points, not_replicated=not_replicated, trials=trials)


def _contents(
    sweep: SweepDirectory, place: Location, document: Mapping[str, Any], frontier: DrawnFrontier
) -> dict[str, Any]:
    """The contents of pareto.json without the insights."""
    trials, points = frontier.trials, frontier.points
    # Replicated baselines first: a single value can be high by chance, a mean hardly.
    baseline = dense_baseline(trial for trial in trials if trial.replication) or dense_baseline(trials)
    columns = dict.fromkeys([*COLUMNS, *(name for trial in trials for name in trial.config)])
    baselines = {trial.trial for trial in sweep.baselines()}
    uri = shlex.quote(str(place))
    best = best_point(points, document["chance"], document["options"].get("max_params"))
    return {
        "format": "ttrnn-pareto",
        "version": 1,
        "sweep": str(place),
        **{name: document[name] for name in _FROM_SWEEP},
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": _command(document["options"]),
        "next": [
            # The page of a sweep in a bucket must be downloaded before a browser can open it.
            browser_command(sweep) if place.is_local else f"{program('pareto')} {uri}",
            f"{program('export')} {uri} exported --select knee --onnx",
            f"{program('predict')} {shlex.quote(str(place / sweep.best.name))} VIDEO",
        ],
        "columns": list(columns),
        "best": best.trial,
        "knee": knee(points, document["chance"]).trial,
        "highest": points[-1].trial,
        "baseline": baseline.trial if baseline else None,
        "warning": chance_warning(best, document["chance"]),
        "data_check": document.get("data_check"),
        "findings": document.get("findings", []),
        "replications": frontier.replications,
        "frontier": [dataclasses.asdict(point) for point in points],
        "not_replicated": [dataclasses.asdict(point) for point in frontier.not_replicated],
        "baselines": [dataclasses.asdict(trial) for trial in trials if trial.trial in baselines],
        "trials": [dataclasses.asdict(trial) for trial in trials if trial.trial not in baselines],
        "published": _published(document["dataset"]),
    }


def browser_command(sweep: SweepDirectory) -> str:
    """The command that opens report.html in a browser."""
    return f"{python()} -m webbrowser {shlex.quote(sweep.report_html.absolute().as_uri())}"


def _insights(study: Study, frontier: DrawnFrontier, points: Mapping[str, str]) -> dict[str, Any]:
    """Results of the sweep as a whole, and which ranges of the search space to widen."""
    names = {trial.trial: trial for trial in frontier.trials}
    return {
        "hypervolume": hypervolume(point.coordinates for point in frontier.points),
        "hypervolume_reference": HYPERVOLUME,
        # A trial that was killed has a learning curve but no summary with its number of epochs.
        "epochs_trained": sum(
            max(trial.epochs or 0, len(trial.curve)) for trial in frontier.trials if not trial.is_baseline
        ),
        "num_too_large": num_rejected(study, "too_large"),
        "num_duplicates": num_rejected(study, "duplicate"),
        "importances": importances(study, frontier.trials),
        "edges": edges(study, names, points),
    }


def _published(dataset: str) -> list[dict[str, Any]]:
    """The accuracies that the paper reports for a data set, a row for each model; [] for data sets it does not use."""
    name = dataset.lower().replace("-", "_")
    experiment = paper.EXPERIMENTS.get(name)
    if experiment is None:
        return []
    found = []
    for model in paper.MODELS:
        value = paper.published(name, model)
        if value is not None:
            options = paper.train_options(name, model)
            config = ModelConfig(
                width=experiment.width,
                height=experiment.height,
                classes=tuple(map(str, range(experiment.num_classes))),
                **{option: options[option] for option in ("cell", "input", "in_modes", "hidden_modes", "ranks")},
            )
            found.append({"model": model, "num_input_params": config.input_params, "accuracy": value})
    return found


def _command(options: Mapping[str, Any]) -> str:
    words = ["python", "-m", "pipelines.sweep"]
    for name, value in options.items():
        if value is not None and value is not False:
            words += ["--" + name.replace("_", "-"), *([] if value is True else [str(value)])]
    return shlex.join(words)

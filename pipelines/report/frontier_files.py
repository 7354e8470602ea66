"""Write the files that show the frontier of a sweep."""

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
from pipelines.core.text import python
from pipelines.evaluation.evaluator import evaluate_model
from pipelines.report.html import write_page
from pipelines.report.plot import write_picture
from pipelines.report.points import tables
from pipelines.storage.location import Location
from pipelines.tuning.frontier import HYPERVOLUME, dense_baseline, hypervolume, knee
from pipelines.tuning.importance import Study, edges, importances, num_rejected, read_study
from pipelines.tuning.replication import DrawnFrontier, draw_frontier, with_test
from pipelines.tuning.sweep_directory import SweepDirectory
from search_spaces import paper
from ttrnn.files import atomic_directory, atomic_write, sha256
from ttrnn.model import ModelConfig

__all__ = ["COLUMNS", "FILES", "browser", "known_tests", "write_frontier"]


log = logging.getLogger(__name__)
Evaluate = Callable[..., Mapping[str, Any]]
COLUMNS = ("trial", "state", "num_params", "input_params", "val_metric", "test_metric", "epochs", "train_s")
FILES = SweepDirectory.FRONTIER_FILES
_OF_SWEEP = (
    "dataset", "metric", "num_classes", "classes", "chance", "num_val_clips", "num_test_clips", "shards", "options"
)  # fmt: skip


def write_frontier(
    sweep_dir: str | Path, evaluate: Evaluate = evaluate_model, place: Location | None = None
) -> dict[str, Any]:
    """Computes the frontier of a sweep and writes all the files that show it, each whole or not at all.

    Args:
        sweep_dir: The sweep, finished or not.
        evaluate: evaluate(model_dir, shards_dir, split="test") -> {"value": metric, ...}; called once for each point of
            the frontier whose weights have not been tested before.
        place: What to call the sweep, of which `sweep_dir` may be a copy; default: `sweep_dir`.

    Returns:
        What pareto.json holds, as JSON values, and under "files" where everything lies.

    Raises:
        UserError: No sweep, no finished trial, or a point of the frontier has lost its model.
    """
    directory = SweepDirectory(sweep_dir)
    sweep, trials, study = directory.read(), directory.finished_trials(), read_study(directory.journal)
    trials = [
        dataclasses.replace(trial, params=study[trial.trial].params) if trial.trial in study else trial
        for trial in trials
    ]
    drawn = _tested(directory, sweep, draw_frontier(directory, trials), evaluate)
    place = place or Location(str(directory))
    data = _facts(directory.path, place, sweep, drawn) | _insights(study, drawn)

    files = {name: directory.path / name for name in FILES}
    # First, because it keeps what the test split has said.
    with atomic_write(files["pareto.json"]) as file:
        json.dump(data, file, indent=1, allow_nan=False)
    for name, table in tables(data).items():
        with atomic_write(files[name]) as file:
            file.write(table)
    write_picture(files["pareto.png"], data)
    write_page(files["report.html"], data)
    with atomic_directory(files["best"]) as best:
        shutil.copytree(directory.run(data["best"]).model, best, dirs_exist_ok=True)
    return {**data, "files": {name: str(place / name) for name in files}}


def _tested(
    directory: SweepDirectory, sweep: Mapping[str, Any], drawn: DrawnFrontier, evaluate: Evaluate
) -> DrawnFrontier:
    """The frontier's points with test_metric (None if the test split can't be had) and model_sha256.

    Points that it has lost keep what was known of them.
    """
    known = known_tests(directory.pareto_json)
    shards = Location.of(sweep["shards"])
    can_test = sweep["num_test_clips"] > 0 and (shards / "dataset.json").exists()
    num_points, tested = len(drawn.points), []
    for number, point in enumerate(progress([*drawn.points, *drawn.not_replicated], num_points, "test split")):
        weights = directory.run(point.trial).model / "model.safetensors"
        try:
            digest = sha256(weights)
        except FileNotFoundError as error:
            raise UserError(
                f"trial {point.trial} is a point of the frontier, but {weights} is missing; put it back, "
                f"or take {weights.parents[1]} away"
            ) from error
        test = known.get((point.trial, digest), {})
        if not test and can_test and number < num_points:
            result = evaluate(weights.parent, shards, split="test")
            names = {"test_metric": "value", "test_interval": "interval", "per_class": "per_class"}
            test = {name: result[source] for name, source in names.items()}
        if number < num_points and can_test and point.replication and not point.replication.test:
            point = with_test(directory, point, lambda model: evaluate(model, shards, split="test"))
        tested.append(dataclasses.replace(point, **test, model_sha256=digest))
    points, not_replicated = tested[:num_points], tested[num_points:]
    if any(point.test_metric is None for point in points) and not can_test:
        log.warning(
            "test_metric stays empty: %s",
            f"the shards {shards} are gone" if sweep["num_test_clips"] else "the data set has no test clips",
        )
    by_name = {point.trial: point for point in tested}
    trials = [by_name.get(trial.trial, trial) for trial in drawn.trials]
    return dataclasses.replace(drawn, points=points, not_replicated=not_replicated, trials=trials)


def known_tests(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(trial, sha256 of its weights) -> what an earlier pareto.json tells of the test split.

    That is test_metric, test_interval and per_class; the last two are None in files from before there were such.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {
            (point["trial"], point["model_sha256"]): {
                name: point.get(name) for name in ("test_metric", "test_interval", "per_class")
            }
            for point in [*data["frontier"], *data.get("not_replicated", [])]
            if point["test_metric"] is not None
        }
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be read (%s): the test split is looked at again", path, error)
        return {}


def _facts(sweep_dir: Path, place: Location, sweep: Mapping[str, Any], drawn: DrawnFrontier) -> dict[str, Any]:
    """What the table, the picture and the page show of the trials."""
    trials, points = drawn.trials, drawn.points
    # Of means and single values the best would be the luckiest.
    baseline = dense_baseline(trial for trial in trials if trial.replication) or dense_baseline(trials)
    columns = dict.fromkeys([*COLUMNS, *(name for trial in trials for name in trial.config)])
    return {
        "format": "ttrnn-pareto",
        "version": 1,
        "sweep": str(place),
        **{name: sweep[name] for name in _OF_SWEEP},
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": _command(sweep["options"]),
        "next": [
            # The page of a bucket has to be fetched first.
            browser(sweep_dir) if place.is_local else f"{python()} -m pipelines.pareto {shlex.quote(str(place))}",
            f"{python()} -m pipelines.export {shlex.quote(str(place))} exported --select knee --onnx",
            f"{python()} -m pipelines.predict {shlex.quote(str(place / 'best'))} VIDEO",
        ],
        "columns": list(columns),
        "best": points[-1].trial,
        "knee": knee(points).trial,
        "baseline": baseline.trial if baseline else None,
        "replications": drawn.replications,
        "frontier": [dataclasses.asdict(point) for point in points],
        "not_replicated": [dataclasses.asdict(point) for point in drawn.not_replicated],
        "trials": [dataclasses.asdict(trial) for trial in trials],
        "published": _published(sweep["dataset"]),
    }


def browser(sweep_dir: Path) -> str:
    return f"{python()} -m webbrowser {shlex.quote((sweep_dir / 'report.html').absolute().as_uri())}"


def _insights(study: Study, drawn: DrawnFrontier) -> dict[str, Any]:
    """What the sweep has come to as a whole, and what to try next."""
    names = {trial.trial: trial for trial in drawn.trials}
    return {
        "hypervolume": hypervolume(point.place for point in drawn.points),
        "hypervolume_reference": HYPERVOLUME,
        # A trial that was killed in its first command has epochs, but no summary of them.
        "epochs_trained": sum(max(trial.epochs or 0, len(trial.curve)) for trial in drawn.trials),
        "num_too_large": num_rejected(study, "too_large"),
        "num_duplicates": num_rejected(study, "duplicate"),
        "importances": importances(study, drawn.trials),
        "edges": edges(study, names, {"best": drawn.points[-1].trial, "knee": knee(drawn.points).trial}),
    }


def _published(dataset: str) -> list[dict[str, Any]]:
    """What the paper claims for its data sets: a row for each of its models; none for others."""
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

"""(4) The trials of a sweep -> the frontier of parameters against the validation metric, as files to look at.

    python -m pipelines.pareto runs/sweep
    python -m pipelines.pareto runs/sweep --json

Reads SWEEP/sweep.json and SWEEP/trials/ID/; writes SWEEP/trials.csv, pareto.csv, pareto.json, pareto.png, report.html
and best/. The frontier is chosen on validation. The test split is looked at once, and for the frontier's points only:
a value that pareto.json has for the same trial and the same weights is taken from there.
"""

import csv
import dataclasses
import hashlib
import json
import logging
import math
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipelines import cli
from pipelines.cli import UserError, percent
from pipelines.evaluate import evaluate_model
from pipelines.report import marks, texts, write_page, write_picture
from pipelines.storage import Location
from ttrnn.files import atomic_directory, atomic_write

__all__ = [
    "COLUMNS",
    "ParetoOptions",
    "Trial",
    "frontier",
    "knee",
    "known_tests",
    "main",
    "pareto",
    "read_sweep",
    "read_trial",
    "read_trials",
    "summary",
    "write_frontier",
]

log = logging.getLogger(__name__)

Evaluate = Callable[..., Mapping[str, Any]]
TABLE_HEADS = {
    "trial": "trial",
    "cell": "cell",
    "modes": "modes",
    "ranks": "ranks",
    "recurrent_ranks": "recur.\nranks",
    "num_params": "params",
    "input_params": "input\nparams",
    "val_metric": "val",
    "test_metric": "test",
    "mark": "",
}
COLUMNS = ("trial", "state", "num_params", "input_params", "val_metric", "test_metric", "epochs", "train_s")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ParetoOptions:
    """The frontier of a sweep: table, CSV, JSON, picture, page, and the best point's model."""

    sweep: str = cli.positional()
    """the OUT directory of `python -m pipelines.sweep`; the files are written into it"""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What is known of one trial; None where a thing is not known (yet)."""

    trial: str
    """name of its directory under SWEEP/trials"""
    state: str
    """as its summary.json says; `unfinished` where that is missing or half written"""
    num_params: int | None = None
    """parameters of the whole model"""
    input_params: int | None = None
    """input-to-hidden weights only"""
    val_metric: float | None = None
    """its best epoch on validation, 0 to 1"""
    test_metric: float | None = None
    """the same weights on the test split, 0 to 1; for points of the frontier only"""
    val_interval: Sequence[float] | None = None
    """[low, high]: where val_metric lies with 95% confidence"""
    test_interval: Sequence[float] | None = None
    """likewise test_metric"""
    epochs: int | None = None
    """epochs trained"""
    train_s: float | None = None
    """training time, s"""
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """every configured name, in the text forms of the design"""
    error: str | None = None
    """why it failed"""
    model_sha256: str | None = None
    """of model.safetensors; for points of the frontier only"""

    @property
    def is_finished(self) -> bool:
        """Whether it had its full budget and may stand on the frontier."""
        known = self.num_params is not None and self.val_metric is not None and not math.isnan(self.val_metric)
        return self.state == "complete" and known

    @property
    def place(self) -> tuple[int, float]:
        """(num_params, val_metric) of a finished trial."""
        assert self.num_params is not None
        assert self.val_metric is not None
        return self.num_params, self.val_metric


def frontier(trials: Iterable[Trial]) -> list[Trial]:
    """The finished trials that no other one dominates with fewer parameters, a better validation metric, or both.

    Of an equal metric the trial with fewer parameters stays; of both equal, the first by name.

    Returns:
        By rising num_params and, with them, strictly rising val_metric: the smallest first, the best last.
    """
    points: list[Trial] = []
    finished = [trial for trial in trials if trial.is_finished]
    for trial in sorted(finished, key=lambda trial: (trial.place[0], -trial.place[1], trial.trial)):
        if not points or trial.place[1] > points[-1].place[1]:
            points.append(trial)
    return points


def knee(points: Sequence[Trial]) -> Trial:
    """Where a frontier bends: the point highest above the chord from its smallest to its best point.

    The distance is taken in (log num_params, val_metric); which point wins does not depend on the scale of either axis.
    Of equal distances (a frontier of two points, a straight one) the better metric wins.

    Args:
        points: A frontier, smallest first; at least one point.
    """
    (low_params, low_metric), (high_params, high_metric) = points[0].place, points[-1].place
    if len(points) == 1:
        return points[0]

    def height(point: Trial) -> float:
        num_params, metric = point.place
        across = math.log(num_params / low_params) / math.log(high_params / low_params)
        return (metric - low_metric) / (high_metric - low_metric) - across

    return max(reversed(points), key=height)


def read_sweep(sweep_dir: str | Path) -> dict[str, Any]:
    """SWEEP/sweep.json.

    Raises:
        UserError: The directory is no sweep, or one of another format version.
    """
    path = Path(sweep_dir) / "sweep.json"
    try:
        sweep = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{sweep_dir} is no sweep ({path.name}: {reason}); give the OUT directory of python -m pipelines.sweep"
        ) from error
    found = (sweep.get("format"), sweep.get("version")) if isinstance(sweep, dict) else (None, None)
    if found != ("ttrnn-sweep", 1):
        raise UserError(
            f"{path} must say format ttrnn-sweep, version 1; got format {found[0]}, version {found[1]}; "
            "give the OUT directory of python -m pipelines.sweep"
        )
    return sweep


def read_trials(sweep_dir: str | Path) -> list[Trial]:
    """All trials of a sweep by name, those without a whole summary.json as `unfinished`.

    Raises:
        UserError: The directory is no sweep, or none of its trials has finished.
    """
    read_sweep(sweep_dir)
    directories = sorted(path for path in Path(sweep_dir, "trials").glob("[!.]*") if path.is_dir())
    trials = [read_trial(path) for path in directories]
    if not any(trial.is_finished for trial in trials):
        raise UserError(
            f"{sweep_dir}: none of its {len(trials)} trials has finished with a metric, so there is no "
            f"frontier yet ({', '.join(sorted({trial.state for trial in trials})) or 'no trials'}); continue it with "
            "python -m pipelines.sweep --resume, or give another one a larger --max-params"
        )
    return trials


def read_trial(directory: Path) -> Trial:
    """The trial whose run lies in `directory`; `unfinished` without a whole summary.json."""
    path = directory / "summary.json"
    try:
        # NaN and Infinity are Python's words, not JSON's: a metric that is one of them is not known.
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except FileNotFoundError:
        return Trial(trial=directory.name, state="unfinished")
    except (OSError, ValueError) as error:
        log.warning("trial %s counts as unfinished: %s cannot be read (%s)", directory.name, path, error)
        return Trial(trial=directory.name, state="unfinished")
    if not isinstance(found, dict):
        log.warning("trial %s counts as unfinished: %s does not hold a JSON object", directory.name, path)
        return Trial(trial=directory.name, state="unfinished")
    names = ("num_params", "input_params", "val_metric", "val_interval", "epochs", "train_s", "error")
    config = {name: "none" if value is None else value for name, value in found.get("config", {}).items()}
    return Trial(
        trial=directory.name,
        state=found.get("state", "unfinished"),
        config=config,
        **{name: found.get(name) for name in names},
    )


def write_frontier(sweep_dir: str | Path, evaluate: Evaluate = evaluate_model) -> dict[str, Any]:
    """Computes the frontier of a sweep and writes all the files that show it, each whole or not at all.

    Args:
        sweep_dir: The sweep, finished or not.
        evaluate: evaluate(model_dir, shards_dir, split="test") -> {"value": metric, ...}; called once for each point of
            the frontier whose weights have not been tested before.

    Returns:
        What pareto.json holds, as JSON values, and under "files" where everything lies.

    Raises:
        UserError: No sweep, no finished trial, or a point of the frontier has lost its model.
    """
    sweep_dir = Path(sweep_dir)
    sweep, trials = read_sweep(sweep_dir), read_trials(sweep_dir)
    points = _tested(sweep_dir, sweep, frontier(trials), evaluate)
    tested = {point.trial: point for point in points}
    data = _facts(sweep_dir, sweep, [tested.get(trial.trial, trial) for trial in trials], points)

    names = ("trials.csv", "pareto.csv", "pareto.json", "pareto.png", "report.html", "best")
    files = {name: sweep_dir / name for name in names}
    # First, because it keeps what the test split has said.
    with atomic_write(files["pareto.json"]) as file:
        json.dump(data, file, indent=1, allow_nan=False)
    _write_csv(files["trials.csv"], data["trials"], data["columns"])
    _write_csv(files["pareto.csv"], data["frontier"], data["columns"])
    write_picture(files["pareto.png"], data)
    write_page(files["report.html"], data)
    with atomic_directory(files["best"]) as best:
        shutil.copytree(_model_dir(sweep_dir, points[-1]), best, dirs_exist_ok=True)
    return {**data, "files": {name: str(path) for name, path in files.items()}}


def _model_dir(sweep_dir: Path, trial: Trial) -> Path:
    return sweep_dir / "trials" / trial.trial / "model"


def _tested(sweep_dir: Path, sweep: Mapping[str, Any], points: Sequence[Trial], evaluate: Evaluate) -> list[Trial]:
    """The frontier's points with test_metric (None if the test split can't be had) and model_sha256."""
    known = known_tests(sweep_dir / "pareto.json")
    shards = Location.of(sweep["shards"])
    can_test = sweep["num_test_clips"] > 0 and (shards / "dataset.json").exists()
    tested = []
    for point in cli.progress(points, len(points), "test split"):
        weights = _model_dir(sweep_dir, point) / "model.safetensors"
        try:
            with open(weights, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError as error:
            raise UserError(
                f"trial {point.trial} is a point of the frontier, but {weights} is missing; put it back, "
                f"or take {weights.parents[1]} away"
            ) from error
        test = known.get((point.trial, digest), {})
        if not test and can_test:
            result = evaluate(weights.parent, shards, split="test")
            test = {"test_metric": result["value"], "test_interval": result["interval"]}
        tested.append(dataclasses.replace(point, **test, model_sha256=digest))
    if any(point.test_metric is None for point in tested) and not can_test:
        log.warning(
            "test_metric stays empty: %s",
            f"the shards {shards} are gone" if sweep["num_test_clips"] else "the data set has no test clips",
        )
    return tested


def known_tests(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(trial, sha256 of its weights) -> its test_metric and test_interval, as an earlier pareto.json tells."""
    try:
        points = json.loads(path.read_text(encoding="utf-8"))["frontier"]
        return {
            (point["trial"], point["model_sha256"]): {
                "test_metric": point["test_metric"],
                # Files from before there were intervals lack it.
                "test_interval": point.get("test_interval"),
            }
            for point in points
            if point["test_metric"] is not None
        }
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be read (%s): the test split is looked at again", path, error)
        return {}


def _facts(
    sweep_dir: Path, sweep: Mapping[str, Any], trials: Sequence[Trial], points: Sequence[Trial]
) -> dict[str, Any]:
    """All that the table, the picture and the page show: what pareto.json holds."""
    dense = [trial for trial in trials if trial.is_finished and trial.config.get("input") == "dense"]
    baseline = max(dense, key=lambda trial: (trial.place[1], -trial.place[0]), default=None)
    columns = dict.fromkeys([*COLUMNS, *(name for trial in trials for name in trial.config)])
    out = shlex.quote(str(sweep_dir))
    return {
        "format": "ttrnn-pareto",
        "version": 1,
        "sweep": str(sweep_dir),
        **{
            name: sweep[name]
            for name in (
                "dataset",
                "metric",
                "num_classes",
                "classes",
                "chance",
                "num_val_clips",
                "num_test_clips",
                "shards",
                "options",
            )
        },
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": _command(sweep["options"]),
        "next": [
            f"{cli.python()} -m pipelines.export {out} exported --select knee --onnx",
            f"{cli.python()} -m pipelines.predict {shlex.quote(str(sweep_dir / 'best'))} VIDEO",
        ],
        "columns": list(columns),
        "best": points[-1].trial,
        "knee": knee(points).trial,
        "baseline": baseline.trial if baseline else None,
        "frontier": [dataclasses.asdict(point) for point in points],
        "trials": [dataclasses.asdict(trial) for trial in trials],
    }


def _command(options: Mapping[str, Any]) -> str:
    words = ["python", "-m", "pipelines.sweep"]
    for name, value in options.items():
        if value is not None and value is not False:
            words += ["--" + name.replace("_", "-"), *([] if value is True else [str(value)])]
    return shlex.join(words)


def _write_csv(path: Path, trials: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    with atomic_write(path) as file:
        # An empty cell: not known, or not configured in this trial. `none` is a value.
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({**trial["config"], **trial} for trial in trials)


def pareto(options: ParetoOptions) -> dict[str, Any]:
    """The command: `write_frontier` of options.sweep."""
    return write_frontier(options.sweep)


def summary(result: dict[str, Any]) -> RenderableType:
    """The frontier as a table, the dense baseline below it, where the files lie and what to try next."""
    title = f"{result['dataset']}: {result['metric'].replace('_', ' ')} against parameters"
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for name, head in TABLE_HEADS.items():
        # On a narrow terminal modes fold at their arrow, marks at their comma, and nothing else does.
        folds_to = {"modes": 12, "mark": 8}.get(name)
        table.add_column(
            head,
            justify="right" if name.endswith(("_params", "_metric")) else "left",
            no_wrap=folds_to is None,
            min_width=folds_to,
        )
    beside = {result["baseline"]} - {point["trial"] for point in result["frontier"]}
    dense = [trial for trial in result["trials"] if trial["trial"] in beside]
    for trials in (result["frontier"], dense):
        for trial in trials:
            shown = texts(trial) | {"mark": marks(result).get(trial["trial"], "")}
            table.add_row(*(Text(shown[name]) for name in TABLE_HEADS))
        table.add_section()
    finished = sum(trial["state"] == "complete" for trial in result["trials"])
    notes = [
        "",
        f"{finished} of {len(result['trials'])} trials finished; {result['num_val_clips']} validation and "
        f"{result['num_test_clips']} test clips; chance {percent(result['chance'])}",
        *_sureness(result["frontier"][-1]),
        "",
        *(f"{name:<12} {path}" for name, path in result["files"].items()),
        "",
        "next:",
        *(f"  {command}" for command in result["next"]),
    ]
    return Group(table, Text("\n".join(notes)))


def _sureness(best: Mapping[str, Any]) -> list[str]:
    """How sure the metrics of the best point are, as far as that is known."""
    found = [
        f"{name} {percent(bounds[0])} to {percent(bounds[1])}"
        for name, bounds in (("validation", best["val_interval"]), ("test", best["test_interval"]))
        if bounds
    ]
    return [f"95% interval of the best point: {', '.join(found)}"] if found else []


def main(argv: list[str] | None = None) -> int:
    """Runs `pareto` from the command line and gives its exit code."""
    return cli.run(ParetoOptions, pareto, summary, argv)


if __name__ == "__main__":
    # As `python pipelines/pareto.py` too: the importable module is the one that Ray pickles by reference.
    from pipelines.pareto import main as importable_main

    sys.exit(importable_main())

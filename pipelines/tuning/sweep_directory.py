"""Read and write the files of a sweep: SWEEP/sweep.json, study.journal, trials/ID/, baselines/NAME/,
confirm/ID-sSEED/, the frontier's.

    sweep = SweepDirectory("runs/sweep")
    [trial.val_metric for trial in sweep.trials()]

No other module spells the names of these files or parses them.
"""

import dataclasses
import json
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.baselines.config import KINDS
from pipelines.core.errors import UserError
from pipelines.core.text import program
from pipelines.storage.layout import MirrorLayout
from pipelines.training.run_directory import RUN_LAYOUT, RunDirectory, has_ended, is_record
from pipelines.tuning.trial import Trial, read_trial
from ttrnn.files import atomic_write

__all__ = ["SWEEP_LAYOUT", "SweepDirectory", "is_result"]

log = logging.getLogger(__name__)

_FORMAT = {"format": "ttrnn-sweep", "version": 1}
_HINT = "give the OUT directory of a sweep"


class SweepDirectory:
    """The directory of a sweep; it need not exist yet.

    Args:
        path: SWEEP.
    """

    MARKER = "sweep.json"
    """The file that makes a directory a sweep."""
    TRIALS_CSV, PARETO_CSV = "trials.csv", "pareto.csv"
    FRONTIER_FILES = (TRIALS_CSV, PARETO_CSV, "pareto.json", "pareto.png", "report.html", "best")
    """The files that show the frontier; the last one is a model directory."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.document_path = self.path / self.MARKER
        self.journal = self.path / "study.journal"
        self.ray_log = self.path / "ray.log"
        self.tune_state = self.path / ".tune"
        self.videos = self.path / "videos"
        self.pareto_json = self.path / "pareto.json"
        self.pareto_png = self.path / "pareto.png"
        self.report_html = self.path / "report.html"
        self.best = self.path / "best"
        self._trials = self.path / "trials"
        self._baselines = self.path / "baselines"
        self._replications = self.path / "confirm"
        self._plan = self._replications / "plan.json"

    def __str__(self) -> str:
        return str(self.path)

    def exists(self) -> bool:
        """Whether the directory is a sweep."""
        return self.document_path.exists()

    def run(self, trial: str) -> RunDirectory:
        """The run of a trial, or of a baseline, whose name begins with its kind."""
        return RunDirectory((self._baselines if trial.startswith((*KINDS, "dense")) else self._trials) / trial)

    def teacher_paths(self, teacher: str) -> str:
        """The option teacher of train for names of trials or paths of model directories, separated by commas.

        A path that no longer exists, as the sweep was moved, becomes that of the trial here.
        """
        return ",".join(map(self._teacher_path, teacher.split(",")))

    def _teacher_path(self, each: str) -> str:
        if "/" not in each:
            return str(self.run(each).model)
        own = self.run(Path(each).parent.name).model
        return str(own if own.exists() and not Path(each).exists() else each)

    def replication(self, trial: str, seed: int) -> RunDirectory:
        """The run of a trial with a new seed."""
        return RunDirectory(self._replications / f"{trial}-s{seed}")

    def read(self) -> dict[str, Any]:
        """Reads sweep.json.

        Raises:
            UserError: the directory is not a sweep, or has another format version.
        """
        try:
            sweep = json.loads(self.document_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"{self} is not a sweep ({self.MARKER}: {reason}); {_HINT}") from error
        found = {name: sweep.get(name) if isinstance(sweep, dict) else None for name in _FORMAT}
        if found != _FORMAT:
            raise UserError(
                f"{self.document_path} must have format ttrnn-sweep, version 1; got format {found['format']}, version "
                f"{found['version']}; {_HINT}"
            )
        return dict(sweep)

    def write(self, document: Mapping[str, Any]) -> None:
        """Writes sweep.json, whole or not at all."""
        with atomic_write(self.document_path) as file:
            json.dump({**_FORMAT, **document}, file, indent=1)

    def trials(self) -> list[Trial]:
        """All trials in order of their names, finished or not; without baselines.

        A teacher may exceed the limits of the sweep: its state is then `teacher`, and it is never on the frontier.
        """
        options = self.read()["options"] if self.exists() else {}
        return [self.within(read_trial(run), options) for run in _runs(self._trials)]

    def within(self, trial: Trial, options: Mapping[str, Any] | None = None) -> Trial:
        """The trial; a complete one that exceeds the limits of the sweep as a teacher."""
        options = self.read()["options"] if options is None else options
        costs = {"max_params": trial.num_params, "max_macs": trial.multiply_adds}
        exceeds = any((cost or 0) > (options.get(name) or math.inf) for name, cost in costs.items())
        exceeds |= bool(options.get("streamable")) and trial.config.get("bidirectional") is True
        return dataclasses.replace(trial, state="teacher") if exceeds and trial.state == "complete" else trial

    def baselines(self) -> list[Trial]:
        """All baselines, by size; the state of those that have finished is `baseline`."""
        found = [read_trial(run) for run in _runs(self._baselines)]
        found = [dataclasses.replace(trial, state="baseline") if trial.is_finished else trial for trial in found]
        return sorted(found, key=lambda trial: (trial.num_params or 0, trial.trial))

    def finished_trials(self) -> list[Trial]:
        """All trials in order of their names, at least one of which has finished, and after them the baselines.

        Raises:
            UserError: the directory is not a sweep, or none of its trials has finished.
        """
        self.read()
        trials = self.trials()
        if not any(trial.is_finished for trial in trials):
            states = ", ".join(sorted({trial.state for trial in trials})) or "no trials"
            raise UserError(
                f"{self}: none of its {len(trials)} trials has finished with a metric, so there is no frontier yet "
                f"({states}); resume it with {program('sweep')} --resume, or start another one with a larger "
                "--max-params"
            )
        return [*trials, *self.baselines()]

    def replication_results(self, trial: str) -> dict[int, dict[str, Any]]:
        """The results of the finished replications of a trial, by seed."""
        results = {}
        for path in self._replications.glob(f"{trial}-s*"):
            result = RunDirectory(path).result()
            if result is not None:
                results[int(path.name.rpartition("-s")[2])] = result
        return dict(sorted(results.items()))

    def known_mistakes(self) -> dict[str, Any] | None:
        """The mistakes of the best model of an earlier frontier on test, from pareto.json; None if they are unknown."""
        try:
            found: dict[str, Any] | None = json.loads(self.pareto_json.read_text(encoding="utf-8")).get("mistakes")
        except (OSError, ValueError, AttributeError):
            return None
        return found if isinstance(found, dict) and "model_sha256" in found else None

    def known_tests(self) -> dict[tuple[str, str], dict[str, Any]]:
        """(trial, SHA-256 of its weights) -> test_metric, test_interval and per_class, from pareto.json.

        Files of earlier versions lack the last two, which are then None, and call `not_replicated` `lucky`.
        """
        try:
            data = json.loads(self.pareto_json.read_text(encoding="utf-8"))
            return {
                (point["trial"], point["model_sha256"]): {
                    name: point.get(name) for name in ("test_metric", "test_interval", "per_class")
                }
                for point in _tested(data)
                if point["test_metric"] is not None
            }
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s cannot be read (%s): the test split is evaluated again", self.pareto_json, error)
            return {}

    def read_plan(self) -> dict[str, Any] | None:
        """The seeds of the replications, the failed ones, and the points for which there was no time; None if there is
        no plan or, with a warning, if it cannot be read."""
        try:
            plan = json.loads(self._plan.read_text(encoding="utf-8"))
            return {"seeds": plan["seeds"], "failed": plan["failed"], "left_out": plan.get("left_out", [])}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s cannot be read (%s): the frontier is drawn from single values", self._plan, error)
            return None

    def write_plan(
        self, seeds: Sequence[int], failed: Sequence[Mapping[str, Any]], left_out: Sequence[str] = ()
    ) -> None:
        """Writes the seeds of the replications, trial, seed and error of those that failed, and the points of the
        frontier for which there was no time."""
        self._replications.mkdir(exist_ok=True)
        with atomic_write(self._plan) as file:
            json.dump({"seeds": list(seeds), "failed": list(failed), "left_out": list(left_out)}, file, indent=1)


def _runs(directory: Path) -> list[RunDirectory]:
    return [RunDirectory(path) for path in sorted(directory.glob("[!.]*")) if path.is_dir()]


def _tested(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The trials of pareto.json whose weights may have been tested."""
    return [*data["frontier"], *data.get("not_replicated", data.get("lucky", [])), *data.get("baselines", [])]


def is_result(name: str) -> bool:
    """Whether a file of a sweep, given by its path below SWEEP, is needed to draw the frontier; weights are not."""
    parts = name.split("/")
    if len(parts) == 1:
        return name in (SweepDirectory.MARKER, "study.journal", "pareto.json")
    if parts[0] == "confirm" and len(parts) == 2:
        return parts[1] == "plan.json"
    return _run_of(name) is not None and is_record("/".join(parts[2:]))


def _run_of(name: str) -> str | None:
    parts = name.split("/")
    return "/".join(parts[:2]) if parts[0] in ("trials", "baselines", "confirm") and len(parts) > 2 else None


def _known_trials(sweep: Path) -> Collection[str]:
    from pipelines.tuning.importance import read_study

    # A trial whose values the journal lacks counts as failed, and another one is trained in its place. Its files can be
    # newer than the journal, which is read before them.
    trials = read_study(SweepDirectory(sweep).journal)
    return [name for name, trial in trials.items() if "values" in trial.user_attrs]


SWEEP_LAYOUT = MirrorLayout(
    marker=SweepDirectory.MARKER,
    run_of=_run_of,
    has_ended=has_ended,
    last=RunDirectory.LAST,
    checkpoint=RUN_LAYOUT.checkpoint,
    # Shards are written to the bucket directly, and the demo's videos are rendered on each machine. Another
    # machine would wait for a lock that nobody holds.
    never_sent=("shards", "videos", "study.journal.lock"),
    # It grows all the time, and is not needed to resume.
    sent_at_end=("ray.log",),
    journal="study.journal",
    trials="trials",
    known_trials=_known_trials,
)
"""The layout of a sweep in a bucket."""

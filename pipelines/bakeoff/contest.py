"""Run a bake-off on Ray: for each cell a short search, and then the best model with several seeds."""

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.bakeoff.options import BakeoffOptions, Cell
from pipelines.bakeoff.table import Row, remarks, rows, write_files
from pipelines.cluster.session import start_ray
from pipelines.cluster.slots import Slots
from pipelines.core.errors import UserError
from pipelines.core.periodic import repeated
from pipelines.core.text import duration
from pipelines.data.dataset import ShardDataset
from pipelines.data.loader import num_steps
from pipelines.storage.location import Location
from pipelines.storage.lock import only_writer
from pipelines.storage.output import prepare_out, refuse_other_options, undone_if_refused
from pipelines.training.launcher import run_trainings
from pipelines.training.memory import step_bytes
from pipelines.training.options import TrainOptions
from pipelines.training.queue import Queue, Training
from pipelines.training.run_directory import RunDirectory
from pipelines.training.setup import model_config, training_splits
from pipelines.training.single_run import earlier_result
from search_spaces.bakeoff import CONTENDERS, candidates
from ttrnn.files import atomic_write

__all__ = ["bakeoff"]

log = logging.getLogger(__name__)
_MARKER = "bakeoff.json"
_LOG_EVERY_S = 60
# Share of the steps of the selected model.
_SEARCH_STEPS = 1 / 3
_BATCH_SIZE = 16


def bakeoff(options: BakeoffOptions) -> dict[str, Any]:
    """Trains the missing runs, and writes table and figure after each budget.

    Returns:
        out, table (see table.rows), remarks, num_failed; exit_code 1 if runs failed.
    """
    out = Location.of(options.out).local.absolute()
    for place in options.bakeoff:
        if options.overwrite and Location.of(place).lies_in(Location.of(out)):
            raise UserError(f"--overwrite deletes {out}, in which {place} lies; give another OUT")
    with only_writer(Location.of(out)):
        prepare_out(out, marker=_MARKER, overwrite=options.overwrite, resume=options.resume)
        with undone_if_refused(out, marker=_MARKER):
            _claim(out, options)
            data = {dataset.place.name: dataset for dataset in map(_open, options.bakeoff)}
        return _Contest(options, out, data).run()


def _claim(out: Path, options: BakeoffOptions) -> None:
    path = out / _MARKER
    if path.exists():
        refuse_other_options(out, json.loads(path.read_text(encoding="utf-8"))["options"], options.settings())
        return
    with atomic_write(path) as file:
        json.dump({"format": "ttrnn-bakeoff", "version": 1, "options": options.settings()}, file, indent=1)


def _open(place: str) -> ShardDataset:
    data = ShardDataset.open(Location.of(place).absolute())
    training_splits(TrainOptions(shards=place, out=""), data)
    if not len(data.split("test")):
        raise UserError(f"{place} has no clips in its split 'test', and a bake-off ends there; preprocess more videos")
    return data


class _Contest:
    """The cells of a bake-off and the results of their runs."""

    def __init__(self, options: BakeoffOptions, out: Path, data: Mapping[str, ShardDataset]) -> None:
        self.options, self.out, self.data = options, out, data
        self.results: dict[Cell, dict[str, dict[str, Any]]] = {}
        """For each cell, the result of each run by its name; also those that an earlier command trained."""
        for path in sorted(out.glob("runs/*/*/*/*")):
            cell = Cell.of(path.relative_to(out).as_posix())
            if cell.data in data and (earlier := earlier_result(RunDirectory(path))) is not None:
                self.results.setdefault(cell, {})[path.name] = earlier

    def run(self) -> dict[str, Any]:
        """Searches and trains, budget by budget, so that an interrupted bake-off has complete tables of the first."""
        with start_ray():
            slots = Slots.of_cluster(1, 1.0)
            for budget in self.options.budgets:
                cells = [Cell(budget, name, each) for name in self.data for each in self.options.chosen]
                for cell in cells:
                    self.results.setdefault(cell, {})
                for stage, planned in (("search", self._trials), ("seeds", self._seeds)):
                    trainings = [training for cell in cells for training in planned(cell)]
                    self._train(f"{stage} at {budget:,} parameters", trainings, slots)
                found = self._write()
        return found

    def _trials(self, cell: Cell) -> Iterator[Training]:
        data = self.data[cell.data]
        models = candidates(cell.contender, data.frame.shape, len(data.classes), cell.budget, self.options.num_trials)
        for number, values in enumerate(models):
            epochs = self._epochs(data, _SEARCH_STEPS * self.options.steps)
            yield self._training(cell, f"search-{number}", {**values, "epochs": epochs}, is_tested=False)

    def _seeds(self, cell: Cell) -> Iterator[Training]:
        """The trial with the highest validation metric, again with each seed; nothing if all trials failed."""
        trials = {name: run for name, run in self.results[cell].items() if name.startswith("search-")}
        complete = {name: float(run["val_metric"]) for name, run in trials.items() if run["state"] == "complete"}
        if not complete:
            return
        best = max(complete, key=lambda name: complete[name])
        values = cell.run(self.out, best).options()
        epochs = self._epochs(self.data[cell.data], self.options.steps)
        for seed in range(1, self.options.seeds + 1):
            yield self._training(cell, f"seed-{seed}", {**values, "epochs": epochs, "seed": seed}, is_tested=True)

    def _epochs(self, data: ShardDataset, steps: float) -> int:
        return max(1, round(steps / num_steps(len(data.split("train")), _BATCH_SIZE)))

    def _training(self, cell: Cell, name: str, values: Mapping[str, Any], *, is_tested: bool) -> Training:
        data, run = self.data[cell.data], cell.run(self.out, name)
        options = TrainOptions(**{**values, "batch_size": _BATCH_SIZE, "shards": str(data.place), "out": str(run)})
        model = model_config(options, data)
        longest = int(data.clips().lengths.max())
        return Training(
            name=run.path.relative_to(self.out).as_posix(),
            options=options,
            model=model,
            memory_bytes=step_bytes(model, options.batch_size, longest, "cpu", data.codec),
            has_result=True,
            has_test_split=is_tested,
        )

    def _train(self, stage: str, trainings: Sequence[Training], slots: Slots) -> None:
        """Trains those without a result."""
        todo = [training for training in trainings if Path(training.name).name not in self._of(training)]
        log.info("%s: %d runs, %d of them to do", stage, len(trainings), len(todo))
        if not todo:
            return
        start, waiting = time.monotonic(), {training.name for training in todo}

        def ended(training: Training, result: dict[str, Any]) -> None:
            self._of(training)[Path(training.name).name] = result
            waiting.discard(training.name)

        def log_progress() -> None:
            num_done = len(todo) - len(waiting)
            left_s = (time.monotonic() - start) / max(num_done, 1) * len(waiting)
            log.info("%s: %d of %d runs, about %s left", stage, num_done, len(todo), duration(left_s))

        queue = Queue(todo, on_end=ended, memory_bytes=slots.memory_bytes)
        with repeated(log_progress, _LOG_EVERY_S):
            run_trainings(queue, slots, state=self.out / ".tune")

    def _of(self, training: Training) -> dict[str, dict[str, Any]]:
        """The results of the cell of a training."""
        return self.results[Cell.of(training.name)]

    def _write(self) -> dict[str, Any]:
        table: list[Row] = rows(self.out, dict(sorted(self.results.items(), key=self._place)), self.data)
        notes = remarks(table, self.options)
        write_files(self.out, table, notes)
        num_failed = sum(run["state"] != "complete" for runs in self.results.values() for run in runs.values())
        found = {"out": str(self.out), "table": table, "remarks": notes, "num_failed": num_failed}
        return {**found, "exit_code": 1} if num_failed else found

    def _place(self, item: tuple[Cell, Any]) -> tuple[int, int, int]:
        cell, _ = item
        return cell.budget, list(self.data).index(cell.data), CONTENDERS.index(cell.contender)

"""Reproduce the paper's table on Ray."""

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.cluster.session import start_ray
from pipelines.cluster.slots import Slots
from pipelines.core.errors import UserError
from pipelines.core.periodic import repeated
from pipelines.core.text import duration
from pipelines.data.dataset import ShardDataset
from pipelines.data.folds import open_folds
from pipelines.data.options import PreprocessOptions
from pipelines.data.preprocessing import make_shards
from pipelines.data.shards import DATASET_JSON
from pipelines.evaluation.metrics import METRICS
from pipelines.paper import table
from pipelines.paper.estimate import dry_run
from pipelines.paper.protocols import PaperRun, ReproduceOptions, is_paper_frame, plan_runs
from pipelines.storage.location import Location
from pipelines.storage.lock import only_writer
from pipelines.storage.output import prepare_out, refuse_other_options, undone_if_refused
from pipelines.training.launcher import run_trainings
from pipelines.training.memory import step_bytes
from pipelines.training.queue import Queue, Training
from pipelines.training.setup import model_config
from pipelines.training.single_run import earlier_result
from search_spaces import paper
from search_spaces.paper import EXPERIMENTS, MODELS
from ttrnn.files import atomic_write
from ttrnn.model import ModelConfig

__all__ = ["reproduce"]


log = logging.getLogger(__name__)
_MARKER = "reproduce.json"
_LOG_EVERY_S = 60


def reproduce(options: ReproduceOptions) -> dict[str, Any]:
    """Trains the missing runs of the table and writes it; with --dry-run, estimates the cost instead.

    Returns:
        dataset, title, out, table (see table.rows), num_runs, num_failed, remarks; exit_code 1 if runs failed.
    """
    if options.dry_run:
        return dry_run(options)
    out = Location.of(options.out).local.absolute()
    if options.overwrite and Location.of(options.data).lies_in(Location.of(out)):
        raise UserError(f"--overwrite deletes {out}, in which {options.data} lies; give another OUT")
    with only_writer(Location.of(out)):
        prepare_out(out, marker=_MARKER, overwrite=options.overwrite, resume=options.resume)
        _claim(out, options)
        return _reproduce(options, out)


def _reproduce(options: ReproduceOptions, out: Path) -> dict[str, Any]:
    with undone_if_refused(out, marker=_MARKER):
        data = ShardDataset.open(_shards(options, out))
        runs = plan_runs(options, str(data.place), out, data)
        for protocol in options.protocols:
            # Raises UserError before any training if the data cannot be split.
            first = next(run for run in runs if run.protocol == protocol)
            open_folds(first.train.shards, first.train.folding)
    results = _run_all(runs, options, data, out)
    rows = table.rows(results)
    num_failed = sum(run["state"] in ("failed", "refused") for run in results)
    result = {
        "dataset": options.dataset,
        "title": _title(options),
        "out": str(out),
        "table": rows,
        "num_runs": len(results),
        "num_failed": num_failed,
        "remarks": _remarks(options, data, results),
    }
    return {**result, "exit_code": 1} if num_failed else result


def _claim(out: Path, options: ReproduceOptions) -> None:
    """Writes reproduce.json; if it exists, checks that the table was started with these options."""
    path = out / _MARKER
    if not path.exists():
        with atomic_write(path) as file:
            json.dump({"format": "ttrnn-reproduce", "version": 1, "options": options.settings()}, file, indent=1)
        return
    refuse_other_options(out, json.loads(path.read_text(encoding="utf-8"))["options"], options.settings())


def _shards(options: ReproduceOptions, out: Path) -> Location:
    """Returns the directory of shards: DATA itself, or shards made from its videos."""
    source = Location.of(options.data).absolute()
    if (source / DATASET_JSON).exists():
        if options.max_frames is not None:
            raise UserError(f"max_frames {options.max_frames} applies to videos, but {source} has shards; leave it out")
        return source
    experiment, shards = EXPERIMENTS[options.dataset], out / "shards"
    if not (shards / DATASET_JSON).exists():
        make_shards(
            PreprocessOptions(
                videos=str(source),
                out=str(shards),
                width=experiment.width,
                height=experiment.height,
                fps=experiment.fps,
                max_frames=options.max_frames or experiment.max_frames,
                # With folds, the splits are replaced anyway; official splits are kept.
                allow_group_leak=experiment.folds is not None,
                resume=shards.exists(),
            )
        )
    return Location.of(shards)


def _run_all(
    runs: Sequence[PaperRun], options: ReproduceOptions, data: ShardDataset, out: Path
) -> list[dict[str, Any]]:
    """Trains the runs without a result, and writes the table after each; returns all results, also earlier ones."""
    others = [run for run in _runs_with_results(options, data, out) if run not in runs]
    configs = {run: model_config(run.train, data) for run in (*runs, *others)}
    results = {}
    for run, config in configs.items():
        # Runs that are not part of this command are not continued.
        earlier = earlier_result(run.directory, options.time_limit_s if run in runs else 0.0) or {}
        # The path in an earlier result is wrong if OUT was moved.
        results[run] = _waiting_row(run, config, options.dataset) | earlier | {"out": run.train.out}
    remarks = _remarks(options, data, list(results.values()))

    def write() -> None:
        everything = list(results.values())
        table.write_table(out, table.rows(everything), everything, _title(options), remarks)

    write()
    todo = {run.train.out: run for run in runs if results[run]["state"] == "waiting"}
    log.info("%d runs, %d of them to do", len(runs), len(todo))
    if todo:
        with start_ray():

            def on_end(training: Training, result: dict[str, Any]) -> None:
                run = todo[training.name]
                results[run] |= result
                write()
                log.info("%s: %s", run, _outcome(results[run]))

            _train(todo, {run: configs[run] for run in todo.values()}, options, data, out, on_end)
    return list(results.values())


def _train(
    runs: Mapping[str, PaperRun],
    configs: Mapping[PaperRun, ModelConfig],
    options: ReproduceOptions,
    data: ShardDataset,
    out: Path,
    on_end: Callable[[Training, dict[str, Any]], object],
) -> None:
    """Trains the runs on Ray, as many at a time as fit, each in a new process."""
    slots = Slots.of_cluster(1, 1.0, cpus_per_worker=options.cpus_per_run)
    longest = int(data.clips().lengths.max())
    memory_bytes = {
        run: step_bytes(configs[run], run.train.batch_size, longest, slots.device_type, data.codec)
        for run in runs.values()
    }
    if slots.device == "GPU":
        # Rounded up to twentieths, so that all runs on a GPU fit; a whole GPU if its memory is unknown.
        share = (
            math.ceil(20 * max(memory_bytes.values()) / slots.memory_bytes) / 20
            if slots.memory_bytes < math.inf
            else 1.0
        )
        gpus = options.gpus_per_run or min(1.0, share)
        slots = Slots.of_cluster(1, gpus, cpus_per_worker=options.cpus_per_run)
    trainings = [
        Training(
            name=name,
            options=run.train,
            model=configs[run],
            memory_bytes=memory_bytes[run],
            has_result=True,
            time_limit_s=options.time_limit_s,
        )
        for name, run in runs.items()
    ]
    start = time.monotonic()

    def ended(training: Training, result: dict[str, Any]) -> None:
        on_end(training, result)
        waiting.discard(training.name)
        num_done = len(runs) - len(waiting)
        left_s = (time.monotonic() - start) / num_done * len(waiting)
        log.info("%d of %d runs, about %s left", num_done, len(runs), duration(left_s))

    def log_progress() -> None:
        epochs = {str(runs[name]): len(runs[name].directory.metrics()) for name in list(waiting)}
        started = [f"{run} epoch {number}" for run, number in epochs.items() if number]
        log.info("training: %s", ", ".join(started) or "the first epochs")

    waiting = set(runs)
    queue = Queue(trainings, on_end=ended, memory_bytes=slots.memory_bytes)
    with repeated(log_progress, _LOG_EVERY_S):
        run_trainings(queue, slots, state=out / ".tune", new_processes=True)


def _runs_with_results(options: ReproduceOptions, data: ShardDataset, out: Path) -> list[PaperRun]:
    """All runs with a result of an earlier command, also of other models, protocols or seeds."""
    names = (path.name for path in out.glob("runs/*/*/*"))
    seeds = [int(name.rpartition("-")[2]) + 1 for name in names if name.rpartition("-")[2].isdigit()]
    everything = dataclasses.replace(options, models=tuple(MODELS), protocol="both", seeds=max(seeds, default=1))
    planned = plan_runs(everything, str(data.place), out, data)
    return [run for run in planned if run.directory.result_path.exists()]


def _waiting_row(run: PaperRun, config: ModelConfig, dataset: str) -> dict[str, Any]:
    """The row of a run before it is trained."""
    return {
        **dict.fromkeys(table.RUN_COLUMNS),
        "protocol": run.protocol,
        "model": run.model,
        "fold": run.train.fold,
        "seed": run.train.seed,
        "state": "waiting",
        "metric": METRICS[config.task],
        "num_params": config.num_params,
        "input_params": config.input_params,
        "dense_params": config.frame_size * config.input_shape.out_features,
        "published": paper.published(dataset, run.model),
        "out": run.train.out,
    }


def _outcome(result: Mapping[str, Any]) -> str:
    if result["value"] is None:
        return f"{result['state']}: {result['error']}"
    metric = result["metric"].replace("_", " ")
    return (
        f"{metric} {100 * result['value']:.1f}% on {result['num_clips']} clips, {result['epochs']} epochs in "
        f"{duration(result['train_s'])}"
    )


def _title(options: ReproduceOptions) -> str:
    return f"{options.dataset}: tensor trains against dense matrices"


def _remarks(options: ReproduceOptions, data: ShardDataset, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Remarks on data and protocols below the table."""
    experiment, clips = EXPERIMENTS[options.dataset], data.clips()
    protocols = {run["protocol"] for run in results}
    remarks = [
        f"data: {len(clips):,} clips of {len(data.classes)} classes, {int(clips.lengths.sum()):,} frames of "
        f"{data.frame.width}x{data.frame.height}x{data.frame.channels}",
        f"measured: {METRICS[data.task].replace('_', ' ')} on test clips, mean and standard deviation over folds and "
        "seeds; the 95% interval is that of all test clips together",
        f"{options.epochs or experiment.epochs:,} epochs at learning rate {options.lr or experiment.lr:g}; the paper: "
        f"{experiment.epochs:,} at {experiment.lr:g}",
        "published: the figure in the paper, for its data, protocol and epochs, from published.csv; not measured here",
    ]
    if len(data.classes) != experiment.num_classes:
        remarks.append(
            f"published figures are for other data, with {experiment.num_classes} classes, and not comparable"
        )
    if not is_paper_frame(data, options.dataset):
        remarks.append(
            f"frames do not have the paper's size, {experiment.width}x{experiment.height}x3, and other input modes"
        )
    if "published" in protocols:
        splits = "folds by clip, so that groups leak, " if experiment.folds else "official lists, "
        remarks.append(f"protocol published: {splits}the model of the last epoch, {table.WATCHED}")
    if "ours" in protocols:
        splits = "folds by group, " if experiment.folds else "official lists, "
        remarks.append(f"protocol ours: {splits}the best epoch on validation clips, tested once")
    return remarks

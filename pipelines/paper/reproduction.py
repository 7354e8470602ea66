"""Reproduce the paper's table on Ray."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.cluster.session import start_ray
from pipelines.cluster.slots import local_device
from pipelines.core.errors import UserError
from pipelines.core.text import duration
from pipelines.data.dataset import ShardDataset
from pipelines.data.folds import open_folds
from pipelines.data.preprocessing import PreprocessOptions, make_shards
from pipelines.data.shards import DATASET_JSON
from pipelines.evaluation.metrics import METRICS
from pipelines.paper import table
from pipelines.paper.estimate import dry_run
from pipelines.paper.protocols import ReproduceOptions, is_paper_frame, plan_runs
from pipelines.storage.location import Location
from pipelines.storage.lock import only_writer
from pipelines.storage.output import prepare_out, refuse_other_options, undone_if_refused
from pipelines.training.launcher import Run, earlier_result, run_all
from pipelines.training.memory import step_bytes
from pipelines.training.setup import model_config
from search_spaces import paper
from search_spaces.paper import EXPERIMENTS, MODELS
from ttrnn.files import atomic_write
from ttrnn.model import ModelConfig

__all__ = ["reproduce"]


log = logging.getLogger(__name__)
_MARKER = "reproduce.json"


def reproduce(options: ReproduceOptions) -> dict[str, Any]:
    """The table: what is missing of it is trained. Or, with --dry-run, what that would cost.

    Returns:
        dataset, title, out, table (see table.rows), num_runs, num_failed, remarks; exit_code 1 where runs failed.
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
            # What can't be split is refused at once.
            some = next(run for run in runs if run.protocol == protocol)
            open_folds(some.train.shards, some.train.folding)
    found = _run_all(runs, options, data, out)
    lines = table.rows(found)
    num_failed = sum(run["state"] in ("failed", "refused") for run in found)
    result = {
        "dataset": options.dataset,
        "title": _title(options),
        "out": str(out),
        "table": lines,
        "num_runs": len(found),
        "num_failed": num_failed,
        "remarks": _remarks(options, data, found),
    }
    return {**result, "exit_code": 1} if num_failed else result


def _claim(out: Path, options: ReproduceOptions) -> None:
    """Writes reproduce.json, or refuses to go on with a table of other options."""
    path = out / _MARKER
    if not path.exists():
        with atomic_write(path) as file:
            json.dump({"format": "ttrnn-reproduce", "version": 1, "options": options.settings()}, file, indent=1)
        return
    refuse_other_options(out, json.loads(path.read_text(encoding="utf-8"))["options"], options.settings())


def _shards(options: ReproduceOptions, out: Path) -> Location:
    """Where the shards lie: DATA itself, or what is made of it."""
    place = Location.of(options.data).absolute()
    if (place / DATASET_JSON).exists():
        if options.max_frames is not None:
            raise UserError(f"max_frames {options.max_frames} is for videos; {place} has shards: leave it out")
        return place
    experiment, shards = EXPERIMENTS[options.dataset], out / "shards"
    if not (shards / DATASET_JSON).exists():
        make_shards(
            PreprocessOptions(
                videos=str(place),
                out=str(shards),
                width=experiment.width,
                height=experiment.height,
                fps=experiment.fps,
                max_frames=options.max_frames or experiment.max_frames,
                # Folds are dealt anew anyway; official splits stay.
                allow_group_leak=experiment.folds is not None,
                resume=shards.exists(),
            )
        )
    return Location.of(shards)


def _run_all(runs: Sequence[Run], options: ReproduceOptions, data: ShardDataset, out: Path) -> list[dict[str, Any]]:
    """Trains what has no result yet, writing the table after each run. Gives all results, of earlier commands too."""
    limit_s = None if options.time_limit_minutes is None else 60 * options.time_limit_minutes
    others = [run for run in _runs_there(options, data, out) if run not in runs]
    configs = {run: model_config(run.train, data) for run in (*runs, *others)}
    found = {}
    for run, config in configs.items():
        # What is not asked for now is not given more time.
        earlier = earlier_result(run, limit_s if run in runs else 0.0) or {}
        # Where it lies is known, if OUT was moved, better than by what was written then.
        found[run] = _before(run, config, options.dataset) | earlier | {"out": run.train.out}
    remarks = _remarks(options, data, list(found.values()))

    def write() -> None:
        everything = list(found.values())
        table.write_table(out, table.rows(everything), everything, _title(options), remarks)

    write()
    todo = [run for run in runs if found[run]["state"] == "waiting"]
    log.info("%d runs, %d of them to do", len(runs), len(todo))
    if not todo:
        return list(found.values())
    longest = int(data.clips().lengths.max())
    needs = {run: step_bytes(configs[run], run.train.batch_size, longest, local_device().type) for run in todo}
    with start_ray():
        for run, result in run_all(
            todo, needs, time_limit_s=limit_s, num_cpus=options.cpus_per_run, num_gpus=options.gpus_per_run
        ):
            found[run] |= result
            write()
            log.info("%s: %s", run, _told(found[run]))
    return list(found.values())


def _runs_there(options: ReproduceOptions, data: ShardDataset, out: Path) -> list[Run]:
    """Runs that earlier commands have left a result of, be they of other models, protocols or seeds."""
    seeds = [int(path.parent.name.rpartition("-")[2]) + 1 for path in out.glob("runs/*/*/*/result.json")]
    everything = dataclasses.replace(options, models=tuple(MODELS), protocol="both", seeds=max(seeds, default=1))
    return [run for run in plan_runs(everything, str(data.place), out, data) if run.result_path.exists()]


def _before(run: Run, config: ModelConfig, dataset: str) -> dict[str, Any]:
    """What is known of a run before it begins."""
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


def _told(result: Mapping[str, Any]) -> str:
    if result["value"] is None:
        return f"{result['state']}: {result['error']}"
    metric = result["metric"].replace("_", " ")
    return (
        f"{metric} {100 * result['value']:.1f}% on {result['num_clips']} clips, {result['epochs']} epochs in "
        f"{duration(result['train_s'])}"
    )


def _title(options: ReproduceOptions) -> str:
    return f"{options.dataset}: tensor trains against dense matrices"


def _remarks(options: ReproduceOptions, data: ShardDataset, found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know to judge the table."""
    experiment, clips = EXPERIMENTS[options.dataset], data.clips()
    protocols = {run["protocol"] for run in found}
    remarks = [
        f"data: {len(clips):,} clips of {len(data.classes)} classes, {int(clips.lengths.sum()):,} frames of "
        f"{data.frame.width}x{data.frame.height}x{data.frame.channels}",
        f"measured: {METRICS[data.task].replace('_', ' ')} on test clips, mean and standard deviation over folds and "
        "seeds; its 95% interval is that of all test clips together",
        f"{options.epochs or experiment.epochs:,} epochs at learning rate {options.lr or experiment.lr:g}; the paper: "
        f"{experiment.epochs:,} at {experiment.lr:g}",
        "published: the paper's own figure, of its data, protocol and epochs, from published.csv; nothing of it was "
        "measured here",
    ]
    if len(data.classes) != experiment.num_classes:
        remarks.append(
            f"published figures are of other data, with {experiment.num_classes} classes: they are no yardstick here"
        )
    if not is_paper_frame(data, options.dataset):
        remarks.append(f"frames are not the paper's {experiment.width}x{experiment.height}x3: input modes follow them")
    if "published" in protocols:
        dealt = "folds dealt clip by clip, groups leak, " if experiment.folds else "official lists, "
        remarks.append(f"protocol published: {dealt}the last epoch's model, {table.WATCHED}")
    if "ours" in protocols:
        dealt = "folds of whole groups, " if experiment.folds else "official lists, "
        remarks.append(f"protocol ours: {dealt}the best epoch on validation clips, the test fold looked at once")
    return remarks

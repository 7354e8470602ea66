"""(3) Explore tensor-train shapes and ranks: validation metric up, parameters down. Does the whole job.

    python -m pipelines.sweep                                       the embedded demo
    python -m pipelines.sweep --data VIDEOS --out runs/mine         videos of your own
    python -m pipelines.sweep --data SHARDS --out runs/mine --num-trials 64 --max-params 20000
    python -m pipelines.sweep --out runs/mine --data SHARDS --resume

Leaves SWEEP/sweep.json, study.journal (opens in optuna-dashboard), trials/ID/ (each a run as train leaves it), and what
pareto.py makes of them: trials.csv, pareto.csv, pareto.json, report.html, pareto.png, best/ (a model directory).
"""

import dataclasses
import json
import logging
import os
import shutil
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState
from rich.console import Group, RenderableType

import search_spaces
from pipelines import cli, demo, pareto, report
from pipelines import predict as prediction
from pipelines.cli import UserError
from pipelines.cluster import devices, start_ray
from pipelines.fit import DivergedError, fit
from pipelines.metrics import METRICS, chance_level
from pipelines.preprocess import PREPROCESS_JSON, PreprocessOptions, preprocess
from pipelines.recipe import TrainOptions, claim_run, flat_config, model_config, resolve_precision
from pipelines.shards import DATASET_JSON, ShardDataset
from pipelines.storage import Location, prepare_out, refuse_other_options, undone_if_refused
from pipelines.train import fit_on_ray
from ttrnn.files import atomic_write

if TYPE_CHECKING:
    from ray import tune

__all__ = ["SweepOptions", "sweep"]

log = logging.getLogger(__name__)
_STUDY = "sweep"
_OBJECTIVES = {"val_metric": "max", "num_params": "min"}
_DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepOptions:
    """Explore tensor-train shapes and ranks with Ray Tune and Optuna; then frontier, report and best model."""

    data: str | None = None
    """videos (folder or CSV) or shards; default: the embedded demo"""
    out: str = "runs/sweep"
    """directory of the sweep"""
    space: str = "shapes"
    """what to try: shapes (cells, modes, ranks) or ranks (the paper's shape, ranks only)"""
    num_trials: int = 16
    """models to try, those that are too large for --max-params included"""
    epochs: int = 16
    """passes over the train split for each of them"""
    max_params: int | None = None
    """train no model with more parameters than this, classifier included; default: no limit"""
    seed: int = 0
    """of the search, the models and the demo"""
    num_workers: int = 1
    """processes (GPUs) that share one trial; as many trials run at a time as fit"""
    gpus_per_worker: float = 1.0
    """where there are GPUs: less than 1 lets several trials of small models share one, 0.25 four; they must fit in its
    memory together"""
    resume: bool = False
    """continue a sweep that was interrupted"""
    overwrite: bool = False
    """delete an older sweep first"""

    def __post_init__(self) -> None:
        for name in ("num_trials", "epochs", "num_workers", "max_params"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")
        if not 0 < self.gpus_per_worker <= 1:
            raise ValueError(f"0 < gpus_per_worker <= 1 must hold, got {self.gpus_per_worker}")
        search_spaces.load(self.space)

    def settings(self) -> dict[str, Any]:
        """What decides the result, and where it goes."""
        data = None if self.data is None else str(Location.of(self.data).absolute())
        values = dataclasses.asdict(self) | {"data": data}
        return {name: value for name, value in values.items() if name not in ("gpus_per_worker", "resume", "overwrite")}


def sweep(options: SweepOptions) -> dict[str, Any]:
    """The whole job: data, trials, frontier, report, best model; for the demo, one held-out video classified too."""
    if options.data is not None and not Location.of(options.data).exists():
        raise UserError(f"there is no {options.data}; give a folder of videos, a CSV or shards as --data")
    if options.overwrite and options.data is not None and _lies_in(options.data, options.out):
        raise UserError(f"--overwrite deletes {options.out}, in which --data {options.data} lies; give another --out")
    out = Location.of(options.out).local.absolute()
    prepare_out(out, marker="sweep.json", overwrite=options.overwrite, resume=options.resume)
    _claim(out, options)
    start = time.monotonic()
    with undone_if_refused(out, marker="sweep.json"), start_ray():
        device, slots = devices(options.num_workers, options.gpus_per_worker)
        data = ShardDataset.open(_shards(options, out))
        _write_facts(out, options, data)
        num_failed = _run_trials(options, out, data, device, slots)
    result = pareto.write_frontier(out)
    if num_failed:
        log.error("%d trials failed; --resume tries them again", num_failed)
        result["exit_code"] = 1
    result["wall_s"] = round(time.monotonic() - start, 1)
    if options.data is None:
        video = out / "videos" / data.split("test").clip_ids[0]
        log.info("classifying %s, which no model has seen, with the best model", video)
        result.update(prediction.predict(prediction.PredictOptions(model=str(out / "best"), video=(str(video),))))
    return result


def _lies_in(inner: str, outer: str) -> bool:
    return Path(inner).resolve().is_relative_to(Path(outer).resolve())


def _claim(out: Path, options: SweepOptions) -> None:
    """Writes sweep.json, or refuses to resume a sweep that was started with other options."""
    path = out / "sweep.json"
    if not path.exists():
        with atomic_write(path) as file:
            json.dump({"format": "ttrnn-sweep", "version": 1, "options": options.settings()}, file, indent=1)
        return
    settings = {name: value for name, value in options.settings().items() if name != "out"}
    refuse_other_options(out, pareto.read_sweep(out)["options"], settings, name_of_out="--out")


def _shards(options: SweepOptions, out: Path) -> Location:
    """The directory of shards: what was given, or what is made of the videos that were given or rendered."""
    shards = Location.of(out / "shards")
    frame: dict[str, Any] = {}
    if options.data is None:
        videos = Location.of(out / "videos")
        if not (videos / demo.MARKER).exists():
            log.info("rendering the demo data set to %s", videos)
            demo.demo(demo.DemoOptions(out=str(videos), seed=options.seed))
        frame = {"width": demo.WIDTH, "height": demo.HEIGHT, "channels": demo.CHANNELS}
    elif any((Location.of(options.data) / name).exists() for name in (DATASET_JSON, PREPROCESS_JSON)):
        return Location.of(options.data).absolute()
    else:
        videos = Location.of(options.data).absolute()
    if not (shards / DATASET_JSON).exists():
        preprocess(
            PreprocessOptions(videos=str(videos), out=str(shards), resume=shards.exists(), seed=options.seed, **frame)
        )
    return shards


def _write_facts(out: Path, options: SweepOptions, data: ShardDataset) -> None:
    """Adds to sweep.json what a reader of the results must know about the data."""
    val, test = data.split("val"), data.split("test")
    facts = {
        "format": "ttrnn-sweep",
        "version": 1,
        "options": options.settings(),
        "shards": str(data.place),
        "dataset": "demo" if options.data is None else Path(Location.of(options.data).absolute().name).stem,
        "metric": METRICS[data.task],
        "classes": data.classes,
        "num_classes": len(data.classes),
        "num_val_clips": len(val),
        "num_test_clips": len(test),
        "chance": chance_level(data.task, val.labels, len(data.classes)),
    }
    with atomic_write(out / "sweep.json") as file:
        json.dump(facts, file, indent=1)


@dataclass(frozen=True, slots=True)
class _Suggest:
    """From an Optuna trial to the configuration of a Tune trial. Pickled with the search."""

    options: SweepOptions
    out: Path
    shards: Location

    def __call__(self, trial: optuna.Trial) -> dict[str, Any]:
        point = trial.user_attrs.get("baseline")
        values = search_spaces.load(self.options.space).space(trial) if point is None else point
        name = f"{trial.number:04d}"
        options = TrainOptions(
            shards=str(self.shards),
            out=str(self.out / "trials" / name),
            epochs=self.options.epochs,
            seed=self.options.seed,
            num_workers=self.options.num_workers,
            **values,
        )
        config = model_config(options, ShardDataset.open(self.shards))
        if self.options.max_params is not None:
            trial.set_constraint("max_params", config.num_params - self.options.max_params)
        trial.set_user_attr("num_params", config.num_params)
        too_large = self.options.max_params is not None and config.num_params > self.options.max_params
        return {"trial": name, "train": dataclasses.asdict(options), "too_large": too_large}


def _train_trial(config: dict[str, Any]) -> None:
    """One trial, on the slot that Tune gives it. Every report carries both objectives, finite, best so far."""
    from ray import tune
    from ray.tune.integration.ray_train import TuneReportCallback

    logging.getLogger("ttrnn").setLevel(logging.ERROR)
    options = resolve_precision(TrainOptions(**config["train"]))
    data = ShardDataset.open(options.shards)
    model, out = model_config(options, data), Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    claim_run(out, options, model)
    nothing = {"val_metric": 0.0, "num_params": model.num_params, "input_params": model.input_params}
    if config["too_large"]:
        summary = {
            **nothing,
            "val_metric": None,
            "state": "too_large",
            "epochs": 0,
            "config": flat_config(options, model),
        }
        with atomic_write(out / "summary.json") as file:
            json.dump(summary, file, indent=1)
        tune.report(nothing)
    elif options.num_workers > 1:
        fit_on_ray(options, [TuneReportCallback()], f"trial-{config['trial']}")
    else:
        try:
            # A trial that had finished when its driver died still owes its report.
            tune.report(fit(options, tune.report))
        except DivergedError as error:
            log.warning("trial %s %s", config["trial"], error)
            tune.report(nothing)


def _run_trials(options: SweepOptions, out: Path, data: ShardDataset, device: str, slots: int) -> int:
    """Runs or resumes Tune until all trials have finished; gives the number of those that failed.

    Raises:
        KeyboardInterrupt: Ctrl-C has ended it early.
    """
    # Tune's own progress and result files are not what a person looks at here.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    # Tune's state is saved in the step that asks for a trial: a killed driver forgets none that the study knows.
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "0"
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    storage = JournalStorage(JournalFileBackend(str(out / "study.journal")))
    # With several workers a trial's own process waits; a share of a CPU would starve its workers, placed after it.
    resources = {"memory": float(64 << 20)}
    if options.num_workers == 1:
        resources = {"CPU": 1.0} | ({"GPU": options.gpus_per_worker} if device == "GPU" else {})
    trainable = tune.with_resources(_train_trial, resources)
    state = out / ".tune" / _STUDY
    if tune.Tuner.can_restore(str(state)):
        log.info("resuming the sweep in %s", out)
        tuner = tune.Tuner.restore(str(state), trainable, resume_unfinished=True, resume_errored=True)
    else:
        (out / "study.journal").unlink(missing_ok=True)
        _create_study(options, data, storage)
        search = OptunaSearch(
            _Suggest(options, out, data.place),
            metric=list(_OBJECTIVES),
            mode=list(_OBJECTIVES.values()),
            storage=JournalStorage(JournalFileBackend(str(out / "study.journal"))),
            study_name=_STUDY,
            sampler=optuna.samplers.TPESampler(seed=options.seed, multivariate=True, group=True),
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=search,
                num_samples=options.num_trials,
                max_concurrent_trials=slots,
                reuse_actors=True,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=_STUDY, storage_path=str(out / ".tune"), verbose=0, callbacks=[_progress(options.num_trials)]
            ),
        )
    log.info(
        "sweeping %d trials of %d epochs, %d at a time, over the space %s",
        options.num_trials,
        options.epochs,
        slots,
        options.space,
    )
    results = tuner.fit()
    for error in results.errors:
        log.error("a trial failed: %s", str(error).strip().splitlines()[-1])
    if sum(trial.state.is_finished() for trial in _study(storage).trials) < options.num_trials:
        # Tune turns Ctrl-C into an orderly end.
        raise KeyboardInterrupt
    _settle(out, storage)
    return len(results.errors)


def _trial_name(trial: Any) -> str:
    return str(trial.trial_id)


def _create_study(options: SweepOptions, data: ShardDataset, storage: JournalStorage) -> None:
    study = optuna.create_study(storage=storage, study_name=_STUDY, directions=_DIRECTIONS)
    study.set_metric_names(list(_OBJECTIVES))
    study.set_user_attr("frame", list(data.frame.shape))
    for point in search_spaces.load(options.space).baselines(data.frame.shape):
        study.enqueue_trial({}, user_attrs={"baseline": point})


def _study(storage: JournalStorage) -> optuna.Study:
    return optuna.load_study(storage=storage, study_name=_STUDY)


def _settle(out: Path, storage: JournalStorage) -> None:
    """Trials that a killed driver had begun and Tune has replaced by new ones: fails them and removes their files.

    Those that crashed keep theirs, and say that they failed.
    """
    study = _study(storage)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
        path = out / "trials" / f"{trial.number:04d}" / "summary.json"
        if path.exists() and pareto.read_trial(path.parent).state == "running":
            content = json.loads(path.read_text(encoding="utf-8"))
            with atomic_write(path) as file:
                json.dump({**content, "state": "failed"}, file, indent=1)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        shutil.rmtree(out / "trials" / f"{trial.number:04d}", ignore_errors=True)


def _progress(num_trials: int) -> "tune.Callback":
    """A Tune callback that says a line for each trial that ends."""
    from ray import tune

    class Progress(tune.Callback):
        def setup(self, *args: Any, **info: Any) -> None:
            # After --resume too, when Tune unpickles this object of an earlier process.
            self.start, self.num_here = time.monotonic(), 0

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.num_here += 1
            done = 1 + sum(other.is_finished() for other in trials if other is not trial)
            left_s = (time.monotonic() - self.start) / self.num_here * (num_trials - done)
            shown = report.texts(dataclasses.asdict(pareto.read_trial(Path(trial.config["train"]["out"]))))
            log.info(
                "trial %(trial)s  %(state)s  %(val_metric)s  %(num_params)s parameters  %(cell)s %(modes)s, "
                "ranks %(ranks)s, recurrent ranks %(recurrent_ranks)s",
                shown,
            )
            log.info("%d of %d trials, about %.0f s left", done, num_trials, left_s)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.num_here += 1
            log.error("trial %s failed", trial.config["trial"])

    return Progress()


def summary(result: dict[str, Any]) -> RenderableType:
    """The frontier, where everything lies, what to try next; the classified demo video."""
    parts: list[RenderableType] = [pareto.summary(result)]
    if "videos" in result:
        parts.append(prediction.summary(result))
    return Group(*parts)


def main(argv: list[str] | None = None) -> int:
    """The command; see the head of this file."""
    return cli.run(SweepOptions, sweep, summary, argv)


if __name__ == "__main__":
    # As `python pipelines/sweep.py` too: the importable module is the one that Ray pickles by reference.
    from pipelines.sweep import main as importable_main

    sys.exit(importable_main())

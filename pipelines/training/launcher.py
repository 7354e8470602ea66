"""Trainings side by side on Ray: each a run as train leaves it and a result.json, whatever becomes of the others."""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cluster.nodes import nodes_but
from pipelines.cluster.slots import devices, largest_memory, local_device
from pipelines.core.text import duration
from pipelines.data.folds import open_folds
from pipelines.evaluation.evaluator import evaluate_model
from pipelines.training.head_node import kept_home
from pipelines.training.memory import peak_memory
from pipelines.training.options import TrainOptions
from pipelines.training.run_directory import claim_run
from pipelines.training.setup import model_config, resolve_precision
from pipelines.training.staging import UnfitNodeError, visiting
from pipelines.training.trainer import DivergedError, fit
from ttrnn.files import atomic_write

__all__ = ["RESULT_COLUMNS", "Run", "earlier_result", "run_all", "run_one"]


log = logging.getLogger(__name__)
RESULT_COLUMNS = (
    "state", "metric", "value", "chance", "num_clips", "val_metric", "best_epoch", "epochs", "train_s", "peak_bytes",
    "num_params", "input_params", "device", "error", "out",
)  # fmt: skip
"""Of result.json. `value` is the metric on the test split; `error` is what a run failed of."""
_INTERVALS = ("val_interval", "interval")
_LOOK_EVERY_S = 60


@dataclass(frozen=True, slots=True)
class Run:
    """One training: which cell of the table it belongs to, and its options."""

    protocol: str
    model: str
    train: TrainOptions
    is_tested: bool = True
    """Whether there is a test split to measure it on."""

    @property
    def result_path(self) -> Path:
        """Where its result lies once it is done."""
        return Path(self.train.out, "result.json")

    @property
    def num_epochs(self) -> int:
        """Epochs that it has done."""
        with contextlib.suppress(OSError):
            return len(Path(self.train.out, "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        return 0

    def __str__(self) -> str:
        fold = "" if self.train.fold is None else f" fold {self.train.fold} of {self.train.folds}"
        return f"{self.model} {self.protocol}{fold} seed {self.train.seed}"


class _TimeUpError(Exception):
    """The time that a run was given is over."""


def run_one(run: Run, time_limit_s: float | None, on_files: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Trains one model from its last checkpoint on, and measures it on its test split, once.

    Writes RUN/test/ (predictions and what evaluate makes of them), and then RUN/result.json.

    Args:
        run: The training.
        time_limit_s: It ends with the epoch that exceeds it.
        on_files: Called when the files of an epoch, or a checkpoint in the middle of one, are written.

    Returns:
        What RESULT_COLUMNS names, and the 95% intervals of val_metric (val_interval) and of value (interval). A run
        that diverges has no value, but an error that says why.
    """
    options, out = resolve_precision(run.train), Path(run.train.out)
    out.mkdir(parents=True, exist_ok=True)
    # Where the model lies that it starts from is the sweep's to say: that may be moved, or be another machine's copy.
    claim_run(out, options, model_config(options, open_folds(options.shards, options.folding)), but=("init",))

    def on_epoch(record: Mapping[str, Any]) -> None:
        on_files()
        if time_limit_s is not None and record["train_s"] >= time_limit_s and record["epoch"] < options.epochs:
            raise _TimeUpError

    with peak_memory() as peak:
        try:
            summary = fit(options, on_epoch, on_files)
        except _TimeUpError:
            summary = {**json.loads((out / "summary.json").read_text(encoding="utf-8")), "state": "stopped"}
        except DivergedError as error:
            summary = error.summary
        result = {**summary, "peak_bytes": peak(), "device": local_device().type, "out": str(out)}
    if summary["state"] != "failed" and run.is_tested:
        test = evaluate_model(out, options.shards, "test", out=out / "test")
        result |= {name: test[name] for name in ("value", "chance", "num_clips", "interval")}
    result = {name: result.get(name) for name in (*RESULT_COLUMNS, *_INTERVALS)}
    with atomic_write(run.result_path) as file:
        json.dump(result, file, indent=1)
    if summary["state"] == "complete":
        # Of a dense model it is a gigabyte, of no more use.
        shutil.rmtree(out / "checkpoint", ignore_errors=True)
    return result


def earlier_result(run: Run, time_limit_s: float | None) -> dict[str, Any] | None:
    """What an earlier command has left of a run that is done; one that was stopped may have more time now."""
    try:
        result: dict[str, Any] = json.loads(run.result_path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        log.warning("%s cannot be read (%s): the run is done again", run.result_path, error)
        return None
    if result["state"] == "stopped" and (time_limit_s is None or result["train_s"] < time_limit_s):
        return None
    return result


def run_all(
    runs: Sequence[Run],
    needs: Mapping[Run, int],
    *,
    time_limit_s: float | None = None,
    num_cpus: int = 1,
    num_gpus: float | None = None,
    fresh_processes: bool = True,
) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Trains on the Ray that runs, as many at a time as its processors, GPUs and memory hold; yields each that ends.

    A run that does not fit into the memory is refused before any begins, one that fails is told of, and the others go
    on. A worker that dies is replaced, and goes on from the last checkpoint.

    Args:
        runs: Started in this order.
        needs: Bytes of memory that each run takes, about.
        time_limit_s: A run ends with the epoch that exceeds it.
        num_cpus: Processors of each run.
        num_gpus: Where there are GPUs, the part of one for each run; None: by the memory that it needs.
        fresh_processes: One for each run: what a run holds or spoils is no other's, and its memory can be told. Short
            runs are done sooner without.

    Yields:
        The run and its result, as `run_one` gives it, or with the state `refused` or `failed` and its `error`.
    """
    import ray

    device, _ = devices(1)
    total = largest_memory(device)
    waiting: dict[Any, Run] = {}
    tasks = {}
    # 0: no limit.
    task = ray.remote(max_calls=int(fresh_processes))(_run_task)
    with kept_home() as home:
        for run in runs:
            if needs[run] > total:
                error = f"needs {needs[run] / 1e9:.1f} GB of {device} memory, there are {total / 1e9:.1f} GB"
                log.error("%s is refused: it %s", run, error)
                yield run, {"state": "refused", "error": error}
                continue
            resources: dict[str, Any] = {"num_cpus": num_cpus}
            if device == "GPU":
                # Rounded up, so that shares add up to what a GPU holds; a whole one where that is not known.
                share = min(1.0, (int(20 * needs[run] / total) + 1) / 20) if total < math.inf else 1.0
                resources["num_gpus"] = num_gpus or share
            else:
                resources["memory"] = needs[run]
            tasks[run] = functools.partial(task.options, **resources)
            waiting[tasks[run]().remote(run, time_limit_s, home)] = run

        def begin_elsewhere(run: Run, where: dict[str, str]) -> None:
            waiting[tasks[run](label_selector=where).remote(run, time_limit_s, home)] = run

        yield from _ended(waiting, begin_elsewhere)


def _ended(
    waiting: dict[Any, Run], begin_elsewhere: Callable[[Run, dict[str, str]], None]
) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Each run as it ends, with its result; says how far they are. One that its node can't keep is begun elsewhere."""
    import ray

    start, num_runs = time.monotonic(), len(waiting)
    unfit: set[str] = set()
    while waiting:
        ended, _ = ray.wait(list(waiting), timeout=_LOOK_EVERY_S)
        for reference in ended:
            run, result = waiting.pop(reference), _result_of(reference)
            if isinstance(result, UnfitNodeError):
                unfit.add(result.node)
                if where := nodes_but(unfit):
                    log.warning("%s; %s goes on elsewhere", result, run)
                    begin_elsewhere(run, where)
                    continue
                result = {"state": "failed", "error": str(result)}
            yield run, result
            num_done = num_runs - len(waiting)
            left_s = (time.monotonic() - start) / num_done * len(waiting)
            log.info("%d of %d runs, about %s left", num_done, num_runs, duration(left_s))
        if not ended:
            begun = [f"{run} epoch {done}" for run in waiting.values() if (done := run.num_epochs)]
            log.info("training: %s", ", ".join(begun) or "the first epochs")


def _run_task(run: Run, time_limit_s: float | None, home: str | None) -> dict[str, Any]:
    """`run_one` in a Ray worker of its own, where the library's remarks would be said once for each run."""
    logging.getLogger("ttrnn").setLevel(logging.ERROR)
    with visiting(home, run.train.out) as visit:
        here = dataclasses.replace(run, train=visit.brought(run.train))
        return run_one(here, time_limit_s, visit.send) | {"out": run.train.out}


def _result_of(reference: Any) -> dict[str, Any] | UnfitNodeError:
    """What a task gives, or that it failed and why, in a line; or what its node says, which is to be avoided."""
    import ray

    try:
        result: dict[str, Any] = ray.get(reference)
    except ray.exceptions.RayError as error:
        if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, UnfitNodeError):
            return error.cause
        # Of a traceback of Ray's the last line is what happened.
        return {"state": "failed", "error": str(error).strip().splitlines()[-1]}
    return result

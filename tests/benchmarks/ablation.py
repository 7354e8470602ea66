"""Measure the effect of training options: train models with and without each of them, with several seeds.

    python -m tests.benchmarks.ablation shards/words shards/actions
    python -m tests.benchmarks.ablation shards/words --variants "plain;recipe" --test

Complete runs are not run again. Variants are compared on the validation split; --test evaluates the test split, for the
few variants that were selected.
"""

import csv
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from pipelines.core import command
from pipelines.core.errors import user_errors
from pipelines.core.options import positional
from pipelines.data.augment import Augmentation
from pipelines.evaluation.evaluator import evaluate_model
from pipelines.train import train
from pipelines.training.options import TrainOptions
from ttrnn.files import atomic_write

log = logging.getLogger("tests.benchmarks.ablation")


AUGMENTATION = {"flip": True, "shift": 2, "speed": 1.2, "brightness": 0.2}
RECIPE = {
    "differences": "extra",
    "bidirectional": True,
    "label_smoothing": 0.1,
    "input_dropout": 0.25,
    "weight_averaging": 0.98,
    **AUGMENTATION,
}
# Models of some thousand parameters, without and with a convolution stem, in one direction or in both.
SMALL = {
    "hidden_modes": "2x4x4x2",
    "ranks": "4",
    "recurrent_ranks": "4",
    "differences": "extra",
    "epochs": 80,
    "lr": 1e-2,
    "dropout": 0.2,
    "label_smoothing": 0.05,
    "weight_averaging": 0.98,
    "input_gain": 0.5,
    **AUGMENTATION,
}
BOTH = {"ranks": "5", "recurrent_ranks": "6", "bidirectional": True}
PLAIN = {
    "differences": "none",
    "bidirectional": False,
    "num_layers": 1,
    "pooling": "last",
    "recurrent_dropout": 0.0,
    "label_smoothing": 0.0,
    "input_dropout": 0.0,
    "weight_averaging": 0.0,
    **{field.name: field.default for field in dataclasses.fields(Augmentation)},
}
PARTS: tuple[dict[str, Any], ...] = (
    {"differences": "extra"},
    {"differences": "only"},
    {"bidirectional": True},
    {"num_layers": 2},
    {"pooling": "mean"},
    {"pooling": "max"},
    {"pooling": "attention"},
    {"input_dropout": 0.25},
    {"recurrent_dropout": 0.25},
    {"label_smoothing": 0.1},
    {"weight_averaging": 0.98},
    AUGMENTATION,
)


_COLUMNS = (
    "data", "variant", "seed", "num_params", "input_params", "num_val_clips", "val_metric", "last", "test_metric",
    "train_s",
)  # fmt: skip


def _named(part: dict[str, Any]) -> str:
    return "augmentation" if part is AUGMENTATION else " ".join(f"{name} {value}" for name, value in part.items())


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    **{f"plain + {_named(added)}": {**PLAIN, **added} for added in PARTS},
    **{
        f"recipe - {_named(part)}": {**RECIPE, **{name: PLAIN[name] for name in part}}
        for part in PARTS
        if part.items() <= RECIPE.items()
    },
    "recipe": RECIPE,
    "small": SMALL,
    "small, stem": {**SMALL, "stem": "conv"},
    "small, both directions": {**SMALL, **BOTH},
    "small, stem, both directions": {**SMALL, **BOTH, "stem": "conv"},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationOptions:
    """Train a model with and without each of the options that are listed in this file; write ablation.csv."""

    shards: tuple[str, ...] = positional()
    """directories of shards, written by preprocess"""
    variants: str = ";".join(VARIANTS)
    """names of the variants in this file, separated by semicolons"""
    common: str = "{}"
    """options of train that are the same for all variants: JSON"""
    seeds: int = 3
    """number of seeds per variant, from 0"""
    test: bool = False
    """also evaluate on the test split"""
    out: str = "bench/ablation"
    """directory of the runs and of ablation.csv"""
    processes: int = 2
    """trainings at a time, each with one thread"""

    def __post_init__(self) -> None:
        for name in self.variants.split(";"):
            if name not in VARIANTS:
                raise ValueError(f"unknown variant {name!r}; the variants are {', '.join(VARIANTS)}")


def ablation(options: AblationOptions) -> dict[str, Any]:
    """Trains the missing runs and writes ablation.csv after each."""
    with user_errors("common"):
        common = json.loads(options.common)
    chosen = {name: VARIANTS[name] for name in options.variants.split(";")}
    out, rows = Path(options.out), []
    jobs = [
        (
            shards,
            name,
            seed,
            out / "runs" / Path(shards).name / f"{name.replace(' ', '_')}-{seed}",
            {**common, **chosen[name]},
        )
        for seed in range(options.seeds)
        for name in chosen
        for shards in options.shards
    ]
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_run, *job, options.test) for job in jobs]
        for number, future in enumerate(as_completed(waiting), start=1):
            rows.append(future.result())
            log.info("%d of %d: %s", number, len(jobs), rows[-1])
            rows.sort(key=lambda row: (row["data"], list(chosen).index(row["variant"]), row["seed"]))
            with atomic_write(out / "ablation.csv") as file:
                writer = csv.DictWriter(file, _COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    return {"out": str(out), "table": table(rows)}


def _run(shards: str, name: str, seed: int, out: Path, chosen: dict[str, Any], test: bool) -> dict[str, Any]:
    torch.set_num_threads(1)
    out.parent.mkdir(parents=True, exist_ok=True)
    done = out / "ablation.json"
    row: dict[str, Any] = json.loads(done.read_text(encoding="utf-8")) if done.exists() else {}
    if not row:
        result = train(TrainOptions(shards=shards, out=str(out), seed=seed, resume=out.exists(), **chosen))
        last = json.loads((out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        row = {"data": Path(shards).name, "variant": name, "seed": seed, "last": last["val_metric"]}
        row |= {key: result[key] for key in ("val_metric", "num_params", "input_params", "train_s", "num_val_clips")}
    if test and "test_metric" not in row:
        row["test_metric"] = evaluate_model(out, shards)["value"]
    with atomic_write(done) as file:
        json.dump(row, file)
    return row


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: mean (minimum to maximum) over the seeds; the rows are those of the CSV."""
    columns = {"val_metric": "validation", "test_metric": "test"}
    columns = {key: title for key, title in columns.items() if all(row.get(key) not in (None, "") for row in rows)}
    head = ["data", "variant", "parameters", *columns.values(), "training"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for data, name in dict.fromkeys((row["data"], row["variant"]) for row in rows):
        own = [row for row in rows if (row["data"], row["variant"]) == (data, name)]
        values = [[float(row[key]) for row in own] for key in columns]
        cells = [data, name, f"{int(own[0]['num_params']):,}"]
        cells += [f"{mean(v):.3f} ({min(v):.3f} to {max(v):.3f})" for v in values]
        lines.append(f"| {' | '.join(cells)} | {mean(float(row['train_s']) for row in own):.0f} s |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    # One thread for each of the trainings, which run at the same time.
    os.environ["OMP_NUM_THREADS"] = "1"
    return command.run(AblationOptions, ablation, lambda result: result["table"], argv)


if __name__ == "__main__":
    from tests.benchmarks.ablation import main as importable_main

    sys.exit(importable_main())

"""Replay searches on trainings that are finished: orders of configurations and rules of early stopping.

    python -m tests.benchmarks.replay tests/benchmarks/trainings.csv
    python -m tests.benchmarks.replay trainings.csv --contenders "random,none;random,asha" --seeds 3

The complete trainings of a data set with the same number of epochs, from random weights, are a finite search space. A
search chooses its next configuration among those that are left, and gets the learning curve in the file epoch by epoch.
Of a configuration with several seeds, each replay uses one at random. tests.benchmarks.trainings writes the file.
"""

import csv
import heapq
import itertools
import json
import logging
import math
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from pipelines.core import command
from pipelines.core.errors import UserError
from pipelines.core.options import positional
from pipelines.tuning.frontier import hypervolume
from tests.benchmarks.replay_rules import ORDERS, STOPPING, Configuration, Order, StoppingRule
from tests.benchmarks.search import Trace
from tests.benchmarks.trainings import read_trainings
from ttrnn.files import atomic_write
from ttrnn.shapes import parse_modes

log = logging.getLogger("tests.benchmarks.replay")

_CHOICES = ("cell", "stem", "bidirectional", "flip", "teacher")
# Columns that do not belong to the configuration.
_RESULTS = ("seed", "multiply_adds", "epochs", "state", "train_s", "val_metric", "curve")
CONTENDERS = (
    *(("random", stopping) for stopping in STOPPING),
    ("default", "none"),
    ("tpe", "none"),
    ("tpe", "frontier"),
)
SHARES = (0.25, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayOptions:
    """Compare orders of configurations and rules of early stopping on finished trainings; write replay.csv."""

    trainings: str = positional()
    """CSV file, written by tests.benchmarks.trainings"""
    contenders: str = ";".join(map(",".join, CONTENDERS))
    """pairs ORDER,STOPPING separated by semicolons; orders: random, tpe, default (Optuna's); early stopping: none,
    frontier, asha, mo-asha"""
    seeds: int = 10
    """number of replays of each contender"""
    slots: int = 2
    """trainings at a time"""
    least: int = 8
    """leave out spaces of fewer configurations"""
    out: str = "bench/replay"
    """directory of replay.csv, the hypervolume of each replay"""

    def __post_init__(self) -> None:
        for order, stopping in self.pairs():
            if order not in ORDERS or stopping not in STOPPING:
                raise ValueError(
                    f"unknown contender {order},{stopping}; orders are {', '.join(ORDERS)}, early stopping is "
                    f"{', '.join(STOPPING)}"
                )

    def pairs(self) -> list[tuple[str, str]]:
        """The contenders as (order, early stopping)."""
        return [
            (order, stopping) for order, _, stopping in (pair.partition(",") for pair in self.contenders.split(";"))
        ]


@dataclass(frozen=True, slots=True)
class Space:
    """A finite search space: the trainings of a data set that have the same number of epochs."""

    data: str
    epochs: int
    num_clips: int
    """clips of the validation split"""
    trainings: list[list[Configuration]]
    """for each configuration, those of all its seeds"""

    def draw(self, seed: int) -> list[Configuration]:
        """One training of each configuration, in random order, so that ties of distance are broken at random."""
        generator = random.Random(seed)
        drawn = [generator.choice(seeds) for seeds in self.trainings]
        generator.shuffle(drawn)
        return drawn


def spaces(rows: Sequence[Mapping[str, str]], least: int) -> Iterator[Space]:
    """The spaces of at least so many configurations, by data set and number of epochs.

    Raises:
        UserError: the number of validation clips of a data set is in none of its rows.
    """
    # A dense input or a baseline is never on a frontier.
    rows = [row for row in rows if (row["state"], row["init"], row["input"]) == ("complete", "False", "tt")]
    for (data, epochs), group in _grouped(rows, lambda row: (row["data"], int(row["epochs_planned"]))).items():
        configurations = _grouped(
            group, lambda row: json.dumps({name: row[name] for name in row if name not in _RESULTS}, sort_keys=True)
        )
        if len(configurations) < least:
            log.info("%s, %d epochs: only %d configurations, left out", data, epochs, len(configurations))
            continue
        clips = {row["num_val_clips"] for row in group} - {"none"}
        if not clips:
            raise UserError(f"no training on {data} has num_val_clips; collect one of a newer version")
        trainings = [[_configuration(row) for row in seeds] for seeds in configurations.values()]
        yield Space(data, epochs, max(map(int, clips)), trainings)


def _grouped(rows: Sequence[Mapping[str, str]], key: Any) -> dict[Any, list[Mapping[str, str]]]:
    return {value: list(group) for value, group in itertools.groupby(sorted(rows, key=key), key)}


def _configuration(row: Mapping[str, str]) -> Configuration:
    hidden_size = math.prod(parse_modes(row["hidden_modes"]))
    curve = [float(value) for value in row["curve"].split(";")]
    stem = row["stem_channels"] if row["stem"] == "conv" else "none"
    return Configuration(
        num_params=int(row["num_params"]),
        curve=curve,
        val_metric=float(row["val_metric"]),
        epoch_s=float(row["train_s"]) / len(curve),
        coordinates={
            **{name: row[name] for name in _CHOICES},
            "stem": stem,
            "hidden_size": hidden_size,
            "rank": _rank(row.get("ranks", "1")),
            # A dense matrix is one of full rank.
            "recurrent_rank": hidden_size if row["recurrent_ranks"] == "none" else _rank(row["recurrent_ranks"]),
            "lr": float(row["lr"]),
            "dropout": float(row["dropout"]),
        },
    )


def _rank(ranks: str) -> int:
    """The geometric mean of inner ranks, rounded."""
    values = parse_modes(ranks)
    return round(math.prod(values) ** (1 / len(values)))


def run(space: Sequence[Configuration], order: Order, is_stopped: StoppingRule, slots: int) -> tuple[Trace, int]:
    """Replays a search: as many trainings at a time as there are slots, each as fast as it was.

    Returns:
        The hypervolume of the complete models by number of epochs trained, and the number of complete models.
    """
    now, trained = 0.0, 0
    running: list[tuple[float, int, int]] = []
    points: list[tuple[float, float]] = []
    epochs, hypervolumes = [0], [0.0]
    while True:
        while len(running) < slots and (index := order.next()) is not None:
            heapq.heappush(running, (now + space[index].epoch_s, index, 1))
        if not running:
            return Trace([*epochs, trained], [*hypervolumes, hypervolumes[-1]]), len(points)
        now, index, epoch = heapq.heappop(running)
        trained, training = trained + 1, space[index]
        if epoch == len(training.curve):
            points.append((training.num_params, training.val_metric))
            epochs.append(trained)
            hypervolumes.append(hypervolume(points))
            order.ended(index, False)
        elif is_stopped(index, training, epoch):
            order.ended(index, True)
        else:
            heapq.heappush(running, (now + training.epoch_s, index, epoch + 1))


def replay(options: ReplayOptions) -> dict[str, Any]:
    """Replays all contenders on all spaces; writes the hypervolume of each replay to replay.csv."""
    found = list(spaces(read_trainings(Path(options.trainings)), options.least))
    if not found:
        raise UserError(
            f"{options.trainings}: no data set has {options.least} complete configurations of equal epochs; collect "
            "more or give a smaller --least"
        )
    tables, rows = [], []
    for space in found:
        lines, named = [], {"data": space.data, "epochs": space.epochs}
        for order, stopping in options.pairs():
            results = [_replay(space, order, stopping, seed, options.slots) for seed in range(options.seeds)]
            named |= {"order": order, "stopping": stopping}
            rows += [{**named, "seed": seed, **result} for seed, result in enumerate(results)]
            lines.append(f"| {order} | {stopping} | {' | '.join(_cells(results))} |")
            log.info("%s, %d epochs, %s, %s", space.data, space.epochs, order, stopping)
        tables.append(_table(space, lines, options.seeds))
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(out / "replay.csv") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return {"out": options.out, "table": "\n".join(tables)}


def _column(share: float) -> str:
    return f"at {share:.0%}"


def _replay(space: Space, order: str, stopping: str, seed: int, slots: int) -> dict[str, float]:
    drawn = space.draw(seed)
    total = sum(len(training.curve) for training in drawn)
    rule = STOPPING[stopping](space.epochs, space.num_clips)
    trace, num_complete = run(drawn, ORDERS[order](drawn, seed), rule, slots)
    values = {_column(share): round(trace.at(share * total), 4) for share in SHARES}
    return {**values, "trained": round(trace.epochs[-1] / total, 4), "complete": num_complete}


def _cells(results: Sequence[Mapping[str, float]]) -> list[str]:
    """Mean and range over the seeds."""
    columns = {name: [result[name] for result in results] for name in results[0]}
    spreads = [columns[_column(share)] for share in SHARES]
    cells = [f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})" for values in spreads]
    return [*cells, f"{mean(columns['trained']):.0%}", f"{mean(columns['complete']):.0f}"]


def _table(space: Space, lines: Sequence[str], seeds: int) -> str:
    """Markdown: hypervolume at shares of the epochs of the space; the epochs needed to try all its configurations."""
    head = ["order", "early stopping", *map(_column, SHARES), "epochs to try all", "complete"]
    trainings = sum(map(len, space.trainings))
    return "\n".join(
        [
            f"{space.data}: {len(space.trainings)} configurations ({trainings} trainings) of {space.epochs} epochs, "
            f"{space.num_clips} clips for validation, {seeds} seeds",
            "",
            f"| {' | '.join(head)} |",
            "|---" * len(head) + "|",
            *lines,
            "",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return command.run(ReplayOptions, replay, lambda result: result["table"], argv)


if __name__ == "__main__":
    from tests.benchmarks.replay import main as importable_main

    sys.exit(importable_main())

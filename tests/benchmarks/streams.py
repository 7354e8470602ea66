"""Measure recall and false alarms an hour on streams joined of the clips of a real catalogue.

    python -m tests.benchmarks.streams words.csv bench/words --events begin hello --channels 1 --allow-group-leak
    python -m tests.benchmarks.streams sports.csv bench/sports --events Archery Diving --fps 5

The clips of all classes that are not --events become the class background, in every split: the model learns some of
these classes as nothing, and the test stream shows other clips of the same ones. Thresholds are chosen on a stream
joined of the validation clips; the test stream is joined of the test clips. OUT/stream.csv says what it is joined of,
OUT/streams.json has the results.
"""

import csv
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core import command
from pipelines.core.errors import UserError
from pipelines.core.options import positional
from pipelines.data.csv_layout import read_csv
from pipelines.data.dataset import ShardDataset
from pipelines.data.options import PreprocessOptions
from pipelines.data.preprocessing import make_shards
from pipelines.data.streams import JoinedStream, join_clips
from pipelines.evaluation.classifier import open_classifier
from pipelines.evaluation.event_finder import find_events, stream_scores
from pipelines.evaluation.event_metrics import compare_streams
from pipelines.evaluation.stream_evaluator import events_text
from pipelines.evaluation.thresholds import choose_rule, default_window
from pipelines.storage.location import Location
from pipelines.training.options import TrainOptions
from pipelines.training.trainer import fit
from ttrnn.events import BACKGROUND
from ttrnn.files import atomic_write

__all__ = ["measure"]

log = logging.getLogger("tests.benchmarks.streams")


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamsOptions:
    """Measure recall and false alarms an hour on streams joined of the clips of a catalogue."""

    catalogue: str = positional()
    """CSV file path,label,group,split"""
    out: str = positional()
    """directory for shards, runs and results; shards and runs that are there are taken as they are"""
    events: tuple[str, ...] = ()
    """classes to find; all others are background"""
    limits: tuple[float, ...] = (1.0, 60.0)
    """false alarms an hour that the thresholds are chosen for"""
    windows: tuple[float, ...] = (1.0,)
    """lengths of the window, in median clips"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """of the trainings and of the test streams"""
    width: int = 64
    """of every frame, pixels"""
    height: int = 32
    """of every frame, pixels"""
    channels: int = 3
    """3 for RGB, 1 for grey"""
    fps: float | None = None
    """frames per second of the clips; default: all frames"""
    allow_group_leak: bool = False
    """allow a group in several splits"""
    epochs: int = 40
    """of each training"""
    hidden_modes: str = "2x4x4x2"
    """of the models"""
    ranks: str = "4"
    """of the models"""
    differences: str = "extra"
    """of the models"""
    temporal_crop: float = 0.6
    """of the trainings: the least share of a clip that is shown"""


def measure(options: StreamsOptions) -> dict[str, Any]:
    """Trains the models, chooses thresholds and evaluates the test streams; a row for each seed, limit and window."""
    out = Path(options.out)
    data = _shards(options, out)
    rows = []
    for seed in options.seeds:
        run = out / f"run-{seed}"
        if not (run / "model").exists():
            fit(_training(options, seed, run))
        rows += list(_rows(options, data, run, seed))
    stream = join_clips(data.split("test"), data.classes, options.seeds[0])
    _write_joins(out / "stream.csv", stream)
    with atomic_write(out / "streams.json") as file:
        file.write(json.dumps(rows, indent=1) + "\n")
    return {"out": options.out, "rows": rows}


def _shards(options: StreamsOptions, out: Path) -> ShardDataset:
    """The shards of the catalogue, with all classes that are no events as background."""
    if (out / "shards" / "dataset.json").exists():
        return ShardDataset.open(out / "shards")
    source = Path(options.catalogue).absolute()
    clips, problems, _ = read_csv(Location.of(source))
    found = set().union(*(clip.labels for clip in clips))
    if problems or not options.events or set(options.events) - found:
        raise UserError(f"--events must be some of {', '.join(sorted(found))}, got {', '.join(options.events)}")
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(out / "catalogue.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label", "group", "split"])
        for clip in clips:
            label = "|".join(sorted(clip.labels & set(options.events))) or BACKGROUND
            writer.writerow([source.parent / clip.clip_id, label, clip.group, clip.split])
    names = ("width", "height", "channels", "fps", "allow_group_leak")
    chosen = {name: getattr(options, name) for name in names}
    make_shards(PreprocessOptions(videos=str(out / "catalogue.csv"), out=str(out / "shards"), **chosen))
    return ShardDataset.open(out / "shards")


def _training(options: StreamsOptions, seed: int, run: Path) -> TrainOptions:
    run.mkdir(parents=True, exist_ok=True)
    names = ("epochs", "hidden_modes", "ranks", "differences", "temporal_crop")
    chosen = {name: getattr(options, name) for name in names}
    return TrainOptions(shards=str(Path(options.out, "shards")), out=str(run), seed=seed, **chosen)


def _rows(options: StreamsOptions, data: ShardDataset, run: Path, seed: int) -> Iterator[dict[str, Any]]:
    classifier, val = open_classifier(run), data.split("val")
    stream = join_clips(data.split("test"), data.classes, seed)
    for window in options.windows:
        length = 2 * max(1, round(window * default_window(val, data.classes) / 2))
        for limit in options.limits:
            rule, seen = choose_rule(classifier, val, limit=limit, window=length)
            scores = stream_scores(classifier, rule, stream.frames())
            events = list(find_events(rule, data.classes, scores))
            result = compare_streams([(events, stream.truths())], options.events, stream.seconds / 3600)
            about = {"seed": seed, "window": length, "limit": limit, "num_params": classifier.num_params}
            log.info("seed %d, window %d, limit %g, val:  %s", seed, length, limit, events_text(seen))
            log.info("seed %d, window %d, limit %g, test: %s", seed, length, limit, events_text(result))
            yield {**about, "thresholds": dict(rule.thresholds), "val": seen, "test": result}


def _write_joins(file: Path, stream: JoinedStream) -> None:
    """Writes the clips of a stream in order: name, where it begins in s, and its class."""
    start_s = 0.0
    with atomic_write(file) as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["clip_id", "start_s", "label"])
        for row in stream.rows:
            labels = "|".join(stream.classes[label] for label in stream.split.labels[row])
            writer.writerow([stream.split.clip_ids[row], f"{start_s:.3f}", labels])
            start_s += float(stream.split.lengths[row] / stream.split.fps[row])


def summary(result: dict[str, Any]) -> str:
    """A line for each row: what was allowed on validation, and what the test stream gave."""
    lines = [
        f"seed {row['seed']}, window {row['window']}, at most {row['limit']:g} an hour: {events_text(row['test'])}"
        for row in result["rows"]
    ]
    return "\n".join([*lines, f"written to {result['out']}/streams.json"])


if __name__ == "__main__":
    sys.exit(command.run(StreamsOptions, measure, summary))

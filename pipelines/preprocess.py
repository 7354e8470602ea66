"""Step 1, with Ray Data: labelled videos -> shards of uint8 frames that training maps into memory.

    python -m pipelines.preprocess videos/ shards/
    python -m pipelines.preprocess clips.csv shards/ --width 64 --height 32 --channels 1 --num-frames 24
    python -m pipelines.preprocess videos/ shards/ --resume

One row of the Ray data set is one shard, which its task writes under a name of its own, whole or not at all; beside
it lies a hidden file with what else came of these clips (the rejected ones, pixel sums), and it says that the shard is
done. So any process may die at any time, the job is resumed, and the bytes are the same. On a cluster of several nodes
the videos and OUT must lie where every node finds them under the same path.
"""

import contextlib
import csv
import errno
import functools
import hashlib
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Group
from rich.table import Table

from pipelines import cli
from pipelines.catalog import SPLITS, Catalog, read_catalog
from pipelines.cli import UserError
from pipelines.cluster import start_ray
from pipelines.decode import IsolatedDecoder, RejectedError, Sampling
from pipelines.shards import Clip, Frame, write_dataset_json, write_shard
from ttrnn.files import atomic_write, remove_leftovers

__all__ = ["PreprocessOptions", "preprocess", "summary"]

log = logging.getLogger(__name__)

PREPROCESS_JSON = "preprocess.json"
REJECTED_CSV = "rejected.csv"


@dataclass(frozen=True, kw_only=True, slots=True)
class PreprocessOptions:
    """Decodes labelled videos into shards: frames of one size, ready to be mapped into memory."""

    videos: str = cli.positional()
    """folder of videos, or CSV file path,label,group,split"""
    out: str = cli.positional()
    """directory of shards to make"""
    layout: str = "auto"
    """how the folder is arranged: auto, csv, folders (CLASS/.../clip.avi), ucf11, hollywood2, youtube-celebrities"""
    width: int = 160
    """of every frame, pixels"""
    height: int = 120
    """of every frame, pixels"""
    channels: int = 3
    """3 for RGB, 1 for grey"""
    max_frames: int | None = None
    """take no more than this many frames of a video; without --num-frames, the first ones"""
    num_frames: int | None = None
    """take this many frames of a video, evenly spaced"""
    fps: float | None = None
    """take this many frames per second"""
    allow_group_leak: bool = False
    """let a group (speaker, source video) lie in several splits; splits made here are then by clip"""
    seed: int = 0
    """of the splits made here"""
    shard_clips: int = 32
    """clips in a shard; a shard is the unit of work"""
    time_limit_s: float = 300
    """a clip that takes longer to decode is rejected; s"""
    resume: bool = False
    """continue what was interrupted in OUT"""
    overwrite: bool = False
    """delete OUT first"""

    def __post_init__(self) -> None:
        for name in ("width", "height", "shard_clips", "time_limit_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 3 (RGB) or 1 (grey), got {self.channels}")
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite exclude each other; give one of them")
        _ = self.sampling  # has checks of its own

    @property
    def frame(self) -> Frame:
        """The size of every frame."""
        return Frame(self.width, self.height, self.channels)

    @property
    def sampling(self) -> Sampling:
        """Which frames of a video to take."""
        return Sampling(max_frames=self.max_frames, num_frames=self.num_frames, fps=self.fps)


def preprocess(options: PreprocessOptions) -> dict[str, Any]:
    """Makes the shards, or what is missing of them. Uses the Ray that runs, or starts one.

    The same videos and options give the same bytes, whatever the number of workers and interruptions.

    Returns:
        out, classes, task, num_clips, num_frames, num_bytes, num_rejected, rejected {reason: number}, splits {name:
        num_clips, num_frames, num_bytes}.

    Raises:
        UserError: there is nothing to train on, before decoding or after it.
        OSError: the disk is full.
    """
    catalog = read_catalog(options.videos, options.layout, options.allow_group_leak, options.seed)
    out = cli.prepare_out(options.out, marker=PREPROCESS_JSON, overwrite=options.overwrite, resume=options.resume)
    out = out.absolute()
    _write_or_compare_marker(out, options, catalog)
    units = list(_units(catalog, options.shard_clips))
    try:
        reports = {unit["file"]: report for unit in units if (report := _read_report(out, unit["file"])) is not None}
        todo = [unit for unit in units if unit["file"] not in reports]
        if reports:
            log.info("%d of %d shards are there already", len(reports), len(units))
        if todo:
            log.info("decoding %s clips into %d shards", f"{sum(len(unit['entries']) for unit in todo):,}", len(todo))
            reports |= _run(todo, out, options)
    finally:
        remove_leftovers(out)
    return _finish(out, options, catalog, {unit["file"]: reports[unit["file"]] for unit in units})


def _write_or_compare_marker(out: Path, options: PreprocessOptions, catalog: Catalog) -> None:
    """Refuses to mix shards of different options or clips in one directory."""
    made_with = _made_with(options)
    clips = [[entry.clip_id, entry.labels, entry.group, entry.split] for entry in catalog.entries]
    clips_sha256 = hashlib.sha256(json.dumps([catalog.classes, clips]).encode()).hexdigest()
    if (out / PREPROCESS_JSON).exists():
        before = json.loads((out / PREPROCESS_JSON).read_text(encoding="utf-8"))
        for name, value in made_with.items():
            # The videos may have moved.
            if name != "videos" and before["options"].get(name) != value:
                raise UserError(
                    f"{out} was started with {name}={before['options'].get(name)}, not {value}; resume it "
                    "with the same options, or start anew with --overwrite"
                )
        if before["clips_sha256"] != clips_sha256:
            raise UserError(
                f"the clips in {options.videos} are not those that {out} was started with; start anew with --overwrite"
            )
        return
    with atomic_write(out / PREPROCESS_JSON) as file:
        json.dump({"options": made_with, "clips_sha256": clips_sha256}, file, indent=2)


def _made_with(options: PreprocessOptions) -> dict[str, Any]:
    return {name: value for name, value in asdict(options).items() if name not in ("out", "resume", "overwrite")}


def _units(catalog: Catalog, shard_clips: int) -> Iterator[dict[str, Any]]:
    """The shards to be: JSON values, so that one is a row of a Ray data set."""
    for split in SPLITS:
        entries = [entry for entry in catalog.entries if entry.split == split]
        for index, start in enumerate(range(0, len(entries), shard_clips)):
            yield {
                "file": f"{split}-{index:05}.arrow",
                "split": split,
                "entries": [
                    {**asdict(entry), "path": str(entry.path.absolute())}
                    for entry in entries[start : start + shard_clips]
                ],
            }


def _report_path(out: Path, file: str) -> Path:
    return out / f".{file}.json"


def _read_report(out: Path, file: str) -> dict[str, Any] | None:
    """What became of a shard that is complete, else None."""
    try:
        report = json.loads(_report_path(out, file).read_text(encoding="utf-8"))
        complete = (out / file).stat().st_size == report["shard"]["num_bytes"]
    except FileNotFoundError:
        return None
    return report if complete else None


def _run(units: Sequence[dict[str, Any]], out: Path, options: PreprocessOptions) -> dict[str, dict[str, Any]]:
    with start_ray():
        import ray.data

        ray.data.DataContext.get_current().enable_progress_bars = False
        for handler in logging.getLogger("ray.data").handlers:
            # Its plans and timings stay in its log file.
            if isinstance(handler, logging.StreamHandler):
                handler.setLevel(logging.ERROR)
        task = functools.partial(
            _make_shard, out=out, frame=options.frame, sampling=options.sampling, time_limit_s=options.time_limit_s
        )
        rows = ray.data.from_items([{"unit": json.dumps(unit)} for unit in units], override_num_blocks=len(units))
        reports = {}
        # Closed at once when something goes wrong, so that no task outlives this function.
        with contextlib.closing(iter(rows.map(task).iter_rows())) as results:  # type: ignore[type-var]
            for row in cli.progress(results, len(units), "shards"):
                if row["errno"]:
                    raise OSError(row["errno"], row["error"])
                report = json.loads(row["report"])
                reports[report["shard"]["file"]] = report
        return reports


def _make_shard(
    row: dict[str, Any], *, out: Path, frame: Frame, sampling: Sampling, time_limit_s: float
) -> dict[str, Any]:
    """The Ray task: decodes the clips of one shard and writes it, then its report."""
    unit = json.loads(row["unit"])
    rejected: list[tuple[str, str]] = []
    pixel_sums = np.zeros((3, frame.channels), np.int64)

    def clips() -> Iterator[Clip]:
        nonlocal pixel_sums
        for entry in unit["entries"]:
            try:
                frames, fps = _decoder(time_limit_s).decode(entry["path"], frame, sampling)
            except RejectedError as error:
                rejected.append((entry["clip_id"], error.reason))
                continue
            if unit["split"] == "train":
                pixel_sums += _pixel_sums(frames)
            yield Clip(entry["clip_id"], tuple(entry["labels"]), entry["group"], fps, frames)

    try:
        shard = write_shard(out / unit["file"], clips())
        report = {"shard": shard, "split": unit["split"], "rejected": rejected, "pixel_sums": pixel_sums.tolist()}
        with atomic_write(_report_path(out, unit["file"])) as file:
            json.dump(report, file)
    except OSError as error:
        # As a row: Ray would wrap it up, and the driver has to tell a full disk from other troubles.
        return {"errno": error.errno or errno.EIO, "error": f"{out / unit['file']}: {error.strerror}", "report": ""}
    return {"errno": 0, "error": "", "report": json.dumps(report)}


@functools.cache
def _decoder(time_limit_s: float) -> IsolatedDecoder:
    """One for the life of the worker process: its child takes longer to start than many a clip to decode."""
    return IsolatedDecoder(time_limit_s)


def _pixel_sums(frames: np.ndarray) -> np.ndarray:
    """int64 [3, C]: number of pixels, their sum, the sum of their squares; integers, so that order does not matter.

    Of a long clip every n-th frame is enough; no more than 31 count.
    """
    some = frames[:: max(1, len(frames) // 16)]
    number = some[..., 0].size
    mean, std = cv2.meanStdDev(some.reshape(-1, *some.shape[2:]))
    moments = np.stack([np.ones_like(mean), mean, std**2 + mean**2])[..., 0]
    return np.rint(number * moments).astype(np.int64)


def _finish(
    out: Path, options: PreprocessOptions, catalog: Catalog, reports: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """rejected.csv, then dataset.json, which makes the shards whole."""
    rejected = {clip_id: reason for report in reports.values() for clip_id, reason in report["rejected"]}
    with atomic_write(out / REJECTED_CSV) as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "reason"), *sorted(rejected.items())])
    _refuse_lost_classes(out, catalog, rejected)
    number, total, squares = np.sum([report["pixel_sums"] for report in reports.values()], axis=0)
    mean = total / number
    # A channel without any contrast would be divided by zero.
    std = [float(value) or 1.0 for value in np.sqrt(squares / number - mean**2)]
    shards = {split: [report["shard"] for report in reports.values() if report["split"] == split] for split in SPLITS}
    write_dataset_json(
        out,
        classes=catalog.classes,
        task=catalog.task,
        frame=options.frame,
        sampling=options.sampling.to_dict(),
        mean=mean.tolist(),
        std=std,
        splits=shards,
        options=_made_with(options),
    )
    splits = {
        split: {name: sum(shard[name] for shard in shards[split]) for name in ("num_clips", "num_frames", "num_bytes")}
        for split in SPLITS
    }
    totals = {name: sum(split[name] for split in splits.values()) for name in ("num_clips", "num_frames", "num_bytes")}
    return {
        "out": options.out,
        "classes": list(catalog.classes),
        "task": catalog.task,
        **totals,
        "num_rejected": len(rejected),
        "rejected": dict(Counter(rejected.values())),
        "splits": splits,
    }


def _refuse_lost_classes(out: Path, catalog: Catalog, rejected: dict[str, str]) -> None:
    kept = [entry for entry in catalog.entries if entry.clip_id not in rejected]
    if not kept:
        raise UserError(f"all {len(rejected):,} clips were rejected; {out / REJECTED_CSV} says why")
    found = {label for entry in kept if entry.split == "train" for label in entry.labels}
    for label, name in enumerate(catalog.classes):
        if label not in found:
            raise UserError(
                f"every clip of {name!r} in train was rejected; {out / REJECTED_CSV} says why; mend them or "
                "leave the label out, and start anew with --overwrite"
            )
    if not any(entry.split == "val" for entry in kept):
        raise UserError(
            f"every clip of val was rejected; {out / REJECTED_CSV} says why; mend them, and start anew with --overwrite"
        )


def summary(result: dict[str, Any]) -> Group:
    """A table of the splits, what was rejected, and what to do next."""
    table = Table(
        "split",
        "clips",
        "frames",
        "MB",
        title=f"{len(result['classes'])} classes, {result['task']}",
        title_justify="left",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for name, split in result["splits"].items():
        table.add_row(name, f"{split['num_clips']:,}", f"{split['num_frames']:,}", f"{split['num_bytes'] / 1e6:,.1f}")
    lines = [f"shards in {result['out']}"]
    if result["num_rejected"]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(result["rejected"].items()))
        lines.append(f"{result['num_rejected']:,} clips rejected ({reasons}); see {result['out']}/{REJECTED_CSV}")
    return Group(table, *lines, f"next: {cli.python()} -m pipelines.train {result['out']} runs/first")


def main(argv: list[str] | None = None) -> int:
    """Command line of this step; returns the exit code."""
    return cli.run(PreprocessOptions, preprocess, summary, argv)


if __name__ == "__main__":
    # As `python pipelines/preprocess.py` too: the importable module is the one that Ray pickles by reference.
    from pipelines.preprocess import main as importable_main

    sys.exit(importable_main())

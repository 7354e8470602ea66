"""Step 1, with Ray Data: labelled videos -> shards of uint8 frames that training maps into memory.

    python -m pipelines.preprocess videos/ shards/
    python -m pipelines.preprocess clips.csv shards/ --width 64 --height 32 --channels 1 --num-frames 24
    python -m pipelines.preprocess videos/ shards/ --resume       what was interrupted, or new clips in videos/
    python -m pipelines.preprocess videos/ s3://bucket/shards
    python -m pipelines.preprocess --inspect shards/
    python -m pipelines.preprocess --verify shards/

The plan (plan.py) says which clip goes into which shard. One row of the Ray data set is one shard, which its task
writes under a name of its own, whole or not at all, and then its report, which says that the shard is done. So any
process may die at any time, the job is resumed, and the bytes are the same. Of a cluster those nodes work that see the
videos and OUT: where both are URIs all nodes, those too that come later; where one is a path, those that share it.
"""

import contextlib
import csv
import functools
import io
import json
import logging
import os
import posixpath
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pipelines.cluster.nodes import nodes_that_see
from pipelines.cluster.session import start_ray
from pipelines.core.errors import StepError, UserError
from pipelines.core.options import positional
from pipelines.core.progress import progress
from pipelines.data.catalog import Catalog, Entry, read_catalog
from pipelines.data.plan import PREPROCESS_JSON, Plan, Shard, clips_per_shard, read_reports
from pipelines.data.shard_writer import local_copies, make_shard, room_for_copies
from pipelines.data.shards import REJECTED_CSV, write_dataset_json
from pipelines.data.splits import SPLITS, SplitOptions
from pipelines.storage.location import Location
from pipelines.storage.lock import only_writer
from pipelines.storage.output import prepare_out
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from pipelines.video.worker import IsolatedDecoder
from ttrnn.files import remove_leftovers

__all__ = ["PreprocessOptions", "expected_frames", "make_shards"]

log = logging.getLogger(__name__)


MISPLACED = "misplaced"
"""In rejected.csv, beside decode.REASONS: a video whose place or name does not fit the layout."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreprocessOptions:
    """Decodes labelled videos into shards: frames of one size, ready to be mapped into memory.

    VIDEOS and OUT are paths, or URIs such as s3://bucket/shards. With --inspect or --verify they are not given.
    """

    videos: str = positional(default="")
    """folder of videos, or CSV file path,label,group,split"""
    out: str = positional(default="")
    """directory of shards to make"""
    layout: str = "auto"
    """how the folder is arranged: auto, csv, folders (CLASS/.../clip.avi), ucf11, ucf101, hollywood2,
    youtube-celebrities"""
    width: int = 160
    """of every frame, pixels"""
    height: int = 120
    """of every frame, pixels"""
    channels: int = 3
    """3 for RGB, 1 for grey"""
    fit: str = "stretch"
    """how a picture of another shape becomes a frame: stretch, crop (centre) or letterbox (black bars)"""
    max_frames: int | None = None
    """take no more than this many frames of a video; without --num-frames, the first ones"""
    num_frames: int | None = None
    """take this many frames of a video, evenly spaced"""
    every: int | None = None
    """take every n-th frame"""
    fps: float | None = None
    """take this many frames per second, by their time stamps"""
    allow_group_leak: bool = False
    """let a group (speaker, source video) lie in several splits; splits made here are then by clip"""
    folds: int | None = None
    """cross-validation: of so many equal parts one is the test split; sets aside other splits"""
    fold: int = 0
    """which of the parts, from 0"""
    leave_group_out: str | None = None
    """this group is the test split (a pattern such as *_01: several); sets aside other splits"""
    split_list: int = 1
    """which of UCF101's official lists: 1, 2 or 3"""
    seed: int = 0
    """of the splits made here"""
    shard_mb: float = 64
    """size of a shard, about; a shard is the unit of work"""
    time_limit_s: float = 300
    """a clip that takes longer to decode is rejected; s"""
    resume: bool = False
    """continue in OUT: what was interrupted, and clips that are new in VIDEOS"""
    retry_rejected: bool = False
    """with --resume: try the rejected clips again"""
    overwrite: bool = False
    """delete OUT first"""
    inspect: str | None = None
    """show what is in this directory of shards, and draw a few clips of each class"""
    sheet: str | None = None
    """with --inspect: the PNG file to draw; default: contact-sheet.png in the directory"""
    verify: str | None = None
    """compare every shard in this directory with its SHA-256"""

    def __post_init__(self) -> None:
        if not self.inspect and not self.verify:
            for name in ("videos", "out"):
                if not getattr(self, name):
                    raise ValueError(f"{name.upper()} is missing (see --help)")
        if self.inspect and self.verify:
            raise ValueError("inspect and verify exclude each other; give one of them")
        if self.sheet and not self.inspect:
            raise ValueError("sheet goes with inspect; give both")
        for name in ("width", "height", "shard_mb", "time_limit_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 3 (RGB) or 1 (grey), got {self.channels}")
        if self.split_list not in (1, 2, 3):
            raise ValueError(f"split_list must be 1, 2 or 3, got {self.split_list}")
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite exclude each other; give one of them")
        if self.retry_rejected and not self.resume:
            raise ValueError("retry_rejected goes with resume; give both")
        _ = self.sampling, self.splits  # have checks of their own

    @property
    def frame(self) -> FrameSize:
        """The size of every frame."""
        return FrameSize(self.width, self.height, self.channels)

    @property
    def sampling(self) -> Sampling:
        """Which frames of a video to take, and how a picture becomes one."""
        return Sampling(
            max_frames=self.max_frames, num_frames=self.num_frames, every=self.every, fps=self.fps, fit=self.fit
        )

    @property
    def splits(self) -> SplitOptions:
        """How clips are dealt out to the splits."""
        return SplitOptions(
            seed=self.seed,
            allow_group_leak=self.allow_group_leak,
            folds=self.folds,
            fold=self.fold,
            leave_group_out=self.leave_group_out,
        )

    def settings(self) -> dict[str, Any]:
        """What decides the result: everything but where it goes, and how the command was started."""
        others = ("out", "resume", "retry_rejected", "overwrite", "inspect", "sheet", "verify")
        return {name: value for name, value in asdict(self).items() if name not in others}


def make_shards(options: PreprocessOptions) -> dict[str, Any]:
    """Makes the shards, or what is missing of them. Uses the Ray that runs, or starts one.

    The same videos and options give the same bytes, whatever the number of workers and interruptions. Clips that are
    added later go into shards of their own; those that are there stay as they are, splits and all.

    Returns:
        out, classes, task, num_clips, num_frames, num_bytes, num_rejected, rejected {reason: number}, splits {name:
        num_clips, num_frames, num_bytes}.

    Raises:
        UserError: there is nothing to train on, before decoding or after it.
        StepError: remote storage does not answer.
        OSError: the disk is full.
    """
    out = Location.of(options.out).absolute()
    with only_writer(out):
        return _make_shards(options, out)


def _make_shards(options: PreprocessOptions, out: Location) -> dict[str, Any]:
    plan = Plan(options.settings())
    if options.resume and (earlier := Plan.read(out)) is not None:
        earlier.check_options(out, plan.options)
        plan = replace(earlier, options=plan.options)
    catalog = read_catalog(
        options.videos,
        options.layout,
        options.splits,
        split_list=options.split_list,
        kept_splits=plan.splits(),
        kept_classes=plan.classes,
    )
    if options.overwrite:
        _refuse_to_delete_videos(out, options.videos, catalog)
    prepare_out(out, marker=PREPROCESS_JSON, overwrite=options.overwrite, resume=options.resume)
    plan.check_clips(out, catalog)
    reports = read_reports(out, plan.shards)
    plan = _grow(plan, catalog, out, options, plan.rejected(reports) if options.retry_rejected else {})
    todo = plan.missing(reports)
    if reports:
        log.info("%d of %d shards are there already", len(reports), len(plan.shards))
    try:
        if todo:
            log.info("decoding %s clips into %d shards", f"{sum(len(shard.clips) for shard in todo):,}", len(todo))
            paths = {entry.clip_id: entry.path for entry in catalog.entries}
            reports |= _run([_unit(shard, paths) for shard in todo], out, options)
    finally:
        if out.is_local:
            remove_leftovers(out.local)
    return _finish(out, options, catalog, plan, reports)


def _refuse_to_delete_videos(out: Location, videos: str, catalog: Catalog) -> None:
    folders = {posixpath.dirname(entry.path) for entry in catalog.entries}
    if any(place.lies_in(out) for place in (Location.of(videos), *map(Location, folders))):
        raise UserError(f"--overwrite deletes {out}, in which videos lie that {videos} names; give another OUT")


def _grow(plan: Plan, catalog: Catalog, out: Location, options: PreprocessOptions, again: Iterable[str]) -> Plan:
    """The plan with the clips that are not in it yet, and those that are to be tried `again`; kept in OUT."""
    old = plan.splits().keys() - set(again)
    new = [entry for entry in catalog.entries if entry.clip_id not in old]
    if new:
        if plan.shards:
            log.info("%s clips are new, or tried again", f"{len(new):,}")
        for entry in new:
            # Refuses a URI that nothing opens: what is in a plan stays there.
            Location.of(entry.path)
        clip_bytes = expected_frames(new, options) * options.frame.size
        number = clips_per_shard(len(new), clip_bytes, options.shard_mb * 1e6)
        plan = plan.grown(new, number, catalog.classes)
        plan.write(out)
    return plan


def expected_frames(entries: Sequence[Entry], options: PreprocessOptions) -> float:
    """Frames of a clip, about: by what the headers of some say; 0 if they say nothing."""
    if options.num_frames is not None:
        return min(options.num_frames, options.max_frames or options.num_frames)
    some = entries[:: -(-len(entries) // 16)]
    with IsolatedDecoder(10) as decoder, room_for_copies() as directory:
        counts = [decoder.count_frames(path) for path in local_copies((entry.path for entry in some), directory)]
    announced = [min(count / (options.every or 1), options.max_frames or count) for count in counts if count]
    return sum(announced) / len(announced) if announced else 0


def _unit(shard: Shard, paths: Mapping[str, str]) -> dict[str, Any]:
    """A shard to be as JSON values, so that it is a row of a Ray data set."""
    clips = [(*clip, paths[clip[0]]) for clip in shard.clips]
    return {"file": shard.file, "split": shard.split, "clips": clips}


def _run(units: Sequence[dict[str, Any]], out: Location, options: PreprocessOptions) -> dict[str, dict[str, Any]]:
    with start_ray():
        import ray.data

        ray.data.DataContext.get_current().enable_progress_bars = False
        for handler in logging.getLogger("ray.data").handlers:
            # Its plans and timings stay in its log file; handlers of others, which it adopts, are theirs.
            if isinstance(handler, logging.StreamHandler) and type(handler).__module__.startswith("ray."):
                handler.setLevel(logging.ERROR)
        task = functools.partial(
            make_shard, out=out, frame=options.frame, sampling=options.sampling, time_limit_s=options.time_limit_s
        )
        rows = ray.data.from_items([{"unit": json.dumps(unit)} for unit in units], override_num_blocks=len(units))
        reports = {}
        mapped = rows.map(task, label_selector=_where(units, out, options.videos))
        # Closed at once when something goes wrong, so that no task outlives this function.
        with contextlib.closing(iter(mapped.iter_rows())) as results:  # type: ignore[type-var]
            for row in progress(results, len(units), "shards"):
                if row["errno"]:
                    raise OSError(row["errno"], row["error"])
                if row["error"]:
                    raise StepError(f"{row['error']}; run the same command with --resume")
                report = json.loads(row["report"])
                reports[report["shard"]["file"]] = report
        return reports


def _where(units: Sequence[dict[str, Any]], out: Location, videos: str) -> dict[str, str] | None:
    """Which nodes may work, as a label selector of Ray: to one that does not see a video, it would be missing."""
    paths = [path for unit in units for *_, path in unit["clips"] if Location.of(path).is_local]
    if not paths and not out.is_local:
        return None
    some = {*paths[:: -(-len(paths) // 64) or 1], *paths[-1:]}
    files = {path: os.path.getsize(path) for path in some if os.path.isfile(path)}
    with contextlib.ExitStack() as stack:
        if out.is_local:
            token = stack.enter_context(tempfile.NamedTemporaryFile(dir=out.local, prefix=".", suffix=".tmp"))
            files[token.name] = 0
        seeing, blind = nodes_that_see(files)
    way_out = f"put {videos} and {out} on s3:// or a file system that all nodes share"
    if not any(node["Resources"].get("CPU") for node in seeing):
        raise UserError(f"of {len(seeing + blind)} nodes none with a CPU sees {videos} and {out}; {way_out}")
    if blind:
        log.warning(
            "%d of %d nodes do not see %s and %s: %s; %s to use all nodes",
            len(blind),
            len(seeing + blind),
            videos,
            out,
            "this node alone decodes" if len(seeing) == 1 else f"the other {len(seeing)} decode",
            way_out,
        )
    return {"ray.io/node-id": f"in({','.join(node['NodeID'] for node in seeing)})"}


def _finish(
    out: Location, options: PreprocessOptions, catalog: Catalog, plan: Plan, reports: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """rejected.csv, then dataset.json, which makes the shards whole."""
    rejected = plan.rejected(reports) | dict.fromkeys(catalog.left_out, MISPLACED)
    (out / REJECTED_CSV).write_text(_to_csv([("path", "reason"), *sorted(rejected.items())]))
    _refuse_lost_classes(out, catalog, rejected)
    done = [reports[shard.file] for shard in plan.shards]
    number, total, squares = np.sum([report["pixel_sums"] for report in done], axis=0)
    mean = total / number
    # A channel without any contrast would be divided by zero.
    std = [float(value) or 1.0 for value in np.sqrt(squares / number - mean**2)]
    shards = {
        split: [report["shard"] for report in done if report["split"] == split and report["shard"]["num_clips"]]
        for split in SPLITS
    }
    write_dataset_json(
        out,
        classes=catalog.classes,
        task=catalog.task,
        frame=options.frame,
        sampling=options.sampling.to_dict(),
        mean=mean.tolist(),
        std=std,
        splits=shards,
        options=options.settings(),
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


def _to_csv(rows: Iterable[tuple[str, str]]) -> str:
    text = io.StringIO()
    plain, quoting = (
        csv.writer(text, lineterminator="\n", quoting=kind) for kind in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    )
    for row in rows:
        # A carriage return would end the line for a reader, but not for this writer.
        (quoting if "\r" in row[0] else plain).writerow(row)
    return text.getvalue()


def _refuse_lost_classes(out: Location, catalog: Catalog, rejected: dict[str, str]) -> None:
    kept = [entry for entry in catalog.entries if entry.clip_id not in rejected]
    if not kept:
        raise UserError(f"all {len(rejected):,} clips were rejected; {out / REJECTED_CSV} says why")
    found = {label for entry in kept if entry.split == "train" for label in entry.labels}
    for label, name in enumerate(catalog.classes):
        if label not in found:
            raise UserError(
                f"every clip of {name!r} in train was rejected; {out / REJECTED_CSV} says why; mend some and go on "
                "with --resume --retry-rejected, or leave the label out and start anew with --overwrite"
            )
    if not any(entry.split == "val" for entry in kept):
        raise UserError(
            f"every clip of val was rejected; {out / REJECTED_CSV} says why; mend some and go on with --resume "
            "--retry-rejected"
        )

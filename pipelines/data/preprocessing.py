"""Decode labelled videos into shards on a Ray cluster, resumably.

The plan (plan.py) assigns every clip to a shard. One row of the Ray data set is one shard; its task (shard_writer.py)
writes the shard atomically under a fixed name, then a report that marks it as finished. So any process may die at any
time: the job can be resumed, and the bytes are the same. The nodes that see the videos and OUT do the work: all nodes,
also those that join later, if both are URIs; otherwise those that share the paths.
"""

import logging
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipelines.core.errors import UserError
from pipelines.data.background import Cuts, add_background, is_long
from pipelines.data.catalog import Catalog, read_catalog
from pipelines.data.codecs import CODECS, check_encoder
from pipelines.data.estimate import choose_codec, expected_bytes, expected_frames, free_disk
from pipelines.data.frame_size import settled
from pipelines.data.options import PreprocessOptions
from pipelines.data.plan import MIN_SHARDS, PREPROCESS_JSON, Plan, clips_per_shard, read_reports
from pipelines.data.rejected import REJECTED_CSV, write_rejected
from pipelines.data.shard_jobs import write_shards
from pipelines.data.shards import write_dataset_json
from pipelines.data.splits import SPLITS
from pipelines.storage.location import Location
from pipelines.storage.lock import only_writer
from pipelines.storage.output import prepare_out, refuse_existing
from pipelines.video.errors import REASONS
from pipelines.video.ffmpeg import DECODER
from ttrnn.files import remove_leftovers

__all__ = ["make_shards"]

log = logging.getLogger(__name__)


_MISPLACED = "misplaced"
"""In rejected.csv, beside video.errors.REASONS: a video whose folder or name does not fit the layout."""


def make_shards(options: PreprocessOptions) -> dict[str, Any]:
    """Makes the shards, or those that are missing. Uses a running Ray, or starts one.

    The same videos and options give the same bytes, for any number of workers and interruptions. Clips that are added
    later go into new shards; the existing shards and splits stay as they are.

    Returns:
        out, classes, task, codec, num_clips, num_frames, num_bytes, num_rejected, rejected {reason: number}, splits
        {name: num_clips, num_frames, num_bytes}.

    Raises:
        UserError: there is nothing to train on, before or after decoding.
        StepError: remote storage does not answer.
        OSError: the disk is full.
    """
    out = Location.of(options.out).absolute()
    with only_writer(out):
        return _make_shards(options, out)


def _make_shards(options: PreprocessOptions, out: Location) -> dict[str, Any]:
    refuse_existing(out, marker=PREPROCESS_JSON, overwrite=options.overwrite, resume=options.resume)
    earlier = Plan.read(out) if options.resume else None
    plan = earlier or Plan({})
    catalog = read_catalog(
        options.videos,
        options.layout,
        options.splits,
        split_list=options.split_list,
        kept_splits=plan.splits(),
        kept_classes=plan.classes,
    )
    if options.background != "none":
        catalog = add_background(catalog, options.background, options.seed, plan.splits())
    options = settled(options, catalog)
    if earlier is not None:
        if options.codec == "auto":
            # Neither the disk nor the number of clips may change it now.
            options = replace(options, codec=earlier.options.get("codec", "raw"))
        earlier.check_options(out, options.settings())
    plan = replace(plan, options=options.settings())
    if options.overwrite:
        _refuse_to_delete_videos(out, options.videos, catalog)
    prepare_out(out, marker=PREPROCESS_JSON, overwrite=options.overwrite, resume=options.resume)
    plan = plan.with_paths(out, catalog)
    reports = read_reports(out, plan.shards)
    plan = _grow(plan, catalog, out, options, plan.rejected(reports) if options.retry_rejected else {})
    options = replace(options, codec=plan.options["codec"])
    missing = plan.missing(reports)
    if reports:
        log.info("%d of %d shards are finished", len(reports), len(plan.shards))
    try:
        if missing:
            log.info("decoding %s clips into %d shards", f"{sum(len(s.clips) for s in missing):,}", len(missing))
            long = [shard for shard in missing if any(map(is_long, shard.clips))]
            if clips := [shard for shard in missing if shard not in long]:
                reports |= write_shards(clips, out, options)
            # Then the lengths of the other clips are known.
            if long:
                cuts = {split: Cuts.of_split(split, plan, reports, options.seed) for split in SPLITS}
                reports |= write_shards(long, out, options, cuts)
    finally:
        if out.is_local:
            remove_leftovers(out.local)
    return _finish(out, options, catalog, plan, reports)


def _refuse_to_delete_videos(out: Location, videos: str, catalog: Catalog) -> None:
    folders = {posixpath.dirname(clip.path) for clip in catalog.clips}
    if any(location.lies_in(out) for location in (Location.of(videos), *map(Location, folders))):
        raise UserError(f"--overwrite deletes {out}, which contains videos of {videos}; give another OUT")


def _grow(plan: Plan, catalog: Catalog, out: Location, options: PreprocessOptions, retried: Iterable[str]) -> Plan:
    """Adds the clips that are not in the plan yet, and those that are `retried`; stores the plan in OUT.

    A new plan settles the codec.
    """
    old = plan.splits().keys() - set(retried)
    new = [clip for clip in catalog.clips if clip.clip_id not in old]
    if new:
        if plan.shards:
            log.info("%s clips are new or retried", f"{len(new):,}")
        for clip in new:
            # Refuses a URI that cannot be opened before the plan contains it.
            Location.of(clip.path)
        clips, long = [clip for clip in new if not is_long(clip)], [clip for clip in new if is_long(clip)]
        codec, is_many = options.codec, len(clips) > MIN_SHARDS
        num_frames = expected_frames(clips, options) if clips and (is_many or codec == "auto") else 0
        if codec == "auto":
            num_clips = len(clips) * (2 if long else 1)
            codec, reason = choose_codec(expected_bytes(num_clips, num_frames, options), free_disk(out))
            log.info("codec %s: %s", codec, reason)
            plan = replace(plan, options={**plan.options, "codec": codec})
        check_encoder(codec)
        # Each of a few clips gets its own shard, regardless of its size.
        clip_bytes = CODECS[codec].share * num_frames * options.frame.size if is_many else 0
        number = clips_per_shard(len(clips), clip_bytes, options.shard_mb * 1e6)
        plan = plan.grown(clips, number, catalog.classes).grown(long, 1, catalog.classes)
        plan.write(out)
    return plan


def _finish(
    out: Location, options: PreprocessOptions, catalog: Catalog, plan: Plan, reports: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Writes rejected.csv, then dataset.json, which completes the shards; returns the result of the command."""
    rejected = plan.rejected(reports) | {path: [_MISPLACED] for path in catalog.left_out}
    write_rejected(out, rejected)
    _refuse_lost_classes(out, catalog, rejected)
    finished = [reports[shard.file] for shard in plan.shards]
    number, total, squares = np.sum([report["pixel_sums"] for report in finished], axis=0)
    mean = total / number
    # For a channel without contrast: pixels are divided by it.
    std = [float(value) or 1.0 for value in np.sqrt(squares / number - mean**2)]
    shards = {
        split: [report["shard"] for report in finished if report["split"] == split and report["shard"]["num_clips"]]
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
        codec=options.codec,
        decoder=DECODER,
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
        "codec": options.codec,
        **totals,
        "num_rejected": len(rejected),
        "rejected": dict(Counter(reason for reason, *_ in rejected.values())),
        "splits": splits,
    }


def _refuse_lost_classes(out: Location, catalog: Catalog, rejected: Mapping[str, Sequence[Any]]) -> None:
    reasons = f"see {out / REJECTED_CSV} for the reasons"
    for reason, number in Counter(reason for reason, *_ in rejected.values()).most_common(1):
        reasons += f" ({number:,} {reason}: {REASONS[reason]})" if reason in REASONS else ""
    kept = [clip for clip in catalog.clips if clip.clip_id not in rejected]
    if not kept:
        raise UserError(f"all {len(rejected):,} clips were rejected; {reasons}")
    found = {label for clip in kept if clip.split == "train" for label in clip.labels}
    for label, name in enumerate(catalog.classes):
        if label not in found:
            raise UserError(
                f"every clip of {name!r} in train was rejected; {reasons}; repair some and continue with --resume "
                "--retry-rejected, or leave out the label and start again with --overwrite"
            )
    if not any(clip.split == "val" for clip in kept):
        raise UserError(
            f"every clip of val was rejected; {reasons}; repair some and continue with --resume --retry-rejected"
        )

"""Summarise shards in numbers and as a contact sheet, and verify their checksums.

A summary reads the columns beside the frames, and only those frames that are on the contact sheet.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table

from pipelines.core.errors import UserError
from pipelines.core.progress import progress
from pipelines.data.dataset import ShardDataset, Split
from pipelines.data.rejected import REJECTED_CSV, read_rejected
from pipelines.evaluation.metrics import chance_level
from pipelines.report.contact_sheet import write_contact_sheet
from pipelines.storage.location import Location

__all__ = ["SHEET_PNG", "inspect_shards", "inspection_summary", "verify_shards", "verify_summary"]


SHEET_PNG = "contact-sheet.png"
_NUM_EXAMPLES = 5


def inspect_shards(place: str | Path | Location, sheet: str | Path | None = None) -> dict[str, Any]:
    """Counts clips, frames and groups of shards and draws a contact sheet. Remote shards are downloaded to this node.

    Args:
        place: The directory of the shards.
        sheet: The PNG to write; None: contact-sheet.png in the directory of the shards, or in the working directory if
            the shards are remote or read-only.

    Returns:
        JSON values: shards, classes, task, frame, sampling, mean, std (as in dataset.json), codec; num_clips,
        num_frames, num_bytes, num_groups, video_s and num_clips_without_fps (which video_s leaves out) of all clips;
        splits {name: the same for a split, with min_frames, median_frames, max_frames}; by_class {class: {split:
        num_clips, num_groups}}; leaked_groups {group: [its splits]}; num_rejected, rejected {reason: number},
        rejected_clips (the first few: path, reason); chance, majority_class and majority_share of the test split (None
        if it is empty; the last two also if clips have several labels); sheet (path of the contact sheet).

    Raises:
        UserError: shards are missing or damaged, or the sheet can't be written.
    """
    data = ShardDataset.open(place)
    if not data.splits:
        raise UserError(f"{data.place} has no splits: there is nothing to inspect")
    splits = {name: data.split(name) for name in data.splits}
    num_bytes = {name: sum(shard["num_bytes"] for shard in data.splits[name]["shards"]) for name in splits}
    rejected = read_rejected(data.place)
    return {
        "shards": str(data.place),
        "classes": list(data.classes),
        "task": data.task,
        "frame": asdict(data.frame),
        "sampling": data.sampling,
        "codec": data.codec,
        "mean": list(data.mean),
        "std": list(data.std),
        **_totals(splits.values(), sum(num_bytes.values())),
        "splits": {name: _totals([split], num_bytes[name]) | _lengths(split) for name, split in splits.items()},
        "by_class": _by_class(data.classes, splits),
        "leaked_groups": _leaked_groups(splits),
        "num_rejected": len(rejected),
        "rejected": dict(Counter(reason for _, reason in rejected)),
        "rejected_clips": [{"path": path, "reason": reason} for path, reason in rejected[:_NUM_EXAMPLES]],
        **_baselines(data, splits.get("test")),
        "sheet": _write_sheet(data, splits, sheet),
    }


def _write_sheet(data: ShardDataset, splits: Mapping[str, Split], sheet: str | Path | None) -> str:
    """Draws the contact sheet and returns its path."""
    if sheet is None:
        is_writable = data.place.is_local and os.access(data.place.local, os.W_OK)
        sheet = str(data.place / SHEET_PNG) if is_writable else SHEET_PNG
    target, name = Location.of(sheet), "train" if "train" in splits else next(iter(splits))
    write_contact_sheet(target, f"{data.place.absolute().name}: {name}", data.classes, splits[name])
    return str(target)


def _totals(splits: Collection[Split], num_bytes: int) -> dict[str, Any]:
    rates = [rate for split in splits for rate in zip(split.lengths.tolist(), split.fps, strict=True)]
    return {
        "num_clips": len(rates),
        "num_frames": sum(length for length, _ in rates),
        "num_bytes": num_bytes,
        "num_groups": len({group for split in splits for group in split.groups} - {""}),
        "video_s": sum(length / fps for length, fps in rates if fps > 0),
        "num_clips_without_fps": sum(not fps > 0 for _, fps in rates),
    }


def _lengths(split: Split) -> dict[str, float | None]:
    if not len(split):
        return dict.fromkeys(("min_frames", "median_frames", "max_frames"))
    lengths = split.lengths
    return {
        "min_frames": int(lengths.min()),
        "median_frames": float(np.median(lengths)),
        "max_frames": int(lengths.max()),
    }


def _by_class(classes: Sequence[str], splits: Mapping[str, Split]) -> dict[str, dict[str, dict[str, int]]]:
    counts: list[dict[str, dict[str, int]]] = [{} for _ in classes]
    for name, split in splits.items():
        groups: list[list[str]] = [[] for _ in classes]
        for labels, group in zip(split.labels, split.groups, strict=True):
            for label in labels:
                groups[label].append(group)
        for label, own in enumerate(groups):
            counts[label][name] = {"num_clips": len(own), "num_groups": len(set(own) - {""})}
    return dict(zip(classes, counts, strict=True))


def _leaked_groups(splits: Mapping[str, Split]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, split in splits.items():
        for group in set(split.groups) - {""}:
            found.setdefault(group, []).append(name)
    return {group: names for group, names in sorted(found.items()) if len(names) > 1}


def _baselines(data: ShardDataset, test: Split | None) -> dict[str, Any]:
    """Accuracies of guessing and of predicting the most frequent class."""
    result: dict[str, Any] = {"chance": None, "majority_class": None, "majority_share": None}
    if test:
        result["chance"] = chance_level(data.task, test.labels, len(data.classes))
        if data.task == "single_label":
            ((label, count),) = Counter(label for (label,) in test.labels).most_common(1)
            result |= {"majority_class": data.classes[label], "majority_share": count / len(test)}
    return result


def inspection_summary(result: Mapping[str, Any]) -> Group:
    """Formats an inspection for the terminal: tables of splits and classes, and remarks."""
    frame, kind = result["frame"], "RGB" if result["frame"]["channels"] == 3 else "grey"
    sampling = {name: value for name, value in result["sampling"].items() if value is not None}
    fit = sampling.pop("fit", "stretch")
    chosen = ", ".join(f"{name}={value}" for name, value in sampling.items()) or "every frame"
    size = f"{frame['width']} x {frame['height']}"
    lines = [
        f"{result['shards']}: {len(result['classes']):,} classes, {result['task']}",
        f"frames {size}, {kind}, fit: {fit}; sampling: {chosen}; codec: {result['codec']}",
        f"pixels of train, 0 to 255: mean {_numbers(result['mean'])}, standard deviation {_numbers(result['std'])}",
    ]
    return Group(*lines, "", _split_table(result), "", _class_table(result), "", *_remarks(result))


def _split_table(result: Mapping[str, Any]) -> Table:
    table = _table("split", "clips", "groups", "frames", "min\nframes", "median\nframes", "max\nframes", "video", "MB")
    parts = result["splits"] | ({"all": result} if len(result["splits"]) > 1 else {})
    for name, part in parts.items():
        lengths = [part.get(f"{which}_frames") for which in ("min", "median", "max")]
        table.add_row(
            name,
            f"{part['num_clips']:,}",
            f"{part['num_groups']:,}" if part["num_groups"] else "",
            f"{part['num_frames']:,}",
            *("" if length is None else f"{length:,.10g}" for length in lengths),
            _duration(part["video_s"]) if part["video_s"] else "",
            f"{part['num_bytes'] / 1e6:,.1f}",
        )
    return table


def _class_table(result: Mapping[str, Any]) -> Table:
    """Number of clips by class and split, with the number of groups in brackets if known."""
    table = _table("class", *result["splits"])
    for name, splits in result["by_class"].items():
        cells = [(part["num_clips"], part["num_groups"]) for part in splits.values()]
        table.add_row(name, *(f"{clips:,} ({groups:,})" if groups else f"{clips:,}" for clips, groups in cells))
    if result["num_groups"]:
        table.caption, table.caption_justify = "clips (groups)", "left"
    return table


def _table(*columns: str) -> Table:
    # Narrow padding, because a terminal may have only 80 columns.
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    table.add_column(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _remarks(result: Mapping[str, Any]) -> list[str]:
    lines = []
    if result["num_clips_without_fps"]:
        lines.append(f"{result['num_clips_without_fps']:,} clips have no frame rate and are left out of the video time")
    if leaked := result["leaked_groups"]:
        examples = [f"{group} ({', '.join(splits)})" for group, splits in list(leaked.items())[:_NUM_EXAMPLES]]
        more = ", ..." if len(leaked) > _NUM_EXAMPLES else ""
        lines.append(f"leak: {len(leaked):,} groups are in several splits: {', '.join(examples)}{more}")
    if result["num_rejected"]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(result["rejected"].items()))
        lines.append(f"{result['num_rejected']:,} clips rejected ({reasons}); the first of {REJECTED_CSV}:")
        lines += [f"    {clip['path']}: {clip['reason']}" for clip in result["rejected_clips"]]
    if result["chance"] is not None:
        guess = f"chance on test: {100 * result['chance']:.1f}%"
        if result["majority_class"] is not None:
            guess += f"; always predicting {result['majority_class']!r}: {100 * result['majority_share']:.1f}%"
        lines.append(guess)
    return [*lines, f"contact sheet: {result['sheet']}"]


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.1f}" for value in values)


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def verify_shards(place: str | Path | Location) -> dict[str, Any]:
    """Reads every shard and compares its SHA-256 with dataset.json; missing and truncated shards count as damaged.

    Returns:
        JSON values: shards (the directory), num_shards, num_bytes, damaged (names of files), exit_code (2 if a shard is
        damaged, else 0).

    Raises:
        UserError: dataset.json itself is missing or damaged.
        StorageError: a remote file system does not answer.
    """
    data = ShardDataset.open(place, check_sizes=False)
    shards = [shard for split in data.splits.values() for shard in split["shards"]]
    checked = progress(data.damaged(), len(shards), "shards")
    damaged = [file for file, is_damaged in checked if is_damaged]
    return {
        "shards": str(data.place),
        "num_shards": len(shards),
        "num_bytes": sum(shard["num_bytes"] for shard in shards),
        "damaged": damaged,
        "exit_code": 2 if damaged else 0,
    }


def verify_summary(result: Mapping[str, Any]) -> str:
    """Formats the result of `verify_shards` for the terminal."""
    whole = f"{result['num_shards']:,} shards, {result['num_bytes'] / 1e6:,.1f} MB"
    if not result["damaged"]:
        return f"{result['shards']}: {whole}, all intact"
    return (
        f"{result['shards']}: missing or damaged, {len(result['damaged']):,} of {whole}: "
        f"{', '.join(result['damaged'])}; delete them and run preprocess with --resume, which writes them again"
    )

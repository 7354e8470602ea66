"""Which clip goes into which shard: decided before the first is decoded, kept beside the shards, and only added to.

    OUT/preprocess.json         the options, the classes and the plan: each shard with its clips
    OUT/.<shard>.json           of each shard that is done: its entry in dataset.json, the rejected clips, pixel sums

So a job that was killed knows what is done, and clips that come later go into shards of their own.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipelines.core.errors import UserError
from pipelines.data.catalog import Catalog, Entry
from pipelines.data.splits import SPLITS
from pipelines.storage.location import Location

__all__ = ["PREPROCESS_JSON", "Plan", "Shard", "clips_per_shard", "read_reports", "report_location"]


PREPROCESS_JSON = "preprocess.json"
_FORMAT, _VERSION = "ttrnn-preprocess", 1
# Shards that a data set has at least, if it has as many clips: as many workers find something to do. Not their true
# number, on which nothing may depend.
_MIN_SHARDS = 32
# What may change between a job and its resumption: where the videos lie, and what has no say in a finished shard.
_FREE_OPTIONS = ("videos", "time_limit_s", "shard_mb")


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """A shard to be: its file, its split, and its clips as [clip_id, labels, group]."""

    file: str
    split: str
    clips: list[tuple[str, list[int], str]]


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """All shards of a data set, and what they are made with."""

    options: Mapping[str, Any]
    classes: tuple[str, ...] = ()
    shards: tuple[Shard, ...] = ()

    @classmethod
    def read(cls, out: Location) -> "Plan | None":
        """The plan in OUT, if there is one.

        Raises:
            UserError: it is damaged, or of another version.
        """
        path = out / PREPROCESS_JSON
        try:
            document = json.loads(path.read_text())
            if (document["format"], document["version"]) != (_FORMAT, _VERSION):
                raise ValueError(f"format {document['format']} version {document['version']}")
            shards = tuple(_shard(**shard) for shard in document["shards"])
            return cls(document["options"], tuple(document["classes"]), shards)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is of another version, or damaged ({error}); start anew with --overwrite"
            ) from None

    def write(self, out: Location) -> None:
        """Keeps it in OUT."""
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "options": dict(self.options),
            "classes": self.classes,
            "shards": [dataclasses.asdict(shard) for shard in self.shards],
        }
        (out / PREPROCESS_JSON).write_text(json.dumps(document) + "\n")

    def splits(self) -> dict[str, str]:
        """The split of every clip, by clip_id."""
        return {clip[0]: shard.split for shard in self.shards for clip in shard.clips}

    def check_options(self, out: Location, options: Mapping[str, Any]) -> None:
        """Refuses to mix shards of different options in one directory. Raises UserError."""
        for name, value in options.items():
            if name not in _FREE_OPTIONS and self.options.get(name) != value:
                raise UserError(
                    f"{out} was started with {name}={self.options.get(name)}, not {value}; resume it with the same "
                    "options, or start anew with --overwrite"
                )

    def check_clips(self, out: Location, catalog: Catalog) -> None:
        """Refuses a catalogue in which planned clips are missing or changed, or new ones change the task.

        Raises:
            UserError: naming the first such clip.
        """
        found = {entry.clip_id: (list(entry.labels), entry.group) for entry in catalog.entries}
        for shard in self.shards:
            for clip_id, labels, group in shard.clips:
                if found.get(clip_id) != (labels, group):
                    what = "has another label or group than" if clip_id in found else "is gone, which is one of"
                    raise UserError(
                        f"{clip_id} {what} the clips that {out} was made of; a data set only grows: put it back as it "
                        "was, or start anew with --overwrite"
                    )

        if self.shards and all(len(clip[1]) == 1 for shard in self.shards for clip in shard.clips):
            several = next((entry.clip_id for entry in catalog.entries if len(entry.labels) != 1), None)
            if several is not None:
                raise UserError(
                    f"{several} has not one label, but all clips of {out} have: the task would become {catalog.task}; "
                    "mend its label, or start anew with --overwrite"
                )

    def grown(self, entries: Iterable[Entry], clips_per_shard: int, classes: tuple[str, ...]) -> "Plan":
        """With more shards, for clips that are not in it yet (or tried again)."""
        entries, shards, numbers = list(entries), list(self.shards), Counter(shard.split for shard in self.shards)
        for split in SPLITS:
            clips = [(e.clip_id, list(e.labels), e.group) for e in entries if e.split == split]
            for start in range(0, len(clips), clips_per_shard):
                file = f"{split}-{numbers[split]:05}.arrow"
                shards.append(Shard(file, split, clips[start : start + clips_per_shard]))
                numbers[split] += 1
        return dataclasses.replace(self, classes=classes, shards=tuple(shards))

    def missing(self, reports: Collection[str]) -> list[Shard]:
        """The shards without a report; each without the clips that have been tried again in a later one."""
        last = {clip[0]: shard.file for shard in self.shards for clip in shard.clips}
        return [
            dataclasses.replace(shard, clips=[clip for clip in shard.clips if last[clip[0]] == shard.file])
            for shard in self.shards
            if shard.file not in reports
        ]

    def rejected(self, reports: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """Reasons by clip_id, as of the last time that each clip was tried."""
        reasons: dict[str, str] = {}
        for shard in self.shards:
            ours = dict(reports[shard.file]["rejected"]) if shard.file in reports else {}
            for clip_id, *_ in shard.clips:
                reasons.pop(clip_id, None)
                if clip_id in ours:
                    reasons[clip_id] = ours[clip_id]
        return reasons


def _shard(file: str, split: str, clips: list[list[Any]]) -> Shard:
    return Shard(file, split, [(clip_id, labels, group) for clip_id, labels, group in clips])


def clips_per_shard(num_clips: int, clip_bytes: float, shard_bytes: float) -> int:
    """So many that a shard has about its target size, and that there are shards for many workers.

    Args:
        num_clips: Of the data set.
        clip_bytes: Of the frames of a clip, on average; 0 where nothing is known of it.
        shard_bytes: The target.
    """
    most = -(-num_clips // _MIN_SHARDS)
    return max(1, min(most, round(shard_bytes / clip_bytes))) if clip_bytes else max(1, most)


def report_location(out: Location, file: str) -> Location:
    """Where the report on a shard lies. It is written after the shard, and says that this is done."""
    return out / f".{file}.json"


def read_reports(out: Location, shards: Sequence[Shard]) -> dict[str, dict[str, Any]]:
    """The reports on the shards that are done, by file; one that is damaged, or whose shard is, counts as not done."""
    with ThreadPoolExecutor(16) as pool:
        reports = pool.map(lambda shard: _read_report(out, shard.file), shards)
        return {shard.file: report for shard, report in zip(shards, reports, strict=True) if report is not None}


def _read_report(out: Location, file: str) -> dict[str, Any] | None:
    try:
        report: dict[str, Any] = json.loads(report_location(out, file).read_text())
        # A shard of which every clip was rejected is not written.
        whole = not report["shard"]["num_clips"] or (out / file).size() == report["shard"]["num_bytes"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return report if whole else None

"""Plan which clip goes into which shard, before any is decoded; the plan is stored beside the shards and only grows.

    OUT/preprocess.json         the options, the classes and the plan: each shard with its clips
    OUT/.<shard>.json           the report on a finished shard: its entry in dataset.json, rejected clips, pixel sums

So a job that was killed can be resumed, and clips that are added later go into new shards.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipelines.core.errors import UserError
from pipelines.data.catalog import Catalog
from pipelines.data.clip import ClipRecord
from pipelines.data.problems import raise_problems, some
from pipelines.data.splits import SPLITS
from pipelines.storage.location import Location

__all__ = ["MIN_SHARDS", "PREPROCESS_JSON", "Plan", "Shard", "clips_per_shard", "read_reports", "report_location"]


PREPROCESS_JSON = "preprocess.json"
_FORMAT, _VERSION = "ttrnn-preprocess", 1
MIN_SHARDS = 32
"""Shards of a data set, if it has as many clips: work for that many workers. The result must not depend on the actual
number of workers."""
# Options that may change when a job is resumed: where the videos are, and those without an effect on finished shards.
_FREE_OPTIONS = ("videos", "background", "time_limit_s", "shard_mb", "allow_missing_classes")


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """A shard to write: its file, its split and its clips."""

    file: str
    split: str
    clips: tuple[ClipRecord, ...]

    def to_json(self) -> str:
        """All values, paths included, as text for a worker."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Shard":
        """The inverse of `to_json`."""
        values = json.loads(text)
        clips = tuple(ClipRecord(**{**clip, "labels": tuple(clip["labels"])}) for clip in values["clips"])
        return cls(values["file"], values["split"], clips)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """All shards of a data set, and the options they are made with."""

    options: Mapping[str, Any]
    classes: tuple[str, ...] = ()
    shards: tuple[Shard, ...] = ()

    @classmethod
    def read(cls, out: Location) -> "Plan | None":
        """The plan in OUT, if there is one; its clips have no paths (see `with_paths`).

        Raises:
            UserError: it is damaged, or of another version.
        """
        path = out / PREPROCESS_JSON
        try:
            document = json.loads(path.read_text())
            if (document["format"], document["version"]) != (_FORMAT, _VERSION):
                raise ValueError(f"format {document['format']} version {document['version']}")
            shards = tuple(_read_shard(**shard) for shard in document["shards"])
            # Older plans name no codec.
            return cls({"codec": "raw", **document["options"]}, tuple(document["classes"]), shards)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is of another version, or damaged ({error}); start again with --overwrite"
            ) from None

    def write(self, out: Location) -> None:
        """Stores the plan in OUT."""
        shards = [
            {
                "file": shard.file,
                "split": shard.split,
                "clips": [(clip.clip_id, clip.labels, clip.group) for clip in shard.clips],
            }
            for shard in self.shards
        ]
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "options": dict(self.options),
            "classes": self.classes,
            "shards": shards,
        }
        (out / PREPROCESS_JSON).write_text(json.dumps(document) + "\n")

    def splits(self) -> dict[str, str]:
        """The split of every clip, by clip_id."""
        return {clip.clip_id: shard.split for shard in self.shards for clip in shard.clips}

    def check_options(self, out: Location, options: Mapping[str, Any]) -> None:
        """Refuses to mix shards of different options in one directory. Raises UserError."""
        changed = [
            f"{name}={self.options.get(name)}, not {value}"
            for name, value in options.items()
            if name not in _FREE_OPTIONS and self.options.get(name) != value
        ]
        if changed:
            raise UserError(
                f"{out} was started with {'; '.join(changed)}; resume it with the same options, or start again with "
                "--overwrite"
            )

    def with_paths(self, out: Location, catalog: Catalog) -> "Plan":
        """The plan with the paths of its clips, as the catalogue has them.

        Raises:
            UserError: a clip is missing from the catalogue or has other labels, or new clips change the task.
        """
        found = {clip.clip_id: clip for clip in catalog.clips}
        raise_problems(self._lost_clips(out, found))
        shards = []
        for shard in self.shards:
            located = tuple(dataclasses.replace(clip, path=found[clip.clip_id].path) for clip in shard.clips)
            shards.append(dataclasses.replace(shard, clips=located))
        if self.shards and all(len(clip.labels) == 1 for shard in self.shards for clip in shard.clips):
            others = [clip.clip_id for clip in catalog.clips if len(clip.labels) != 1]
            if others:
                subject = f"{others[0]} does" if len(others) == 1 else f"{len(others):,} clips, {some(others)}, do"
                raise UserError(
                    f"{subject} not have one label like all clips of {out}: the task would become {catalog.task}; "
                    f"correct {'its label' if len(others) == 1 else 'their labels'}, or start again with --overwrite"
                )
        return dataclasses.replace(self, shards=tuple(shards))

    def _lost_clips(self, out: Location, found: Mapping[str, ClipRecord]) -> list[str]:
        """The refusals of clips that are gone from the catalogue, or have other labels or groups."""
        gone, changed = dict[str, None](), dict[str, None]()
        for shard in self.shards:
            for clip in shard.clips:
                match = found.get(clip.clip_id)
                if match is None:
                    gone[clip.clip_id] = None
                elif (match.labels, match.group) != (clip.labels, clip.group):
                    changed[clip.clip_id] = None
        end = f"the clips from which {out} was made; a data set can only grow: restore"
        return [
            f"{next(iter(names))} {one} {end} the clip, or start again with --overwrite"
            if len(names) == 1
            else f"{len(names):,} clips, {some(names)}, {several} {end} the clips, or start again with --overwrite"
            for names, one, several in (
                (gone, "is no longer among", "are no longer among"),
                (changed, "has another label or group than in", "have other labels or groups than in"),
            )
            if names
        ]

    def grown(self, clips: Iterable[ClipRecord], clips_per_shard: int, classes: tuple[str, ...]) -> "Plan":
        """The plan with more shards, for clips that are not in it yet or are retried."""
        clips, shards, numbers = list(clips), list(self.shards), Counter(shard.split for shard in self.shards)
        for split in SPLITS:
            own = [clip for clip in clips if clip.split == split]
            for start in range(0, len(own), clips_per_shard):
                file = f"{split}-{numbers[split]:05}.arrow"
                shards.append(Shard(file, split, tuple(own[start : start + clips_per_shard])))
                numbers[split] += 1
        return dataclasses.replace(self, classes=classes, shards=tuple(shards))

    def missing(self, reports: Collection[str]) -> list[Shard]:
        """The shards without a report, each without the clips that are retried in a later shard."""
        last = {clip.clip_id: shard.file for shard in self.shards for clip in shard.clips}
        return [
            dataclasses.replace(shard, clips=tuple(clip for clip in shard.clips if last[clip.clip_id] == shard.file))
            for shard in self.shards
            if shard.file not in reports
        ]

    def rejected(self, reports: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
        """By clip_id, the reason and the facts of the video, from the last time that each clip was decoded."""
        reasons: dict[str, list[Any]] = {}
        for shard in self.shards:
            entries = reports[shard.file]["rejected"] if shard.file in reports else []
            own = {clip_id: why for clip_id, *why in entries}
            for clip in shard.clips:
                reasons.pop(clip.clip_id, None)
                if clip.clip_id in own:
                    reasons[clip.clip_id] = own[clip.clip_id]
        return reasons


def _read_shard(file: str, split: str, clips: list[list[Any]]) -> Shard:
    records = (
        ClipRecord(clip_id=clip_id, labels=tuple(labels), group=group, split=split) for clip_id, labels, group in clips
    )
    return Shard(file, split, tuple(records))


def clips_per_shard(num_clips: int, clip_bytes: float, shard_bytes: float) -> int:
    """The number of clips that make a shard of about the target size, while there are enough shards for many workers.

    Args:
        num_clips: Of the data set.
        clip_bytes: The mean size of the frames of a clip; 0 if unknown.
        shard_bytes: The target.
    """
    most = -(-num_clips // MIN_SHARDS)
    return max(1, min(most, round(shard_bytes / clip_bytes))) if clip_bytes else max(1, most)


def report_location(out: Location, file: str) -> Location:
    """The report on a shard; it is written after the shard and marks it as finished."""
    return out / f".{file}.json"


def read_reports(out: Location, shards: Sequence[Shard]) -> dict[str, dict[str, Any]]:
    """The reports on finished shards, by file; without those that are damaged or whose shard is not complete."""
    with ThreadPoolExecutor(16) as pool:
        reports = pool.map(lambda shard: _read_report(out, shard.file), shards)
        return {shard.file: report for shard, report in zip(shards, reports, strict=True) if report is not None}


def _read_report(out: Location, file: str) -> dict[str, Any] | None:
    try:
        report: dict[str, Any] = json.loads(report_location(out, file).read_text())
        # A shard whose clips were all rejected is not written.
        is_whole = not report["shard"]["num_clips"] or (out / file).size() == report["shard"]["num_bytes"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return report if is_whole else None

"""Open a directory of shards by its dataset.json, and verify the shards.

Remote shards are first copied to this node's disk (storage.cache).

Legend: T time, H W frame height and width in pixels, C channels (3: RGB, 1: grey).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.errors import UserError
from pipelines.core.text import program
from pipelines.data.shard_reader import Split
from pipelines.data.shards import DATASET_JSON, FORMAT, VERSIONS
from pipelines.storage.cache import Remote
from pipelines.storage.location import Location
from pipelines.video.frame import FrameSize

__all__ = ["ShardDataset", "Split"]


def _is_damaged(file: Location, sha256: str) -> bool:
    digest = hashlib.sha256()
    try:
        for chunk in file.chunks():
            digest.update(chunk)
    except OSError:
        # A file that the disk cannot read is damaged. A network failure is no sign of damage: StorageError.
        return True
    return digest.hexdigest() != sha256


@dataclass(frozen=True)
class ShardDataset:
    """A finished directory of shards, as described by its dataset.json.

    Example:
        data = ShardDataset.open("shards")
        train = data.split("train")
        clip = train[0]           # clip.frames: uint8 [T, H, W, C]
    """

    place: Location
    classes: tuple[str, ...]
    task: str
    """single_label or multi_label"""
    frame: FrameSize
    sampling: dict[str, Any]
    mean: tuple[float, ...]
    """per channel, of the train split, in units of uint8 values (0 to 255)"""
    std: tuple[float, ...]
    """likewise"""
    splits: dict[str, dict[str, Any]]
    """by name: num_clips, num_frames, shards (each file, num_clips, num_frames, num_bytes, sha256)"""
    codec: str = "raw"
    """with which the frames are stored, for information: each shard names its own"""
    rows: dict[str, tuple[int, ...]] | None = None
    """of a view with other splits (folds.py): by split, its rows in `clips()`; None: the splits of dataset.json"""

    @classmethod
    def open(cls, place: str | Path | Location, *, check_sizes: bool = True) -> "ShardDataset":
        """Reads dataset.json and checks the size of every local shard; `verify` checks the bytes.

        Args:
            place: The directory.
            check_sizes: False: do not check them, for callers that examine each shard (`damaged`).

        Raises:
            UserError: the directory is missing, unfinished or of another version, or a shard is missing or truncated.
        """
        place = Location.of(place)
        document = _read_dataset_json(place)
        try:
            dataset = cls(
                place,
                tuple(document["classes"]),
                document["task"],
                FrameSize(**document["frame"]),
                document["sampling"],
                tuple(document["mean"]),
                tuple(document["std"]),
                document["splits"],
                document.get("codec", "raw"),
            )
            for file, shard in dataset._shards():
                if check_sizes and place.is_local:
                    _check_size(file.local, shard["num_bytes"])
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{place / DATASET_JSON} is damaged ({error}); delete it and run preprocess --resume"
            ) from error
        return dataset

    def split(self, name: str) -> "Split":
        """Opens one split; remote shards are copied to this node's disk, unless they are there already.

        Raises:
            UserError: there is no split of this name, or a shard is not an Arrow file.
            StepError: a remote shard cannot be copied, or is damaged.
        """
        names = self.splits if self.rows is None else self.rows
        if name not in names:
            raise UserError(f"{self.place} has no split {name!r}; it has {', '.join(names)}")
        if self.rows is None:
            return self._read([(self.place / shard["file"], shard) for shard in self.splits[name]["shards"]])
        return self._read(self._shards(), self.rows[name])

    def clips(self) -> "Split":
        """All clips of all splits, in the order of the shards; the same errors as `split`."""
        return self._read(self._shards())

    def _read(self, shards: Iterable[tuple[Location, dict[str, Any]]], rows: Sequence[int] | None = None) -> "Split":
        shards = list(shards)
        if self.place.is_local:
            return Split([file.local for file, _ in shards], self.frame, rows)
        remote = [Remote(file, shard["sha256"], shard["num_bytes"]) for file, shard in shards]
        return Split(remote, self.frame, rows)

    def damaged(self) -> Iterator[tuple[str, bool]]:
        """Reads every shard; yields its name, and whether it is unreadable or its SHA-256 differs from dataset.json."""
        for file, shard in self._shards():
            yield shard["file"], _is_damaged(file, shard["sha256"])

    def verify(self) -> None:
        """Reads every shard and compares its SHA-256 with dataset.json.

        Raises:
            UserError: a shard differs; the message names the first one.
        """
        for file, is_damaged in self.damaged():
            if is_damaged:
                raise UserError(
                    f"{self.place / file} is damaged: its SHA-256 differs from {DATASET_JSON}; delete it and run "
                    "preprocess --resume"
                )

    def _shards(self) -> Iterator[tuple[Location, dict[str, Any]]]:
        for split in self.splits.values():
            for shard in split["shards"]:
                yield self.place / shard["file"], shard


def _read_dataset_json(place: Location) -> dict[str, Any]:
    file = place / DATASET_JSON
    try:
        text = file.read_text()
    except (FileNotFoundError, NotADirectoryError):
        if not place.is_dir():
            raise UserError(
                f"{place} is no directory; make shards there with: {program('preprocess')} VIDEOS {place}"
            ) from None
        raise UserError(
            f"{place} has no {DATASET_JSON}: it is unfinished or no directory of shards; finish it with "
            "preprocess --resume"
        ) from None
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is damaged ({error}); delete it and run preprocess --resume") from error
    try:
        document = json.loads(text)
        found = document["format"], document["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); delete it and run preprocess --resume") from error
    if found not in [(FORMAT, version) for version in VERSIONS]:
        raise UserError(
            f"{file} has format {found[0]} version {found[1]}, this program reads {FORMAT} version "
            f"{' and '.join(map(str, VERSIONS))}; run preprocess again, or use the program that wrote it"
        )
    return document


def _check_size(file: Path, num_bytes: int) -> None:
    if not file.exists():
        raise UserError(f"{file} is missing; run preprocess again, with --resume")
    if (size := file.stat().st_size) != num_bytes:
        raise UserError(
            f"{file} is damaged: it has {size:,} bytes instead of {num_bytes:,}; delete it and run preprocess --resume"
        )

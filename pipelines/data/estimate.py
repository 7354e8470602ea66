"""Estimate the frames, bytes and minutes of a data set before it is made, and choose its codec."""

import contextlib
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.core.text import size
from pipelines.data.catalog import read_catalog
from pipelines.data.clip import ClipRecord
from pipelines.data.codecs import CODECS, encode
from pipelines.data.copies import count_frames, local_copy
from pipelines.data.frame_size import settled
from pipelines.data.options import PreprocessOptions
from pipelines.storage.location import Location
from pipelines.video.errors import RejectedError
from pipelines.video.worker import IsolatedDecoder

__all__ = ["choose_codec", "dry_run", "expected_bytes", "expected_frames", "free_disk"]

# The rule of --codec auto; options.py states it.
_RAW_LIMIT, _REMOTE_LIMIT, _DISK_SHARE = 4e9, 200e9, 0.5
# Headers do not give the rate; --fps keeps about this share of 25 frames/s.
_USUAL_FPS = 25
# Of a dry run: clips to decode, the time for each, and frames to encode of each.
_NUM_TRIED, _TRIED_S, _TRIED_FRAMES = 8, 20.0, 256


def expected_frames(clips: Sequence[ClipRecord], options: PreprocessOptions) -> float:
    """The approximate mean number of frames of a clip, from the headers of at most 16; 0 if they do not give it."""
    if options.num_frames is not None:
        return min(options.num_frames, options.max_frames or options.num_frames)
    counts = count_frames([clip.path for clip in clips[:: -(-len(clips) // 16)]])
    announced = [min(count / (options.every or 1), options.max_frames or count) for count in counts if count]
    return sum(announced) / len(announced) if announced else 0


def expected_bytes(num_clips: int, num_frames: float, options: PreprocessOptions) -> float:
    """The approximate bytes of all raw frames, from the mean number of frames of `expected_frames`; 0 if unknown."""
    kept = 1 if options.fps is None else min(1, options.fps / _USUAL_FPS)
    return num_clips * num_frames * kept * options.frame.size


def free_disk(out: Location) -> int | None:
    """Free bytes of the disk on which OUT is or will be; None if OUT is remote."""
    if not out.is_local:
        return None
    place = out.absolute().local
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def choose_codec(raw_bytes: float, free_bytes: float | None) -> tuple[str, str]:
    """The codec that `auto` stands for, and the reason, for people.

    Args:
        raw_bytes: Of all frames; 0 if unknown.
        free_bytes: Of the disk; None if unknown.
    """
    if not raw_bytes:
        return "raw", "no header of a video announces its frames"
    room = _DISK_SHARE * free_bytes if free_bytes is not None else float("inf")
    lossless_bytes = CODECS["lossless"].share * raw_bytes
    text = f"about {size(raw_bytes)} of raw frames"
    if free_bytes is not None:
        text += f", {size(free_bytes)} free"
    if raw_bytes <= min(_RAW_LIMIT, room):
        return "raw", text
    text += f"; lossless about {size(lossless_bytes)}"
    fits = lossless_bytes <= room if free_bytes is not None else raw_bytes <= _REMOTE_LIMIT
    return ("lossless", text) if fits else ("h264", f"{text}, which is too much")


def dry_run(options: PreprocessOptions) -> dict[str, Any]:
    """Estimates what `make_shards` would make, and writes nothing. Decodes and encodes at most 8 clips.

    Returns:
        out, dry_run (True), num_clips, num_frames, frame; codecs {name: num_bytes, minutes}: with all CPUs of this
        machine, without the start of Ray, None if none of the tried clips could be decoded; codec and reason, as chosen
        or given; num_tried (clips), num_cpus, free_bytes (None if OUT is remote).

    Raises:
        UserError: there is nothing to train on.
    """
    catalog = read_catalog(options.videos, options.layout, options.splits, split_list=options.split_list)
    options, clips = settled(options, catalog), catalog.clips
    # There are as many clips of nothing as others.
    num_clips = len(clips) * (1 if options.background == "none" else 2)
    tried, free_bytes = _try(clips, options), free_disk(Location.of(options.out))
    raw_bytes = expected_bytes(num_clips, expected_frames(clips, options), options)
    codec, reason = choose_codec(raw_bytes, free_bytes) if options.codec == "auto" else (options.codec, "as given")
    # Where no header announces frames, those that were decoded are counted.
    raw_bytes = raw_bytes or num_clips * options.frame.size * tried.num_frames / max(1, tried.num_clips)
    num_frames, num_cpus, codecs = raw_bytes / options.frame.size, os.cpu_count() or 1, {}
    for name in CODECS:
        seconds = tried.frame_s(name)
        codecs[name] = {
            "num_bytes": round(raw_bytes * tried.share(name)),
            "minutes": None if seconds is None else num_frames * seconds / num_cpus / 60,
        }
    return {
        "out": options.out,
        "dry_run": True,
        "num_clips": num_clips,
        "num_frames": round(num_frames),
        "frame": asdict(options.frame),
        "codecs": codecs,
        "codec": codec,
        "reason": reason,
        "num_tried": tried.num_clips,
        "num_cpus": num_cpus,
        "free_bytes": free_bytes,
    }


@dataclass(slots=True)
class _Tried:
    """Times and sizes of a few clips."""

    num_clips: int = 0
    num_frames: int = 0
    num_encoded: int = 0
    """frames that were encoded"""
    frame_bytes: int = 1
    """of a raw frame"""
    decode_s: float = 0
    encode_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CODECS, 0.0))
    num_bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CODECS, 0))

    def share(self, codec: str) -> float:
        """The size with a codec, as a share of raw frames; a typical one if no clip could be decoded."""
        if not self.num_encoded:
            return CODECS[codec].share
        return self.num_bytes[codec] / (self.num_encoded * self.frame_bytes)

    def frame_s(self, codec: str) -> float | None:
        """Seconds to decode and encode a frame; None if unknown."""
        return self.decode_s / self.num_frames + self.encode_s[codec] / self.num_encoded if self.num_encoded else None


def _try(clips: Sequence[ClipRecord], options: PreprocessOptions) -> _Tried:
    """Decodes a few clips, evenly spaced over the catalogue, and encodes their first frames with each codec."""
    tried = _Tried(frame_bytes=options.frame.size)
    with IsolatedDecoder(_TRIED_S) as decoder:
        for clip in clips[:: -(-len(clips) // _NUM_TRIED)]:
            with contextlib.suppress(RejectedError), local_copy(clip.path) as file:
                # Starts the decoding process, which is not to be measured.
                decoder.count_frames(file)
                start = time.perf_counter()
                frames = decoder.decode(file, options.frame, options.sampling).frames
                tried.decode_s += time.perf_counter() - start
                tried.num_clips += 1
                tried.num_frames += len(frames)
                frames = frames[:_TRIED_FRAMES]
                tried.num_encoded += len(frames)
                for name in CODECS:
                    start = time.perf_counter()
                    tried.num_bytes[name] += encode(name, frames).size
                    tried.encode_s[name] += time.perf_counter() - start
    return tried

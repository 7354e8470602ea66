"""Write a corpus of damaged, unusual and badly named files, with the expected result of decoding each."""

import os
import socket
import struct
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from tests.videos import numbered, write_video

__all__ = ["NUM_FRAMES", "Case", "corpus", "intact_videos"]

NUM_FRAMES = 40
"""of every intact video"""
CODECS = {
    "mjpg.avi": "MJPG",
    "xvid.avi": "XVID",
    "mpeg4.mp4": "mp4v",
    "mpeg4.mov": "mp4v",
    "vp8.webm": "VP80",
    "ffv1.mkv": "FFV1",
    "mpeg1.mpg": "MPG1",
}
NOT_ONE = {"unreadable", "no_decoder", "no_frames"}
DAMAGED = NOT_ONE | {"truncated"}
NONE, SOME, WHOLE = range(0), range(1, NUM_FRAMES + 1), range(NUM_FRAMES, NUM_FRAMES + 1)
# A tenth of the frames of an accepted file, and two more, may be missing.
ENOUGH = range(NUM_FRAMES - NUM_FRAMES // 10 - 2, NUM_FRAMES + 1)


class Case(NamedTuple):
    """A file, and the allowed results of decoding it."""

    name: str
    """the kind of damage"""
    path: str
    reasons: frozenset[str] = frozenset()
    """allowed reasons for rejecting it; none: it must give a clip"""
    num_frames: range = range(0)
    """allowed numbers of frames; none: it must be rejected"""


def intact_videos(folder: Path) -> dict[str, Path]:
    """Intact files, one for each container, with `NUM_FRAMES` frames of `numbered`."""
    return {name: write_video(folder / name, numbered(NUM_FRAMES), codec=codec) for name, codec in CODECS.items()}


def corpus(folder: Path) -> list[Case]:
    """Writes the files; the same ones at every call."""
    intact = {name: path.read_bytes() for name, path in intact_videos(folder / "intact").items()}
    cases: list[Case] = []
    for number, (name, suffix, content, reasons, num_frames) in enumerate(
        (*_cut(intact), *_flipped(intact), *_wrong_avi(intact), *_wrong_mp4(intact), *_no_videos(folder, intact))
    ):
        path = folder / f"{number:03}{suffix}"
        path.write_bytes(content)
        cases.append(Case(name, str(path), frozenset(reasons), num_frames))
    return [
        *cases,
        *_odd_sizes(folder),
        *_still_images(folder),
        *_odd_names(folder, intact),
        *_no_files(folder, intact),
    ]


File = tuple[str, str, bytes, set[str], range]
"""kind of damage, suffix, content, allowed reasons, allowed numbers of frames"""


def _cut(intact: dict[str, bytes]) -> Iterator[File]:
    for name, content in intact.items():
        suffix = Path(name).suffix
        # The index of MP4 files is at the end; MPEG-1 headers have no number of frames.
        reasons, num_frames = {
            ".mp4": ({"unreadable"}, NONE),
            ".mov": ({"unreadable"}, NONE),
            ".mpg": (NOT_ONE, SOME),
        }.get(suffix, (DAMAGED, ENOUGH))
        for tenth in range(1, 10):
            yield f"{name} cut at {tenth}/10", suffix, content[: len(content) * tenth // 10], reasons, num_frames


def _flipped(intact: dict[str, bytes]) -> Iterator[File]:
    """Random bytes at random places, in the whole file or in the header."""
    for name, content in intact.items():
        for seed in range(16):
            random = np.random.default_rng(seed)
            header = seed % 2 == 1
            damaged = np.frombuffer(content, np.uint8).copy()
            places = random.integers(0, 400 if header else len(damaged), size=2 ** (seed % 6))
            damaged[places] = random.integers(0, 256, size=len(places))
            where = "header" if header else "file"
            yield f"{name} flipped in {where}, seed {seed}", Path(name).suffix, damaged.tobytes(), DAMAGED, SOME


def _wrong_avi(intact: dict[str, bytes]) -> Iterator[File]:
    """Wrong numbers in the AVI header, far too large or zero."""
    fields = {
        "number of frames": [("avih", 24), ("strh", 40)],
        "number of frames of the stream": [("strh", 40)],
        "size of the file": [("RIFF", 4)],
        "size of the movie": [("movi", -4)],
        "size of the header": [("hdrl", -4)],
        "size of the first frame": [("00dc", 4)],
        "size of the index": [("idx1", 4)],
        "microseconds a frame": [("avih", 8)],
        "number of streams": [("avih", 32)],
        "buffer": [("avih", 36), ("strh", 44)],
        "rate": [("strh", 32)],
        "scale": [("strh", 28)],
        "width and height": [("avih", 40), ("avih", 44), ("strf", 12), ("strf", 16)],
        "width": [("strf", 12)],
    }
    for name in ("mjpg.avi", "xvid.avi"):
        for field, places in fields.items():
            for value in (0, 65535, 2**31 - 1, 2**32 - 1):
                content = bytearray(intact[name])
                for tag, offset in places:
                    struct.pack_into("<I", content, content.index(tag.encode()) + offset, value)
                reasons = () if "number of frames" in field else NOT_ONE
                yield f"{name} {field} {value}", ".avi", bytes(content), set(reasons), WHOLE


def _wrong_mp4(intact: dict[str, bytes]) -> Iterator[File]:
    """Wrong sizes and counts in MP4 boxes, far too large or zero."""
    fields = {
        "size of moov": ("moov", -4),
        "size of trak": ("trak", -4),
        "size of stbl": ("stbl", -4),
        "size of mdat": ("mdat", -4),
        "duration of the movie": ("mvhd", 20),
        "duration of the track": ("mdhd", 20),
        "time scale": ("mdhd", 16),
        "stts entries": ("stts", 8),
        "stts frames": ("stts", 12),
        "stts duration": ("stts", 16),
        "stsz frames": ("stsz", 12),
        "stsz size": ("stsz", 8),
        "stsc entries": ("stsc", 8),
        "stco entries": ("stco", 8),
        "stco offset": ("stco", 12),
        "width and height": ("mp4v", 28),
    }
    for field, (tag, offset) in fields.items():
        for value in (0, 2**31 - 1, 2**32 - 1):
            content = bytearray(intact["mpeg4.mp4"])
            struct.pack_into(">I", content, content.rindex(tag.encode()) + offset, value)
            yield f"mp4 {field} {value}", ".mp4", bytes(content), DAMAGED, SOME


def _no_videos(folder: Path, intact: dict[str, bytes]) -> Iterator[File]:
    """Files that are not videos, and videos with a wrong extension."""
    noise = np.random.default_rng(0).bytes(50_000)
    with wave.open(str(folder / "sound.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(noise)
    contents = {
        "empty": b"",
        "one byte": b"R",
        "text": b"not a video\n" * 99,
        "zeros": bytes(50_000),
        "noise": noise,
        "web page": b"<!DOCTYPE html><html><body>404 not found</body></html>",
        "ZIP": b"PK\x03\x04" + noise,
        "PDF": b"%PDF-1.7\n" + noise,
        # These list files that exist.
        "playlist": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{folder}/intact/mpeg4.mp4\n".encode(),
        "list of files": f"ffconcat version 1.0\nfile intact/mjpg.avi\nfile {folder}/intact/mjpg.avi\n".encode(),
        "sound": (folder / "sound.wav").read_bytes(),
        "sound in AVI": _sound_in_avi(noise),
        "RIFF without content": intact["mjpg.avi"][:12],
        "mp4 without content": intact["mpeg4.mp4"][:32],
    }
    for name, content in contents.items():
        yield name, ".avi", content, NOT_ONE, NONE
    for name, content in intact.items():
        for suffix in (".mp4", ".avi", ".mpg", ".txt", ".png", ""):
            yield f"{name} named *{suffix}", suffix, content, set(), WHOLE


def _sound_in_avi(samples: bytes) -> bytes:
    def chunk(tag: bytes, content: bytes) -> bytes:
        return tag + struct.pack("<I", len(content)) + content

    header = chunk(b"avih", struct.pack("<14I", 40_000, 16_000, 0, 16, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0))
    stream = chunk(b"strh", b"auds" + struct.pack("<13I", 1, 0, 0, 0, 2, 16_000, 0, 9, 0, 0, 2, 0, 0))
    stream += chunk(b"strf", struct.pack("<HHIIHH", 1, 1, 8000, 16_000, 2, 16))
    movie = chunk(b"LIST", b"movi" + chunk(b"00wb", samples))
    return chunk(b"RIFF", b"AVI " + chunk(b"LIST", b"hdrl" + header + chunk(b"LIST", b"strl" + stream)) + movie)


def _odd_sizes(folder: Path) -> Iterator[Case]:
    for codec, suffix, width, height in (
        ("MJPG", ".avi", 1, 1),
        ("MJPG", ".avi", 1, 2000),
        ("MJPG", ".avi", 2000, 1),
        ("XVID", ".avi", 3, 5),
        ("mp4v", ".mp4", 3, 5),
        ("FFV1", ".mkv", 3, 5),
        ("VP80", ".webm", 33, 17),
        ("MPG1", ".mpg", 33, 17),
    ):
        for num_frames in (1, 5):
            name = f"{codec} {width}x{height}, {num_frames} frames"
            path = write_video(
                folder / f"{name}{suffix}", np.full((num_frames, height, width, 3), 99, np.uint8), codec=codec
            )
            yield Case(name, str(path), num_frames=range(num_frames, num_frames + 1))


def _still_images(folder: Path) -> Iterator[Case]:
    for suffix in (".png", ".jpg", ".bmp", ".gif"):
        path = folder / f"picture{suffix}"
        assert cv2.imwrite(str(path), numbered(6)[5])
        yield Case(f"{suffix} picture", str(path.rename(f"{path}.avi")), frozenset({"unreadable"}))


def _odd_names(folder: Path, intact: dict[str, bytes]) -> Iterator[Case]:
    for name in (
        "with spaces ",
        "with\nnewline",
        "with\ttab\r",
        "with,comma;|",
        "with\"quotes' and `",
        "видео",
        "動画",
        "e\u0301té",
        "🎬",
        os.fsdecode(b"not utf-8 \xff\xfe"),
        "-dash",
        "%03d",
        "%s%n",
        "http:..",
        "concat:a|b",
        "back\\slash",
        "*?[a]",
        "$HOME",
        "x" * 250,
        ".hidden",
    ):
        path = os.path.join(folder, f"{name}.avi")
        with open(path, "wb") as file:
            file.write(intact["xvid.avi"])
        yield Case(f"name {name!r}", path, num_frames=WHOLE)


def _no_files(folder: Path, intact: dict[str, bytes]) -> Iterator[Case]:
    """Names without a regular file, or without read permission."""
    missing, unreadable = frozenset({"missing"}), frozenset({"unreadable"})
    (folder / "folder.avi").mkdir()
    yield Case("folder", str(folder / "folder.avi"), unreadable)
    (folder / "loop.avi").symlink_to(folder / "pool.avi")
    (folder / "pool.avi").symlink_to(folder / "loop.avi")
    yield Case("loop of links", str(folder / "loop.avi"), missing)
    (folder / "broken.avi").symlink_to(folder / "nowhere.avi")
    yield Case("broken link", str(folder / "broken.avi"), missing)
    (folder / "link.avi").symlink_to(folder / "intact" / "mjpg.avi")
    yield Case("link", str(folder / "link.avi"), num_frames=WHOLE)
    os.mkfifo(folder / "pipe.avi")
    yield Case("pipe", str(folder / "pipe.avi"), unreadable)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(os.path.relpath(folder / "socket.avi"))
    yield Case("socket", str(folder / "socket.avi"), unreadable)
    yield Case("device", os.devnull, unreadable)
    yield Case("endless device", "/dev/zero", unreadable)
    yield Case("nothing", str(folder / "nothing.avi"), missing)
    yield Case("below a file", str(folder / "intact" / "mjpg.avi" / "a.avi"), missing)
    yield Case("zero byte in the name", str(folder / "a\0b.avi"), missing)
    yield Case("name too long", str(folder / ("x" * 300 + ".avi")), missing)
    secret = folder / "secret.avi"
    secret.write_bytes(intact["mjpg.avi"])
    secret.chmod(0)
    # Root can read everything.
    can_read = os.access(secret, os.R_OK)
    yield Case("no permission", str(secret), *(frozenset(), WHOLE) if can_read else (unreadable, NONE))

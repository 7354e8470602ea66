"""A corpus of damaged, odd and ill-named files, with what the decoder should make of each."""

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

__all__ = ["NUM_FRAMES", "Case", "corpus", "sound_videos"]

NUM_FRAMES = 40
"""of every sound video"""
CODECS = {
    "mjpg.avi": "MJPG",
    "xvid.avi": "XVID",
    "mpeg4.mp4": "mp4v",
    "mpeg4.mov": "mp4v",
    "vp8.webm": "VP80",
    "ffv1.mkv": "FFV1",
    "mpeg1.mpg": "MPG1",
}
NOT_ONE = {"unreadable", "no_frames"}
DAMAGED = NOT_ONE | {"truncated"}
NONE, SOME, WHOLE = range(0), range(1, NUM_FRAMES + 1), range(NUM_FRAMES, NUM_FRAMES + 1)
# Of a sound file's frames up to a tenth and two may be missing.
ENOUGH = range(NUM_FRAMES - NUM_FRAMES // 10 - 2, NUM_FRAMES + 1)


class Case(NamedTuple):
    """A file, and what may become of it."""

    name: str
    """what is wrong with it"""
    path: str
    reasons: frozenset[str] = frozenset()
    """why it may be rejected; none: it must give a clip"""
    num_frames: range = range(0)
    """how many frames it may give; none: it must be rejected"""


def sound_videos(folder: Path) -> dict[str, Path]:
    """One file for each container: `NUM_FRAMES` frames of `numbered`."""
    return {name: write_video(folder / name, numbered(NUM_FRAMES), codec=codec) for name, codec in CODECS.items()}


def corpus(folder: Path) -> list[Case]:
    """Writes the files; the same ones at every call."""
    sound = {name: path.read_bytes() for name, path in sound_videos(folder / "sound").items()}
    cases: list[Case] = []
    for number, (name, suffix, content, reasons, num_frames) in enumerate(
        (*_cut(sound), *_flipped(sound), *_lying_avi(sound), *_lying_mp4(sound), *_foreign(folder, sound))
    ):
        path = folder / f"{number:03}{suffix}"
        path.write_bytes(content)
        cases.append(Case(name, str(path), frozenset(reasons), num_frames))
    return [*cases, *_odd_sizes(folder), *_pictures(folder), *_odd_names(folder, sound), *_no_files(folder, sound)]


File = tuple[str, str, bytes, set[str], range]
"""what is wrong, suffix, content, allowed reasons, allowed numbers of frames"""


def _cut(sound: dict[str, bytes]) -> Iterator[File]:
    for name, content in sound.items():
        suffix = Path(name).suffix
        # The index of MP4 files is at the end; MPEG-1 does not say how many frames there should be.
        reasons, num_frames = {
            ".mp4": ({"unreadable"}, NONE),
            ".mov": ({"unreadable"}, NONE),
            ".mpg": (NOT_ONE, SOME),
        }.get(suffix, (DAMAGED, ENOUGH))
        for tenth in range(1, 10):
            yield f"{name} cut at {tenth}/10", suffix, content[: len(content) * tenth // 10], reasons, num_frames


def _flipped(sound: dict[str, bytes]) -> Iterator[File]:
    """Random bytes in random places, anywhere or within the header."""
    for name, content in sound.items():
        for seed in range(16):
            random = np.random.default_rng(seed)
            header = seed % 2 == 1
            damaged = np.frombuffer(content, np.uint8).copy()
            places = random.integers(0, 400 if header else len(damaged), size=2 ** (seed % 6))
            damaged[places] = random.integers(0, 256, size=len(places))
            where = "header" if header else "file"
            yield f"{name} flipped in {where}, seed {seed}", Path(name).suffix, damaged.tobytes(), DAMAGED, SOME


def _lying_avi(sound: dict[str, bytes]) -> Iterator[File]:
    """Numbers of the AVI header, each far too large or zero."""
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
                content = bytearray(sound[name])
                for tag, offset in places:
                    struct.pack_into("<I", content, content.index(tag.encode()) + offset, value)
                reasons = () if "number of frames" in field else NOT_ONE
                yield f"{name} {field} {value}", ".avi", bytes(content), set(reasons), WHOLE


def _lying_mp4(sound: dict[str, bytes]) -> Iterator[File]:
    """Sizes and counts of boxes, each far too large or zero."""
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
            content = bytearray(sound["mpeg4.mp4"])
            struct.pack_into(">I", content, content.rindex(tag.encode()) + offset, value)
            yield f"mp4 {field} {value}", ".mp4", bytes(content), DAMAGED, SOME


def _foreign(folder: Path, sound: dict[str, bytes]) -> Iterator[File]:
    """What is no video at all, or one under the wrong extension."""
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
        # Of files that are there.
        "playlist": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{folder}/sound/mpeg4.mp4\n".encode(),
        "list of files": f"ffconcat version 1.0\nfile sound/mjpg.avi\nfile {folder}/sound/mjpg.avi\n".encode(),
        "sound": (folder / "sound.wav").read_bytes(),
        "sound in AVI": _sound_in_avi(noise),
        "RIFF without content": sound["mjpg.avi"][:12],
        "mp4 without content": sound["mpeg4.mp4"][:32],
    }
    for name, content in contents.items():
        yield name, ".avi", content, NOT_ONE, NONE
    for name, content in sound.items():
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


def _pictures(folder: Path) -> Iterator[Case]:
    for suffix in (".png", ".jpg", ".bmp", ".gif"):
        path = folder / f"picture{suffix}"
        assert cv2.imwrite(str(path), numbered(6)[5])
        yield Case(f"{suffix} picture", str(path.rename(f"{path}.avi")), frozenset({"unreadable"}))


def _odd_names(folder: Path, sound: dict[str, bytes]) -> Iterator[Case]:
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
            file.write(sound["xvid.avi"])
        yield Case(f"name {name!r}", path, num_frames=WHOLE)


def _no_files(folder: Path, sound: dict[str, bytes]) -> Iterator[Case]:
    """Names under which there is no regular file, or none that we may read."""
    missing, unreadable = frozenset({"missing"}), frozenset({"unreadable"})
    (folder / "folder.avi").mkdir()
    yield Case("folder", str(folder / "folder.avi"), unreadable)
    (folder / "loop.avi").symlink_to(folder / "pool.avi")
    (folder / "pool.avi").symlink_to(folder / "loop.avi")
    yield Case("loop of links", str(folder / "loop.avi"), missing)
    (folder / "broken.avi").symlink_to(folder / "nowhere.avi")
    yield Case("broken link", str(folder / "broken.avi"), missing)
    (folder / "link.avi").symlink_to(folder / "sound" / "mjpg.avi")
    yield Case("link", str(folder / "link.avi"), num_frames=WHOLE)
    os.mkfifo(folder / "pipe.avi")
    yield Case("pipe", str(folder / "pipe.avi"), unreadable)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(os.path.relpath(folder / "socket.avi"))
    yield Case("socket", str(folder / "socket.avi"), unreadable)
    yield Case("device", os.devnull, unreadable)
    yield Case("endless device", "/dev/zero", unreadable)
    yield Case("nothing", str(folder / "nothing.avi"), missing)
    yield Case("below a file", str(folder / "sound" / "mjpg.avi" / "a.avi"), missing)
    yield Case("zero byte in the name", str(folder / "a\0b.avi"), missing)
    yield Case("name too long", str(folder / ("x" * 300 + ".avi")), missing)
    secret = folder / "secret.avi"
    secret.write_bytes(sound["mjpg.avi"])
    secret.chmod(0)
    # Root may read everything.
    may = os.access(secret, os.R_OK)
    yield Case("no permission", str(secret), *(frozenset(), WHOLE) if may else (unreadable, NONE))

"""Write small video files for tests, and damage files and decoders."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.video.worker import IsolatedDecoder


def moving_square(num_frames: int = 12, step: int = 2, level: int = 220) -> np.ndarray:
    """uint8 [T, 32, 48, 3]: a bright square on black that moves `step` pixels a frame."""
    frames = np.zeros((num_frames, 32, 48, 3), np.uint8)
    for t in range(num_frames):
        left = t * step % 40
        frames[t, 8:24, left : left + 8] = level
    return frames


def numbered(num_frames: int) -> np.ndarray:
    """uint8 [T, 32, 48, 3]: frame t shows t as eight black or white bars, lowest bit on the left."""
    bits = np.arange(num_frames)[:, None] >> np.arange(8) & 1
    return np.broadcast_to((255 * bits).astype(np.uint8).repeat(6, axis=1)[:, None, :, None], (num_frames, 32, 48, 3))


def read_numbers(frames: np.ndarray) -> list[int]:
    """The numbers in decoded frames of `numbered`, whatever their size (a multiple of 8 wide)."""
    bars = frames.mean(axis=(1, 3)).reshape(len(frames), 8, -1).mean(axis=2)
    return ((bars > 127) << np.arange(8)).sum(axis=1).tolist()


def write_video(path: str | Path, frames: np.ndarray, fps: float = 25.0, codec: str = "MJPG") -> Path:
    """Writes RGB frames, uint8 [T, H, W, 3], in the container that the extension names; creates missing folders."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, (frames.shape[2], frames.shape[1]))
    assert writer.isOpened(), path
    for frame in frames:
        writer.write(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def write_class_folders(
    path: str | Path, num_clips: int = 6, classes: tuple[str, ...] = ("left", "right"), num_frames: int = 12
) -> Path:
    """CLASS/clip_NN.avi: each class has its own speed, each clip its own brightness."""
    path = Path(path)
    for index, name in enumerate(classes):
        for clip in range(num_clips):
            frames = moving_square(num_frames, step=1 + 2 * index, level=120 + 10 * (clip % 13))
            write_video(path / name / f"clip_{clip:02}.avi", frames)
    return path


def cut_in_half(path: Path) -> Path:
    """Keeps the first half of the file's bytes: about half of a video's frames still decode."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def write_bad(path: Path, kind: str) -> Path:
    """A file that is not a complete video: missing, empty, text, garbage, headers only, half."""
    file = path / f"{kind.replace(' ', '_')}.avi"
    if kind in ("half", "headers only"):
        write_video(file, moving_square(44))
        if kind == "half":
            return cut_in_half(file)
        file.write_bytes(file.read_bytes()[: file.read_bytes().index(b"movi") + 4])
    elif kind != "missing":
        file.write_bytes({"empty": b"", "text": b"not a video\n" * 99, "garbage": os.urandom(5000)}[kind])
    return file


def patch_decoding_processes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes new decoding processes crash on files that begin with `crash`, hang on `hang`, crash once on `once`."""
    (folder / "sitecustomize.py").write_text(
        """
import os, pathlib, time, av

original = av.open

def opened(name, *arguments, **options):
    with open(name, "rb") as file:
        word = file.read(5)
    marker = pathlib.Path(__file__).with_name("marker")
    if word == b"crash" or (word == b"once " and not marker.exists()):
        marker.touch()
        os._exit(1)
    if word == b"hang ":
        time.sleep(600)
    return original(name, *arguments, **options)

av.open = opened
"""
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))


class DyingDecoder(IsolatedDecoder):
    """A decoder whose first `deaths` children are killed before they answer."""

    deaths = 0

    def _start(self) -> None:
        super()._start()
        assert self._process is not None
        if self.deaths:
            self.deaths -= 1
            self._process.kill()
            self._process.wait()

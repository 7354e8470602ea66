"""Render the demo data set: short clips of sliding stripes, drawn with OpenCV, encoded as videos in class folders.

A clip shows a cloth with three sets of translucent stripes: falling to the right, falling to the left, and level. Each
set moves up or down, and the class is the three directions: `up-down-up`.

A model needs the order of the frames: stripes start anywhere in their period, so single frames have the same
distribution in all eight classes. And it needs TT ranks above 1: the weights of a rank-1 tensor train are a function of
the row times a function of the column, which responds to stripes that fall to the right as to their mirror image.

Legend: T time, H W C frame height, width and colour channels (blue, green, red, as in OpenCV).
"""

import errno
import itertools
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipelines.core.progress import progress
from ttrnn.files import atomic_directory

__all__ = [
    "CHANNELS",
    "CLASSES",
    "FPS",
    "HEIGHT",
    "MARKER",
    "NUM_CLIPS",
    "NUM_FRAMES",
    "WIDTH",
    "draw_clip",
    "render_demo",
    "write_video",
]


WIDTH, HEIGHT, NUM_FRAMES = 48, 32, 12
NUM_CLIPS = 600
# Channels for a model: the files are in colour, but colour has no information about the class.
CHANNELS = 1
_DIRECTIONS = {"up": -1, "down": 1}
CLASSES = tuple("-".join(directions) for directions in itertools.product(_DIRECTIONS, repeat=3))
MARKER = "demo.json"
FPS = 12.0
_CREAM = (215, 230, 235)
# Light on the cloth: its mean, and its change from the middle to an edge.
_SHADE, _GRADIENT = (0.7, 0.9), (-0.05, 0.05)
# A larger difference between faint and bold stripes increases the disadvantage of rank 1.
_OPACITY = (0.22, 0.6)
# Periods per frame: well below one half, where up and down look the same.
_SPEED = (0.08, 0.19)
# Standard deviation in grey levels.
_NOISE = 25.0
# Stripes are drawn at this many times the resolution, and averaged.
_OVERSAMPLING = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    """One of the three sets of stripes."""

    period: float
    """pixels from one stripe to the next, downwards"""
    slope: float
    """pixels that a stripe falls over one pixel to the right"""
    color: tuple[int, int, int]
    """of the stripes (blue, green, red)"""


_LAYERS = (
    _Layer(period=11, slope=0.8, color=(60, 50, 200)),
    _Layer(period=11, slope=-0.8, color=(170, 80, 40)),
    _Layer(period=7.5, slope=0, color=(70, 120, 40)),
)


def draw_clip(label: int | None, rng: np.random.Generator, num_frames: int = NUM_FRAMES) -> np.ndarray:
    """Draws one clip.

    Args:
        label: Index into `CLASSES`; None: nothing moves.
        rng: Draws everything else: light, noise, and the period, opacity, start and speed of each set of stripes.
        num_frames: Length of the clip.

    Returns:
        T x H x W x C, uint8.
    """
    shade, across, down = rng.uniform(*_SHADE), rng.uniform(*_GRADIENT), rng.uniform(*_GRADIENT)
    light_HW1 = (shade + across * np.linspace(-1, 1, WIDTH) + down * np.linspace(-1, 1, HEIGHT)[:, None])[..., None]
    clip_THWC = np.tile(light_HW1 * _CREAM, (num_frames, 1, 1, 1))
    signs = [0] * 3 if label is None else [_DIRECTIONS[name] for name in CLASSES[label].split("-")]
    for layer, sign in zip(_LAYERS, signs, strict=True):
        period = layer.period * rng.uniform(0.96, 1.04)
        starts_T = rng.uniform() + sign * rng.uniform(*_SPEED) * np.arange(num_frames)
        opacity_THW1 = rng.uniform(*_OPACITY) * _draw_stripes(period, layer.slope, starts_T)[..., None]
        clip_THWC += opacity_THW1 * (light_HW1 * layer.color - clip_THWC)
    clip_THWC += rng.normal(0, _NOISE, (num_frames, HEIGHT, WIDTH, 1))
    return np.clip(np.rint(clip_THWC), 0, 255).astype(np.uint8)


def _draw_stripes(period: float, slope: float, starts_T: np.ndarray) -> np.ndarray:
    """T x H x W: 1 in a stripe, 0 outside; in frame t a stripe begins `starts_T[t]` periods down the left edge."""
    # Every frame is a part of one image, which is a period taller than the frame.
    y_H1 = np.arange((HEIGHT + math.ceil(period)) * _OVERSAMPLING)[:, None] / _OVERSAMPLING
    x_W = np.arange(WIDTH * _OVERSAMPLING) / _OVERSAMPLING
    tall_HW = ((y_H1 - slope * x_W) / period % 1 < 0.5).astype(np.float32)
    tops_T = np.rint(-starts_T % 1 * period * _OVERSAMPLING).astype(int)
    return np.stack(
        [
            cv2.resize(tall_HW[top : top + HEIGHT * _OVERSAMPLING], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
            for top in tops_T
        ]
    )


def render_demo(out: Path, num_clips: int, seed: int) -> Path:
    """Renders the data set as video files OUT/CLASS/clip-NNNNN.avi, atomically; replaces an older `out`.

    Args:
        out: Directory to make.
        num_clips: Clips in total. Clip i has class i modulo the number of classes, and does not depend on num_clips.
        seed: The same seed renders the same pixels.

    Returns:
        `out`.

    Raises:
        OSError: a clip could not be written completely.
    """
    with atomic_directory(out) as directory:
        for name in CLASSES:
            (directory / name).mkdir()
        for index in progress(range(num_clips), num_clips, "rendering clips"):
            label = index % len(CLASSES)
            clip_THWC = draw_clip(label, np.random.default_rng([seed, index]))
            write_video(directory / CLASSES[label] / f"clip-{index:05d}.avi", clip_THWC, FPS)
        (directory / MARKER).write_text(json.dumps({"num_clips": num_clips, "seed": seed}) + "\n", encoding="utf-8")
    return out


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Writes a Motion JPEG video of frames H x W x C, uint8. Raises OSError if it is not written completely."""
    frames = iter(frames)
    first_HWC = next(frames)
    # OpenCV's own encoder, which every build has.
    size = first_HWC.shape[1::-1]
    writer = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, cv2.VideoWriter.fourcc(*"MJPG"), fps, size)
    for frame_HWC in itertools.chain([first_HWC], frames):
        writer.write(frame_HWC)
    writer.release()
    # It does not report a full disk, but the header contains the size of the file, without its first 8 bytes.
    content = path.read_bytes()
    announced = int.from_bytes(content[4:8], "little") + 8
    if len(content) != announced:
        raise OSError(errno.ENOSPC, f"{len(content):,} of {announced:,} bytes written", str(path))

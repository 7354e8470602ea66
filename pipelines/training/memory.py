"""Estimate the memory of a training by a formula, and its duration by a few steps on random frames.

Legend: B clips of a step, T frames of a clip, D frame size, H hidden size, G gates.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pipelines.baselines.config import AnyConfig, BaselineConfig
from pipelines.cluster.slots import local_device
from pipelines.core.periodic import repeated
from pipelines.training.optim import make_optimizer
from pipelines.training.options import TrainOptions
from ttrnn.model import ModelConfig, VideoClassifier
from ttrnn.scan import NUM_GATES
from ttrnn.stem import KEPT_BYTES

__all__ = ["StepTime", "free_bytes", "measure_step", "peak_memory", "step_bytes"]


# Memory of a process without a model: the interpreter, PyTorch, Ray, the blocks in which frames are multiplied.
_PROCESS_BYTES = 400 << 20


def step_bytes(config: AnyConfig, batch_size: int, num_frames: float, device: str, codec: str = "raw") -> int:
    """Estimates the memory of a training. The formula was fitted to measured peaks, and is rarely below them.

    Each parameter takes 32 bytes: 16 for weight, gradient and Adam's two moments, and 16 for copies that the product
    and the optimizer make. Each frame takes (4 G + 20) H values of 4 bytes in each layer and direction until the
    backward pass: gates, states, their gradients; behind a stem, its output and the gradient of that too, beside what
    the stem keeps of small batches. On a GPU, the frames of the current and the next batch are added; on
    a CPU raw frames are memory-mapped files, whose pages the system can drop, and decoded ones are those of the last,
    the current and the next batch.

    Args:
        config: The model.
        batch_size: B.
        num_frames: T, of the longest clip.
        device: "cpu" or "cuda".
        codec: With which the frames are stored.
    """
    frames, num_decoded = batch_size * num_frames, 3 if device == "cpu" and codec != "raw" else 0
    fixed = _PROCESS_BYTES + 32 * config.num_params
    if isinstance(config, BaselineConfig):
        # Values and gradients before and in the GRU.
        values = 2 * (config.values_per_frame + config.num_inputs + 8 * config.hidden_size)
        return round(fixed + frames * (4 * values + (2 + num_decoded) * config.frame_size))
    directions = 2 if config.bidirectional else 1
    values = (4 * NUM_GATES[config.cell] + 20) * config.hidden_size * directions * config.num_layers
    if (stem := config.stem_shape) is not None:
        values += 2 * math.prod(stem.maps[-1])
        fixed += KEPT_BYTES
    num_held = 2 if device == "cuda" else num_decoded
    return round(fixed + frames * (4 * values + num_held * config.frame_size))


def free_bytes(device: str) -> int:
    """Free memory of this machine (device "cpu") or of its GPU (device "cuda")."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass(frozen=True, slots=True)
class StepTime:
    """The duration of a training step, linear in its number of frames; s."""

    step_s: float
    """Of each step."""
    frame_s: float
    """Of each frame, in addition."""

    def training_s(self, num_steps: int, num_frames: float, num_val_frames: float = 0) -> float:
        """Duration of `num_steps` steps over `num_frames` frames and of a validation on `num_val_frames` frames.

        A frame of validation counts a third: it takes one product with the frame, a step two products and the rest.
        """
        return num_steps * self.step_s + self.frame_s * (num_frames + num_val_frames / 3)


def measure_step(options: TrainOptions, config: ModelConfig) -> StepTime:
    """Measures training steps on random frames of two lengths, with PyTorch's current threads; takes seconds.

    Args:
        options: Only batch_size, precision (not auto) and the options of the optimizer are used.
        config: The model.
    """
    device = local_device()
    model = VideoClassifier(config).to(device)
    model.rnn.reset_parameters(options.input_gain)
    model.rnn.compute_dtype = torch.bfloat16 if options.precision == "bfloat16" else None
    optimizer = make_optimizer(options, model)
    lengths = (8, 32) if config.input == "tt" else (2, 48)
    shape = (options.batch_size, lengths[1], config.height, config.width, config.channels)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)

    def step(num_frames: int) -> float:
        start = time.perf_counter()
        model(list(frames[:, :num_frames])).logsumexp(dim=1).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    # Warm-up. A step of a dense model takes seconds.
    step(lengths[0])
    repeats = 3 if config.input == "tt" else 1
    short_s, long_s = (min(step(length) for _ in range(repeats)) for length in lengths)
    if long_s <= short_s:
        # On a busy machine: only an upper bound of the duration of a frame is known.
        return StepTime(0.0, long_s / (options.batch_size * lengths[1]))
    frame_s = (long_s - short_s) / (options.batch_size * (lengths[1] - lengths[0]))
    return StepTime(max(short_s - options.batch_size * lengths[0] * frame_s, 0.0), frame_s)


@contextlib.contextmanager
def peak_memory() -> Iterator[Callable[[], int | None]]:
    """Yields a function that returns the peak memory of this process in the block, sampled five times a second.

    It is the memory of the GPU if there is one. Otherwise memory-mapped files are not counted. None if the system does
    not report it.
    """
    statm, peak = Path("/proc/self/statm"), 0
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        yield torch.cuda.max_memory_allocated
        return
    if not statm.exists():
        yield lambda: None
        return

    def sample() -> int:
        nonlocal peak
        _, resident, shared, *_ = map(int, statm.read_text().split())
        peak = max(peak, (resident - shared) * os.sysconf("SC_PAGE_SIZE"))
        return peak

    with repeated(sample, 0.2):
        yield sample

"""Time models on one thread of this machine, for report.html."""

import os
import platform
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipelines.core.errors import UserError
from pipelines.evaluation.classifier import open_classifier

__all__ = ["NUM_FRAMES", "time_models"]

NUM_FRAMES = 32
_NUM_RUNS = 9


def time_models(models: Mapping[str, Path]) -> dict[str, Any]:
    """Times each model on a black clip of 32 frames, in float32 on one thread of the CPU.

    Args:
        models: trial -> its model directory. Models that cannot be loaded are left out.

    Returns:
        machine: the machine in words. method: what was timed, in words. ms_per_frame: trial -> [lower quartile, median,
        upper quartile] of 9 runs after a first one that is not counted.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {}
    try:
        for name, model_dir in models.items():
            try:
                found[name] = _time(model_dir)
            except UserError:
                continue
    finally:
        torch.set_num_threads(num_threads)
    return {
        "machine": f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores",
        "method": f"the quartiles of {_NUM_RUNS} runs over a clip of {NUM_FRAMES} frames at once, without decoding, in "
        "PyTorch on one thread",
        "ms_per_frame": found,
    }


@torch.inference_mode()
def _time(model_dir: Path) -> list[float]:
    opened = open_classifier(model_dir, may_be_baseline=True)
    assert opened.network is not None
    network, size = opened.network.cpu().eval(), opened.frame
    clip = torch.zeros(1, NUM_FRAMES, size.height, size.width, size.channels, dtype=torch.uint8)
    times = []
    for _ in range(1 + _NUM_RUNS):
        start = time.perf_counter()
        network(clip)
        times.append(1000 * (time.perf_counter() - start) / NUM_FRAMES)
    return [round(value, 4) for value in statistics.quantiles(times[1:], n=4)]

"""Choose baselines near given numbers of parameters, for a frame and a number of classes."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from pipelines.baselines.config import BaselineConfig, reduced_size

__all__ = ["TARGETS", "baseline_options"]

TARGETS = (1_000, 3_000, 10_000)
"""Numbers of parameters."""
_TOLERANCE = 0.1
_SMALLEST_HIDDEN = 4
# Inputs of the GRU for each hidden unit, found by hand. A low-rank baseline spends most parameters on its projection.
_RATIO = {"thumbnail": 4.0, "low-rank": 0.5, "cnn": 4.0}
_SHARE = {"low-rank": 0.7, "cnn": 0.2}
_CHANNELS = ((2, 4), (3, 4), (4, 6), (4, 8), (6, 8), (8, 12), (12, 16), (16, 24))
_LINEAR_FRAMES = 4


def baseline_options(
    frame: Sequence[int], num_classes: int, targets: Sequence[int] = TARGETS
) -> dict[str, dict[str, Any]]:
    """Options of train by name (`thumbnail-3000`) for each kind and target, and a linear classifier of at most 3,000.

    A size that a kind cannot reach within a tenth is left out: on large frames, a low-rank projection to even one value
    has more parameters.

    Args:
        frame: Height, width, channels.
        num_classes: Number of classes.
        targets: Numbers of parameters.
    """
    found = {}
    for kind in _RATIO:
        for target in targets:
            best = min(_fitting(kind, frame, num_classes, target), default=None)
            if best is not None:
                found[f"{kind}-{target}"] = {"input": kind, "in_modes": best[1], "hidden_modes": str(best[2])}
    grids = (
        grid for grid in _grids(*frame[:2]) if (math.prod(grid) * _LINEAR_FRAMES * frame[2] + 1) * num_classes <= 3_300
    )
    if grid := max(grids, default=None):
        found["linear"] = {"input": "linear", "in_modes": _text(_LINEAR_FRAMES, *grid), "hidden_modes": "none"}
    return found


def _fitting(kind: str, frame: Sequence[int], num_classes: int, target: int) -> Iterator[tuple[float, str, int]]:
    """(distance from the preferred proportions, in_modes, hidden size) of all models near the target."""
    height, width, channels = frame
    for in_modes in _in_modes(kind, frame):

        def config(hidden: int, in_modes: str = in_modes) -> BaselineConfig:
            return BaselineConfig(
                input=kind, in_modes=in_modes, hidden_modes=str(hidden), width=width, height=height, channels=channels,
                classes=("",) * num_classes, mean=(0.0,), std=(1.0,),
            )  # fmt: skip

        # num_params is quadratic in the hidden size: 3 h^2 + linear h + constant.
        probe = config(1)
        linear = 3 * probe.num_inputs + 6 + num_classes
        constant = probe.feature_params + num_classes
        hidden = round((math.sqrt(linear**2 + 12 * max(target - constant, 0)) - linear) / 6)
        if hidden < _SMALLEST_HIDDEN or abs(config(hidden).num_params - target) > _TOLERANCE * target:
            continue
        distance = abs(math.log(probe.num_inputs / hidden / _RATIO[kind]))
        if kind in _SHARE:
            distance += abs(math.log(probe.feature_params / target / _SHARE[kind]))
        yield distance, in_modes, hidden


def _in_modes(kind: str, frame: Sequence[int]) -> Iterator[str]:
    height, width, _ = frame
    if kind == "thumbnail":
        yield from (_text(*grid) for grid in _grids(height, width))
    elif kind == "low-rank":
        yield from map(str, range(1, 33))
    else:
        size = (-(-side // 4) for side in reduced_size(height, width))
        grids = [grid for grid in _grids(*size) if math.prod(grid) <= 32]
        yield from (_text(*channels, *grid) for channels in _CHANNELS for grid in grids)


def _grids(height: int, width: int) -> list[tuple[int, int]]:
    """(rows, columns) of about the proportions of the frame, smallest first."""
    short, long = sorted((height, width))
    grids = [(each, min(long, max(1, round(each * long / short)))) for each in range(1, min(short, 16) + 1)]
    return grids if height <= width else [(rows, columns) for columns, rows in grids]


def _text(*sizes: int) -> str:
    return "x".join(map(str, sizes))

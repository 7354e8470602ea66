"""Round a model's weights to whole numbers, with the ranges that its values take on clips.

Legend: F frames, M / N input / output size, M_k / N_k input / output mode k, R / S left / right rank, H hidden size.

Weights are int8 with one scale for each row of a core, that is for each left rank and output index. The values t_k
between cores are int16 with one scale for each of their ranks; it is folded into the weights of the core that takes
them. Ranges are twice the largest magnitude on the clips: of 15 bits one can be spared, so that no percentile has to be
chosen and what was not seen in calibration still fits.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttrnn.integer import IntegerConv, IntegerLayer, IntegerLevel, IntegerModel, IntegerProduct
from ttrnn.model import VideoClassifier
from ttrnn.portable.weights import ConvWeights, LayerWeights, Level, ModelWeights, Product

__all__ = ["integer_model"]

_Array = NDArray[Any]
_MARGIN = 2.0
_MOST_FRAMES = 32
_MOST_SUM = 1 << 30
_STATE, _GATE = 2.0**-15, 2.0**-16
_GATE_LIMIT = 1 << 24


@torch.no_grad()
def integer_model(model: VideoClassifier, clips: Sequence[Any]) -> IntegerModel:
    """A model in whole numbers.

    Args:
        model: In eval mode, on the CPU; not changed.
        clips: uint8 (T, height, width, channels) each, of the train split, for the ranges of values; at most 32 frames
            of each, evenly spaced, are looked at.

    Raises:
        ValueError: no clips, the model is bidirectional, or too large for sums of 32 bits.
    """
    weights, ranges = ModelWeights.of(model), _Ranges()
    if not clips:
        raise ValueError("int8 needs clips to find the ranges of values; got none")
    for clip in clips:
        _observe(model, weights, np.asarray(clip), ranges)
    config = weights.config
    stem, scale = _stem(weights, ranges)
    state = {"scale": _STATE, "largest": 32767}
    first = {"scale": scale, "largest": 32767} if stem else {"scale": 1.0, "largest": 255, "mean": _mean_pixel(config)}
    return IntegerModel(
        config=config,
        stem_mean=None if weights.stem_mean is None else np.rint(64 * weights.stem_mean).astype(np.int64),
        stem=stem,
        layers=tuple(
            _layer(layer, ranges, number, first if number == 0 else state, state)
            for number, layer in enumerate(weights.layers)
        ),
        query=None if weights.query is None else _dense(weights.query[None]),
        head=_dense(weights.head_weight),
        head_bias=_gate_units(weights.head_bias),
    )


class _Ranges:
    """The largest magnitudes seen, by place."""

    def __init__(self) -> None:
        self.found: dict[Any, _Array] = {}

    def see(self, place: Any, magnitudes: _Array) -> None:
        self.found[place] = np.maximum(self.found.get(place, 0.0), magnitudes)

    def of(self, place: Any) -> _Array:
        """Twice as much, and not zero."""
        largest = self.found[place] * _MARGIN
        return np.where(largest > 0, largest, 1.0)


def _observe(model: VideoClassifier, weights: ModelWeights, clip: _Array, ranges: _Ranges) -> None:
    """One clip."""
    config, states, state = model.config, [], None
    shown = np.unique(np.linspace(0, len(clip) - 1, min(len(clip), _MOST_FRAMES)).astype(int))
    for frame in torch.from_numpy(clip[: shown[-1] + 1]):
        _, state = model.step(frame, state)
        h = state[0][0]
        states.append((h[0] if isinstance(h, tuple) else h).reshape(config.num_layers, -1).numpy())
    h_TLH = np.stack(states)[shown]
    x = clip[shown].astype(np.float32)
    x = _observe_stem(model.stem, clip, shown, ranges) if weights.stem else x - _mean_pixel(config)
    for number, layer in enumerate(weights.layers):
        _observe_product(layer.ih, x.reshape(len(shown), -1), ranges, ("ih", number))
        x = h_TLH[:, number]
        _observe_product(layer.hh, x, ranges, ("hh", number))


def _observe_product(product: Product, x: _Array, ranges: _Ranges, place: tuple[str, int]) -> None:
    t = x
    for k in reversed(range(1, len(product.levels))):
        level = product.levels[k]
        matrix = level.weights.transpose(1, 0, 2).reshape(level.rows, -1)
        t = matrix @ t.reshape(-1, level.in_mode * level.right_rank, level.rest)
        ranges.see((*place, k), abs(t.reshape(len(t), product.levels[k - 1].right_rank, -1)).max((0, 2)))


def _observe_stem(stem: Any, clip: _Array, shown: _Array, ranges: _Ranges) -> _Array:
    """(F, D) of the frames that are shown."""
    maps: list[Tensor] = []
    hooks = [conv.register_forward_hook(lambda *args: maps.append(args[2])) for conv in stem.convs]
    try:
        frames = torch.from_numpy(clip)
        output = stem.plain(frames[shown], frames[np.maximum(shown - 1, 0)])
    finally:
        for hook in hooks:
            hook.remove()
    for number, (conv, found) in enumerate(zip(stem.shape.convs, maps, strict=True)):
        ranges.see(("stem", number), (found if conv.is_depthwise else found.relu()).abs().max().numpy())
    result: _Array = output.numpy()
    return result


def _mean_pixel(config: Any) -> int:
    return min(max(round(sum(config.mean) / len(config.mean)), 0), 255)


def _layer(layer: LayerWeights, ranges: _Ranges, number: int, x: dict[str, Any], state: dict[str, Any]) -> IntegerLayer:
    # The integer product is of frames less their mean pixel, which the offset makes up for.
    mean = x.get("mean", 0)
    offset = layer.offset + _of_constant(layer.ih, mean)
    return IntegerLayer(
        ih=_product(layer.ih, ranges, ("ih", number), **x),
        offset=_gate_units(offset),
        bias=None if layer.bias is None else _gate_units(layer.bias),
        hh=_product(layer.hh, ranges, ("hh", number), **state),
        bias_hn=None if layer.bias_hn is None else _gate_units(layer.bias_hn),
    )


def _of_constant(product: Product, value: float) -> _Array:
    t = np.full((1, 1, 1), value, np.float64)
    for level in reversed(product.levels):
        t = np.einsum("mrs,sj->rj", level.weights.astype(np.float64), t.reshape(level.right_rank, level.rest))[None]
    return t.reshape(-1)


def _product(
    product: Product, ranges: _Ranges, place: tuple[str, int], *, scale: float, largest: int, mean: int = 0
) -> IntegerProduct:
    """Of inputs in units of `scale`, up to `largest` of them."""
    levels: list[IntegerLevel] = []
    scales = np.array([scale])
    for k in reversed(range(len(product.levels))):
        level = product.levels[k]
        if k == 0:
            limit, units = _GATE_LIMIT, np.array([_GATE])
        else:
            below = product.levels[k - 1]
            limit = min(32767, _MOST_SUM // (127 * below.in_mode * below.right_rank))
            units = ranges.of((*place, k)) / limit
        levels.append(_level(level, scales, largest, units, limit, mean if not levels else 0))
        scales, largest = units, limit
    return IntegerProduct(tuple(reversed(levels)))


def _level(level: Level, scales: _Array, largest: int, units: _Array, limit: int, mean: int = 0) -> IntegerLevel:
    """A core whose inputs are in units of `scales` (S,), and whose results are to be in `units` (R,) or (1,)."""
    real = (level.weights * scales).transpose(1, 0, 2).reshape(level.rows, -1)
    rounded, steps = _rounded_rows(real, largest)
    multipliers, shift = _multipliers(steps / np.repeat(units, level.rows // len(units)))
    weights = rounded.reshape(level.rows, level.in_mode, level.right_rank).transpose(1, 0, 2)
    return IntegerLevel(
        weights=np.ascontiguousarray(weights).astype(np.int8),
        rest=level.rest,
        multipliers=multipliers,
        shift=shift,
        limit=limit,
        centres=rounded.sum(1).astype(np.int64) * mean if mean else None,
    )


def _dense(weight: _Array) -> IntegerLevel:
    """Of a matrix (N, H) that multiplies states, with results in the units of gates."""
    return _level(Level(weight.T[:, :, None], 1), np.array([_STATE]), 32767, np.array([_GATE]), _GATE_LIMIT)


def _stem(weights: ModelWeights, ranges: _Ranges) -> tuple[tuple[IntegerConv, ...], float]:
    """The convolutions, and the units of the last one's output."""
    convs, scale = [], 1 / 64
    for number, conv in enumerate(weights.stem):
        kernels = conv.weights if number else weights.first_kernels()
        unit = float(ranges.of(("stem", number))) / 32767
        convs.append(_conv(conv, kernels, scale, unit))
        scale = unit
    return tuple(convs), scale


def _conv(conv: ConvWeights, kernels: _Array, scale: float, unit: float) -> IntegerConv:
    rounded, steps = _rounded_rows(kernels.reshape(len(kernels), -1) * scale, 32767)
    multipliers, shift = _multipliers(steps / unit)
    bias = None
    if conv.bias is not None:
        most = (1 << 31) - 1 - _MOST_SUM
        bias = np.clip(np.rint(conv.bias / steps), -most, most).astype(np.int64)
    return IntegerConv(
        shape=conv.shape,
        weights=rounded.reshape(kernels.shape).astype(np.int8),
        bias=bias,
        multipliers=multipliers,
        shift=shift,
        limit=32767,
    )


def _rounded_rows(rows: _Array, largest: int) -> tuple[_Array, _Array]:
    """Whole numbers up to 127, and the unit of each row."""
    top = min(127, _MOST_SUM // (largest * rows.shape[1]))
    if top < 15:
        raise ValueError(f"a product over {rows.shape[1]:,} values is too large for int8 with sums of 32 bits")
    steps = abs(rows).max(1) / top
    # A row of zeros has no unit of its own, but perhaps a bias.
    steps[steps == 0] = steps.max() or 1.0
    return np.rint(rows / steps[:, None]), steps


def _multipliers(ratios: _Array) -> tuple[_Array, int]:
    """Whole numbers up to 2^30 and a shift: ratio = multiplier / 2^shift."""
    shift = 30 - math.ceil(math.log2(max(ratios.max(), 2.0**-31)))
    if shift < 1:
        raise ValueError("weights are too large for int8 with sums of 32 bits")
    return np.rint(ratios * 2.0**shift).astype(np.int64), shift


def _gate_units(values: _Array) -> _Array:
    return np.clip(np.rint(values / _GATE), -_GATE_LIMIT, _GATE_LIMIT).astype(np.int64)

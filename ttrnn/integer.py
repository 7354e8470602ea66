"""A model in whole numbers: weights int8, values int16, sums int32. The C export in int8 gives the same, bit for bit.

Legend: F frames, T time, M / N input / output size, M_k input mode k, R / S left / right rank, G gates, H hidden size.

States are in units of 2^-15, gates and logits in units of 2^-16, probabilities in units of 2^-15. Slow and obvious:
int64 throughout, and each sum is checked to fit int32, in whatever order it is taken.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttrnn.config import ModelConfig
from ttrnn.stem_shape import ConvShape

__all__ = ["EXP2", "TANH", "IntegerConv", "IntegerLayer", "IntegerLevel", "IntegerModel", "IntegerProduct"]

_Ints = NDArray[Any]

TANH = np.minimum(np.rint(32768 * np.tanh(np.arange(258) / 32)), 32767).astype(np.int64)
"""tanh of 0 to 8, in units of 2^-15; the last twice, for interpolation"""
EXP2 = np.rint(32768 * 2.0 ** -(np.arange(65) / 64)).astype(np.int64)
"""2^-x of 0 to 1, in units of 2^-15"""
_ONE = 32768
_MOST_WEIGHT = 1 << 30
_LARGEST_CELL = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerLevel:
    """A core as portable.weights has it, and the steps from sums to the next values: sum * multiplier / 2^shift."""

    weights: _Ints
    """(M_k, R N_k, S) int8"""
    rest: int
    multipliers: _Ints
    """(R N_k,)"""
    shift: int
    limit: int
    """results beyond it are clipped"""
    centres: _Ints | None = None
    """(R N_k,): what the mean pixel adds to the sums; subtracted"""

    @property
    def in_mode(self) -> int:
        """M_k."""
        return int(self.weights.shape[0])

    @property
    def rows(self) -> int:
        """R N_k."""
        return int(self.weights.shape[1])

    @property
    def right_rank(self) -> int:
        """S."""
        return int(self.weights.shape[2])

    def __call__(self, t: _Ints) -> _Ints:
        """(P, M_k S, rest) -> (P, R N_k, rest)."""
        matrix = self.weights.astype(np.int64).transpose(1, 0, 2).reshape(self.rows, -1)
        sums = _exact_product(matrix, t)
        if self.centres is not None:
            sums = sums - self.centres[:, None]
        return _settled(sums, self.multipliers[:, None], self.shift, self.limit)


@dataclass(frozen=True, slots=True)
class IntegerProduct:
    """y (N) = W x (M)."""

    levels: tuple[IntegerLevel, ...]

    def __call__(self, x: _Ints) -> _Ints:
        """(F, M) -> (F, N)."""
        t, num_frames = x.astype(np.int64), len(x)
        for level in reversed(self.levels):
            t = level(t.reshape(-1, level.in_mode * level.right_rank, level.rest))
        return t.reshape(num_frames, -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerConv:
    """One convolution of the stem."""

    shape: ConvShape
    weights: _Ints
    """(out channels, in channels / groups, kernel, kernel) int8"""
    bias: _Ints | None
    """(out channels,), in units of the sums, followed by a ReLU"""
    multipliers: _Ints
    """(out channels,)"""
    shift: int
    limit: int

    def __call__(self, x: _Ints) -> _Ints:
        """(F, height, width, in channels) -> (F, *map)."""
        shape = self.shape
        half, (height, width, _) = shape.kernel // 2, shape.map
        padded = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
        views = np.lib.stride_tricks.sliding_window_view(padded, (shape.kernel, shape.kernel), (1, 2))
        # (F, height, width, in channels, kernel, kernel)
        views = views[:, :: shape.stride, :: shape.stride][:, :height, :width]
        if shape.is_depthwise:
            sums = (views * self.weights[:, 0].astype(np.int64)).sum((4, 5))
            _check_fits((abs(views) * abs(self.weights[:, 0].astype(np.int64))).sum((4, 5)))
        else:
            columns = views.reshape(*views.shape[:3], -1, 1)
            sums = _exact_product(self.weights.astype(np.int64).reshape(shape.out_channels, -1), columns)[..., 0]
        if self.bias is not None:
            sums = sums + self.bias
            _check_fits(sums)
        values = _settled(sums, self.multipliers, self.shift, self.limit)
        return values if self.bias is None else np.maximum(values, 0)


@dataclass(frozen=True, slots=True)
class IntegerLayer:
    """One recurrent layer, see LayerWeights."""

    ih: IntegerProduct
    offset: _Ints
    bias: _Ints | None
    hh: IntegerProduct
    bias_hn: _Ints | None


@dataclass(frozen=True, slots=True)
class IntegerModel:
    """All weights, see ModelWeights; `portable.rounding.integer_model` makes it."""

    config: ModelConfig
    stem_mean: _Ints | None
    """(channels,), in 64ths of a pixel value"""
    stem: tuple[IntegerConv, ...]
    layers: tuple[IntegerLayer, ...]
    query: IntegerLevel | None
    head: IntegerLevel
    head_bias: _Ints

    def __call__(self, frames: _Ints) -> tuple[_Ints, _Ints]:
        """Logits and probabilities (T + 1, C) before the first frame, all 0, and after each of frames (T, *frame)."""
        gates = self.layers[0].ih(self._stem_output(frames.astype(np.int64)))
        size, num_layers = self.config.hidden_size, self.config.num_layers
        h, c = np.zeros((2, num_layers, size), np.int64)
        pooling = _Pooling(self)
        logits, scores = [np.zeros(len(self.head_bias), np.int64)], [np.zeros(len(self.head_bias), np.int64)]
        previous = None
        for x in gates:
            for number, layer in enumerate(self.layers):
                if number:
                    x = layer.ih(h[None, number - 1])[0] + layer.offset
                else:
                    x, previous = self._first_gates(x, previous)
                h[number], c[number] = _advance(
                    self.config.cell, layer, x, layer.hh(h[None, number])[0], h[number], c[number]
                )
            logits.append(self.head(pooling(h[-1]).reshape(1, -1, 1))[0, :, 0] + self.head_bias)
            scores.append(_scores(self.config.task, logits[-1]))
        return np.array(logits), np.array(scores)

    def _stem_output(self, x: _Ints) -> _Ints:
        """(F, M) for the first input product."""
        if self.stem_mean is not None:
            moved = 64 * np.diff(x, axis=0, prepend=x[:1])
            x = 64 * x - self.stem_mean
            x = {"none": x, "extra": np.concatenate([x, moved], 3), "only": moved}[self.config.differences]
            for conv in self.stem:
                x = conv(x)
        return x.reshape(len(x), -1)

    def _first_gates(self, products: _Ints, previous: _Ints | None) -> tuple[_Ints, _Ints | None]:
        """The gates of the first layer, and `previous` for the next frame."""
        layer = self.layers[0]
        if layer.bias is None:
            return products + layer.offset, None
        moved = products[-len(layer.bias) :]
        gates = layer.bias + (0 if previous is None else moved - previous)
        if self.config.differences == "extra":
            gates = gates + products[: len(layer.bias)] + layer.offset[: len(layer.bias)]
        return gates, moved


class _Pooling:
    """h (H) of the last layer -> the pooled state (H) so far."""

    def __init__(self, model: IntegerModel) -> None:
        self.kind, self.query = model.config.pooling, model.query
        self.state: Any = None

    def __call__(self, h: _Ints) -> _Ints:
        if self.kind == "last":
            return h
        if self.kind == "max":
            self.state = h.copy() if self.state is None else np.maximum(self.state, h)
            return np.asarray(self.state)
        score = 0 if self.query is None else int(self.query(h.reshape(1, -1, 1))[0, 0, 0])
        total, weight, peak = (np.zeros_like(h), 0, score) if self.state is None else self.state
        before, now = _exponential(max(peak, score) - peak), _exponential(max(peak, score) - score)
        if weight >= _MOST_WEIGHT:
            total, weight = _quotient(total, 2), weight // 2
        total, weight = _multiply(before, total) + _multiply(now, h), _multiply(before, weight) + now
        _check_fits(np.append(total, weight))
        self.state = total, weight, max(peak, score)
        return np.clip(_quotient(total * _ONE, weight), -32767, 32767)


def _advance(cell: str, layer: IntegerLayer, x: _Ints, u: _Ints, h: _Ints, c: _Ints) -> tuple[_Ints, _Ints]:
    """The state after one step, by the formulas of TTRNN, TTGRU and TTLSTM."""
    _check_fits(abs(x) + abs(u))
    if cell == "rnn":
        return _tangent(x + u), c
    if cell == "gru":
        (x_r, x_z, x_n), (u_r, u_z, u_n) = np.split(x, 3), np.split(u, 3)
        n = _tangent(x_n + _multiply(_sigmoid(x_r + u_r), u_n + layer.bias_hn))
        return n + _multiply(_sigmoid(x_z + u_z), h - n), c
    i, f, g, o = np.split(x + u, 4)
    c = _multiply(_sigmoid(f), c) + 2 * _multiply(_sigmoid(i), _tangent(g))
    c = np.clip(c, -_LARGEST_CELL, _LARGEST_CELL)
    return _multiply(_sigmoid(o), _tangent(c)), c


def _scores(task: str, logits: _Ints) -> _Ints:
    if task == "multi_label":
        return _sigmoid(logits)
    powers = np.array([_exponential(int(difference)) for difference in logits.max() - logits])
    total = int(powers.sum())
    return (powers * _ONE + total // 2) // total


def _exact_product(matrix: _Ints, t: _Ints) -> _Ints:
    """matrix @ t. In float64 it is exact as long as sums fit int32, and takes a hundredth of the time."""
    _check_fits(abs(matrix).astype(float) @ abs(t).astype(float))
    return (matrix.astype(float) @ t.astype(float)).astype(np.int64)


def _check_fits(sums: _Ints) -> None:
    assert not sums.size or abs(sums).max() < 1 << 31, "a sum does not fit int32"


def _settled(sums: _Ints, multipliers: _Ints, shift: int, limit: int) -> _Ints:
    _check_fits(sums)
    return np.clip((sums * multipliers + (1 << (shift - 1))) >> shift, -limit, limit)


def _multiply(a: Any, b: Any) -> Any:
    return (a * b + (1 << 14)) >> 15


def _quotient(a: _Ints, b: int) -> _Ints:
    """Towards zero, as C divides."""
    quotient: _Ints = np.sign(a) * (abs(a) // b)
    return quotient


def _interpolated(x: _Ints, bits: int) -> _Ints:
    index = np.minimum(x >> bits, 256)
    low, high = TANH[index], TANH[index + 1]
    inside = low + (((high - low) * (x & ((1 << bits) - 1)) + (1 << (bits - 1))) >> bits)
    return np.where(x >> bits < 256, inside, 32767)


def _tangent(x: _Ints) -> _Ints:
    tangent: _Ints = np.sign(x) * _interpolated(abs(x), 11)
    return tangent


def _sigmoid(x: _Ints) -> _Ints:
    half = (_ONE + _interpolated(abs(x), 12)) >> 1
    return np.where(x < 0, _ONE - half, half)


def _exponential(x: int) -> int:
    """exp(-x), x >= 0 in units of 2^-16."""
    power = x * 94548 >> 16
    high, low = (int(EXP2[(power >> 10 & 63) + end]) for end in (0, 1))
    return 0 if power >> 20 else (high - (((high - low) * (power & 1023) + 512) >> 10)) >> (power >> 16)

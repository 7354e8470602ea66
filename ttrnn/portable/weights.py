"""Lay out a model's weights for programs that take a frame value by value, in the order of a camera.

Legend: M_k / N_k input / output mode k, R / S left / right rank, d number of cores, G gates, H hidden size, C classes.

A product with a tensor train needs no frame in memory. Level k of d sums over input mode k; with t_{d+1} = x[m_1..m_d],

    t_k[(r, n_k), n_{k+1}..n_d] = sum over m_k and s of  G_k[r, m_k, n_k, s] t_{k+1}[s, n_{k+1}..n_d].

A frame's values arrive with m_d running fastest. Each value is added to level d; when m_k has run through its mode, t_k
is complete, is added to level k-1 and starts from zero. t_1 is the product W x. The arithmetic is that of plain.chain
(Yang et al., ICML 2017, equation 4); the memory is sum_k R_{k-1} N_k..N_d numbers in place of the frame.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttrnn.config import ModelConfig
from ttrnn.linear import TTMatrix
from ttrnn.model import VideoClassifier
from ttrnn.stem import DIFFERENCE_GAIN
from ttrnn.stem_shape import ConvShape

__all__ = ["ConvWeights", "LayerWeights", "Level", "ModelWeights", "Product"]

_Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Level:
    """One core of a product, as the docstring of the module has it."""

    weights: _Array
    """(M_k, R N_k, S)"""
    rest: int
    """N_{k+1} .. N_d"""

    @property
    def in_mode(self) -> int:
        """M_k."""
        return self.weights.shape[0]

    @property
    def rows(self) -> int:
        """R N_k."""
        return self.weights.shape[1]

    @property
    def right_rank(self) -> int:
        """S."""
        return self.weights.shape[2]

    @property
    def num_values(self) -> int:
        """Numbers in t_k."""
        return self.rows * self.rest


@dataclass(frozen=True, slots=True)
class Product:
    """y (N) = W x (M), with W a tensor train, or a dense matrix as the only level."""

    levels: tuple[Level, ...]
    """From the first core to the last; values are added to the last."""

    @classmethod
    def of(cls, cores: Iterable[Tensor]) -> Self:
        """Of cores (R, M_k, N_k, S), with mean and scale already folded in."""
        levels: list[Level] = []
        rest = 1
        for core in reversed(list(cores)):
            weights = core.permute(1, 0, 2, 3).flatten(1, 2).float().contiguous().numpy()
            levels.append(Level(weights, rest))
            rest *= core.shape[2]
        return cls(tuple(reversed(levels)))

    @property
    def in_size(self) -> int:
        """M."""
        return math.prod(level.in_mode for level in self.levels)

    @property
    def out_size(self) -> int:
        """N."""
        return self.levels[0].num_values

    @property
    def num_values(self) -> int:
        """Numbers in all t_k: the memory that the product needs."""
        return sum(level.num_values for level in self.levels)

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations for one x."""
        total, times = 0, 1
        for level in self.levels:
            times *= level.in_mode
            total += times * level.num_values * level.right_rank
        return total

    def __call__(self, x: _Array) -> _Array:
        """W x, value by value: slow and obvious, for tests and readers.

        Args:
            x: (M,)

        Returns:
            (N,)
        """
        sums = [np.zeros((level.rows, level.rest), x.dtype) for level in self.levels]
        counts = [0] * len(self.levels)
        for value in x:
            t = np.full((1, 1), value, x.dtype)
            for k in reversed(range(len(self.levels))):
                level = self.levels[k]
                sums[k] += level.weights[counts[k]].astype(x.dtype) @ t
                counts[k] += 1
                if counts[k] < level.in_mode:
                    break
                if k == 0:
                    return sums[0].reshape(-1)
                counts[k] = 0
                t = sums[k].reshape(self.levels[k - 1].right_rank, -1)
                sums[k] = np.zeros_like(sums[k])
        raise ValueError(f"{len(x):,} values given to a product that takes {self.in_size:,}")


@dataclass(frozen=True, slots=True)
class ConvWeights:
    """One convolution of the stem, padded with zeros by half of its kernel."""

    shape: ConvShape
    weights: _Array
    """(out channels, in channels / groups, kernel, kernel)"""
    bias: _Array | None
    """(out channels,), followed by a ReLU; None for a depthwise convolution"""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One recurrent layer."""

    ih: Product
    offset: _Array
    """(N,) added to the product with a frame: the bias, and what the mean of the pixels contributes"""
    bias: _Array | None
    """(G H,) where the layer sees differences between frames, and `offset` contains no bias"""
    hh: Product
    bias_hn: _Array | None
    """(H,) of a GRU's new gate"""


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """All weights of a model that can stream, in float32.

    The first product takes raw pixels, 0 to 255, in the order height, width, channels. With a stem it takes the stem's
    output, and the stem takes (pixel - stem_mean) * stem_scale and, for differences, (pixel - pixel before) *
    difference_scale, as channels behind the others ("extra") or alone ("only").
    """

    config: ModelConfig
    stem_mean: _Array | None
    """(channels,)"""
    stem_scale: float
    difference_scale: float
    stem: tuple[ConvWeights, ...]
    layers: tuple[LayerWeights, ...]
    query: _Array | None
    """(H,) of attention pooling"""
    head_weight: _Array
    """(C, H)"""
    head_bias: _Array
    """(C,)"""

    @classmethod
    @torch.no_grad()
    def of(cls, model: VideoClassifier) -> Self:
        """Of a model on any device, which is not changed. Raises ValueError if it is bidirectional."""
        config, stem = model.config, model.stem
        if config.bidirectional:
            raise ValueError(
                "bidirectional models can't stream, they start at the last frame; give one trained without"
            )
        convs = [] if stem is None else zip(stem.shape.convs, stem.convs, strict=True)
        return cls(
            config=config,
            stem_mean=None if stem is None else np.broadcast_to(np.array(stem.mean, np.float32), config.channels),
            stem_scale=1.0 if stem is None else stem.scale,
            difference_scale=1.0 if stem is None else stem.scale * DIFFERENCE_GAIN,
            stem=tuple(ConvWeights(shape, _array(conv.weight), _optional(conv.bias)) for shape, conv in convs),
            layers=tuple(_layer(model, f"l{layer}") for layer in range(config.num_layers)),
            query=_optional(model.pooling.query),
            head_weight=_array(model.head.weight),
            head_bias=_array(model.head.bias),
        )

    def first_kernels(self) -> _Array:
        """Weights of the stem's first convolution for pixel - stem_mean and, behind them, pixel - pixel before."""
        scales = {
            "none": [self.stem_scale],
            "extra": [self.stem_scale, self.difference_scale],
            "only": [self.difference_scale],
        }[self.config.differences]
        kernels: _Array = self.stem[0].weights * np.repeat(scales, self.config.channels)[:, None, None].astype(
            np.float32
        )
        return kernels


def _layer(model: Any, suffix: str) -> LayerWeights:
    rnn = model.rnn
    ih, hh = getattr(rnn, f"ih_{suffix}"), getattr(rnn, f"hh_{suffix}", None)
    of_zeros = ih(ih.factors[0].new_zeros(1, ih.in_features))[0]
    first, *rest = ih.cores
    return LayerWeights(
        ih=Product.of([first * ih.scale, *rest]),
        offset=_array(of_zeros),
        bias=_optional(getattr(rnn, f"bias_ih_{suffix}", None)),
        hh=Product.of(hh.cores if isinstance(hh, TTMatrix) else [rnn.weight_hh(suffix).t()[None, :, :, None]]),
        bias_hn=_optional(getattr(rnn, f"bias_hn_{suffix}", None)),
    )


def _array(tensor: Tensor) -> _Array:
    array: _Array = tensor.detach().cpu().float().contiguous().numpy()
    return array


def _optional(tensor: Tensor | None) -> _Array | None:
    return None if tensor is None else _array(tensor)

"""The shape of a tensor train, in pure integers: modes, ranks, parameters, MACs, factorisations, text forms.

Legend: M_k / N_k input / output mode k, R_{k-1} / R_k left / right rank of core k, d number of cores.

    W[(i1..id), (j1..jd)] = G1[i1, j1] G2[i2, j2] ... Gd[id, jd],   Gk[ik, jk] an R_{k-1} x R_k matrix,   R_0 = R_d = 1

Source: Yang et al., "Tensor-Train Recurrent Neural Networks for Video Classification", ICML 2017, section 3.
"""

import bisect
import functools
import logging
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

__all__ = [
    "DIFFERENCES",
    "NUM_GATES",
    "Ranks",
    "TTShape",
    "auto_modes",
    "check_modes",
    "even_modes",
    "format_modes",
    "frame_modes",
    "gate_modes",
    "input_out_modes",
    "max_ranks",
    "parse_modes",
]

log = logging.getLogger(__name__)

# One rank for all bonds, the d-1 inner ranks, or the share of the dense matrix's parameters that is allowed (0.1).
Ranks = int | float | Sequence[int]

# Order of the gates, as in torch: rnn (h); gru (r, z, n); lstm (i, f, g, o).
NUM_GATES = {"rnn": 1, "gru": 3, "lstm": 4}

# Input of the first layer: the frames; frames and their differences to the frame before; the differences alone.
DIFFERENCES = ("none", "extra", "only")


def parse_modes(text: str) -> tuple[int, ...]:
    """Modes or ranks from their text form, "8x20x20x18" -> (8, 20, 20, 18); raises ValueError for another form."""
    parts = text.split("x")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"modes and ranks are positive whole numbers joined by x, such as 8x20x20x18; got {text!r}")
    return tuple(int(part) for part in parts)


def format_modes(modes: Sequence[int]) -> str:
    """The text form of modes or ranks: (8, 20, 20, 18) -> "8x20x20x18"."""
    return "x".join(str(mode) for mode in modes)


def frame_modes(height: int, width: int, channels: int) -> tuple[int, int, int, int]:
    """Four modes of a frame stored as height x width x channels, none of which spans rows and columns.

    Height and width are each cut into the two factors nearest to each other; the channels go with the last mode.
    """
    (y1, y2), (x1, x2) = _pair(height), _pair(width)
    return y1, y2, x1, x2 * channels


def _pair(size: int) -> tuple[int, int]:
    first, second = even_modes(size, 2)
    return first, second


def map_modes(height: int, width: int, channels: int) -> tuple[int, int, int, int]:
    """Four modes of the output of a stem, stored as height x width x channels. The channels have their own mode."""
    return *_pair(height), width, channels


def auto_modes(height: int, width: int, channels: int, num_modes: int) -> tuple[int, ...]:
    """`num_modes` modes for a frame: along its axes where four are asked for, else the most even factorisation."""
    if num_modes == 4:
        return frame_modes(height, width, channels)
    return even_modes(height * width * channels, num_modes)


def even_modes(size: int, num_modes: int) -> tuple[int, ...]:
    """The factorisation, in ascending order, whose largest mode is the fewest times its smallest; of equals the first.

    Branches that can't win are cut off: numbers with many divisors have millions of factorisations.
    """
    divisors, fewest = _divisors(size), math.inf
    best: tuple[int, ...] = (size,)

    def extend(modes: tuple[int, ...], rest: int) -> None:
        nonlocal best, fewest
        left = num_modes - len(modes)
        if left == 1:
            if (times := rest / (modes or (rest,))[0]) < fewest or (times == fewest and (*modes, rest) < best):
                best, fewest = (*modes, rest), times
            return
        for mode in divisors[bisect.bisect_left(divisors, modes[-1]) :] if modes else reversed(divisors):
            # All that follow are as large at least; together with them they exceed what is left.
            if mode**left > rest:
                if modes:
                    return
            elif rest % mode == 0 and (rest // mode) ** (1 / (left - 1)) <= fewest * (modes or (mode,))[0] * (1 + 1e-9):
                extend((*modes, mode), rest // mode)

    extend((), size)
    return best


@functools.cache
def _divisors(size: int) -> tuple[int, ...]:
    low = [factor for factor in range(1, math.isqrt(size) + 1) if size % factor == 0]
    return tuple(sorted({*low, *(size // factor for factor in low)}))


def gate_modes(hidden_modes: Sequence[int], num_gates: int) -> tuple[int, ...]:
    """Output modes of the TT-matrix of all gates: the first hidden mode times their number, as in the paper."""
    return (num_gates * hidden_modes[0], *hidden_modes[1:])


def input_out_modes(hidden_modes: Sequence[int], num_gates: int, differences: str = "none") -> tuple[int, ...]:
    """Output modes of the first layer's input matrix: the gates, twice where differences come as extra channels.

    By linearity, W_1 x_t + W_2 (x_t - x_{t-1}) needs the product of each frame with one TT-matrix of both parts, once.
    """
    return gate_modes(hidden_modes, num_gates * (2 if differences == "extra" else 1))


def max_ranks(in_modes: Sequence[int], out_modes: Sequence[int]) -> tuple[int, ...]:
    """The highest useful inner ranks: the lesser of the products of M_l N_l on either side of each bond."""
    sizes = [m * n for m, n in zip(in_modes, out_modes, strict=True)]
    return tuple(min(math.prod(sizes[:k]), math.prod(sizes[k:])) for k in range(1, len(sizes)))


def check_modes(modes: Sequence[int], size: int, name: str, what: str) -> None:
    """Raises ValueError that suggests a factorisation, unless the modes multiply to `size`."""
    if math.prod(modes) != size:
        raise ValueError(
            f"prod({name})={math.prod(modes):,} ({format_modes(modes)}) but {what} {size:,} values; "
            f"try {format_modes(even_modes(size, len(modes)))}"
        )


def _rank_of_share(in_modes: Sequence[int], out_modes: Sequence[int], share: float) -> tuple[int, ...]:
    """The highest ranks, one number clipped to what the modes allow, that keep to a share of the dense parameters."""
    limits, dense = max_ranks(in_modes, out_modes), math.prod(in_modes) * math.prod(out_modes)

    def shape(rank: int) -> TTShape:
        return TTShape(in_modes, out_modes, [min(rank, limit) for limit in limits])

    if not (least := shape(1).num_params) <= share * dense <= dense:
        raise ValueError(
            f"ranks {share} must be a share of the {dense:,} dense parameters that leaves "
            f"{least:,} at least, which rank 1 takes; or give ranks as whole numbers"
        )
    ranks = range(1, max(limits, default=1) + 1)
    return shape(bisect.bisect_right(ranks, share * dense, key=lambda rank: shape(rank).num_params)).ranks


@dataclass(frozen=True, slots=True)
class TTShape:
    """Modes and ranks of a matrix kept as a tensor train.

    Ranks above what the modes allow (see max_ranks) add nothing: they are clipped, and a log line says so.

    Examples:
        >>> TTShape((8, 20, 20, 18), (12, 4, 4, 4), 4).num_params
        3232

    Raises:
        ValueError: numbers of modes that differ, a mode or rank below 1, a wrong number of ranks.
    """

    in_modes: tuple[int, ...]
    """M_1..M_d; their product is the input size."""
    out_modes: tuple[int, ...]
    """N_1..N_d; their product is the output size."""
    ranks: tuple[int, ...]
    """R_1..R_{d-1}; given as one number, d-1 numbers or a share (see Ranks), kept as d-1 numbers after clipping."""

    def __init__(self, in_modes: Sequence[int], out_modes: Sequence[int], ranks: Ranks) -> None:
        in_modes, out_modes = tuple(map(operator.index, in_modes)), tuple(map(operator.index, out_modes))
        if len(in_modes) != len(out_modes) or not in_modes:
            got = f"{format_modes(in_modes)} and {format_modes(out_modes)}"
            raise ValueError(f"in_modes and out_modes must have equal length, at least one, got {got}")
        if isinstance(ranks, float):
            ranks = _rank_of_share(in_modes, out_modes, ranks)
        asked = tuple(map(operator.index, ranks if isinstance(ranks, Iterable) else [ranks]))
        d = len(in_modes)
        asked = asked * (d - 1) if len(asked) == 1 else asked
        if len(asked) != d - 1:
            raise ValueError(f"{d} modes take one rank or {d - 1} inner ranks, got {format_modes(asked)}")
        for name, numbers in (("in_modes", in_modes), ("out_modes", out_modes), ("ranks", asked)):
            if any(number < 1 for number in numbers):
                raise ValueError(f"{name} must be positive, got {format_modes(numbers)}")
        kept = tuple(min(pair) for pair in zip(asked, max_ranks(in_modes, out_modes), strict=True))
        if kept != asked:
            texts = map(format_modes, (asked, kept, in_modes, out_modes))
            log.warning("ranks %s are clipped to %s: modes %s and %s allow no more", *texts)
        for name, numbers in (("in_modes", in_modes), ("out_modes", out_modes), ("ranks", kept)):
            object.__setattr__(self, name, numbers)

    @classmethod
    def unclipped(cls, in_modes: tuple[int, ...], out_modes: tuple[int, ...], ranks: Iterable[int]) -> Self:
        """With d-1 ranks as they are, for cores made from another format, which may exceed what the modes allow."""
        shape = object.__new__(cls)
        for name, numbers in (("in_modes", in_modes), ("out_modes", out_modes), ("ranks", tuple(ranks))):
            object.__setattr__(shape, name, numbers)
        return shape

    @property
    def num_cores(self) -> int:
        """d, the number of cores."""
        return len(self.in_modes)

    @property
    def in_features(self) -> int:
        """Input size, M_1 * ... * M_d."""
        return math.prod(self.in_modes)

    @property
    def out_features(self) -> int:
        """Output size, N_1 * ... * N_d."""
        return math.prod(self.out_modes)

    @property
    def bonds(self) -> tuple[int, ...]:
        """R_0..R_d, the ranks and a 1 at both ends."""
        return (1, *self.ranks, 1)

    @property
    def core_shapes(self) -> tuple[tuple[int, int, int, int], ...]:
        """(R_{k-1}, M_k, N_k, R_k) of every core."""
        return tuple(zip(self.bonds[:-1], self.in_modes, self.out_modes, self.bonds[1:], strict=True))

    @property
    def num_params(self) -> int:
        """Sum over k of R_{k-1} * M_k * N_k * R_k."""
        return sum(math.prod(shape) for shape in self.core_shapes)

    @property
    def num_dense_params(self) -> int:
        """Parameters of the dense matrix that this tensor train stands for."""
        return self.in_features * self.out_features

    def multiply_adds(self) -> int:
        """MACs (multiply-accumulates) of a row in the product core by core, last to first (paper, eq. 4)."""
        total, left, right = 0, self.in_features, 1
        for r, m, n, s in reversed(self.core_shapes):
            left //= m
            total += left * m * s * n * r * right
            right *= n
        return total

    def __str__(self) -> str:
        ranks = format_modes(self.ranks) or "none"
        return f"{format_modes(self.in_modes)} -> {format_modes(self.out_modes)}, ranks {ranks}"

"""Spans of time steps: the rows that they take of packed values, and whether a gradient still flows through them.

Legend: B batch, T time, F frames (packed B and T), H hidden size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

__all__ = ["Schedule", "is_zero", "preceding"]

# Steps whose views are made at once, and after which gradients are checked for having vanished.
_SPAN = 16
# Gradients below this many times the smallest normal number count as vanished.
_VANISHED = 1e12


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """Which rows each step works on."""

    sizes: Sequence[int]
    """Clips still running at each time, not increasing; sums to F."""
    order: Tensor | None = None
    """(F,) gathers the gates as they are given into packed order; None where they are in it."""

    def spans(self, backwards: bool = False) -> Iterator["_Span"]:
        """A few steps at a time, from the first to the last or the other way."""
        starts = list(accumulate(self.sizes, initial=0))
        for first in _ordered(range(0, len(self.sizes), _SPAN), backwards):
            stop = min(first + _SPAN, len(self.sizes))
            before = starts[first - 1] if first else None
            yield _Span(slice(starts[first], starts[stop]), self.sizes[first:stop], before, backwards)

    def gather(self, gates: Tensor) -> Tensor:
        """A copy in packed order."""
        return gates.clone() if self.order is None else gates.index_select(0, self.order)

    def scatter(self, d_gates: Tensor) -> Tensor:
        """The gradient of what was gathered."""
        if self.order is None:
            return d_gates
        inverse = torch.empty_like(self.order)
        inverse[self.order] = torch.arange(len(inverse), device=inverse.device)
        return d_gates.index_select(0, inverse)

    def final(self, states: Tensor) -> Tensor:
        """(B, H) the state after each clip's last frame."""
        sizes = self.sizes
        if sizes[0] == sizes[-1]:
            return states[-sizes[0] :].clone()
        ends = zip(accumulate(sizes), sizes, [*sizes[1:], 0], strict=True)
        return torch.cat([states[end - size + after : end] for end, size, after in ends if after < size][::-1])


@dataclass(frozen=True, slots=True)
class _Span:
    rows: slice
    sizes: Sequence[int]
    before: int | None
    """First row of the step before the span; None at the first."""
    backwards: bool

    def steps(self, *packed: Tensor | None) -> Iterator[tuple[Any, ...]]:
        """Views of the span's packed values, step by step; None for what is None."""
        nothing = (None,) * len(self.sizes)
        views = [nothing if values is None else values.split(self.sizes) for values in packed]
        return zip(*(_ordered(each, self.backwards) for each in views), strict=True)

    def previous(self, initial: Tensor, states: Tensor) -> Tensor:
        """For the span's rows, the states of the same clips one step earlier; `initial` (B, H) before the first."""
        if self.before is not None and self.rows.start - self.before == self.sizes[-1]:
            return states[self.before : self.rows.stop - self.sizes[-1]]
        first = initial if self.before is None else states[self.before : self.rows.start]
        return torch.cat([first[: self.sizes[0]], preceding(states[self.rows], self.sizes)])

    def entering(self, initial: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
        """For the span's rows, the states as they enter the recurrent product."""
        previous = self.previous(initial, states)
        return previous if mask is None else previous * torch.cat([mask[:size] for size in self.sizes])

    def has_vanished(self, d_states: Tensor | None, *d_carried: Tensor) -> bool:
        """Sets gradients that have nearly vanished to zero; whether nothing is left that flows through the span.

        Denormal numbers are of no use, and hundreds of times slower to compute with; the limit is far above them, as
        gradients shrink by many orders of magnitude within a span. A GPU is not slowed down by them, but would be by
        the synchronisation.
        """
        if d_carried[0].device.type != "cpu":
            return False
        alive = False
        for d in d_carried:
            torch.hardshrink(d, _VANISHED * torch.finfo(d.dtype).tiny, out=d)
            alive = alive or not is_zero(d)
        return not alive and (d_states is None or is_zero(d_states[self.rows]))


def is_zero(values: Tensor) -> bool:
    """Whether all values are zero; several times as fast as `any`. False for NaN."""
    return all(float(bound) == 0 for bound in values.aminmax())


def _ordered(values: Sequence[Any], backwards: bool) -> Any:
    return reversed(values) if backwards else values


def preceding(states: Tensor, sizes: Sequence[int]) -> Tensor:
    """Packed states without those that no later frame of their clip follows: what enters steps 2 to T, row by row."""
    if sizes[0] == sizes[-1]:
        return states[: len(states) - sizes[-1]]
    return torch.cat([block[:after] for block, after in zip(states.split(sizes), sizes[1:], strict=False)])

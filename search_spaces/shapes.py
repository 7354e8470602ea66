"""Search modes, hidden size, ranks of each bond, cell, pooling, learning rate and dropout.

Frames are stored as height x width x channels. A mode is a factor of the height or of the width, and the last mode
includes the channels. Of all ordered factorisations of a frame into 2 to 6 such modes, these are excluded:

- those with more modes of 1 than necessary (only sizes with few factors need them);
- those whose modes of one axis are neither ascending nor descending, for example 2x8x4: the order has little effect;
- uneven ones, whose ratio of the largest to the smallest mode is more than 1.5 times that of the most even one: equal
  modes need the fewest parameters at a given rank.

About 20 factorisations at most remain for each number of modes. Hidden sizes, the powers of two from 16 to 256, are
factorised by the same rules, which leave the two orders of their most even modes. All ranks are derived from a common
rank, which is halved, kept or doubled at each bond and clipped to what the modes allow, so that equal models have equal
values.

With 10 classes, random samples spread over orders of magnitude, depending on the size of the frame: the first decile of
the number of parameters is 1,600 to 2,500, the median 8,000 to 18,000, the last decile 77,000 to 190,000. Not included
are bidirectional models, which cannot stream; recurrent dropout, which did not help on real videos; and mean pooling,
which equals untrained attention.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import optuna

from ttrnn.shapes import NUM_GATES, format_modes, frame_modes, gate_modes, max_ranks, parse_modes

__all__ = ["baselines", "factorisations", "hidden_modes", "input_modes", "space", "suggest_ranks"]

_NUM_MODES = (2, 6)
_LOG2_HIDDEN_SIZE = (4, 8)
_RANKS = (2, 16)
_MAX_UNEVENNESS = 1.5


def space(trial: optuna.Trial) -> dict[str, Any]:
    """Samples a model and the options of its training."""
    num_modes = trial.suggest_int("num_modes", *_NUM_MODES)
    # Optuna requires the same choices for a name, hence one name for each number of modes.
    choices = [format_modes(modes) for modes in input_modes(*trial.study.user_attrs["frame"], num_modes)]
    in_modes = parse_modes(trial.suggest_categorical(f"in_modes_{num_modes}", choices))
    orders = hidden_modes(2 ** trial.suggest_int("log2_hidden_size", *_LOG2_HIDDEN_SIZE), num_modes)
    hidden = orders[0 if trial.suggest_categorical("hidden_order", ["rising", "falling"]) == "rising" else -1]
    cell = trial.suggest_categorical("cell", list(NUM_GATES))
    recurrent = trial.suggest_categorical("recurrent", ["tt", "dense"])
    gates = gate_modes(hidden, NUM_GATES[cell])
    return {
        "cell": cell,
        "in_modes": format_modes(in_modes),
        "hidden_modes": format_modes(hidden),
        "ranks": suggest_ranks(trial, "rank", in_modes, gate_modes(gates, 2)),
        "recurrent_ranks": suggest_ranks(trial, "recurrent_rank", hidden, gates) if recurrent == "tt" else "none",
        # Differences beside the frame double the number of outputs.
        "differences": "extra",
        "pooling": trial.suggest_categorical("pooling", ["last", "max", "attention"]),
        "lr": trial.suggest_float("lr", 1e-3, 2e-2, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        "input_dropout": trial.suggest_float("input_dropout", 0.0, 0.3),
    }


def suggest_ranks(trial: optuna.Trial, name: str, in_modes: Sequence[int], out_modes: Sequence[int]) -> str:
    """Samples inner ranks: a common rank that is halved, kept or doubled at each bond; clipped to the modes."""
    rank = trial.suggest_int(name, *_RANKS, log=True)
    ranks = []
    for bond, most in enumerate(max_ranks(in_modes, out_modes), start=1):
        shift = trial.suggest_int(f"{name}_shift_{bond}", -1, 1)
        ranks.append(min({-1: rank // 2, 0: rank, 1: 2 * rank}[shift], most))
    return format_modes(ranks)


@functools.cache
def input_modes(height: int, width: int, channels: int, num_modes: int) -> tuple[tuple[int, ...], ...]:
    """The factorisations of a frame into `num_modes` modes, by the rules in the docstring of this module."""
    return _even(
        (*rows, *columns[:-1], columns[-1] * channels)
        for num_rows in range(1, num_modes)
        for rows in _monotone(height, num_rows)
        for columns in _monotone(width, num_modes - num_rows)
    )


@functools.cache
def hidden_modes(size: int, num_modes: int) -> tuple[tuple[int, ...], ...]:
    """The factorisations of a hidden size in lexical order: ascending modes before descending ones."""
    return _even(_monotone(size, num_modes))


def factorisations(size: int, num_modes: int) -> Iterator[tuple[int, ...]]:
    """All ordered factorisations of `size` into `num_modes` factors, in lexical order."""
    if num_modes == 1:
        yield (size,)
        return
    for first in _divisors(size):
        for rest in factorisations(size // first, num_modes - 1):
            yield (first, *rest)


@functools.cache
def _divisors(size: int) -> tuple[int, ...]:
    return tuple(factor for factor in range(1, size + 1) if size % factor == 0)


def _monotone(size: int, num_modes: int) -> set[tuple[int, ...]]:
    return {
        modes
        for rising in map(sorted, factorisations(size, num_modes))
        for modes in (tuple(rising), tuple(reversed(rising)))
    }


def _even(factorised: Iterable[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """The most even ones with the fewest modes of 1, in lexical order without duplicates."""
    found = set(factorised)
    fewest = min(modes.count(1) for modes in found)
    unevenness = {modes: max(modes) / min(modes) for modes in found if modes.count(1) == fewest}
    most = _MAX_UNEVENNESS * min(unevenness.values())
    return tuple(sorted(modes for modes in unevenness if unevenness[modes] <= most))


def baselines(frame: Sequence[int]) -> list[dict[str, Any]]:
    """The paper's TT-GRU (rank 4, hidden 4x4x4x4), and the same with a TT recurrent matrix."""
    paper = {
        "cell": "gru",
        "in_modes": format_modes(frame_modes(*frame)),
        "hidden_modes": "4x4x4x4",
        "ranks": "4",
        "recurrent_ranks": "none",
        "lr": 3e-3,
        "dropout": 0.25,
        "recurrent_dropout": 0.0,
    }
    return [paper, {**paper, "recurrent_ranks": "4"}]

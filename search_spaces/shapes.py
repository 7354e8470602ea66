"""Number and sizes of modes, hidden size, ranks of every bond, cell, pooling, learning rate and dropout.

Frames are stored as height x width x channels. A mode is a factor of one axis, rows or columns: none straddles the
border between the two, and the channels go with the last one. Of all ordered ways to cut a frame so into 2 to 6 modes,
those are left out that promise nothing of their own:

- with more modes of 1 than others have (only sizes with few factors can't do without);
- where the modes of an axis neither rise nor fall, 2x8x4 say: orders between these two differ little;
- uneven ones, where the largest mode is so many times the smallest, and more than 1.5 times what that is in the most
  even way: modes that are alike need the fewest parameters for a rank.

That leaves some 20 ways at most for each number of modes. Hidden sizes, the powers of two from 16 to 256, are cut by
the same rule, which leaves the two orders of their most even modes. Ranks have a common level, which each bond halves,
keeps or doubles, up to what its modes allow: a model has one spelling.

Random draws spread over orders of magnitude, at 10 classes and by the size of the frame: a tenth have fewer than 1,600
to 2,500 parameters, half fewer than 8,000 to 18,000, a tenth more than 77,000 to 190,000. Left out: reading backwards,
which can't stream; recurrent dropout, which was not worth it on real videos; mean pooling, which is where attention
starts.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import optuna

from ttrnn.shapes import NUM_GATES, factorisations, format_modes, frame_modes, gate_modes, max_ranks, parse_modes

__all__ = ["baselines", "hidden_modes", "input_modes", "space", "suggest_ranks"]

_NUM_MODES = (2, 6)
_LOG2_HIDDEN_SIZE = (4, 8)
_RANKS = (2, 16)
_MAX_UNEVENNESS = 1.5


def space(trial: optuna.Trial) -> dict[str, Any]:
    """One model and how it is trained."""
    num_modes = trial.suggest_int("num_modes", *_NUM_MODES)
    # Optuna takes one set of choices for each name: that of this number of modes.
    choices = [format_modes(modes) for modes in input_modes(*trial.study.user_attrs["frame"], num_modes)]
    in_modes = parse_modes(trial.suggest_categorical(f"in_modes_{num_modes}", choices))
    ways = hidden_modes(2 ** trial.suggest_int("log2_hidden_size", *_LOG2_HIDDEN_SIZE), num_modes)
    hidden = ways[0 if trial.suggest_categorical("hidden_order", ["rising", "falling"]) == "rising" else -1]
    cell = trial.suggest_categorical("cell", list(NUM_GATES))
    recurrent = trial.suggest_categorical("recurrent", ["tt", "dense"])
    gates = gate_modes(hidden, NUM_GATES[cell])
    return {
        "cell": cell,
        "in_modes": format_modes(in_modes),
        "hidden_modes": format_modes(hidden),
        "ranks": suggest_ranks(trial, "rank", in_modes, gate_modes(gates, 2)),
        "recurrent_ranks": suggest_ranks(trial, "recurrent_rank", hidden, gates) if recurrent == "tt" else "none",
        # Beside the frame, which makes twice the gates.
        "differences": "extra",
        "pooling": trial.suggest_categorical("pooling", ["last", "max", "attention"]),
        "lr": trial.suggest_float("lr", 1e-3, 2e-2, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        "input_dropout": trial.suggest_float("input_dropout", 0.0, 0.3),
    }


def suggest_ranks(trial: optuna.Trial, name: str, in_modes: Sequence[int], out_modes: Sequence[int]) -> str:
    """Inner ranks as text: one for all bonds, halved or doubled at each, never above what the modes allow."""
    rank = trial.suggest_int(name, *_RANKS, log=True)
    ranks = []
    for bond, most in enumerate(max_ranks(in_modes, out_modes), start=1):
        shift = trial.suggest_int(f"{name}_shift_{bond}", -1, 1)
        ranks.append(min({-1: rank // 2, 0: rank, 1: 2 * rank}[shift], most))
    return format_modes(ranks)


@functools.cache
def input_modes(height: int, width: int, channels: int, num_modes: int) -> tuple[tuple[int, ...], ...]:
    """The ways to cut a frame into so many modes that are worth trying, each once; the rule heads this file."""
    return _even(
        (*rows, *columns[:-1], columns[-1] * channels)
        for num_rows in range(1, num_modes)
        for rows in _monotone(height, num_rows)
        for columns in _monotone(width, num_modes - num_rows)
    )


@functools.cache
def hidden_modes(size: int, num_modes: int) -> tuple[tuple[int, ...], ...]:
    """The ways to cut a hidden state that are worth trying, in lexical order: rising ones before falling ones."""
    return _even(_monotone(size, num_modes))


def _monotone(size: int, num_modes: int) -> set[tuple[int, ...]]:
    return {
        modes
        for rising in map(sorted, factorisations(size, num_modes))
        for modes in (tuple(rising), tuple(reversed(rising)))
    }


def _even(ways: Iterable[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """In lexical order, without duplicates."""
    found = set(ways)
    fewest = min(modes.count(1) for modes in found)
    unevenness = {modes: max(modes) / min(modes) for modes in found if modes.count(1) == fewest}
    most = _MAX_UNEVENNESS * min(unevenness.values())
    return tuple(sorted(modes for modes in unevenness if unevenness[modes] <= most))


def baselines(frame: Sequence[int]) -> list[dict[str, Any]]:
    """The paper's TT-GRU (rank 4, hidden 4x4x4x4, dense recurrent matrix), the same all in TT, and the dense twin."""
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
    return [paper, {**paper, "recurrent_ranks": "4"}, {**paper, "input": "dense"}]

"""Models of equal size in different tensor formats, for pipelines.reproduce --bakeoff. This is not a search space.

A contender is a format of the input matrix and one of the recurrent matrix. Input formats are compared beside a tensor
train as recurrent matrix, recurrent matrices beside a tensor train as input matrix. A budget is a number of parameters
of the whole model: biases and classifier count, so that a larger hidden state leaves less for the two matrices.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from scipy.stats import qmc

from search_spaces.formats import forms_of
from search_spaces.shapes import hidden_modes
from search_spaces.small import RECIPE, recipe_lr, shift_of
from ttrnn.network import Format
from ttrnn.shapes import NUM_GATES, format_modes, frame_modes, gate_modes

__all__ = ["CONTENDERS", "Contender", "candidates"]


class Contender(NamedTuple):
    """The formats of a model."""

    format: str
    recurrent: str
    """a format, dense, or diagonal (blocks of size 1)"""

    def __str__(self) -> str:
        return f"{self.format}+{self.recurrent}"


CONTENDERS = tuple(
    [Contender(name, "tt") for name in ("tt", "cp", "tucker", "ht", "tr", "bt", "low-rank")]
    + [Contender("tt", name) for name in ("dense", "low-rank", "block-diagonal", "diagonal")]
)
"""The first one is the one that others are compared with."""

_HIDDEN_SIZES = (8, 16, 32, 64, 128, 256)
_HIDDEN_RANGE = 4
_LEAST_USED = 0.85
_LEAST_SHARE = 0.25
_LR_FACTORS = (0.5, 2.0)
_DROPOUT = 0.2


class _Sizes(NamedTuple):
    """Hidden modes, and the two matrices; without a recurrent one, it is dense."""

    hidden: tuple[int, ...]
    input: Format
    recurrent: Format | None
    share: float
    """that of the input matrix in the weights of both"""
    num_params: int


def candidates(
    contender: Contender, frame: Sequence[int], num_classes: int, budget: int, number: int
) -> list[dict[str, Any]]:
    """Options of train for models of this size, the same points of a Halton sequence for all contenders.

    A point gives the hidden size (the largest that fits, its half or its quarter), the share of the input matrix in the
    weights of both, and the learning rate. All else is the recipe of the space `small`, without a stem, flips or a
    second direction.

    Args:
        contender: The formats.
        frame: (height, width, channels).
        num_classes: Number of classes.
        budget: The most parameters of a model.
        number: How many.

    Returns:
        The models; none if not one is small enough. They use at least 85% of the budget, if any does, and give each
        matrix a quarter of the weights, if that is possible.
    """
    chosen = _chosen(list(_fitting(contender, frame, num_classes, budget)), budget)
    # The first point of the sequence is 0.
    points = qmc.Halton(3, scramble=False).random(number + 1)[1:].tolist()
    return [_options(_at(chosen, first, second), third, frame) for first, second, third in points] if chosen else []


def _chosen(fitting: Sequence[_Sizes], budget: int) -> list[_Sizes]:
    """Those that use most of the budget, give both matrices a fair share, and have a large hidden state."""
    used = [sizes for sizes in fitting if sizes.num_params >= _LEAST_USED * budget]
    used = used or sorted(fitting, key=lambda sizes: sizes.num_params)[-1:]
    # A diagonal or a dense matrix may leave no choice.
    fair = [sizes for sizes in used if _LEAST_SHARE <= sizes.share <= 1 - _LEAST_SHARE] or used
    largest = max((math.prod(sizes.hidden) for sizes in fair), default=0)
    return [sizes for sizes in fair if largest <= _HIDDEN_RANGE * math.prod(sizes.hidden)]


def _at(chosen: Sequence[_Sizes], first: float, second: float) -> _Sizes:
    """The model at two coordinates from 0 to 1: hidden size, share of the input matrix."""
    hidden = sorted({math.prod(sizes.hidden) for sizes in chosen})
    size = hidden[int(first * len(hidden))]
    own = sorted((sizes for sizes in chosen if math.prod(sizes.hidden) == size), key=lambda sizes: sizes.share)
    return own[int(second * len(own))]


def _fitting(contender: Contender, frame: Sequence[int], num_classes: int, budget: int) -> Iterator[_Sizes]:
    """For each hidden size and each input matrix, the largest recurrent matrix within the budget."""
    in_modes = frame_modes(*frame)
    for size in _HIDDEN_SIZES:
        hidden = hidden_modes(size, len(in_modes))[0]
        gates = gate_modes(hidden, NUM_GATES["gru"])
        # Biases (GRU has one more beside those of the gates) and classifier.
        room = budget - 4 * size - (size + 1) * num_classes
        recurrents = list(_recurrents(contender.recurrent, hidden, gates))
        # Differences beside the frame double the number of outputs.
        for form in forms_of(contender.format, in_modes, gate_modes(gates, 2)):
            left = [each for each in recurrents if form.num_params + each[1] <= room]
            if not left:
                break
            recurrent, num_weights = max(left, key=lambda each: each[1])
            weights = form.num_params + num_weights
            yield _Sizes(hidden, form, recurrent, form.num_params / weights, budget - room + weights)


def _recurrents(name: str, hidden: Sequence[int], gates: Sequence[int]) -> Iterator[tuple[Format | None, int]]:
    """Recurrent matrices of one hidden size, with their numbers of weights."""
    if name == "dense":
        yield None, math.prod(hidden) * math.prod(gates)
        return
    forms = forms_of("block-diagonal" if name == "diagonal" else name, hidden, gates)
    for form in [next(forms)] if name == "diagonal" else forms:
        yield form, form.num_params


def _options(sizes: _Sizes, position: float, frame: Sequence[int]) -> dict[str, Any]:
    size, recurrent = math.prod(sizes.hidden), sizes.recurrent
    low, high = _LR_FACTORS
    return {
        **RECIPE,
        "in_modes": format_modes(frame_modes(*frame)),
        "hidden_modes": format_modes(sizes.hidden),
        "format": sizes.input.name,
        "ranks": format_modes(sizes.input.ranks),
        "recurrent_format": "tt" if recurrent is None else recurrent.name,
        "recurrent_ranks": "none" if recurrent is None else format_modes(recurrent.ranks),
        "shift": shift_of(frame),
        "lr": recipe_lr(size, low * (high / low) ** position),
        "dropout": _DROPOUT,
    }

"""Search tensor formats of the input and the recurrent matrix, at sizes that do not depend on the format.

A trial samples how many weights each matrix may have; in each format these are spent on the highest rank that they
allow, one number for all ranks. So formats are compared at equal numbers of parameters, though one rank means another
number in each. The first models have every format once. Modes follow the axes of the frame, and models are trained by
the recipe of the space `small`, without its questions about the data.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import optuna

from search_spaces.shapes import hidden_modes
from search_spaces.small import RECIPE
from ttrnn.formats import FORMATS, make_format
from ttrnn.network import Format
from ttrnn.shapes import NUM_GATES, format_modes, frame_modes, gate_modes, max_ranks

__all__ = ["baselines", "forms_of", "space"]

_LOG2_HIDDEN_SIZE = (4, 7)
_WEIGHTS = (200, 20_000)
_MOST_RANK = 64
_LR = 1e-2


def space(trial: optuna.Trial) -> dict[str, Any]:
    """Samples formats, sizes and the options of the training."""
    return {
        **_model(
            trial.study.user_attrs["frame"],
            2 ** trial.suggest_int("log2_hidden_size", *_LOG2_HIDDEN_SIZE),
            trial.suggest_categorical("format", [name for name in FORMATS if name != "block-diagonal"]),
            trial.suggest_int("weights", *_WEIGHTS, log=True),
            trial.suggest_categorical("recurrent", ["dense", *FORMATS]),
            trial.suggest_int("recurrent_weights", *_WEIGHTS, log=True),
        ),
        "lr": round(_LR * trial.suggest_float("lr_factor", 0.5, 2.0, log=True), 5),
        "dropout": trial.suggest_float("dropout", 0.0, 0.3),
    }


def _model(
    frame: Sequence[int], size: int, name: str, weights: int, recurrent: str, recurrent_weights: int
) -> dict[str, Any]:
    in_modes, hidden = frame_modes(*frame), hidden_modes(size, 4)[0]
    gates = gate_modes(hidden, NUM_GATES["gru"])
    return {
        **RECIPE,
        "in_modes": format_modes(in_modes),
        "hidden_modes": format_modes(hidden),
        "format": name,
        # Differences beside the frame double the number of outputs.
        "ranks": _ranks(name, in_modes, gate_modes(gates, 2), weights),
        "recurrent_format": "tt" if recurrent == "dense" else recurrent,
        "recurrent_ranks": "none" if recurrent == "dense" else _ranks(recurrent, hidden, gates, recurrent_weights),
    }


def _ranks(name: str, in_modes: Sequence[int], out_modes: Sequence[int], weights: int) -> str:
    """The highest ranks with no more weights than these, one number clipped to what the modes allow; or ranks of 1."""
    forms = forms_of(name, in_modes, out_modes)
    found = next(forms)
    for form in forms:
        if form.num_params > weights:
            break
        found = form
    return format_modes(found.ranks)


def forms_of(name: str, in_modes: Sequence[int], out_modes: Sequence[int]) -> Iterator[Format]:
    """A matrix in a format of ranks 1, 2, .., up to 64, one number for all bonds, clipped to what the modes allow."""
    num_in, num_out = math.prod(in_modes), math.prod(out_modes)
    limits = {"tt": max_ranks(in_modes, out_modes), "low-rank": (min(num_in, num_out),)}.get(name, (_MOST_RANK,))
    for rank in range(1, _MOST_RANK + 1):
        # The size of the blocks divides that of the matrix.
        if name != "block-diagonal" or num_in % rank == 0:
            yield make_format(name, in_modes, out_modes, [min(rank, limit) for limit in limits])


def baselines(frame: Sequence[int]) -> list[dict[str, Any]]:
    """Each format once, of both matrices, with about 1,000 weights in each; block-diagonal beside a tensor train."""
    return [
        {**_model(frame, 64, "tt" if name == "block-diagonal" else name, 1000, name, 1000), "lr": _LR, "dropout": 0.2}
        for name in FORMATS
    ]

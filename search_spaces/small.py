"""Search the best small models: convolution stem or none, hidden size, ranks, one or both directions, by one recipe.

Modes follow the axes of the frame, or of the output of the stem. Each rank is one number for all bonds; `--refine`
makes them uneven. The recipe (moving average of the weights, augmentation, differences of frames, a high learning rate)
is that of the models in `baselines`, which are trained first: a person found it by hand on several data sets. Whether
mirrored clips help is searched too, as they harm where left and right matter.

With 10 classes, most samples have 1,500 to 15,000 parameters. The space `shapes` has what is left out here: other
cells, numbers and orders of modes, ranks of each bond.
"""

from collections.abc import Sequence
from typing import Any

import optuna

from search_spaces.shapes import hidden_modes
from ttrnn.shapes import NUM_GATES, format_modes, frame_modes, gate_modes, map_modes, max_ranks
from ttrnn.stem_shape import StemShape

__all__ = ["RECIPE", "baselines", "space"]

RECIPE: dict[str, Any] = {
    "cell": "gru",
    "differences": "extra",
    "weight_averaging": 0.98,
    "label_smoothing": 0.05,
    "speed": 1.2,
    "brightness": 0.2,
}
_CHANNELS = ("8x16", "6x8")
_LOG2_HIDDEN_SIZE = (3, 7)
_RANKS, _RECURRENT_RANKS = (2, 8), (2, 12)
# Smaller frames have no pixels to spare at their edges.
_LEAST_SHIFTED, _SHIFT = 16, 2


def space(trial: optuna.Trial) -> dict[str, Any]:
    """Samples a model and the options of its training."""
    frame = trial.study.user_attrs["frame"]
    # Optuna requires the same choices for a name at all times: what cannot have a stem gets none.
    stem = trial.suggest_categorical("stem", ["none", *_CHANNELS])
    size = 2 ** trial.suggest_int("log2_hidden_size", *_LOG2_HIDDEN_SIZE)
    rank = trial.suggest_int("rank", *_RANKS, log=True)
    recurrent_rank = trial.suggest_int("recurrent_rank", *_RECURRENT_RANKS, log=True)
    return {
        **_model(frame, stem, size, rank, recurrent_rank),
        **_recipe(frame),
        "bidirectional": trial.suggest_categorical("bidirectional", [False, True]),
        "flip": trial.suggest_categorical("flip", [False, True]),
        "lr": trial.suggest_float("lr", 4e-3, 2e-2, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.3),
    }


def _recipe(frame: Sequence[int]) -> dict[str, Any]:
    return {**RECIPE, "shift": _SHIFT if min(frame[:2]) >= _LEAST_SHIFTED else 0}


def _model(frame: Sequence[int], stem: str, size: int, rank: int, recurrent_rank: int) -> dict[str, Any]:
    """The options of the architecture; ranks are clipped to what the modes allow."""
    options, axes = _stem(frame, stem)
    in_modes = frame_modes(*axes) if options["stem"] == "none" else map_modes(*axes)
    hidden = hidden_modes(size, len(in_modes))[0]
    gates = gate_modes(hidden, NUM_GATES["gru"])
    # Without a stem, the input matrix takes the differences.
    of_input = gates if options["stem"] == "conv" else gate_modes(gates, 2)
    return {
        **options,
        "in_modes": format_modes(in_modes),
        "hidden_modes": format_modes(hidden),
        "ranks": format_modes([min(rank, most) for most in max_ranks(in_modes, of_input)]),
        "recurrent_ranks": format_modes([min(recurrent_rank, most) for most in max_ranks(hidden, gates)]),
    }


def _stem(frame: Sequence[int], stem: str) -> tuple[dict[str, Any], tuple[int, int, int]]:
    """The options of the stem, and the axes of what the input matrix sees."""
    height, width, channels = frame
    if stem == "none" or min(height, width) < 4:
        return {"stem": "none"}, (height, width, channels)
    axes = StemShape.of(height, width, channels, stem, "auto", RECIPE["differences"]).maps[-1]
    return {"stem": "conv", "stem_channels": stem}, axes


def baselines(frame: Sequence[int]) -> list[dict[str, Any]]:
    """A small TT-GRU with and without a stem, in one and in both directions; a smaller and a larger one."""
    settled = {**_recipe(frame), "lr": 1e-2, "dropout": 0.1}

    def model(stem: str, size: int, rank: int, recurrent_rank: int, **more: Any) -> dict[str, Any]:
        return {**_model(frame, stem, size, rank, recurrent_rank), **settled, **more}

    models = [
        model("none", 64, 4, 6),
        model(_CHANNELS[0], 64, 4, 4),
        model(_CHANNELS[0], 64, 4, 4, flip=True),
        model("none", 64, 5, 8, bidirectional=True),
        model(_CHANNELS[0], 64, 5, 6, bidirectional=True),
        model("none", 32, 3, 4),
        {**model("none", 256, 4, 1, bidirectional=True), "recurrent_ranks": "none", "lr": 5e-3, "dropout": 0.25},
    ]
    return [values for at, values in enumerate(models) if values not in models[:at]]

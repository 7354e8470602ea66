"""Search the best small models: stem, hidden size, ranks, one or both directions, by one recipe.

Before it samples, it asks two questions about the data (see `search_spaces.Question`): whether a convolution stem or
mirrored clips help, and whether small models should learn from the scores of the large ones of the first question.

Modes follow the axes of the frame, or of the output of the stem. Each rank is one number for all bonds; `--refine`
makes them uneven. The recipe (moving average of the weights, augmentation, differences of frames, a learning rate that
falls with the square root of a large hidden size) was found by hand on several data sets.

With 10 classes, most samples have 1,500 to 20,000 parameters. The space `shapes` has what is left out here: other
cells, numbers and orders of modes, ranks of each bond.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from search_spaces import Answers, First, Question, Sampled
from search_spaces.shapes import hidden_modes
from ttrnn.shapes import NUM_GATES, format_modes, frame_modes, gate_modes, map_modes, max_ranks
from ttrnn.stem_shape import StemShape

__all__ = ["RECIPE", "first", "recipe_lr", "shift_of", "space"]

RECIPE: dict[str, Any] = {
    "cell": "gru",
    "differences": "extra",
    "input_gain": 0.5,
    "weight_averaging": 0.98,
    "label_smoothing": 0.05,
    "speed": 1.2,
    "brightness": 0.2,
}
_CHANNELS = ("8x16", "6x8", "12x24", "16x32")
_LOG2_HIDDEN_SIZE = (3, 8)
_RANKS, _RECURRENT_RANKS = (2, 8), (2, 16)
# The learning rate that suits all ranks, up to this hidden size; above it, it falls with the square root.
_LR, _LR_HIDDEN_SIZE = 1e-2, 64
# Smaller frames have no pixels to spare at their edges.
_LEAST_SHIFTED, _SHIFT = 16, 2
_LEAST_WITH_STEM = 4
# Answers to the questions.
_STEM, _MIRRORED = "stem", "mirrored"
_NO, _YES = "no", "yes"


# Models that were good on several data sets: hidden size, ranks, both directions, and the place of the stem's channels.
_GOOD = (
    (64, 4, 3, False, 0),
    (64, 5, 6, True, 0),
    (64, 8, 8, False, 0),
    (64, 8, 12, True, 0),
    (32, 3, 3, False, 1),
    (64, 3, 4, False, 1),
)
# An epoch with such a teacher takes 1.35 to 2.2 times as long.
_TAUGHT_EPOCHS = 0.6
_TEACHER = {"recurrent_ranks": "none", "bidirectional": True, "dropout": 0.25}


def space(trial: optuna.Trial) -> dict[str, Any]:
    """Samples a model and the options of its training."""
    attrs = trial.study.user_attrs
    frame, kind = attrs["frame"], _kind(attrs.get("answers"))
    has_stem, is_mirrored = (_STEM in kind, _MIRRORED in kind) if kind is not None else (None, None)
    # Optuna requires the same choices for a name at all times: what cannot have a stem gets none.
    if has_stem is None:
        stem = trial.suggest_categorical("any_stem", ["none", *_CHANNELS])
    else:
        stem = trial.suggest_categorical("stem_channels", list(_CHANNELS)) if has_stem else "none"
    params = {
        "stem": stem,
        "log2_hidden_size": trial.suggest_int("log2_hidden_size", *_LOG2_HIDDEN_SIZE),
        "rank": trial.suggest_int("rank", *_RANKS, log=True),
        "recurrent_rank": trial.suggest_int("recurrent_rank", *_RECURRENT_RANKS, log=True),
        "bidirectional": not attrs.get("streamable") and trial.suggest_categorical("bidirectional", [False, True]),
        "flip": trial.suggest_categorical("flip", [False, True]) if is_mirrored is None else is_mirrored,
        "lr_factor": trial.suggest_float("lr_factor", 0.5, 2.0, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.3),
    }
    return _options(frame, params)


def _kind(answers: Answers) -> str | None:
    """What was found to suit the data; None if that was not asked."""
    return None if answers is None else answers.get("kind")


def _options(frame: Sequence[int], params: Mapping[str, Any]) -> dict[str, Any]:
    """The options of train for values of the sampled parameters."""
    size = 2 ** params["log2_hidden_size"]
    return {
        **_model(frame, params["stem"], size, params["rank"], params["recurrent_rank"]),
        **RECIPE,
        "shift": shift_of(frame),
        "lr": recipe_lr(size, params["lr_factor"]),
        **{name: params[name] for name in ("bidirectional", "flip", "dropout")},
    }


def recipe_lr(hidden_size: int, factor: float) -> float:
    """The learning rate for a hidden size, times a factor near 1."""
    return round(_LR * min(1.0, math.sqrt(_LR_HIDDEN_SIZE / hidden_size)) * factor, 5)


def shift_of(frame: Sequence[int]) -> int:
    """By how many pixels frames of (height, width, channels) are shifted in training."""
    return _SHIFT if min(frame[:2]) >= _LEAST_SHIFTED else 0


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
    if stem == "none" or min(height, width) < _LEAST_WITH_STEM:
        return {"stem": "none"}, (height, width, channels)
    axes = StemShape.of(height, width, channels, stem, "auto", RECIPE["differences"]).maps[-1]
    return {"stem": "conv", "stem_channels": stem}, axes


def first(frame: Sequence[int], answers: Answers) -> First:
    """The questions about the data, and then models that were good on several data sets."""
    kind = _kind(answers)
    if answers is not None and kind is None:
        return _suits(frame)
    stems = ["none", _CHANNELS[0]] if kind is None else [_CHANNELS[0] if _STEM in kind else "none"]
    flips = [True, False] if kind is None else [_MIRRORED in kind]
    if answers is not None and "teaching" not in answers:
        model = _options(frame, _good(stems[0], flips[0], *_GOOD[0]))
        models = {_NO: model, _YES: model}
        text = "does it help small models to learn from the scores of large ones, in the same time?"
        # At equal time it rarely pays, and few clips cannot show it.
        return Question(
            name="teaching",
            text=text,
            models=models,
            preferred=[_NO],
            taught=_YES,
            taught_epochs=_TAUGHT_EPOCHS,
        )
    return [Sampled(_sampled(_good(stem, flip, *sizes))) for sizes in _GOOD for stem in stems for flip in flips]


def _sampled(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters by the names under which `space` samples them."""
    return {"any_stem": params["stem"], "stem_channels": params["stem"], **params}


def _suits(frame: Sequence[int]) -> Question:
    """Asks large models, which learn in fewer epochs than small ones, overfit sooner, and can teach later."""
    models = {}
    for stem in ("none", _CHANNELS[0]) if min(frame[:2]) >= _LEAST_WITH_STEM else ("none",):
        for flip in (False, True):
            params = _good(stem, flip, 256, 4, 1, True, 0)
            name = " and ".join([_STEM] * (stem != "none") + [_MIRRORED] * flip) or "neither"
            models[name] = {**_options(frame, params), **_TEACHER}
    text = "do a convolution stem or mirrored clips help?"
    # A stem helps small models more than these large ones.
    stems = [name for name in models if _STEM in name]
    return Question(name="kind", text=text, models=models, preferred=stems, epochs=1 / 2, teaches=True)


def _good(stem: str, flip: bool, size: int, rank: int, recurrent_rank: int, both: bool, wider: int) -> dict[str, Any]:
    """Values of the sampled parameters for a good model."""
    return {
        "stem": _CHANNELS[wider] if stem != "none" else stem,
        "log2_hidden_size": size.bit_length() - 1,
        "rank": rank,
        "recurrent_rank": recurrent_rank,
        "bidirectional": both,
        "flip": flip,
        "lr_factor": 1.0,
        "dropout": 0.2,
    }

"""Search models with and without a convolution stem, for videos in which small things move about.

A stem shares its weights over the picture. Behind it, the modes of the input matrix follow the axes of its output. Each
rank is one number for all bonds. With 10 classes, most samples have 2,000 to 10,000 parameters.
"""

from collections.abc import Sequence
from typing import Any

import optuna

from search_spaces import shapes
from ttrnn.shapes import NUM_GATES, format_modes, frame_modes, gate_modes, max_ranks, parse_modes
from ttrnn.stem_shape import StemShape

__all__ = ["baselines", "space"]

_CHANNELS = ("4x6", "6x8", "8x12", "8")
_RANKS = (2, 8)


def space(trial: optuna.Trial) -> dict[str, Any]:
    """Samples a stem or none, hidden size, ranks, pooling, learning rate and dropout."""
    height, width, channels = trial.study.user_attrs["frame"]
    stem, axes = {"stem": trial.suggest_categorical("stem", ["conv", "none"])}, (height, width, channels)
    if stem["stem"] == "conv":
        out_channels = parse_modes(trial.suggest_categorical("stem_channels", list(_CHANNELS)))
        stride = trial.suggest_categorical("stem_stride", [2, 3])
        strides = (stride if stride ** len(out_channels) <= min(height, width) else 1,) * len(out_channels)
        axes = StemShape(height, width, channels, out_channels, strides, "extra").maps[-1]
        stem |= {"stem_channels": format_modes(out_channels), "stem_strides": format_modes(strides)}
    in_modes = frame_modes(*axes)
    hidden = shapes.hidden_modes(2 ** trial.suggest_int("log2_hidden_size", 4, 7), len(in_modes))[0]
    gates = gate_modes(hidden, NUM_GATES["gru"])
    # Without a stem, the input matrix takes the differences.
    of_input = gates if stem["stem"] == "conv" else gate_modes(gates, 2)
    return {
        **stem,
        "in_modes": format_modes(in_modes),
        "hidden_modes": format_modes(hidden),
        "ranks": _suggest_rank(trial, "rank", in_modes, of_input),
        "recurrent_ranks": _suggest_rank(trial, "recurrent_rank", hidden, gates),
        "differences": "extra",
        "pooling": trial.suggest_categorical("pooling", ["last", "max", "attention"]),
        "lr": trial.suggest_float("lr", 2e-3, 2e-2, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.3),
    }


def _suggest_rank(trial: optuna.Trial, name: str, in_modes: Sequence[int], out_modes: Sequence[int]) -> str:
    rank = trial.suggest_int(name, *_RANKS)
    return format_modes([min(rank, most) for most in max_ranks(in_modes, out_modes)])


def baselines(frame: Sequence[int]) -> list[dict[str, Any]]:
    """The stem of two layers in front of a small TT-GRU, and the baselines of the space `shapes`."""
    small = {
        "hidden_modes": "2x4x4x2",
        "ranks": "4",
        "recurrent_ranks": "6",
        "differences": "extra",
        "lr": 1e-2,
        "dropout": 0.1,
    }
    stems = [{**small, "stem": "conv"}] if min(frame[:2]) >= 4 else []
    return [*stems, *shapes.baselines(frame)]

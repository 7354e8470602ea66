"""Only the ranks: the paper's TT-GRU and its shape, with every bond of the input and recurrent matrix from 1 to 8."""

from typing import Any

import optuna

from search_spaces.shapes import baselines, suggest_ranks
from ttrnn.shapes import format_modes, frame_modes

__all__ = ["baselines", "space"]


def space(trial: optuna.Trial) -> dict[str, Any]:
    """Ranks, dense or tensor-train recurrent matrix, learning rate."""
    recurrent = trial.suggest_categorical("recurrent", ["tt", "dense"])
    return {
        "cell": "gru",
        "in_modes": format_modes(frame_modes(*trial.study.user_attrs["frame"])),
        "hidden_modes": "4x4x4x4",
        "ranks": suggest_ranks(trial, "rank"),
        "recurrent_ranks": suggest_ranks(trial, "recurrent_rank") if recurrent == "tt" else "none",
        "lr": trial.suggest_float("lr", 1e-3, 2e-2, log=True),
    }

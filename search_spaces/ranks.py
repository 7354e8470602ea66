"""Search only the ranks of input and recurrent matrix, for the shape of the paper's TT-GRU."""

from typing import Any

import optuna

from search_spaces.shapes import baselines, suggest_ranks
from ttrnn.shapes import NUM_GATES, format_modes, frame_modes, gate_modes

__all__ = ["baselines", "space"]


def space(trial: optuna.Trial) -> dict[str, Any]:
    """Samples ranks, dense or tensor-train recurrent matrix, and learning rate."""
    in_modes, hidden = frame_modes(*trial.study.user_attrs["frame"]), (4, 4, 4, 4)
    gates = gate_modes(hidden, NUM_GATES["gru"])
    recurrent = trial.suggest_categorical("recurrent", ["tt", "dense"])
    return {
        "cell": "gru",
        "in_modes": format_modes(in_modes),
        "hidden_modes": format_modes(hidden),
        "ranks": suggest_ranks(trial, "rank", in_modes, gate_modes(gates, 2)),
        "recurrent_ranks": suggest_ranks(trial, "recurrent_rank", hidden, gates) if recurrent == "tt" else "none",
        "differences": "extra",
        "lr": trial.suggest_float("lr", 1e-3, 2e-2, log=True),
    }

"""Cells, modes of frame and hidden state, ranks of every bond, recurrent ranks, learning rate and dropout."""

from collections.abc import Sequence
from typing import Any

import optuna

from ttrnn.shapes import factorisations, format_modes, frame_modes

__all__ = ["baselines", "input_modes", "space"]

HIDDEN_MODES = ("2x2x4x2", "2x4x4x2", "4x4x4x2", "4x4x4x4")
_MAX_RANK = 8


def space(trial: optuna.Trial) -> dict[str, Any]:
    """One model and how it is trained: four modes, which the paper found to be enough."""
    frame = trial.study.user_attrs["frame"]
    recurrent = trial.suggest_categorical("recurrent", ["tt", "dense"])
    return {
        "cell": trial.suggest_categorical("cell", ["gru", "lstm", "rnn"]),
        "in_modes": trial.suggest_categorical("in_modes", input_modes(*frame)),
        "hidden_modes": trial.suggest_categorical("hidden_modes", HIDDEN_MODES),
        "ranks": suggest_ranks(trial, "rank"),
        "recurrent_ranks": suggest_ranks(trial, "recurrent_rank") if recurrent == "tt" else "none",
        "lr": trial.suggest_float("lr", 1e-3, 2e-2, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        "recurrent_dropout": trial.suggest_float("recurrent_dropout", 0.0, 0.5),
    }


def suggest_ranks(trial: optuna.Trial, name: str) -> str:
    """Three inner ranks, each bond on its own, as text."""
    return format_modes([trial.suggest_int(f"{name}_{bond}", 1, _MAX_RANK, log=True) for bond in (1, 2, 3)])


def input_modes(height: int, width: int, channels: int) -> list[str]:
    """Modes that cut height and width in two each, neither factor above four times the other, as text."""
    shapes = [
        (y1, y2, x1, x2 * channels)
        for y1, y2 in factorisations(height, 2)
        for x1, x2 in factorisations(width, 2)
        if max(y1, y2) <= 4 * min(y1, y2) and max(x1, x2) <= 4 * min(x1, x2)
    ]
    return [format_modes(shape) for shape in shapes or [frame_modes(height, width, channels)]]


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

"""Format the values of a trial for display."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.baselines.config import KINDS
from pipelines.core.text import duration, percent

__all__ = ["count", "interval_text", "matrix_formats", "texts"]


def count(value: int | None) -> str:
    """1234 -> `1,234`; `-` for None."""
    return "-" if value is None else f"{value:,}"


def interval_text(interval: Sequence[float] | None) -> str:
    """[0.712, 0.801] -> `71.2 to 80.1%`; `-` for None."""
    return "-" if interval is None else f"{100 * interval[0]:.1f} to {percent(interval[1])}"


def matrix_formats(config: Mapping[str, Any]) -> dict[str, str]:
    """The tensor formats of both matrices by the names of their options; `dense` for a matrix without a format."""
    is_dense = config.get("input") == "dense", config.get("recurrent_ranks", "none") == "none"
    options = "format", "recurrent_format"
    return {name: "dense" if dense else config.get(name, "tt") for name, dense in zip(options, is_dense, strict=True)}


def texts(trial: Mapping[str, Any]) -> dict[str, str]:
    """The values of a trial of pareto.json as text: all columns, all settings, and `modes`; `-` if unknown.

    `modes` are input and output modes of the input-to-hidden weights: `8x20x20x18 → 4x4x4x4` or `dense → 4x4x4x4`, and
    before them the channels of a stem: `stem 6x8: 3x4x4x32 → 4x4x4x4`. Ranks begin with the format unless it is tt.
    """
    config = {
        name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in trial["config"].items()
    }
    source = "dense" if config.get("input") == "dense" else config.get("in_modes", "-")
    if config.get("stem", "none") != "none":
        source = f"stem {config.get('stem_channels', '-')}: {source}"
    if config.get("input") in KINDS:
        source = f"{config['input']} {source}"
    cells = dict.fromkeys(("cell", "input", "ranks", "recurrent_ranks"), "-") | config
    for option, form in matrix_formats(config).items():
        if option in config:
            cells[option] = form
        if form not in ("tt", "dense"):
            ranks = option.replace("format", "ranks")
            cells[ranks] = f"{form} {cells[ranks]}"
    cells |= {name: count(trial.get(name)) for name in ("num_params", "input_params", "multiply_adds", "epochs")}
    cells |= {name: percent(trial.get(name)) for name in ("val_metric", "test_metric")}
    cells |= {name: interval_text(trial.get(name)) for name in ("val_interval", "test_interval")}
    reason = trial.get("error") or trial.get("stopped_by")
    return cells | {
        "trial": trial["trial"],
        "parent": trial.get("parent") or "-",
        "state": f"{trial['state']}: {reason}" if reason else trial["state"],
        "train_s": "-" if trial["train_s"] is None else duration(trial["train_s"]),
        "modes": f"{source} → {config.get('hidden_modes', '-')}",
    }

"""Read and write the files of a run: RUN/config.json."""

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pipelines.core.errors import UserError
from pipelines.data.augment import Augmentation
from pipelines.storage.output import refuse_other_options
from pipelines.training.options import TrainOptions
from ttrnn.files import atomic_write
from ttrnn.model import ModelConfig

__all__ = ["claim_run", "read_options"]


# Options of runs from before they had them.
_ABSENT = {
    "precision": "float32",
    "differences": "none",
    "input_dropout": 0.0,
    "label_smoothing": 0.0,
    "weight_averaging": 0.0,
    "optimizer": "adamw",
    "schedule": "one_cycle",
    "decayed": "all",
    "keep": "best",
    "pixels": "standardised",
    "folds": None,
    "fold": None,
    "split_by": "group",
    "watch_test": False,
    "init": None,
    **{field.name: field.default for field in dataclasses.fields(Augmentation)},
}


def claim_run(out: Path, options: TrainOptions, config: ModelConfig, *, but: Collection[str] = ()) -> None:
    """Writes RUN/config.json, or refuses to resume a run that was started with other options, but for some of them."""
    path = out / "config.json"
    if path.exists():
        settings = {name: value for name, value in options.settings().items() if name not in but}
        refuse_other_options(out, read_options(path), settings)
        return
    with atomic_write(path) as file:
        json.dump(
            {"format": "ttrnn-run", "version": 1, "options": options.settings(), "model": config.to_dict()},
            file,
            indent=1,
        )


def read_options(path: Path) -> dict[str, Any]:
    """The options in RUN/config.json. Raises UserError if it is something else's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != "ttrnn-run":
            raise KeyError("format")
        options = {**_ABSENT, **content["options"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not describe a run of train; it is left alone: give another OUT") from error
    return options

"""Save and restore the state of a training."""

import dataclasses
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch

from ttrnn.files import atomic_write

__all__ = ["Progress", "load_checkpoint", "save_checkpoint"]


@dataclasses.dataclass(kw_only=True, slots=True)
class Progress:
    """The progress of a training: it is saved beside the states of model, EMA, optimizer and schedule.

    It holds no random state: each step seeds the generators with the run's seed, the epoch, the step and the rank.
    """

    epoch: int = 0
    """Number of finished epochs, validation included."""
    step: int = 0
    """Number of finished steps of the next epoch."""
    loss_sum: float = 0.0
    """Sum of the losses of all clips in these steps, over all workers."""
    num_clips: int = 0
    """Number of clips in these steps."""
    epoch_s: float = 0.0
    """Duration of these steps, s."""
    train_s: float = 0.0
    """Duration of the finished epochs, s."""
    grad_norm: float = 0.0
    """Gradient norm of the last step, before clipping."""
    best: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"epoch": 0, "val_metric": -1.0, "val_loss": math.inf}
    )
    """epoch, val_metric, val_loss, val_interval and val_interval_by of the epoch whose model is saved."""
    record: dict[str, Any] | None = None
    """The line of metrics.jsonl of the last finished epoch."""


def save_checkpoint(path: Path, parts: Mapping[str, Any], progress: Progress) -> None:
    """Writes a checkpoint, whole or not at all.

    Args:
        path: The file; its parent is created if necessary.
        parts: By name, the objects whose state_dict is saved; None for those that the training does not have.
        progress: Saved beside them.
    """
    state = {name: None if part is None else part.state_dict() for name, part in parts.items()}
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path, "wb") as file:
        checked = _CheckedFile(file)
        torch.save(state | dataclasses.asdict(progress), cast(IO[bytes], checked))
        if checked.error is not None:
            raise checked.error


class _CheckedFile(io.RawIOBase):
    """Passes writes on to a file and remembers the first error: torch.save does not report a full disk."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes


def load_checkpoint(path: Path, parts: Mapping[str, Any]) -> Progress:
    """Restores the states of `parts` (see `save_checkpoint`) and returns the progress."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        if part is not None:
            part.load_state_dict(state[name])
    # Checkpoints of versions that wrote them after whole epochs only have fewer fields.
    names = {field.name for field in dataclasses.fields(Progress)}
    return Progress(**{name: value for name, value in state.items() if name in names})

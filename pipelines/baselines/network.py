"""Build, save and load baselines in plain PyTorch.

Legend: B clips, T frames of a clip, F frames of all clips, C channels, Y X rows and columns, D frame size.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import ttrnn
from pipelines.baselines.config import AnyConfig, BaselineConfig, reduced_size
from pipelines.baselines.files import FORMAT, read_config
from ttrnn.files import atomic_directory
from ttrnn.model import VideoClassifier

__all__ = ["AnyClassifier", "BaselineClassifier", "build", "load", "save"]

# Frames of which there is a float copy at a time.
_BLOCK_FRAMES = 64


class BaselineClassifier(nn.Module):
    """Classifies clips of uint8 frames, height x width x channels, like VideoClassifier, without tensor trains."""

    mean: Tensor

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.config, size = config, (config.height, config.width)
        self.register_buffer("mean", torch.tensor(config.mean).view(1, -1, 1, 1), persistent=False)
        self._scale = 1 / math.sqrt(sum(std * std for std in config.std) / len(config.std))
        grids = {"thumbnail": config.sizes, "cnn": reduced_size(*size), "low-rank": size, "linear": config.sizes[1:]}
        self.average = _Average(size, grids[config.input])
        self.features: nn.Module = nn.Flatten()
        if config.input == "low-rank":
            self.features = nn.Sequential(nn.Flatten(), nn.Linear(config.frame_size, config.sizes[0]))
        elif config.input == "cnn":
            first, second, rows, columns = config.sizes
            self.features = nn.Sequential(
                nn.Conv2d(2 * config.channels, first, 5, stride=2, padding=2),
                nn.ReLU(),
                nn.Conv2d(first, second, 3, stride=2, padding=1),
                nn.ReLU(),
                _Average([-(-side // 4) for side in reduced_size(*size)], (rows, columns)),
                nn.Flatten(),
            )
        self.rnn = nn.GRU(config.num_inputs, config.hidden_size) if config.hidden_size else None
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden_size or config.num_inputs, len(config.classes))

    @property
    def num_params(self) -> int:
        """All parameters, classifier included."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, clips: Sequence[Tensor]) -> Tensor:
        """Logits (B, classes) of a list of clips (T, Y, X, C)."""
        kind, sizes = self.config.input, self.config.sizes
        if self.rnn is None:
            frames = [clip[_evenly_spaced(len(clip), sizes[0], clip.device)] for clip in clips]
            pooled = torch.stack([self._averaged(clip).flatten() for clip in frames])
            return self.head(self.dropout(pooled))
        inputs = [self._averaged(clip) for clip in clips]
        if kind == "low-rank":
            # The projection is linear: its differences are those of the frames, projected.
            values = self.features(torch.cat(inputs)).split([len(clip) for clip in clips])
            sequences = [_with_differences(each) for each in values]
        else:
            values = self.features(torch.cat([_with_differences(each) for each in inputs]))
            sequences = list(values.split([len(clip) for clip in clips]))
        _, h_n = self.rnn(pack_sequence(sequences, enforce_sorted=False))
        return self.head(self.dropout(h_n[-1]))

    def _averaged(self, clip: Tensor) -> Tensor:
        """Normalised frames (T, C, rows, columns) of a clip, each cell the mean of its pixels."""
        blocks = [self.average(block.permute(0, 3, 1, 2).float()) for block in clip.split(_BLOCK_FRAMES)]
        return (torch.cat(blocks) - self.mean) * self._scale

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax over classes, or a sigmoid each where clips have several labels."""
        return logits.softmax(dim=-1) if self.config.task == "single_label" else logits.sigmoid()


class _Average(nn.Module):
    """Averages images (*, Y, X) down to a grid, as two products: much faster on a CPU than adaptive_avg_pool2d."""

    rows: Tensor
    columns: Tensor

    def __init__(self, size: Sequence[int], grid: Sequence[int]) -> None:
        super().__init__()
        self._is_identity = tuple(size) == tuple(grid)
        self.register_buffer("rows", _bins(size[0], grid[0]).t().contiguous(), persistent=False)
        self.register_buffer("columns", _bins(size[1], grid[1]).t().contiguous(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if self._is_identity:
            return images
        # Both matrices stand on the right, where torch takes all images in one product.
        return ((images @ self.columns).transpose(-1, -2) @ self.rows).transpose(-1, -2)


def _bins(size: int, count: int) -> Tensor:
    """(count, size): row k averages the pixels from k size / count, rounded down, to (k + 1) size / count, up."""
    means = torch.zeros(count, size)
    for number in range(count):
        first, last = number * size // count, -(-(number + 1) * size // count)
        means[number, first:last] = 1 / (last - first)
    return means


AnyClassifier = VideoClassifier | BaselineClassifier
"""A tensor-train or dense model, or a baseline."""


def _evenly_spaced(num_frames: int, count: int, device: torch.device) -> Tensor:
    """Indices of `count` frames, of which short clips repeat some."""
    return torch.linspace(0, num_frames - 1, count, device=device).round().long()


def _with_differences(values: Tensor) -> Tensor:
    """Values (T, C, *) and twice their change since the frame before, which is small: (T, 2 C, *)."""
    changes = torch.diff(values, dim=0, prepend=values[:1])
    return torch.cat([values, 2 * changes], dim=1)


def build(config: AnyConfig) -> AnyClassifier:
    """The model of a configuration, with random weights."""
    return BaselineClassifier(config) if isinstance(config, BaselineConfig) else VideoClassifier(config)


def save(model: AnyClassifier, path: Path, results: dict[str, Any]) -> None:
    """Writes a model directory, or that of a baseline: config.json and model.safetensors, both or neither."""
    if isinstance(model, VideoClassifier):
        ttrnn.save(model, path, results)
        return
    config = model.config
    document = {**FORMAT, "model": config.to_dict(), "results": results}
    document |= {"num_params": config.num_params, "input_params": config.input_params}
    with atomic_directory(path) as directory:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        (directory / "model.safetensors").write_bytes(safetensors_torch.save(weights))
        (directory / "config.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> BaselineClassifier:
    """The baseline in a directory, in eval mode on the CPU. Raises ValueError if its files do not fit each other."""
    try:
        model = BaselineClassifier(BaselineConfig(**read_config(path)["model"]))
        model.load_state_dict(safetensors_torch.load_file(path / "model.safetensors"))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path} does not hold a baseline that fits its config.json: {error}") from error
    return model.eval()

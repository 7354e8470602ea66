"""Define the configuration of a baseline: a simple model that is no tensor train.

    thumbnail  4x8      the frame averaged down to 4 x 8 cells, and its difference to the frame before; nn.GRU
    low-rank   3        nn.Linear from the frame to 3 values, and their differences; nn.GRU
    cnn        6x8x2x4  frame and difference through convolutions of 6 and 8 channels, averaged to 2 x 4 cells; nn.GRU
    linear     4x3x6    4 frames, evenly spaced, averaged down to 3 x 6 cells; a linear classifier

The second column is `in_modes`. The fields have the names of ModelConfig, so that baselines stand in the same tables.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from ttrnn.config import ModelConfig
from ttrnn.shapes import parse_modes

__all__ = ["KINDS", "AnyConfig", "BaselineConfig", "any_config", "reduced_size"]

# kind -> number of values in in_modes.
_NUM_MODES = {"thumbnail": 2, "low-rank": 1, "cnn": 4, "linear": 3}
KINDS = tuple(_NUM_MODES)
"""Values of the option `input` that stand for a baseline."""
# The convolutions of a cnn read frames of at most this many pixels a side.
_LARGEST_SIDE = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineConfig:
    """The settings that rebuild a baseline. Raises ValueError for an unknown kind or sizes that do not fit it."""

    input: str
    """kind: thumbnail, low-rank, cnn or linear"""
    in_modes: str
    """sizes before the GRU, see the docstring of this module"""
    hidden_modes: str
    """hidden size of the GRU; none for linear"""
    dropout: float = 0.0
    """dropout before the classifier"""
    width: int
    """frame width in pixels"""
    height: int
    """frame height in pixels"""
    channels: int
    """3 for RGB, 1 for grey"""
    classes: tuple[str, ...]
    """names of the classes, in the order of the logits"""
    task: str = "single_label"
    """single_label or multi_label"""
    mean: tuple[float, ...]
    """per channel, subtracted from the pixels"""
    std: tuple[float, ...]
    """per channel; their root mean square divides the pixels"""
    sampling: dict[str, Any] = field(default_factory=dict, hash=False)
    """how frames were taken from a video"""
    # The same for all baselines, for the tables of a sweep.
    cell: str = "gru"
    ranks: str = "none"
    recurrent_ranks: str = "none"
    num_layers: int = 1
    bidirectional: bool = False
    differences: str = "extra"
    pooling: str = "last"
    input_dropout: float = 0.0
    recurrent_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("classes", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.input not in KINDS:
            raise ValueError(f"input must be one of {', '.join(KINDS)}, got {self.input!r}")
        if self.input == "linear":
            for name, value in (("hidden_modes", "none"), ("cell", "none"), ("differences", "none")):
                object.__setattr__(self, name, value)
        if len(self.sizes) != _NUM_MODES[self.input]:
            raise ValueError(f"in_modes of {self.input} must be {_NUM_MODES[self.input]} numbers, got {self.in_modes}")

    @property
    def sizes(self) -> tuple[int, ...]:
        """in_modes as numbers."""
        return parse_modes(self.in_modes)

    @property
    def hidden_size(self) -> int:
        """H; 0 for linear."""
        return 0 if self.hidden_modes == "none" else math.prod(parse_modes(self.hidden_modes))

    @property
    def frame_size(self) -> int:
        """Values per frame."""
        return self.width * self.height * self.channels

    @property
    def num_inputs(self) -> int:
        """Values per frame that the GRU reads; for linear, those of all frames that the classifier reads."""
        match self.input, self.sizes:
            case "thumbnail", (rows, columns):
                return 2 * self.channels * rows * columns
            case "low-rank", (rank,):
                return 2 * rank
            case "cnn", (_, channels, rows, columns):
                return channels * rows * columns
        return self.channels * math.prod(self.sizes)

    @property
    def feature_params(self) -> int:
        """Parameters before the GRU."""
        if self.input == "low-rank":
            return (self.frame_size + 1) * self.sizes[0]
        if self.input == "cnn":
            first, second = self.sizes[:2]
            return first * (25 * 2 * self.channels + 1) + second * (9 * first + 1)
        return 0

    @property
    def input_params(self) -> int:
        """Parameters before the recurrence: those of the features, and the input-to-hidden weights."""
        return self.feature_params + self.num_inputs * (3 * self.hidden_size or len(self.classes))

    @property
    def num_params(self) -> int:
        """Parameters of the whole model, classifier included."""
        hidden = self.hidden_size
        head = (hidden + 1) * len(self.classes)
        return self.input_params + 3 * hidden * hidden + 6 * hidden + head

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one frame, without averages and classifier."""
        features = self.feature_params if self.input == "low-rank" else 0
        if self.input == "cnn":
            (height, width), (first, second) = reduced_size(self.height, self.width), self.sizes[:2]
            half, quarter = (-(-height // step) * -(-width // step) for step in (2, 4))
            features = half * 50 * self.channels * first + quarter * 9 * first * second
        return features + 3 * self.hidden_size * (self.num_inputs + self.hidden_size)

    @property
    def values_per_frame(self) -> int:
        """Values of 4 bytes that a training keeps for each frame before the GRU."""
        if self.input == "cnn":
            height, width = reduced_size(self.height, self.width)
            return height * width * (2 * self.channels + self.sizes[0] + self.sizes[1] // 2)
        return self.frame_size if self.input == "low-rank" else self.num_inputs

    def to_dict(self) -> dict[str, Any]:
        """JSON values by field name."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }


AnyConfig = ModelConfig | BaselineConfig
"""The configuration of a tensor-train or dense model, or of a baseline."""


def any_config(values: dict[str, Any]) -> AnyConfig:
    """The inverse of to_dict of either class. Raises ValueError or TypeError for other values."""
    return BaselineConfig(**values) if values.get("input") in KINDS else ModelConfig.from_dict(values)


def reduced_size(height: int, width: int) -> tuple[int, int]:
    """The size to which a cnn averages frames down, by a whole factor, so that large frames stay cheap."""
    factor = -(-max(height, width) // _LARGEST_SIDE)
    return max(height // factor, 1), max(width // factor, 1)

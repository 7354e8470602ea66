"""ModelConfig: the fields that define a model, their checks, and the counts (parameters, MACs) they imply.

Legend: D frame size (height x width x channels), H hidden size.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from ttrnn.formats import FORMATS, make_format
from ttrnn.network import Format
from ttrnn.planner import least_multiply_adds
from ttrnn.pooling import POOLINGS
from ttrnn.shapes import (
    DIFFERENCES,
    NUM_GATES,
    TTShape,
    auto_modes,
    check_modes,
    format_modes,
    input_out_modes,
    map_modes,
    parse_modes,
)
from ttrnn.stem_shape import StemShape

__all__ = ["ModelConfig", "ModelOptions"]

# More than a frame can use, and few enough to look through.
_MOST_MODES = 32
_LARGEST = {"width": 1 << 16, "height": 1 << 16, "channels": 1 << 10}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOptions:
    """The architecture of a model, whatever frames and classes it is for. Modes and ranks are in their text form."""

    CHOICES: ClassVar[Mapping[str, Sequence[str]]] = {
        "cell": tuple(NUM_GATES),
        "input": ("tt", "dense"),
        "format": tuple(name for name in FORMATS if name != "block-diagonal"),
        "recurrent_format": tuple(FORMATS),
        "differences": DIFFERENCES,
        "stem": ("none", "conv"),
        "pooling": POOLINGS,
    }
    """The values that some of the fields may have."""

    cell: str = "gru"
    """recurrent cell: rnn, gru or lstm"""
    input: str = "tt"
    """input matrix: tt, or dense for comparison"""
    in_modes: str = "auto"
    """input modes such as 8x20x20x18, whose product is the number of values of a frame; auto follows its axes"""
    hidden_modes: str = "4x4x4x4"
    """hidden modes, whose product is the hidden size"""
    ranks: str = "4"
    """one rank, or the inner ranks such as 4x4x4; of other formats the lists that docs/library.md has"""
    format: str = "tt"
    """form of the input matrix: tensor train, CP, (hierarchical) Tucker, tensor ring, block term, or of low rank"""
    recurrent_ranks: str = "none"
    """none for a dense recurrent matrix, or the ranks of its format"""
    recurrent_format: str = "tt"
    """form of the recurrent matrix, where it has recurrent_ranks: of block-diagonal, the size of the blocks"""
    num_layers: int = 1
    """number of recurrent layers"""
    bidirectional: bool = False
    """read clips backwards too"""
    differences: str = "none"
    """use the difference of each frame to the one before as input: none, extra (beside the frame) or only"""
    stem: str = "none"
    """layers in front of the input matrix: none, or conv for convolutions, whose weights are shared over the frame"""
    stem_channels: str = "8x16"
    """output channels of each layer of the stem, 1 to 3 of them"""
    stem_strides: str = "auto"
    """one stride for all layers of the stem, or one for each, such as 4x2; auto suits the size of the frame"""
    pooling: str = "last"
    """how the states over time become one vector: last, mean, max, or attention with learnt weights"""
    dropout: float = 0.0
    """dropout before the classifier and between layers, 0 to 1"""
    input_dropout: float = 0.0
    """dropout of what the frames add to the gates, one mask per clip, 0 to 1"""
    recurrent_dropout: float = 0.0
    """dropout of the hidden state in the recurrent product, 0 to 1"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(ModelOptions):
    """The settings that rebuild a model and feed it a video. Modes and ranks are kept in their text form.

    Text forms are brought to one spelling: ranks clipped and written out (4 -> 4x4x4), modes of a dense input joined.

    Raises:
        ValueError: a value that is not among the choices, or modes that do not multiply to the frame.
    """

    width: int
    """Frame width in pixels."""
    height: int
    """Frame height in pixels."""
    channels: int = 3
    """3 for RGB, 1 for grey."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    task: str = "single_label"
    """single_label (softmax, accuracy) or multi_label (sigmoid, mean average precision)."""
    mean: tuple[float, ...] = (127.5,)
    """Per channel, subtracted from the pixels."""
    std: tuple[float, ...] = (73.6,)
    """Per channel, in pixel values; their root mean square divides the pixels."""
    sampling: dict[str, Any] = field(default_factory=dict, hash=False)
    """How frames were taken from a video (max_frames, num_frames, fps)."""

    def __post_init__(self) -> None:
        if isinstance(self.classes, str):
            raise ValueError(f"classes must be a list of names, got {self.classes!r}")
        for name in ("classes", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, choices in {**self.CHOICES, "task": ("single_label", "multi_label")}.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("width", "height", "channels", "num_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, largest in _LARGEST.items():
            if getattr(self, name) > largest:
                raise ValueError(f"{name} must be at most {largest:,}, got {getattr(self, name):,}")
        for name in ("dropout", "input_dropout", "recurrent_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"0 <= {name} < 1 must hold, got {getattr(self, name)}")
        if len(set(self.classes)) != len(self.classes) or not self.classes:
            raise ValueError(f"classes must be different names, at least one, got {list(self.classes)}")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels) or not all(map(math.isfinite, getattr(self, name))):
                raise ValueError(f"{name} must be 1 or {self.channels} finite numbers, got {list(getattr(self, name))}")
        if min(self.std) < 0 or not 0 < sum(std * std for std in self.std) < math.inf:
            raise ValueError(f"std must be positive, got {list(self.std)}: are all frames one colour?")
        self._settle_shapes()

    def _settle_shapes(self) -> None:
        hidden = parse_modes(self.hidden_modes)
        if len(hidden) > _MOST_MODES:
            raise ValueError(f"hidden_modes must be at most {_MOST_MODES} modes, got {len(hidden):,}")
        self._settle_stem()
        if self.input == "dense":
            for option, default in (("recurrent_ranks", "none"), ("format", "tt"), ("recurrent_format", "tt")):
                if (value := getattr(self, option)) != default:
                    raise ValueError(f"{option} {value} needs input tt; a dense input takes {default}")
            self._set("in_modes", str(self.frame_size))
            self._set("hidden_modes", str(math.prod(hidden)))
            self._set("ranks", "none")
            return
        self._set("hidden_modes", format_modes(hidden))
        stem = self.stem_shape
        axes = (self.height, self.width, self.channels) if stem is None else stem.maps[-1]
        if self.in_modes == "auto":
            own_axes = stem is not None and len(hidden) == 4
            modes = map_modes(*axes) if own_axes else auto_modes(*axes, len(hidden))
            self._set("in_modes", format_modes(modes))
        self._set("in_modes", format_modes(parse_modes(self.in_modes)))
        what = "the frame has" if stem is None else f"the stem's output, {format_modes(axes)}, has"
        check_modes(parse_modes(self.in_modes), math.prod(axes), "in_modes", what)
        if self.recurrent_ranks == "none" and self.recurrent_format != "tt":
            raise ValueError(f"recurrent_format {self.recurrent_format} needs recurrent_ranks, such as 4, got none")
        for prefix, form in (("", self.input_matrix), ("recurrent_", self.recurrent_matrix)):
            if form is not None:
                self._set(f"{prefix}format", form.name)
                self._set(f"{prefix}ranks", format_modes(form.ranks) or "none")

    def _settle_stem(self) -> None:
        defaults = {field.name: field.default for field in dataclasses.fields(ModelOptions)}
        for option in ("stem_channels", "stem_strides") if self.stem == "none" else ():
            if getattr(self, option) != defaults[option]:
                raise ValueError(f"{option} {getattr(self, option)} needs stem conv, got stem none")
        if (shape := self.stem_shape) is not None:
            if self.input == "dense":
                raise ValueError("stem conv needs input tt, got input dense; give stem none")
            self._set("stem_channels", format_modes(shape.out_channels))
            self._set("stem_strides", format_modes(shape.strides))

    def _set(self, name: str, value: str) -> None:
        object.__setattr__(self, name, value)

    @property
    def frame_size(self) -> int:
        """D, values per frame."""
        return self.width * self.height * self.channels

    @property
    def hidden_size(self) -> int:
        """H."""
        return math.prod(parse_modes(self.hidden_modes))

    @property
    def stem_shape(self) -> StemShape | None:
        """Sizes of the stem; None where there is none."""
        if self.stem == "none":
            return None
        frame = self.height, self.width, self.channels
        return StemShape.of(*frame, self.stem_channels, self.stem_strides, self.differences)

    @property
    def input_differences(self) -> str:
        """Differences that the input matrix takes: none behind a stem, which takes them itself."""
        return self.differences if self.stem == "none" else "none"

    @property
    def input_matrix(self) -> Format:
        """The matrix from the frame, or from the output of the stem, to all gates."""
        return self._matrix("", parse_modes(self.in_modes), self.input_differences)

    @property
    def recurrent_matrix(self) -> Format | None:
        """The matrix from the hidden state to all gates; None where it is dense."""
        return None if self.recurrent_ranks == "none" else self._matrix("recurrent_", parse_modes(self.hidden_modes))

    @property
    def _upper_matrix(self) -> Format:
        """The matrix from the states of the layer below, of both directions, to all gates."""
        first, *others = parse_modes(self.hidden_modes)
        return self._matrix("", (2 * first if self.bidirectional else first, *others))

    def _matrix(self, prefix: str, in_modes: tuple[int, ...], differences: str = "none") -> Format:
        out_modes = input_out_modes(parse_modes(self.hidden_modes), NUM_GATES[self.cell], differences)
        name, ranks = (getattr(self, f"{prefix}{option}") for option in ("format", "ranks"))
        return make_format(name, in_modes, out_modes, () if ranks == "none" else parse_modes(ranks))

    @property
    def input_shape(self) -> TTShape:
        """The tensor train as which the input matrix is multiplied."""
        return self.input_matrix.shape

    @property
    def input_params(self) -> int:
        """Input-to-hidden weights of the first layer without bias, as papers count."""
        return self.input_matrix.num_params * (2 if self.bidirectional else 1)

    @property
    def num_params(self) -> int:
        """Parameters of the whole model, classifier included, without building it."""
        size, directions, gates = self.hidden_size, 2 if self.bidirectional else 1, NUM_GATES[self.cell]
        recurrent = gates * size * size if (own := self.recurrent_matrix) is None else own.num_params
        bias = gates * size + (size if self.cell == "gru" else 0)
        total = directions * (self.input_matrix.num_params + recurrent + bias)
        if self.num_layers > 1:
            total += (self.num_layers - 1) * directions * (self._upper_matrix.num_params + recurrent + bias)
        attention = directions * size if self.pooling == "attention" else 0
        stem = 0 if self.stem_shape is None else self.stem_shape.num_params
        return stem + total + attention + (directions * size + 1) * len(self.classes)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one frame in stem and recurrent layers, both directions, without building the model.

        Counted are the products with frames and states, each in the cheapest order of its cores, merged where that
        saves some; the layers may take a faster way that has more. Left out: what is done element by element (gates,
        differences), pooling, the classifier, and merging, which serves all frames.
        """
        directions, gates = 2 if self.bidirectional else 1, NUM_GATES[self.cell]
        recurrent = self.recurrent_matrix
        total = least_multiply_adds(self.input_shape)
        if self.num_layers > 1:
            total += (self.num_layers - 1) * least_multiply_adds(self._upper_matrix.shape)
        each = gates * self.hidden_size**2 if recurrent is None else least_multiply_adds(recurrent.shape)
        stem = 0 if self.stem_shape is None else self.stem_shape.multiply_adds
        return stem + directions * (total + self.num_layers * each)

    def to_dict(self) -> dict[str, Any]:
        """JSON values by field name."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """The inverse of to_dict. Raises ValueError that names an unknown, missing or mistyped field."""
        if not isinstance(values, dict):
            raise ValueError(f"a model configuration must be a JSON object, got {type(values).__name__}")
        hints, fields = get_type_hints(cls), dataclasses.fields(cls)
        required = {f.name for f in fields if f.default is f.default_factory}
        if unknown := values.keys() - {f.name for f in fields}:
            raise ValueError(f"unknown fields: {', '.join(sorted(unknown))}")
        if missing := required - values.keys():
            raise ValueError(f"missing fields: {', '.join(sorted(missing))}")
        return cls(**{name: _typed(name, value, hints[name]) for name, value in values.items()})


def _typed(name: str, value: Any, hint: Any) -> Any:
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} must be a list, got {value!r}")
        return tuple(_typed(name, item, get_args(hint)[0]) for item in value)
    kind = get_origin(hint) or hint
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{name} must be {kind.__name__}, got {value!r}")
    return value

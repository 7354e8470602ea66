"""The state and the constants of a model in C.

Legend: M_k / N_k input / output mode k, R / S left / right rank, H hidden size, N rows of a matrix.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ttrnn.integer import IntegerModel
from ttrnn.portable.weights import Level, ModelWeights
from ttrnn.shapes import NUM_GATES

__all__ = [
    "BYTES",
    "TYPES",
    "Constants",
    "Weights",
    "form_of",
    "num_macs",
    "state_bytes",
    "state_fields",
    "thresholds",
    "watch_bytes",
]

Weights: TypeAlias = ModelWeights | IntegerModel

_Array = NDArray[Any]
TYPES = {
    "float32": {"Sum": "float", "Value": "float", "Weight": "float", "Score": "float", "one": "1.0f"},
    "int8": {"Sum": "int32_t", "Value": "int16_t", "Weight": "int8_t", "Score": "uint16_t", "one": "32768"},
}
BYTES = {"float": 4, "int32_t": 4, "uint32_t": 4, "int16_t": 2, "uint16_t": 2, "int8_t": 1, "uint8_t": 1}
_LINE_LENGTH = 118


def state_bytes(weights: Weights) -> int:
    """sizeof(ttrnn_state)."""
    total = sum(BYTES[kind] * math.prod(shape) for kind, _, shape in state_fields(weights))
    return -(-total // 4) * 4


def watch_bytes(weights: Weights, events: Mapping[str, Any]) -> int:
    """sizeof(ttrnn_watch): states, and by class two events, a score and three flags, and three counters."""
    num_classes, score = len(weights.config.classes), BYTES[TYPES[form_of(weights)]["Score"]]
    total = events["window"] // events["hop"] * state_bytes(weights) + 2 * 16 * num_classes + 12
    return -(-(total + (score + 3) * num_classes) // 4) * 4


def thresholds(weights: Weights, events: Mapping[str, Any]) -> _Array:
    """The threshold of each class, rounded up to a score of the form; above all scores for a class without one."""
    # Probabilities are at most 1, so 1.5 is never reached, and both forms can hold it.
    found = np.clip([events["thresholds"].get(name, 2.0) for name in weights.config.classes], 0, 1.5)
    if form_of(weights) == "int8":
        return np.ceil(found * 32768)
    rounded = found.astype(np.float32)
    return np.where(rounded < found, np.nextafter(rounded, np.float32(2)), rounded)


def form_of(weights: Weights) -> str:
    return "int8" if isinstance(weights, IntegerModel) else "float32"


def _all_levels(weights: Weights) -> list[tuple[Any, ...]]:
    """The levels of each product."""
    return [product.levels for layer in weights.layers for product in (layer.ih, layer.hh)]


def _offsets(levels: Iterable[Any]) -> list[int]:
    """Of t_2, t_3 .. in state->levels; of t_1, which is elsewhere, and behind the last."""
    sizes = [level.rows * level.rest for level in levels]
    return [0, *np.cumsum([0, *sizes[1:]]).tolist()]


def state_fields(weights: Weights) -> list[tuple[str, str, tuple[int, ...]]]:
    """Type, name and shape of the fields of the state; the widest types come first, so that no padding is needed."""
    config, types = weights.config, TYPES[form_of(weights)]
    products, hidden = _all_levels(weights), config.hidden_size
    gates, inputs = NUM_GATES[config.cell] * hidden, products[0][0].rows * products[0][0].rest
    fields: list[tuple[str, str, tuple[int, ...]]] = [
        ("uint32_t", "num_frames", ()),
        (types["Sum"], "gates", (inputs,)),
        (types["Sum"], "u", (gates,)),
    ]
    # An array can't be empty: dense matrices have no t_2.
    fields.append((types["Sum"], "levels", (max(1, *(_offsets(levels)[-1] for levels in products)),)))
    if config.cell == "lstm":
        fields.append((types["Sum"], "c", (config.num_layers, hidden)))
    if config.input_differences != "none":
        fields.append((types["Sum"], "previous", (gates,)))
    if config.pooling in ("mean", "attention"):
        fields += [(types["Sum"], "total", (hidden,)), (types["Sum"], "weight", ())]
    if config.pooling == "attention":
        fields.append((types["Sum"], "peak", ()))
    fields.append((types["Value"], "h", (config.num_layers, hidden)))
    if config.pooling == "max":
        fields.append((types["Value"], "highest", (hidden,)))
    if weights.stem:
        fields.append((types["Value"], "lines", (_line_offsets(weights)[-1],)))
    fields += [("uint16_t", "counts", (max(map(len, products)),)), ("uint16_t", "line", ())]
    if weights.stem:
        fields += [
            ("uint16_t", "in_line", (len(weights.stem) + 1,)),
            ("uint16_t", "out_line", (len(weights.stem) + 1,)),
        ]
        if config.differences != "none":
            fields.append(("uint8_t", "previous_frame", (config.frame_size,)))
    return fields


def _line_offsets(weights: Weights) -> list[int]:
    """Of the lines that each convolution takes, of the last one's output, and behind it."""
    config, shapes = weights.config, [conv.shape for conv in weights.stem]
    widths = [config.width, *(shape.map[1] for shape in shapes)]
    channels = [shape.in_channels for shape in shapes] + [shapes[-1].out_channels]
    kernels = [shape.kernel for shape in shapes] + [1]
    sizes = [kernel * width * count for kernel, width, count in zip(kernels, widths, channels, strict=True)]
    return np.cumsum([0, *sizes]).tolist()


def num_macs(weights: Weights) -> int:
    total = sum(conv.shape.num_weights * math.prod(conv.shape.map[:2]) for conv in weights.stem)
    for levels in _all_levels(weights):
        times = 1
        for level in levels:
            times *= level.in_mode
            total += times * level.rows * level.rest * level.right_rank
    return total


class Constants:
    """The constants of a model in C."""

    def __init__(self, weights: Weights) -> None:
        self.weights, self.types = weights, TYPES[form_of(weights)]
        self.is_float = form_of(weights) == "float32"

    @staticmethod
    def constants(kind: str, name: str, values: _Array) -> str:
        """An array. Floats in hexadecimal would be exact too, but nine digits are, and can be read."""
        texts = [f"{value:.9g}" if kind == "float" else str(int(value)) for value in values.ravel().tolist()]
        if kind == "float":
            texts = [(text if set(text) & set(".e") else f"{text}.0") + "f" for text in texts]
        lines, line = [], "   "
        for text in texts:
            if len(line) + len(text) + 2 > _LINE_LENGTH:
                lines.append(line)
                line = "   "
            line += f" {text},"
        return "\n".join([f"static const {kind} {name}[] = {{", *lines, line, "};"])

    def text(self) -> str:
        """All of them."""
        parts, layers = list[str](), list[str]()
        for number, layer in enumerate(self.weights.layers):
            fields = []
            for name in ("ih", "hh"):
                parts.append(self._levels(f"{name}_{number}", getattr(layer, name).levels))
                fields.append(f"{{{name}_{number}, {len(getattr(layer, name).levels)}}}")
            for name in ("offset", "bias", "bias_hn"):
                fields.append(self._optional(parts, self.types["Sum"], f"{name}_{number}", getattr(layer, name)))
            layers.append(f"    {{{', '.join(fields)}}},")
        parts.append("\n".join(["static const struct layer layers[] = {", *layers, "};"]))
        if self.weights.stem:
            parts += self._convs()
        for name, row in (("query", self.weights.query), ("head", self._head())):
            if row is not None:
                parts.append(self._level_alone(name, row))
        bias = self.weights.head_bias
        return "\n\n".join([*parts, self.constants(self.types["Sum"], "head_bias", bias)])

    def _head(self) -> Any:
        return _matrix(self.weights.head_weight) if isinstance(self.weights, ModelWeights) else self.weights.head

    def _optional(self, parts: list[str], kind: str, name: str, values: _Array | None) -> str:
        """Adds an array; returns its name, or 0 where there is none."""
        if values is None:
            return "0"
        parts.append(self.constants(kind, name, values))
        return name

    def _scaling(self, parts: list[str], name: str, part: Any) -> list[str]:
        if self.is_float:
            return []
        multipliers = self._optional(parts, "int32_t", f"{name}_multipliers", part.multipliers)
        centres = self._optional(parts, "int32_t", f"{name}_centres", getattr(part, "centres", None))
        return [multipliers, centres, str(part.limit), str(part.shift)]

    def _level(self, parts: list[str], name: str, level: Any, offset: int) -> str:
        values, is_last = level.weights, level.right_rank == level.rest == 1
        # The values of a row are contiguous where integers are multiplied with pixels or states one after the other.
        if is_last and not self.is_float:
            values = values.transpose(1, 0, 2)
        weights = self._optional(parts, self.types["Weight"], f"{name}_weights", values)
        sizes = _checked_sizes(level.in_mode, level.rows, level.right_rank, level.rest, offset)
        return "{" + ", ".join([weights, *self._scaling(parts, name, level), *map(str, sizes)]) + "}"

    def _levels(self, name: str, levels: tuple[Any, ...]) -> str:
        parts: list[str] = []
        rows = [
            self._level(parts, f"{name}_{k}", level, offset)
            for k, (level, offset) in enumerate(zip(levels, _offsets(levels), strict=False))
        ]
        return "\n\n".join(
            [*parts, "\n".join([f"static const struct level {name}[] = {{", *(f"    {row}," for row in rows), "};"])]
        )

    def _level_alone(self, name: str, level: Any) -> str:
        parts: list[str] = []
        level = _matrix(level[None]) if isinstance(level, np.ndarray) else level
        row = self._level(parts, name, level, 0)
        return "\n\n".join([*parts, f"static const struct level {name} = {row};"])

    def _convs(self) -> list[str]:
        weights, parts, rows = self.weights, list[str](), list[str]()
        height, width = weights.config.height, weights.config.width
        *offsets, last, _ = _line_offsets(weights)
        conv: Any
        for number, (conv, offset) in enumerate(zip(weights.stem, offsets, strict=True)):
            name, shape, kernels = f"conv_{number}", conv.shape, conv.weights
            if number == 0 and isinstance(weights, ModelWeights):
                kernels = weights.first_kernels()
            kernels = kernels.transpose(0, 2, 3, 1)
            array = self._optional(parts, self.types["Weight"], f"{name}_weights", kernels)
            bias = self._optional(parts, self.types["Sum"], f"{name}_bias", conv.bias)
            sizes = _checked_sizes(
                height,
                width,
                shape.in_channels,
                shape.stride,
                *shape.map,
                offset,
                shape.kernel,
                int(shape.is_depthwise),
            )
            rows.append(", ".join([array, bias, *self._scaling(parts, name, conv), *map(str, sizes)]))
            height, width, channels = shape.map
        blank = ["0"] * (2 if self.is_float else 6)
        end = (height, width, channels, 1, height, width, channels, last, 1, 0)
        rows.append(", ".join([*blank, *map(str, end)]))
        table = "\n".join(["static const struct conv convs[] = {", *(f"    {{{row}}}," for row in rows), "};"])
        assert weights.stem_mean is not None
        mean = self.constants(self.types["Value"], "stem_mean", weights.stem_mean)
        return [*parts, table, mean]


def _matrix(weight: _Array) -> Level:
    """(N, H) as a product's only level."""
    return Level(np.ascontiguousarray(weight.T)[:, :, None], 1)


def _checked_sizes(*sizes: int) -> tuple[int, ...]:
    """The same sizes, which are uint16_t in C."""
    if max(sizes) >= 1 << 16:
        raise ValueError(
            f"a mode, or the memory of a product or a stem, has {max(sizes):,} values; C takes up to 65,535"
        )
    return sizes

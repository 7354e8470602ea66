"""Write a model as C99 that needs no heap, no frame in memory and no library beyond string.h and math.h.

Legend: M_k / N_k input / output mode k, R / S left / right rank, G gates, H hidden size, T time, C classes.

The code is put together of the pieces in c_source: those that a model needs, and of them the functions that are called.
"""

import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from ttrnn.integer import EXP2, TANH
from ttrnn.portable.c_tables import (
    BYTES,
    TYPES,
    Constants,
    Weights,
    form_of,
    num_macs,
    state_bytes,
    state_fields,
    thresholds,
    watch_bytes,
)
from ttrnn.shapes import NUM_GATES

__all__ = ["c_files", "c_source"]

_FOLDER = resources.files("ttrnn.portable") / "c_source"
# A definition of a function or a constant: "static", its type, its name.
_DEFINITION = re.compile(r"^static [^=({;]*?(\w+)(?:\[\])? ?[(=]", re.MULTILINE)


def c_files(
    weights: Weights,
    prefix: str = "ttrnn",
    accuracy: str = "Not compared with the model.",
    events: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """model.h, model.c, main.c, Makefile and sketch.ino, by name.

    Args:
        weights: In float32 or, as `integer_model` makes them, in whole numbers.
        prefix: Of all public names, so that one program can hold several models.
        accuracy: A sentence about it, for the header.
        events: `events` of the model's config.json, window, hop and thresholds by class; None: no `ttrnn_watch`.
    """
    files = {"model.h": _header(weights, accuracy, events), "model.c": c_source(weights, events)}
    programs = "watch_" if events else ""
    for name in ("main.c", "sketch.ino"):
        files[name] = _piece(programs + name)
    files["Makefile"] = _piece("Makefile")
    pixels = "rgb24" if weights.config.channels == 3 else "gray"
    size = f"{weights.config.width}:{weights.config.height}"
    files["main.c"] = files["main.c"].replace("WIDTH:HEIGHT", size, 1).replace("FORMAT", pixels, 1)
    if prefix == "ttrnn":
        return files
    named = {"ttrnn_": f"{prefix}_", "TTRNN_": f"{prefix.upper()}_"}
    return {name: re.sub("ttrnn_|TTRNN_", lambda found: named[found[0]], text) for name, text in files.items()}


def c_source(weights: Weights, events: Mapping[str, Any] | None = None) -> str:
    """model.c."""
    config, form = weights.config, form_of(weights)
    stem, tables = bool(weights.stem), Constants(weights)
    head = [
        f"/* {_title(weights)}; see model.h. */",
        '#include "model.h"\n#include <string.h>' + ("\n#include <math.h>" if form == "float32" else ""),
        f"#define HIDDEN {config.hidden_size}\n#define GATES {NUM_GATES[config.cell] * config.hidden_size}\n"
        f"#define NUM_LAYERS {config.num_layers}" + (f"\n#define NUM_CONVS {len(weights.stem)}" if stem else ""),
        f"const char *const ttrnn_classes[TTRNN_CLASSES] = {{{', '.join(map(_quoted, config.classes))}}};",
    ]
    kinds = {"values": "Value"} | ({} if stem else {"pixels": "uint8_t"})
    pieces = [_piece(f"{form}.c"), _piece("level.c"), _piece("layer.c")]
    if form == "int8":
        pieces.insert(0, tables.constants("int16_t", "tanh_table", TANH) + "\n\n")
        pieces.insert(0, tables.constants("uint16_t", "power_table", EXP2) + "\n\n")
    pieces += [_piece("stem.c")] if stem else []
    pieces += ["\n" + tables.text() + "\n"]
    pieces += [_filled(f"{form}_values.c", name, kind) for name, kind in kinds.items()]
    pieces += [_piece("add_level.c"), _piece("products.c")]
    pieces += [_filled("push.c", name, kind) for name, kind in kinds.items()]
    pieces += [_piece("stem_lines.c"), _piece(f"stem_{config.differences}.c")] if stem else [_piece("line.c")]
    pieces += [_piece(f"differences_{config.input_differences}.c"), _piece(f"cell_{config.cell}.c")]
    pieces += [_piece("pooling_total.c")] if config.pooling in ("mean", "attention") else []
    pieces += [
        _piece(f"{name}.c") for name in (f"pooling_{config.pooling}", "step", "interface", f"{form}_{config.task}")
    ]
    if events:
        limits = tables.constants(TYPES[form]["Score"], "thresholds", thresholds(weights, events))
        pieces += ["\n/* An event starts at this score. */\n" + limits + "\n", _piece("watch.c")]
    return _without_unused("\n\n".join(head) + "\n\n" + "".join(pieces))


def _piece(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _filled(name: str, suffix: str, kind: str) -> str:
    return re.sub(r"_NAME\b", f"_{suffix}", _piece(name)).replace("TYPE", kind)


def _quoted(text: str) -> str:
    """A string of C; what is not plain ASCII in octal, which no digit that follows can lengthen."""
    plain = set(range(32, 127)) - set(b'"\\?')
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode()) + '"'


def _without_unused(source: str) -> str:
    """Leaves out functions and constants that are used nowhere; they stand between empty lines."""
    blocks = source.split("\n\n")
    while True:
        counts = dict.fromkeys(re.findall(r"\w+", source), 0)
        for word in re.findall(r"\w+", re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)):
            counts[word] += 1
        kept = [block for block in blocks if not ((found := _DEFINITION.search(block)) and counts[found[1]] == 1)]
        if len(kept) == len(blocks):
            return source
        blocks, source = kept, "\n\n".join(kept)


def _constant_bytes(source: str) -> int:
    """Of the arrays of numbers in a source text."""
    found = re.findall(r"^static const (\w+) \w+\[\] = \{\n(.*?)\};", source, re.MULTILINE | re.DOTALL)
    return sum(BYTES[kind] * text.count(",") for kind, text in found if kind in BYTES)


def _title(weights: Weights) -> str:
    config, plural = weights.config, "s" if weights.config.num_layers > 1 else ""
    return f"{config.cell.upper()} of {config.num_layers} layer{plural} in {form_of(weights)}, by ttrnn"


def _header(weights: Weights, accuracy: str, events: Mapping[str, Any] | None) -> str:
    config, form = weights.config, form_of(weights)
    values: Mapping[str, Any] = {
        **TYPES[form],
        "title": _title(weights),
        "WIDTH": config.width,
        "HEIGHT": config.height,
        "CHANNELS": config.channels,
        "classes": len(config.classes),
        "pixels": "red, green, blue" if config.channels == 3 else "grey",
        "ram": f"{state_bytes(weights):,}",
        "stack": f"{200 + 4 * config.hidden_size + 4 * len(config.classes):,} bytes",
        "constants": f"{_constant_bytes(c_source(weights, events)):,}",
        "macs": f"{num_macs(weights):,}",
        "params": f"{config.num_params:,}",
        "dtype": form,
        "accuracy": accuracy,
        "logits": "" if form == "float32" else ", in units of 2^-16",
        "state": "\n".join(
            f"    {kind} {name}{''.join(f'[{size}]' for size in shape)};" for kind, name, shape in state_fields(weights)
        ),
        "watch": _watch_header(weights, events) if events else "",
    }
    return _with_values("model.h", values)


def _watch_header(weights: Weights, events: Mapping[str, Any]) -> str:
    return _with_values("watch.h", {**events, "bytes": f"{watch_bytes(weights, events):,}"})


def _with_values(name: str, values: Mapping[str, Any]) -> str:
    return re.sub(r"@(\w+)@", lambda found: str(values[found[1]]), _piece(name))

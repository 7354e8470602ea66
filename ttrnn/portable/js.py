"""Write a model as one JavaScript module without dependencies, weights inside, for Node and browsers.

Legend: R / S left / right rank, M_k / N_k input / output mode k, T time, C classes.
"""

import base64
import json
import logging
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ttrnn.files import atomic_write
from ttrnn.formats import TT
from ttrnn.linear import TTMatrix
from ttrnn.model import VideoClassifier
from ttrnn.network import Site
from ttrnn.portable.weights import ConvWeights, LayerWeights, ModelWeights, Product

__all__ = ["demo_page", "export_js", "javascript", "node_scores"]

log = logging.getLogger(__name__)

_Array = NDArray[np.float32]
_TOLERANCE = 1e-5
"""of probabilities"""
_LARGEST_24 = 2**23 - 2
_TIME_LIMIT_S = 600
_MOST_PARAMS = 2_000_000
# "formats", "stem" and "events" for models that have one.
_FILES = ("products", "formats", "stem", "layers", "pictures", "stream", "events")
_FOLDER = resources.files("ttrnn.portable") / "javascript"
# Reads the module's path and the number of frames of each clip; prints the probabilities after each frame.
_NODE = """
import fs from "node:fs";
import { pathToFileURL } from "node:url";
const model = await import(pathToFileURL(process.argv[1])), frames = fs.readFileSync(0);
const size = model.width * model.height * model.channels, scores = [];
for (let clip = 2, i = 0; clip < process.argv.length; clip++) {
  const stream = model.stream();
  for (let frame = 0; frame < process.argv[clip]; frame++, i += size) {
    const found = stream.push(frames.subarray(i, i + size));
    scores.push(model.classes.map(name => found[name]));
  }
}
console.log(JSON.stringify(scores));
"""


def export_js(
    model: VideoClassifier,
    path: str | Path,
    dtype: str = "float32",
    clips: Sequence[Any] = (),
    events: Mapping[str, Any] | None = None,
) -> float | None:
    """Writes a model as an ES module, if it gives the model's probabilities in Node.

    Args:
        model: In eval mode; not changed. With another dtype than float32, its weights are rounded to it already
            (quantise.rounded).
        path: The file, written whole or not at all. It takes 9 to 12 kB for the code and for each parameter 3.75 bytes
            in float32 (as whole numbers of 24 bits, with one factor for each matrix), 2.5 in bfloat16, 1.25 in int8.
        dtype: Of the weights: float32, bfloat16 or int8.
        clips: uint8 (T, height, width, channels) each, to compare on; none: clips of noise.
        events: `events` of the model's config.json, window, hop and thresholds by class; None: no `watch`.

    Returns:
        The largest difference between probabilities of the module and of the model after each frame; None if there is
        no `node` on the PATH, so that nothing was compared.

    Raises:
        ValueError: the model is bidirectional, or has more than 2,000,000 parameters.
        RuntimeError: probabilities differ by more than 1e-5, or Node can't run the module.
    """
    source, difference = javascript(model, dtype, events), None
    if shutil.which("node") is None:
        log.warning("no node on the PATH: %s is written, but was not compared with the model", Path(path).name)
    else:
        clips = clips or _noise(model)
        with tempfile.TemporaryDirectory() as folder:
            # By its suffix, old versions of Node know it for a module too.
            file = Path(folder, "model.mjs")
            file.write_text(source, encoding="utf-8")
            found, expected = node_scores(file, clips), _model_scores(model, clips)
        difference = float(np.abs(found - expected).max())
        # Not >, so that NaN is refused too.
        if not difference <= _TOLERANCE:
            raise RuntimeError(
                f"the JavaScript module's probabilities differ from the model's by {difference:.1e}, more than "
                f"{_TOLERANCE:.0e}: not kept"
            )
    with atomic_write(path) as output:
        output.write(source)
    if difference is not None:
        text = "%s: %d bytes, probabilities within %.1e of the model's on %d frames"
        log.info(text, Path(path).name, len(source.encode()), difference, sum(map(len, clips)))
    return difference


def node_scores(path: Path, clips: Sequence[Any]) -> NDArray[np.float64]:
    """The probabilities (T_1 + T_2 + .., C) that a module gives in Node after each frame of clips, a stream each.

    Raises:
        RuntimeError: Node can't run it.
    """
    command = ["node", "--input-type=module", "-e", _NODE, str(path), *(str(len(clip)) for clip in clips)]
    frames = b"".join(np.ascontiguousarray(clip).tobytes() for clip in clips)
    done = subprocess.run(command, input=frames, capture_output=True, timeout=_TIME_LIMIT_S, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.decode(errors="replace").splitlines() if "Error" in line]
        raise RuntimeError(f"node can't run the JavaScript module: {(lines or [f'exit code {done.returncode}'])[0]}")
    return np.array(json.loads(done.stdout))


def _model_scores(model: VideoClassifier, clips: Iterable[Any]) -> NDArray[np.float64]:
    scores = []
    for clip in clips:
        stream = model.stream()
        scores += [stream.push(frame).double().numpy() for frame in clip]
    return np.array(scores)


def _noise(model: VideoClassifier) -> list[NDArray[np.uint8]]:
    config, rng = model.config, np.random.default_rng(0)
    return [
        rng.integers(0, 256, (length, config.height, config.width, config.channels), dtype=np.uint8)
        for length in (8, 1, 3)
    ]


def javascript(model: VideoClassifier, dtype: str = "float32", events: Mapping[str, Any] | None = None) -> str:
    """The source text of the module, see export_js. Raises ValueError, see export_js."""
    if model.config.num_params > _MOST_PARAMS:
        raise ValueError(
            f"the model has {model.config.num_params:,} parameters, a JavaScript module takes {_MOST_PARAMS:,}; give a "
            "smaller one, or write it as ONNX"
        )
    weights, writer, config = ModelWeights.of(model), _Writer(dtype), model.config
    fields = {
        **{name: getattr(config, name) for name in ("classes", "width", "height", "channels", "task", "sampling")},
        **{name: getattr(config, name) for name in ("cell", "pooling")},
        "hidden": config.hidden_size,
        "events": events and {**events, "thresholds": [events["thresholds"].get(name) for name in config.classes]},
        "dtype": "int24" if dtype == "float32" else dtype,
        "stem": _stem(writer, weights),
        "layers": [_layer(writer, model.rnn, f"l{number}", layer) for number, layer in enumerate(weights.layers)],
    }
    fields["formats"] = any("sites" in layer[name] for layer in fields["layers"] for name in ("ih", "hh"))
    if weights.query is not None:
        writer.vector(weights.query)
    writer.matrix(weights.head_weight)
    writer.vector(weights.head_bias)
    # "<" could end the script of a page.
    sizes = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    about = f"// A ttrnn video classifier of {config.num_params:,} parameters, see push() at the end."
    start = f'{about}\nconst config={sizes};\nconst text="{writer.text()}";\n'
    return start + "".join(_code(name) for name in _FILES if fields.get(name, True))


def demo_page(source: str) -> str:
    """A page with a module inside, which also works where imports don't, from file://: camera, file, moving stripes."""
    page = (_FOLDER / "demo.html").read_text(encoding="utf-8")
    return page.replace("NUM_BYTES", str(len(source.encode()))).replace("MODEL_JS", source)


def _code(name: str) -> str:
    """Source without lines of comments, indentation, and spaces beside operators outside of strings."""
    lines = (line.strip() for line in (_FOLDER / f"{name}.js").read_text(encoding="utf-8").splitlines())
    text = "".join(f"{line}\n" for line in lines if line and not line.startswith("//"))
    parts = re.split(r"""("[^"\n]*"|`[^`\n]*`)""", text)
    parts[::2] = [re.sub(r" ?([-=+*/<>?:,;{}()|&!\[\]%]+) ?", r"\1", part) for part in parts[::2]]
    return "".join(parts)


class _Writer:
    """Weights as bytes, one after another, as products.js reads them."""

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._bytes = bytearray()

    def matrix(self, weights: _Array, factor: float = 1.0) -> None:
        """Adds a matrix, row by row; `factor` is one that bfloat16 weights were multiplied with."""
        if self._dtype == "float32":
            self.vector(weights)
        elif self._dtype == "bfloat16":
            self._add_factor(factor)
            self._bytes += torch.from_numpy(weights / np.float32(factor)).bfloat16().view(torch.int16).numpy().tobytes()
        else:
            self._bytes += self._whole(weights, 127).astype(np.int8).tobytes()

    def vector(self, values: _Array) -> None:
        """Adds numbers of 24 bits."""
        self._bytes += self._whole(values, _LARGEST_24).astype("<i4").reshape(-1, 1).view(np.uint8)[:, :3].tobytes()

    def _whole(self, values: _Array, largest: int) -> NDArray[np.float64]:
        factor = float(np.abs(values).max() / np.float32(largest)) or 1.0
        self._add_factor(factor)
        return np.rint(values / np.float64(factor))

    def _add_factor(self, factor: float) -> None:
        self._bytes += np.array(factor, "<f4").tobytes()

    def text(self) -> str:
        """All of it in base 85, without a character that HTML or JavaScript would mistake."""
        return base64.b85encode(self._bytes + bytes(-len(self._bytes) % 4)).decode().replace("<", ".")


def _stem(writer: _Writer, weights: ModelWeights) -> dict[str, Any] | None:
    if not weights.stem:
        return None
    for conv in weights.stem:
        _conv(writer, conv)
    assert weights.stem_mean is not None
    differences = weights.config.differences
    return {
        "mean": None if differences == "only" else weights.stem_mean.tolist(),
        "scale": weights.stem_scale,
        "gain": 0 if differences == "none" else weights.difference_scale,
        "convs": [
            [*conv.shape.map[:2], conv.shape.in_channels, conv.shape.out_channels, conv.shape.kernel,
             conv.shape.stride, int(conv.shape.is_depthwise)] for conv in weights.stem],
    }  # fmt: skip


def _conv(writer: _Writer, conv: ConvWeights) -> None:
    # In the order of a patch: rows, columns, channels; a depthwise convolution has one output of each channel.
    axes = (2, 3, 0, 1) if conv.shape.is_depthwise else (0, 2, 3, 1)
    writer.matrix(np.ascontiguousarray(conv.weights.transpose(axes)))
    if conv.bias is not None:
        writer.vector(conv.bias)


def _layer(writer: _Writer, rnn: Any, suffix: str, layer: LayerWeights) -> dict[str, Any]:
    ih, hh = getattr(rnn, f"ih_{suffix}"), getattr(rnn, f"hh_{suffix}", None)
    shapes: dict[str, Any] = {"ih": _matrix(writer, layer.ih, ih, float(ih.scale))}
    writer.vector(layer.offset)
    shapes["hh"] = _matrix(writer, layer.hh, hh if isinstance(hh, TTMatrix) else None, 1.0)
    for vector in (layer.bias, layer.bias_hn):
        if vector is not None:
            writer.vector(vector)
    return shapes | {"differences": int(layer.bias is not None)}


def _matrix(writer: _Writer, product: Product, matrix: TTMatrix | None, scale: float) -> dict[str, Any]:
    """Writes the tensors of a format, or the cores of a tensor train; returns what products.js reads them by."""
    if matrix is None or isinstance(matrix.format, TT):
        return {"cores": _cores(writer, product, scale)}
    for tensor in matrix.factors:
        writer.matrix(tensor.detach().cpu().float().contiguous().numpy())
    form = matrix.format
    return {
        "cores": form.shape.core_shapes,
        "sites": list(map(_site, form.sites())),
        "shapes": form.parameter_shapes,
        "scale": scale,
    }


def _site(site: Site) -> tuple[Sequence[int], list[str], str, dict[str, int]]:
    """A core as formats.js makes it: numbers of its tensors, letters of their axes and of the core, sizes of others."""
    terms = site.terms.split(",")
    axes, identities = terms[: len(site.parameters)], terms[len(site.parameters) :]
    # An identity makes two letters one.
    same = str.maketrans({pair[1]: pair[0] for pair in identities})
    core = f"{site.outputs}{site.left}{site.inputs}{site.right}".translate(same)
    passing = {pair[0]: size for pair, size in zip(identities, site.identities, strict=True)}
    return site.parameters, axes, core, passing


def _cores(writer: _Writer, product: Product, scale: float) -> list[list[int]]:
    """Writes the cores from the last to the first, rows (n, r) and columns (m, s); returns (R, M, N, S) of each.

    The scale of the frame is folded into the first, and kept apart: bfloat16 numbers must stay what they are.
    """
    left_ranks = [1, *(level.right_rank for level in product.levels[:-1])]
    shapes = []
    for number, (level, left) in reversed([*enumerate(zip(product.levels, left_ranks, strict=True))]):
        core = level.weights.reshape(level.in_mode, left, -1, level.right_rank)
        writer.matrix(np.ascontiguousarray(core.transpose(2, 1, 0, 3)), 1.0 if number else scale)
        shapes.append([left, level.in_mode, core.shape[2], level.right_rank])
    return shapes[::-1]

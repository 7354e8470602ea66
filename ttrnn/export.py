"""Write a model as an ONNX file, for a step of a stream or for whole clips, if its outputs match the model's.

Legend: B batch, T time, H hidden size, G gates, L layers, C classes.

The files hold the cores, or the factors of another format, and never a matrix multiplied out: they are as small as the
model.
"""

import copy
import importlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttrnn.files import atomic_write
from ttrnn.model import VideoClassifier
from ttrnn.onnx_graph import FLOAT, Graph
from ttrnn.onnx_parts import (
    classified,
    clip_products,
    differences,
    input_products,
    pool_clips,
    pool_step,
    recurrence,
    stem_rows,
    turn,
)
from ttrnn.parity import after, checked, largest_difference, metadata, streamed
from ttrnn.step import step_state

__all__ = ["export_onnx_clip", "export_onnx_step"]

log = logging.getLogger(__name__)

_Run = Callable[[VideoClassifier, Any, Tensor, list[int]], Iterable[tuple[Tensor, Tensor]]]


def export_onnx_step(model: VideoClassifier, path: str | Path) -> float:
    """Writes VideoClassifier.step as an ONNX file, for any number of streams at once.

    Inputs: frame, uint8 (B, height, width, channels) as a camera gives it, and the state, float32: h_0 (L, B, H); for
    an LSTM c_0 (L, B, H); for mean pooling sum_0 (B, H) and count_0 (B, 1), for max pooling max_0 and count_0, for
    attention sum_0, weight_0 (B, 1) and peak_0 (B, 1); where the model sees differences of frames, previous_0 (B, G*H)
    or, with a stem, the frame before, uint8, and seen_0 (B, 1). A stream starts from zeros. Outputs: logits and scores
    (probabilities), float32 (B, C), and h_n, c_n and so on, the state for the next frame. The file's metadata says what
    it is and takes: format, version, form, task, classes (a JSON list), width, height, channels, sampling (JSON), and
    matches_within, as returned.

    Args:
        model: Taken in eval mode and float32; not changed.
        path: The file, written whole or not at all. It takes 4 bytes a parameter and about 10 kB for the graph.

    Returns:
        The largest |file - model| / (1 + |model|) of the outputs in onnxruntime, for one or three streams of 1 to 4
        frames.

    Raises:
        ValueError: the model is bidirectional.
        ImportError: onnx or onnxruntime is not installed; its `name` says which.
        RuntimeError: the outputs differ by more than 1e-4.
    """
    if model.config.bidirectional:
        raise ValueError(
            "bidirectional models can't stream, they start at the last frame; export a clip, or one trained without"
        )
    return _export(model, path, "step", _step_graph, _run_step)


def export_onnx_clip(model: VideoClassifier, path: str | Path) -> float:
    """Writes a model as an ONNX file that classifies whole clips, any number of them and of any length.

    Inputs: frames, uint8 (B, T, height, width, channels), and lengths, int32 (B,), the frames that count of each clip,
    from 1 to T. Outputs: logits and scores (probabilities), float32 (B, C). The metadata is that of export_onnx_step.
    Frames are multiplied block by block: beside the frames, memory grows by about 4 G H bytes a frame.

    Arguments, returned difference and errors are those of export_onnx_step, for clips of 1 to 4 frames; a bidirectional
    model is taken too.
    """
    return _export(model, path, "clip", _clip_graph, _run_clip)


def _export(
    model: VideoClassifier, path: str | Path, form: str, write: Callable[[VideoClassifier], Any], run: _Run
) -> float:
    onnx, onnxruntime = [importlib.import_module(name) for name in ("onnx", "onnxruntime")]
    model = copy.deepcopy(model).cpu().float().eval()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with torch.no_grad():
        proto = write(model)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = largest_difference(model, lambda frames, lengths: run(model, session, frames, lengths))
    difference = checked("ONNX file", found)
    onnx.helper.set_model_props(proto, metadata(model, form, difference))
    contents = proto.SerializeToString()
    with atomic_write(path, "wb") as file:
        file.write(contents)
    log.info("%s: %d bytes, outputs within %.1e of the model's", Path(path).name, len(contents), difference)
    return difference


def _run_step(model: VideoClassifier, session: Any, frames: Tensor, _: list[int]) -> Iterable[tuple[Tensor, Tensor]]:
    def step(frame: Tensor, state: dict[str, Tensor]) -> list[Tensor]:
        feeds = {"frame": frame.numpy(), **{name: part.numpy() for name, part in state.items()}}
        return [torch.from_numpy(part) for part in session.run(["logits", "scores", *after(state)], feeds)]

    return streamed(model, frames, step)


def _run_clip(
    model: VideoClassifier, session: Any, frames: Tensor, lengths: list[int]
) -> Iterable[tuple[Tensor, Tensor]]:
    feeds = {"frames": frames.numpy(), "lengths": torch.tensor(lengths, dtype=torch.int32).numpy()}
    logits = model(frames, lengths=lengths)
    return zip(map(torch.from_numpy, session.run(None, feeds)), (logits, model.probabilities(logits)), strict=True)


def _frame_shape(model: VideoClassifier) -> list[int]:
    return [model.config.height, model.config.width, model.config.channels]


def _step_graph(model: VideoClassifier) -> Any:
    graph, config, state = Graph(), model.config, step_state(model, 1)
    parts = [name for name in ("h_0", "c_0") if name in state]
    results: dict[str, str] = {}
    finals = []
    if model.stem is None:
        x = graph.add("Cast", "frame", to=1)
    elif config.differences == "none":
        x = stem_rows(graph, model, "frame", None)
    else:
        seen = graph.add("Greater", graph.reshape("seen_0", -1, 1, 1, 1), graph.constant(0.0))
        x = stem_rows(graph, model, "frame", graph.add("Where", seen, "previous_0", "frame"))
        results |= {"previous_n": "frame", "seen_n": graph.add("Max", "seen_0", graph.constant(1.0))}
    for layer in range(config.num_layers):
        gates = input_products(graph, model, f"l{layer}", x)
        if layer == 0 and config.input_differences != "none":
            gates, moved = differences(graph, model, "l0", gates, "previous_0", "seen_0")
            results |= {"previous_n": moved, "seen_n": graph.add("Max", "seen_0", graph.constant(1.0))}
        before = [graph.add("Squeeze", graph.add("Slice", part, *map(graph.constant, ([layer], [layer + 1]))),
                            graph.constant([0])) for part in parts]  # fmt: skip
        finals.append(turn(graph, model, f"l{layer}", gates, *before))
        x = finals[-1][0]
    for name, layers in zip(after(parts), zip(*finals, strict=True), strict=True):
        stacked = [graph.add("Unsqueeze", part, graph.constant([0])) for part in layers]
        results[name] = graph.add("Concat", *stacked, axis=0)
    pooling = [f"{name}_0" for name in model.pooling.state(torch.zeros(1))]
    pooled, *carried = pool_step(graph, model, x, *pooling)
    results |= dict(zip(after(pooling), carried, strict=True))
    scores = classified(graph, model, pooled)
    for name in after(state):
        graph.call(name, "Identity", results[name])
    frame = ("frame", "UINT8", ["batch", *_frame_shape(model)])
    # float32 with the layers first, or with streams first; uint8 frames.
    kinds = {name: "UINT8" if part.dtype == torch.uint8 else FLOAT for name, part in state.items()}
    shapes = {name: [len(part), "batch", part.shape[2]] if part.dim() == 3 else ["batch", *part.shape[1:]]
              for name, part in state.items()}  # fmt: skip
    outputs = [(name, FLOAT, ["batch", len(config.classes)]) for name in scores]
    outputs += [(after, kinds[name], shapes[name]) for name, after in zip(state, after(state), strict=True)]
    return graph.model([frame, *((name, kinds[name], shape) for name, shape in shapes.items())], outputs)


def _clip_graph(model: VideoClassifier) -> Any:
    graph, config = Graph(), model.config
    directions = ["", "_reverse"] if config.bidirectional else [""]
    one = graph.constant([1])
    num_times = graph.add("Squeeze", graph.add("Shape", "frames", start=1, end=2))
    times = graph.add("Cast", graph.add("Range", graph.scalar(0), num_times, graph.scalar(1)), to=6)
    running_TB = graph.add("Less", graph.add("Unsqueeze", times, one), "lengths")
    running_TB1 = graph.add("Unsqueeze", running_TB, graph.constant([2]))
    x = ""
    for layer in range(config.num_layers):
        suffixes = [f"l{layer}{direction}" for direction in directions]
        if layer == 0:
            gates = clip_products(graph, model, "frames", suffixes)
            if config.input_differences != "none":
                pairs = zip(suffixes, gates, strict=True)
                gates = [differences(graph, model, suffix, part, None, None)[0] for suffix, part in pairs]
        else:
            shape = graph.add("Concat", graph.add("Shape", x, start=0, end=2), graph.constant([-1]), axis=0)
            products = [input_products(graph, model, suffix, x) for suffix in suffixes]
            gates = [graph.add("Reshape", part, shape) for part in products]
        is_top = layer == config.num_layers - 1
        wanted = not is_top or config.pooling != "last"
        results = [recurrence(graph, model, suffix, part, running_TB1, wanted)
                   for suffix, part in zip(suffixes, gates, strict=True)]  # fmt: skip
        if wanted:
            x = graph.add("Concat", *(stacked for _, stacked in results), axis=2)
    if config.pooling == "last":
        pooled = graph.add("Concat", *(final for final, _ in results), axis=1)
    else:
        pooled = pool_clips(graph, model, x, running_TB1, "lengths")
    outputs = [(name, FLOAT, ["batch", len(config.classes)]) for name in classified(graph, model, pooled)]
    frames = ("frames", "UINT8", ["batch", "time", *_frame_shape(model)])
    return graph.model([frames, ("lengths", "INT32", ["batch"])], outputs)

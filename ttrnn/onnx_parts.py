"""Write layers, cells and pooling of a model as ONNX, for one frame of a stream and for clips.

Legend: B batch, T time, D frame size, N output size, H hidden size, G gates, C classes.
"""

import math
from collections.abc import Sequence

import torch

from ttrnn.linear import TTLinear
from ttrnn.model import VideoClassifier
from ttrnn.onnx_graph import Graph
from ttrnn.stem import DIFFERENCE_GAIN

__all__ = [
    "classified",
    "clip_products",
    "differences",
    "input_products",
    "pool_clips",
    "pool_step",
    "recurrence",
    "stem_rows",
    "turn",
]

# Values of frames that are cast to float32 and multiplied at once, so that they stay in cache.
_BLOCK_VALUES = 1 << 16
# A dense input matrix is larger than any frame, and must not be read again for each.
_DENSE_BLOCK_FRAMES = 64


def input_products(graph: Graph, model: VideoClassifier, suffix: str, x: str) -> str:
    """(rows, N) the products of float32 rows with a layer's input matrix, mean, scale and bias included."""
    ih: TTLinear = getattr(model.rnn, f"ih_{suffix}")
    of_zeros = ih(torch.zeros(1, ih.in_features))[0]
    return graph.product(x, _cores(graph, ih), ih.shape, of_zeros)


def _cores(graph: Graph, layer: TTLinear) -> Sequence[torch.Tensor | str]:
    """The cores with the scale folded in; where its factors are smaller, values that the file makes of them."""
    first, *rest = layer.factors
    # W is linear in each factor.
    factors = [first * layer.scale, *rest]
    if layer.format.num_params >= layer.shape.num_params:
        return layer.format.cores(factors)
    names = [graph.constant(factor) for factor in factors]
    return [graph.core(site, names) for site in layer.format.sites()]


def stem_rows(graph: Graph, model: VideoClassifier, frames: str, before: str | None) -> str:
    """(rows, D) the output of the stem for uint8 frames and, with differences, those before them."""
    stem, config = model.stem, model.config
    assert stem is not None
    axes = config.height, config.width, config.channels
    x = graph.reshape(graph.add("Cast", frames, to=1), -1, *axes)
    seen = [graph.add("Mul", graph.add("Sub", x, graph.constant(torch.tensor(stem.mean))), graph.constant(stem.scale))]
    if before is not None:
        moved = graph.add("Sub", x, graph.reshape(graph.add("Cast", before, to=1), -1, *axes))
        moved = graph.add("Mul", moved, graph.constant(stem.scale * DIFFERENCE_GAIN))
        seen = [moved] if config.differences == "only" else [*seen, moved]
    x = graph.add("Transpose", graph.add("Concat", *seen, axis=3), perm=[0, 3, 1, 2])
    for conv in stem.convs:
        options = {"strides": conv.stride, "pads": [conv.padding[0]] * 4, "group": conv.groups}
        x = graph.add("Conv", x, *map(graph.constant, conv.parameters()), **options)
        x = x if conv.bias is None else graph.add("Relu", x)
    return str(graph.reshape(graph.add("Transpose", x, perm=[0, 2, 3, 1]), -1, math.prod(stem.shape.maps[-1])))


def clip_products(graph: Graph, model: VideoClassifier, frames: str, suffixes: list[str]) -> list[str]:
    """(T, B, N) for each suffix of the first layer, of uint8 frames (B, T, *frame), behind the stem if there is one:
    block by block, so that no float copy of them all is ever held."""
    size, is_dense = model.config.frame_size, model.config.input == "dense"
    length = max(_DENSE_BLOCK_FRAMES if is_dense else 1, _BLOCK_VALUES // size)
    sources, count = [frames], ""
    if model.stem is not None and model.config.differences != "none":
        one, last = graph.constant([1]), graph.constant([-1])
        first, others = (graph.add("Slice", frames, graph.constant([0]), stop, one) for stop in (one, last))
        sources.append(graph.add("Concat", first, others, axis=1))
    blocks = []
    for source in sources:
        rows = graph.reshape(source, -1, size)
        count = graph.add("Shape", rows, start=0, end=1)
        if length > 1:
            missing = graph.add("Mod", graph.add("Neg", count), graph.constant([length]))
            pads = graph.add("Concat", graph.constant([0, 0]), missing, graph.constant([0]), axis=0)
            rows = graph.add("Pad", rows, pads)
        blocks.append((graph.reshape(rows, -1, length, size), "UINT8"))

    def body(inner: Graph, _: list[str], parts: list[str]) -> tuple[list[str], list[str]]:
        if model.stem is None:
            x = inner.add("Cast", parts[0], to=1)
        else:
            x = stem_rows(inner, model, parts[0], parts[1] if len(parts) > 1 else None)
        return [], [input_products(inner, model, suffix, x) for suffix in suffixes]

    _, stacked = graph.scan(body, [], blocks)
    results, leading = [], graph.add("Shape", frames, start=0, end=2)
    for products in stacked:
        num_out = getattr(model.rnn, f"ih_{suffixes[0]}").out_features
        flat = graph.add("Slice", graph.reshape(products, -1, num_out), graph.constant([0]), count)
        shape = graph.add("Concat", leading, graph.constant([num_out]), axis=0)
        results.append(graph.add("Transpose", graph.add("Reshape", flat, shape), perm=[1, 0, 2]))
    return results


def differences(
    graph: Graph, model: VideoClassifier, suffix: str, products: str, previous: str | None, seen: str | None
) -> tuple[str, str]:
    """The gates of a first layer that sees differences, and `previous` for the next frame.

    Products are (B, N) of a frame, with `previous` (B, G H) of the frame before and `seen` (B, 1), 0 before the first
    frame of a stream; or (T, B, N) of clips, with None for both.
    """
    bias = getattr(model.rnn, f"bias_ih_{suffix}")
    moved, plain = products, []
    if model.config.differences == "extra":
        *plain, moved = graph.split(products, len(bias), len(bias))
    if previous is None:
        one, last = graph.constant([1]), graph.constant([-1])
        first = graph.add("Slice", moved, graph.constant([0]), one)
        # To what was there before the first frame there is no difference.
        previous = graph.add("Concat", first, graph.add("Slice", moved, graph.constant([0]), last), axis=0)
    else:
        assert seen is not None
        previous = graph.add("Where", graph.add("Greater", seen, graph.constant(0.0)), previous, moved)
    gates = graph.add("Add", graph.add("Sub", moved, previous), graph.constant(bias))
    for part in plain:
        gates = graph.add("Add", gates, part)
    return gates, moved


def turn(graph: Graph, model: VideoClassifier, suffix: str, gates: str, h: str, *c: str) -> list[str]:
    """The state (B, H), and (B, H) of an LSTM's cell, after one more frame, as plain.advance has them."""
    size, is_gru = model.config.hidden_size, model.config.cell == "gru"
    added: torch.Tensor | str = gates
    if is_gru:
        added = torch.cat([torch.zeros(2 * size), getattr(model.rnn, f"bias_hn_{suffix}")])
    hh = getattr(model.rnn, f"hh_{suffix}", None)
    if hh is not None:
        recurrent = graph.product(h, _cores(graph, hh), hh.shape, added)
    else:
        weight = graph.constant(model.rnn.weight_hh(suffix))
        added = graph.constant(added) if isinstance(added, torch.Tensor) else added
        recurrent = graph.add("Gemm", h, weight, added, transB=1)
    if is_gru:
        (x_rz, x_n), (u_rz, u_n) = (graph.split(part, 2 * size, size) for part in (gates, recurrent))
        r, z = graph.split(graph.add("Sigmoid", graph.add("Add", x_rz, u_rz)), size, size)
        n = graph.add("Tanh", graph.add("Add", x_n, graph.add("Mul", r, u_n)))
        return [graph.add("Add", n, graph.add("Mul", z, graph.add("Sub", h, n)))]
    if model.config.cell == "rnn":
        return [graph.add("Tanh", recurrent)]
    i_f, g, o = graph.split(recurrent, 2 * size, size, size)
    i, f = graph.split(graph.add("Sigmoid", i_f), size, size)
    c_next = graph.add("Add", graph.add("Mul", f, *c), graph.add("Mul", i, graph.add("Tanh", g)))
    return [graph.add("Mul", graph.add("Sigmoid", o), graph.add("Tanh", c_next)), c_next]


def recurrence(
    graph: Graph, model: VideoClassifier, suffix: str, gates_TBN: str, running_TB1: str, all_states: bool
) -> tuple[str, str]:
    """(B, H) the state after the last frame of each clip, in the direction of the layer, and (T, B, H) all of them, or
    an empty name."""

    def body(inner: Graph, state: list[str], parts: list[str]) -> tuple[list[str], list[str]]:
        gates, running = parts
        after = turn(inner, model, suffix, gates, *state)
        after = [inner.add("Where", running, new, old) for new, old in zip(after, state, strict=True)]
        return after, after[:1] if all_states else []

    num_clips = graph.add("Shape", running_TB1, start=1, end=2)
    shape = graph.add("Concat", num_clips, graph.constant([model.config.hidden_size]), axis=0)
    zeros = [graph.add("ConstantOfShape", shape)] * (2 if model.config.cell == "lstm" else 1)
    finals, stacked = graph.scan(
        body, zeros, [(gates_TBN, "FLOAT"), (running_TB1, "BOOL")], reverse=suffix.endswith("_reverse")
    )
    return finals[0], stacked[0] if stacked else ""


def pool_clips(graph: Graph, model: VideoClassifier, states_TBH: str, running_TB1: str, lengths_B: str) -> str:
    """(B, H) of the states of clips; not for `last`."""
    over_time = graph.constant([0])
    if model.config.pooling == "mean":
        kept = graph.add("Where", running_TB1, states_TBH, graph.constant(0.0))
        counts = graph.add("Unsqueeze", graph.add("Cast", lengths_B, to=1), graph.constant([1]))
        return str(graph.add("Div", graph.add("ReduceSum", kept, over_time, keepdims=0), counts))
    lowest = graph.constant(torch.finfo(torch.float32).min)
    if model.config.pooling == "max":
        return str(graph.add("ReduceMax", graph.add("Where", running_TB1, states_TBH, lowest), over_time, keepdims=0))
    scores = graph.add("MatMul", states_TBH, _query(graph, model))
    weights = graph.add("Softmax", graph.add("Where", running_TB1, scores, lowest), axis=0)
    return str(graph.add("ReduceSum", graph.add("Mul", weights, states_TBH), over_time, keepdims=0))


def _query(graph: Graph, model: VideoClassifier) -> str:
    """(H, 1)."""
    assert model.pooling.query is not None
    return graph.constant(model.pooling.query.unsqueeze(1))


def pool_step(graph: Graph, model: VideoClassifier, h: str, *state: str) -> list[str]:
    """(B, H) pooled over the frames so far and the state of pooling after this one, as Pooling.step has them."""
    if model.config.pooling == "last":
        return [h]
    one, zero = graph.constant(1.0), graph.constant(0.0)
    if model.config.pooling == "attention":
        total, weight, peak = state
        score = graph.add("MatMul", h, _query(graph, model))
        peak = graph.add("Where", graph.add("Equal", weight, zero), score, peak)
        higher = graph.add("Max", peak, score)
        old, new = (graph.add("Exp", graph.add("Sub", part, higher)) for part in (peak, score))
        total = graph.add("Add", graph.add("Mul", total, old), graph.add("Mul", new, h))
        weight = graph.add("Add", graph.add("Mul", weight, old), new)
        return [graph.add("Div", total, weight), total, weight, higher]
    kept, count = state
    after = graph.add("Add", count, one)
    if model.config.pooling == "mean":
        total = graph.add("Add", kept, h)
        return [graph.add("Div", total, after), total, after]
    highest = graph.add("Where", graph.add("Equal", count, zero), h, graph.add("Max", kept, h))
    return [highest, highest, after]


def classified(graph: Graph, model: VideoClassifier, pooled: str) -> list[str]:
    """The outputs logits and scores, (B, C) each."""
    head = model.head
    graph.call("logits", "Gemm", pooled, graph.constant(head.weight), graph.constant(head.bias), transB=1)
    if model.config.task == "single_label":
        graph.call("scores", "Softmax", "logits", axis=-1)
    else:
        graph.call("scores", "Sigmoid", "logits")
    return ["logits", "scores"]

"""One step of a model as an ONNX file: a frame and the state in, logits and the state out; kept only if it matches.

Legend: B batch, M / N input / output size, M_k / N_k input / output mode k, R / S left / right rank, G gates, H hidden
size, L layers, C classes, t what the cores so far have made of x.

The file holds the cores themselves and multiplies them one by one, from the last to the first (Yang et al., ICML 2017,
equation 4): it is as small as the model, and no tensor train is ever multiplied out.
"""

import contextlib
import copy
import importlib
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ttrnn.files import atomic_write
from ttrnn.linear import TTLinear
from ttrnn.model import VideoClassifier

__all__ = ["export_onnx_step"]

log = logging.getLogger(__name__)

# The one that torch's exporter writes without converting; low, so that older builds of onnxruntime-web read it.
_OPSET = 18
# Of float32 against float32: |file - model| <= _TOLERANCE * (1 + |model|).
_TOLERANCE = 1e-4
_CHECKED_BATCHES, _CHECKED_STEPS = (1, 3), 4


def export_onnx_step(model: VideoClassifier, path: str | Path) -> None:
    """Writes VideoClassifier.step as an ONNX file, for any number of streams at once.

    Inputs: frame, uint8 (B, height, width, channels) as a camera gives it, and the state, float32: h_0 (L, B, H); for
    an LSTM c_0 (L, B, H); for mean pooling sum_0 (B, H) and count_0 (B, 1), for max pooling max_0 and count_0, for
    attention sum_0, weight_0 (B, 1) and peak_0 (B, 1); where the model sees differences of frames, previous_0 (B, G*H)
    and seen_0 (B, 1). A stream starts from zeros. Outputs: logits, float32 (B, C), and
    h_n, c_n and so on, the state for the next frame. The file's metadata has classes
    (a JSON list), width, height and channels.

    Args:
        model: Taken in eval mode and float32; not changed.
        path: The file, written whole or not at all. It takes 4 bytes a parameter and a few kB for the graph.

    Raises:
        ValueError: the model is bidirectional.
        ImportError: onnx, onnxscript or onnxruntime is not installed; its `name` says which.
        RuntimeError: in onnxruntime, logits or state differ by more than 1e-4 (1 + |value|) from the model's, somewhere
            in 4 frames of 1 or of 3 streams.
    """
    if model.config.bidirectional:
        raise ValueError("bidirectional models can't stream, they start at the last frame; export one trained without")
    onnx, _, onnxruntime = [importlib.import_module(name) for name in ("onnx", "onnxscript", "onnxruntime")]
    model = copy.deepcopy(model).cpu().float().eval()
    with torch.no_grad():
        contents = _serialised(model, onnx)
        session = onnxruntime.InferenceSession(contents, providers=["CPUExecutionProvider"])
        difference = _largest_difference(model, session)
    # Not >, so that NaN is refused too.
    if not difference <= _TOLERANCE:
        raise RuntimeError(
            f"the ONNX file's outputs differ from the model's by {difference:.1e}, more than {_TOLERANCE:.0e}: not kept"
        )
    with atomic_write(path, "wb") as file:
        file.write(contents)
    log.info("%s: %d bytes, outputs within %.1e of the model's", Path(path).name, len(contents), difference)


class _Product(nn.Module):
    """x (B, M) -> W x (B, N), core by core, without a permutation between them."""

    def __init__(self, matrices: Iterable[Tensor], out_modes: Sequence[int]) -> None:
        super().__init__()
        self.matrices = nn.ParameterList(matrices)
        self.out_modes = tuple(out_modes)

    @classmethod
    def of(cls, layer: TTLinear) -> "_Product":
        """With the layer's scale folded in; each core as a matrix (R N_k, M_k S)."""
        first, *rest = layer.cores
        cores = (first * layer.scale, *rest)
        return cls((core.transpose(1, 2).flatten(2).flatten(0, 1) for core in cores), layer.shape.out_modes)

    def forward(self, x_BM: Tensor) -> Tensor:
        *others, last = self.matrices
        t = nn.functional.linear(x_BM.reshape(-1, last.shape[1]), last)
        num_done = self.out_modes[-1]
        for matrix, out_mode in zip(reversed(others), reversed(self.out_modes[:-1]), strict=True):
            # (B M_1..M_{k-1}, R N_k, N_{k+1}..N_d)
            t = matrix @ t.reshape(-1, matrix.shape[1], num_done)
            num_done *= out_mode
        return t.reshape(-1, num_done)


class _Layer(nn.Module):
    """One frame through one recurrent layer, by the formulas of TTRNN, TTGRU and TTLSTM."""

    def __init__(self, model: VideoClassifier, suffix: str) -> None:
        super().__init__()
        self.cell = model.config.cell
        self.differences = model.config.differences if suffix == "l0" else "none"
        ih: TTLinear = getattr(model.rnn, f"ih_{suffix}")
        self.ih = _Product.of(ih)
        # What the layer makes of zeros has the mean in it.
        self.of_zeros = nn.Parameter(ih(torch.zeros(ih.in_features)))
        if self.differences != "none":
            self.bias: Tensor = getattr(model.rnn, f"bias_ih_{suffix}")
        if model.config.recurrent_shape is None:
            weight = model.rnn.weight_hh(suffix)
            self.hh = _Product([weight], weight.shape[:1])
        else:
            self.hh = _Product.of(getattr(model.rnn, f"hh_{suffix}"))
        if self.cell == "gru":
            self.bias_hn: Tensor = getattr(model.rnn, f"bias_hn_{suffix}")

    def gates(self, x: Tensor, *before: Tensor) -> tuple[Tensor, ...]:
        """What enters the gates; and, for the differences of the next frame, what `before` is to it."""
        products = self.ih(x) + self.of_zeros
        if self.differences == "none":
            return (products,)
        previous, seen = before
        moved = products[:, -self.bias.shape[0] :]
        gates = moved - torch.where(seen > 0, previous, moved) + self.bias
        if self.differences == "extra":
            gates = gates + products[:, : self.bias.shape[0]]
        return gates, moved, torch.ones_like(seen)

    def forward(self, gates: Tensor, h: Tensor, *c: Tensor) -> tuple[Tensor, ...]:
        recurrent = self.hh(h)
        if self.cell == "rnn":
            return (torch.tanh(gates + recurrent),)
        if self.cell == "gru":
            x_r, x_z, x_n = gates.chunk(3, dim=1)
            u_r, u_z, u_n = recurrent.chunk(3, dim=1)
            r, z = torch.sigmoid(x_r + u_r), torch.sigmoid(x_z + u_z)
            n = torch.tanh(x_n + r * (u_n + self.bias_hn))
            return (n + z * (h - n),)
        i, f, g, o = (gates + recurrent).chunk(4, dim=1)
        c_next = torch.sigmoid(f) * c[0] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c_next), c_next


class _Step(nn.Module):
    """frame, *state -> logits, *state; see export_onnx_step."""

    def __init__(self, model: VideoClassifier) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(model, f"l{number}") for number in range(model.config.num_layers))
        self.num_parts = 2 if model.config.cell == "lstm" else 1
        self.num_kept = 0 if model.config.differences == "none" else 2
        self.pooling, self.head = model.pooling, model.head

    def forward(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        recurrent, kept = state[: self.num_parts], state[self.num_parts : self.num_parts + self.num_kept]
        x, finals, after = frame.flatten(1).float(), [], []
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, _Layer)
            if number == 0:
                gates, *after = layer.gates(x, *kept)
            else:
                (gates,) = layer.gates(x)
            finals.append(layer(gates, *(part[number] for part in recurrent)))
            x = finals[-1][0]
        result = tuple(torch.stack(parts) for parts in zip(*finals, strict=True))
        x, *pooled = self.pooling.step(x, *state[self.num_parts + self.num_kept :])
        return self.head(x), *result, *after, *pooled


def _zero_state(model: VideoClassifier, batch: int) -> dict[str, Tensor]:
    """The state of streams before their first frame, by the names of the file's inputs."""
    config = model.config
    shape = (config.num_layers, batch, config.hidden_size)
    state = {"h_0": torch.zeros(shape)}
    if config.cell == "lstm":
        state["c_0"] = torch.zeros(shape)
    if config.differences != "none":
        state |= {"previous_0": torch.zeros(batch, len(model.rnn.weight_hh())), "seen_0": torch.zeros(batch, 1)}
    return state | {f"{name}_0": part for name, part in model.pooling.state(torch.zeros(batch)).items()}


def _serialised(model: VideoClassifier, onnx: Any) -> bytes:
    """The contents of the ONNX file."""
    config = model.config
    # Any batch but 0 and 1, which torch.export would take for constants.
    state = _zero_state(model, 2)
    frame = torch.zeros(2, config.height, config.width, config.channels, dtype=torch.uint8)
    batch = torch.export.Dim("batch")
    state_axes = tuple({1 if name in ("h_0", "c_0") else 0: batch} for name in state)
    with _quiet_exporter():
        program = torch.onnx.export(
            _Step(model).eval(), (frame, *state.values()), dynamo=True, opset_version=_OPSET, verbose=False,
            input_names=["frame", *state], output_names=["logits", *_after(state)],
            dynamic_shapes=({0: batch}, state_axes))  # fmt: skip
        assert program is not None
        proto = program.model_proto
    # The exporter notes here which lines of which files on this machine every node comes from.
    proto.graph.ClearField("value_info")
    for item in (proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        item.ClearField("metadata_props")
    onnx.helper.set_model_props(proto, {
        "classes": json.dumps(config.classes), "width": str(config.width), "height": str(config.height),
        "channels": str(config.channels)})  # fmt: skip
    return bytes(proto.SerializeToString())


def _after(state: Iterable[str]) -> list[str]:
    """The outputs that are the next frame's inputs."""
    return [name.replace("_0", "_n") for name in state]


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without what the exporter says about its own insides, and about torchvision, which is not needed here."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", r"# The axis name: batch will not be used", UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _largest_difference(model: VideoClassifier, session: Any) -> float:
    """Between outputs of the file and the model, relative to 1 + |model|, over frames of noise; NaN if one is."""
    config = model.config
    generator = torch.Generator().manual_seed(0)
    differences = []
    for batch in _CHECKED_BATCHES:
        size = (batch, _CHECKED_STEPS, config.height, config.width, config.channels)
        clips = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        state = {name: tensor.numpy() for name, tensor in _zero_state(model, batch).items()}
        for num_frames in range(1, _CHECKED_STEPS + 1):
            frame = clips[:, num_frames - 1].numpy()
            logits, *after = session.run(["logits", *_after(state)], {"frame": frame, **state})
            state = dict(zip(state, after, strict=True))
            _, hx = model.rnn(clips[:, :num_frames])
            expected = [model(clips[:, :num_frames]), *(hx if isinstance(hx, tuple) else (hx,))]
            # What is carried for differences and pooling shows in the logits.
            for mine, theirs in zip((logits, *after), expected, strict=False):
                differences.append(((torch.from_numpy(mine) - theirs).abs() / (1 + theirs.abs())).max())
    return torch.stack(differences).max().item()

"""One step of a model as a torch.export program: plain operators, without ttrnn; kept only if its outputs match.

Legend: B batch, M / N input / output size, M_k / N_k input / output mode k, R / S left / right rank, G gates, H hidden
size, L layers, C classes, t what the cores so far have made of x.

The program holds the cores themselves and multiplies them one by one, from the last to the first (Yang et al., ICML
2017, equation 4): it is as small as the model, and no tensor train is ever multiplied out.
"""

import copy
import io
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ttrnn.files import atomic_write
from ttrnn.linear import TTLinear
from ttrnn.model import VideoClassifier
from ttrnn.parity import checked, largest_difference, metadata, step_state, streamed

__all__ = ["export_program"]

log = logging.getLogger(__name__)

# In the file, as JSON.
_METADATA = "ttrnn.json"


def export_program(model: VideoClassifier, path: str | Path) -> float:
    """Writes VideoClassifier.step as a torch.export program (.pt2), for any number of streams at once.

    `torch.export.load(path).module()` takes and gives what export_onnx_step says, in that order: frame and the parts of
    the state; logits, scores and the parts of the next state. extra_files={"ttrnn.json": ""} of torch.export.load
    brings what the ONNX file has as metadata, as JSON.

    torch.export.load uses pickle, and a program may run whatever is in it: load only files of people whom you would let
    run programs of theirs. Loading a model directory or an ONNX file runs nothing.

    Args:
        model: Taken in eval mode and float32; not changed.
        path: The file, written whole or not at all. It takes 4 bytes a parameter and some 50 kB.

    Returns:
        How far its outputs are from the model's: the largest |file - model| / (1 + |model|) that was seen, in streams
        of 1 to 4 frames, one or three at a time.

    Raises:
        ValueError: the model is bidirectional.
        RuntimeError: they differ by more than 1e-4.
    """
    if model.config.bidirectional:
        raise ValueError("bidirectional models can't stream, they start at the last frame; give one trained without")
    model = copy.deepcopy(model).cpu().float().eval()
    with torch.no_grad():
        program = _traced(model)

        def run(contents: bytes) -> float:
            module = torch.export.load(io.BytesIO(contents)).module()
            return largest_difference(
                model, lambda frames, _: streamed(model, frames, lambda frame, state: module(frame, *state.values()))
            )

        difference = checked("program", run(_saved(program, {})))
    contents = _saved(program, metadata(model, "step", difference))
    with atomic_write(path, "wb") as file:
        file.write(contents)
    log.info("%s: %d bytes, outputs within %.1e of the model's", Path(path).name, len(contents), difference)
    return difference


def _traced(model: VideoClassifier) -> Any:
    # Any batch but 0 and 1, which torch.export would take for constants.
    state, config = step_state(model, 2), model.config
    frame = torch.zeros(2, config.height, config.width, config.channels, dtype=torch.uint8)
    batch = torch.export.Dim("batch")
    axes = tuple({part.dim() - 2: batch} for part in state.values())
    program = torch.export.export(_Step(model).eval(), (frame, *state.values()), dynamic_shapes=({0: batch}, axes))
    # The exporter notes here which lines of which files on this machine every node comes from.
    for node in program.graph.nodes:
        for name in ("stack_trace", "nn_module_stack", "source_fn_stack"):
            node.meta.pop(name, None)
    # What it was traced with would be written too.
    program.example_inputs = None
    return program


def _saved(program: Any, about: dict[str, str]) -> bytes:
    contents = io.BytesIO()
    torch.export.save(program, contents, extra_files={_METADATA: json.dumps(about)})
    return contents.getvalue()


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
    """frame, *state -> logits, scores, *state; see export_program."""

    def __init__(self, model: VideoClassifier) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(model, f"l{number}") for number in range(model.config.num_layers))
        self.num_parts = 2 if model.config.cell == "lstm" else 1
        self.num_kept = 0 if model.config.differences == "none" else 2
        self.pooling, self.head, self.scores = model.pooling, model.head, model.probabilities

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
        logits = self.head(x)
        return logits, self.scores(logits), *result, *after, *pooled

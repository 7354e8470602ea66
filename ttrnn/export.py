"""One step of a model as an ONNX file: a frame and the state in, logits and the state out. Kept only when its outputs match.

Legend: B batch, M / N input / output size, M_k / N_k input / output mode k, R / S left / right rank, L layers, H hidden size,
C classes.

The file holds the cores themselves and multiplies them one after the other, from the last to the first (Yang et al., ICML
2017, equation 4): it is as small as the model, and no dense matrix comes to be when it runs.
"""

import copy
import importlib
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ttrnn.files import atomic_write
from ttrnn.linear import TTLinear
from ttrnn.model import VideoClassifier

__all__ = ["export_onnx_step"]

log = logging.getLogger(__name__)

# The newest that torch writes without a conversion behind it; onnxruntime and onnxruntime-web read it.
_OPSET = 18
# Of float32 against float32: |file - model| <= _TOLERANCE * (1 + |model|).
_TOLERANCE = 1e-4
_CHECKED_BATCHES, _CHECKED_STEPS = (1, 3), 4


def export_onnx_step(model: VideoClassifier, path: str | Path) -> None:
    """Writes an ONNX file that takes a stream of frames one by one, as VideoClassifier.step does, for several streams at once.

    Inputs: frame, uint8 (B, height, width, channels) as a camera gives it, and the state, float32: h_0 (L, B, H), for an LSTM
    c_0 (L, B, H), for mean pooling sum_0 (B, H) and count_0 (B, 1). Outputs: logits, float32 (B, C), and the next state under
    the same names with _n for _0. A stream starts from zeros. The file's metadata has classes (a JSON list), width, height and
    channels.

    Args:
        model: Taken in eval mode and in float32; it is not changed.
        path: The file; whole or not at all.

    Raises:
        ValueError: the model is bidirectional.
        ImportError: onnx, onnxscript or onnxruntime is not installed; `name` says which.
        RuntimeError: onnxruntime's outputs differ from those of model.step; no file is written.
    """
    if model.config.bidirectional:
        raise ValueError("a bidirectional model can't stream, it needs the last frame first; train one with bidirectional false")
    for name in ("onnx", "onnxscript", "onnxruntime"):
        importlib.import_module(name)
    model = copy.deepcopy(model).cpu().float().eval()
    with torch.no_grad():
        contents = _serialise(model)
        difference = _largest_difference(model, contents)
    if not difference <= _TOLERANCE:
        raise RuntimeError(f"the ONNX file's outputs differ from the model's by {difference:.1e} (more than {_TOLERANCE:.0e}); "
                           "no file is written")
    with atomic_write(path, "wb") as file:
        file.write(contents)
    log.info("%s: %s bytes, differs from the model by %.1e at most", path, f"{len(contents):,}", difference)


class _Product(nn.Module):
    """x -> W x + b of a TTLinear, core by core, with plain matrix products and no permutation."""

    def __init__(self, layer: TTLinear) -> None:
        super().__init__()
        first, *rest = layer.cores
        # (R, M_k, N_k, S) -> (R N_k, M_k S)
        self.cores = nn.ParameterList(core.transpose(1, 2).flatten(2).flatten(0, 1) for core in (first * layer.scale, *rest))
        self.out_modes = layer.shape.out_modes
        # What the layer makes of zeros: the mean is in it.
        self.bias = nn.Parameter(layer(torch.zeros(1, layer.in_features)))

    def forward(self, x_BM: Tensor) -> Tensor:
        # The last core's columns stand for one input mode alone: one fat product.
        *others, last = self.cores
        t = x_BM.reshape(-1, last.shape[1]) @ last.t()
        right = self.out_modes[-1]
        for core, out_mode in zip(reversed(others), reversed(self.out_modes[:-1]), strict=True):
            t = core @ t.reshape(-1, core.shape[1], right)
            right *= out_mode
        return t.reshape(-1, right) + self.bias


class _Layer(nn.Module):
    """One frame through one recurrent layer; the formulas are those of TTRNN, TTGRU and TTLSTM."""

    def __init__(self, model: VideoClassifier, layer: int) -> None:
        super().__init__()
        rnn, suffix = model.rnn, f"l{layer}"
        self.cell = model.config.cell
        self.ih = _Product(getattr(rnn, f"ih_{suffix}"))
        self.hh = _Product(getattr(rnn, f"hh_{suffix}")) if rnn.recurrent_ranks is not None else None
        self.weight_hh = rnn.weight_hh(suffix) if self.hh is None else None
        self.bias_hn = getattr(rnn, f"bias_hn_{suffix}", None)

    def forward(self, x: Tensor, h: Tensor, c: Tensor | None) -> tuple[Tensor, ...]:
        gates = self.ih(x)
        recurrent = h @ self.weight_hh.t() if self.hh is None else self.hh(h)
        if self.cell == "rnn":
            return (torch.tanh(gates + recurrent),)
        if self.cell == "gru":
            x_r, x_z, x_n = gates.chunk(3, dim=1)
            u_r, u_z, u_n = recurrent.chunk(3, dim=1)
            r, z = torch.sigmoid(x_r + u_r), torch.sigmoid(x_z + u_z)
            n = torch.tanh(x_n + r * (u_n + self.bias_hn))
            return ((1 - z) * n + z * h,)
        i, f, g, o = (gates + recurrent).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

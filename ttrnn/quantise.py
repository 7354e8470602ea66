"""Store weights in fewer bits: bfloat16, or int8 with one scale for each matrix or core. Vectors stay in float32."""

import copy
import math

import torch
from torch import Tensor

from ttrnn.config_file import DTYPES
from ttrnn.model import VideoClassifier
from ttrnn.parity import largest_difference

__all__ = ["DTYPES", "difference", "pack", "rounded", "unpack"]

_FLOATS = (torch.float64, torch.float32, torch.float16)
_SCALE = ".scale"


def pack(state: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Rounds the weights of a state dict that have at least two axes. Raises ValueError for another dtype.

    Args:
        state: Names and weights.
        dtype: float32 (as they are), bfloat16 (half the size, 8 bits of precision), or int8 (a quarter): round(w / s),
            with s = max |w| / 127 stored beside it as NAME.scale.
    """
    _check(dtype)
    if dtype == "float32":
        return dict(state)
    packed = {}
    for name, tensor in state.items():
        if tensor.dim() < 2:
            packed[name] = tensor
        elif dtype == "bfloat16":
            packed[name] = tensor.bfloat16()
        else:
            scale = tensor.abs().max().float() / 127
            packed[name] = (tensor / scale).round().to(torch.int8) if scale else torch.zeros_like(tensor).char()
            packed[name + _SCALE] = scale
    return packed


def unpack(packed: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """The state dict that was packed, in float32 where it was rounded.

    Raises:
        ValueError: a tensor of another type, an int8 tensor without its scale, or weights that are not finite.
    """
    _check(dtype)
    state = {}
    for name, tensor in packed.items():
        if dtype == "int8" and tensor.dtype == torch.int8:
            scale = packed.get(name + _SCALE)
            if scale is None or scale.dtype != torch.float32 or scale.dim() != 0:
                raise ValueError(f"{name!r} needs one float32 {name + _SCALE!r}")
            tensor = tensor.float() * scale
        elif tensor.dtype == torch.bfloat16:
            tensor = tensor.float()
        elif tensor.dtype not in _FLOATS:
            raise ValueError(f"{name!r} is of type {str(tensor.dtype).removeprefix('torch.')}, not {dtype}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name!r} has weights that are not finite")
        if not (name.endswith(_SCALE) and name.removesuffix(_SCALE) in packed):
            state[name] = tensor
    return state


def rounded(model: VideoClassifier, dtype: str) -> VideoClassifier:
    """A copy with the weights as they are after saving in `dtype` and loading, to measure the loss of accuracy."""
    result = copy.deepcopy(model)
    result.load_state_dict(unpack(pack(model.state_dict(), dtype), dtype))
    return result


def difference(model: VideoClassifier, dtype: str) -> float:
    """How far logits move by rounding: the largest |moved| / (1 + |logit|) for clips of noise, of 1 to 4 frames."""
    model = copy.deepcopy(model).cpu().float().eval()
    small = rounded(model, dtype)
    found = largest_difference(model, lambda frames, lengths: [(small(frames, lengths), model(frames, lengths))])
    assert math.isfinite(found)
    return found


def _check(dtype: str) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")

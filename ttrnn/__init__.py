"""Tensor-train recurrent networks for video: twins of torch.nn's layers with a few thousand input weights."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttrnn.checkpoint import load as load
    from ttrnn.checkpoint import save as save
    from ttrnn.config import ModelConfig as ModelConfig
    from ttrnn.linear import TTLinear as TTLinear
    from ttrnn.model import VideoClassifier as VideoClassifier
    from ttrnn.recurrent import TTGRU as TTGRU
    from ttrnn.recurrent import TTLSTM as TTLSTM
    from ttrnn.recurrent import TTRNN as TTRNN
    from ttrnn.shapes import TTShape as TTShape

__version__ = "0.1.0"

_HOME = {
    "ModelConfig": "config",
    "TTGRU": "recurrent",
    "TTLSTM": "recurrent",
    "TTLinear": "linear",
    "TTRNN": "recurrent",
    "TTShape": "shapes",
    "VideoClassifier": "model",
    "load": "checkpoint",
    "save": "checkpoint",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    # On first use: the decoding processes import ttrnn.files and must not load torch (1 to 2 s, 200 MB) for it.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)

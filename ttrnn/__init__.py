"""Tensor-train recurrent networks for video: drop-in counterparts of torch.nn's layers with few input weights."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttrnn.checkpoint import load as load
    from ttrnn.checkpoint import save as save
    from ttrnn.config import ModelConfig as ModelConfig
    from ttrnn.config_file import read_events as read_events
    from ttrnn.convert import tensorize as tensorize
    from ttrnn.decompose import tt_round as tt_round
    from ttrnn.decompose import tt_svd as tt_svd
    from ttrnn.events import Event as Event
    from ttrnn.events import EventDetector as EventDetector
    from ttrnn.events import EventRule as EventRule
    from ttrnn.events import StaggeredStates as StaggeredStates
    from ttrnn.export import export_onnx_clip as export_onnx_clip
    from ttrnn.export import export_onnx_step as export_onnx_step
    from ttrnn.linear import TTLinear as TTLinear
    from ttrnn.model import VideoClassifier as VideoClassifier
    from ttrnn.program import export_program as export_program
    from ttrnn.recurrent import TTGRU as TTGRU
    from ttrnn.recurrent import TTLSTM as TTLSTM
    from ttrnn.recurrent import TTRNN as TTRNN
    from ttrnn.shapes import TTShape as TTShape

__version__ = "0.1.0"

_OFFERED = {
    "checkpoint": ("load", "save"),
    "config": ("ModelConfig",),
    "config_file": ("read_events",),
    "convert": ("tensorize",),
    "decompose": ("tt_round", "tt_svd"),
    "events": ("Event", "EventDetector", "EventRule", "StaggeredStates"),
    "export": ("export_onnx_clip", "export_onnx_step"),
    "linear": ("TTLinear",),
    "model": ("VideoClassifier",),
    "program": ("export_program",),
    "recurrent": ("TTGRU", "TTLSTM", "TTRNN"),
    "shapes": ("TTShape",),
}
_MODULES = {name: module for module, names in _OFFERED.items() for name in names}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    # On first use: the decoding processes import ttrnn.files and must not load torch (1 to 2 s, 200 MB) for it.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
